"""The monitor: one run, live or long over, seen through its `events.jsonl` alone.

`nbft.runs.state` works out what the events say; `Monitor` shows it. It never trains and never
touches the worker: its buttons append commands to the run's folder. `update` runs on the kernel's
main thread only, from the loop of the kernel (`follow`) or from a waiting cell.

Called by `nbft.runs`, by the form, and by people.
"""

from __future__ import annotations

import asyncio
import base64
import io
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ipywidgets

from nbft.charts import MORE, STANDARD, ChartSpec, other_charts
from nbft.errors import NbftError
from nbft.formatting import count
from nbft.pages import ending
from nbft.runs import progress
from nbft.runs.state import RunState, StateReader
from nbft.widgets.chart import Chart, Series
from nbft.widgets.kernel import call_soon, hear_while_busy, is_main_thread, main_loop

if TYPE_CHECKING:
    from IPython.display import DisplayHandle

    from nbft.plan.fixes import Fix
    from nbft.runs import Run

_POLL_SECONDS = 0.2
_STATUS_SECONDS = 2.0  # a screen reader that is told more often never finishes the line
_LOST_SECONDS = 2.0  # without an event, before asking whether the process lives
_LOG_LINES = 20

_COMMANDS = {
    "stop": ("Stop and save", "stopping"),
    "pause": ("Pause", "pausing"),
    "save": ("Save now", "saving"),
    "sample": ("Sample now", "asking the model"),
}
_NO_SCORES = "No scores yet. evaluation.metrics says what is measured."
_BUSY = "This cell is busy: press ■ (interrupt) to stop and save."
_OVER = "The run is over: there is nothing left to stop, save or sample."
_LOST = (
    "Nothing says why. Usual causes: the kernel was restarted, or the system killed the process "
    "because memory ran out. A smaller batch or a shorter max_length needs less memory."
)
_FIXES = (
    "<style>.nbft-fixes .jupyter-button { height: auto; white-space: normal; line-height: 1.4; "
    'padding: 5px 10px; text-align: left }</style><p style="line-height: 1.5">Memory ran out. Each '
    "of these changes needs less. Those that train the same come first.</p>"
)
_MUTED = "var(--jp-content-font-color2, #595959)"
_PANELS = ("Notes", "More curves", "Log", "Samples", "Scores", "Settings")
_BOXES = ("More curves", "Scores")  # the panels that hold charts


