"""Several rows in one sequence, without padding. Called by `nbft.training` and, for numbers, `plan`.

A packed row keeps `seq_lengths`, the lengths of the pieces in it: the collator counts positions
anew for each piece, so no row attends to another.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import datasets

Row = Mapping[str, Any]


def packed_dataset(rows: datasets.Dataset, max_length: int, strategy: str) -> datasets.Dataset:
    """Return the rows packed into sequences of at most max_length tokens.

    Args:
        rows: input_ids and labels of each row, [s] each.
        max_length: Longest sequence, in tokens; no row is longer.
        strategy: bfd, greedy or wrapped; see `pack`.

    Returns:
        input_ids and labels of each sequence, [s] each, and seq_lengths of the rows in it.
    """
    import datasets

    found: dict[str, list[Any]] = {"input_ids": [], "labels": [], "seq_lengths": []}
    for sequence in pack(rows.select_columns(["input_ids", "labels"]), max_length, strategy):
        for name, values in sequence.items():
            found[name].append(values)
    return datasets.Dataset.from_dict(found)


def pack(rows: Iterable[Row], max_length: int, strategy: str) -> Iterator[dict[str, list[int]]]:
    """Yield sequences made of rows, as `packed_dataset` describes."""
    kept = list(rows)
    if strategy == "wrapped":
        yield from _wrapped(kept, max_length)
        return
    for numbers in bins([len(row["input_ids"]) for row in kept], max_length, strategy):
        yield {
            "input_ids": [i for n in numbers for i in kept[n]["input_ids"]],
            "labels": [i for n in numbers for i in kept[n]["labels"]],
            "seq_lengths": [len(kept[n]["input_ids"]) for n in numbers],
        }


def bins(lengths: Sequence[int], max_length: int, strategy: str) -> list[list[int]]:
    """Return which rows share a sequence: each goes where it leaves the least room.

    Args:
        lengths: Tokens of each row, at most max_length.
        max_length: Longest sequence, in tokens.
        strategy: bfd takes the longest rows first, greedy takes them as they come.

    Source: best-fit decreasing, arXiv:2404.10830, section 3.2.

    >>> bins([3, 4, 2, 5], 6, "bfd"), bins([3, 4, 2, 5], 6, "greedy")
    ([[3], [1, 2], [0]], [[0], [1, 2], [3]])
    """
    order: Iterable[int] = range(len(lengths))
    if strategy == "bfd":
        order = sorted(order, key=lambda n: -lengths[n])
    found: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (tokens left, number of the sequence), sorted
    for number in order:
        place = bisect.bisect_left(room, (lengths[number], -1))
        if place == len(room):
            left, sequence = max_length, len(found)
            found.append([])
        else:
            left, sequence = room.pop(place)
        found[sequence].append(number)
        if left > lengths[number]:
            bisect.insort(room, (left - lengths[number], sequence))
    return found


def wrapped_count(lengths: Sequence[int], max_length: int) -> int:
    """Return how many sequences rows make that are laid end to end."""
    return -(-sum(lengths) // max_length)


def _wrapped(rows: list[Row], max_length: int) -> Iterator[dict[str, list[int]]]:
    sequence: dict[str, list[int]] = {"input_ids": [], "labels": [], "seq_lengths": []}
    for row in rows:
        start, whole = 0, len(row["input_ids"])
        while start < whole:
            end = min(whole, start + max_length - len(sequence["input_ids"]))
            sequence["input_ids"] += row["input_ids"][start:end]
            sequence["labels"] += row["labels"][start:end]
            sequence["seq_lengths"].append(end - start)
            start = end
            if len(sequence["input_ids"]) == max_length:
                yield sequence
                sequence = {"input_ids": [], "labels": [], "seq_lengths": []}
    if sequence["input_ids"]:
        yield sequence
