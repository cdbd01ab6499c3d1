"""The scores of a run as a table, the base model beside the tuned one."""

from __future__ import annotations

import math
from collections.abc import Sequence

from markupsafe import Markup

from nbft.evaluate.metrics import SCORES
from nbft.evaluate.scores import Compared, Scores, rows_scored, shown
from nbft.formatting import count, number
from nbft.pages.environment import render


def html(scores: Scores) -> Markup:
    """Return a table for each split, and the remarks."""
    tables = [
        (caption, _head(own), [(_cells(one), one.verdict in ("better", "worse")) for one in own])
        for caption, own in _tables(scores)
    ]
    return render("scores", tables=tables, remarks=scores.remarks)


def text(scores: Scores) -> str:
    """Return the same for the terminal."""
    if not scores:
        return "No scores yet."
    blocks = []
    for caption, own in _tables(scores):
        lines = [_head(own), *(_cells(one) for one in own)]
        widths = [max(len(line[n]) for line in lines) for n in range(3)]
        rows = [
            "  ".join([*(f"{c:{w}}" for c, w in zip(line, widths, strict=False)), line[3]])
            for line in lines
        ]
        blocks.append("\n".join([*([caption] if caption else []), *map(str.rstrip, rows)]))
    return "\n\n".join([*blocks, *scores.remarks])


def _tables(scores: Scores) -> list[tuple[str, list[Compared]]]:
    """Return the scores of each split, with a caption where there are several splits."""
    splits = scores.by_split()
    several = len(splits) > 1
    return [(rows_scored(own[0]) if several else "", own) for own in splits]


def _head(own: Sequence[Compared]) -> tuple[str, str, str, str]:
    step = own[0].step
    return "score", "base model", f"after step {step:,}" if step else "tuned", "difference"


def _cells(one: Compared) -> tuple[str, str, str, str]:
    base = "not scored" if one.base is None else shown(one.score, one.base, one.rows)
    last = shown(one.score, one.last, one.rows)
    if one.step == 0:
        return one.label, base, "", ""
    return one.label, base, last, ": ".join(filter(None, (_difference(one), one.verdict)))


def _difference(one: Compared) -> str:
    by = one.last - one.base if one.base is not None else math.nan
    if one.verdict == "the same" or not math.isfinite(by):
        return ""
    sign = "+" if by > 0 else "\u2212"
    if one.score in SCORES and SCORES[one.score].is_yes_or_no:
        return sign + count(round(abs(by) * one.rows), "row")
    return sign + number(abs(by))
