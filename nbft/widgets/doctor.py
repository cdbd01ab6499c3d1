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
from nbft.data.doctor.measure import Place, StoppedError
from nbft.data.doctor.report import choices
from nbft.data.doctor.rewrite import Change
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
        refuses: Asked before a fix or its undoing; True if the config cannot be changed now, which
            whoever is asked says.

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
        refuses: Callable[[], bool] = lambda: False,
    ) -> None:
        self._kit = kit = kit or Kit()
        self._on_fixed, self._refuses = on_fixed, refuses
        self._turn = 0  # grows with each task; earlier ones are ignored
        self._is_enough = False  # whether the rows checked until now are enough
        self._before: tuple[str, Config] | None = None  # the last fix, and the config without it
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
        if self._before is not None:
            about = f"Go back to the rows without the fix of {self._before[0]}; its file stays"
            yield kit.row(_button(kit, f"Undo {self._before[0]}", about, self._undo))
        for finding in report.findings:
            yield self._finding(kit, finding)
        if report.is_sample:
            text = f"Check all {count(sum(report.rows.values()))} rows"
            check_all = functools.partial(self.check, self.config, sample=None)
            yield kit.row(_button(kit, text, "Check every row", check_all))
        yield kit.html(Markup("<p>{}</p>").format(report.looked_for))
        yield kit.html(histograms.html(report.histograms))

    def check(self, config: Config, *, sample: int | None = SAMPLE_ROWS) -> None:
        """Check the rows of a config in the background, and show the findings.

        Args:
            config: The config.
            sample: Approximate number of rows to check; all when None.
        """
        self.config = config
        self._is_enough = False
        about = "Stop checking, and show what was found until now"
        stop = functools.partial(setattr, self, "_is_enough", True)
        # A sample is checked before anybody could press it.
        self._list.show(
            lambda kit: [] if sample else [kit.row(_button(kit, "Stop here", about, stop))]
        )

        def task(say: Callable[[str], None]) -> Report:
            def say_unless_enough(text: str) -> None:
                if self._is_enough:
                    self._is_enough = False  # the rest of the check has to come to an end
                    raise StoppedError("The check was stopped before a row was checked.")
                say(text)

            return doctor(config, sample=sample, say=say_unless_enough)

        self._work("Checking the rows …", task, self.show, self._list.show)

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
        self,
        what: str,
        task: Callable[[Callable[[str], None]], Any],
        done: Callable[[Any], None],
        failed: Callable[[], None] = lambda: None,
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
            failed()

        Task(
            lambda: task(say),
            functools.partial(unless_overtaken, done),
            functools.partial(unless_overtaken, fail),
        )

    def _fix(self, finding: Finding, rows: Callable[[], list[Any] | None] = lambda: None) -> None:
        """Fix a finding: all of its rows, or those that were chosen."""
        report, chosen = self.report, rows()
        assert report is not None
        if self._refuses():
            return
        if chosen == []:
            self._say(f"{finding.name}: choose at least one row.", "alert")
            return

        def fixed(config: Config) -> None:
            self._before = finding.name, report.config
            changed = config.diff(report.config)
            did = ", ".join(f"{path}={new}" for path, (_, new) in changed.items())
            self._take(
                config, f"{finding.name}: fixed. " + (f"Now {did}." if did else "In memory.")
            )

        def task(say: Callable[[str], None]) -> Config:
            return report.apply(finding.name, rows=chosen, say=say)

        self._work(f"Fixing {finding.name} …", task, fixed)

    def _undo(self) -> None:
        """Go back to the config before the last fix."""
        assert self._before is not None
        if self._refuses():
            return
        (name, config), self._before = self._before, None
        self._take(config, f"{name}: undone.")

    def _take(self, config: Config, sentence: str) -> None:
        """Hand a config to whoever embeds the findings, or check it."""
        self.config = config
        if self._on_fixed is not None:
            self._on_fixed(config, sentence)
        else:
            sample = self.report is not None and self.report.is_sample
            self.check(config, sample=SAMPLE_ROWS if sample else None)

    def _say(self, text: str, role: str = "status") -> None:
        self._state.value = Markup('<p role="{}">{}</p>').format(role, text)

    def _finding(self, kit: Kit, finding: Finding) -> Any:
        rows, fix = kit.slot(), kit.slot()
        buttons = []
        about = f"{finding.name}: {finding.fix}"
        if finding.rewrite is not None:
            show_fix = functools.partial(self._show_fix, finding, fix)
            buttons.append(_button(kit, "Show the fix", about, show_fix))
        elif finding.has_fix:
            words = fix_words(dict(finding.changes))
            buttons.append(_button(kit, words, about, functools.partial(self._fix, finding)))
        if finding.places:

            def toggle() -> None:
                if rows.children:
                    rows.show()
                else:
                    rows.show(lambda kit: self._rows(kit, finding))

            about = f"{finding.name}: {finding.rows_text}"
            buttons.append(_button(kit, "Show the rows", about, toggle))
        children = (kit.html(page.finding(finding)), kit.row(*buttons), fix, rows)
        return kit(ipywidgets.VBox, "nbft-finding", children=children)

    def _show_fix(self, finding: Finding, slot: Any) -> None:
        """Show what a fix changes, with the button that applies it; a second click folds it."""
        report, rewrite = self.report, finding.rewrite
        assert report is not None
        assert rewrite is not None
        if slot.children:
            slot.show()
            return

        def parts(changes: list[Change], kit: Kit) -> Iterator[Any]:
            if rewrite.is_choice:
                boxes = {
                    row: _choice(kit, place)
                    for row, place in zip(choices(finding), finding.places, strict=True)
                }
                yield from boxes.values()
                more = rewrite.count - len(boxes)
                if more > 0:
                    text = f"{count(more, 'more row')}: report.apply({finding.name!r}, rows=[…])"
                    yield kit.html(Markup("<p>{}</p>").format(text))

                def chosen() -> list[Any]:
                    return [row for row, box in boxes.items() if box.value]

                apply = functools.partial(self._fix, finding, chosen)
                yield kit.row(_button(kit, "Leave out the chosen rows", finding.fix, apply))
                return
            yield from (kit.html(page.changed(change)) for change in changes)
            is_left_out = bool(changes) and all(change.after is None for change in changes)
            what = "Leave out" if is_left_out else "Change"
            text = f"{what} {count(rewrite.count, 'row')} in a new file"
            yield kit.row(_button(kit, text, finding.fix, functools.partial(self._fix, finding)))

        def shown(changes: list[Change]) -> None:
            self._say(report.headline)
            slot.show(functools.partial(parts, changes))

        self._work("Preparing the fix …", lambda _: report.preview(finding.name), shown)

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


def _choice(kit: Kit, place: Place) -> Any:
    """Return a box that chooses a row."""
    text = f"Row {count(place.row)}: {place.text}"
    return kit(ipywidgets.Checkbox, "nbft-choice", description=text, indent=False, value=False)


def _button(kit: Kit, text: str, about: str, action: Callable[[], None]) -> Any:
    """Return a button that calls an action on the main thread."""
    return kit.button(
        text, lambda _: action() if is_main_thread() else call_soon(action), tooltip=about
    )
