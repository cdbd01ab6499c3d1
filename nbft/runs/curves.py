"""The curves of a run as a matplotlib Figure, which notebooks save and GitHub shows."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from nbft.charts import (
    LEARNING_RATE,
    LOSS,
    RAW_ALPHA,
    ChartSpec,
    Curve,
    add_legend,
    color_of,
    drawn,
    moving_average,
    new_figure,
    other_charts,
    tidy,
)
from nbft.evaluate.scores import SHARES, chart_groups, shown
from nbft.runs.state import Points, RunState

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_MARKERS = "osD^v"
_LARGEST = 1e100


def draw_curves(state: RunState, *, title: str = "") -> Figure:
    """Draw loss (raw, smoothed, held-out) and learning rate over the steps, and any reward first.

    Args:
        state: State of a run.
        title: Shown above the charts.
    """
    charts = [*main_charts(state), LOSS, LEARNING_RATE]
    figure = new_figure(width=4.5 * len(charts))
    for axes, chart in zip(figure.subplots(1, len(charts)), charts, strict=True):
        for place, curve in enumerate(chart.curves):
            _draw(axes, curve, state.curve(curve.name), color_of(place))
        axes.set(xlabel="step", ylabel=chart.title, title=chart.title)
        if len(chart.curves) > 1 and any(state.curve(name) for name in chart.names):
            add_legend(axes)
        tidy(axes)
    axes.ticklabel_format(axis="y", style="sci", scilimits=(-2, 2))
    if title:
        figure.suptitle(drawn(title))
    return figure


def draw_losses(states: Mapping[str, RunState]) -> Figure:
    """Draw the losses of several runs over one axis.

    The legend has a line for each run, and one for all held-out losses, so that six leave room.

    Args:
        states: The state of each run by its name, in the order of the colours.
    """
    from matplotlib.lines import Line2D

    figure = new_figure(height=4)
    axes = figure.subplots()
    for place, (name, state) in enumerate(states.items()):
        label, color = drawn(name), color_of(place)
        _draw(axes, Curve("loss", label, smooth=True), state.curve("loss"), color, names_raw=False)
        if held_out := state.curve("eval_loss"):
            _draw(axes, Curve("eval_loss", "_", "marks"), held_out, color)
    axes.set(xlabel="step", ylabel=LOSS.title, title=LOSS.title)
    entries = axes.get_legend_handles_labels()[0]
    if any(state.curve("eval_loss") for state in states.values()):
        diamond = Line2D([], [], color="#666666", marker="D", linestyle="none")
        diamond.set_label("held-out loss")
        entries.append(diamond)
    add_legend(axes, handles=entries, fontsize="small")
    tidy(axes)
    return figure


def main_charts(state: RunState) -> list[ChartSpec]:
    """Return the charts that stand beside that of the loss, as the training method declares them."""
    declared = [
        one for one in state.measures if isinstance(one, dict) and one.get("is_main") is True
    ]
    names = [str(one.get("name")) for one in declared]
    return other_charts([name for name in names if name in state.curves], declared)


def _draw(axes: Any, curve: Curve, points: Points, color: str, *, names_raw: bool = True) -> None:
    """Draw a curve; the raw values of a smooth one may be left out of the legend."""
    steps, values = list(points.steps), _drawable(points.values)
    style = {"color": color, "label": curve.label}
    if curve.style == "marks":
        axes.plot(steps, values, "D", markersize=6, **style)
    elif curve.smooth:
        smoothed, raw = curve.labels()
        thin = style | {"label": raw if names_raw else "_"}
        axes.plot(steps, values, alpha=RAW_ALPHA, linewidth=1, **thin)
        axes.plot(steps, moving_average(values), linewidth=2.5, **style | {"label": smoothed})
    else:
        axes.plot(steps, values, linewidth=2, **style)


def draw_scores(state: RunState) -> Figure | None:
    """Draw the scores of the held-out rows over the steps; None where nothing was scored twice."""
    scores = {
        score.score: score
        for score in state.scores.compared
        if score.split == "validation" and len(score.history) > 1
    }
    if not scores:
        return None
    groups = chart_groups(scores)
    figure = new_figure()
    all_axes = figure.subplots(1, len(groups), squeeze=False)[0]
    for axes, (title, names) in zip(all_axes, groups, strict=True):
        for number, name in enumerate(names):
            steps, values = zip(*scores[name].history, strict=True)
            style = {"color": color_of(number), "marker": _MARKERS[number % len(_MARKERS)]}
            style["label"] = drawn(scores[name].label)
            axes.plot(steps, _drawable(values), linewidth=1.5, markersize=5, **style)
        axes.set(xlabel="step", title=drawn(title))
        if title == SHARES:
            axes.set_ylim(bottom=0)
        if len(names) > 1:
            add_legend(axes)
        tidy(axes)
    return figure


def _drawable(values: Iterable[float]) -> list[float]:
    """Return values with gaps instead of those too large for the ticks of an axis."""
    return [value if abs(value) < _LARGEST else math.nan for value in values]


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
    for chart in main_charts(state):
        points = state.curve(chart.names[0])
        text += f" {chart.title}: {points.values[0]:.3g} at step {points.steps[0]:,}, "
        text += f"{points.values[-1]:.3g} at step {points.steps[-1]:,}."
    rates = [rate for rate in state.curve("learning_rate").values if not math.isnan(rate)]
    if rates:
        text += f" Learning rate: at most {max(rates):.2g}, {rates[-1]:.2g} at the end."
    return text
