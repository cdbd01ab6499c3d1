"""The answers to the same prompts over the steps, folded under each prompt."""

from __future__ import annotations

from markupsafe import Markup

from nbft.evaluate.timeline import Timeline, one_line, when
from nbft.pages.comparison import Piece, differing
from nbft.pages.environment import render


def html(timeline: Timeline) -> Markup:
    """Return each prompt with its answers, folded; words new since the last answer are marked."""
    prompts = []
    for told in timeline.prompts:
        rows, before = [], None
        for step, answer in told.answers:
            pieces = [Piece("", answer, False)] if before is None else differing(before, answer)[1]
            rows.append((when(step), pieces))
            before = answer
        prompts.append((told.title, told.prompt.strip(), rows))
    return render("timeline", prompts=prompts)


def text(timeline: Timeline) -> str:
    """Return the answers for the terminal, one per line."""
    width = max((len(when(step)) for step in timeline.steps), default=0)
    blocks = []
    for told in timeline.prompts:
        lines = [f"  {when(s):{width}}  {one_line(answer)}" for s, answer in told.answers]
        blocks.append("\n".join([one_line(told.prompt), *lines]))
    return "\n\n".join(blocks)
