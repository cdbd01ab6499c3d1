"""Direct preference optimization: a better and a worse answer to each prompt, and a reference model.

Source: arXiv:2305.18290. CPO, ORPO and KTO, in their own files, change what differs.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from nbft.errors import Problem
from nbft.methods.method import PARTS_OF_ANY_TRAINER, Kind, Measure, Method, imported
from nbft.models.peft_types import peft_type_of

if TYPE_CHECKING:
    import numpy as np

    from nbft.config import Config
    from nbft.data.formats import Example
    from nbft.data.tokens import Tokenised
    from nbft.data.turns import Turn
    from nbft.decisions import Decisions
    from nbft.plan.memory import Shape

WITHOUT_REFERENCE = frozenset({"simpo", "orpo"})
"""Losses that compare the two answers with each other only."""

_ROWS_CHECKED = 10_000
_SMOOTHED = frozenset({"sigmoid", "sigmoid_norm", "simpo", "robust", "exo_pair"})
REWARDS, ANSWERS = "Rewards", "Log-probability of the answers"


class Dpo(Method):
    """Preference training on pairs, with the trainer in `nbft.training.preference`.

    Attributes:
        loss_types: Values of preference.loss_type that it has; the first is its own.
        sft_weight: Its weight of the SFT loss.
        has_reference: Whether it compares with a reference model at all.
        answer_collator: "module:class" of the collator of answers.
        measured_sequences: Sequences of a row that are measured, but not trained on.
    """

    title = "preference training (DPO)"
    accepts: ClassVar[frozenset[Kind]] = frozenset({"preference"})
    uses_labels = True
    sequences: ClassVar[tuple[str, ...]] = ("chosen", "rejected")
    section = "preference"
    unused_settings: ClassVar[frozenset[str]] = frozenset({"center_rewards_coefficient"})
    trainer = "nbft.training.preference:PreferenceTrainer"
    arguments = "transformers:TrainingArguments"
    fast_parts = PARTS_OF_ANY_TRAINER | {"label_head", "shared_prompt"}
    computes_loss = True
    answer_collator: ClassVar[str] = "nbft.training.preference:AnswerCollator"
    measures: ClassVar[tuple[Measure, ...]] = (
        Measure("rewards/margins", "margin", "Reward margin", "higher"),
        Measure("rewards/accuracies", "accuracy", "Chosen preferred", "higher"),
        Measure("rewards/chosen", "chosen", REWARDS),
        Measure("rewards/rejected", "rejected", REWARDS),
        Measure("logps/chosen", "chosen", ANSWERS),
        Measure("logps/rejected", "rejected", ANSWERS),
    )
    held_out_measures = tuple(measure.name for measure in measures)
    loss_types: ClassVar[tuple[str, ...]] = (
        *("sigmoid", "hinge", "ipo", "simpo", "orpo", "dpop", "kto_pair", "sppo_hard", "nca_pair"),
        *("sigmoid_norm", "robust", "exo_pair", "bco_pair", "apo_zero", "apo_down"),
    )
    sft_weight: ClassVar[float] = 0.0
    has_reference: ClassVar[bool] = True
    measured_sequences: ClassVar[tuple[str, ...]] = ()

    def loss_type(self, config: Config) -> str:
        """The loss that a config leads to."""
        return config.preference.loss_type or self.loss_types[0]

    def sft_loss_weight(self, config: Config) -> float:
        """The weight of the SFT loss that a config leads to."""
        asked = config.preference.sft_loss_ratio
        return self.sft_weight if asked is None else asked

    def uses_reference(self, config: Config) -> bool:
        """Whether a config compares with a reference model."""
        return (
            self.has_reference
            and not config.preference.reference_free
            and self.loss_type(config) not in WITHOUT_REFERENCE
        )

    # Rows

    def trained_on(self, format_name: str) -> str:
        """Return what is learned from the rows."""
        return "the chosen answers are made likelier than the rejected ones"

    def texts(self, examples: Sequence[Example]) -> Mapping[str, Sequence[Example]]:
        """Return the chosen and the rejected answer, each after the prompt that they share."""
        pairs = [_pair(example) for example in examples]
        return {"chosen": [good for good, _ in pairs], "rejected": [bad for _, bad in pairs]}

    def values(self, example: Example) -> Mapping[str, float]:
        """Return how much higher the chosen answer is scored; NaN without scores."""
        return {"margin": float("nan") if example.margin is None else example.margin}

    value_names: ClassVar[tuple[str, ...]] = ("margin",)

    def most_prompt_tokens(self, config: Config) -> int | None:
        """Return preference.max_prompt_length."""
        return config.preference.max_prompt_length

    def columns_of(self, sequence: str) -> tuple[str, str, str]:
        """Return the columns of a sequence: its token ids, its labels, and where its answer begins."""
        if sequence in self.measured_sequences:
            return f"{sequence}_input_ids", f"{sequence}_labels", f"{sequence}_prompt_tokens"
        ids, labels, begin = (
            self.column(sequence, part) for part in ("input_ids", "labels", "prompt_tokens")
        )
        return ids, labels, begin

    # The plan

    def problems(self, config: Config) -> Iterable[Problem]:
        """Reject what preference training cannot do, and settings that would have no effect."""
        ours, loss_type = config.preference, self.loss_type(config)
        name = config.training.method
        if loss_type not in self.loss_types:
            yield Problem(
                "preference.loss_type",
                loss_type,
                f"is no loss of {name}, which has {', '.join(self.loss_types)}.",
                f"Use {self.loss_types[0]}.",
                {"preference.loss_type": None},
            )
            return
        if ours.label_smoothing and loss_type not in _SMOOTHED:
            yield without_effect(
                "label_smoothing", ours.label_smoothing, 0.0, f"{loss_type} has no smoothing"
            )
        if loss_type == "exo_pair" and not ours.label_smoothing:
            yield Problem(
                "preference.label_smoothing",
                0.0,
                "exo_pair needs a share above 0, as it takes its logarithm.",
                "Use 0.001.",
                {"preference.label_smoothing": 0.001},
            )
        if ours.offset_alpha and loss_type != "sigmoid":
            why = f"only sigmoid has an offset, and the loss is {loss_type}"
            yield without_effect("offset_alpha", ours.offset_alpha, 0.0, why)
        if ours.center_rewards_coefficient:
            why = "only training.method=reward has rewards to centre"
            yield without_effect(
                "center_rewards_coefficient", ours.center_rewards_coefficient, 0.0, why
            )
        if ours.ref_model_update_steps > 0 and not self.uses_reference(config):
            why = "there is no reference model"
            yield without_effect("ref_model_update_steps", ours.ref_model_update_steps, -1, why)
        if ours.reference_free and not (self.has_reference and loss_type not in WITHOUT_REFERENCE):
            yield without_effect("reference_free", True, False, "there is no reference model")
        if not ours.pref_loss_ratio and not self.sft_loss_weight(config):
            yield Problem(
                "preference.pref_loss_ratio",
                0.0,
                "and no weight of the SFT loss leave nothing to train on.",
                "Use 1.",
                {"preference.pref_loss_ratio": 1.0},
            )
        yield from self.problems_of_batches(config)

    def problems_of_batches(self, config: Config) -> Iterable[Problem]:
        """Reject what takes pairs apart, and models that do not continue a text."""
        data = config.data
        if data.packing:
            yield Problem(
                "data.packing",
                True,
                "joins rows, and the two answers of a pair belong together.",
                "Leave it out: pairs are joined without padding anyway.",
                {"data.packing": False},
            )
        if data.train.stream:
            yield Problem(
                "data.train.stream",
                True,
                f"{config.training.method} compares each answer with others that are known "
                "beforehand, and a stream's rows are not.",
                "Turn it off.",
                {"data.train.stream": False},
            )
        if data.collate_fn != "dynamic_padding":
            yield Problem(
                "data.collate_fn",
                data.collate_fn,
                f"makes batches of single answers; {config.training.method} makes its own.",
                "Use dynamic_padding.",
                {"data.collate_fn": "dynamic_padding"},
            )
        kind = peft_type_of(config)
        if kind is not None and (kind.changes_rows or kind.name == "adalora"):
            what = (
                "puts virtual tokens before each row" if kind.changes_rows else "adds to the loss"
            )
            yield Problem(
                "peft.method",
                config.peft.method,
                f"{what}, which {config.training.method} does not take into account.",
                "Use lora.",
                {"peft.method": "lora"},
            )
        if config.model.auto_class_name == "AutoModelForSeq2SeqLM":
            yield Problem(
                "training.method",
                config.training.method,
                "trains models that continue a text, not encoder-decoder models.",
                "Use base.",
                {"training.method": "base"},
            )

    def problems_of_rows(self, config: Config, examples: Sequence[Example]) -> Iterable[Problem]:
        """Reject rows without the scores that an offset asks for."""
        if not config.preference.offset_alpha:
            return
        some = examples[:_ROWS_CHECKED]
        without = sum(example.margin is None for example in some)
        ties = sum(example.margin is not None and example.margin <= 0 for example in some)
        what = [
            f"{number:,} of {len(some):,} rows {how}"
            for number, how in ((without, "have no scores"), (ties, "score both answers alike"))
            if number
        ]
        if what:
            yield Problem(
                "preference.offset_alpha",
                config.preference.offset_alpha,
                f"needs a chosen answer with a higher score in every row; {' and '.join(what)}.",
                "Add score_chosen and score_rejected, leave those rows out, or use 0.",
                {"preference.offset_alpha": 0.0},
            )

    def known_of_rows(self, train: Tokenised, held_out: Tokenised | None) -> dict[str, float]:
        """Return the accuracy of a rule that looks at nothing but the length of the answers.

        Whether it takes the longer or the shorter one is that of most training rows; it is judged on
        the held-out rows, or without any on the training rows. Half of the pairs of equal length
        count as right.
        """
        if len(self.sequences) != 2:
            return {}
        of_training = self._longer(train)
        judged = of_training if held_out is None else self._longer(held_out)
        rule = 1 if of_training.sum() >= 0 else -1
        return {"length_accuracy": float((1 + rule * judged.mean()) / 2)}

    def _longer(self, rows: Tokenised) -> np.ndarray:
        """Return 1 where the chosen answer has more tokens than the rejected one, -1 for fewer, [rows]."""
        import numpy as np
        from pyarrow import compute

        table = rows.dataset.with_format("arrow")[:]

        def tokens(sequence: str) -> np.ndarray:
            ids, _, begin = (table[name] for name in self.columns_of(sequence))
            found: np.ndarray = compute.list_value_length(ids).to_numpy() - begin.to_numpy()
            return found

        longer: np.ndarray = np.sign(tokens("chosen") - tokens("rejected"))
        return longer

    def memory_bytes(self, config: Config, shape: Shape, trained: int) -> float:
        """Return the bytes of a second copy of the trained weights, if the reference is renewed.

        Otherwise the reference model's log-probabilities are computed before the first step.
        """
        if self.has_reference_stage(config) or not self.uses_reference(config):
            return 0.0
        return 4.0 * trained

    # Training

    def trainer_arguments(self, config: Config, decisions: Decisions) -> dict[str, Any]:
        """Return the arguments of TrainingArguments."""
        return {
            "include_num_input_tokens_seen": "non_padding",
            "remove_unused_columns": False,
        }

    def has_reference_stage(self, config: Config) -> bool:
        """Whether the reference model is asked once, and not at each step."""
        return self.uses_reference(config) and config.preference.ref_model_update_steps <= 0

    def prepare(self, trainer: Any) -> None:
        """Compute the log-probabilities of the reference model."""
        trainer.compute_reference()

    def collator(self, config: Config, decisions: Decisions, tokenizer: Any, model: Any) -> Any:
        """Return the collator of pairs."""
        return imported(self.answer_collator)(
            self,
            pad_token_id=tokenizer.pad_token_id,
            joins=decisions.padding_free,
            shares=decisions.uses("shared_prompt"),
            imitates=self.sft_loss_weight(config) > 0,
            pad_to_multiple_of=config.data.pad_to_multiple_of,
        )


def without_effect(name: str, value: Any, default: Any, why: str) -> Problem:
    """Say that a setting of this section changes nothing, and why."""
    return Problem(
        f"preference.{name}",
        value,
        f"has no effect: {why}.",
        "Leave it out.",
        {f"preference.{name}": default},
    )


def _pair(example: Example) -> tuple[Example, Example]:
    """Return both answers of a pair as examples; only what differs between them is trained on."""
    rejected = example.rejected
    if not isinstance(rejected, tuple):
        plain = dataclasses.replace(example, rejected=None)
        return plain, dataclasses.replace(plain, completion=rejected or "")
    shared = 0
    for good, bad in zip(example.messages, rejected, strict=False):
        if good != bad:
            break
        shared += 1
    return _after(example, example.messages, shared), _after(example, rejected, shared)


def _after(example: Example, turns: Sequence[Turn], shared: int) -> Example:
    before = tuple({**turn, "trained": False} for turn in turns[:shared])
    return dataclasses.replace(example, messages=(*before, *turns[shared:]), rejected=None)


METHOD = Dpo()
