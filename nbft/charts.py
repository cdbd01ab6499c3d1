"""The charts of a run: which curves each holds, and how those are named, coloured and smoothed.

The monitor, the pictures, the reports and, through the server, the panel draw from these. A
measure that is not named here gets a chart of its own. Loads no library until a figure is drawn.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from nbft.formatting import one_line

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PALETTE = ("#1f83c9", "#d55e00", "#00906a", "#c06a9a", "#808080", "#a6761d")
"""Blue, vermilion, green, purple, grey and brown: told apart with any colour vision, and at least
3:1 against white and against #111111 (WCAG 2.2, 1.4.11).

Source: Okabe and Ito, Color Universal Design (2008), blue and green moved in lightness only; brown
from ColorBrewer's Dark2."""

SMOOTHING = 0.8
"""Weight of the next point in the moving average, which spans about 5 points on either side. More
would flatten a loss that falls within the few dozen steps of a small run."""

RAW_ALPHA = 0.85
"""Opacity of the raw values behind a smoothed curve: the loss has 3:1 on white and on #111111, and the
thick line stands out from the thin one. Also in extension/chart/chart.js."""

Style = Literal["line", "marks"]


class Curve(NamedTuple):
    """How one measure is drawn.

    Attributes:
        name: Its name in the events.
        label: What the legend says.
        style: A "line", or "marks" for infrequent values, such as `eval_loss`.
        smooth: Draw a moving average in front and the raw values faintly behind.
        scale: Factor on its values.
    """

    name: str
    label: str
    style: Style = "line"
    smooth: bool = False
    scale: float = 1.0

    def labels(self, x_label: str = "step") -> tuple[str, str]:
        """Return what the legend calls the moving average, and the raw values, of a smooth curve."""
        return f"{self.label}, smoothed", f"{self.label} of each {x_label}"


@dataclass(frozen=True)
class ChartSpec:
    """A chart over the steps.

    Attributes:
        title: Shown above the curves.
        curves: In the order of the legend and of the palette.
    """

    title: str
    curves: tuple[Curve, ...]

    @property
    def names(self) -> list[str]:
        """Names of the measures."""
        return [curve.name for curve in self.curves]

    def series(self) -> list[dict[str, Any]]:
        """Return name, label, style, smooth and colour of each curve, for a front end."""
        described = [
            curve._asdict() | {"color": color_of(i)} for i, curve in enumerate(self.curves)
        ]
        return [{key: one[key] for key in one if key != "scale"} for one in described]


def color_of(number: int) -> str:
    """Return the colour of the n-th curve of a chart, from 0, as #rrggbb."""
    return PALETTE[number % len(PALETTE)]


LOSS = ChartSpec(
    "loss",
    (Curve("loss", "loss", smooth=True), Curve("eval_loss", "held-out loss", style="marks")),
)
LEARNING_RATE = ChartSpec("learning rate", (Curve("learning_rate", "learning rate"),))
STANDARD = (LOSS, LEARNING_RATE)
MORE = (
    ChartSpec("gradient norm", (Curve("grad_norm", "gradient norm"),)),
    ChartSpec("tokens per second", (Curve("tokens_per_second", "tokens/s"),)),
    ChartSpec("memory, GiB", (Curve("memory_bytes", "GiB", scale=2**-30),)),
)

_DRAWN = frozenset(name for chart in (*STANDARD, *MORE) for name in chart.names)
_NOT_DRAWN = frozenset(
    "epoch seconds_left peak_bytes num_tokens num_input_tokens_seen runtime samples_per_second "
    "steps_per_second".split()
)
_HELD_OUT = "eval_"


