"""Lengths of rows: which maximum keeps most of them whole, and what a column of them says.

One answer for the plan, the doctor and a run.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nbft.errors import DataError, Problem
from nbft.formatting import listed

if TYPE_CHECKING:
    from nbft.data.examples import Examples

KEPT_SHARES = (0.95, 0.99)
"""Shares of rows to keep whole, for which a maximum length is given."""


def enough_for(lengths: Sequence[int] | np.ndarray, share: float) -> int:
    """Return the length that a share of the rows does not exceed.

    >>> enough_for([10, 20, 30, 400], 0.75)
    30
    """
    return int(np.quantile(lengths, share, method="inverted_cdf"))


def enough_in_words(lengths: Sequence[int] | np.ndarray, about: str = "") -> str:
    """Describe which maximum lengths keep most rows whole.

    Args:
        lengths: Tokens of the rows, at least one row.
        about: A word before each number, such as "about " for estimates.

    >>> enough_in_words([10, 20, 30, 400])
    '400 keep 95% whole, 400 keep 99% whole; the longest has 400 tokens.'
    """
    words = ", ".join(
        f"{about}{enough_for(lengths, share):,} keep {share:.0%} whole" for share in KEPT_SHARES
    )
    return f"{words}; the longest has {about}{max(lengths):,} tokens."


def column_lengths(examples: Examples, numbers: Iterable[int], name: str) -> list[int]:
    """Return the length that a column of the rows gives: its number, or that of its text or list.

    Args:
        examples: The examples.
        numbers: Which of them.
        name: The column, from data.length_column_name.

    Raises:
        DataError: A row has no such column, or neither a number, a text nor a list in it.
    """
    lengths = []
    for number in numbers:
        row = examples.row(number)
        length = _length(row.get(name))
        if length is None:
            raise DataError(_no_length(row, examples.origin(number)[1], name))
        lengths.append(length)
    return lengths


def _length(value: Any) -> int | None:
    if isinstance(value, (str, list, tuple, Mapping, np.ndarray)):
        return len(value)
    if isinstance(value, (int, float, np.number)) and math.isfinite(value):
        return round(float(value))
    return None


def _no_length(row: Mapping[str, Any], number: int, name: str) -> Problem:
    why = f"is no column with a text or a number; found {listed([*row])}."
    if name in row:
        why = f"holds neither a text nor a number in row {number:,}."
    fix = "Name one, or input_ids for the tokens."
    changes = {"data.length_column_name": "input_ids"}
    return Problem("data.length_column_name", name, why, fix, changes)
