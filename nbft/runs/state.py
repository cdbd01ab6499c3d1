"""The state of a run, computed from its events in this one place.

`RunState` takes events one after another; `StateReader` feeds it those that were appended to a file
since the last read, so the cost of a read is proportional to what is new. Loads no library.
"""

from __future__ import annotations

import bisect
from array import array
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from nbft import events
from nbft.charts import ChartSpec
from nbft.evaluate.scores import Scores
from nbft.evaluate.timeline import Timeline
from nbft.events import FINAL_KINDS, Event
from nbft.runs.processes import lives

_Ended = Literal["completed", "stopped", "cancelled", "failed", "lost"]
Status = Literal["created", "queued", "running", "paused"] | _Ended

_NO_MEASURES = frozenset(("event", "time", "step"))
_MOST_CURVES = 100
"""Of measures that nobody asked for by name: 5 MB at 2,000 points each."""
_LOG = b'{"event": "log"'  # as `events.append` writes it


class Note(NamedTuple):
    """Something that a person should know.

    Attributes:
        text: In sentences.
        step: Its step; None if it belongs to none.
    """

    text: str
    step: int | None = None


class Points:
    """The values of one measure by step; the last value reported for a step counts.

    Args:
        most: Keep fewer points than this, evenly spread; all if None.

    Attributes:
        steps: The steps, ascending.
        values: The value at each.
    """

    __slots__ = ("_events", "_every", "_most", "_seen", "steps", "values")

    def __init__(self, most: int | None = None) -> None:
        self._most = most
        self._every = 1  # of so many values one is a point
        self._seen = 0
        self.steps = array("q")
        self.values = array("d")
        self._events = array("q")  # the number of the event that reported it, ascending

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def last(self) -> float | None:
        """The last value, or None."""
        return self.values[-1] if self.values else None

    def add(self, step: int, value: float, event: int) -> bool:
        """Add a point of an event, and return whether all earlier points are unchanged."""
        steps = self.steps
        if not steps or step > steps[-1]:
            is_point = self._seen % self._every == 0
            self._seen += 1
            if is_point:
                steps.append(step)
                self.values.append(value)
                self._events.append(event)
            return self._fits()
        at = bisect.bisect_left(steps, step)
        is_last = at == len(steps) - 1
        if steps[at] != step:
            steps.insert(at, step)
            self.values.insert(at, value)
            self._events.insert(at, self._events[at])
            self._fits()
            return False
        self.values[at] = value
        if is_last:
            self._events[at] = event
        return is_last

    def _fits(self) -> bool:
        """Return whether no point had to be dropped; otherwise every second one is."""
        if self._most is None or len(self.steps) < self._most:
            return True
        del self.steps[1::2], self.values[1::2], self._events[1::2]
        self._every *= 2
        return False

    def drop_after(self, step: int) -> None:
        """Drop the points after a step."""
        end = bisect.bisect_right(self.steps, step)
        del self.steps[end:], self.values[end:], self._events[end:]

    def new_since(self, event: int) -> int:
        """Return the index of the first point reported after an event of this number."""
        return bisect.bisect_right(self._events, event)


