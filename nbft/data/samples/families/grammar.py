"""Rows of the grammar sample: a faulty sentence and the corrected one.

Every sentence is a line of `written/grammar.txt` with its mistakes marked. A line with
alternatives is a family and gives several rows; a plain line gives one.
"""

from __future__ import annotations

from random import Random

from nbft.data.samples.families import Row
from nbft.data.samples.families.markup import fill, read_written, wrong_and_right
from nbft.data.samples.families.people import draw_people

_ROWS_PER_FAMILY = 3
_DRAWS = 50


def rows_by_line(rng: Random) -> list[list[Row]]:
    """Make the rows of each line of the source, in the order of the source."""
    lines = read_written("grammar.txt").splitlines()
    return [_rows_of(line, rng) for line in lines if line and not line.startswith("#")]


def _rows_of(line: str, rng: Random) -> list[Row]:
    """Draw different rows from one line, at most `_ROWS_PER_FAMILY`."""
    rows: list[Row] = []
    for _ in range(_DRAWS):
        first, second = draw_people(rng, 2)
        wrong, right = wrong_and_right(fill(line, rng, {"A": first, "B": second}))
        row = {"input": wrong, "target": right}
        if row not in rows:
            rows.append(row)
        if len(rows) == _ROWS_PER_FAMILY:
            break
    return rows
