"""Where a run could train: the devices here, and time, memory and cost of each place."""

from __future__ import annotations

from markupsafe import Markup

from nbft.formatting import aligned, count, duration, size
from nbft.pages.environment import render
from nbft.plan.places import Place, Places

_HERE = ("device", "free memory", "used by")
_HEAD = ("place", "time", "memory", "cost", "state")


def html(places: Places) -> Markup:
    """Return a table of the devices here, and one of the places."""
    tables = (("Devices here", _HERE, _devices(places)), ("Places to train", _HEAD, _rows(places)))
    return render("compute", tables=tables, remarks=places.remarks)


def text(places: Places) -> str:
    """Return the same for the terminal."""
    tables = aligned([_HERE, *_devices(places)]), aligned([_HEAD, *_rows(places)])
    return "\n\n".join([*tables, "\n".join(places.remarks)]).rstrip()


def _devices(places: Places) -> list[tuple[str, ...]]:
    return [(one.title, size(one.free_bytes), ", ".join(one.users) or "–") for one in places.here]


def _rows(places: Places) -> list[tuple[str, ...]]:
    return [(one.title, *_numbers(one), _state(one)) for one in places]


def _numbers(place: Place) -> tuple[str, str, str]:
    """Return time, memory and cost in words; those that are not known are dashes."""
    plan = place.plan
    time = f"about {duration(sum(plan.stages.values()))}" if plan.stages else "–"
    memory, free = plan.memory_bytes, size(plan.free_memory_bytes)
    needs = f"about {size(memory)} of {free} free" if memory else f"{free} free"
    low, high = plan.cost_usd or (0.0, 0.0)
    if place.offer and place.offer.seconds and (cost := place.offer.cost_usd()):
        low, high = cost
        time = " to ".join(map(duration, place.offer.seconds))
    price = f"{low:.2f}" if low == high else f"{low:.2f} to {high:.2f}"
    return time, needs, f"about {price} USD" if high else "–"


def _state(place: Place) -> str:
    plan = place.plan
    words = "Ready."
    if problems := len(plan.errors):
        words = f"{count(problems, 'problem')} to fix first."
    if plan.memory_bytes is not None and plan.memory_bytes > plan.free_memory_bytes:
        words = "Too little memory."
    chosen = "Chosen now." if place.is_chosen else ""
    return " ".join(filter(None, [chosen, place.missing or words, place.remark]))
