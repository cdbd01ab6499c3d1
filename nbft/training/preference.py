"""Preference training: batches of answers, their log-probabilities, and a loss that compares them.

TRL's trainers are not used: each of them computes every prompt once for each answer and all logits
of it, and they lack some of the losses. Losses equal theirs (`tests/e2e/test_preference.py`). What is
common to all trainers comes from `nbft.training.trainer`. Called by the methods.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import transformers
from transformers import TrainerCallback
from transformers.trainer_utils import EvalLoopOutput

from nbft.config import Config
from nbft.data.continuation import shared_length
from nbft.decisions import Decisions
from nbft.methods import IGNORE_INDEX
from nbft.methods.dpo import WITHOUT_REFERENCE, Dpo
from nbft.training.fast.head import use_token_head
from nbft.training.preference_loss import Answers, feedback_loss, pair_loss
from nbft.training.ranks import Ranks
from nbft.training.reference import KeptNumbers, key_of_model, key_of_tokens
from nbft.training.sharding import is_sharded, settle

_OF_THE_LOSS = frozenset({"answers", "answer_tokens", "values", "reference", "kl"})
"""What a batch holds for the loss; the rest of it is for the model."""


class PromptAndAnswer(NamedTuple):
    """One prompt with an answer, as tokens.

    Attributes:
        ids: Token ids, [s].
        labels: What each position is trained on, or -100, [s].
        begin: Where the answer begins; at least 1, since nothing predicts the first token.
    """

    ids: list[int]
    labels: list[int]
    begin: int


Places = Sequence[Sequence[Sequence[int]]]
"""For each row and each of its sequences, where each token is in the batch, flattened."""


class AnswerCollator:
    """Makes batches of answers that are compared with each other.

    A batch has the model's inputs; `places` and `targets` [n], where the model predicts a token of an
    answer, and which; `answers` [n], the number of that answer in the batch, all first answers of the
    rows before all second ones; `answer_tokens` [answers]; `values`, the method's numbers of each
    row; and `reference` [answers], the reference model's log-probabilities.

    Args:
        method: Names the sequences of a row, and its numbers.
        pad_token_id: Fills rows up.
        joins: Whether the rows of a batch are joined into one instead of padded.
        shares: Whether two answers of a joined row share their prompt.
        imitates: Whether prompts that are trained on count as well, for the SFT loss.
        pad_to_multiple_of: Rows are padded to a multiple of this.
    """

    def __init__(
        self,
        method: Dpo,
        *,
        pad_token_id: int,
        joins: bool,
        shares: bool,
        imitates: bool = False,
        pad_to_multiple_of: int | None = None,
    ) -> None:
        self.method, self.pad_token_id = method, pad_token_id
        self.joins, self.shares, self.imitates = joins, shares, imitates
        self.pad_to_multiple_of = pad_to_multiple_of or 1

    def __call__(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Return a batch."""
        named = self.method.sequences
        batch = self.answers(
            [[sequence_of(row, self.method, name) for name in named] for row in rows]
        )
        batch["values"] = {
            name: torch.tensor([row[name] for row in rows], dtype=torch.float32)
            for name in self.method.value_names
        }
        if "reference" in rows[0]:
            batch["reference"] = torch.tensor([row["reference"] for row in rows]).T.flatten()
        for name in self.method.measured_sequences:
            batch[name] = self.answers([[sequence_of(row, self.method, name)] for row in rows])
            if f"{name}_reference" in rows[0]:
                batch[name]["reference"] = torch.tensor([row[f"{name}_reference"] for row in rows])
        return batch

    def answers(self, rows: Sequence[Sequence[PromptAndAnswer]]) -> dict[str, Any]:
        """Return the part of a batch that is about the answers of its rows."""
        inputs, places_of = self._laid_out(rows)
        places, targets, answers, tokens = [], [], [], []
        number_of = itertools.count()
        for n in range(len(rows[0])):
            for row, place_of in zip(rows, places_of, strict=True):
                number, sequence = next(number_of), row[n]
                at = [t for t in range(1, len(sequence.ids)) if self._counts(sequence, t, n)]
                places += [place_of[n][t - 1] for t in at]
                targets += [sequence.ids[t] for t in at]
                # What belongs to no answer counts for the SFT loss only.
                answers += [number if t >= sequence.begin else -1 for t in at]
                tokens.append(sum(t >= sequence.begin for t in at))
        return {
            **inputs,
            "places": torch.tensor(places),
            "targets": torch.tensor(targets),
            "answers": torch.tensor(answers),
            "answer_tokens": torch.tensor(tokens, dtype=torch.float32),
        }

    def _laid_out(self, rows: Sequence[Sequence[PromptAndAnswer]]) -> tuple[dict[str, Any], Places]:
        """Return the model's inputs, and where each token of each answer is in them."""
        if not self.joins:
            return self._padded(rows)
        return self._shared(rows) if self.shares and len(rows[0]) == 2 else self._joined(rows)

    def _counts(self, sequence: PromptAndAnswer, place: int, number: int) -> bool:
        """Whether a token is part of an answer, or of what is imitated."""
        is_trained = sequence.labels[place] != IGNORE_INDEX
        return is_trained and (place >= sequence.begin or (self.imitates and number == 0))

    def _padded(self, rows: Any) -> tuple[dict[str, Any], Places]:
        """Return one row for each answer, the first ones of all rows first."""
        sequences = [row[n] for n in range(len(rows[0])) for row in rows]
        multiple = self.pad_to_multiple_of
        width = -(-max(len(one.ids) for one in sequences) // multiple) * multiple
        ids = torch.full((len(sequences), width), self.pad_token_id)
        mask = torch.zeros(len(sequences), width, dtype=torch.long)
        for n, one in enumerate(sequences):
            ids[n, : len(one.ids)] = torch.tensor(one.ids)
            mask[n, : len(one.ids)] = 1
        begins = [[n + k * len(rows) for k in range(len(rows[0]))] for n in range(len(rows))]
        places: Places = [[range(b * width, (b + 1) * width) for b in of_row] for of_row in begins]
        return {"input_ids": ids, "attention_mask": mask}, places

    def _joined(self, rows: Any) -> tuple[dict[str, Any], Places]:
        """Return one row of all answers, each after its own prompt."""
        ids: list[int] = []
        places: list[list[Sequence[int]]] = []
        lengths = []
        for row in rows:
            places.append([])
            for one in row:
                places[-1].append(range(len(ids), len(ids) + len(one.ids)))
                ids += one.ids
                lengths.append(len(one.ids))
        positions = list(itertools.chain.from_iterable(map(range, lengths)))
        return _joined_inputs(ids, positions, lengths), places

    def _shared(self, rows: Any) -> tuple[dict[str, Any], Places]:
        """Return one row of all prompts, each with both of its answers."""
        ids: list[int] = []
        positions: list[int] = []
        places, lengths, branches = [], [], []
        for first, second in rows:
            shared = min(first.begin, second.begin)
            shared = shared_length(first.ids[:shared], second.ids[:shared])
            begin, own = len(ids), len(first.ids)
            rest = second.ids[shared:]
            ids += [*first.ids, *rest]
            positions += [*range(own), *range(shared, len(second.ids))]
            places.append(
                [
                    [*range(begin, begin + own)],
                    [*range(begin, begin + shared), *range(begin + own, len(ids))],
                ]
            )
            lengths.append(own + len(rest))
            branches.append((shared, own - shared, len(rest)))
        inputs = _joined_inputs(ids, positions, lengths)
        return {**inputs, "row_branches": branches}, places


def sequence_of(row: Mapping[str, Any], method: Dpo, name: str) -> PromptAndAnswer:
    """Return a named sequence of a row."""
    ids, labels, begin = (row[column] for column in method.columns_of(name))
    return PromptAndAnswer(ids, labels, max(1, begin))


def _joined_inputs(ids: list[int], positions: list[int], lengths: list[int]) -> dict[str, Any]:
    begins = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)
    longest = max(lengths)
    return {
        "input_ids": torch.tensor([ids]),
        "position_ids": torch.tensor([positions]),
        **{f"cu_seq_lens_{kind}": begins for kind in "qk"},
        **{f"max_length_{kind}": longest for kind in "qk"},
        "row_lengths": lengths,
    }


