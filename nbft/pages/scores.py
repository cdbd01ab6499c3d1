"""The scores of a run as a table, the base model beside the tuned one."""

from __future__ import annotations

from markupsafe import Markup

from nbft.evaluate.scores import Compared, Scores, cells, head, rows_scored
from nbft.formatting import aligned
from nbft.pages.environment import render


def html(scores: Scores) -> Markup:
    """Return a table for each split, and the remarks."""
    tables = [
        (caption, head(own), [(cells(one), one.verdict in ("better", "worse")) for one in own])
        for caption, own in _tables(scores)
    ]
    return render("scores", tables=tables, remarks=scores.remarks)


def text(scores: Scores) -> str:
    """Return the same for the terminal."""
    if not scores:
        return "No scores yet. evaluation.metrics, such as exact_match, says what is measured."
    blocks = []
    for caption, own in _tables(scores):
        table = aligned([head(own), *map(cells, own)])
        blocks.append("\n".join([*([caption] if caption else []), table]))
    return "\n\n".join([*blocks, *scores.remarks])


def _tables(scores: Scores) -> list[tuple[str, list[Compared]]]:
    """Return the scores of each split, with a caption where there are several splits."""
    splits = scores.by_split()
    several = len(splits) > 1
    return [(rows_scored(own[0]) if several else "", own) for own in splits]
