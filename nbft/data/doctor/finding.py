"""`Finding`: a problem in the rows, with its fix. Plain data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nbft.data.doctor.kinds import Level
from nbft.data.doctor.measure import Place
from nbft.data.turns import ROLES
from nbft.formatting import count

LEVELS: tuple[Level, ...] = ("error", "warning", "note")


Row = Mapping[str, Any]


@dataclass(frozen=True)
class Rewrite:
    """Rows as they should be, in a new data file; the old one stays as it is.

    Attributes:
        rows: Numbers of the rows that change, in their files from 1, by dataset.
        mend: Returns a row as it should be, or None to leave it out; called for these rows only.
        makes_turns: Whether the rows become conversations, so that templates no longer apply.
        is_choice: Whether a person has to choose the rows: what is wrong with them is a judgement.
        answers_only: Whether only answers are mended, and nothing else that is said.
    """

    rows: Mapping[str, np.ndarray]
    mend: Callable[[Row], Row | None]
    makes_turns: bool = False
    is_choice: bool = False
    answers_only: bool = False

    @property
    def count(self) -> int:
        """How many rows change, at most."""
        return sum(map(len, self.rows.values()))


def left_out(row: Row) -> None:
    """Leave a row out."""


def with_answers(mend: Callable[[str], str]) -> Callable[[Row], Row]:
    """Return a function that mends the texts of a row, of a conversation those of the assistant."""
    every = with_texts(mend)

    def of_turn(turn: Any) -> Any:
        said_by = turn.get("role") or turn.get("from") if isinstance(turn, Mapping) else "assistant"
        is_answer = ROLES.get(str(said_by).strip().lower()) == "assistant"
        return every(turn) if is_answer else turn

    def mended(row: Row) -> Row:
        return {
            name: [*map(of_turn, value)] if isinstance(value, list) else every(value)
            for name, value in row.items()
        }

    return mended


def with_texts(mend: Callable[[str], str]) -> Callable[[Row], Row]:
    """Return a function that mends every text of a row."""

    def mended(value: Any) -> Any:
        if isinstance(value, str):
            return mend(value)
        if isinstance(value, Mapping):
            return {name: mended(item) for name, item in value.items()}
        return [mended(item) for item in value] if isinstance(value, list) else value

    return mended


@dataclass(frozen=True)
class Finding:
    """A problem in the rows.

    Attributes:
        name: As `Report.apply` takes it.
        level: An "error" spoils the training, a "warning" makes it worse, a "note" is to know.
        what: The problem, in a sentence with its numbers.
        why: Why it matters.
        fix: What to do; a sentence.
        count: How many there are.
        total: Of how many.
        unit: What is counted, in the singular.
        places: Some of the rows.
        changes: Settings that fix it, by dotted path.
        rewrite: New data files that fix it.
        weight: How much one row in a hundred harms; the order of the findings follows from it.
    """

    name: str
    level: Level
    what: str
    why: str
    fix: str
    count: int
    total: int
    unit: str = "row"
    places: tuple[Place, ...] = ()
    changes: Mapping[str, Any] = field(default_factory=dict)
    rewrite: Rewrite | None = None
    weight: float = 1.0

    @property
    def share(self) -> float:
        """The share of all that were checked."""
        return self.count / self.total if self.total else 0.0

    @property
    def harm(self) -> float:
        """The harm to be expected: the share times its weight."""
        return self.share * self.weight

    @property
    def has_fix(self) -> bool:
        """Whether `Report.apply` can fix it."""
        return bool(self.changes) or self.rewrite is not None

    @property
    def rows_text(self) -> str:
        """The row numbers of the places in words; empty without any."""
        if not self.places:
            return ""
        numbers = ", ".join(count(place.row) for place in self.places)
        ellipsis = ", …" if self.count > len(self.places) and self.unit == "row" else ""
        return f"{'Row' if len(self.places) == 1 else 'Rows'} {numbers}{ellipsis}"

    def to_dict(self) -> dict[str, Any]:
        """Return the finding as JSON values."""
        fields = ("name", "level", "what", "why", "fix", "count", "total", "unit")
        return {name: getattr(self, name) for name in fields} | {
            "share": round(self.share, 6),
            "rows": [dataclasses.asdict(place) for place in self.places],
            "changes": dict(self.changes),
            "writes_file": self.rewrite is not None,
            "is_choice": self.rewrite is not None and self.rewrite.is_choice,
        }


def percent(share: float) -> str:
    """Write a share with two significant digits.

    >>> [percent(s) for s in (0, 0.00014, 0.0123, 0.5, 0.999, 1)]
    ['0%', '0.014%', '1.2%', '50%', '99.9%', '100%']
    """
    if share in (0, 1):
        return f"{share:.0%}"
    if share > 0.99:
        return f"{min(share, 0.9999) * 100:.4g}%"
    return f"{share:.0%}" if share >= 0.1 else f"{share * 100:.2g}%"
