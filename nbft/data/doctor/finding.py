"""`Finding`: one thing that was found in the rows, with what mends it. Plain data."""

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
    """A new data file that mends what was found; the old one stays as it is.

    Attributes:
        suffix: Put into the name of the new file: gsm8k.without-duplicates.jsonl.
        drops: Rows to leave out, by dataset: numbers in its file, from 1.
        mend: Returns a text without what was found; None to keep texts as they are.
        fields: Datasets to write although they lose no row.
        as_messages: Returns the messages that a row's prompt and completion hold; they replace all
            columns.
    """

    suffix: str
    drops: Mapping[str, np.ndarray] = field(default_factory=dict)
    mend: Callable[[str], str] | None = None
    fields: tuple[str, ...] = ()
    as_messages: Callable[[str, str], list[dict[str, str]]] | None = None


@dataclass(frozen=True)
class Finding:
    """One thing that was found.

    Attributes:
        name: What `Report.apply` calls it.
        level: An "error" spoils the training, a "warning" makes it worse, a "note" is to know.
        what: What was found, in a sentence with its numbers.
        why: Why it matters.
        fix: What to do; a sentence.
        count: How many were found.
        total: Of how many.
        unit: What is counted, in the singular.
        places: Some of the rows.
        changes: Settings that mend it, by dotted path.
        rewrite: New data files that mend it.
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
        """The share of all that were looked at."""
        return self.count / self.total if self.total else 0.0

    @property
    def has_fix(self) -> bool:
        """Whether `Report.apply` can mend it."""
        return bool(self.changes) or self.rewrite is not None

    @property
    def rows_text(self) -> str:
        """The row numbers of the examples in words; empty without any."""
        if not self.places:
            return ""
        numbers = ", ".join(count(place.row) for place in self.places)
        more = ", …" if self.count > len(self.places) and self.unit == "row" else ""
        return f"{'Row' if len(self.places) == 1 else 'Rows'} {numbers}{more}"

    def to_dict(self) -> dict[str, Any]:
        """Return the finding as JSON values."""
        return {
            "name": self.name,
            "level": self.level,
            "what": self.what,
            "why": self.why,
            "fix": self.fix,
            "count": self.count,
            "total": self.total,
            "share": round(self.share, 6),
            "unit": self.unit,
            "rows": [dataclasses.asdict(place) for place in self.places],
            "changes": dict(self.changes),
            "writes_file": self.rewrite is not None,
        }


def percent(share: float) -> str:
    """Write a share with two digits that say something.

    >>> [percent(s) for s in (0, 0.00014, 0.0123, 0.5, 0.999, 1)]
    ['0%', '0.014%', '1.2%', '50%', '99.9%', '100%']
    """
    if share in (0, 1):
        return f"{share:.0%}"
    if share > 0.99:
        return f"{min(share, 0.9999) * 100:.4g}%"
    return f"{share:.0%}" if share >= 0.1 else f"{share * 100:.2g}%"
