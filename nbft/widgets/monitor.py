"""The monitor: one run, live or finished, shown from its `events.jsonl` alone.

`nbft.runs.state` interprets the events; `Monitor` shows the result. It never trains and never
touches the worker: its buttons append commands to the run's folder. `update` runs on the kernel's
main thread only, from the loop of the kernel (`follow`) or from a waiting cell.
"""

from __future__ import annotations

import asyncio
import base64
import os
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

import ipywidgets
from markupsafe import Markup

from nbft.charts import MORE, STANDARD, ChartSpec, other_charts, png
from nbft.errors import NbftError
from nbft.formatting import count
from nbft.methods import method_of
from nbft.models.peft_types import described
from nbft.pages import ending
from nbft.pages.environment import render
from nbft.redaction import redact, redact_text
from nbft.runs import progress
from nbft.runs.curves import main_charts
from nbft.runs.exports import read_exports
from nbft.runs.next_steps import as_python, name_of, next_steps, resume_step
from nbft.runs.state import RunState, StateReader
from nbft.widgets.chart import Chart
from nbft.widgets.exporting import Exporting
from nbft.widgets.kernel import call_soon, hear_while_busy, is_main_thread, main_loop
from nbft.widgets.kit import Kit

if TYPE_CHECKING:
    from IPython.display import DisplayHandle

    from nbft.plan.fixes import Fix
    from nbft.runs import Run

CSS = Path(__file__).parent / "monitor.css"
_POLL_SECONDS = 0.2
_STATUS_SECONDS = 2.0  # more frequent updates would keep a screen reader from finishing the line
_LOST_SECONDS = 2.0  # without an event, before asking whether the process lives
_LOG_LINES = 20

_COMMANDS = {
    "stop": ("Stop and save", "stopping"),
    "pause": ("Pause", "pausing"),
    "save": ("Save now", "saving"),
    "sample": ("Sample now", "asking the model"),
}
_BUSY = "This cell is busy: press ■ (interrupt) to stop and save."
_LOST = (
    "Nothing says why. Usual causes: the kernel was restarted, or the system killed the process "
    "because memory ran out. A smaller batch or a shorter max_length needs less memory."
)
_SILENT = (
    "That machine may be off, unreachable, or still training. Make sure that it is not before you "
    "resume or delete the run here."
)
_FIXES = (
    '<p style="line-height: 1.5">Memory ran out. Each of these changes needs less. Those that '
    "train the same come first.</p>"
)
_PANELS = ("Notes", "More curves", "Log", "Samples", "Scores", "Settings")
_EMPTY = {"text/html": "", "text/plain": ""}
_BELOW_EXPORTS = Markup(
    '<style class="nbft-below-exports">.jp-OutputArea-child:has(+ .jp-OutputArea-child '
    ".nbft-below-exports):not(:has(.nbft-export)) { display: none }</style>"
)
"""Hides the output before it where JupyterLab says that the widget in it has lost its kernel."""

_REWARDS = "Answers"  # the panel of a run that is trained with rewards
_BOXES = ("More curves", "Scores")  # the panels that hold charts


class _Outputs(NamedTuple):
    """The outputs of a cell that show a run.

    Attributes:
        view: The live view, and later what stays of it.
        result: The result, below it; None where the view has it.
        exports: Between them, the button that exports; None where there is no such output.
    """

    view: DisplayHandle
    result: DisplayHandle | None
    exports: DisplayHandle | None


