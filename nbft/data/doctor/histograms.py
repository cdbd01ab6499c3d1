"""How long the rows are and how much of each is learnt: as SVG, as a figure and in words."""

from __future__ import annotations

import io
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from nbft.data.lengths import KEPT_SHARES, enough_for
from nbft.formatting import count

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_BINS = 24
_SHARE_BINS = 20
_LONGEST_SHOWN = 0.995
"""Quantile at which the axis of lengths ends; the few longer rows are counted in the last bar."""

_WIDTH, _HEIGHT = 320, 90  # of a drawing, in its own units
_BLUE, _RED = "#0072B2", "#D55E00"  # Okabe and Ito's palette


def quantiles(values: np.ndarray) -> dict[str, float]:
    """Return the ends, the middle and the upper quantiles of values; empty without any."""
    if not len(values):
        return {}
    shares = {"least": 0, "median": 0.5, "95%": 0.95, "99%": 0.99, "most": 1}
    return {name: round(float(np.quantile(values, q)), 4) for name, q in shares.items()}


def lengths_in_words(tokens: np.ndarray, max_length: int) -> str:
    """Say how long rows are.

    >>> lengths_in_words(np.array([10, 20, 30]), 25)
    'Lengths of 3 training rows: 10 to 30 tokens, half of them up to 20, 95% up to 30, 99% up to 30; data.max_length=25 cuts 1 row.'
    """
    if not len(tokens):
        return ""
    shares = ", ".join(
        f"{share:.0%} up to {count(enough_for(tokens, share))}" for share in KEPT_SHARES
    )
    cut = int((tokens > max_length).sum())
    return (
        f"Lengths of {count(len(tokens), 'training row')}: {count(tokens.min())} to "
        f"{count(tokens.max(), 'token')}, half of them up to "
        f"{count(enough_for(tokens, 0.5))}, {shares}; data.max_length={max_length:,} cuts "
        f"{count(cut, 'row') if cut else 'none'}."
    )


def trained_in_words(shares: np.ndarray) -> str:
    """Say how much of each row is learnt.

    >>> trained_in_words(np.array([0.25, 0.5, 0.75]))
    'Learnt of each row: 25% to 75% of its tokens, half of the rows up to 50%.'
    """
    if not len(shares):
        return ""
    low, middle, high = (float(np.quantile(shares, q)) for q in (0, 0.5, 1))
    return (
        f"Learnt of each row: {low:.0%} to {high:.0%} of its tokens, half of the rows up to "
        f"{middle:.0%}."
    )


def html(tokens: np.ndarray, shares: np.ndarray, max_length: int) -> str:
    """Return both histograms as inline SVG, each with its words."""
    if not len(tokens):
        return ""
    end = _end_of_axis(tokens)
    lengths = np.histogram(np.minimum(tokens, end), bins=_BINS, range=(0, end))[0]
    learnt = np.histogram(shares, bins=_SHARE_BINS, range=(0, 1))[0]
    limit = max_length / end if max_length < end else None
    return (
        '<div style="display: flex; flex-wrap: wrap; gap: 8px 32px">'
        + _bars(lengths, lengths_in_words(tokens, max_length), f"{count(end)} tokens", limit)
        + _bars(learnt, trained_in_words(shares), "100% learnt", None)
        + "</div>"
    )


def _end_of_axis(tokens: np.ndarray) -> int:
    return max(1, enough_for(tokens, _LONGEST_SHOWN))


def _bars(counts: np.ndarray, words: str, end: str, limit: float | None) -> str:
    """Return a bar chart; a dashed line stands where rows are cut."""
    width, most = _WIDTH / len(counts), max(1, int(counts.max()))
    bars = "".join(
        f'<rect x="{n * width + 0.5:.1f}" y="{_HEIGHT - _HEIGHT * number / most:.1f}" '
        f'width="{width - 1:.1f}" height="{_HEIGHT * number / most:.1f}"/>'
        for n, number in enumerate(counts.tolist())
        if number
    )
    line = ""
    if limit is not None:
        x = _WIDTH * limit
        side, anchor = (3, "start") if limit < 0.75 else (-3, "end")  # where there is room
        line = (
            f'<path d="M{x:.1f} 0V{_HEIGHT}" stroke="currentColor" stroke-dasharray="4 3" '
            f'fill="none"/><text x="{x + side:.1f}" y="10" text-anchor="{anchor}" '
            'font-size="10" fill="currentColor">max_length</text>'
        )
    return (
        f'<figure style="margin: 0 0 8px; flex: 0 1 {_WIDTH + 60}px">'
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT + 1}" role="img" aria-label="{escape(words)}" '
        'style="display: block; width: 100%; height: auto">'
        f'<g fill="var(--jp-brand-color1, #1976d2)">{bars}</g>{line}'
        f'<path d="M0 {_HEIGHT + 0.5}H{_WIDTH}" stroke="currentColor" opacity="0.5"/></svg>'
        '<figcaption style="font-size: 12px; line-height: 1.45"><span style="display: flex; '
        f'justify-content: space-between"><span>0</span><span>{end}; the highest bar: '
        f"{count(most, 'row')}</span></span>{escape(words)}</figcaption></figure>"
    )


def draw(tokens: np.ndarray, shares: np.ndarray, max_length: int) -> Figure:
    """Draw both histograms with matplotlib."""
    from matplotlib.figure import Figure

    class Histograms(Figure):
        """A Figure that a notebook shows as a picture, whether or not pyplot is loaded."""

        def _repr_png_(self) -> bytes:
            png = io.BytesIO()
            self.savefig(png, format="png")
            return png.getvalue()

    figure = Histograms(figsize=(9, 3.2), dpi=110, layout="constrained", facecolor="white")
    left, right = figure.subplots(1, 2)
    if len(tokens):
        end = _end_of_axis(tokens)
        left.hist(np.minimum(tokens, end), bins=_BINS, range=(0, end), color=_BLUE)
        right.hist(shares, bins=_SHARE_BINS, range=(0, 1), color=_BLUE)
        if max_length < end:
            left.axvline(max_length, color=_RED, linestyle="--", label="data.max_length")
            left.legend(frameon=False)
    left.set(xlabel="tokens of a row", ylabel="rows", title="lengths")
    right.set(xlabel="share of a row that is learnt", ylabel="rows", title="learnt")
    for axes in (left, right):
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    return figure
