"""Answers with their rewards as a table, those to one prompt below each other."""

from __future__ import annotations

from markupsafe import Markup

from nbft.evaluate.timeline import one_line
from nbft.formatting import count
from nbft.pages.environment import render
from nbft.rewards.table import Rewarded, RewardTable


def html(table: RewardTable) -> Markup:
    """Return the remarks, and a table with a group of rows for each prompt."""
    groups = [
        (group[0].prompt.strip(), group[0].wanted.strip(), [_cells(row, table) for row in group])
        for group in table.groups
    ]
    return render("rewarded", head=_head(table), groups=groups, remarks=table.remarks)


def text(table: RewardTable) -> str:
    """Return the same for the terminal."""
    if not table.rows:
        return "No answers yet."
    blocks = []
    for group in table.groups:
        lines = [_head(table), *(_cells(row, table) for row in group)]
        widths = [max(len(line[n]) for line in lines) for n in range(1, len(lines[0]))]
        cells = [
            "  ".join([*(f"{c:>{w}}" for c, w in zip(line[1:], widths, strict=True)), line[0]])
            for line in ([one_line(line[0]), *line[1:]] for line in lines)
        ]
        wanted = [f"wanted: {one_line(group[0].wanted)}"] if group[0].wanted.strip() else []
        blocks.append("\n".join([one_line(group[0].prompt), *wanted, *cells]))
    means = ", ".join(f"{name} {value:.2f}" for name, value in table.means.items())
    about = f"{count(len(table), 'answer')}; means: {means}."
    return "\n\n".join([*blocks, about, *table.remarks])


def _head(table: RewardTable) -> list[str]:
    advantage = ["advantage"] if _has_advantages(table) else []
    return ["answer", "tokens", *table.names, "reward", *advantage]


def _cells(row: Rewarded, table: RewardTable) -> list[str]:
    tokens = f"{row.tokens:,}{' (cut)' if row.is_cut else ''}" if row.tokens else ""
    values = [f"{row.rewards[name]:.2f}" for name in table.names]
    advantage = [f"{row.advantage or 0:+.2f}"] if _has_advantages(table) else []
    shown = row.completion.strip() or "(empty answer)"
    return [shown, tokens, *values, f"{row.reward:.2f}", *advantage]


def _has_advantages(table: RewardTable) -> bool:
    return any(row.advantage is not None for row in table.rows)
