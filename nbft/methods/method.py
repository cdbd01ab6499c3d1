"""`Method`: everything that differs between training methods. Loads no torch at import."""

from __future__ import annotations

import copy
import importlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from nbft import registry

if TYPE_CHECKING:
    from nbft.config import Config
    from nbft.data.formats import Example
    from nbft.data.tokens import Tokenised
    from nbft.decisions import Decisions
    from nbft.errors import Problem
    from nbft.plan.memory import Shape

IGNORE_INDEX = -100
"""Label of a token that is excluded from the loss. Source: torch.nn.CrossEntropyLoss."""

Kind = Literal["pair", "conversation", "text", "preference", "feedback", "prompt"]
"""Contents of a row: a prompt with its completion, a conversation, plain text, a better and a worse
answer, an answer with a label, or a prompt alone."""

PARTS_OF_ANY_TRAINER = frozenset({"padding_free", "row_attention", "fused_lora", "lean_norm"})
"""Parts of the fast path that work with any trainer."""


@dataclass(frozen=True)
class Measure:
    """A number that a trainer logs during training.

    Attributes:
        name: Name in the log.
        label: Label in the legend.
        chart: Title of its chart.
        better: Which direction is better, or "" if neither is.
        is_main: Whether its chart stands beside that of the loss.
    """

    name: str
    label: str
    chart: str
    better: Literal["lower", "higher", ""] = ""
    is_main: bool = False


