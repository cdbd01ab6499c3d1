"""What a run will be, in words: the column "This run" beside the form.

A plan in, HTML out; no widget. Called by the form.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING

from nbft.formatting import count, duration, number, size

if TYPE_CHECKING:
    from nbft.plan import Plan

_WIDTH, _HEIGHT = 240, 64  # of the drawing, in its own units


def summary(plan: Plan | None, waiting: str = "") -> str:
    """Return the column.

    Args:
        plan: What will happen; None when it is not known yet.
        waiting: Why the plan does not follow the fields just now; empty when it does.
    """
    head = "<h3>This run</h3>"
    if waiting:
        head += f'<p class="nbft-waiting">{escape(waiting)}</p>'
    if plan is None:
        return head + ("" if waiting else "<p>Working out what this run will be…</p>")
    rows = "".join(
        f"<dt>{escape(name)}</dt><dd>{value}</dd>" for name, value in _facts(plan) if value
    )
    return (
        f"{head}<dl>{rows}</dl>{_memory(plan)}{learning_rate_curve(plan.learning_rates())}"
        f'<dl class="nbft-choices">{_choices(plan)}</dl>'
    )


def _facts(plan: Plan) -> list[tuple[str, str]]:
    facts = [("effective batch", count(plan.effective_batch_size, "row"))]
    if plan.train_rows is not None:
        held_out = f", {count(plan.eval_rows)} held out" if plan.eval_rows else ""
        facts.append(("rows", count(plan.train_rows) + held_out))
    if plan.total_steps is not None:
        facts.append(("steps", count(plan.total_steps)))
    if plan.tokens is not None:
        facts.append(("trained tokens", f"about {count(plan.tokens)}"))
    if plan.trainable_parameters is not None:
        facts.append(("trainable", _trainable(plan)))
    if plan.seconds is not None:
        facts.append(("time", f"about {duration(plan.seconds)}"))
    return facts


def _trainable(plan: Plan) -> str:
    trained, total = plan.trainable_parameters or 0, plan.total_parameters
    return count(trained) + (f" ({number(100 * trained / total)}%)" if total else " parameters")


def _memory(plan: Plan) -> str:
    need, free = plan.memory_bytes, plan.free_memory_bytes
    if need is None:
        return ""
    words = f"about {size(need)}" + (f" of {size(free)} free" if free else "")
    bar = ""
    if free:
        share = min(100, round(100 * need / free))
        css = " nbft-over" if need > free else ""
        words += ": too much" if need > free else ""
        bar = f'<div class="nbft-bar{css}" aria-hidden="true"><i style="width:{share}%"></i></div>'
    return f"<dl><dt>memory</dt><dd>{words}</dd></dl>{bar}"


def _choices(plan: Plan) -> str:
    chosen = [("device", plan.device), ("dtype", plan.dtype)]
    chosen.append(("mixed precision", plan.mixed_precision))
    chosen.append(("fast path", plan.fast_path))
    return "".join(
        f"<dt>{name}</dt><dd>{escape(choice.value)}<small>{escape(choice.reason)}</small></dd>"
        for name, choice in chosen
    )


def learning_rate_curve(points: Sequence[tuple[int, float]]) -> str:
    """Draw the learning rate over the steps, as inline SVG with its shape in words.

    Args:
        points: (step, rate) in the order of the steps.
    """
    if len(points) < 2:
        return ""
    highest = max(rate for _, rate in points) or 1.0
    first, last = points[0][0], points[-1][0]
    line = " ".join(
        f"{_WIDTH * (step - first) / max(1, last - first):.1f},"
        f"{_HEIGHT - (_HEIGHT - 4) * rate / highest:.1f}"
        for step, rate in points
    )
    peak = next(step for step, rate in points if rate >= 0.999 * highest)
    end = points[-1][1]
    words = (
        f"Learning rate: {number(points[0][1])} at the start, {number(highest)} at step "
        f"{count(peak)}, {number(end)} at step {count(last)}"
    )
    return (
        f'<figure class="nbft-curve"><svg viewBox="-1 -1 {_WIDTH + 2} {_HEIGHT + 2}" role="img" '
        f'aria-label="{words}" preserveAspectRatio="none">'
        f'<path d="M0 {_HEIGHT}H{_WIDTH}"/><polyline points="{line}"/></svg>'
        f"<figcaption><span>learning rate, at most {number(highest)}</span>"
        f"<span>step {count(last)}</span></figcaption></figure>"
    )
