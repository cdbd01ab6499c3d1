"""The curves of a run as a matplotlib Figure, which notebooks save and GitHub shows."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nbft.evaluate.scores import SHARES, Scores, chart_groups, shown
from nbft.events import Event

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's palette, which colour-blind people tell apart.
_TRAIN, _HELD_OUT, _RATE = "#0072B2", "#D55E00", "#009E73"
_PALETTE = (_TRAIN, _HELD_OUT, _RATE, "#CC79A7", "#E69F00")
_MARKERS = "osD^v"
_SMOOTHING = 0.9
"""Weight of the past in the smoothed loss."""


def draw_curves(found: Sequence[Event], *, title: str = "") -> Figure:
    """Draw loss (raw, smoothed, held-out) and learning rate over the steps.

    Args:
        found: Events of a run.
        title: Set above the picture.
    """
    logs = [e for e in found if e["event"] == "log" and "loss" in e]
    evals = [e for e in found if e["event"] == "eval" and "eval_loss" in e]
    figure = _figure()
    left, right = figure.subplots(1, 2)
    steps = [e["step"] for e in logs]
    losses = [float(e["loss"]) for e in logs]
    left.plot(steps, losses, color=_TRAIN, alpha=0.35, linewidth=1, label="training")
    left.plot(steps, smoothed(losses), color=_TRAIN, linewidth=2, label="training, smoothed")
    left.plot(
        [e["step"] for e in evals],
        [e["eval_loss"] for e in evals],
        "D",
        color=_HELD_OUT,
        markersize=6,
        label="held-out",
    )
    left.set(xlabel="step", ylabel="loss", title="loss")
    if logs or evals:
        left.legend(frameon=False)
    right.plot(steps, [e.get("learning_rate", math.nan) for e in logs], color=_RATE, linewidth=2)
    right.set(xlabel="step", ylabel="learning rate", title="learning rate")
    right.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
    for axes in (left, right):
        _plain(axes)
    if title:
        figure.suptitle(_text(title))
    return figure


def draw_scores(found: Sequence[Event]) -> Figure | None:
    """Draw the scores of the held-out rows over the steps; None where nothing was scored twice.

    Args:
        found: Events of a run.
    """
    scores = [one for one in Scores(found).compared if one.split == "validation"]
    scores = [one for one in scores if len(one.history) > 1]
    if not scores:
        return None
    groups = chart_groups(one.score for one in scores)
    figure = _figure()
    by_name = {one.score: one for one in scores}
    for axes, (title, names) in zip(
        figure.subplots(1, len(groups), squeeze=False)[0], groups, strict=True
    ):
        for number, name in enumerate(names):
            steps, values = zip(*by_name[name].history, strict=True)
            style = {"color": _PALETTE[number % 5], "marker": _MARKERS[number % 5]}
            axes.plot(
                steps,
                values,
                linewidth=1.5,
                markersize=5,
                label=_text(by_name[name].label),
                **style,
            )
        axes.set(xlabel="step", title=_text(title))
        if title == SHARES:
            axes.set_ylim(bottom=0)
        if len(names) > 1:
            axes.legend(frameon=False)
        _plain(axes)
    return figure


def _figure() -> Figure:
    """Return a Figure that a notebook shows as a picture, whether or not pyplot is loaded."""
    from matplotlib.figure import Figure

    class Curves(Figure):
        def _repr_png_(self) -> bytes:
            png = io.BytesIO()
            self.savefig(png, format="png")
            return png.getvalue()

    return Curves(figsize=(9, 3.2), dpi=110, layout="constrained", facecolor="white")


def _text(text: str) -> str:
    """Return a text for matplotlib, which would read what stands between dollars as mathematics."""
    return text.replace("$", r"\$")


def _plain(axes: Any) -> None:
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def smoothed(values: Sequence[float]) -> list[float]:
    """Return the moving average of values, unbiased at its beginning; gaps are passed over.

    >>> smoothed([2.0, 2.0])
    [2.0, 2.0]
    """
    out: list[float] = []
    total = weight = 0.0
    for value in values:
        if math.isfinite(value):
            total = _SMOOTHING * total + (1 - _SMOOTHING) * value
            weight = _SMOOTHING * weight + (1 - _SMOOTHING)
        out.append(round(total / weight, 12) if weight else math.nan)
    return out


def scores_in_words(found: Sequence[Event]) -> str:
    """Say what the picture of the scores shows."""
    return "; ".join(
        f"{one.label}: "
        + ", ".join(f"{shown(one.score, v, one.rows)} at step {s:,}" for s, v in one.history)
        for one in Scores(found).compared
        if one.split == "validation"
    )


def in_words(found: Sequence[Event]) -> str:
    """Say what the curves show, for those who cannot see them."""
    logs = [e for e in found if e["event"] == "log" and "loss" in e]
    evals = [e for e in found if e["event"] == "eval" and "eval_loss" in e]
    if not logs:
        return "No step has been logged yet."
    first, last = logs[0], logs[-1]
    text = (
        f"Training loss over {last['step']:,} steps: {first['loss']:.3g} at step {first['step']:,}, "
        f"{last['loss']:.3g} at step {last['step']:,}."
    )
    if len(evals) > 1:
        text += f" Held-out loss: {evals[0]['eval_loss']:.3f} before, {evals[-1]['eval_loss']:.3f} "
        text += "after." if evals[0]["step"] == 0 else "at the end."
    rates = [e["learning_rate"] for e in logs if "learning_rate" in e]
    if rates:
        text += f" Learning rate: at most {max(rates):.2g}, {rates[-1]:.2g} at the end."
    return text
