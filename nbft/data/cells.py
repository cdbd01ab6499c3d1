"""What one cell of a table holds. Called by whatever makes prompts of rows. Loads nothing."""

from __future__ import annotations

import math
from typing import Any

MOST_LEVELS = 64
"""Lists and objects within each other that a row may have; more would end in Python's own limit."""


TOO_DEEP = f"is nested too deeply (more than {MOST_LEVELS} levels)."


def is_missing(value: Any) -> bool:
    """Whether a cell is empty: null, or the not-a-number that tables have in its place.

    >>> [is_missing(value) for value in (None, float("nan"), "", 0, False)]
    [True, True, False, False, False]
    """
    if value is None:
        return True
    if isinstance(value, float):
        return math.isnan(value)
    return type(value).__name__ in ("NAType", "NaTType")  # of pandas, which is not imported for it


def to_text(value: Any) -> str:
    """Return a cell as text; "" where it is missing.

    >>> to_text(0), to_text(float("nan"))
    ('0', '')
    """
    return "" if is_missing(value) else str(value)


def is_too_deep(value: Any) -> bool:
    """Whether lists and objects are within each other more than `MOST_LEVELS` times."""
    level = [value]
    for _ in range(MOST_LEVELS):
        level = [
            inner
            for outer in level
            for inner in (outer.values() if isinstance(outer, dict) else outer)
            if isinstance(inner, (list, dict))
        ]
        if not level:
            return False
    return True
