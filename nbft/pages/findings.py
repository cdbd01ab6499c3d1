"""The doctor's findings: as a table, one by one, and as text for the terminal."""

from __future__ import annotations

import json
import textwrap

from markupsafe import Markup

from nbft.data.doctor.finding import Finding
from nbft.data.doctor.report import Report, choices
from nbft.data.doctor.rewrite import Change
from nbft.data.doctor.text import excerpt
from nbft.pages import histograms
from nbft.pages.environment import render

_WIDTH = 96  # of the text, in characters


def html(report: Report) -> Markup:
    """Return the findings as a table, with the histograms below."""
    return render(
        "findings", report=report, call=call, histograms=histograms.html(report.histograms)
    )


def finding(found: Finding) -> Markup:
    """Return one finding with its rows, folded."""
    return render("finding", finding=found)


def call(found: Finding) -> str:
    """Return the call that fixes a finding; where a person has to choose, for the rows shown."""
    if found.rewrite is None or not found.rewrite.is_choice:
        return f'report.apply("{found.name}")'
    return f'report.apply("{found.name}", rows=[{", ".join(map(repr, choices(found)))}])'


def changed(change: Change) -> Markup:
    """Return a row before and after a fix."""
    return render("change", change=change, columns=_columns(change))


def _columns(change: Change) -> list[tuple[str, str, str | None]]:
    """Return the columns that a fix changes, before and after; all of a row that is left out."""
    after = change.after
    names = [
        n
        for n in {**change.before, **(after or {})}
        if after is None or change.before.get(n) != after.get(n)
    ]
    return [
        (name, _shown(change.before.get(name)), None if after is None else _shown(after.get(name)))
        for name in names
    ]


def _shown(value: object) -> str:
    written = (
        value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    )
    return excerpt(written, width=_CHANGE_WIDTH)


_CHANGE_WIDTH = 300


def text(report: Report) -> str:
    """Return the findings as text for a terminal."""
    lines = [report.headline, *report.remarks, ""]
    for found in report.findings:
        lines.append(f"{found.level:<8} {found.name}")
        fix = f"{found.fix} {call(found)}" if found.has_fix else found.fix
        for sentence in (found.what, found.why, fix):
            lines += _indented(sentence)
        if found.places:
            lines += _indented(f"{found.rows_text}.")
            lines += _indented(f"“{found.places[0].text}”")
        lines.append("")
    lines += textwrap.wrap(report.looked_for, _WIDTH)
    lines += [histogram.words for histogram in report.histograms]
    return "\n".join(lines).rstrip()


def _indented(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=" " * 9, subsequent_indent=" " * 9)
