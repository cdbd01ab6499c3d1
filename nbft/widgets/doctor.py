"""What the doctor found in the rows, with a button for each fix and the mask lens for each row.

The doctor works in a thread, so the kernel stays free; what it says and finds is handed to the main
thread, which alone touches widgets. Called by the form, under its Check, and by people.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from html import escape
from typing import Any

import ipywidgets

from nbft.config import Config
from nbft.data.doctor import Finding, Report, doctor
from nbft.errors import NbftError
from nbft.formatting import count, duration
from nbft.pages import findings as page
from nbft.pages import histograms
from nbft.widgets.fields import fix_words
from nbft.widgets.kernel import call_soon, is_main_thread, main_loop
from nbft.widgets.kit import Kit

SAMPLE_ROWS = 2_000
"""Rows that are checked unasked: about two seconds of work, and enough to see most findings."""


class _OverTakenError(Exception):
    """Another check has begun, so this one is given up."""


class Findings:
    """What is wrong with the rows of a config, and what fixes it.

    Args:
        found: A report to show, or a config whose rows are to be checked.
        kit: Makes the widgets.
        on_fixed: Told the config in which a finding is fixed, and what was done, in a sentence;
            it then decides what is checked next. The new config is checked when None.

    Attributes:
        widget: All of it, to be shown.
        config: The config, with what was fixed so far.
        report: What was found last; None before.
    """

    def __init__(
        self,
        found: Report | Config | None = None,
        *,
        kit: Kit | None = None,
        on_fixed: Callable[[Config, str], None] | None = None,
    ) -> None:
        self._kit = kit = kit or Kit()
        self._on_fixed = on_fixed
        self._turn = 0  # grows with each task; what an earlier one says is not heard
        self.report: Report | None = None
        self.config = Config()
        title = kit.html('<h3 style="margin: 6px 0 4px">The rows</h3>')
        self._state = kit.html("")
        self._list = kit.slot("nbft-findings")
        self.widget = kit(ipywidgets.VBox, "nbft-doctor", children=(title, self._state, self._list))
        if isinstance(found, Report):
            self.show(found)
        elif found is not None:
            self.check(found)

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
            whole = self._button(
                kit,
                f"Check all {count(sum(report.rows.values()))} rows",
                "Check every row",
                lambda: self.check(self.config, sample=None),
            )
            yield kit(ipywidgets.HBox, "nbft-row", children=(whole,))
        yield kit.html(histograms.html(report.histograms))

    def check(self, config: Config, *, sample: int | None = SAMPLE_ROWS) -> None:
        """Check the rows of a config in the background, and show what is found.

        Args:
            config: The config.
            sample: About how many rows to check; all when None.
        """
        self.config = config
        self._list.show()
        self._work(
            "Checking the rows …", lambda say: doctor(config, sample=sample, say=say), self.show
        )

    def offer(self, config: Config, why: str) -> None:
        """Offer to check the rows instead of doing it.

        Args:
            config: The config.
            why: Why it is not done unasked; a sentence.
        """
        self.stop()
        self._say(why)

        def offered(kit: Kit) -> Iterator[Any]:
            check = self._button(kit, "Check the rows", why, lambda: self.check(config))
            yield kit(ipywidgets.HBox, "nbft-row", children=(check,))

        self._list.show(offered)

    def stop(self) -> None:
        """Give up what is being done in the background."""
        self._turn += 1

    def close(self) -> None:
        """Close it with every widget of its own."""
        self.stop()
        self._kit.close()

    # Work in a thread

    def _work(
        self, what: str, task: Callable[[Callable[[str], None]], Any], done: Callable[[Any], None]
    ) -> None:
        """Do something in a thread, and hand what it returns to the main thread."""
        self.stop()
        turn = self._turn
        self._say(what)

        def on_main(action: Callable[..., None], *args: Any) -> None:
            def run() -> None:
                if turn == self._turn:
                    action(*args)

            run() if is_main_thread() else call_soon(run)

        def say(text: str) -> None:
            if turn != self._turn:
                raise _OverTakenError
            on_main(self._say, text)

        def work() -> None:
            try:
                result = task(say)
            except _OverTakenError:
                return
            except NbftError as error:
                on_main(self._say, " ".join(map(str, error.problems)), "alert")
            except Exception as error:  # a thread's exception would be lost
                on_main(self._say, f"This failed ({type(error).__name__}: {error}).", "alert")
            else:
                on_main(done, result)

        if main_loop() is None:  # a script: nobody waits for the kernel
            work()
        else:
            threading.Thread(target=work, name="nbft doctor", daemon=True).start()

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

    # What is shown

    def _say(self, text: str, role: str = "status") -> None:
        self._state.value = f'<p role="{role}">{escape(text)}</p>'

    def _button(self, kit: Kit, words: str, about: str, action: Callable[[], None]) -> Any:
        button = kit(ipywidgets.Button, "nbft-link", description=words, tooltip=about)

        def click(_button: Any) -> None:
            if is_main_thread():
                action()
            else:
                call_soon(action)

        button.on_click(click)
        return button

    def _finding(self, kit: Kit, finding: Finding) -> Any:
        text = kit.html(page.finding(finding))
        inside = kit.slot()
        buttons = []
        if finding.has_fix:
            words = (
                "Write a new file without it"
                if finding.rewrite
                else fix_words(dict(finding.changes))
            )
            about = f"{finding.name}: {finding.fix}"
            buttons.append(self._button(kit, words, about, lambda: self._fix(finding)))
        if finding.places:
            about = f"{finding.name}: {finding.rows_text}"
            buttons.append(
                self._button(kit, "Show the rows", about, lambda: self._toggle(finding, inside))
            )
        row = kit(ipywidgets.HBox, "nbft-row", children=tuple(buttons))
        return kit(ipywidgets.VBox, "nbft-finding", children=(text, row, inside))

    def _toggle(self, finding: Finding, inside: Any) -> None:
        """Unfold the rows of a finding, or fold them."""
        if inside.children:
            inside.show()
        else:
            inside.show(lambda kit: self._rows(kit, finding))

    def _rows(self, kit: Kit, finding: Finding) -> Iterator[Any]:
        """Open the mask lens at the first row, with a button for each."""
        from nbft.widgets.lens import Lens

        assert self.report is not None
        first = finding.places[0]
        lens = kit.own(Lens(self.report.config, first.number + 1, first.split))
        if len(finding.places) > 1:
            buttons = tuple(
                self._button(
                    kit,
                    f"Row {count(place.row)}",
                    place.text,
                    lambda place=place: lens.go_to(place.number + 1, place.split),  # type: ignore[misc]
                )
                for place in finding.places
            )
            yield kit(ipywidgets.HBox, "nbft-row", children=buttons)
        yield lens
