"""Answers side by side: the words that differ marked as HTML, and a table for the terminal.

Colour is never the only mark: a word that differs is also underlined.
"""

from __future__ import annotations

import difflib
import re
import shutil
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

from markupsafe import Markup

from nbft.evaluate.compare import Answer, Comparison
from nbft.pages.environment import render


class Piece(NamedTuple):
    """Consecutive words, all of which the other text has, or none."""

    space: str
    words: str
    differs: bool


def html(comparison: Comparison) -> Markup:
    """Return the answers as a table, base and tuned beside each other."""
    rows = [(row.prompt.strip(), *_sides(row)) for row in comparison.rows]
    has_both = any(row.base.strip() and row.tuned.strip() for row in comparison.rows)
    return render("comparison", rows=rows, tuned=comparison.tuned, has_both=has_both)


def _sides(row: Answer) -> tuple[Sequence[Piece], Sequence[Piece]]:
    base, tuned = row.base.strip(), row.tuned.strip()
    if base and tuned:
        return differing(base, tuned)
    return [Piece("", base, False)], [Piece("", tuned, False)]


def text(comparison: Comparison) -> str:
    """Return the answers as a table for the terminal."""
    labels = ("prompt", "base model", comparison.tuned)
    margin = max(map(len, labels)) + 2
    width = max(20, min(shutil.get_terminal_size().columns, 100) - margin)
    blocks = []
    for row in comparison.rows:
        lines = []
        for label, answer in zip(labels, row, strict=True):
            for line in answer.strip().splitlines() or [""]:
                for piece in textwrap.wrap(line, width) or [""]:
                    lines.append(f"{label:{margin}}{piece}".rstrip())
                    label = ""
        blocks.append("\n".join(lines))
    return "\n\n".join(blocks)


def difference(before: str, after: str) -> tuple[Markup, Markup]:
    """Return both texts as HTML, with the differing words marked.

    >>> difference("a big dog", "a dog")[0].count("<mark")
    1
    >>> print(*difference("same words", "same words"), sep=", ")
    same words, same words
    """
    old, new = differing(before, after)
    return render("difference", pieces=old), render("difference", pieces=new)


def differing(before: str, after: str) -> tuple[list[Piece], list[Piece]]:
    """Return both texts in pieces, which either differ or do not."""
    old, new = re.findall(r"\s*\S+", before), re.findall(r"\s*\S+", after)
    matcher = difflib.SequenceMatcher(
        None, [word.strip() for word in old], [word.strip() for word in new], autojunk=False
    )
    pieces_old: list[Piece] = []
    pieces_new: list[Piece] = []
    for what, i, j, k, m in matcher.get_opcodes():
        for pieces, text in ((pieces_old, "".join(old[i:j])), (pieces_new, "".join(new[k:m]))):
            words = text.lstrip()
            space = text[: len(text) - len(words)]
            pieces.append(Piece(space, words, what != "equal" and bool(words)))
    return pieces_old, pieces_new
