"""A race in a cell: the curves of its contestants in one chart, the table, and buttons.

Like the monitor it only reads events, and `update` runs on the kernel's main thread. When the race
is over, a still picture and the table take the place of the live view.
"""

from __future__ import annotations

import asyncio
import base64
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import ipywidgets
from markupsafe import Markup

from nbft.charts import PALETTE, ChartSpec, Curve, png
from nbft.errors import NbftError
from nbft.formatting import count
from nbft.pages.environment import render
from nbft.runs.race import Race, RaceTable
from nbft.runs.state import RunState
from nbft.widgets.chart import Chart
from nbft.widgets.kernel import call_soon, hear_while_busy, is_main_thread, main_loop
from nbft.widgets.kit import Kit
from nbft.widgets.monitor import CSS

if TYPE_CHECKING:
    from IPython.display import DisplayHandle

_POLL_SECONDS = 0.5
_STATUS_SECONDS = 2.0  # more frequent updates would keep a screen reader from finishing the line

_CHARTS = {"loss": "loss", "eval_loss": "held-out loss"}
"""Title of each chart by the measure that it shows."""


class RaceView:
    """A view of a race, shown as the last value of a cell, or by `show`.

    Args:
        race: The race.
    """

    def __init__(self, race: Race) -> None:
        self.race = race
        self._view: _View | None = None
        self._shown: DisplayHandle | None = None
        self._following: asyncio.Task[None] | None = None
        self._is_finished = False
        self.message = ""
        main_loop()

    @property
    def widget(self) -> ipywidgets.Widget:
        """The view, to place in another one; it moves while `update` is called."""
        return self._built.box

    def update(self) -> bool:
        """Read what is new and show it, on the main thread; return whether the race goes on."""
        is_over = self.race.is_over
        self._built.draw(is_over=is_over)
        if is_over and not self._is_finished:
            self._is_finished = True
            if self._shown is not None:
                self._shown.update(self._still(), raw=True)
        return not is_over

    async def follow(self) -> None:
        """Update until the race is over; an error in the view ends the view, not the race."""
        try:
            while self.update():
                await asyncio.sleep(_POLL_SECONDS)
        except Exception as error:
            self._built.say(f"This view stopped ({error}). The race goes on: show it again.")
            raise

    def show(self) -> None:
        """Display the view and keep it up to date until the race is over."""
        if is_main_thread():
            self._show()
        else:
            call_soon(self._show)

    def _ipython_display_(self) -> None:
        self.show()

    def __repr__(self) -> str:
        return f"View of {self.race.headline}"

    @property
    def _built(self) -> _View:
        if self._view is None:
            self._view = _View(self)
        return self._view

    def drop(self, name: str) -> None:
        """Stop a contestant; may run on any thread."""
        self._ask(f"Stopping {name} after its step…", lambda: self.race.drop(name))

    def stop(self) -> None:
        """Stop all contestants; may run on any thread."""
        self._ask("Stopping all after their steps…", self.race.stop)

    def _ask(self, text: str, ask: Any) -> None:
        self.message = text
        try:
            ask()
        except (NbftError, OSError) as error:
            self.message = str(error)
        call_soon(self._built.say, self.message)

    def _show(self) -> None:
        from IPython.core.interactiveshell import InteractiveShell
        from IPython.display import display

        goes_on = self.update()
        if not InteractiveShell.initialized():
            return
        if not goes_on:
            display(self._still(), raw=True)
            return
        view = self._built.box._repr_mimebundle_() | {"text/plain": str(self.race)}
        self._shown = display(view, raw=True, display_id=True)
        loop = main_loop()
        if loop is not None and (self._following is None or self._following.done()):
            self._following = loop.create_task(self.follow())

    def _still(self) -> dict[str, str]:
        """Return the race as HTML and as text, for saved notebooks."""
        picture = Markup(
            '<p><img alt="{}" style="max-width: 100%" src="data:image/png;base64,{}"></p>'
        )
        drawn = [
            picture.format(chart.summary(), base64.b64encode(png(chart.figure())).decode())
            for chart in self._built.charts
        ]
        table = self._built.table
        said = Markup("<p>{}</p>").format(self.race.headline)
        html = Markup("").join([said, *drawn, Markup(table._repr_html_())])  # noqa: S704 - pages
        return {"text/html": str(html), "text/plain": str(self.race)}


