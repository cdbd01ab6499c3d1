"""The answers to the same prompts over the steps of a run, from its `sample` events."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape
from typing import NamedTuple

from nbft.evaluate.compare import difference
from nbft.events import Event

_BORDER = "1px solid var(--jp-border-color2, #c4c4c4)"
_CELL = f"border: {_BORDER}; padding: 4px 8px; text-align: left; vertical-align: top"
_TEXT = "white-space: pre-wrap; overflow-wrap: anywhere"


class Told(NamedTuple):
    """One prompt and what was answered, as (step, answer); step 0 is the base model."""

    prompt: str
    answers: list[tuple[int, str]]

    @property
    def title(self) -> str:
        """Return the end of the prompt on one line: beginnings are often the same."""
        return _short(self.prompt)


class Timeline:
    """The same prompts' answers over the steps.

    Args:
        found: Events of a run; those that are no answers are passed over.

    >>> said = [{"event": "sample", "step": s, "samples": [{"prompt": "Hi.", "text": t}]}
    ...         for s, t in ((0, "No."), (9, "Hello."))]
    >>> print(Timeline(said))
    Hi.
      base model  No.
      step 9      Hello.
    """

    def __init__(self, found: Iterable[Event]) -> None:
        by_prompt: dict[str, dict[int, str]] = {}
        for event in found:
            for one in event.get("samples", ()) if event["event"] == "sample" else ():
                by_prompt.setdefault(one["prompt"], {})[event["step"]] = one["text"]
        self.prompts = [
            Told(prompt, sorted(answers.items())) for prompt, answers in by_prompt.items()
        ]

    @property
    def steps(self) -> list[int]:
        """The steps at which prompts were answered."""
        return sorted({step for told in self.prompts for step, _ in told.answers})

    def __len__(self) -> int:
        return len(self.prompts)

    def __repr__(self) -> str:
        return str(self)

    def __str__(self) -> str:
        """Return it for the terminal."""
        width = max((len(when(step)) for step in self.steps), default=0)
        blocks = []
        for told in self.prompts:
            lines = [f"  {when(s):{width}}  {_one_line(text)}" for s, text in told.answers]
            blocks.append("\n".join([_one_line(told.prompt), *lines]))
        return "\n\n".join(blocks)

    def _repr_html_(self) -> str:
        if not self.prompts:
            return "<p>No answers yet.</p>"
        return "".join(map(_folded, self.prompts))


def when(step: int) -> str:
    """Return what to call the model at a step."""
    return f"step {step:,}" if step else "base model"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _folded(told: Told) -> str:
    """Show a prompt, and unfolded its answers; words that the answer before lacks are marked."""
    rows, before = [], None
    for step, text in told.answers:
        shown = escape(text) if before is None else difference(before, text)[1]
        rows.append(
            f'<tr><th scope="row" style="{_CELL}; font-weight: normal; white-space: nowrap">'
            f'{when(step)}</th><td style="{_CELL}; {_TEXT}; width: 100%">{shown}</td></tr>'
        )
        before = text
    return (
        f'<details style="margin: 2px 0"><summary style="{_TEXT}; cursor: pointer">'
        f"{escape(told.title)}</summary>"
        f'<p style="{_TEXT}; margin: 4px 0 4px 16px">{escape(told.prompt.strip())}</p>'
        '<table style="border-collapse: collapse; margin: 0 0 8px 16px; font-size: inherit; '
        f'line-height: 1.5"><tbody>{"".join(rows)}</tbody></table></details>'
    )


def _short(prompt: str, most: int = 100) -> str:
    line = _one_line(prompt)
    return line if len(line) <= most else "…" + line[-most:]
