"""How a run ended, as HTML: the answers before and after side by side, and what comes next.

Plain data in, HTML out; no widget, so that a saved notebook, a web page and GitHub show the same.
Colour never says anything alone: a word that differs is also underlined. Styles stand on the
elements, because notebook viewers drop style sheets.
"""

from __future__ import annotations

import difflib
import re
import shutil
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from nbft.evaluate.scores import Scores

_MARK = (
    "background: rgba(25, 118, 210, 0.16); color: inherit; text-decoration: underline; "
    "text-underline-offset: 2px"
)
_BORDER = "1px solid var(--jp-border-color2, #c4c4c4)"
_CELL = (
    f"border: {_BORDER}; padding: 6px 8px; text-align: left; vertical-align: top; "
    "white-space: pre-wrap; overflow-wrap: anywhere; width: 50%"
)
_CODE = (
    "padding: 6px 8px; overflow-x: auto; white-space: pre-wrap; overflow-wrap: anywhere; "
    "background: var(--jp-layout-color2, #eee); color: var(--jp-content-font-color1, #111)"
)


class Answer(NamedTuple):
    """One prompt, answered by the base model and by the tuned one."""

    prompt: str
    base: str
    tuned: str


class Comparison:
    """Answers of the base model and of the tuned one, shown side by side.

    Args:
        rows: Prompt, base answer and tuned answer of each.
        tuned: What to call the tuned answers.

    >>> print(Comparison([("Say hi.", "No no.", "Hi.")]))
    prompt      Say hi.
    base model  No no.
    tuned       Hi.
    """

    def __init__(self, rows: Iterable[tuple[str, str, str]], tuned: str = "tuned") -> None:
        self.rows = [Answer(*row) for row in rows]
        self.tuned = tuned

    @classmethod
    def of_samples(
        cls,
        base: Sequence[Mapping[str, str]],
        latest: Sequence[Mapping[str, str]],
        tuned: str = "tuned",
    ) -> Comparison:
        """Pair two lists of {prompt, text}, as `sample` events hold them, by their prompts."""
        before = {one["prompt"]: one["text"] for one in base}
        after = {one["prompt"]: one["text"] for one in latest}
        return cls(
            [(prompt, before.get(prompt, ""), text) for prompt, text in after.items()]
            + [(prompt, text, "") for prompt, text in before.items() if prompt not in after],
            tuned,
        )

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        """Return a table for the terminal."""
        labels = ("prompt", "base model", self.tuned)
        margin = max(map(len, labels)) + 2
        width = max(20, min(shutil.get_terminal_size().columns, 100) - margin)
        blocks = []
        for row in self.rows:
            lines = []
            for label, text in zip(labels, row, strict=True):
                wrapped = [
                    piece
                    for line in text.strip().splitlines() or [""]
                    for piece in textwrap.wrap(line, width) or [""]
                ]
                lines += [
                    f"{label if i == 0 else '':{margin}}{piece}".rstrip()
                    for i, piece in enumerate(wrapped)
                ]
            blocks.append("\n".join(lines))
        return "\n\n".join(blocks)

    def _repr_html_(self) -> str:
        if not self.rows:
            return "<p>No answers yet.</p>"
        body = []
        for row in self.rows:
            base, tuned = escape(row.base.strip()), escape(row.tuned.strip())
            if base and tuned:
                base, tuned = difference(row.base.strip(), row.tuned.strip())
            body.append(
                f'<tr><th colspan="2" scope="colgroup" style="{_CELL}; font-weight: 600">'
                f"{escape(row.prompt.strip())}</th></tr>"
                f'<tr style="background: transparent"><td style="{_CELL}">{base}</td>'
                f'<td style="{_CELL}">{tuned}</td></tr>'
            )
        has_both = any(row.base.strip() and row.tuned.strip() for row in self.rows)
        head = "".join(
            f'<th scope="col" style="{_CELL}; font-weight: normal">{escape(label)}</th>'
            for label in ("base model", self.tuned + " (underlined: differs)" * has_both)
        )
        return (
            '<table style="border-collapse: collapse; table-layout: fixed; width: 100%; '
            'max-width: 1200px; margin: 4px 0 1em; font-size: inherit; line-height: 1.5">'
            f"<thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"
        )


def difference(before: str, after: str) -> tuple[str, str]:
    """Return both texts as HTML, with the words marked that the other does not have there.

    >>> difference("a big dog", "a dog")[0].count("<mark")
    1
    >>> difference("same words", "same words")
    ('same words', 'same words')
    """
    old, new = re.findall(r"\s*\S+", before), re.findall(r"\s*\S+", after)
    matcher = difflib.SequenceMatcher(
        None, [w.strip() for w in old], [w.strip() for w in new], autojunk=False
    )
    marked_old, marked_new = [], []
    for what, i, j, k, m in matcher.get_opcodes():
        marked_old.append(_marked("".join(old[i:j]), what != "equal"))
        marked_new.append(_marked("".join(new[k:m]), what != "equal"))
    return "".join(marked_old), "".join(marked_new)


def _marked(text: str, differs: bool) -> str:
    words = text.lstrip()
    if not differs or not words:
        return escape(text)
    space = text[: len(text) - len(words)]
    return f'{space}<mark style="{_MARK}"><u>{escape(words)}</u></mark>'


def success(
    headline: str,
    score: str,
    notes: Iterable[str],
    answers: Comparison,
    *,
    scores: Scores | None = None,
    place: str = "",
    load: str = "",
    page: str = "",
) -> str:
    """Show a run that completed or was stopped.

    Args:
        headline: A sentence: which run, and how it ended.
        score: The held-out loss before and after, in a sentence; empty if it was not measured.
        notes: What was noted on the way; sentences.
        answers: What the base model and the tuned one said.
        scores: What was measured of their answers.
        place: Where the adapter lies, in a sentence; empty if there is none.
        load: One line of Python that loads it.
        page: Where the page to share lies, or how to write it; a sentence.
    """
    html = [f"<p><b>{escape(headline)}</b> {escape(score)}</p>"]
    items = "".join(f"<li>{escape(note)}</li>" for note in notes)
    if items:
        html.append(f"<ul>{items}</ul>")
    if scores:
        html.append(scores._repr_html_())
        html += [f"<p>{escape(sentence)}</p>" for sentence in scores.sentences]
    if answers:
        html.append(answers._repr_html_())
    if place:
        html.append(f"<p>{escape(place)} To load it:</p>")
        html.append(f'<pre style="{_CODE}; margin-bottom: 1em">{escape(load)}</pre>')
    if page:
        html.append(f"<p>{escape(page)}</p>")
    return f'<div style="max-width: 1200px">{"".join(html)}</div>'


def failure(headline: str, problems: Iterable[str], log: str = "") -> str:
    """Show a run that failed or was lost.

    Args:
        headline: A sentence: which run, and at which step it ended.
        problems: What happened and what to do; sentences.
        log: The last lines of the log; they are folded.
    """
    bar = "border-left: 3px solid var(--jp-error-color1, #d32f2f); padding-left: 8px"
    html = [f'<p style="{bar}"><b>{escape(headline)}</b></p>']
    html += [f"<p>{escape(problem)}</p>" for problem in problems]
    if log.strip():
        html.append(
            "<details><summary>the last lines of the log</summary>"
            f'<pre tabindex="0" style="{_CODE}">{escape(log)}</pre></details>'
        )
    return f'<div style="max-width: 1200px">{"".join(html)}</div>'