class Monitor:
    """A view of one run: curves, numbers, answers and buttons.

    Shown as the last value of a cell, or by `show`. When a live run ends, the view gives way to
    a still picture and the result, which stay in the saved notebook.

    Args:
        run: A run, its id or its folder.
        interactive: Offer buttons. A cell that waits for its run cannot hear them everywhere,
            so it says how to stop instead.

    Attributes:
        on_run_again: Called with the run that a fix has started in the place of this one.

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
        self._heard_at = -_LOST_SECONDS
        self._asked = self._said = ""  # the last command clicked, and what to say about it
        self._is_run_again = False
        self.on_run_again: Callable[[Run], None] | None = None
        self._shown: list[tuple[DisplayHandle, DisplayHandle | None]] = []
        self._following: asyncio.Task[None] | None = None
        main_loop()

    @property
    def widget(self) -> ipywidgets.Widget:
        """The view, to place in another one; it moves while `update` is called."""
        return self._built.box

    @property
    def seen(self) -> RunState:
        """What the events said up to the last `update`."""
        return self._reader.state

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come: the run ended, or its process did."""
        return self.seen.end is not None or self._is_lost

    @property
    def state(self) -> str:
        """How the run stands, in words."""
        if self._is_lost:
            return "lost: the process ended without a word"
        return progress.headline(self.seen)

    def update(self) -> bool:
        """Read the new events and show them; for the kernel's main thread only.

        Returns:
            Whether the run goes on.
        """
        self._read()
        if not self.is_over and time.monotonic() - self._heard_at >= _LOST_SECONDS:
            self._heard_at = time.monotonic()
            # The last event may have come between the reading and the asking.
            self._is_lost = self.run.status == "lost" and not self._read()
        self._draw()
        if self.is_over and not self._is_finished:
            self._is_finished = True
            self._finish()
        return not self.is_over

    async def follow(self) -> None:
        """Update until the run is over; a mistake in the view ends the view, not the run."""
        try:
            while self.update():
                await asyncio.sleep(_POLL_SECONDS)
        except Exception as error:
            self._said = f"This view stopped ({error}). The run goes on: show it again."
            self._built.say(self._said)
            raise

    def show(
        self, handle: DisplayHandle | None = None, result: DisplayHandle | None = None
    ) -> None:
        """Display the view and keep it up to date for as long as the run goes on.

        Args:
            handle: An output to show it in; a new one if None.
            result: An output for how the run ended, below the other.

        Raises:
            RuntimeError: Called from another thread, and no main loop was ever seen.
        """
        if is_main_thread():
            self._show(handle, result)
        else:
            call_soon(self._show, handle, result)

    def _ipython_display_(self) -> None:
        self.show()

    def __repr__(self) -> str:
        return f"Monitor of run {self.run.id}: {self.state}"

    @property
    def _built(self) -> _View:
        """The widgets. Made when first asked for, since a Monitor may be born on a thread."""
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
        if command == "pause" and self.seen.is_paused:
            self._continue()
            return
        doing = _COMMANDS[command][1]
        # Before asking: the answer may be read on the main thread while this one still runs.
        self._asked = command
        self._said = f"{doing} after step {count(self.seen.step + 1)}…"
        try:
            getattr(self.run, command)()
        except (NbftError, OSError) as error:
            self._asked, self._said = "", str(error)
        call_soon(self._draw)

    def _continue(self) -> None:
        """Let a paused run go on; may run on any thread."""
        self._said = "going on…"
        try:
            self.run.continue_()
        except (NbftError, OSError) as error:
            self._said = str(error)
        call_soon(self._draw)

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
        """Show another run in the place of this one."""
        other = Monitor(run)
        other.update()
        # A page that was reloaded no longer knows its outputs; there the view shows the other.
        replaced = self._built.box.children
        self._built.box.children = (other.widget,)
        for widget in replaced:
            close(widget)
        for outputs in self._shown:
            other.show(*outputs)
        other._keep_up()
        other.on_run_again = self.on_run_again
        if self.on_run_again is not None:
            self.on_run_again(run)

    def _hear(self, before: Counter[str]) -> None:
        """Replace what a click promised by what came of it.

        Args:
            before: How many events of each kind were known.
        """
        seen = self.seen
        new = seen.counts - before
        if new["command"]:
            self._said = seen.answer
        if new["checkpoint"] and self._asked == "save":
            self._asked, self._said = "", f"saved in {seen.checkpoint}"
        elif new["sample"] and self._asked == "sample" and seen.samples:
            step = count(seen.samples[-1]["step"])
            self._asked, self._said = "", f"the answers of step {step} are under Samples"

    def _draw(self) -> None:
        self._built.draw(self._said)

    def _show(self, handle: DisplayHandle | None, beneath: DisplayHandle | None) -> None:
        from IPython.core.interactiveshell import InteractiveShell
        from IPython.display import display

        goes_on = self.update()
        if not InteractiveShell.initialized():
            return
        view = self._view_bundle()
        picture, size = ({}, {}) if goes_on else self._picture()
        if handle is None:
            handle = display(view | picture, raw=True, metadata=size, display_id=True)
            beneath = display(self._outcome(), raw=True, display_id=True)
        else:
            handle.update(view | picture, raw=True, metadata=size)
            if beneath is not None:
                beneath.update(self._outcome(), raw=True)
        self._shown.append((handle, beneath))
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
        # A page that was reloaded no longer knows its outputs; there the view shows the result.
        self._built.outcome.value = outcome["text/html"]
        if not self._shown:
            return
        picture, size = self._picture()
        for handle, beneath in self._shown:
            if fixes:
                handle.update(self._view_bundle() | picture, raw=True, metadata=size)
                if beneath is not None:
                    beneath.update(outcome, raw=True)
                    self._built.outcome.value = ""
                continue
            if beneath is None:
                html = outcome["text/html"]
                if picture:
                    html = (
                        f'<img alt="{escape(self._words())}" style="max-width: 100%" '
                        f'src="data:image/png;base64,{picture["image/png"]}">{html}'
                    )
                handle.update({**picture, "text/html": html, "text/plain": self._words()}, raw=True)
                continue
            still = picture or {"text/html": f"<p>{self._built.title()}</p>"}
            handle.update(still | {"text/plain": self._words()}, raw=True, metadata=size)
            beneath.update(outcome, raw=True)

    def _fixes(self) -> list[Fix]:
        """Return what the run may be started again with: where memory ran out, and only there."""
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
        png = io.BytesIO()
        figure.savefig(png, format="png", pil_kwargs={"optimize": True})
        return (
            {"image/png": base64.b64encode(png.getvalue()).decode()},
            {"image/png": {"width": width}},
        )

    def _view_bundle(self) -> dict[str, Any]:
        """Return the view as a notebook shows it, with words for where there are no widgets."""
        view: dict[str, Any] = self._built.box._repr_mimebundle_()
        return view | {"text/plain": self._words()}

    def _words(self) -> str:
        """Say what the view shows."""
        return f"Run {self.run.id}: {self.state}.\n{self._built.summary()}"

    def _outcome(self) -> dict[str, str]:
        """Return how the run ended, as HTML and as text; empty while it goes on."""
        if not self.is_over:
            return {"text/html": "", "text/plain": ""}
        seen, end = self.seen, self.seen.end or {}
        headline = f"Run {self.run.id} {self.state}".replace("lost:", "was lost:") + "."
        if self._is_lost or end.get("event") == "failed":
            problems = seen.problems or [_LOST]
            html = ending.failure(headline, problems, self.run.log_tail(_LOG_LINES))
            return {"text/html": html, "text/plain": "\n".join([headline, *problems])}
        score, answers = progress.held_out(seen), progress.answers(seen)
        notes = [progress.sentence(note) for note in seen.notes]
        folder = self.run.path.resolve()
        if folder.is_relative_to(Path.cwd()):
            folder = folder.relative_to(Path.cwd())
        # The id is enough where `attach` looks by itself.
        name = self.run.id if folder == Path("runs") / self.run.id else str(folder)
        kind = "adapter" if end.get("adapter") else "model"
        place = f"The {kind} is in {folder / end[kind]}." if end.get(kind) else ""
        load = f'nbft.attach("{name}").load_model()' if place else ""
        page = f"A page to share: {folder / 'report.html'}"
        if not (self.run.path / "report.html").is_file():
            page = f'nbft.attach("{name}").report() writes a page to share.'
        scores = seen.scores
        html = ending.success(
            headline, score, notes, answers, scores=scores, place=place, load=load, page=page
        )
        measured = [str(scores), *scores.sentences] if scores else []
        text = [headline, score, *notes, *measured, str(answers), place, load, page]
        return {"text/html": html, "text/plain": "\n".join(filter(None, text))}


