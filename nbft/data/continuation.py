"""Tokens of a text that goes on after another, so that no token crosses the boundary.

A byte-level tokenizer has the same tokens for a text wherever it stands. One of the SentencePiece
kind puts a "▁" before each text, which in the middle of a text would be a space that nobody wrote.
Called by `tokens`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

Ids = Callable[[list[str]], list[list[int]]]

_ANCHORS = ("\n", ".", "0", ")")
"""Texts to tokenise another after; one is needed that does not merge with its beginning."""

_PROBES = ("our", " our", "7", "Äpfel")


def shared_length(first: Sequence[Any], second: Sequence[Any]) -> int:
    """Return how many elements two sequences begin with in common.

    >>> shared_length("tokens", "tower")
    2
    """
    pairs = zip(first, second, strict=False)
    return next((n for n, (a, b) in enumerate(pairs) if a != b), min(len(first), len(second)))


class Continuation:
    """The tokens of texts that go on after others.

    Args:
        ids: Returns the token ids of texts, without special tokens.
    """

    def __init__(self, ids: Ids) -> None:
        self._ids = ids
        self._anchors = list(zip(_ANCHORS, ids(list(_ANCHORS)), strict=True))
        anchor, before = self._anchors[0]
        after = ids([anchor + probe for probe in _PROBES])
        alone = ids(list(_PROBES))
        self.is_plain = all(a == [*before, *b] for a, b in zip(after, alone, strict=True))

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the ids of texts as they are after other text.

        Args:
            texts: The texts; where one merges with every anchor, its ids are those of it alone.
        """
        if self.is_plain or not texts:
            return self._ids(list(texts))
        found: dict[int, list[int]] = {}
        for anchor, before in self._anchors:
            left = [n for n in range(len(texts)) if n not in found]
            if not left:
                break
            for n, ids in zip(left, self._ids([anchor + texts[n] for n in left]), strict=True):
                if ids[: len(before)] == before:
                    found[n] = ids[len(before) :]
        left = [n for n in range(len(texts)) if n not in found]
        found.update(zip(left, self._ids([texts[n] for n in left]), strict=True))
        return [found[n] for n in range(len(texts))]