class Monitor:
    """A view of one run: curves, numbers, answers and buttons.

    Shown as the last value of a cell, or by `show`. When a live run ends, the view is replaced by
    a still picture and the result, which stay in the saved notebook.

    Args:
        run: A run, its id or its folder.
        interactive: Offer buttons. Not every kernel hears them in a cell that waits for its run,
            which tells how to stop instead.

    Attributes:
        on_run_again: Called with the run that a fix has started instead of this one, or with this one
            when it is resumed.
        resume_step: The step that the run can be resumed from; None while it goes on, or if it cannot.

    Raises:
        RunError: There is no such run.
    """

    def __init__(self, run: Run | str | Path, *, interactive: bool = True) -> None:
        if isinstance(run, (str, Path)):
            from nbft.runs import attach

            run = attach(run)
        self.run = run
        self.config = run.config
        self.interactive = interactive
        self._reader = StateReader(Path(run.events_path))
        self._view: _View | None = None
        self._is_lost = False
        self._is_finished = False
        self.resume_step: int | None = None
        self._heard_at = -_LOST_SECONDS
        self._asked = self._message = ""  # the last command clicked, and the sentence about it
        self._is_run_again = False
        self.on_run_again: Callable[[Run], None] | None = None
        self._shown: list[_Outputs] = []
        self._following: asyncio.Task[None] | None = None
        main_loop()

    @property
    def widget(self) -> ipywidgets.Widget:
        """The view, to place in another one; it moves while `update` is called."""
        return self._built.box

    @property
    def seen(self) -> RunState:
        """The state of the run at the last `update`."""
        return self._reader.state

    @property
    def is_over(self) -> bool:
        """Whether the run or its process ended."""
        return self.seen.end is not None or self._is_lost

    @property
    def state(self) -> str:
        """The state of the run in words."""
        if self._is_lost and self.seen.host:
            return f"lost: {progress.status_words('lost', self.seen.host, self.seen.heard)}"
        if self._is_lost:
            return "lost: the process ended without a word"
        return progress.headline(self.seen)

    def update(self) -> bool:
        """Read the new events and show them, on the main thread; return whether the run goes on."""
        self._read()
        if not self.is_over and time.monotonic() - self._heard_at >= _LOST_SECONDS:
            self._heard_at = time.monotonic()
            # The last event may have come between reading and asking.
            self._is_lost = self.run.status == "lost" and not self._read()
        is_new_end = self.is_over and not self._is_finished
        if is_new_end:
            self._is_finished, self._message = True, ""
            if not self.seen.fixes:
                self.resume_step = resume_step(self.run.path, self.seen, is_lost=self._is_lost)
        self._draw()
        if is_new_end:
            self._finish()
        return not self.is_over

    async def follow(self) -> None:
        """Update until the run is over; an error in the view ends the view, not the run."""
        try:
            while self.update():
                await asyncio.sleep(_POLL_SECONDS)
        except Exception as error:
            self._message = f"This view stopped ({error}). The run goes on: show it again."
            self._built.say(self._message)
            raise

    def show(
        self,
        handle: DisplayHandle | None = None,
        result: DisplayHandle | None = None,
        exports: DisplayHandle | None = None,
    ) -> None:
        """Display the view and keep it up to date until the run is over.

        Args:
            handle: An output to show it in; a new one if None.
            result: An output below it for the result.
            exports: An output directly above the result for the button that exports the model.

        Raises:
            RuntimeError: Called from another thread, and no main loop was ever seen.
        """
        if is_main_thread():
            self._show(handle, result, exports)
        else:
            call_soon(self._show, handle, result, exports)

    def _ipython_display_(self) -> None:
        self.show()

    def __repr__(self) -> str:
        return f"Monitor of run {self.run.id}: {self.state}"

    @property
    def _built(self) -> _View:
        """The widgets, made on first use, since a Monitor may be created on another thread."""
        if self._view is None:
            self._view = _View(self)
        return self._view

    def _read(self) -> bool:
        """Take in the new events, and return whether there were any."""
        before = self.seen.counts.copy()
        if not self._reader.read():
            return False
        self._hear(before)
        self._heard_at = time.monotonic()
        self._is_lost = False
        return True

    def _ask(self, command: str) -> None:
        """Pass a click on to the worker; may run on any thread."""
        # The message is set first: the main thread may read the answer while this one still runs.
        if command == "pause" and self.seen.is_paused:
            ask, self._message = self.run.continue_, "continuing…"
        else:
            ask, self._asked = getattr(self.run, command), command
            self._message = f"{_COMMANDS[command][1]} after step {count(self.seen.step + 1)}…"
        try:
            ask()
        except (NbftError, OSError) as error:
            self._asked, self._message = "", str(error)
        call_soon(self._draw)

    def _resume(self) -> None:
        """Resume the run in the background, and follow it again; may run on any thread."""
        self._message = "Resuming…"
        call_soon(self._draw)
        try:
            self.run.resume()
        except (NbftError, OSError) as error:
            self._message = str(error)
            call_soon(self._draw)
            return
        call_soon(self._go_on)

    def _go_on(self) -> None:
        """Show the run live again, without the result of its earlier attempt."""
        self._message = ""
        self._is_finished = False
        self.resume_step = None
        self._built.offer([])
        self._built.offer_export(is_offered=False)
        self._built.outcome.value = ""
        self.update()
        for outputs in self._shown:
            outputs.view.update(self._view_bundle(), raw=True)
            if outputs.exports is not None:
                outputs.exports.update(_EMPTY, raw=True)
            if outputs.result is not None:
                outputs.result.update(self._outcome(), raw=True)
        self._keep_up()
        if self.on_run_again is not None:
            self.on_run_again(self.run)

    def _run_again(self, number: int) -> None:
        """Start a run with a fix, where this one was, and show it; may run on any thread."""
        if self._is_run_again:
            return  # a second click
        self._is_run_again = True
        call_soon(self._built.say_of_fixes, "Starting…")
        try:
            run = self.run.retry(number, background=self.run.is_background)
        except (NbftError, OSError) as error:
            self._is_run_again = False
            call_soon(self._built.say_of_fixes, str(error))
            return
        call_soon(self._give_way, run)

    def _give_way(self, run: Run) -> None:
        """Show another run instead of this one."""
        other = Monitor(run)
        other.update()
        # A page that was reloaded no longer knows its outputs; there the view shows the other.
        self._built.give_way(other.widget)
        for outputs in self._shown:
            other.show(*outputs)
        other._keep_up()
        other.on_run_again = self.on_run_again
        if self.on_run_again is not None:
            self.on_run_again(run)

    def _hear(self, before: Counter[str]) -> None:
        """Replace the message of a click by its result.

        Args:
            before: How many events of each kind were known.
        """
        seen = self.seen
        new = seen.counts - before
        if new["command"]:
            self._message = seen.answer
        if new["paused"] or new["continued"]:  # which the title says
            self._message = ""
        if new["checkpoint"] and self._asked == "save":
            self._asked, self._message = "", f"saved in {seen.checkpoint}"
        elif new["sample"] and self._asked == "sample" and seen.samples:
            step = count(seen.samples[-1]["step"])
            self._asked, self._message = "", f"the answers of step {step} are under Samples"

    def _draw(self) -> None:
        self._built.draw(self._message)

    def _show(
        self,
        handle: DisplayHandle | None,
        beneath: DisplayHandle | None,
        exports: DisplayHandle | None,
    ) -> None:
        from IPython.core.interactiveshell import InteractiveShell
        from IPython.display import display

        goes_on = self.update()
        if not InteractiveShell.initialized():
            return
        picture, size = ({}, {}) if goes_on else self._picture()
        view = self._view_bundle() | picture
        if handle is None:
            handle = display(view, raw=True, metadata=size, display_id=True)
            exports = display(_EMPTY, raw=True, display_id=True)
            beneath = display(self._outcome(), raw=True, display_id=True)
        else:
            handle.update(view, raw=True, metadata=size)
            if exports is not None:
                exports.update(_EMPTY, raw=True)  # it may hold an earlier run's
            if beneath is not None:
                beneath.update(self._outcome(), raw=True)
        self._shown.append(_Outputs(handle, beneath, exports))
        if goes_on:
            self._keep_up()
        elif beneath is not None:
            self._built.outcome.value = ""  # it stands beneath

    def _keep_up(self) -> None:
        """Let the kernel's loop update the view."""
        loop = main_loop()
        if loop is not None and (self._following is None or self._following.done()):
            self._following = loop.create_task(self.follow())

    def _finish(self) -> None:
        """Leave a picture and the result where the live view was.

        JupyterLab shows an error for a widget whose kernel is gone, so a saved notebook must not
        end with one, unless it has buttons that start the run again.
        """
        outcome, fixes = self._outcome(), self._fixes()
        self._built.offer(fixes)
        self._built.offer_export(is_offered=self._is_exportable)
        # A page that was reloaded no longer knows its outputs; there the view shows the result.
        self._built.outcome.value = outcome["text/html"]
        if not self._shown:
            return
        picture, size = self._picture()
        words = {"text/plain": self._words()}
        is_resumable = self.resume_step is not None
        for handle, beneath, exports in self._shown:
            is_view_left = bool(fixes) or (is_resumable and beneath is None)
            if is_view_left:
                handle.update(self._view_bundle() | picture | words, raw=True, metadata=size)
                below = outcome
            elif is_resumable:  # the button alone, so that the rest stays in the saved notebook
                handle.update(self._built.ended._repr_mimebundle_() | words, raw=True)
                below = picture | _in_one(picture, outcome, self._words())
            elif beneath is None:
                bundle = picture | _in_one(picture, outcome, self._words()) | words
                handle.update(bundle, raw=True, metadata=size)
            else:
                bundle = picture or {"text/html": f"<p>{self._built.title()}</p>"}
                handle.update(bundle | words, raw=True, metadata=size)
                below = outcome
            exporting = self._built.exporting
            if exports is not None and exporting is not None and not is_view_left:
                bundle = exporting.box._repr_mimebundle_()
                exports.update(bundle | {"text/plain": ""}, raw=True)
                below = below | {"text/html": _BELOW_EXPORTS + Markup(below["text/html"])}  # noqa: S704 - a page
            if beneath is not None:
                beneath.update(below, raw=True, metadata=size if "image/png" in below else {})
                if fixes:
                    self._built.outcome.value = ""

    @property
    def _is_exportable(self) -> bool:
        """Whether the run has ended with a model that answers."""
        end = self.seen.end or {}
        has_model = bool(end.get("adapter") or end.get("model"))
        return has_model and not method_of(self.config).scores_answers

    def _fixes(self) -> list[Fix]:
        """Return the changes to start the run again with, if memory ran out."""
        if not self.seen.is_out_of_memory:
            return []
        try:
            return self.run.fixes
        except (NbftError, OSError):
            return []

    def _picture(self) -> tuple[dict[str, str], dict[str, Any]]:
        """Return the curves as a PNG and its size; nothing if there is no point to draw."""
        if not self.seen.log and not self.seen.curve("eval_loss"):
            return {}, {}
        figure = self.run.curves()
        width = int(figure.get_size_inches()[0] * 100)
        data = base64.b64encode(png(figure, pil_kwargs={"optimize": True})).decode()
        return {"image/png": data}, {"image/png": {"width": width}}

    def _view_bundle(self) -> dict[str, Any]:
        """Return the view as a notebook shows it, with text for where there are no widgets."""
        view: dict[str, Any] = self._built.box._repr_mimebundle_()
        return view | {"text/plain": self._words()}

    def _words(self) -> str:
        """Describe the view in text."""
        return f"Run {self.run.id}: {self.state}.\n{self._built.summary()}"

    def _outcome(self) -> dict[str, str]:
        """Return the result as HTML and as text; empty while the run goes on."""
        if not self.is_over:
            return {"text/html": "", "text/plain": ""}
        seen, end = self.seen, self.seen.end or {}
        headline = f"Run {self.run.id} {self.state}".replace("lost:", "was lost:") + "."
        headline = f"{headline} {seen.reason}".strip()
        name = name_of(self.run)
        code = as_python(name, next_steps(self.run, seen, is_lost=self._is_lost))
        page, report = self._report(name)
        if self._is_lost or end.get("event") == "failed":
            problems = seen.problems or [_SILENT if seen.host else _LOST]
            log = self.run.log_tail(_LOG_LINES)
            page = page if report else ""  # nobody shares a failure without being asked
            html = ending.failure(headline, problems, log, code=code, page=page, report=report)
            text = [headline, *problems, code]
            return {"text/html": html, "text/plain": "\n".join(filter(None, text))}
        score, answers = progress.held_out(seen), progress.answers(seen)
        notes = progress.sentences(seen.notes)
        kind = "adapter" if end.get("adapter") else "model"
        place = (
            f"The {kind} is in {_from_here(self.run.path / end[kind])}." if end.get(kind) else ""
        )
        scores = seen.scores
        limits = progress.what_not_to_expect(seen, self.config) if answers else ""
        exports = [
            f"{one.to} in {_from_here(one.path)}: {one.sentence}"
            for one in read_exports(self.run.path)
        ]
        html = ending.success(
            headline,
            score,
            notes,
            answers,
            scores=scores,
            limits=limits,
            place=place,
            exports=exports,
            code=code,
            page=page,
            report=report,
        )
        measured = [str(scores), *scores.sentences] if scores else []
        said = [sentence for sentence, _ in notes]
        page = f"A page to share: {page}" if report else page
        text = [headline, score, *said, *measured, str(answers), limits, place]
        text += [*exports, code, page]
        return {"text/html": html, "text/plain": "\n".join(filter(None, text))}

    def _report(self, name: str) -> tuple[str, str]:
        """Return where the report is, or how to write it, and its address for the notebook.

        JupyterLab and Jupyter Notebook resolve the address against the notebook's folder, which is
        the kernel's working directory unless somebody has changed it.
        """
        path = self.run.path / "report.html"
        if not path.is_file():
            return f"nbft.attach({name!r}).report() writes a page to share.", ""
        return _from_here(path), quote(Path(os.path.relpath(path)).as_posix())


