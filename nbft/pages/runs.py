"""Runs beside each other: losses, scores, settings and answers, as HTML and as text."""

from __future__ import annotations

import base64
import math

from markupsafe import Markup

from nbft.charts import png
from nbft.formatting import aligned, count, number
from nbft.pages import comparison
from nbft.pages.environment import render
from nbft.runs.comparison import Measured, RunComparison
from nbft.runs.curves import in_words

_NO_SETTINGS = "No setting differs."


def html(runs: RunComparison) -> Markup:
    """Return the losses as a picture, and tables of what differs."""
    described = [
        f"{name}: {in_words(state)}" for name, state in zip(runs.names, runs.states, strict=True)
    ]
    return render(
        "runs",
        picture=base64.b64encode(png(runs.figure())).decode(),
        alt=" ".join(described),
        tables=_tables(runs),
        no_settings="" if runs.settings else _NO_SETTINGS,
        said=_said(runs),
        answers=comparison.html(runs) if runs.answered else "",
    )


def text(runs: RunComparison) -> str:
    """Return the same for the terminal, without the picture."""
    blocks = []
    for caption, head, rows in _tables(runs):
        blocks.append("\n".join([*([caption] if caption else []), aligned([head, *rows])]))
    if not runs.settings:
        blocks.append(_NO_SETTINGS)
    blocks.append(_said(runs))
    if runs.answered:
        blocks.append(comparison.text(runs))
    return "\n\n".join(blocks)


def _tables(runs: RunComparison) -> list[tuple[str, list[str], list[list[str]]]]:
    """Return a caption, a head and rows of each table."""
    tables = [
        (
            "",
            ["run", "loss", "held-out loss"],
            [[name, *map(_loss, losses)] for name, *losses in runs.losses],
        )
    ]
    if runs.scores:
        rows = [
            [f"{one.label} (test)" if one.split == "test" else one.label, *map(_score, one.runs)]
            for one in runs.scores
        ]
        caption = "Scores, with what to expect on more rows like these (95% confidence)"
        tables.append((caption, ["score", *runs.names], rows))
    if runs.settings:
        rows = [[path, *map(_value, values)] for path, values in runs.settings.items()]
        tables.append(("Settings that differ", ["setting", *runs.names], rows))
    return tables


def _loss(value: float | None) -> str:
    return "unknown" if value is None else number(value)


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return "empty" if value is None else str(value)


def _score(one: Measured | None) -> str:
    """Return a score with its bounds and its verdict.

    >>> _score(Measured(0.5, 48, 0.364, 0.636, "better, may be chance", "50% (24 of 48)"))
    '50% (24 of 48), 36% to 64%; better, may be chance'
    """
    if one is None:
        return "not scored"
    bounds = ""
    if one.low is not None and one.high is not None and math.isfinite(one.value):
        is_share = "%" in one.text
        low, high = (f"{v:.0%}" if is_share else number(v) for v in (one.low, one.high))
        bounds = f", {low} to {high}"
    return f"{one.text}{bounds}" + (f"; {one.verdict}" if one.verdict else "")


def _said(runs: RunComparison) -> str:
    if not runs.prompts:
        return "The runs have answered no prompt in common."
    differing, prompts = count(len(runs.answered)), count(runs.prompts, "prompt")
    return f"{differing} of {prompts} in common are answered differently."
