"""How values are laid out for people: as HTML by jinja2, with every value escaped, and as text.

One module per kind of value, one template per page.
"""

from __future__ import annotations

import importlib
from typing import Any

_PAGES = {
    "nbft.evaluate.compare.Answers": "comparison",
    "nbft.evaluate.compare.Comparison": "comparison",
    "nbft.evaluate.timeline.Timeline": "timeline",
    "nbft.evaluate.scores.Scores": "scores",
    "nbft.data.doctor.report.Report": "findings",
    "nbft.plan.places.Places": "places",
    "nbft.rewards.table.RewardTable": "rewarded",
    "nbft.runs.comparison.RunComparison": "runs",
    "nbft.runs.race.RaceTable": "race",
    "nbft.runs.range_test.RangeTest": "range_test",
    "nbft.tracking.TrackerTable": "trackers",
}
"""The module of each kind of value, which has `html` and `text`."""


def html(value: Any) -> str:
    """Return a value as HTML."""
    return str(_page_of(value).html(value))


def text(value: Any) -> str:
    """Return a value as text for a terminal."""
    return str(_page_of(value).text(value))


def _page_of(value: Any) -> Any:
    names = (f"{kind.__module__}.{kind.__qualname__}" for kind in type(value).__mro__)
    page = next((_PAGES[name] for name in names if name in _PAGES), None)
    if page is None:
        raise TypeError(f"nbft.pages has no page for a {type(value).__name__}.")
    return importlib.import_module(f"nbft.pages.{page}")
