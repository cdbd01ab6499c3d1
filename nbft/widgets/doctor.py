"""The doctor's findings in the rows, with a button for each fix and the mask lens for each row.

The doctor works on a thread, so the kernel stays free; its progress and results are handed to the
main thread, which alone touches widgets.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import ipywidgets
from markupsafe import Markup

from nbft.config import Config
from nbft.data.doctor import Finding, Report, doctor
from nbft.errors import NbftError
from nbft.formatting import count, duration
from nbft.pages import findings as page
from nbft.pages import histograms
from nbft.widgets.background import Task
from nbft.widgets.fields import fix_words
from nbft.widgets.kernel import call_soon, is_main_thread, main_loop
from nbft.widgets.kit import Kit

SAMPLE_ROWS = 2_000
"""Rows that are checked unasked: about two seconds of work, and enough for most findings."""


class _OvertakenError(Exception):
    """Another check has begun, so this one is cancelled."""


class Findings:
    """Problems with the rows of a config, and their fixes.

    Args:
        subject: A report to show, or a config whose rows are to be checked.
        kit: Makes the widgets.
        on_fixed: Called with the config in which a finding is fixed, and a sentence about the fix,
            instead of checking the new config.

    Attributes:
        widget: The widget to be shown.
        config: The config, with the fixes so far.
        report: The last report; None before the first check.
    """

    def __init__(
        self,
        subject: Report | Config | None = None,
        *,
        kit: Kit | None = None,
        on_fixed: Callable[[Config, str], None] | None = None,
    ) -> None:
        self._kit = kit = kit or Kit()
        self._on_fixed = on_fixed
        self._turn = 0  # grows with each task; earlier ones are ignored
        self.report: Report | None = None
        self.config = Config()
        title = kit.html('<h3 style="margin: 6px 0 4px">The rows</h3>')
        self._state = kit.html("")
        self._list = kit.slot("nbft-findings")
        self.widget = kit(ipywidgets.VBox, "nbft-doctor", children=(title, self._state, self._list))
        if isinstance(subject, Report):
            self.show(subject)
        elif subject is not None:
            self.check(subject)

    def _ipython_display_(self) -> None:
        from IPython.display import display

        display(self.widget)
        main_loop()

    def show(self, report: Report) -> None:
        """Show a report."""
        self.config, self.report = report.config, report
        took = f" It took {duration(report.seconds)}." if report.seconds else ""
        self._say(report.headline + took)
        self._list.show(lambda kit: self._findings(kit, report))

    def _findings(self, kit: Kit, report: Report) -> Iterator[Any]:
        for finding in report.findings:
            yield self._finding(kit, finding)
        if report.is_sample:
            text = f"Check all {count(sum(report.rows.values()))} rows"
            check_all = functools.partial(self.check, self.config, sample=None)
            yield kit.row(_button(kit, text, "Check every row", check_all))
        yield kit.html(histograms.html(report.histograms))

    def check(self, config: Config, *, sample: int | None = SAMPLE_ROWS) -> None:
        """Check the rows of a config in the background, and show the findings.

        Args:
            config: The config.
            sample: Approximate number of rows to check; all when None.
        """
        self.config = config
        self._list.show()
        self._work(
            "Checking the rows …", lambda say: doctor(config, sample=sample, say=say), self.show
        )

    def offer(self, config: Config, why: str) -> None:
        """Offer to check the rows, with a sentence why they have not been checked."""
        self.stop()
        self._say(why)
        check = functools.partial(self.check, config)
        self._list.show(lambda kit: [kit.row(_button(kit, "Check the rows", why, check))])

    def stop(self) -> None:
        """Cancel the work in the background."""
        self._turn += 1

    def close(self) -> None:
        """Close it with every widget of its own."""
        self.stop()
        self._kit.close()

    def _work(
        self, what: str, task: Callable[[Callable[[str], None]], Any], done: Callable[[Any], None]
    ) -> None:
        """Do something on a thread, and hand the result to the main thread."""
        self.stop()
        turn = self._turn
        self._say(what)

        def unless_overtaken(action: Callable[[Any], None], value: Any) -> None:
            if turn == self._turn:
                action(value)

        def say(text: str) -> None:
            if turn != self._turn:
                raise _OvertakenError
            call_soon(unless_overtaken, self._say, text)

        def fail(error: Exception) -> None:
            text = f"This failed ({type(error).__name__}: {error})."
            if isinstance(error, NbftError):
                text = " ".join(map(str, error.problems))
            self._say(text, "alert")

        Task(
            lambda: task(say),
            functools.partial(unless_overtaken, done),
            functools.partial(unless_overtaken, fail),
        )

    def _fix(self, finding: Finding) -> None:
        report = self.report
        assert report is not None
        before = report.config

        def fixed(config: Config) -> None:
            self.config = config
            changes = {path: new for path, (_, new) in config.diff(before).items()}
            did = ", ".join(f"{path}={value}" for path, value in changes.items())
            sentence = f"{finding.name}: fixed. " + (f"Now {did}." if did else "In memory.")
            if self._on_fixed is not None:
                self._on_fixed(config, sentence)
            else:
                self.check(config, sample=SAMPLE_ROWS if report.is_sample else None)

        self._work(
            f"Fixing {finding.name} …", lambda say: report.apply(finding.name, say=say), fixed
        )

    def _say(self, text: str, role: str = "status") -> None:
        self._state.value = Markup('<p role="{}">{}</p>').format(role, text)

    def _finding(self, kit: Kit, finding: Finding) -> Any:
        rows = kit.slot()
        buttons = []
        if finding.has_fix:
            text = fix_words(dict(finding.changes))
            if finding.rewrite:
                text = "Write a new file without it"
            about, fix = f"{finding.name}: {finding.fix}", functools.partial(self._fix, finding)
            buttons.append(_button(kit, text, about, fix))
        if finding.places:

            def toggle() -> None:
                if rows.children:
                    rows.show()
                else:
                    rows.show(lambda kit: self._rows(kit, finding))

            about = f"{finding.name}: {finding.rows_text}"
            buttons.append(_button(kit, "Show the rows", about, toggle))
        children = (kit.html(page.finding(finding)), kit.row(*buttons), rows)
        return kit(ipywidgets.VBox, "nbft-finding", children=children)

    def _rows(self, kit: Kit, finding: Finding) -> Iterator[Any]:
        """Open the mask lens at the first row, with a button for each."""
        from nbft.widgets.lens import Lens

        assert self.report is not None
        first = finding.places[0]
        lens = kit.own(Lens(self.report.config, first.number + 1, first.split))
        if len(finding.places) > 1:
            yield kit.row(
                *(
                    _button(
                        kit,
                        f"Row {count(place.row)}",
                        place.text,
                        functools.partial(lens.go_to, place.number + 1, place.split),
                    )
                    for place in finding.places
                )
            )
        yield lens


def _button(kit: Kit, text: str, about: str, action: Callable[[], None]) -> Any:
    """Return a button that calls an action on the main thread."""
    return kit.button(
        text, lambda _: action() if is_main_thread() else call_soon(action), tooltip=about
    )
