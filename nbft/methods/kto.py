"""Kahneman-Tversky optimization: answers that are labelled good or bad, without pairs.

Source: arXiv:2402.01306.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from nbft.errors import Problem
from nbft.methods.dpo import ANSWERS, REWARDS, Dpo, without_effect
from nbft.methods.method import Kind, Measure

if TYPE_CHECKING:
    from nbft.config import Config
    from nbft.data.formats import Example
    from nbft.decisions import Decisions


class Kto(Dpo):
    """Each answer is compared with how far the model has moved on other answers."""

    title = "preference training (KTO)"
    accepts: ClassVar[frozenset[Kind]] = frozenset({"feedback"})
    sequences: ClassVar[tuple[str, ...]] = ("completion",)
    fast_parts = Dpo.fast_parts - {"shared_prompt"}
    measures: ClassVar[tuple[Measure, ...]] = (
        Measure("rewards/chosen", "good", REWARDS),
        Measure("rewards/rejected", "bad", REWARDS),
        Measure("kl", "KL", "Distance from the reference model"),
        Measure("logps/chosen", "good", ANSWERS),
        Measure("logps/rejected", "bad", ANSWERS),
    )
    held_out_measures = tuple(measure.name for measure in measures)
    takes_sequence_parallel = False  # its two forward passes have different lengths
    loss_types = ("kto", "apo_zero_unpaired")
    measured_sequences = ("kl",)

    def trained_on(self, format_name: str) -> str:
        """Return what is learned from the rows."""
        return "answers labelled good are made likelier, and those labelled bad unlikelier"

    def texts(self, examples: Sequence[Example]) -> Mapping[str, Sequence[Example]]:
        """Return the examples themselves."""
        return {"completion": examples}

    def arrange(self, rows: Any, config: Config, batch_rows: int) -> Any:
        """Give each row an answer to another prompt, by which the KL divergence is measured.

        Among as many rows as a batch has, each gets the answer of the one before it, as TRL does it.
        """
        most = config.data.max_length

        def with_others(batch: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
            found: dict[str, list[Any]] = {name: [] for name in self.columns_of("kl")}
            ids, labels, begins = (batch[name] for name in self.columns_of("completion"))
            for own in range(len(ids)):
                begin, other = begins[own], begins[own - 1]
                mixed = [
                    (part[own][:begin] + part[own - 1][other:])[:most] for part in (ids, labels)
                ]
                for name, part in zip(found, (*mixed, begin), strict=True):
                    found[name].append(part)
            return found

        return rows.map(
            with_others, batched=True, batch_size=batch_rows, load_from_cache_file=False
        )

    def trainer_arguments(self, config: Config, decisions: Decisions) -> dict[str, Any]:
        """Return Dpo's; rows keep the order in which each was given the answer of another.

        A batch then measures the KL divergence on its own answers. `data.shuffle` mixes the rows
        before.
        """
        order = {"train_sampling_strategy": "sequential"} if self.loss_type(config) == "kto" else {}
        return {**super().trainer_arguments(config, decisions), **order}

    value_names = ("label",)

    def values(self, example: Example) -> Mapping[str, float]:
        """Return 1 for a good answer and 0 for a bad one."""
        return {"label": float(bool(example.label))}

    def problems(self, config: Config) -> Iterable[Problem]:
        """Reject what KTO cannot do."""
        yield from super().problems(config)
        if config.training.per_device_train_batch_size < 2 and self.loss_type(config) == "kto":
            yield Problem(
                "training.per_device_train_batch_size",
                1,
                "leaves kto no other answer of the batch to measure the KL divergence on.",
                "Use 2 or more, or preference.loss_type=apo_zero_unpaired.",
                {"training.per_device_train_batch_size": 2},
            )
        if config.data.train_sampling_strategy == "group_by_length":
            yield Problem(
                "data.train_sampling_strategy",
                "group_by_length",
                "parts an answer from those on which kto measures the KL divergence.",
                "Use random: data.shuffle mixes the rows once.",
                {"data.train_sampling_strategy": "random"},
            )
        for name, default in (("sft_loss_ratio", None), ("pref_loss_ratio", 1.0)):
            if (value := getattr(config.preference, name)) not in (default, default or 0.0):
                yield without_effect(name, value, default, "kto has no SFT loss")


METHOD = Kto()