class _View:
    """The widgets of a monitor. Everything here runs on the main thread."""

    def __init__(self, monitor: Monitor) -> None:
        self._monitor = monitor
        self._curves = [_Curves(spec) for spec in STANDARD]
        self._more: dict[str, _Curves] = {}
        self._scores: dict[str, _Curves] = {}
        self._score_table = ipywidgets.HTML(layout=ipywidgets.Layout(width="100%"))
        self._drawn: dict[str, tuple[Any, ...]] = {}  # what each panel shows
        self._status_at = -_STATUS_SECONDS
        self._log_at = -_STATUS_SECONDS
        self._last_state = ""

        self._header = ipywidgets.HTML()
        self._status = ipywidgets.HTML()
        self._message = ipywidgets.HTML()
        self.outcome = ipywidgets.HTML()
        self._fixes = ipywidgets.VBox()
        self._fixes.add_class("nbft-fixes")
        self._fixes_said = ipywidgets.HTML()
        self._buttons = [
            ipywidgets.Button(description=label, layout=ipywidgets.Layout(width="auto"))
            for label, _ in _COMMANDS.values()
        ]
        for command, button in zip(_COMMANDS, self._buttons, strict=True):
            button.on_click(lambda _, command=command: monitor._ask(command))
        hear_while_busy(*self._buttons)
        self._panels = {name: _row() if name in _BOXES else ipywidgets.HTML() for name in _PANELS}
        self._panels["Scores"].children = (self._score_table,)
        self._panels["Settings"].value = _settings(monitor.config.diff())
        self._tab = ipywidgets.Tab(
            children=list(self._panels.values()), titles=_PANELS, selected_index=0
        )
        self._tab.observe(lambda _: call_soon(monitor._draw), "selected_index")
        self.box = ipywidgets.VBox(
            [
                self._header,
                _row(one.chart for one in self._curves),
                self._status,
                ipywidgets.HBox(
                    [*(self._buttons if monitor.interactive else []), self._message],
                    layout=ipywidgets.Layout(flex_flow="row wrap", align_items="center"),
                ),
                self._tab,
                self.outcome,
                self._fixes,
            ],
            layout=ipywidgets.Layout(max_width="1200px"),
        )
        self.box.add_class("nbft-monitor")

    def draw(self, said: str) -> None:
        """Show the run as it stands."""
        monitor, seen = self._monitor, self._monitor.seen
        for one in self._curves:
            one.draw(seen)
        self._header.value = self.title()
        now, state = time.monotonic(), monitor.state.partition(",")[0]
        if now - self._status_at >= _STATUS_SECONDS or state != self._last_state:
            self._status_at, self._last_state = now, state
            self._status.value = _live(progress.numbers(seen))
        for name, button in zip(_COMMANDS, self._buttons, strict=True):
            button.disabled = monitor.is_over or (seen.is_paused and name not in ("stop", "pause"))
        self._buttons[1].description = "Continue" if seen.is_paused else _COMMANDS["pause"][0]
        self.say(_OVER if monitor.is_over else said if monitor.interactive else _BUSY)
        if self._is_due("Notes", seen, seen.changed["notes"]):
            self._draw_notes(seen)
        # A busy cell does not hear which panel was opened, so there all of them are kept.
        opened = {_PANELS[self._tab.selected_index or 0]} if monitor.interactive else {*_PANELS}
        if "More curves" in opened:
            specs = [*MORE, *other_charts(seen.curves)]
            self._panels["More curves"].children = self._charts(self._more, specs)
            for one in self._more.values():
                one.draw(seen)
        if "Samples" in opened and self._is_due("Samples", seen, seen.changed["samples"]):
            self._panels["Samples"].value = _samples(seen)
        if "Scores" in opened and self._is_due("Scores", seen, seen.changed["scored"]):
            self._draw_scores(seen)
        if "Log" in opened and (now - self._log_at >= _STATUS_SECONDS or monitor.is_over):
            self._log_at = now
            self._panels["Log"].value = _log(monitor.run.log_tail(_LOG_LINES))

    def _is_due(self, panel: str, seen: RunState, changed: int) -> bool:
        """Whether a panel shows something else than what was seen, which is then noted."""
        shown = (id(seen), changed, seen.end is None)
        is_due = self._drawn.get(panel) != shown
        self._drawn[panel] = shown
        return is_due

    def say(self, text: str) -> None:
        """Show a sentence beside the buttons."""
        self._message.value = _live(text)

    def offer(self, fixes: Sequence[Fix]) -> None:
        """Offer a button for each change that the run may be started again with."""
        for old in self._fixes.children:
            if old is not self._fixes_said:
                close(old)
        if not fixes:
            self._fixes.children = ()
            return
        buttons = []
        for number, fix in enumerate(fixes):
            button = ipywidgets.Button(
                description=fix.offer,
                tooltip=fix.offer,
                layout=ipywidgets.Layout(width="auto", max_width="100%", align_self="flex-start"),
            )
            button.on_click(lambda _, number=number: self._monitor._run_again(number))
            buttons.append(button)
        hear_while_busy(*buttons)
        why = ipywidgets.HTML(_FIXES)
        self._fixes.children = (why, *buttons, self._fixes_said)

    def say_of_fixes(self, text: str) -> None:
        """Show a sentence beneath the changes."""
        self._fixes_said.value = _live(text)

    def title(self) -> str:
        """Return the line over the curves, as HTML: which run, and how it stands."""
        run, config = self._monitor.run, self._monitor.config
        about = [_method(config), _data(config, self._monitor.seen.prepared)]
        return (
            '<div style="display: flex; flex-wrap: wrap; justify-content: space-between; '
            'gap: 2px 16px; line-height: 1.5; overflow-wrap: anywhere">'
            f"<span><b>run {escape(run.id)}</b> · {escape(config.model.model_name)} · "
            f"{escape(' · '.join(about))}</span><span>{escape(self._monitor.state)}</span></div>"
        )

    def summary(self) -> str:
        """Say in words what the two curves show."""
        return "\n".join(
            f"{chart.title}: {chart.summary()}" for chart in (one.chart for one in self._curves)
        )

    def _charts(self, drawn: dict[str, _Curves], specs: Iterable[ChartSpec]) -> list[Chart]:
        """Return a chart of each spec, in a panel's `drawn` charts; one with new curves is new."""
        for spec in specs:
            old = drawn.get(spec.title)
            if old is not None and old.spec == spec:
                continue
            if old is not None:
                close(old.chart)
            drawn[spec.title] = _Curves(spec)
        return [one.chart for one in drawn.values()]

    def _draw_notes(self, seen: RunState) -> None:
        """Show the notes as a list, and where they belong to a step on the loss."""
        sentences = [progress.sentence(note) for note in seen.notes]
        self._panels["Notes"].value = _list(sentences, "Nothing to note so far.")
        self._tab.set_title(0, f"Notes ({len(sentences)})" if sentences else "Notes")
        self._curves[0].chart.marks = [
            {"x": float(note.step), "text": note.text}
            for note in seen.notes
            if note.step is not None
        ]

    def _draw_scores(self, seen: RunState) -> None:
        """Show the scores as a table, and their curves in a chart for each scale."""
        scores = seen.scores
        said = "".join(f"<p>{escape(sentence)}</p>" for sentence in scores.sentences)
        none = f'<span style="color: {_MUTED}">{_NO_SCORES}</span>'
        self._score_table.value = scores._repr_html_() + said if scores else none
        charts = scores.charts
        shown = self._charts(self._scores, [spec for spec, _ in charts])
        self._panels["Scores"].children = (self._score_table, *shown)
        for spec, rows in charts:
            self._scores[spec.title].show(rows)


