"""Histograms of the rows, as inline SVG with words beneath and as a matplotlib figure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from markupsafe import Markup

from nbft.charts import new_figure, tidy
from nbft.data.doctor.histograms import Histogram
from nbft.pages.environment import render

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 320, 90  # of a drawing, in its own units
_BLUE, _RED = "#0072B2", "#D55E00"  # Okabe and Ito's palette


def html(histograms: Sequence[Histogram]) -> Markup:
    """Return the histograms as inline SVG, each with its words."""
    return render("histograms", histograms=histograms, width=WIDTH, height=HEIGHT)


def draw(histograms: Sequence[Histogram]) -> Figure:
    """Draw the histograms with matplotlib."""
    figure = new_figure()
    both = figure.subplots(1, 2)
    for axes, histogram in zip(both, histograms, strict=False):
        width = histogram.end / len(histogram.counts)
        centers = [width * (bar + 0.5) for bar in range(len(histogram.counts))]
        axes.bar(centers, histogram.counts, width=width, color=_BLUE)
        if histogram.limit is not None:
            axes.axvline(histogram.limit, color=_RED, linestyle="--", label="data.max_length")
            axes.legend(frameon=False)
    both[0].set(xlabel="tokens of a row", ylabel="rows", title="lengths")
    both[1].set(xlabel="share of a row that is trained on", ylabel="rows", title="trained on")
    for axes in both:
        tidy(axes)
    return figure
