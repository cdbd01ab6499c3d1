"""Histograms of the rows, as inline SVG with words beneath and as a matplotlib figure."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import TYPE_CHECKING

from markupsafe import Markup

from nbft.data.doctor.histograms import Histogram
from nbft.pages.environment import render

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 320, 90  # of a drawing, in its own units
_BLUE, _RED = "#0072B2", "#D55E00"  # Okabe and Ito's palette


def html(found: Sequence[Histogram]) -> Markup:
    """Return the histograms as inline SVG, each with its words."""
    return render("histograms", histograms=found, width=WIDTH, height=HEIGHT)


def draw(found: Sequence[Histogram]) -> Figure:
    """Draw the histograms with matplotlib."""
    from matplotlib.figure import Figure

    class Histograms(Figure):
        """A Figure that a notebook shows as a picture, whether or not pyplot is loaded."""

        def _repr_png_(self) -> bytes:
            png = io.BytesIO()
            self.savefig(png, format="png")
            return png.getvalue()

    figure = Histograms(figsize=(9, 3.2), dpi=110, layout="constrained", facecolor="white")
    both = figure.subplots(1, 2)
    for axes, one in zip(both, found, strict=False):
        width = one.end / len(one.counts)
        places = [width * (bar + 0.5) for bar in range(len(one.counts))]
        axes.bar(places, one.counts, width=width, color=_BLUE)
        if one.limit is not None:
            axes.axvline(one.limit, color=_RED, linestyle="--", label="data.max_length")
            axes.legend(frameon=False)
    both[0].set(xlabel="tokens of a row", ylabel="rows", title="lengths")
    both[1].set(xlabel="share of a row that is trained on", ylabel="rows", title="trained on")
    for axes in both:
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    return figure
