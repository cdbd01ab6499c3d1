"""How long the rows are and how much of each is trained on: as bars, and in words."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from nbft.data.lengths import KEPT_SHARES, enough_for
from nbft.formatting import count

_BINS = 24
_SHARE_BINS = 20
_LONGEST_SHOWN = 0.995
"""Quantile at which the axis of lengths ends; the few longer rows are counted in the last bar."""


@dataclass(frozen=True)
class Histogram:
    """Rows counted by their length, or by the share of them that is trained on.

    Attributes:
        counts: Rows of each bar; the bars are equally wide.
        end: Where the axis ends; it begins at 0.
        unit: What the axis counts: tokens, or "" for a share.
        words: The same in a sentence.
        limit: Where rows are cut, if that is on the axis.
    """

    counts: tuple[int, ...]
    end: float
    unit: str
    words: str
    limit: float | None = None


def histograms(tokens: np.ndarray, shares: np.ndarray, max_length: int) -> tuple[Histogram, ...]:
    """Return the histogram of the lengths and of the trained shares; none without rows."""
    if not len(tokens):
        return ()
    end = max(1, enough_for(tokens, _LONGEST_SHOWN))
    lengths = np.histogram(np.minimum(tokens, end), bins=_BINS, range=(0, end))[0]
    trained = np.histogram(shares, bins=_SHARE_BINS, range=(0, 1))[0]
    limit = max_length if max_length < end else None
    return (
        Histogram(
            tuple(lengths.tolist()), end, "tokens", lengths_in_words(tokens, max_length), limit
        ),
        Histogram(tuple(trained.tolist()), 1, "", trained_in_words(shares)),
    )


def quantiles(values: np.ndarray) -> dict[str, float]:
    """Return the ends, the middle and the upper quantiles of values; empty without any."""
    if not len(values):
        return {}
    shares = {"least": 0, "median": 0.5, "95%": 0.95, "99%": 0.99, "most": 1}
    return {name: round(float(np.quantile(values, q)), 4) for name, q in shares.items()}


def lengths_in_words(tokens: np.ndarray, max_length: int) -> str:
    """Describe how long rows are.

    >>> lengths_in_words(np.array([10, 20, 30]), 25)
    'Lengths of 3 training rows: 10 to 30 tokens, half of them up to 20, 95% up to 30, 99% up to 30; data.max_length=25 cuts 1 row.'
    """
    shares = ", ".join(
        f"{share:.0%} up to {count(enough_for(tokens, share))}" for share in KEPT_SHARES
    )
    cut = int((tokens > max_length).sum())
    return (
        f"Lengths of {count(len(tokens), 'training row')}: {count(tokens.min())} to "
        f"{count(tokens.max(), 'token')}, half of them up to "
        f"{count(enough_for(tokens, 0.5))}, {shares}; data.max_length={max_length:,} cuts "
        f"{count(cut, 'row') if cut else 'none'}."
    )


def trained_in_words(shares: np.ndarray) -> str:
    """Describe how much of each row is trained on.

    >>> trained_in_words(np.array([0.25, 0.5, 0.75]))
    'Trained on in each row: 25% to 75% of its tokens, half of the rows up to 50%.'
    """
    low, median, high = np.quantile(shares, (0, 0.5, 1))
    return (
        f"Trained on in each row: {low:.0%} to {high:.0%} of its tokens, half of the rows up to "
        f"{median:.0%}."
    )
