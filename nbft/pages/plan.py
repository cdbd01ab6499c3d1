"""The plan of a run as HTML: the column "This run" beside the form."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from markupsafe import Markup

from nbft.formatting import count, number, size
from nbft.pages.environment import render
from nbft.plan.ranges import parts_in_words
from nbft.plan.several import engine_of
from nbft.redaction import redact_text
from nbft.tracking import TRACKERS

if TYPE_CHECKING:
    from nbft.config.data import Split
    from nbft.plan import Plan

_WIDTH, _HEIGHT = 240, 64  # of the drawing, in its own units


def summary(plan: Plan | None, waiting: str = "") -> Markup:
    """Return the column.

    Args:
        plan: The plan; None when it is not known yet.
        waiting: Why the plan is out of date; empty when it is not.
    """
    if plan is None:
        return render("plan", plan=None, waiting=waiting)
    return render(
        "plan",
        plan=plan,
        waiting=waiting,
        facts=_facts(plan),
        memory=_memory(plan),
        parts=_unbroken(parts_in_words(plan.memory_parts)),
        curve=learning_rate_curve(plan.learning_rates()),
        choices=[
            ("device", plan.device),
            ("number type", plan.dtype),
            ("mixed precision", plan.mixed_precision),
            ("fast path", plan.fast_path),
            *((TRACKERS[name].title, use) for name, use in plan.decisions.trackers.items()),
        ],
    )


def _rows(plan: Plan) -> str:
    """Say how many rows of what are trained on and held out."""
    data = plan.config.data

    def of(split: Split) -> str:
        return " of " + " + ".join(redact_text(dataset.called) for dataset in split.datasets)

    text = count(plan.train_rows or 0) + of(data.train)
    if not plan.eval_rows:
        return text
    others = of(data.validation) if data.validation else ""
    return f"{text}, {count(plan.eval_rows)}{others} held out"


def _facts(plan: Plan) -> list[tuple[str, str]]:
    facts = [("effective batch", count(plan.effective_batch_size, "row"))]
    if (processes := plan.config.distributed.processes) > 1:
        facts.insert(0, ("processes", f"{processes} ({engine_of(plan.config)})"))
    if plan.train_rows is not None:
        facts.append(("rows", _rows(plan)))
    if plan.total_steps is not None:
        facts.append(("steps", count(plan.total_steps)))
    if plan.tokens is not None:
        facts.append(("tokens", f"about {count(plan.tokens)}"))
    if plan.trainable_parameters is not None:
        trained, total = plan.trainable_parameters, plan.total_parameters
        share = f" ({number(100 * trained / total)}%)" if total else " parameters"
        facts.append(("trainable", count(trained) + share))
    facts.append(("time", _unbroken(plan.time)))
    return facts


def _unbroken(text: str) -> str:
    """Keep numbers and their units in one line.

    >>> _unbroken("training 34 s, about 1.0 GiB").count("\N{NO-BREAK SPACE}")
    2
    """
    return re.sub(r"(?<=\d) (?=(?:[a-z]{1,3}|[KMGT]i?B)\b)", "\N{NO-BREAK SPACE}", text)


def _memory(plan: Plan) -> tuple[str, int | None, bool]:
    """Return the memory in words, its percentage of the free memory, and whether it is too much."""
    need, free = plan.memory_bytes, plan.free_memory_bytes
    if need is None:
        return "", None, False
    if not free:
        return f"about {size(need)}", None, False
    about = {"formula": "about", "simulation": "simulated", "probe": "measured"}
    words = f"{about[plan.memory_source]} {size(need)} of {size(free)} free" + (
        ": too much" if need > free else ""
    )
    return _unbroken(words), min(100, round(100 * need / free)), need > free


def learning_rate_curve(points: Sequence[tuple[int, float]]) -> Markup:
    """Draw the learning rate over the steps, as inline SVG with its shape in words.

    Args:
        points: (step, rate) in the order of the steps.
    """
    if len(points) < 2:
        return Markup("")
    highest = max(rate for _, rate in points) or 1.0
    (first, start), (last, end) = points[0], points[-1]
    line = " ".join(
        f"{_WIDTH * (step - first) / max(1, last - first):.1f},"
        f"{_HEIGHT - (_HEIGHT - 4) * rate / highest:.1f}"
        for step, rate in points
    )
    peak = next(step for step, rate in points if rate >= 0.999 * highest)
    words = (
        f"Learning rate: {number(start)} at the start, {number(highest)} at step "
        f"{count(peak)}, {number(end)} at step {count(last)}"
    )
    return render(
        "learning_rate",
        width=_WIDTH,
        height=_HEIGHT,
        line=line,
        words=words,
        highest=highest,
        last=last,
    )
