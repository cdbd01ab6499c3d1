"""`Report`: what the doctor found, as text, HTML, JSON, a figure, and configs with it mended.

HTML carries its styles on the elements, because notebook viewers drop style sheets, and takes its
colours from the theme. Colour never says anything alone.
"""

from __future__ import annotations

import difflib
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nbft.config import Config
from nbft.data.doctor import histograms
from nbft.data.doctor.finding import LEVELS, Finding, Level
from nbft.data.doctor.rewrite import rewritten
from nbft.errors import DataError
from nbft.formatting import count, duration

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from nbft.data.doctor.measure import Seen

_WIDTH = 96  # of the text, in characters
_BORDER = "1px solid var(--jp-border-color2, #c4c4c4)"
_CELL = (
    f"border: {_BORDER}; padding: 6px 8px; text-align: left; vertical-align: top; "
    "white-space: normal; overflow-wrap: anywhere"
)
_MUTED = "color: var(--jp-content-font-color2, #595959)"
COLOURS = {
    "error": "var(--jp-error-color1, #d32f2f)",
    "warning": "var(--jp-warn-color1, #b26a00)",
    "note": "var(--jp-border-color1, #9e9e9e)",
}


@dataclass
class Report:
    """What the doctor found in the rows of a config.

    Attributes:
        config: The config.
        findings: Errors first, then warnings, then notes.
        rows: Rows of each split that there are.
        looked_at: Rows that were looked at.
        tokens: Tokens of each training row, whole.
        trained_share: Share of each training row that is learnt, at data.max_length.
        remarks: How the rows were recognised, and what was said on reading them.
        folder: Folder of the config file, for relative paths.
        seconds: How long it took.
    """

    config: Config
    findings: list[Finding]
    rows: dict[str, int]
    looked_at: int
    tokens: np.ndarray = field(repr=False)
    trained_share: np.ndarray = field(repr=False)
    remarks: list[str]
    folder: Path | None = None
    seconds: float = 0.0

    @classmethod
    def of(cls, seen: Seen, found: list[Finding], folder: Path | None) -> Report:
        """Return the report of what was seen and found."""
        rows = seen.of("train") & (seen.tokens > 0)
        kept = np.minimum(seen.tokens[rows], seen.config.data.max_length)
        return cls(
            config=seen.config,
            findings=found,
            rows={name: len(examples) for name, examples in seen.examples.items()},
            looked_at=len(seen),
            tokens=seen.tokens[rows],
            trained_share=seen.trained[rows] / kept,
            remarks=seen.remarks,
            folder=folder,
        )

    @property
    def is_sample(self) -> bool:
        """Whether only some of the rows were looked at."""
        return self.looked_at < sum(self.rows.values())

    def of_level(self, level: Level) -> list[Finding]:
        """Return the findings of a level."""
        return [finding for finding in self.findings if finding.level == level]

    def __getitem__(self, name: str) -> Finding:
        """Return a finding by its name.

        Raises:
            DataError: There is none of that name.
        """
        known = {finding.name: finding for finding in self.findings}
        if name in known:
            return known[name]
        close = difflib.get_close_matches(name, known, n=1)
        fix = f"Did you mean {close[0]}?" if close else f"Found: {', '.join(known) or 'nothing'}."
        raise DataError(f"{name}: was not found in these rows. {fix}")

    def __contains__(self, name: str) -> bool:
        return any(finding.name == name for finding in self.findings)

    def apply(
        self,
        name: str,
        *,
        folder: str | Path | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> Config:
        """Return a config in which a finding is mended.

        Settings are changed, or a new data file is written without what was found; the old file
        stays. A report on a sample looks at all rows before it writes one.

        Args:
            name: Of the finding.
            folder: Where a new file goes; beside the old one, or here where that is not allowed.
            say: Told once a second how far it is.

        Raises:
            DataError: There is no such finding, nothing mends it, or a file cannot be written.
        """
        finding = self[name]
        if not finding.has_fix:
            raise DataError(f"{name}: only you can mend it. {finding.fix}")
        if finding.rewrite is None:
            return self.config.apply(finding.changes)
        if self.is_sample:
            from nbft.data.doctor.examine import doctor

            whole = doctor(self.config, folder=self.folder, say=say)
            return whole.apply(name, folder=folder)
        into = Path(folder).expanduser() if folder is not None else None
        return rewritten(self.config, finding.rewrite, folder=self.folder, into=into)

    # In words

    @property
    def headline(self) -> str:
        """How many rows, and how much was found in them; a sentence or two."""
        splits = ", ".join(f"{count(number)} {_SPLITS[name]}" for name, number in self.rows.items())
        total = sum(self.rows.values())
        rows = f"{count(total, 'row')} ({splits})" if self.rows else "No rows could be read"
        if self.is_sample:
            rows += f", of which {count(self.looked_at)} were looked at"
        levels = [(level, len(self.of_level(level))) for level in LEVELS]
        said = ", ".join(count(number, level) for level, number in levels if number)
        return f"{rows}: {said or 'nothing was found'}."

    @property
    def lengths_text(self) -> str:
        """The lengths of the training rows in words; empty without rows."""
        return histograms.lengths_in_words(self.tokens, self.config.data.max_length)

    @property
    def trained_text(self) -> str:
        """The share of each row that is learnt, in words; empty without rows."""
        return histograms.trained_in_words(self.trained_share)

    def __str__(self) -> str:
        """Return the report as text for a terminal."""
        lines = [self.headline, *self.remarks, ""]
        for finding in self.findings:
            lines.append(f"{finding.level:<8} {finding.name}")
            texts = [finding.what, finding.why, _fix_text(finding)]
            lines += [line for text in texts for line in _indented(text)]
            if finding.places:
                lines += _indented(f"{finding.rows_text}.")
                lines += _indented(f"“{finding.places[0].text}”")
            lines.append("")
        lines += [text for text in (self.lengths_text, self.trained_text) if text]
        return "\n".join(lines).rstrip()

    def __repr__(self) -> str:
        return str(self)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {
            "rows": self.rows,
            "looked_at": self.looked_at,
            "is_sample": self.is_sample,
            "seconds": round(self.seconds, 2),
            "remarks": self.remarks,
            "counts": {level: len(self.of_level(level)) for level in LEVELS},
            "findings": [finding.to_dict() for finding in self.findings],
            "tokens": histograms.quantiles(self.tokens),
            "trained_share": histograms.quantiles(self.trained_share),
        }

    # As pictures

    def figure(self) -> Figure:
        """Draw the lengths of the training rows, and the share of each that is learnt."""
        return histograms.draw(self.tokens, self.trained_share, self.config.data.max_length)

    def histograms_html(self) -> str:
        """Return both histograms as inline SVG with words beneath."""
        return histograms.html(self.tokens, self.trained_share, self.config.data.max_length)

    def _repr_html_(self) -> str:
        took = f" Checked in {duration(self.seconds)}." if self.seconds else ""
        remarks = "".join(f"<li>{escape(remark)}</li>" for remark in self.remarks)
        rows = "".join(map(_row, self.findings))
        table = (
            '<table style="border-collapse: collapse; width: 100%; margin: 4px 0 1em; '
            'font-size: inherit; line-height: 1.45"><thead><tr>'
            f'<th scope="col" style="{_CELL}; width: 5em">level</th>'
            f'<th scope="col" style="{_CELL}">what was found, and why it matters</th>'
            f'<th scope="col" style="{_CELL}; width: 30%">what mends it</th></tr></thead>'
            f"<tbody>{rows}</tbody></table>"
        )
        return (
            f'<div style="max-width: 1200px"><p><b>{escape(self.headline)}</b>{escape(took)}</p>'
            f"{f'<ul>{remarks}</ul>' if remarks else ''}{table if rows else ''}"
            f"{self.histograms_html()}</div>"
        )


_SPLITS = {"train": "to train on", "validation": "held out", "test": "for the test"}


def _fix_text(finding: Finding) -> str:
    """Return what mends a finding, and the call that does."""
    if not finding.has_fix:
        return finding.fix
    return f'{finding.fix} report.apply("{finding.name}")'


def _indented(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent=" " * 9, subsequent_indent=" " * 9)


def _row(finding: Finding) -> str:
    bar = f"border-left: 4px solid {COLOURS[finding.level]}"
    fix = escape(finding.fix)
    if finding.has_fix:
        writes = "writes a new file: " if finding.rewrite else ""
        fix += (
            f'<br><span style="{_MUTED}">{writes}</span>'
            f'<code style="white-space: normal">report.apply(&quot;{finding.name}&quot;)</code>'
        )
    return (
        f'<tr style="background: transparent"><td style="{_CELL}; {bar}">{finding.level}</td>'
        f'<td style="{_CELL}"><b>{finding.name}</b><br>{escape(finding.what)}<br>'
        f'<span style="{_MUTED}">{escape(finding.why)}</span>{places_html(finding)}</td>'
        f'<td style="{_CELL}">{fix}</td></tr>'
    )


def places_html(finding: Finding) -> str:
    """Return the rows of a finding, folded; empty without any."""
    if not finding.places:
        return ""
    fields = {place.field for place in finding.places}
    items = "".join(_items(finding, is_named=len(fields) > 1))
    return (
        f"<details><summary>{escape(finding.rows_text)}</summary>"
        f'<ul style="margin: 2px 0; overflow-wrap: anywhere">{items}</ul></details>'
    )


def _items(finding: Finding, *, is_named: bool) -> Iterable[str]:
    for place in finding.places:
        where = f" of {place.field}" if is_named else ""
        yield (
            f"<li>row {count(place.row)}{escape(where)} ({place.split}): "
            f"<code>{escape(place.text)}</code></li>"
        )
