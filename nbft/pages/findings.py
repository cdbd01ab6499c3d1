"""The doctor's findings: as a table, one by one, and as text for the terminal."""

from __future__ import annotations

import textwrap

from markupsafe import Markup

from nbft.data.doctor.finding import Finding
from nbft.data.doctor.report import Report
from nbft.pages import histograms
from nbft.pages.environment import render

_WIDTH = 96  # of the text, in characters


def html(report: Report) -> Markup:
    """Return the findings as a table, with the histograms below."""
    return render("findings", report=report, histograms=histograms.html(report.histograms))


def finding(found: Finding) -> Markup:
    """Return one finding with its rows, folded."""
    return render("finding", finding=found)


def text(report: Report) -> str:
    """Return the findings as text for a terminal."""
    lines = [report.headline, *report.remarks, ""]
    for found in report.findings:
        lines.append(f"{found.level:<8} {found.name}")
        fix = f'{found.fix} report.apply("{found.name}")' if found.has_fix else found.fix
        for sentence in (found.what, found.why, fix):
            lines += _indented(sentence)
        if found.places:
            lines += _indented(f"{found.rows_text}.")
            lines += _indented(f"“{found.places[0].text}”")
        lines.append("")
    lines += [histogram.words for histogram in report.histograms]
    return "\n".join(lines).rstrip()


def _indented(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=" " * 9, subsequent_indent=" " * 9)