class _View:
    """The widgets of a race. Everything here runs on the main thread."""

    def __init__(self, view: RaceView) -> None:
        self._race = view.race
        self._kit = kit = Kit()
        self._overlays: dict[str, _Overlay] = {}
        self._header, self._standings = kit.html(""), kit.html("", "nbft-standings")
        self._message, self._more = kit.html(""), kit.html("")
        self._headline_at = -_STATUS_SECONDS
        self._going: tuple[str, ...] = ()
        self._chosen = kit(
            ipywidgets.Dropdown, "nbft-contestant", description="Contestant", options=()
        )
        self._drop = kit.button("Drop", lambda _: view.drop(self._chosen.value), "")
        self._stop = kit.button("Stop all", lambda _: view.stop(), "")
        hear_while_busy(self._drop, self._stop)
        self._buttons = kit.row(self._chosen, self._drop, self._stop, self._message)
        self._row = kit.row(css="nbft-charts")
        self.box = ipywidgets.VBox(
            [
                self._header,
                self._row,
                self._more,
                self._standings,
                self._buttons,
                kit.html(f"<style>{CSS.read_text(encoding='utf-8')}</style>", "nbft-style"),
            ]
        )
        self.box.add_class("nbft-monitor")
        self.table: RaceTable = self._race.table()

    @property
    def charts(self) -> list[Chart]:
        """The charts that have curves."""
        return [overlay.chart for overlay in self._overlays.values() if overlay.chart is not None]

    def draw(self, *, is_over: bool) -> None:
        """Show the race as it stands."""
        race, self.table = self._race, self._race.table()
        names = [run.id for run in race.runs]
        ranked = [row.run for row in self.table]
        drawn = sorted(ranked[: len(PALETTE)], key=names.index)
        states = {run.id: run.state for run in race.runs if run.id in drawn}
        titles = race.titles
        for measure, title in _CHARTS.items():
            if measure in self._overlays or any(s.curve(measure) for s in states.values()):
                overlay = self._overlays.setdefault(measure, _Overlay(self._kit, measure, title))
                overlay.draw(states, titles)
        self._row.children = tuple(self.charts)
        left_out = len(names) - len(drawn)
        many = f"The chart shows the best {len(drawn)}; {count(left_out, 'contestant')} not."
        self._more.value = render("monitor", part="status", text=many) if left_out else ""
        self._standings.value = self.table._repr_html_()
        now = time.monotonic()
        if is_over or now - self._headline_at >= _STATUS_SECONDS:
            self._headline_at = now
            self._header.value = render("monitor", part="status", text=race.headline)
        going = tuple(run.id for run in race.runs if not run.is_over)
        if going != self._going:
            self._going, chosen = going, self._chosen.value
            self._chosen.options = [(f"{name} ({titles[name]})", name) for name in going]
            if going:
                self._chosen.value = chosen if chosen in going else going[0]
        self._chosen.disabled = self._drop.disabled = self._stop.disabled = not going

    def say(self, text: str) -> None:
        """Show a sentence beside the buttons."""
        self._message.value = render("monitor", part="status", text=text)


class _Overlay:
    """A chart of one measure, with a curve for each contestant."""

    def __init__(self, kit: Kit, measure: str, title: str) -> None:
        self._kit, self._measure, self._title = kit, measure, title
        self._names: list[str] = []
        self._taken: dict[str, int] = {}
        self.chart: Chart | None = None

    def draw(self, states: dict[str, RunState], titles: dict[str, str]) -> None:
        """Add what is new; other contestants than before get a new chart."""
        if list(states) != self._names:
            self._names, self._taken = list(states), {}
            smooth = self._measure == "loss"
            curves = [
                Curve(f"curve_{n}", titles[name], smooth=smooth) for n, name in enumerate(states)
            ]
            before, spec = self.chart, ChartSpec(self._title, tuple(curves))
            self.chart = self._kit.own(Chart(spec.curves, title=self._title))
            self.chart.add_class("nbft-chart-cell")
            if before is not None:
                before.close()
        begins: list[int] = []
        for name, state in states.items():
            since = self._taken.get(name, 0)
            since = since if state.rewritten <= since else 0
            points = state.curve(self._measure)
            begins += points.steps[points.new_since(since) :][:1]
            self._taken[name] = state.taken
        if begins:
            self._append_from(min(begins), states)
        assert self.chart is not None
        self.chart.flush()

    def _append_from(self, first: int, states: dict[str, RunState]) -> None:
        """Replace all points from a step on: contestants are at different steps."""
        rows: dict[int, dict[str, float]] = defaultdict(dict)
        for n, state in enumerate(states.values()):
            points = state.curve(self._measure)
            for step, value in zip(points.steps, points.values, strict=True):
                if step >= first:
                    rows[step][f"curve_{n}"] = value
        assert self.chart is not None
        for step in sorted(rows):
            self.chart.append(step, **rows[step])
