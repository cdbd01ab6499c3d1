"""What a reader of scripts says: notes for the report, and what cannot be imported at all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from nbft import registry
from nbft.interop.report import Kind


class Note(NamedTuple):
    """What became of something that is more than one argument.

    Attributes:
        key: Its name in the report.
        kind: What became of it.
        text: Why.
        line: Its line, counted through all cells; 0 where it has none.
        value: What stands there.
        changes: Settings of ours that follow.
    """

    key: str
    kind: Kind
    text: str
    line: int = 0
    value: Any = None
    changes: Mapping[str, Any] = {}


class RefusalError(Exception):
    """The file trains something that nbft cannot; says what, without the file's name.

    Attributes:
        line: The line of it.
    """

    def __init__(self, why: str, line: int) -> None:
        super().__init__(why)
        self.line = line


def has_sft_trainer(method: str) -> bool:
    """Whether a method trains with TRL's SFTTrainer, which reads rows in a way of its own."""
    return str(getattr(registry.trainers.get(method), "trainer", "")) == "trl:SFTTrainer"


def known_methods() -> list[str]:
    """Return the keys of the methods that nbft trains with."""
    return sorted(registry.trainers.keys())


def unknown_method(key: str, name: str, rows: str = "") -> str:
    """Return the sentence for a method that nbft does not have.

    Args:
        key: The method.
        name: What names it in the file.
        rows: What it trains on, if that is what nbft lacks.
    """
    own = ", ".join(known_methods())
    what = f"{name} trains on {rows}" if rows else f"{name} trains with the method {key!r}"
    return f"{what}, which nbft does not support; nbft trains with the methods {own}."