class Method:
    """One training method; a subclass in its own file overrides what differs.

    Attributes:
        title: Name for people.
        accepts: Kinds of rows that it trains on.
        uses_labels: Whether it also learns from bad answers; otherwise such rows are left out.
        sequences: Names of the token sequences made from an example.
        section: Section of the config that only this kind of method uses, or None.
        unused_settings: Settings of that section that it does not read, by their names.
        trainer: "module:class" of its trainer.
        arguments: "module:class" of the trainer's arguments.
        trainer_part: "module:class" of what nbft changes of its trainer alone, or "".
        takes_peft_config: Whether the trainer itself adds the adapter to the model.
        computes_loss: Whether the trainer computes the loss without the labels of a model.
        value_names: Numbers of an example that its trainer needs besides tokens.
        fast_parts: Parts of the fast path that its trainer supports.
        measures: What it logs besides losses, the learning rate and the gradient norm.
        held_out_measures: What it measures on held-out rows besides the loss.
        generates: Whether it trains on answers that the model itself writes. Then only prompts are
            tokenised, and its trainer is given the examples.
        takes_sequence_parallel: Whether its trainer can split positions among processes.
        scores_answers: Whether its model gives an answer one score instead of writing it, so that
            there are no logits, and nothing is generated.
    """

    title: ClassVar[str]
    accepts: ClassVar[frozenset[Kind]]
    uses_labels: ClassVar[bool] = False
    sequences: ClassVar[tuple[str, ...]] = ("completion",)
    section: ClassVar[str | None] = None
    unused_settings: ClassVar[frozenset[str]] = frozenset()
    trainer: ClassVar[str]
    arguments: ClassVar[str]
    trainer_part: ClassVar[str] = ""
    takes_peft_config: ClassVar[bool] = False
    computes_loss: ClassVar[bool] = False
    value_names: ClassVar[tuple[str, ...]] = ()
    fast_parts: ClassVar[frozenset[str]] = PARTS_OF_ANY_TRAINER
    measures: ClassVar[tuple[Measure, ...]] = ()
    held_out_measures: ClassVar[tuple[str, ...]] = ()
    generates: ClassVar[bool] = False
    takes_sequence_parallel: ClassVar[bool] = True
    scores_answers: ClassVar[bool] = False
    _own_trainer: type | None = None

    @property
    def trainer_name(self) -> str:
        """The name of the trainer's class."""
        return self.trainer.partition(":")[2]

    @property
    def arguments_name(self) -> str:
        """The name of the class of its arguments."""
        return self.arguments.partition(":")[2]

    # Rows

    def refusal(self, kind: Kind, *, of_one: bool = False) -> tuple[str, str]:
        """Return why rows of a kind, or one such row, cannot be used, and what to do."""
        suits = "" if of_one else f" such as {SUITS[kind]}"
        wanted = " or ".join(_HOLDS[kind] for kind in sorted(self.accepts))
        holds = "holds" if of_one else "the rows hold"
        return (
            f"{holds} {_HOLDS[kind]}; {self.title} needs {wanted}.",
            f"Use such rows, or another training.method{suits}.",
        )

    def trained_on(self, format_name: str) -> str:
        """Return which part of rows of a format is trained on; "" if the format itself tells."""
        return ""

    def texts(self, examples: Sequence[Example]) -> Mapping[str, Sequence[Example]]:
        """Return the texts of each named sequence: one per example, in order."""
        raise NotImplementedError

    def column(self, sequence: str, part: str) -> str:
        """Return the name of a column of tokens: `input_ids` if there is only one sequence.

        >>> Method().column("completion", "labels")
        'labels'
        """
        return part if len(self.sequences) == 1 else f"{sequence}_{part}"

    @property
    def token_columns(self) -> list[str]:
        """The columns of token ids and labels."""
        return [self.column(s, part) for s in self.sequences for part in ("input_ids", "labels")]

    @property
    def columns(self) -> list[str]:
        """The columns for its trainer: tokens, where answers begin if it asks, and other numbers."""
        begins = [self.column(s, "prompt_tokens") for s in self.sequences if self.computes_loss]
        return [*self.token_columns, *begins, *self.value_names]

    def values(self, example: Example) -> Mapping[str, float]:
        """Return the numbers of an example, by `value_names`."""
        return {}

    def most_prompt_tokens(self, config: Config) -> int | None:
        """Return how many tokens a prompt may have, of which the end is kept; None for any."""
        return None

    @property
    def trained_columns(self) -> list[str]:
        """Those that its trainer is given: with the number of the example where it generates."""
        return [*self.columns, "example"] if self.generates else self.columns

    # The plan

    def micro_batches(self, config: Config, rows: int) -> int | None:
        """Return the micro-batches of an epoch; None where each row is in one of them once."""
        return None

    def answers_at_once(self, config: Config) -> int:
        """Return how many answers the model writes at a time during training."""
        return 0

    def trained_lengths(self, config: Config, lengths: Sequence[int]) -> list[int]:
        """Return the tokens of sequences as they are trained on."""
        return [*lengths]

    def problems(self, config: Config) -> Iterable[Problem]:
        """Yield problems of a config that are specific to this method."""
        return ()

    def problems_of_rows(self, config: Config, examples: Sequence[Example]) -> Iterable[Problem]:
        """Yield problems of the training rows that are specific to this method."""
        return ()

    def remarks(self, config: Config) -> Iterable[str]:
        """Yield what to know about a run by this method."""
        return ()

    def remarks_of_rows(self, config: Config, examples: Sequence[Example]) -> Iterable[str]:
        """Yield what to know about the training rows."""
        return ()

    def with_head(self, shape: Shape) -> Shape:
        """Return the shape of the model that it trains, of that of the base model."""
        return shape

    def modules_to_save(self, config: Config) -> list[str]:
        """Return the layers that are trained in full beside an adapter and saved with it."""
        return config.peft.modules_to_save

    def adapter_arguments(self, config: Config) -> dict[str, Any]:
        """Return arguments of PEFT's config class in place of those that the settings give."""
        return {}

    def known_of_rows(self, train: Tokenised, held_out: Tokenised | None) -> dict[str, float]:
        """Return numbers of the rows by which a run is judged, for its event `prepared`."""
        return {}

    def memory_bytes(self, config: Config, shape: Shape, trained: int) -> float:
        """Return bytes needed besides weights, optimiser and activations of its sequences.

        Args:
            config: The config.
            shape: The model's shape.
            trained: Number of weights that are trained.
        """
        return 0.0

    # Training

    def trainer_arguments(self, config: Config, decisions: Decisions) -> dict[str, Any]:
        """Return the trainer's arguments besides those of every trainer."""
        raise NotImplementedError

    def measures_of(self, config: Config) -> tuple[Measure, ...]:
        """Return what its trainer logs for a config."""
        return self.measures

    def trainer_parts(self) -> tuple[type, ...]:
        """Import what nbft changes of its trainer alone."""
        return (imported(self.trainer_part),) if self.trainer_part else ()

    def trainer_class(self) -> type:
        """Import the trainer, or return that of `with_trainer`."""
        return self._own_trainer or imported(self.trainer)

    def with_trainer(self, trainer: type) -> Method:
        """Return a copy of this method with another trainer."""
        own = copy.copy(self)
        own._own_trainer = trainer
        return own

    def arguments_class(self) -> type:
        """Import the class of the trainer's arguments."""
        return imported(self.arguments)

    def collator(
        self, config: Config, decisions: Decisions, tokenizer: Any, model: Any
    ) -> Any | None:
        """Return the data collator, or None for the trainer's own. Imports torch."""
        return None

    def has_reference_stage(self, config: Config) -> bool:
        """Whether something is computed of all rows before the first step."""
        return False

    def arrange(self, rows: Any, config: Config, batch_rows: int) -> Any:
        """Return rows in their final order with what each needs of its neighbours.

        Args:
            rows: A `datasets.Dataset` with `columns`.
            config: The config.
            batch_rows: Rows of a batch.
        """
        return rows

    def prepare(self, trainer: Any) -> None:
        """Do what has to be done once, before the first step; the model is that of the start."""

    # Plain Python

    def collator_code(self, config: Config, decisions: Decisions) -> tuple[str, list[str]]:
        """Return the expression of its collator, or "", and the "module:name"s that it needs."""
        return "", []


