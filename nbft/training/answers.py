"""What nbft changes of TRL's trainers that write answers and reward them.

They read the prompts as the lens shows them, call rewards that say what is wrong with themselves, and
report some of the answers of a step. The order of the prompts depends on the epoch alone, so that a
resumed run draws the same. Called by `nbft.training.trainer`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from trl.trainer.utils import RepeatSampler

from nbft.config import Config
from nbft.rewards.load import RewardError, asked_of, load_rewards, text
from nbft.training.rows import TrainingRows

SHOWN_ANSWERS = 16
"""Most answers of a step that are reported; at least those of one prompt, if they are not more."""

SHOWN_CHARACTERS = 1_000
"""Most characters of a reported prompt or answer."""

_TABLES_APART = 50
"""Tables become rarer in a long run, a fiftieth of its steps apart, so that the events stay small."""


class GroupSampler(RepeatSampler):
    """TRL's sampler, with an order that follows from the seed and the epoch."""

    def set_epoch(self, epoch: int) -> None:
        """Set the next epoch, counted from 0; the first is as TRL's."""
        if self.shuffle:
            self.generator.manual_seed((self.seed or 0) + epoch)


class OwnAnswers:
    """Part of a trainer: prompts, rewards and tables of answers."""

    nbft_config: Config
    nbft_rows: TrainingRows
    nbft_say: Callable[..., None]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._prompt_ids: list[list[int]] = []
        self._table: list[dict[str, Any]] = []
        self._next_table = 0
        rewards = load_rewards(self.nbft_config)
        kwargs.pop("data_collator", None)
        super().__init__(*args, reward_funcs=rewards, **kwargs)  # type: ignore[call-arg]

    def _get_train_sampler(self, dataset: Any = None) -> Any:
        usual: Any = super()._get_train_sampler(dataset)  # type: ignore[misc]
        return GroupSampler(
            usual.data_source,
            usual.mini_repeat_count,
            usual.batch_size,
            usual.repeat_count,
            usual.shuffle,
            usual.seed,
        )

    def _generate_and_score_completions(self, inputs: Sequence[Mapping[str, Any]]) -> Any:
        """Write answers to prompts and reward them.

        Raises:
            RewardError: A reward failed. The weights are saved, so that nothing is lost.
        """
        trainer: Any = self
        is_training = trainer.model.training
        numbers = torch.get_rng_state()
        self._prompt_ids = [row["input_ids"] for row in inputs]
        examples = self.nbft_rows.examples["train" if is_training else "validation"]
        asked = [asked_of(examples[n], examples.row(n)) for n in (row["example"] for row in inputs)]
        columns = dict.fromkeys(itertools.chain.from_iterable(asked))
        filled = [{name: one.get(name) for name in columns} for one in asked]
        try:
            batch = super()._generate_and_score_completions(filled)  # type: ignore[misc]
        except RewardError:
            if is_training and trainer.state.global_step:
                torch.set_rng_state(numbers)  # so that a resumed run writes these answers again
                trainer._save_checkpoint(trainer.model, None)
                trainer.callback_handler.on_save(trainer.args, trainer.state, trainer.control)
            raise
        if is_training:
            self._take_table(filled, batch)
        return batch

    def _tokenize_prompts(
        self, prompts: Sequence[Any]
    ) -> tuple[list[list[int]], None, dict[str, Any]]:
        """Return the prompts as they were tokenised, which the lens shows."""
        assert len(prompts) == len(self._prompt_ids)
        return self._prompt_ids, None, {}

    def _prepare_inputs(self, inputs: Any) -> Any:
        """Return a micro-batch, and count its tokens."""
        batch = super()._prepare_inputs(inputs)  # type: ignore[misc]
        if self.model.training and "prompt_mask" in batch:  # type: ignore[attr-defined]
            answers = batch["completion_mask"]
            masks = torch.cat([batch["prompt_mask"], answers], 1)
            counted = {"input_ids": masks, "attention_mask": masks, "completion_mask": answers}
            self._count(counted)  # type: ignore[attr-defined]
        return batch

    def _take_table(self, inputs: Sequence[Mapping[str, Any]], batch: Mapping[str, Any]) -> None:
        """Keep some of the answers of this round, whole groups if they fit."""
        trainer: Any = self
        logs, several = trainer._logs, trainer.num_generations
        shown = max(
            min(SHOWN_ANSWERS // several * several, len(inputs)), min(SHOWN_ANSWERS, several)
        )
        first = len(logs["prompt"]) - len(inputs)
        sizes = batch["completion_mask"].sum(1).tolist()
        limit = trainer.max_completion_length
        weights = trainer.reward_weights.tolist()
        table = []
        for n in range(shown):
            rewards = {name: values[first + n] for name, values in logs["rewards"].items()}
            weighted = zip(rewards.values(), weights, strict=True)
            table.append(
                {
                    "prompt": _shown(logs["prompt"][first + n]),
                    "completion": _shown(logs["completion"][first + n]),
                    "wanted": _shown(inputs[n]["references"]),
                    "rewards": rewards,
                    "reward": sum(reward * weight for reward, weight in weighted),
                    "advantage": logs["advantages"][first + n],
                    "tokens": sizes[n],
                    "is_cut": sizes[n] >= limit,
                }
            )
        self._table = table
        advantages = torch.tensor(list(logs["advantages"])[first:])
        lengths = torch.tensor(sizes, dtype=torch.float32)
        by_length = lengths - lengths.view(-1, several).mean(1).repeat_interleave(several)
        if advantages.any() and by_length.any():
            correlation = float(torch.cosine_similarity(advantages, by_length, dim=0))
            trainer._metrics["train"]["reward_length_correlation"].append(correlation)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Log numbers, and report the last answers if it is time to."""
        super().log(logs, *args, **kwargs)  # type: ignore[misc]
        step = int(self.state.global_step)  # type: ignore[attr-defined]
        if "loss" in logs and self._table and step >= self._next_table:
            self._next_table = step + max(1, step // _TABLES_APART)
            self.nbft_say("completions", step=step, completions=self._table)


def _shown(given: Any) -> str:
    """Return a text, or the last message of several, cut where it is long."""
    words = text(given)
    return words if len(words) <= SHOWN_CHARACTERS else f"{words[:SHOWN_CHARACTERS]}…"
