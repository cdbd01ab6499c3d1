"""The answers to the same prompts over the steps, folded under each prompt."""

from __future__ import annotations

from markupsafe import Markup

from nbft.evaluate.timeline import Timeline
from nbft.pages.comparison import Piece, differing
from nbft.pages.environment import render


def html(timeline: Timeline) -> Markup:
    """Return each prompt, and unfolded its answers; words that the answer before lacks are marked."""
    prompts = []
    for told in timeline.prompts:
        rows, before = [], None
        for step, said in told.answers:
            pieces = [Piece("", said, False)] if before is None else differing(before, said)[1]
            rows.append((_when(step), pieces))
            before = said
        prompts.append((_short(told.prompt), told.prompt.strip(), rows))
    return render("timeline", prompts=prompts)


def text(timeline: Timeline) -> str:
    """Return the answers for the terminal, one per line."""
    width = max((len(_when(step)) for step in timeline.steps), default=0)
    blocks = []
    for told in timeline.prompts:
        lines = [f"  {_when(s):{width}}  {_one_line(said)}" for s, said in told.answers]
        blocks.append("\n".join([_one_line(told.prompt), *lines]))
    return "\n\n".join(blocks)


def _when(step: int) -> str:
    return f"step {step:,}" if step else "base model"


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _short(prompt: str, most: int = 100) -> str:
    """Return the end of a prompt on one line: beginnings are often the same."""
    line = _one_line(prompt)
    return line if len(line) <= most else "…" + line[-most:]
