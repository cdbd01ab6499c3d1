"""The curves of a run as a matplotlib Figure, which notebooks save and GitHub shows."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from nbft.charts import LEARNING_RATE, LOSS, Curve, color_of, moving_average
from nbft.evaluate.scores import SHARES, chart_groups, shown
from nbft.runs.state import Points, RunState

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MARKERS = "osD^v"
_LARGEST = 1e100


def draw_curves(state: RunState, *, title: str = "") -> Figure:
    """Draw loss (raw, smoothed, held-out) and learning rate over the steps.

    Args:
        state: Of a run.
        title: Set above the picture.
    """
    figure = _figure()
    for axes, chart in zip(figure.subplots(1, 2), (LOSS, LEARNING_RATE), strict=True):
        for place, curve in enumerate(chart.curves):
            _draw(axes, curve, state.curve(curve.name), color_of(place))
        axes.set(xlabel="step", ylabel=chart.title, title=chart.title)
        if len(chart.curves) > 1 and any(state.curve(name) for name in chart.names):
            axes.legend(frameon=False)
        _plain(axes)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
    if title:
        figure.suptitle(_text(title))
    return figure


def _draw(axes: Any, curve: Curve, points: Points, color: str) -> None:
    steps, values = list(points.steps), _drawable(points.values)
    if curve.style == "marks":
        axes.plot(steps, values, "D", color=color, markersize=6, label=curve.label)
        return
    if curve.smooth:
        axes.plot(steps, values, color=color, alpha=0.35, linewidth=1, label=curve.label)
        label = f"{curve.label}, smoothed"
        axes.plot(steps, moving_average(values), color=color, linewidth=2, label=label)
        return
    axes.plot(steps, values, color=color, linewidth=2, label=curve.label)


def draw_scores(state: RunState) -> Figure | None:
    """Draw the scores of the held-out rows over the steps; None where nothing was scored twice."""
    scores = [one for one in state.scores.compared if one.split == "validation"]
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
            style = {
                "color": color_of(number),
                "marker": _MARKERS[number % len(_MARKERS)],
            }
            axes.plot(
                steps,
                _drawable(values),
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


def _drawable(values: Iterable[float]) -> list[float]:
    """Return values with gaps in the place of those at which the ticks of an axis overflow."""
    return [value if abs(value) < _LARGEST else math.nan for value in values]


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


def scores_in_words(state: RunState) -> str:
    """Describe the picture of the scores."""
    return "; ".join(
        f"{one.label}: "
        + ", ".join(f"{shown(one.score, v, one.rows)} at step {s:,}" for s, v in one.history)
        for one in state.scores.compared
        if one.split == "validation"
    )


def in_words(state: RunState) -> str:
    """Describe the curves, for those who cannot see them."""
    loss, held_out = state.curve("loss"), state.curve("eval_loss")
    if not loss:
        return "No step has been logged yet."
    first, last = loss.steps[0], loss.steps[-1]
    text = (
        f"Training loss over {last:,} steps: {loss.values[0]:.3g} at step {first:,}, "
        f"{loss.values[-1]:.3g} at step {last:,}."
    )
    if len(held_out) > 1:
        text += f" Held-out loss: {held_out.values[0]:.3f} before, {held_out.values[-1]:.3f} "
        text += "at the end." if held_out.steps[0] else "after."
    rates = [rate for rate in state.curve("learning_rate").values if not math.isnan(rate)]
    if rates:
        text += f" Learning rate: at most {max(rates):.2g}, {rates[-1]:.2g} at the end."
    return text