class _View:
    """The widgets of a monitor. Everything here runs on the main thread."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self._kit = kit = Kit()
        self._curves = [_Curves(kit, spec) for spec in STANDARD]
        self._main: dict[str, _Curves] = {}
        self._more: dict[str, _Curves] = {}
        self._scores: dict[str, _Curves] = {}
        self._drawn: dict[str, tuple[Any, ...]] = {}  # what each panel shows
        self._status_at = self._log_at = -_STATUS_SECONDS
        self._last_state = ""

        self._header, self._status, self._message, self.outcome, self._fixes_message = (
            kit.html("") for _ in range(5)
        )
        self._score_table = kit.html("", "nbft-scores")
        self._fixes = kit.slot("nbft-fixes")
        self._exports = kit.slot()
        self.exporting: Exporting | None = None
        self._buttons = [
            kit.button(label, lambda _, command=command: monitor._ask(command), "")
            for command, (label, _) in _COMMANDS.items()
        ]
        self._resume = kit.button("Resume", lambda _: monitor._resume(), "")
        hear_while_busy(*self._buttons, self._resume)
        self._row = kit.row(self._message)
        self.ended = kit(ipywidgets.VBox, "nbft-monitor", children=(self._header, self._row))
        has_rewards = bool(monitor.config.grpo.rewards)
        self._names = (*_PANELS, _REWARDS) if has_rewards else _PANELS
        self._panels = {
            name: kit.row(css="nbft-charts") if name in _BOXES else kit.html("")
            for name in self._names
        }
        self._charts_row = kit.row(*(curves.chart for curves in self._curves), css="nbft-charts")
        self._panels["Scores"].children = (self._score_table,)
        self._panels["Settings"].value = _settings(monitor.config.diff())
        panels = tuple(self._panels.values())
        self._tab = kit(ipywidgets.Tab, children=panels, titles=self._names, selected_index=0)
        self._tab.observe(lambda _: call_soon(monitor._draw), "selected_index")
        self.box = ipywidgets.VBox(
            [
                self._header,
                self._charts_row,
                self._status,
                self._row,
                self._tab,
                self.outcome,
                self._fixes,
                self._exports,
                kit.html(f"<style>{CSS.read_text(encoding='utf-8')}</style>", "nbft-style"),
            ]
        )
        self.box.add_class("nbft-monitor")

    def give_way(self, widget: ipywidgets.Widget) -> None:
        """Show another widget in the box, and close those that it held."""
        self.box.children = (widget,)
        self._kit.close()

    def draw(self, message: str) -> None:
        """Show the run as it stands."""
        monitor, seen = self._monitor, self._monitor.seen
        if leading := main_charts(seen):
            charts = self._charts(self._main, leading)
            self._charts_row.children = (*charts, *(curves.chart for curves in self._curves))
        for curves in (*self._main.values(), *self._curves):
            curves.draw(seen)
        self._header.value = self.title()
        now, state = time.monotonic(), monitor.state.partition(",")[0]
        if now - self._status_at >= _STATUS_SECONDS or state != self._last_state:
            self._status_at, self._last_state = now, state
            self._status.value = _part("status", text=progress.numbers(seen))
        for name, button in zip(_COMMANDS, self._buttons, strict=True):
            button.disabled = seen.is_paused and name not in ("stop", "pause")
        self._buttons[1].description = "Continue" if seen.is_paused else _COMMANDS["pause"][0]
        self.say(message if monitor.interactive or monitor.is_over else _BUSY)
        self._row.children = (*self._offered(), self._message)
        if self._is_due("Notes", seen, seen.changed["notes"]):
            self._draw_notes(seen)
        # A busy cell does not hear which panel was opened, so there all of them are updated.
        opened = {self._names[self._tab.selected_index or 0]}
        if not monitor.interactive:
            opened = {*self._names}
        if "More curves" in opened:
            others = other_charts(seen.curves, seen.measures)
            specs = [*(spec for spec in others if spec.title not in self._main), *MORE]
            self._panels["More curves"].children = self._charts(self._more, specs)
            for curves in self._more.values():
                curves.draw(seen)
        if "Samples" in opened and self._is_due("Samples", seen, seen.changed["samples"]):
            timeline = seen.timeline if len(seen.timeline.steps) > 2 else None
            self._panels["Samples"].value = _part(
                "samples", answers=_html(progress.answers(seen)), timeline=_html(timeline)
            )
        if _REWARDS in opened and self._is_due(_REWARDS, seen, seen.changed["completions"]):
            self._panels[_REWARDS].value = _part(
                "answers", step=seen.completions.get("step"), answers=_html(seen.rewarded)
            )
        if "Scores" in opened and self._is_due("Scores", seen, seen.changed["scored"]):
            self._draw_scores(seen)
        if "Log" in opened and (now - self._log_at >= _STATUS_SECONDS or monitor.is_over):
            self._log_at = now
            self._panels["Log"].value = _part("log", text=monitor.run.log_tail(_LOG_LINES))

    def _offered(self) -> Sequence[Any]:
        """Return the buttons that can do something now."""
        monitor = self._monitor
        if not monitor.is_over:
            return self._buttons if monitor.interactive else ()
        if (step := monitor.resume_step) is None:
            return ()
        self._resume.description = f"Resume from step {count(step)}"
        return (self._resume,)

    def _is_due(self, panel: str, seen: RunState, changed: int) -> bool:
        """Whether a panel shows an older state than the one seen, which is then noted."""
        shown = (id(seen), changed, seen.end is None)
        is_due = self._drawn.get(panel) != shown
        self._drawn[panel] = shown
        return is_due

    def say(self, text: str) -> None:
        """Show a sentence beside the buttons."""
        self._message.value = _part("status", text=text)

    def offer(self, fixes: Sequence[Fix]) -> None:
        """Offer a button for each change that the run may be started again with."""

        def offered(kit: Kit) -> list[Any]:
            buttons = [
                kit.button(
                    fix.offer,
                    lambda _, number=number: self._monitor._run_again(number),
                    "",
                    tooltip=fix.offer,
                )
                for number, fix in enumerate(fixes)
            ]
            hear_while_busy(*buttons)
            return [kit.html(_FIXES), *buttons, self._fixes_message] if fixes else []

        self._fixes.show(offered)

    def offer_export(self, *, is_offered: bool) -> None:
        """Offer to export the trained model, in place of an earlier offer."""
        self.exporting = Exporting(self._monitor.run) if is_offered else None
        exporting = self.exporting
        self._exports.show(lambda kit: [kit.own(exporting).box] if exporting else [])

    def say_of_fixes(self, text: str) -> None:
        """Show a sentence below the changes."""
        self._fixes_message.value = _part("status", text=text)

    def title(self) -> Markup:
        """Return the line over the curves, as HTML: which run, and its state."""
        run, config = self._monitor.run, self._monitor.config
        about = [
            redact_text(config.model.model_name),
            described(config) or "all weights",
            _data(config, self._monitor.seen.prepared),
        ]
        return _part("title", run=run.id, about=about, state=self._monitor.state)

    def summary(self) -> str:
        """Describe the two charts in text."""
        charts = [curves.chart for curves in (*self._main.values(), *self._curves)]
        return "\n".join(f"{chart.title}: {chart.summary()}" for chart in charts)

    def _charts(self, drawn: dict[str, _Curves], specs: Sequence[ChartSpec]) -> list[Chart]:
        """Return a chart of each spec, in a panel's `drawn` charts; one with new curves is new."""
        for spec in specs:
            old = drawn.get(spec.title)
            if old is None or old.spec != spec:
                drawn[spec.title] = _Curves(self._kit, spec)
                if old is not None:
                    old.chart.close()
        return [drawn[spec.title].chart for spec in specs]

    def _draw_notes(self, seen: RunState) -> None:
        """Show the notes as a list, and those of a step that hold on the loss."""
        sentences = progress.sentences(seen.notes)
        self._panels["Notes"].value = _part("notes", sentences=sentences)
        holding = sum(not is_struck for _, is_struck in sentences)
        self._tab.set_title(0, f"Notes ({holding})" if holding else "Notes")
        self._curves[0].chart.marks = [
            {"x": float(note.step), "text": note.text}
            for note in seen.notes
            if note.step is not None and note.answered_step is None
        ]

    def _draw_scores(self, seen: RunState) -> None:
        """Show the scores as a table, and their curves in a chart for each scale."""
        scores = seen.scores
        self._score_table.value = _part(
            "scores", scores=_html(scores or None), sentences=scores.sentences
        )
        charts = scores.charts
        shown = self._charts(self._scores, [spec for spec, _ in charts])
        self._panels["Scores"].children = (self._score_table, *shown)
        for spec, rows in charts:
            self._scores[spec.title].show(rows)