class Imitation(Method):
    """Base of methods that learn to write one answer to each prompt."""

    accepts = frozenset({"pair", "conversation", "text", "preference", "feedback"})

    def trained_on(self, format_name: str) -> str:
        """Return which of a pair of answers is used."""
        which = {"preference pairs": "chosen", "ranked answers": "best"}.get(format_name)
        if which is None:
            return ""
        return f"only the {which} answers are trained on; the others are for preference training"

    def texts(self, examples: Sequence[Example]) -> Mapping[str, Sequence[Example]]:
        """Return the examples themselves; only their prompts and answers are used."""
        return {"completion": examples}


def method_of(config: Config) -> Method:
    """Return the method of a config; a custom trainer is used with the method `base`."""
    found = registry.trainers.get(config.training.method)
    if isinstance(found, Method):
        return found
    base = registry.trainers.get("base")
    assert isinstance(base, Method)
    return base.with_trainer(found)


SUITS: dict[Kind, str] = {
    "pair": "sft",
    "conversation": "sft",
    "text": "sft",
    "preference": "dpo",
    "feedback": "kto",
}
"""The method that learns from all that rows of a kind hold."""


def built_in_methods() -> dict[str, Method]:
    """Return the methods of this package by their names."""
    found = {name: registry.trainers.get(name) for name in registry.METHOD_NAMES}
    return {name: method for name, method in found.items() if isinstance(method, Method)}


_HOLDS: dict[Kind, str] = {
    "pair": "a prompt and a completion",
    "conversation": "messages",
    "text": "plain text",
    "preference": "a chosen and a rejected answer",
    "feedback": "an answer with a label",
    "prompt": "a prompt alone",
}


def imported(place: str) -> type:
    """Import what is written as "module:name"."""
    module, _, name = place.partition(":")
    found: type = getattr(importlib.import_module(module), name)
    return found