class _Curves:
    """A chart of curves of a run, and how far it is drawn.

    It stands beside another where there are 900 px, and above it otherwise.
    """

    def __init__(self, spec: ChartSpec) -> None:
        self.spec = spec
        series = [Series(c.name, c.label, c.style, c.smooth) for c in spec.curves]
        self.chart = Chart(series, x_label="step", title=spec.title)
        self.chart.layout.flex = "1 1 420px"
        self.chart.layout.min_width = "0"
        self._state: RunState | None = None
        self._taken = 0  # the number of the last event that is drawn

    def draw(self, state: RunState) -> None:
        """Add what is new."""
        is_same = state is self._state and state.rewritten <= self._taken
        since = self._taken if is_same else 0
        self._state, self._taken = state, state.taken
        self.show(state.rows(self.spec, since))

    def show(self, rows: Iterable[Sequence[float | None]]) -> None:
        """Put rows in the place of those from the first of them on."""
        for step, *values in rows:
            pairs = zip(self.spec.names, values, strict=True)
            self.chart.append(step or 0, **{name: v for name, v in pairs if v is not None})
        self.chart.flush()


def close(widget: ipywidgets.Widget) -> None:
    """Close a widget that was replaced, with all that it holds."""
    for child in getattr(widget, "children", ()):
        close(child)
    for part in ("layout", "style"):
        if isinstance(getattr(widget, part, None), ipywidgets.Widget):
            getattr(widget, part).close()
    widget.close()


