"""The answers to the same prompts over the steps of a run, from its `sample` events."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from nbft.events import Event
from nbft.presented import Presented


class Told(NamedTuple):
    """One prompt and what was answered, as (step, answer); step 0 is the base model."""

    prompt: str
    answers: list[tuple[int, str]]

    @property
    def title(self) -> str:
        """Return the end of the prompt on one line: beginnings are often the same."""
        return _short(self.prompt)


class Timeline(Presented):
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


def when(step: int) -> str:
    """Return what to call the model at a step."""
    return f"step {step:,}" if step else "base model"


def one_line(text: str) -> str:
    """Return a text with its line breaks taken out."""
    return " ".join(text.split())


def _short(prompt: str, most: int = 100) -> str:
    line = one_line(prompt)
    return line if len(line) <= most else "…" + line[-most:]
