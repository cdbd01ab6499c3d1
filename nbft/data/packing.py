"""Packing: several rows in one sequence, without padding.

A packed sequence has `seq_lengths`, the lengths of its pieces. The collator restarts the positions
at each piece, so that no row attends to another. Called by `nbft.training`, `plan` and the lens.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import datasets
    import pyarrow

_COLUMNS = ["input_ids", "labels"]


def packed_dataset(rows: datasets.Dataset, max_length: int, strategy: str) -> datasets.Dataset:
    """Return the rows packed into sequences of at most max_length tokens.

    Args:
        rows: input_ids and labels of each row, [s] each.
        max_length: Longest sequence, in tokens; no row is longer.
        strategy: bfd (best-fit decreasing), greedy (best fit in the order of the rows) or wrapped
            (rows are split wherever a sequence is full).

    Returns:
        input_ids and labels of each sequence, [s] each, and seq_lengths of the pieces in it.
    """
    import datasets

    table = rows.select_columns(_COLUMNS).with_format("arrow")[:]
    return datasets.Dataset(_packed(table, max_length, strategy))


def pack(
    rows: Iterable[Mapping[str, Any]], max_length: int, strategy: str
) -> Iterator[dict[str, list[int]]]:
    """Yield rows packed into sequences, as `packed_dataset` does."""
    import pyarrow

    table = pyarrow.Table.from_pylist([{name: row[name] for name in _COLUMNS} for row in rows])
    yield from _packed(table, max_length, strategy).to_pylist()


def bins(lengths: Sequence[int], max_length: int, strategy: str) -> list[list[int]]:
    """Return which rows share a sequence: each goes where it leaves the least space.

    Args:
        lengths: Tokens of each row, at most max_length.
        max_length: Longest sequence, in tokens.
        strategy: bfd takes the longest rows first, greedy takes them in order.

    Source: best-fit decreasing, arXiv:2404.10830, section 3.2.

    >>> bins([3, 4, 2, 5], 6, "bfd"), bins([3, 4, 2, 5], 6, "greedy")
    ([[3], [1, 2], [0]], [[0], [1, 2], [3]])
    """
    order: Iterable[int] = range(len(lengths))
    if strategy == "bfd":
        order = sorted(order, key=lambda n: -lengths[n])
    sequences: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (tokens left, index of the sequence), sorted
    for row in order:
        position = bisect.bisect_left(room, (lengths[row], -1))
        if position == len(room):
            left, sequence = max_length, len(sequences)
            sequences.append([])
        else:
            left, sequence = room.pop(position)
        sequences[sequence].append(row)
        if left > lengths[row]:
            bisect.insort(room, (left - lengths[row], sequence))
    return sequences


def wrapped_count(lengths: Sequence[int], max_length: int) -> int:
    """Return how many sequences the wrapped strategy makes of rows."""
    return -(-sum(lengths) // max_length)


def _packed(table: pyarrow.Table, max_length: int, strategy: str) -> pyarrow.Table:
    """Pack a table without turning its tokens into Python objects."""
    import pyarrow
    from pyarrow import compute

    lengths = compute.list_value_length(table[_COLUMNS[0]]).to_numpy()
    order, total = np.arange(len(lengths)), int(lengths.sum())
    if strategy == "wrapped":
        ends = np.minimum(np.arange(max_length, total + max_length, max_length), total)
    else:
        together = bins(lengths.tolist(), max_length, strategy)
        order = np.fromiter(itertools.chain.from_iterable(together), np.int64, len(lengths))
        ends = np.cumsum([lengths[rows].sum() for rows in together])
    pieces = np.union1d(np.cumsum(lengths[order]), ends)  # where a row or a sequence ends

    def split(values: pyarrow.Array, ends: np.ndarray) -> pyarrow.Array:
        return pyarrow.LargeListArray.from_arrays(np.append(0, ends).astype(np.int64), values)

    columns = {}
    for name in _COLUMNS:
        kind = pyarrow.large_list(table.schema.field(name).type.value_type)
        rows = table[name].cast(kind).combine_chunks().take(pyarrow.array(order))
        columns[name] = split(rows.flatten(), ends)
    seq_lengths = pyarrow.array(np.diff(pieces, prepend=0))
    columns["seq_lengths"] = split(seq_lengths, np.searchsorted(pieces, ends, side="right"))
    return pyarrow.table(columns)
