"""Batches of as many rows as fit in so many tokens. Called by `nbft.training` and `plan`."""

from __future__ import annotations

from collections.abc import Sequence


def token_batches(
    lengths: Sequence[int], max_tokens: int, *, is_padded: bool = False
) -> list[list[int]]:
    """Put rows that follow each other into batches; one that is too long is a batch by itself.

    Args:
        lengths: Tokens of each row.
        max_tokens: Most tokens of a batch.
        is_padded: Whether all rows of a batch are as long as its longest.

    Returns:
        The places of the rows of each batch.

    >>> token_batches([3, 4, 5, 1], 8)
    [[0, 1], [2, 3]]
    >>> token_batches([3, 5, 1, 1], 9, is_padded=True)
    [[0], [1], [2, 3]]
    """
    found: list[list[int]] = []
    batch: list[int] = []
    longest = total = 0
    for place, length in enumerate(lengths):
        longest, total = max(longest, length), total + length
        if batch and (longest * (len(batch) + 1) if is_padded else total) > max_tokens:
            found.append(batch)
            batch, longest, total = [], length, length
        batch.append(place)
    return [*found, batch] if batch else found
