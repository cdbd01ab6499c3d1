"""Rows of the lens as a still picture: HTML for saved notebooks, plain text for terminals.

A saved notebook has no widgets, and the sites that show one may drop every style: what is trained,
special and cut off is told apart by the elements themselves.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

from markupsafe import Markup

from nbft.data.lens import LensPart, LensRow
from nbft.formatting import count
from nbft.pages.environment import render

_MOST_CHARACTERS = 1_500  # of a part
_TONES = {"good": " ✓", "bad": " ✗", "": ""}
Seen = tuple[str, LensRow | None, Sequence[str]]
"""The title of a row, its content, and the problems with it."""


def caption(name: str, *, is_trained: bool) -> str:
    """Return the caption of a part of a row.

    >>> caption("prompt", is_trained=False)
    'prompt (not trained)'
    """
    return f"{name} ({'trained' if is_trained else 'not trained'})"


def headline(title: str, row: LensRow | None) -> str:
    """Return the line above a row: which one, and the facts about it."""
    facts = [words + _TONES[tone] for words, tone in row.facts] if row else []
    return " · ".join([title, *facts])


def plain(title: str, row: LensRow | None, sentences: Iterable[str] = ()) -> str:
    """Return a row as plain text; special tokens stand in brackets."""
    lines = [headline(title, row)]
    for part in row.parts if row else ():
        lines += [f"── {caption(part.name, is_trained=part.is_trained)}", _plain_part(part)]
    return "\n".join([*lines, *sentences])


def _plain_part(part: LensPart) -> str:
    if not part.tokens:
        return part.text
    text = ""
    was_cut = False
    for token in part.tokens:
        if token.kind == "cut" and not was_cut:
            text, was_cut = text + "[cut off from here: ]", True
        text += f"[{token.text}]" if token.kind == "special" and token.text.strip() else token.text
    return text


def html(rows: Sequence[Seen], sentences: Iterable[str], name: str) -> Markup:
    """Return rows as HTML.

    Args:
        rows: The rows.
        sentences: Sentences about all of them.
        name: Id of the picture, by which the widget hides it.
    """
    seen = [
        (headline(title, row), problems, _parts(row) if row else ())
        for title, row, problems in rows
    ]
    return render(
        "lens",
        name=name,
        rows=seen,
        sentences=[sentence for sentence in sentences if sentence],
        has_tokens=any(row and row.tokens for _, row, _ in rows),
    )


def _parts(row: LensRow) -> Iterable[tuple[str, list[tuple[str, tuple[str, ...]]]]]:
    """Yield the caption of each part, and its stretches with the elements around them."""
    for part in row.parts:
        runs = [(token.text, _elements(token.kind, token.label >= 0)) for token in part.tokens]
        if not runs and part.text:
            runs = [(part.text, ("ins",) if part.is_trained else ())]
        stretches = [
            (_shortened("".join(text for text, _ in group)), elements)
            for elements, group in itertools.groupby(runs, lambda run: run[1])
        ]
        if stretches:
            yield caption(part.name, is_trained=part.is_trained), stretches


def _elements(kind: str, is_trained: bool) -> tuple[str, ...]:
    """Return the elements around a token, from the outside in."""
    if kind == "cut":
        return ("del",)
    return (*(("ins",) if is_trained else ()), *(("kbd",) if kind == "special" else ()))


def _shortened(text: str) -> str:
    if len(text) <= _MOST_CHARACTERS:
        return text
    head, tail = text[: _MOST_CHARACTERS * 3 // 4], text[-_MOST_CHARACTERS // 4 :]
    return f"{head} … {count(len(text) - len(head) - len(tail), 'character')} more … {tail}"
