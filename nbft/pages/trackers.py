"""The experiment trackers with their state, as a table."""

from __future__ import annotations

from markupsafe import Markup

from nbft.pages.environment import render
from nbft.tracking import TrackerTable

_HEAD = ("tracker", "in report_to", "state")


def html(trackers: TrackerTable) -> Markup:
    """Return a row for each tracker."""
    return render("trackers", head=_HEAD, rows=_rows(trackers))


def text(trackers: TrackerTable) -> str:
    """Return the same for the terminal."""
    rows = [_HEAD, *_rows(trackers)]
    first, second = (max(len(row[n]) for row in rows) for n in range(2))
    return "\n".join(f"{a:{first}}  {b:{second}}  {c}" for a, b, c in rows)


def _rows(trackers: TrackerTable) -> list[tuple[str, str, str]]:
    return [(one.tracker.title, one.tracker.name, one.sentence) for one in trackers]
