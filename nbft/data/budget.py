"""Batches with a limit on tokens instead of rows. Called by `nbft.training` and `plan`."""

from __future__ import annotations

from collections.abc import Sequence


def token_batches(
    lengths: Sequence[int], max_tokens: int, *, is_padded: bool = False
) -> list[list[int]]:
    """Group consecutive rows into batches; a row above the limit is a batch by itself.

    Args:
        lengths: Tokens of each row.
        max_tokens: Most tokens in a batch.
        is_padded: Whether rows are padded to the longest of their batch.

    Returns:
        The indices of the rows in each batch.

    >>> token_batches([3, 4, 5, 1], 8)
    [[0, 1], [2, 3]]
    >>> token_batches([3, 5, 1, 1], 9, is_padded=True)
    [[0], [1], [2, 3]]
    """
    batches: list[list[int]] = []
    batch: list[int] = []
    longest = total = 0
    for index, length in enumerate(lengths):
        longest, total = max(longest, length), total + length
        if batch and (longest * (len(batch) + 1) if is_padded else total) > max_tokens:
            batches.append(batch)
            batch, longest, total = [], length, length
        batch.append(index)
    return [*batches, batch] if batch else batches