class PreferenceTrainer(transformers.Trainer):
    """Trains a model to prefer some answers to others; arguments as transformers' Trainer."""

    nbft_config: Config
    nbft_decisions: Decisions
    nbft_ranks: Ranks
    model: Any

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # The loss is a mean over the answers of a batch, so those of an accumulated step are averaged.
        self.model_accepts_loss_kwargs = False
        collator: Any = self.data_collator  # the trainer's may be wrapped later
        self._collate: AnswerCollator = collator
        self._method = self._collate.method
        self._sums: dict[str, defaultdict[str, Any]] = {}
        self._forget("train")
        self._renewed: dict[str, torch.Tensor] | None = None
        self._use_head(self.inner_model)

    @property
    def inner_model(self) -> Any:
        """The model without an adapter around it."""
        return self.model.get_base_model() if hasattr(self.model, "peft_config") else self.model

    def _use_head(self, inner: Any) -> None:
        """Let the model compute what the loss needs, and no more."""
        use_token_head(inner, fused=self.nbft_decisions.uses("label_head"))

    # The reference model

    def compute_reference(self) -> None:
        """Compute the log-probabilities of all rows before anything is trained, or take kept ones.

        The reference is the model as it is now. If it is renewed during the training, its weights
        are kept instead.
        """
        method, ours = self._method, self.nbft_config.preference
        if not method.uses_reference(self.nbft_config):
            return
        if not method.has_reference_stage(self.nbft_config):
            self._renew_reference()
            self.add_callback(_RenewsReference(self, ours.ref_model_update_steps))
            return
        kept = KeptNumbers(key_of_model(self.model, self.nbft_decisions))
        splits = {"train_dataset": self.train_dataset, "eval_dataset": self.eval_dataset}
        try:
            for name, rows in splits.items():
                if rows is not None:
                    setattr(self, name, self._with_reference(rows, kept))
            settle(self.model)
        finally:
            if self.nbft_ranks.is_first:
                kept.save()  # most of what a run that is stopped has computed, too

    def _with_reference(self, rows: Any, kept: KeptNumbers) -> Any:
        """Return rows with the reference's log-probabilities of their answers."""
        method = self._method
        names = [*method.sequences, *method.measured_sequences]
        keys = {
            name: [key_of_tokens(*sequence_of(row, method, name)) for row in rows] for name in names
        }
        missing = [n for n in range(len(rows)) if any(keys[name][n] not in kept for name in names)]
        size, ranks = self.args.eval_batch_size, self.nbft_ranks
        # Another run may have kept numbers between two processes reading the file.
        missing = sorted(set().union(*ranks.every(missing)))
        ours = self.nbft_config.distributed
        groups, group = ours.data_parallel_size, ranks.number // ours.alike
        at_once = _BATCHES_BETWEEN_WORDS * size * groups
        for begin in range(0, len(missing), at_once):
            self._say_reference(begin, len(missing))
            now = missing[begin : begin + at_once]
            own = now[group::groups]
            if is_sharded(self.model):  # then all of them compute as many batches
                own += now[: -(-len(now) // groups) - len(own)]
            for first in range(0, len(own), size):
                # A run can be stopped here as well.
                self.callback_handler.on_prediction_step(self.args, self.state, self.control)
                batch = own[first : first + size]
                inputs: Any = self._prepare_inputs(self._collate([rows[n] for n in batch]))
                with torch.no_grad(), self.accelerator.autocast():
                    numbers = self._answer_logps(inputs).view(len(method.sequences), -1)
                    others = {
                        name: self._answer_logps(inputs[name]) for name in method.measured_sequences
                    }
                for name, values in (
                    *zip(method.sequences, numbers, strict=True),
                    *others.items(),
                ):
                    kept.update(zip((keys[name][n] for n in batch), values.tolist(), strict=True))
            of_own = {keys[name][n]: kept[keys[name][n]] for name in names for n in own}
            for computed in ranks.every(of_own):
                kept.update(computed)
        found = {name: [kept[key] for key in keys[name]] for name in names}
        of_rows = zip(*(found[name] for name in method.sequences), strict=True)
        pairs = [list(of_row) for of_row in of_rows]
        rows = rows.add_column("reference", pairs)
        for name in method.measured_sequences:
            rows = rows.add_column(f"{name}_reference", found[name])
        return rows

    def _say_reference(self, done: int, total: int) -> None:
        text = "Computing the log-probabilities of the reference model …"
        if done:
            text = f"{text[:-2]}: {done:,} of {total:,} rows …"
        self.nbft_begin("reference", 0, text)  # type: ignore[attr-defined]

    def _renew_reference(self) -> None:
        """Let the model as it is now be the reference."""
        self._renewed = {
            name: p.detach().clone() for name, p in self.model.named_parameters() if p.requires_grad
        }

    # The loss

    def _answer_logps(self, inputs: Mapping[str, Any]) -> torch.Tensor:
        """Return the log-probability of each answer of a batch by the model in evaluation, [answers]."""
        was_training = self.model.training
        self.model.eval()
        try:
            return self._summed(self._token_logps(self.model, inputs), inputs)
        finally:
            self.model.train(was_training)

    @staticmethod
    def _token_logps(model: Any, inputs: Mapping[str, Any]) -> torch.Tensor:
        given = {name: value for name, value in inputs.items() if name not in _OF_THE_LOSS}
        found: torch.Tensor = model(**given)
        return found

    @staticmethod
    def _summed(logps: torch.Tensor, inputs: Mapping[str, Any]) -> torch.Tensor:
        number = len(inputs["answer_tokens"])
        # -1 stands for what belongs to no answer, and ends up behind the last one.
        sums = logps.new_zeros(number + 1).index_add(0, inputs["answers"] % (number + 1), logps)
        return sums[:number]

    def _reference_logps(self, inputs: Mapping[str, Any]) -> torch.Tensor:
        """Return the reference's log-probability of each answer, [answers]; 0 without one."""
        if "reference" in inputs:
            return inputs["reference"]  # type: ignore[no-any-return]
        if self._renewed is None:
            return torch.zeros_like(inputs["answer_tokens"])
        now = {name: p.data for name, p in self.model.named_parameters() if name in self._renewed}
        try:
            self._put(self._renewed)
            with torch.no_grad():
                return self._answer_logps(inputs)
        finally:
            self._put(now)

    def _put(self, weights: Mapping[str, torch.Tensor]) -> None:
        for name, p in self.model.named_parameters():
            if name in weights:
                p.data = weights[name]

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the mean loss of a batch, and note its measures."""
        logps = self._token_logps(model, inputs)
        reference, tokens = self._reference_logps(inputs), inputs["answer_tokens"]
        answers = Answers(self._summed(logps, inputs), reference, tokens)
        if len(self._method.sequences) == 2:
            loss = self._loss_of_pairs(answers, logps, inputs)
        else:
            loss = self._loss_of_feedback(model, answers, inputs)
        return (loss, None) if return_outputs else loss

    def _loss_of_pairs(
        self, answers: Answers, logps: torch.Tensor, inputs: Mapping[str, Any]
    ) -> torch.Tensor:
        config, method = self.nbft_config, self._method
        ours = config.preference
        chosen, rejected = _halves(answers)
        margins = inputs["values"]["margin"]
        losses = ours.pref_loss_ratio * pair_loss(
            method.loss_type(config), chosen, rejected, ours, margins
        )
        loss = losses.mean()
        if weight := method.sft_loss_weight(config):
            number = len(chosen.logps)
            is_imitated = (inputs["answers"] < number) | (inputs["answers"] < 0)
            loss = loss - weight * (logps * is_imitated).sum() / is_imitated.sum()
        is_mean = method.loss_type(config) in WITHOUT_REFERENCE  # these compare tokens on average
        rewards = [
            ours.beta * (side.mean_ratios if is_mean else side.ratios).detach()
            for side in (chosen, rejected)
        ]
        margin = rewards[0] - rewards[1]
        noted = {
            "loss": losses.detach() + (loss - losses.mean()).detach(),
            "rewards/margins": margin,
            "rewards/accuracies": (margin > 0).float(),
            "rewards/chosen": rewards[0],
            "rewards/rejected": rewards[1],
            "logps/chosen": chosen.logps.detach(),
            "logps/rejected": rejected.logps.detach(),
        }
        own = self._own_rows(len(losses))
        self._note({name: values[:own] for name, values in noted.items()})
        return loss

    def _loss_of_feedback(
        self, model: Any, answers: Answers, inputs: Mapping[str, Any]
    ) -> torch.Tensor:
        config, ours = self.nbft_config, self.nbft_config.preference
        kl = torch.zeros((), device=answers.logps.device)
        if (others := inputs.get("kl")) is not None:
            with torch.no_grad():
                moved = self._summed(self._token_logps(model, others), others)
            kl = (moved - self._reference_logps(others)).mean().clamp(min=0)
        is_good = inputs["values"]["label"] > 0.5
        loss_type = self._method.loss_type(config)
        losses = feedback_loss(loss_type, answers, is_good, kl, ours)
        rewards = ours.beta * answers.ratios.detach()
        own = self._own_rows(len(losses))
        noted = {"loss": losses.detach()[:own], "kl": kl[None]}
        for side, of_side in (("chosen", is_good[:own]), ("rejected", ~is_good[:own])):
            noted[f"rewards/{side}"] = rewards[:own][of_side]
            noted[f"logps/{side}"] = answers.logps.detach()[:own][of_side]
        self._note(noted)
        return losses.mean()

    # Measures

    def _forget(self, mode: str) -> None:
        self._sums[mode] = defaultdict(lambda: 0.0)

    def _own_rows(self, rows: int) -> int:
        """Return how many rows of this batch, the first ones, are to be measured.

        The last held-out batches of several processes are filled up with rows measured already.
        """
        filled = self.accelerator.gradient_state
        if self.model.training or not filled.end_of_dataloader or filled.remainder <= 0:
            return rows
        group = self.nbft_ranks.number // self.nbft_config.distributed.alike
        before = group * self.args.eval_batch_size
        return min(rows, max(0, int(filled.remainder) - before))

    def _note(self, values: Mapping[str, torch.Tensor]) -> None:
        """Add to the sums of a log; they stay on the device until they are read."""
        sums = self._sums["train" if self.model.training else "eval"]
        for name, of_name in values.items():
            sums[name] = sums[name] + torch.stack(
                [of_name.sum(), torch.tensor(float(len(of_name)), device=of_name.device)]
            )

    def _means(self, mode: str) -> dict[str, float]:
        """Return the means since the last log, and forget them."""
        totals = self._totals(mode)
        self._forget(mode)
        return {name: total / number for name, (total, number) in totals.items() if number}

    def _totals(self, mode: str) -> dict[str, tuple[float, float]]:
        """Return sum and number of each measure over all processes, read at once."""
        sums = self._sums[mode]
        if not sums:
            return {}
        here = torch.stack(list(sums.values())).flatten() / self.nbft_config.distributed.alike
        read = self.nbft_ranks.total(here.tolist())
        return dict(zip(sums, zip(read[::2], read[1::2], strict=True), strict=True))

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add the measures to a log of the training."""
        if "loss" in logs:
            logs |= {name: mean for name, mean in self._means("train").items() if name != "loss"}
        super().log(logs, *args, **kwargs)

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> EvalLoopOutput:
        """Measure held-out rows; each row counts the same, whatever its batch."""
        self._forget("eval")
        output = super().evaluation_loop(*args, **kwargs)
        prefix = kwargs.get("metric_key_prefix", "eval")
        means = {f"{prefix}_{name}": mean for name, mean in self._means("eval").items()}
        output.metrics.update(means)  # type: ignore[union-attr]
        return output

    def prediction_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the loss of a held-out batch."""
        inputs = self._prepare_inputs(inputs)
        with torch.no_grad(), self.compute_loss_context_manager():
            return self.compute_loss(model, inputs).detach(), None, None

    # Resuming

    def own_state(self) -> dict[str, Any]:
        """Return what a checkpoint has to keep of it, with sums over all processes."""
        return {"sums": self._totals("train"), "reference": self._renewed}

    def load_own_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `own_state` returned."""
        device = self.args.device
        for name, pair in state["sums"].items():
            is_first = self.nbft_ranks.number < self.nbft_config.distributed.alike
            ours = pair if is_first else [0.0, 0.0]  # they are added up again
            self._sums["train"][name] = torch.as_tensor(ours, device=device)
        if state["reference"] is not None:
            self._renewed = {name: p.to(device) for name, p in state["reference"].items()}


_BATCHES_BETWEEN_WORDS = 20


def _halves(answers: Answers) -> Iterator[Answers]:
    """Return chosen and rejected answers."""
    parts = (answers.logps, answers.reference, answers.tokens)
    return (Answers(*half) for half in zip(*(part.chunk(2) for part in parts), strict=True))


class _RenewsReference(TrainerCallback):
    """Lets the current model become the reference after a number of steps."""

    def __init__(self, trainer: PreferenceTrainer, steps: int) -> None:
        self.trainer, self.steps = trainer, steps

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Renew the reference if it is due."""
        if state.global_step % self.steps == 0:
            self.trainer._renew_reference()
