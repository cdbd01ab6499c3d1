"""What every check shares: the table of checks, and findings about rows."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from nbft.data.doctor.finding import Finding, Rewrite, Row, left_out, percent
from nbft.data.doctor.kinds import Level
from nbft.data.doctor.measure import EXAMPLES, Place, Seen
from nbft.formatting import count

Check = Callable[[Seen], "Finding | None"]
CHECKS: dict[str, Check] = {}
"""Every check, by the name of its finding."""

WEIGHTS: dict[Level, float] = {"error": 10.0, "warning": 3.0, "note": 1.0}
"""How much one row in a hundred harms, where a check does not say."""


def check(function: Check) -> Check:
    """Add a check to the table, named after the function."""
    CHECKS[function.__name__] = function
    return function


def of_rows(
    seen: Seen,
    level: Level,
    rows: np.ndarray,
    what: str,
    why: str,
    fix: str,
    *,
    detail: str = "",
    number: int | None = None,
    total: int | None = None,
    changes: Mapping[str, Any] | None = None,
    rewrite: Rewrite | None = None,
    texts: Mapping[int, str] | None = None,
    weight: float | None = None,
) -> Finding | None:
    """Return a finding about rows of the table, or None without any; `detail` follows the numbers."""
    number = len(rows) if number is None else number
    if not number:
        return None
    total = len(seen) if total is None else total
    return Finding(
        "",
        level,
        f"{what}: {count(number)} of {count(total)} ({percent(number / total)}). {detail}".rstrip(),
        why,
        fix,
        number,
        total,
        "row",
        places_of(seen, rows, texts or {}, CHOICES if rewrite and rewrite.is_choice else EXAMPLES),
        changes or {},
        None if seen.is_stream else rewrite,
        WEIGHTS[level] if weight is None else weight,
    )


CHOICES = 20
"""Rows that a finding shows where a person has to choose among them."""


def places_of(
    seen: Seen, rows: np.ndarray, texts: Mapping[int, str], most: int = EXAMPLES
) -> tuple[Place, ...]:
    """Return the places of the first rows, those first whose texts are given."""
    shown = dict.fromkeys([*texts, *rows[:most].tolist()])
    return tuple(seen.place(row, texts.get(row)) for row in itertools.islice(shown, most))


def leaving_out(seen: Seen, rows: np.ndarray, *, is_choice: bool = False) -> Rewrite:
    """Return the fix that leaves rows out: all of them, or those that a person chooses."""
    return Rewrite(by_file(seen, rows), left_out, is_choice=is_choice)


def mended(
    seen: Seen, rows: np.ndarray, mend: Callable[[Row], Row], *, answers_only: bool = False
) -> Rewrite:
    """Return the fix that mends rows."""
    return Rewrite(by_file(seen, rows), mend, answers_only=answers_only)


def by_file(seen: Seen, rows: np.ndarray) -> dict[str, np.ndarray]:
    """Return the numbers of rows in their files, by dataset."""
    fields = np.array([seen.fields[d] for d in seen.dataset[rows].tolist()], object)
    return {field: np.unique(seen.row[rows][fields == field]) for field in dict.fromkeys(fields)}
