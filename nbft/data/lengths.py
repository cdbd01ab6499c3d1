"""The maximum length that keeps most rows whole: one answer for the plan, the doctor and a run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

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
