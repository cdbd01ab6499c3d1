"""The answers to the same prompts over the steps of a run, from its `sample` events."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from nbft.events import Event
from nbft.presented import Presented

_TITLE_CHARS = 100


class Told(NamedTuple):
    """One prompt and its answers as (step, answer); step 0 is the base model."""

    prompt: str
    answers: list[tuple[int, str]]

    @property
    def title(self) -> str:
        """The end of the prompt on one line, since beginnings are often the same."""
        line = one_line(self.prompt)
        return line if len(line) <= _TITLE_CHARS else "…" + line[-_TITLE_CHARS:]


class Timeline(Presented):
    """The same prompts' answers over the steps.

    Args:
        events: Events of a run; only `sample` events are used.

    >>> samples = [{"event": "sample", "step": s, "samples": [{"prompt": "Hi.", "text": t}]}
    ...         for s, t in ((0, "No."), (9, "Hello."))]
    >>> print(Timeline(samples))
    Hi.
      base model  No.
      step 9      Hello.
    """

    def __init__(self, events: Iterable[Event]) -> None:
        by_prompt: dict[str, dict[int, str]] = {}
        for event in events:
            for sample in event.get("samples", ()) if event["event"] == "sample" else ():
                by_prompt.setdefault(sample["prompt"], {})[event["step"]] = sample["text"]
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
    """Return the name of the model at a step."""
    return f"step {step:,}" if step else "base model"


def one_line(text: str) -> str:
    """Return a text without its line breaks."""
    return " ".join(text.split())