def other_charts(names: Iterable[str], declared: Iterable[Any] = ()) -> list[ChartSpec]:
    """Return charts for the measures that no standard chart shows.

    A training method declares the chart and the label of what it measures. Other measures share a
    chart if they share the part before a "/", and so do those of training and of the held-out rows.

    Args:
        names: Names of the measures.
        declared: Records with name, label and chart.

    >>> [(chart.title, [curve.label for curve in chart.curves]) for chart in other_charts(
    ...     ["loss", "epoch", "rewards/chosen", "rewards/margins", "eval_rewards/chosen"])]
    [('rewards', ['chosen', 'margins', 'chosen, held-out'])]
    """
    known = {str(one.get("name")): one for one in declared if isinstance(one, dict)}
    charts: dict[str, list[Curve]] = {}
    for name in names:
        measure = name.removeprefix(_HELD_OUT)
        if name in _DRAWN or measure in _NOT_DRAWN:
            continue
        about = known.get(measure, {})
        group, _, part = measure.partition("/")
        title = one_line(str(about.get("chart") or group.replace("_", " ")))
        label = one_line(str(about.get("label") or (part or measure).replace("_", " ")))
        curve = Curve(name, label)
        if measure != name:
            curve = Curve(name, f"{label}, held-out", style="marks")
        charts.setdefault(title, []).append(curve)
    # As in the chart of the loss, the held-out rows have the colours after those of training.
    return [
        ChartSpec(title, tuple(sorted(curves, key=lambda curve: curve.style == "marks")))
        for title, curves in charts.items()
    ]


def moving_average(values: Sequence[float], weight: float = SMOOTHING) -> list[float]:
    """Smooth a curve by an exponential moving average that is centred on each point.

    It looks ahead as far as back, so that its beginning does not hang on the first batch, and it does
    not lag behind. The last points change as others follow them.

    Args:
        values: Numbers [n]; non-finite ones are skipped.
        weight: Weight of the next point on either side, from 0 (no smoothing) to below 1.

    Returns:
        Numbers [n]; NaN where a value is not finite.

    >>> [round(value, 3) for value in moving_average([2.0, 2.0, 1.0], weight=0.5)]
    [1.857, 1.75, 1.429]
    """
    finite = [value for value in values if math.isfinite(value)]
    back, ahead = _weighted(finite, weight), _weighted(finite[::-1], weight)[::-1]
    smooth = (
        round((sum_back + sum_ahead - value) / (weights_back + weights_ahead - 1), 12)
        for value, (sum_back, weights_back), (sum_ahead, weights_ahead) in zip(
            finite, back, ahead, strict=True
        )
    )
    return [next(smooth) if math.isfinite(value) else math.nan for value in values]


def _weighted(values: Sequence[float], weight: float) -> list[tuple[float, float]]:
    """Return the weighted sum of each value and those before it, and the sum of the weights."""
    sums, total, weights = [], 0.0, 0.0
    for value in values:
        total, weights = weight * total + value, weight * weights + 1
        sums.append((total, weights))
    return sums


def new_figure(width: float = 9, height: float = 3.2, dpi: int = 110) -> Figure:
    """Return a Figure that a notebook shows as a picture, whether or not pyplot is loaded.

    Args:
        width: In inches, as the height.
        height: In inches.
        dpi: Pixels per inch.
    """
    from matplotlib.figure import Figure

    class Picture(Figure):
        def _repr_png_(self) -> bytes:
            return png(self)

    size = (width, height)
    return Picture(figsize=size, dpi=dpi, layout="constrained", facecolor="white")


def png(figure: Figure, **options: Any) -> bytes:
    """Return a figure as PNG; options go to `savefig`."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # its box is in the picture
        figure.savefig(buffer, format="png", **options)
    return buffer.getvalue()


def drawn(text: str) -> str:
    r"""Return a text for matplotlib, which takes dollars for mathematics and leaves "_…" out.

    >>> print(drawn("$x$"))
    \$x\$
    """
    label = one_line(text).replace("$", r"\$")
    return f" {label}" if label.startswith("_") else label


def tidy(axes: Any) -> None:
    """Draw a faint grid instead of a box around the axes, and no half steps."""
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    if axes.get_xlabel() == "step" and axes.get_xscale() == "linear":
        axes.xaxis.get_major_locator().set_params(integer=True)


def add_legend(axes: Any, **options: Any) -> None:
    """Add the legend, which stays readable where curves run below it; options go to matplotlib."""
    axes.legend(framealpha=0.8, edgecolor="none", **options)
