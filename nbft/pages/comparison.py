"""Answers side by side: the words that differ marked as HTML, and a table for the terminal.

Colour is never the only mark: a word that differs is also underlined.
"""

from __future__ import annotations

import difflib
import re
import shutil
import textwrap
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

from markupsafe import Markup

from nbft.evaluate.compare import Answered, Answers
from nbft.pages.environment import render


class Answering(Protocol):
    """Prompts with the answers of some models."""

    @property
    def models(self) -> tuple[str, ...]:
        """What the answers of each model are called."""

    @property
    def answered(self) -> list[Answered]:
        """The prompts with the answers of all models."""


class Piece(NamedTuple):
    """Consecutive words, all of which the other text has, or none."""

    space: str
    words: str
    differs: bool


def html(answers: Answering) -> Markup:
    """Return the answers as a table, those of each model and the wanted ones beside each other."""
    has_wanted = any(row.wanted.strip() for row in answers.answered)
    has_both = len(answers.models) == 2 and any(all(_texts(row)) for row in answers.answered)
    differs = "differs from wanted" if has_wanted else "differs" if has_both else ""
    *others, last = answers.models
    heads = [*(["wanted"] if has_wanted else []), *others]
    heads.append(f"{last} (underlined: {differs})" if differs else last)
    rows = [(row.prompt.strip(), list(_cells(row, has_wanted))) for row in answers.answered]
    remark = answers.remark if isinstance(answers, Answers) else ""
    return render("comparison", heads=heads, rows=rows, remark=remark)


def _texts(row: Answered) -> list[str]:
    return [text.strip() for text in row.texts]


def _cells(row: Answered, has_wanted: bool) -> Iterator[tuple[Sequence[Piece], bool]]:
    """Yield what stands in each column, in pieces, and whether it is the wanted answer."""
    texts, wanted = _texts(row), row.wanted.strip()
    if has_wanted:
        yield [Piece("", wanted, False)], False
    if len(texts) == 2 and all(texts) and not wanted:
        yield from ((pieces, False) for pieces in differing(*texts))
        return
    for text in texts:
        is_right = row.is_right(text)
        marked = wanted and text and not is_right
        yield differing(wanted, text)[1] if marked else [Piece("", text, False)], is_right


def text(answers: Answering) -> str:
    """Return the answers as a table for the terminal."""
    margin = max(map(len, ("prompt", "wanted", *answers.models))) + 2
    width = max(20, min(shutil.get_terminal_size().columns, 100) - margin)
    blocks = []
    for row in answers.answered:
        wanted = [("wanted", row.wanted)] if row.wanted.strip() else []
        texts = [f"{text.strip()} (right)" if row.is_right(text) else text for text in row.texts]
        lines = []
        for label, answer in [
            ("prompt", row.prompt),
            *wanted,
            *zip(answers.models, texts, strict=True),
        ]:
            for line in answer.strip().splitlines() or [""]:
                for piece in textwrap.wrap(line, width) or [""]:
                    lines.append(f"{label:{margin}}{piece}".rstrip())
                    label = ""
        blocks.append("\n".join(lines))
    if isinstance(answers, Answers) and answers.remark:
        blocks.append(answers.remark)
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
