"""How much of a batch is padding, and how much grouping by length or packing would save.

Only numbers; nothing is padded here. Called by the doctor and the benchmarks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nbft.data.packing import bins

_MEGABATCH = 50
"""Batches whose rows are sorted together. Source: transformers get_length_grouped_indices."""


@dataclass(frozen=True)
class Padding:
    """Share of the computed tokens that are padding, by how batches are formed.

    Attributes:
        batch_size: Rows in a batch.
        random: Share with rows in random order.
        grouped: Share with rows of similar length in a batch.
        packed: Share in sequences packed by best fit.
        batches: Batches per epoch.
        sequences: Sequences after packing.
    """

    batch_size: int
    random: float
    grouped: float
    packed: float
    batches: int
    sequences: int


def padding_shares(
    lengths: Sequence[int] | np.ndarray,
    batch_size: int,
    max_length: int,
    *,
    multiple_of: int | None = None,
) -> Padding:
    """Return the share of padding for rows in random batches, grouped by length, and packed.

    Args:
        lengths: Tokens of each row, at least one row.
        batch_size: Rows in a batch on one device.
        max_length: Tokens in a packed sequence; longer rows count as truncated.
        multiple_of: Batches are padded to a multiple of this many tokens.

    >>> padding_shares([100, 20, 80, 100, 20, 80], batch_size=2, max_length=100).packed
    0.0
    """
    tokens = np.minimum(np.asarray(lengths, dtype=np.int64), max_length)
    order = np.random.default_rng(42).permutation(len(tokens))
    sequences = len(bins(tokens[tokens > 0].tolist(), max_length, "bfd"))
    return Padding(
        batch_size=batch_size,
        random=_padding(tokens[order], batch_size, multiple_of),
        grouped=_padding(_grouped(tokens[order], batch_size), batch_size, multiple_of),
        packed=1 - float(tokens.sum()) / (sequences * max_length) if sequences else 0.0,
        batches=-(-len(tokens) // batch_size),
        sequences=sequences,
    )


def _padding(tokens: np.ndarray, batch_size: int, multiple_of: int | None) -> float:
    """Return the share of padding in batches of consecutive rows."""
    if not tokens.sum():
        return 0.0
    begins = np.arange(0, len(tokens), batch_size)
    longest = np.maximum.reduceat(tokens, begins)
    if multiple_of:
        longest = -(-longest // multiple_of) * multiple_of
    rows = np.diff([*begins, len(tokens)])
    return 1 - float(tokens.sum()) / float((longest * rows).sum())


def _grouped(tokens: np.ndarray, batch_size: int) -> np.ndarray:
    """Return shuffled rows sorted by length within runs of batches, as transformers does."""
    together = max(1, min(len(tokens) // (batch_size * 4), _MEGABATCH)) * batch_size
    runs = [np.sort(tokens[n : n + together])[::-1] for n in range(0, len(tokens), together)]
    return np.concatenate(runs) if runs else tokens
