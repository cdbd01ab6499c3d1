"""The losses of a learning rate test: a curve as inline SVG, what it says, and its values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from markupsafe import Markup

from nbft.formatting import aligned, count, duration, number
from nbft.pages.environment import render
from nbft.runs.range_test import RangeTest

WIDTH, HEIGHT = 560, 180  # of the drawing, in its own units
_LEFT, _BOTTOM, _TOP = 44, 18, 14  # room for the numbers at its sides
_ROWS = 24  # of the table, at most
_ROWS_OF_TEXT = 12
_HEAD = ("learning rate", "loss", "smoothed")


def html(found: RangeTest, *, has_sentence: bool = True) -> Markup:
    """Return what was found, the curve, what it depends on, and the values, folded.

    Args:
        found: The test; while it is running only the curve is shown.
        has_sentence: Whether what was found is said, too.
    """
    steps = sum(map(math.isfinite, found.losses))
    is_over = found.ending != "running"
    return render(
        "range_test",
        sentence=found.sentence if has_sentence and is_over else "",
        caveat=found.caveat if found.losses and is_over else "",
        drawing=_drawing(found) if steps > 1 else None,
        words=in_words(found),
        head=_HEAD,
        rows=_rows(found, _ROWS),
        about=about(found),
        width=WIDTH,
        height=HEIGHT,
    )


def text(found: RangeTest) -> str:
    """Return the same for the terminal."""
    if not found.losses:
        return "\n".join([found.sentence, about(found)])
    table = aligned([_HEAD, *_rows(found, _ROWS_OF_TEXT)], ">")
    return "\n".join([table, "", found.sentence, found.caveat, about(found)])


def about(found: RangeTest) -> str:
    """Return how long it took, as a sentence."""
    steps = count(len(found.losses), "step")
    return f"The test took {duration(found.seconds)} for {steps}."


def in_words(found: RangeTest) -> str:
    """Describe the curve, for those who cannot see it."""
    pairs = [
        (rate, loss)
        for rate, loss in zip(found.learning_rates, found.smoothed, strict=True)
        if math.isfinite(loss)
    ]
    if len(pairs) < 2:
        return "No curve yet."
    lowest = min(pairs, key=lambda pair: pair[1])
    said = ", ".join(
        f"{number(loss)} {where}"
        for loss, where in (
            (pairs[0][1], f"at a learning rate of {number(_short(pairs[0][0]))}"),
            (lowest[1], f"at {number(_short(lowest[0]))}, where it is lowest"),
            (pairs[-1][1], f"at {number(_short(pairs[-1][0]))}"),
        )
    )
    return f"Smoothed loss: {said}."


def _rows(found: RangeTest, most: int) -> list[tuple[str, str, str]]:
    """Return the learning rate and both losses of some steps, evenly spread."""
    steps = len(found.losses)
    last = max(0, steps - 1)
    chosen = sorted({round(n * last / max(1, most - 1)) for n in range(min(most, steps))})
    return [
        (
            number(_short(found.learning_rates[n])),
            number(found.losses[n]),
            number(found.smoothed[n]),
        )
        for n in chosen
    ]


def _short(rate: float) -> float:
    return float(f"{rate:.1e}")


def _drawing(found: RangeTest) -> dict[str, object]:
    """Return the places of all parts of the drawing.

    Losses above the range are drawn at its upper edge: an explosion would flatten all the rest.
    """
    rates = [math.log10(rate) for rate in found.learning_rates]
    finite = [loss for loss in found.losses if math.isfinite(loss)]
    smoothed = [loss for loss in found.smoothed if math.isfinite(loss)]
    low, level = min(finite), smoothed[0]
    first = finite[: max(2, len(finite) // 4)]
    high = max(*first, level + (level - min(smoothed)) / 2)
    high = high if high > low else low + 1.0

    def x(rate: float) -> float:
        return _LEFT + (WIDTH - _LEFT) * (rate - rates[0]) / (rates[-1] - rates[0])

    def y(loss: float) -> float:
        share = min(1.0, (loss - low) / (high - low))
        return HEIGHT - _BOTTOM - (HEIGHT - _BOTTOM - _TOP) * share

    def line(values: Sequence[float]) -> str:
        pairs: Iterable[tuple[float, float]] = zip(rates, values, strict=True)
        return " ".join(f"{x(r):.1f},{y(v):.1f}" for r, v in pairs if math.isfinite(v))

    decades = range(math.ceil(rates[0] - 1e-9), math.floor(rates[-1] + 1e-9) + 1)
    at = found.suggested if found.ending != "running" else None
    return {
        "left": _LEFT,
        "top": _TOP,
        "bottom": HEIGHT - _BOTTOM,
        "ticks": [(round(x(decade), 1), f"1e{decade}") for decade in decades],
        "low": (number(low), round(y(low), 1)),
        "high": (number(high), round(y(high), 1)),
        "raw": line(found.losses),
        "smooth": line(found.smoothed),
        "suggested": None if at is None else (round(x(math.log10(at)), 1), number(at)),
    }
