"""`Method`: what a training method says about itself. Loads no torch.

Functions that say so import torch, transformers or TRL when they are called, in a worker.
"""

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
    from nbft.decisions import Decisions
    from nbft.errors import Problem
    from nbft.plan.memory import Shape

IGNORE_INDEX = -100
"""Label of a token that adds nothing to the loss. Source: torch.nn.CrossEntropyLoss."""

Kind = Literal["pair", "conversation", "text", "preference", "feedback"]
"""What a row holds: a prompt with its completion, a conversation, plain text, a better and a worse
answer, or an answer with a verdict."""

PARTS_OF_ANY_TRAINER = frozenset({"padding_free", "row_attention", "fused_lora", "lean_norm"})
"""Parts of the fast path that a trainer need not know of."""


@dataclass(frozen=True)
class Measure:
    """A number that a trainer logs while it trains.

    Attributes:
        name: As in the log.
        label: What people call it.
        chart: Title of the chart that draws it.
        better: Which direction is better, or "" where neither is.
    """

    name: str
    label: str
    chart: str
    better: Literal["lower", "higher", ""] = ""


class Method:
    """How one method trains; a subclass in a file of its own overrides what differs.

    Attributes:
        title: What it does, in words.
        accepts: Kinds of rows that it trains on.
        uses_labels: Whether it learns from bad answers too; else rows labelled so are left out.
        sequences: Names of the token sequences that it makes of an example.
        section: Section of the config that only this kind of method reads, or None.
        trainer: "module:class" of its trainer.
        arguments: "module:class" of the trainer's arguments.
        takes_peft_config: Whether the trainer puts the adapter on the model by itself.
        fast_parts: Parts of the fast path that its trainer works with.
        measures: What it logs beside the learning rate and the gradient norm.
    """

    title: ClassVar[str]
    accepts: ClassVar[frozenset[Kind]]
    uses_labels: ClassVar[bool] = False
    sequences: ClassVar[tuple[str, ...]] = ("completion",)
    section: ClassVar[str | None] = None
    trainer: str
    arguments: ClassVar[str]
    takes_peft_config: ClassVar[bool] = False
    fast_parts: ClassVar[frozenset[str]] = PARTS_OF_ANY_TRAINER
    measures: ClassVar[tuple[Measure, ...]] = (
        Measure("loss", "train", "loss", "lower"),
        Measure("eval_loss", "held-out", "loss", "lower"),
    )

    @property
    def trainer_name(self) -> str:
        """The name of the trainer's class."""
        return self.trainer.partition(":")[2]

    @property
    def arguments_name(self) -> str:
        """The name of the class of its arguments."""
        return self.arguments.partition(":")[2]

    # Rows

    def refusal(self, kind: Kind) -> tuple[str, str]:
        """Say why rows of a kind that it does not accept cannot be used, and what to do."""
        wanted = " or ".join(_HOLDS[kind] for kind in sorted(self.accepts))
        return (
            f"the rows hold {_HOLDS[kind]}, and {self.title} needs {wanted}.",
            "Give such rows, or choose another training.method.",
        )

    def trained_on(self, kind: Kind) -> str:
        """Say what of rows of a kind is trained on, where the shape of the rows does not tell."""
        return ""

    def texts(self, examples: Sequence[Example]) -> Mapping[str, Sequence[Example]]:
        """Return the texts of each named sequence: one for each example, in their order."""
        raise NotImplementedError

    def column(self, sequence: str, part: str) -> str:
        """Return the name of a column of tokens: `input_ids` where there is one sequence only.

        >>> Method().column("completion", "labels")
        'labels'
        """
        return part if len(self.sequences) == 1 else f"{sequence}_{part}"

    @property
    def columns(self) -> list[str]:
        """The columns of token ids and labels that its trainer gets."""
        return [self.column(s, part) for s in self.sequences for part in ("input_ids", "labels")]

    # The plan

    def problems(self, config: Config) -> Iterable[Problem]:
        """Yield what is wrong with a config for this method alone."""
        return ()

    def memory_bytes(self, config: Config, shape: Shape, tokens: float) -> float:
        """Return what it holds beside weights, optimiser and the activations of its sequences.

        Args:
            config: The config.
            shape: The model's shape.
            tokens: Tokens of a micro-batch, all sequences together.
        """
        return 0.0

    # Training

    def trainer_arguments(self, config: Config, decisions: Decisions) -> dict[str, Any]:
        """Return the trainer's arguments beside those that every trainer takes."""
        raise NotImplementedError

    def trainer_class(self) -> type:
        """Import the trainer."""
        return _imported(self.trainer)

    def with_trainer(self, trainer: type) -> Method:
        """Return this method with a trainer of somebody's own."""
        own = copy.copy(self)
        own.trainer = f"{trainer.__module__}:{trainer.__qualname__}"
        own.trainer_class = lambda: trainer  # type: ignore[method-assign]
        return own

    def arguments_class(self) -> type:
        """Import the class of the trainer's arguments."""
        return _imported(self.arguments)

    def collator(
        self, config: Config, decisions: Decisions, tokenizer: Any, model: Any
    ) -> Any | None:
        """Return what makes a batch of rows; None where the trainer does. Imports torch."""
        return None

    # Plain Python

    def collator_code(self, config: Config, decisions: Decisions) -> tuple[str, list[str]]:
        """Return the expression of its collator, "" for none, and the "module:name" that it needs."""
        return "", []


class Imitation(Method):
    """What the methods share that learn to write one answer to each prompt."""

    accepts = frozenset({"pair", "conversation", "text", "preference", "feedback"})

    def trained_on(self, kind: Kind) -> str:
        """Say what of a pair of answers is used."""
        if kind == "preference":
            return (
                "only the chosen answers are trained on; the rejected ones are for preference "
                "training"
            )
        return ""

    def texts(self, examples: Sequence[Example]) -> Mapping[str, Sequence[Example]]:
        """Return the examples themselves: what they hold beside prompt and answer is not used."""
        return {"completion": examples}


def method_of(config: Config) -> Method:
    """Return the method of a config; a trainer of somebody's own is built as for `base`."""
    found = registry.trainers.get(config.training.method)
    if isinstance(found, Method):
        return found
    base = registry.trainers.get("base")
    assert isinstance(base, Method)
    return base.with_trainer(found)


_HOLDS: dict[Kind, str] = {
    "pair": "a prompt and a completion",
    "conversation": "messages",
    "text": "plain text",
    "preference": "a chosen and a rejected answer",
    "feedback": "an answer with a label",
}


def _imported(place: str) -> type:
    module, _, name = place.partition(":")
    found: type = getattr(importlib.import_module(module), name)
    return found
