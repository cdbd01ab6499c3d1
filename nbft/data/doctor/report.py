"""`Report`: the doctor's findings, as values, as JSON, and as configs in which they are fixed.

`nbft.pages.findings` renders it as HTML and as text.
"""

from __future__ import annotations

import dataclasses
import difflib
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nbft import facade
from nbft.config import Config
from nbft.data.doctor.check import CHECKS
from nbft.data.doctor.finding import LEVELS, Finding, Rewrite
from nbft.data.doctor.histograms import Histogram, histograms, quantiles
from nbft.data.doctor.kinds import Level
from nbft.data.doctor.rewrite import Change, changes, rewritten
from nbft.errors import DataError
from nbft.formatting import count
from nbft.methods import method_of
from nbft.presented import Presented

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from nbft.data.doctor.measure import Seen

_SPLITS = {"train": "to train on", "validation": "held out", "test": "for the test"}


@dataclass(repr=False)
class Report(Presented):
    """The doctor's findings in the rows of a config.

    Attributes:
        config: The config.
        findings: Errors first, then warnings, then notes.
        rows: All rows of each split.
        looked_at: Rows that were checked.
        tokens: Tokens of each training row, whole.
        trained_share: Share of each training row that is trained on, at data.max_length.
        remarks: How the rows were recognised, and other messages from reading them.
        folder: Folder of the config file, for relative paths.
        seconds: How long it took.
        kinds: How many kinds of faults were looked for.
        failed: Why other kinds could not be looked for, by name.
        is_sample: Whether only some of the rows were checked.
        is_stopped: Whether that is because the check was stopped.
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
    kinds: int = 0
    failed: Mapping[str, str] = field(default_factory=dict)
    is_sample: bool = False
    is_stopped: bool = False

    @classmethod
    def of(cls, seen: Seen, findings: list[Finding], folder: Path | None) -> Report:
        """Return the report of what was recorded and found."""
        rows = seen.of("train") & seen.is_tokenised
        kept = np.minimum(seen.tokens[rows], seen.config.data.max_length)
        return cls(
            config=seen.config,
            findings=findings,
            rows={name: len(examples) for name, examples in seen.examples.items()},
            looked_at=len(seen),
            tokens=seen.tokens[rows],
            trained_share=(0 if method_of(seen.config).generates else 1)
            * seen.trained[rows]
            / kept,
            remarks=seen.remarks,
            folder=folder,
            kinds=len({*CHECKS, *seen.kinds} - {*seen.failed}),
            failed=dict(seen.failed),
            is_sample=seen.is_sample,
            is_stopped=seen.is_stopped,
        )

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

    def preview(self, name: str, most: int = 3) -> list[Change]:
        """Return the first rows that a fix changes, before and after.

        Args:
            name: Of the finding.
            most: How many rows.

        Raises:
            DataError: There is no such finding.
        """
        rewrite = self[name].rewrite
        if rewrite is None:
            return []
        return list(itertools.islice(changes(self.config, rewrite, folder=self.folder), most))

    def apply(
        self,
        name: str,
        *,
        rows: Sequence[int | tuple[str, int]] | None = None,
        folder: str | Path | None = None,
        say: Callable[[str], None] = lambda _: None,
    ) -> Config:
        """Return a config in which a finding is fixed.

        Settings are changed, or a new data file is written; the old file stays, so the old config
        undoes it. A report on a sample checks all rows before it writes one.

        Args:
            name: Of the finding.
            rows: Numbers of the rows to fix, in their file from 1, or pairs of dataset and number
                where several datasets have them; all when None. Must be given where what is wrong is
                a judgement.
            folder: Where a new file goes; beside the old one when None, or into the working folder
                where that cannot be written to.
            say: Told the progress once a second.

        Raises:
            DataError: There is no such finding, nothing fixes it, rows have to be chosen, or a file
                cannot be written.
        """
        finding = self[name]
        if not finding.has_fix:
            raise DataError(f"{name}: only you can fix it. {finding.fix}")
        if finding.rewrite is None:
            return self.config.apply(finding.changes)
        if rows is None and finding.rewrite.is_choice:
            some = ", ".join(map(repr, choices(finding)))
            fix = f"Look at them, and choose: report.apply({name!r}, rows=[{some}])."
            raise DataError(f"{name}: whether these rows are bad is your judgement. {fix}")
        if self.is_sample:
            from nbft.data.doctor.examine import doctor

            whole = doctor(self.config, folder=self.folder, say=say)
            return whole.apply(name, rows=rows, folder=folder)
        into = Path(folder).expanduser() if folder is not None else None
        return rewritten(self.config, _chosen(finding, rows), folder=self.folder, into=into)

    # In words

    @property
    def headline(self) -> str:
        """The number of rows and of findings, in a sentence."""
        splits = ", ".join(f"{count(number)} {_SPLITS[name]}" for name, number in self.rows.items())
        total = sum(self.rows.values())
        rows = f"{count(total, 'row')} ({splits})" if self.rows else "No rows could be read"
        if self.is_sample:
            stopped = " before it was stopped" if self.is_stopped else ""
            rows += f", of which {count(self.looked_at)} were checked{stopped}"
        levels = [(level, len(self.of_level(level))) for level in LEVELS]
        counts = ", ".join(count(number, level) for level, number in levels if number)
        return f"{rows}: {counts or 'no problems found'}."

    @property
    def looked_for(self) -> str:
        """What was looked for and what was not, so that silence is not taken for a clean bill."""
        failed = "".join(
            f" {name} could not be looked for ({why})." for name, why in self.failed.items()
        )
        return (
            f"Looked for {self.kinds} kinds of faults. Not looked for: wrong facts, bad style, "
            f"toxic answers without swear words, and whether the rows are enough.{failed}"
        )

    @property
    def histograms(self) -> tuple[Histogram, ...]:
        """The lengths of the training rows, and the share of each that is trained on."""
        return histograms(self.tokens, self.trained_share, self.config.data.max_length)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {
            "rows": self.rows,
            "looked_at": self.looked_at,
            "is_sample": self.is_sample,
            "is_stopped": self.is_stopped,
            "seconds": round(self.seconds, 2),
            "remarks": self.remarks,
            "looked_for": self.looked_for,
            "counts": {level: len(self.of_level(level)) for level in LEVELS},
            "findings": [finding.to_dict() for finding in self.findings],
            "tokens": quantiles(self.tokens),
            "trained_share": quantiles(self.trained_share),
        }

    def figure(self) -> Figure:
        """Draw the lengths of the training rows, and the share of each that is trained on."""
        figure: Figure = facade.draw_histograms(self.histograms)
        return figure


def choices(finding: Finding) -> list[int | tuple[str, int]]:
    """Return the rows that a finding shows, as `Report.apply` takes them."""
    assert finding.rewrite is not None
    is_one = len(finding.rewrite.rows) == 1
    return [place.row if is_one else (place.field, place.row) for place in finding.places]


def _chosen(finding: Finding, rows: Sequence[int | tuple[str, int]] | None) -> Rewrite:
    """Return the fix of a finding for some rows only."""
    rewrite = finding.rewrite
    assert rewrite is not None
    if rows is None:
        return rewrite
    known = {field: {*of_file.tolist()} for field, of_file in rewrite.rows.items()}
    chosen: dict[str, list[int]] = {}
    for row in rows:
        field, number = row if isinstance(row, tuple) else ("", row)
        fields = [f for f, numbers in known.items() if number in numbers and field in ("", f)]
        if len(fields) != 1:
            why = "is in several datasets" if fields else "is not among those found"
            fix = f"Choose of {', '.join(map(repr, choices(finding)))}."
            raise DataError(f"{finding.name}: row {row!r} {why}. {fix}")
        chosen.setdefault(fields[0], []).append(number)
    return dataclasses.replace(
        rewrite, rows={field: np.array(sorted(numbers)) for field, numbers in chosen.items()}
    )