def _row(children: Iterable[ipywidgets.Widget] = ()) -> ipywidgets.Box:
    """Make a box whose children stand side by side where there is room."""
    layout = ipywidgets.Layout(flex_flow="row wrap", grid_gap="4px 16px")
    return ipywidgets.Box(list(children), layout=layout)


def _method(config: Any) -> str:
    return {"lora": f"LoRA r={config.peft.r}", "ia3": "IA3"}.get(config.peft.method, "all weights")


def _data(config: Any, prepared: Mapping[str, Any]) -> str:
    names = [
        one.dataset_name or (Path(one.path).name if one.path else "rows in memory")
        for one in config.data.train.datasets
    ]
    rows = prepared.get("rows")
    return " + ".join(names) + (f" ({count(rows, 'row')})" if rows is not None else "")


def _live(text: str) -> str:
    """Return a line that a screen reader says when it changes."""
    return f'<div role="status" style="line-height: 1.5">{escape(text)}</div>'


def _list(sentences: Iterable[str], otherwise: str) -> str:
    items = "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences)
    if not items:
        return f'<span style="color: {_MUTED}">{escape(otherwise)}</span>'
    return f'<ul style="margin: 0; padding-left: 20px; line-height: 1.5">{items}</ul>'


def _samples(seen: RunState) -> str:
    """Return the answers before and after, and beneath them what came between."""
    timeline = seen.timeline
    html = progress.answers(seen)._repr_html_()
    if len(timeline.steps) > 2:
        html += f"<p>The same prompts over the steps:</p>{timeline._repr_html_()}"
    return html


def _log(text: str) -> str:
    if not text.strip():
        return f'<span style="color: {_MUTED}">The log is empty so far.</span>'
    return (
        '<pre tabindex="0" aria-label="the last lines of the log" role="region" style="margin: 0; '
        f'white-space: pre-wrap; overflow-wrap: anywhere; line-height: 1.4">{escape(text)}</pre>'
    )


def _settings(changed: dict[str, tuple[Any, Any]]) -> str:
    """Return the settings that differ from their defaults, as a table."""
    if not changed:
        return "Every setting has its default."
    rows = "".join(
        f'<tr><th scope="row" style="text-align: left; font-weight: normal">'
        f"<code>{escape(path)}</code></th>"
        f"<td>{escape(str(value))}</td><td>{escape(str(default))}</td></tr>"
        for path, (default, value) in changed.items()
    )
    return (
        '<table style="border-spacing: 12px 2px; margin-left: -12px; text-align: left; '
        'line-height: 1.5; overflow-wrap: anywhere"><thead><tr><th scope="col">setting</th>'
        f'<th scope="col">value</th><th scope="col">default</th></tr></thead>'
        f"<tbody>{rows}</tbody></table>"
    )
