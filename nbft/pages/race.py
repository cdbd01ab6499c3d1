"""The table of a race: the contestants, the best first, as HTML and as text."""

from __future__ import annotations

from markupsafe import Markup

from nbft.formatting import aligned, count, number
from nbft.pages.environment import render
from nbft.runs.race import RaceTable, Standing


def html(table: RaceTable) -> Markup:
    """Return the table."""
    return render("race", head=_head(table), rows=[_cells(row) for row in table])


def text(table: RaceTable) -> str:
    """Return the table for a terminal."""
    return aligned([_head(table), *map(_cells, table)])


def _head(table: RaceTable) -> list[str]:
    return ["place", "run", "settings", "step", table.measure, "status"]


def _cells(row: Standing) -> list[str]:
    total = "" if row.total_steps is None else f" of {count(row.total_steps)}"
    return [
        "" if row.place is None else str(row.place),
        row.run,
        row.title,
        f"{count(row.step)}{total}",
        "not measured yet" if row.value is None else number(row.value),
        f"{row.status}: {row.reason}" if row.reason else row.status,
    ]