class FewPoints:
    """A measure over the steps in a limited number of points, including the first and the last.

    Args:
        most: Maximum number of points.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._points: list[list[float]] = []
        self._last: list[float] | None = None
        self._every = 1  # one of so many values is a point
        self._seen = 0

    @property
    def takes_next(self) -> bool:
        """Whether the next value becomes a point; others only count as the last value."""
        return self._seen % self._every == 0

    @property
    def last(self) -> float | None:
        """The last value, or None."""
        return self._last[1] if self._last else None

    def skip(self) -> None:
        """Count a value that was not parsed."""
        self._seen += 1

    def add(self, step: int, value: float) -> None:
        """Take in the next value."""
        is_point = self.takes_next
        self._seen += 1
        if self._points and step <= self._points[-1][0]:
            self._points = [point for point in self._points if point[0] < step]
        self._last = [step, value]
        if is_point:
            self._points.append(self._last)
            if len(self._points) >= self._most:
                self._halve()

    def expect(self, values: int) -> None:
        """Make room for values to come, so that fewer of them have to be parsed."""
        while (self._seen + values) // self._every >= self._most:
            self._halve()

    def _halve(self) -> None:
        self._points = self._points[::2]
        self._every *= 2

    def drop_after(self, step: int) -> None:
        """Drop the points after a step."""
        self._points = [point for point in self._points if point[0] <= step]
        if self._last is not None and self._last[0] > step:
            self._last = self._points[-1] if self._points else None

    def points(self) -> list[list[float]]:
        """Return [step, value] of each point."""
        if self._last is None or (self._points and self._points[-1][0] >= self._last[0]):
            return list(self._points)
        return [*self._points, self._last]


class RunState:
    """The state of a run after its events; steps that a resumed run repeats are replaced.

    Args:
        found: Initial events, as `nbft.events` reads them.
        measures: Keep all points of these measures only; of every logged number if None.
        most_other_points: Of each other measure keep fewer points than this; 0 for none.
        most_points: For a list of many runs: keep at most so many points of the loss, and no
            other curves, answers or scores.

    Attributes:
        started: The last `started` event; {} before it.
        prepared: The last `prepared` event of this attempt or an earlier one; {} before it.
        supervisor: The last `queued` event; {} if the run has no supervisor.
        stage: What the worker does before training, in words; "" while it trains.
        step: Optimiser steps done so far.
        is_paused: Whether it waits for `continue`.
        end: The final event; None while the run goes on.
        log: The last `log` event; {} before it.
        curves: The points of each measure by its name.
        samples: The `sample` events that were not replaced.
        scored: The `scores` events that were not replaced.
        notes: Notes and warnings.
        answer: The last answer to a command, in words.
        checkpoint: The last checkpoint, relative to the run.
        eval_loss: The last held-out loss; None if it was not measured.
        few: The points of the loss, if `most_points` is given.
        counts: Number of events of each kind.
        taken: Number of events, which is the number of the last one.
        began: Time of the first event, in seconds since the epoch; None if unknown.
        changed: Number of the last event that changed "notes", "samples" and "scored".
        rewritten: Number of the last event that changed earlier points, or logged
            another measure for the first time.
    """

    def __init__(
        self,
        found: Iterable[Event] = (),
        *,
        measures: Collection[str] | None = None,
        most_other_points: int = 0,
        most_points: int | None = None,
    ) -> None:
        self.started: Event = {}
        self.prepared: Event = {}
        self.supervisor: Event = {}
        self.stage = ""
        self.is_paused = False
        self.end: Event | None = None
        self.log: Event = {}
        self.curves: dict[str, Points] = {}
        self.few = FewPoints(most_points) if most_points else None
        self.samples: list[Event] = []
        self.scored: list[Event] = []
        self.notes: list[Note] = []
        self.answer = ""
        self.checkpoint = ""
        self.counts: Counter[str] = Counter()
        self.began: float | None = None
        self.changed = dict.fromkeys(("notes", "samples", "scored"), 0)
        self.rewritten = 0
        self.taken = 0
        self.eval_loss: float | None = None
        self._measures = measures
        self._most_other_points = most_other_points
        self.step = 0
        self._status: Status = "created"
        self._processes: list[tuple[int, float]] = []
        for event in found:
            self.take(event)

    @property
    def status(self) -> Status:
        """The last reported status, or "lost" when neither worker nor supervisor lives."""
        is_released = self._status == "paused" and not self._processes  # its device was freed
        if self.end is not None or self._status == "created" or is_released:
            return self._status
        return self._status if any(lives(*process) for process in self._processes) else "lost"

    @property
    def total_steps(self) -> int | None:
        """Planned number of steps; None before it is known."""
        return self.prepared.get("total_steps")

    @property
    def measures(self) -> list[Any]:
        """What the training method declared about its measures: records with name and chart."""
        found = self.prepared.get("measures")
        return found if isinstance(found, list) else []

    @property
    def _failure(self) -> Event:
        return self.end if self.end and self.end["event"] == "failed" else {}

    @property
    def problems(self) -> list[str]:
        """Why the run failed, in sentences; [] if it did not."""
        return list(self._failure.get("problems", []))

    @property
    def is_out_of_memory(self) -> bool:
        """Whether the run failed because memory ran out."""
        return bool(self._failure.get("out_of_memory"))

    @property
    def scores(self) -> Scores:
        """The scores of the base model beside the latest."""
        return Scores(self.scored)

    @property
    def timeline(self) -> Timeline:
        """The answers to the same prompts over the steps."""
        return Timeline(self.samples)

    def curve(self, name: str) -> Points:
        """Return the points of a measure; none if it was not logged."""
        return self.curves.get(name) or Points()

    def rows(
        self, chart: ChartSpec, since: int = 0, until: int | None = None
    ) -> list[tuple[float, ...]]:
        """Return the points of a chart's curves on one axis: (step, value or None of each).

        The first row is the earliest that changed; a reader replaces its rows from there on. If
        `rewritten` is later than `since`, the reader starts again at 0.

        Args:
            chart: The chart.
            since: Return the changes after this event; 0 for all.
            until: Return the changes up to this event; all if None.
        """
        curves = [self.curves.get(name) for name in chart.names]
        new = [(curve, curve.new_since(since)) for curve in curves if curve is not None]
        begins = [curve.steps[at] for curve, at in new if at < len(curve)]
        if not begins:
            return []
        first = min(begins)
        merged: dict[int, list[float | None]] = defaultdict(lambda: [None] * len(curves))
        for column, (curve, spec) in enumerate(zip(curves, chart.curves, strict=True)):
            if curve is None:
                continue
            begin = bisect.bisect_left(curve.steps, first)
            end = len(curve) if until is None else curve.new_since(until)
            for step, value in zip(curve.steps[begin:end], curve.values[begin:end], strict=True):
                merged[step][column] = value * spec.scale
        return [(step, *merged[step]) for step in sorted(merged)]  # type: ignore[arg-type]

    def take(self, event: Event) -> None:
        """Take in the next event, as `nbft.events` reads it."""
        kind = event["event"]
        step = event.get("step")
        self.taken += 1
        self.counts[kind] += 1
        if self.began is None:
            self.began = event.get("time")
        self._take_process(kind, event)
        if step is not None:
            self.step = max(self.step, step)
        if kind == "log":
            self.log, self.stage = event, ""
            self._measure(step, event)
        elif kind == "eval":
            if event.get("eval_loss") is not None:
                self.eval_loss = event["eval_loss"]
            self._measure(step, event)
        elif kind == "prepared":
            self.prepared, self.stage = event, ""
            self._go_back(event.get("resumed_step"))
        elif kind == "stage":
            self.stage = event.get("text") or ""
        elif kind == "command":
            self.answer = event.get("text") or ""
        elif kind == "checkpoint":
            self.checkpoint = event.get("path") or ""
        elif kind in ("note", "warning", "paused") and event.get("text"):
            self._keep("notes", Note(event["text"], step if kind == "note" else None))
        elif self.few is not None or step is None:
            return
        elif kind == "sample" and event.get("samples"):
            self._keep("samples", event)
        elif kind == "scores" and event.get("scores"):
            self._keep("scored", event)

    def _take_process(self, kind: str, event: Event) -> None:
        """Take in the processes and the status of an event."""
        pid, began = event.get("pid"), event.get("process_start_time")
        if kind in ("queued", "started"):
            self._status = "queued" if kind == "queued" else "running"
            self.end, self.is_paused = None, False  # it was resumed
            self.stage = "waiting for its turn" if kind == "queued" else ""
            if kind == "started":
                self.started = event
            else:
                self.supervisor, self._processes = event, []
        if pid is not None and began is not None:
            # Of the supervisor; then of the worker, which both of them report.
            self._status = "queued" if kind == "queued" else "running"
            self._processes.append((pid, began))
        elif kind == "paused":
            self._status, self.is_paused = "paused", True
            if event.get("released"):
                self._processes = []
        elif kind == "continued":
            self._status, self.is_paused = "running", False
        elif kind in FINAL_KINDS:
            self._status, self.end = kind, event  # type: ignore[assignment]
            self._processes = []

    def _measure(self, step: int | None, event: Event) -> None:
        """Take in the numbers of an event."""
        if step is None:
            return
        if self.few is not None:
            loss = events.number(event.get("loss"))
            if loss is not None and event["event"] == "log":
                self.few.add(step, loss)
            return
        for name, value in event.items():
            is_other = self._measures is not None and name not in self._measures
            if name in _NO_MEASURES or (is_other and not self._most_other_points):
                continue
            number = value if type(value) is float else events.number(value)
            if number is None:
                continue
            curve = self.curves.get(name)
            if curve is None:
                if is_other and len(self.curves) >= _MOST_CURVES:
                    continue
                curve = self.curves[name] = Points(self._most_other_points if is_other else None)
                if is_other:
                    self.rewritten = self.taken  # a chart gains a curve
            if not curve.add(step, number, self.taken):
                self.rewritten = self.taken

    def _keep(self, name: str, item: Event | Note) -> None:
        getattr(self, name).append(item)
        self.changed[name] = self.taken

    def _go_back(self, step: int | None) -> None:
        """Forget what a run that goes on from a checkpoint will repeat."""
        if step is None:
            return
        self.step = step
        self.rewritten = self.taken
        for curve in self.curves.values():
            curve.drop_after(step)
        if "eval_loss" in self.curves:
            self.eval_loss = self.curves["eval_loss"].last
        if self.few is not None:
            self.few.drop_after(step)
        self.samples = [event for event in self.samples if event["step"] <= step]
        self.scored = [event for event in self.scored if event["step"] <= step]
        self.notes = [note for note in self.notes if (note.step or 0) <= step]
        self.changed = dict.fromkeys(self.changed, self.taken)


class StateReader:
    """Keeps the state of a run up to date with its file of events.

    Args:
        path: The `events.jsonl`.
        measures: As `RunState`.
        most_other_points: As `RunState`.
        most_points: As `RunState`. Log lines that are no point of the curve are not even parsed:
            for 1,000 runs with 1,000 such lines each this takes 0.8 s instead of 7.6 s.

    Attributes:
        state: The state at the last read.
        file: The inode of the file; 0 if there is none.
        generation: How often another file has taken its place.
    """

    def __init__(
        self,
        path: Path,
        *,
        measures: Collection[str] | None = None,
        most_other_points: int = 0,
        most_points: int | None = None,
    ) -> None:
        self.path = path
        self.file = self.generation = 0
        self._kept = {
            "measures": measures,
            "most_other_points": most_other_points,
            "most_points": most_points,
        }
        self._stamp: tuple[int, ...] = ()
        self._start_over()

    def _start_over(self) -> None:
        self.state = RunState(**self._kept)  # type: ignore[arg-type]
        self._reader = events.EventReader(self.path)

    def read(self) -> bool:
        """Take in what was appended since the last read, and return whether there was anything."""
        stamp = file_stamp(self.path)
        if stamp == self._stamp:
            return False
        if self._stamp and (stamp[:1] != self._stamp[:1] or stamp[1] < self._reader.offset_bytes):
            self.generation += 1  # another file, or one cut short
            self._start_over()
        try:
            lines = self._reader.read_lines()
        except OSError:
            return False
        self._stamp = stamp
        self.file = stamp[0] if stamp else 0
        before = self.state.taken
        for line in lines if self.state.few is None else self._without_middle_logs(lines):
            event = events.parse(line)
            if event is not None:
                self.state.take(event)
        return self.state.taken > before

    def _without_middle_logs(self, lines: Sequence[bytes]) -> Iterable[bytes]:
        """Yield the lines without logs that are neither a point of the curve nor the last."""
        few = self.state.few
        assert few is not None
        logs = [i for i, line in enumerate(lines) if line.startswith(_LOG)]
        few.expect(len(logs))
        newest = logs[-1] if logs else -1
        for i, line in enumerate(lines):
            if line.startswith(_LOG) and i != newest and not few.takes_next:
                few.skip()
                continue
            yield line


def file_stamp(path: Path) -> tuple[int, ...]:
    """Return inode, size in bytes and modification time in ns of a file; () if there is none."""
    try:
        stat = path.stat()
    except OSError:
        return ()
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


def read_state(path: Path) -> RunState:
    """Return the state after the events of a file."""
    reader = StateReader(path)
    reader.read()
    return reader.state