class _Curves:
    """A chart of curves of a run, and the last event that is drawn."""

    def __init__(self, kit: Kit, spec: ChartSpec) -> None:
        self.spec = spec
        self.chart = kit.own(Chart(spec.curves, title=spec.title))
        self.chart.add_class("nbft-chart-cell")
        self._state: RunState | None = None
        self._taken = 0

    def draw(self, state: RunState) -> None:
        """Add what is new."""
        is_same = state is self._state and state.rewritten <= self._taken
        since = self._taken if is_same else 0
        self._state, self._taken = state, state.taken
        self.show(state.rows(self.spec, since))

    def show(self, rows: Iterable[Sequence[float | None]]) -> None:
        """Replace the rows from the first of these on."""
        for step, *values in rows:
            pairs = zip(self.spec.names, values, strict=True)
            self.chart.append(step or 0, **{name: v for name, v in pairs if v is not None})
        self.chart.flush()


def _in_one(picture: Mapping[str, str], outcome: Mapping[str, str], words: str) -> dict[str, str]:
    """Return a result for one output, with the picture in its HTML."""
    still = Markup('<img alt="{}" style="max-width: 100%" src="data:image/png;base64,{}">')
    html = still.format(words, picture["image/png"]) if picture else ""
    return {**outcome, "text/html": html + Markup(outcome["text/html"])}  # noqa: S704 - a page


def _from_here(path: Path) -> str:
    path = path.resolve()
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _part(name: str, **values: Any) -> Markup:
    return render("monitor", part=name, **values)


def _html(value: Any) -> Markup:
    return Markup("" if value is None else value._repr_html_())  # noqa: S704 - a page


def _data(config: Any, prepared: Mapping[str, Any]) -> str:
    names = [redact_text(dataset.called) for dataset in config.data.train.datasets]
    rows = prepared.get("rows")
    return " + ".join(names) + (f" ({count(rows, 'row')})" if rows is not None else "")


def _settings(changed: Mapping[str, tuple[Any, Any]]) -> str:
    """Return the settings that differ from their defaults, as a table."""
    if not changed:
        return "Every setting has its default."
    rows = [(path, value, default) for path, (default, value) in redact(changed).items()]
    return render("table", head=("setting", "value", "default"), rows=rows, css="", header=0)
