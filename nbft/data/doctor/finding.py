"""`Finding`: a problem in the rows, with its fix. Plain data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from nbft.data.doctor.measure import Place
from nbft.formatting import count

Level = Literal["error", "warning", "note"]
LEVELS: tuple[Level, ...] = ("error", "warning", "note")


@dataclass(frozen=True)
class Rewrite:
    """A new data file in which a finding is fixed; the old one stays as it is.

    Attributes:
        suffix: Put into the name of the new file: gsm8k.without-duplicates.jsonl.
        drops: Rows to leave out, by dataset: numbers in its file, from 1.
        clean: Returns the fixed text; None to keep texts as they are.
        fields: Datasets to write although they lose no row.
        as_messages: Returns the messages of a row's prompt and completion; they replace all
            columns.
    """

    suffix: str
    drops: Mapping[str, np.ndarray] = field(default_factory=dict)
    clean: Callable[[str], str] | None = None
    fields: tuple[str, ...] = ()
    as_messages: Callable[[str, str], list[dict[str, str]]] | None = None


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

    @property
    def share(self) -> float:
        """The share of all that were checked."""
        return self.count / self.total if self.total else 0.0

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
