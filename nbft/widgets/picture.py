"""Rows of the lens as a still picture: HTML for saved notebooks, plain text for terminals.

A saved notebook has no widgets any more, and the sites that show one may drop every style: what
is trained, special and cut off is told apart by the elements themselves. Called by the lens.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from nbft.data.lens import LensPart, LensRow
from nbft.formatting import count

_MOST_CHARACTERS = 1_500  # of a part
_TONES = {"good": " ✓", "bad": " ✗", "": ""}
_STYLES = {
    "ins": "background: rgba(31, 131, 201, 0.16); text-decoration: underline 2px #1f83c9; "
    "text-underline-offset: 3px",
    "kbd": "border: 1px solid #c06a9a; border-radius: 3px; padding: 0 2px; "
    "background: rgba(192, 106, 154, 0.14); color: inherit; font: inherit; box-shadow: none",
    "del": "background: rgba(128, 128, 128, 0.2); text-decoration: line-through",
}
_BOX = (
    "margin: 0 0 6px; padding: 4px 10px; border-left: 3px solid rgba(128, 128, 128, 0.5); "
    "white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.7; text-align: left"
)
# JupyterLab says in the place of a widget whose kernel is gone that it cannot show it.
_NO_ERROR = (
    ".jp-OutputArea-child:has(+ .jp-OutputArea-child .nbft-lens-still):not(:has(.nbft-lens)) "
    "{ display: none }"
)

Seen = tuple[str, LensRow | None, Sequence[str]]
"""The title of a row, what is seen of it, and what is wrong with it."""


def caption(name: str, *, is_trained: bool) -> str:
    """Return the words above a part of a row.

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


def html(rows: Sequence[Seen], sentences: Iterable[str], name: str) -> str:
    """Return rows as HTML.

    Args:
        rows: What is seen of each.
        sentences: What is said of all of them.
        name: Id of the picture, by which the widget hides it as long as it is there.
    """
    shown = "".join(_html_row(*row) for row in rows)
    said = "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences if sentence)
    legend = "Plain: the model reads it."
    if any(row and row.tokens for _, row, _ in rows):
        legend += (
            f" {_marked('Underlined', 'ins')}: it learns to write it. {_marked('Framed', 'kbd')}: "
            f"a special token. {_marked('Struck', 'del')}: cut off."
        )
    else:
        legend += f" {_marked('Underlined', 'ins')}: it learns to write it."
    return (
        f'<div class="nbft-lens-still" id="nbft-{escape(name)}"><style>{_NO_ERROR}</style>'
        f"{shown}{said}<p><small>{legend}</small></p></div>"
    )


def _html_row(title: str, row: LensRow | None, problems: Sequence[str]) -> str:
    parts = "".join(_html_part(part) for part in row.parts) if row else ""
    wrong = "".join(f"<p>{escape(problem)}</p>" for problem in problems)
    line = f'<p style="margin: 14px 0 4px"><b>{escape(headline(title, row))}</b></p>'
    return f"{line}{wrong}{parts}"


def _html_part(part: LensPart) -> str:
    if not part.text and not part.tokens:
        return ""
    runs = [(token.text, *_elements(token.kind, token.label >= 0)) for token in part.tokens]
    if not runs:
        runs = [(part.text, *(("ins",) if part.is_trained else ()))]
    joined: list[tuple[str, tuple[str, ...]]] = []
    for text, *elements in runs:
        if joined and joined[-1][1] == (*elements,):
            text = joined.pop()[0] + text
        joined.append((text, (*elements,)))
    inside = "".join(_marked(_shortened(text), *elements) for text, elements in joined)
    words = caption(part.name, is_trained=part.is_trained)
    return f'<small>{escape(words)}</small><pre dir="auto" style="{_BOX}">{inside}</pre>'


def _elements(kind: str, is_trained: bool) -> tuple[str, ...]:
    """Return the elements around a token, from the outside in."""
    if kind == "cut":
        return ("del",)
    return (*(("ins",) if is_trained else ()), *(("kbd",) if kind == "special" else ()))


def _marked(text: str, *elements: str) -> str:
    marked = escape(text, quote=False)
    for element in reversed(elements):
        marked = f'<{element} style="{_STYLES[element]}">{marked}</{element}>'
    return marked


def _shortened(text: str) -> str:
    if len(text) <= _MOST_CHARACTERS:
        return text
    head, tail = text[: _MOST_CHARACTERS * 3 // 4], text[-_MOST_CHARACTERS // 4 :]
    return f"{head} … {count(len(text) - len(head) - len(tail), 'character')} more … {tail}"
