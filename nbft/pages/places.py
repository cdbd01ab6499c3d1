"""Where a run could train, as a table: time, memory and cost of each place, and what it lacks."""

from __future__ import annotations

from markupsafe import Markup

from nbft.formatting import count, duration, size
from nbft.pages.environment import render
from nbft.plan.places import Place, Places

_HEAD = ("place", "time", "memory", "cost", "state")


def html(places: Places) -> Markup:
    """Return a row for each place."""
    return render("compute", head=_HEAD, rows=_rows(places))


def text(places: Places) -> str:
    """Return the same for the terminal."""
    rows = [_HEAD, *_rows(places)]
    widths = [max(len(row[n]) for row in rows) for n in range(len(_HEAD) - 1)]
    return "\n".join(
        "  ".join([*(f"{cell:{width}}" for cell, width in zip(row, widths, strict=False)), row[-1]])
        for row in rows
    )


def _rows(places: Places) -> list[tuple[str, ...]]:
    return [(one.title, *_numbers(one), _state(one)) for one in places]


def _numbers(place: Place) -> tuple[str, str, str]:
    """Return time, memory and cost in words; those that are not known are dashes."""
    plan = place.plan
    time = f"about {duration(sum(plan.stages.values()))}" if plan.stages else "–"
    memory, free = plan.memory_bytes, size(plan.free_memory_bytes)
    needs = f"{size(memory)} of {free} free" if memory else f"{free} free"
    low, high = plan.cost_usd or (0.0, 0.0)
    price = f"{low:.2f}" if low == high else f"{low:.2f} to {high:.2f}"
    return time, needs, f"{price} USD" if high else "–"


def _state(place: Place) -> str:
    chosen = "Chosen now." if place.is_chosen else ""
    use = place.plan.device_use
    used = f"{use[:1].upper()}{use[1:]}." if use else ""
    problems = len(place.plan.errors)
    ready = f"{count(problems, 'problem')} to fix first." if problems else "Ready."
    return " ".join(filter(None, [place.missing or ready, used, chosen]))
