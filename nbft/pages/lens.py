"""Rows of the lens as a still picture: HTML for saved notebooks, plain text for terminals.

A saved notebook has no widgets, and the sites that show one may drop every style: what is trained,
special and cut off is told apart by the elements themselves.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence

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


LEGEND = "⟦trained⟧  [special token]  [cut off: never seen]  everything else is only read"
"""What the marks of `plain` mean."""


def plain(
    title: str, row: LensRow | None, sentences: Iterable[str] = (), *, colour: bool = False
) -> str:
    """Return a row as plain text, for terminals.

    What is trained stands in ⟦ ⟧, special tokens in [ ], and what is cut off in [cut off: ]; control
    characters are written out, so that no row can command a terminal.

    Args:
        title: Which row it is.
        row: Its content.
        sentences: Sentences to add below it.
        colour: Whether to add the colours of a terminal to the marks.
    """
    lines = [headline(title, row)]
    for part in row.parts if row else ():
        name = caption(_visible(part.title), is_trained=part.is_trained)
        lines += [f"── {name}", _plain_part(part, _COLOURS if colour else {})]
    return "\n".join([*lines, *sentences])


_COLOURS = {"trained": "\x1b[32m", "special": "\x1b[35m", "cut": "\x1b[9;31m", "end": "\x1b[0m"}


def _plain_part(part: LensPart, colours: Mapping[str, str]) -> str:
    looks = [(token.kind, token.label >= 0, token.text) for token in part.tokens]
    if not looks:
        return _marked(_visible(part.text), "trained" if part.is_trained else "", colours)
    text = ""
    for (is_cut, is_trained), group in itertools.groupby(
        looks, lambda look: (look[0] == "cut", look[1])
    ):
        run = ""
        for kind, pieces in itertools.groupby(group, lambda look: look[0]):
            piece = _visible("".join(piece for _, _, piece in pieces))
            bare = piece.rstrip() if kind == "special" else piece  # line breaks stay outside
            run += _marked(bare, kind if kind == "special" else "", colours) + piece[len(bare) :]
        text += _marked(run, "cut" if is_cut else "trained" if is_trained else "", colours)
    return text


_AROUND = {"trained": ("⟦", "⟧"), "special": ("[", "]"), "cut": ("[cut off: ", "]")}


def _marked(text: str, look: str, colours: Mapping[str, str]) -> str:
    """Put the marks of a look around a text, and its colour."""
    before, after = _AROUND.get(look, ("", ""))
    start = colours.get(look, "")
    if not text or not look:
        return text
    if start:  # the colour of an inner mark ends there: start again after it
        text = text.replace(colours["end"], colours["end"] + start)
    return f"{start}{before}{text}{after}{colours['end'] if start else ''}"


def _visible(text: str) -> str:
    r"""Write out control characters except tabs and line breaks.

    >>> _visible("a\x1b[2J\nb")
    'a\\x1b[2J\nb'
    """
    return re.sub(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]", lambda match: repr(match[0])[1:-1], text)


def html(rows: Sequence[Seen], sentences: Iterable[str], name: str) -> Markup:
    """Return rows as HTML.

    Args:
        rows: The rows.
        sentences: Sentences about all of them.
        name: Id of the picture, by which the widget hides it.
    """
    seen = [
        (headline(title, row), problems, _sides(row) if row else ())
        for title, row, problems in rows
    ]
    return render(
        "lens",
        name=name,
        rows=seen,
        sentences=[sentence for sentence in sentences if sentence],
        has_tokens=any(row and row.tokens for _, row, _ in rows),
    )


_Drawn = tuple[str, list[tuple[str, tuple[str, ...]]]]


def _sides(row: LensRow) -> tuple[list[_Drawn], list[list[_Drawn]]]:
    """Return the parts that stand above each other, and those of each of several sequences."""
    sides = itertools.groupby(row.parts, lambda part: part.side)
    drawn = {side: [*_parts(parts)] for side, parts in sides}
    return drawn.pop("", []), list(drawn.values())


def _parts(parts: Iterable[LensPart]) -> Iterable[_Drawn]:
    """Yield the caption of each part, and its stretches with the elements around them."""
    for part in parts:
        runs = [(token.text, _elements(token.kind, token.label >= 0)) for token in part.tokens]
        if not runs and part.text:
            runs = [(part.text, ("ins",) if part.is_trained else ())]
        stretches = [
            (_shortened("".join(text for text, _ in group)), elements)
            for elements, group in itertools.groupby(runs, lambda run: run[1])
        ]
        if stretches:
            yield caption(part.title, is_trained=part.is_trained), stretches


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
