"""The state of a run, computed from its events in this one place.

`RunState` takes events one after another; `StateReader` feeds it those that were appended to a file
since the last read, so the cost of a read is proportional to what is new. Loads no library but
pydantic's parser of JSON.
"""

from __future__ import annotations

import bisect
import itertools
import math
import operator
import time
from array import array
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

from pydantic_core import from_json

from nbft import events
from nbft.charts import ChartSpec
from nbft.evaluate.scores import Scores
from nbft.evaluate.timeline import Timeline
from nbft.events import FINAL_KINDS, Event
from nbft.processes import Process
from nbft.reading import why_not
from nbft.rewards.table import RewardTable

_Ended = Literal["completed", "stopped", "cancelled", "failed", "lost"]
Status = Literal["created", "queued", "running", "paused"] | _Ended

_NO_MEASURES = frozenset(("event", "time", "step"))
_MOST_CURVES = 100
"""Of measures that nobody asked for by name: 5 MB at 2,000 points each."""
SILENT_SECONDS = 600.0
"""A run on another machine that has written nothing for so long counts as lost. It shows every 20
seconds that it lives; the rest is for clocks that differ and for a network that is slow."""

_MANY_LOGS = 20
_LOG = b'{"event": "log"'  # as `events.append` writes it
_RESULTS = frozenset(("eval", "scores", "sample", "completions", "checkpoint"))
_IN_SHORT = (_LOG, b'{"event": "sample"', b'{"event": "completions"')


class Note(NamedTuple):
    """Something that a person should know.

    Attributes:
        text: In sentences.
        step: Its step; None if it belongs to none.
        kind: Name of the note in `nbft.runs.notes`; "" for a warning.
        changes: The setting to try, by its path; {} if there is none.
        answered_step: The step at which it was no longer true; None while it is.
    """

    text: str
    step: int | None = None
    kind: str = ""
    changes: Mapping[str, Any] = MappingProxyType({})
    answered_step: int | None = None

    def at(self, step: int) -> Note:
        """Return the note as it was at an earlier step."""
        is_later = self.answered_step is not None and self.answered_step > step
        return self._replace(answered_step=None) if is_later else self


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

    def extend(self, steps: Sequence[int], values: Sequence[float], first_event: int) -> None:
        """Add the points of consecutive events; the steps ascend from the last one on."""
        self.steps.extend(steps)
        self.values.extend(values)
        self._events.extend(range(first_event, first_event + len(steps)))
        self._seen += len(steps)

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
        stage: What the worker does before, between and after the steps, in words; "" while it
            trains.
        staged: The last `stage` event of this attempt; {} before it.
        step: Optimiser steps done so far.
        is_paused: Whether it waits for `continue`.
        end: The final event; None while the run goes on.
        log: The last `log` event; {} before it.
        curves: The points of each measure by its name.
        samples: The `sample` events that were not replaced.
        scored: The `scores` events that were not replaced.
        completions: The last `completions` event; {} without one.
        notes: Notes and warnings.
        answer: The last answer to a command, in words.
        checkpoint: The last checkpoint, relative to the run.
        eval_loss: The last held-out loss; None if it was not measured.
        few: The points of the loss, if `most_points` is given.
        counts: Number of events of each kind.
        taken: Number of events, which is the number of the last one.
        began: Time of the first event, in seconds since the epoch; None if unknown.
        heard: When something was last written, in seconds since the epoch; None if unknown.
        changed: Number of the last event that changed "notes", "samples", "scored" and "completions".
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
        self.staged: Event = {}
        self.is_paused = False
        self.end: Event | None = None
        self.log: Event = {}
        self.curves: dict[str, Points] = {}
        self.few = FewPoints(most_points) if most_points else None
        self.samples: list[Event] = []
        self.scored: list[Event] = []
        self.completions: Event = {}
        self.notes: list[Note] = []
        self.answer = ""
        self.checkpoint = ""
        self.counts: Counter[str] = Counter()
        self.began: float | None = None
        self.heard: float | None = None
        self.changed = dict.fromkeys(("notes", "samples", "scored", "completions"), 0)
        self.rewritten = 0
        self.taken = 0
        self.eval_loss: float | None = None
        self._measures = measures
        self._most_other_points = most_other_points
        self.step = 0
        self._status: Status = "created"
        self._processes: list[Process] = []
        for event in found:
            self.take(event)

    @property
    def status(self) -> Status:
        """The last reported status, or "lost" when neither worker nor supervisor lives.

        Processes of another machine live as long as something is written.
        """
        if self.end is not None or self._status == "created" or self.is_released:
            return self._status
        if self.cluster:
            return self._status
        if any(process.lives() for process in self._processes):
            return self._status
        is_silent = self.heard is None or time.time() - self.heard > SILENT_SECONDS
        return "lost" if is_silent or not self.host else self._status

    @property
    def cluster(self) -> str:
        """The launcher in whose queue the run waits, such as slurm; "" if it waits in none."""
        is_waiting = self._status == "queued" and not self._processes
        return str(self.supervisor.get("cluster") or "") if is_waiting else ""

    @property
    def is_released(self) -> bool:
        """Whether the run is paused with its process ended and its device free."""
        return self._status == "paused" and not self._processes

    @property
    def host(self) -> str:
        """Name of the other machine that has the run; "" if it is this one, or the run is over."""
        elsewhere = [process for process in self._processes if process.lives() is None]
        return elsewhere[-1].place if elsewhere else ""

    @property
    def is_before_first_step(self) -> bool:
        """Whether it loads, or does what comes before the first step of this attempt."""
        resumed_step = self.prepared.get("resumed_step") or 0
        return bool(self.stage) and (self.staged.get("step") or 0) <= resumed_step

    @property
    def total_steps(self) -> int | None:
        """Planned number of steps; None before it is known."""
        return self.prepared.get("total_steps")

    @property
    def peak_bytes(self) -> int | None:
        """Most memory that the run has had so far; None before its first log."""
        return _size(self.log.get("peak_bytes"))

    @property
    def forecast_bytes(self) -> int | None:
        """Most memory that the run will have: the plan's estimate, or the peak once it is higher."""
        planned = _size(self.prepared.get("planned_bytes"))
        return None if planned is None else max(planned, self.peak_bytes or 0)

    @property
    def seconds_left(self) -> float | None:
        """Time until the run is over: the last estimate, less what has passed since; None if unknown.

        An estimate that has run out is none.
        """
        if self.end is not None or self.is_paused or self._status == "queued":
            return None
        said = max((self.log, self.staged), key=lambda event: event.get("time") or 0.0)
        left, when = said.get("seconds_left"), said.get("time")
        if left is None or not math.isfinite(left):
            return None
        if (when or math.inf) < (self.started.get("time") or 0.0):
            return None  # of an attempt before this one
        if when is not None and not self.host:  # clocks of two machines differ
            left -= max(0.0, time.time() - when)
        return left if left > 0 else None

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
    def reason(self) -> str:
        """Why the run ended when it did, in a sentence; "" if that goes without saying."""
        text = self.end.get("text") if self.end else ""
        return text if isinstance(text, str) else ""

    @property
    def is_out_of_memory(self) -> bool:
        """Whether the run failed because memory ran out."""
        return bool(self._failure.get("out_of_memory"))

    @property
    def fixes(self) -> list[dict[str, Any]]:
        """What would need less memory, as the event of a run has it that memory ran out on."""
        return list(self._failure.get("fixes") or []) if self.is_out_of_memory else []

    @property
    def device(self) -> str:
        """The device that the run trains on or waits for; cpu before it is known."""
        return self.prepared.get("device") or self.supervisor.get("device") or "cpu"

    @property
    def scores(self) -> Scores:
        """The scores of the base model beside the latest."""
        return Scores(self.scored)

    @property
    def rewarded(self) -> RewardTable:
        """Some of the answers that the model was last trained on, with their rewards."""
        return RewardTable.of_event(self.completions or {"completions": ()})

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
        process = Process.of(event) if "pid" in event else None
        is_end = kind in FINAL_KINDS or event.get("released")
        if is_end and process and not self._is_of_this_attempt(process):
            return
        if event.get("time") is not None:
            self.heard = event["time"]
            if self.began is None:
                self.began = self.heard
        self._take_process(kind, event, process)
        if step is not None:
            self.step = max(self.step, step)
        if kind in _RESULTS and self.prepared:
            self.stage = ""
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
            self.stage, self.staged = event.get("text") or "", event
        elif kind == "command":
            self.answer = event.get("text") or ""
        elif kind == "checkpoint":
            self.checkpoint = event.get("path") or ""
        elif kind in ("note", "warning", "paused") and event.get("text"):
            self._keep("notes", _note(event))
        elif kind == "answered" and step is not None:
            self._answer(event.get("kind"), step)
        elif self.few is not None or step is None:
            return
        elif kind == "sample" and event.get("samples"):
            self._keep("samples", event)
        elif kind == "scores" and event.get("scores"):
            self._keep("scored", event)
        elif kind == "completions" and event.get("completions"):
            self.completions = event
            self.changed["completions"] = self.taken

    def _is_of_this_attempt(self, process: Process) -> bool:
        """Whether a process is none that was silent for long and wakes up after a resume elsewhere."""
        known = {(other.pid, other.boot) for other in self._processes}
        return (process.pid, process.boot) in known if known else not self.cluster

    def take_logs(self, found: Sequence[Event]) -> bool:
        """Take in consecutive `log` events at once, if that comes to the same as one by one.

        They must be as JSON has them: with the same fields, all of them plain numbers, and ascending
        steps. Taking 100,000 events one by one takes more than a second.

        Returns:
            Whether they were taken in.
        """
        names, last = tuple(found[0]), found[-1]
        if self.few is not None or not {"event", "step"} <= {*names} or "pid" in names:
            return False
        if any(tuple(event) != names for event in found):
            return False
        columns = {
            name: list(map(operator.itemgetter(name), found)) for name in names if name != "event"
        }
        if not all(events.are_plain(name, column) for name, column in columns.items()):
            return False
        steps = columns["step"]
        if any(after <= before for before, after in itertools.pairwise(steps)):
            return False
        if any(curve.steps and curve.steps[-1] >= steps[0] for curve in self.curves.values()):
            return False
        first = self.taken + 1
        self.taken += len(found)
        self.counts["log"] += len(found)
        if self.began is None:
            self.began = found[0].get("time")
        self.step = max(self.step, steps[-1])
        self.log, self.stage = last, ""
        for name in names:
            is_other = self._measures is not None and name not in self._measures
            if name in _NO_MEASURES or (is_other and not self._most_other_points):
                continue
            curve = self._curve(name, first, is_other=is_other)
            if curve is None:
                continue
            if not is_other:
                curve.extend(steps, columns[name], first)
                continue
            for number, (step, value) in enumerate(zip(steps, columns[name], strict=True), first):
                if not curve.add(step, value, number):
                    self.rewritten = max(self.rewritten, number)
        return True

    def take_point(self, found: Event) -> bool:
        """Take in a `log` or `sample` of which only the step and a point of the loss are wanted.

        It must be as JSON has it, with plain numbers.

        Returns:
            Whether it was taken in.
        """
        kind, step, loss = found.get("event"), found.get("step"), found.get("loss")
        if type(step) is not int or not 0 <= step < events.LARGEST or "pid" in found:
            return False
        if self.few is None or self.began is None or not isinstance(kind, str):
            return False
        if kind == "log":
            if type(loss) is not float:
                return False
            self.few.add(step, loss)
        if self.prepared:
            self.stage = ""
        self.taken += 1
        self.counts[kind] += 1
        self.step = max(self.step, step)
        return True

    def _curve(self, name: str, event: int, *, is_other: bool) -> Points | None:
        """Return the curve of a measure, which may be new with an event; None if there are too many."""
        curve = self.curves.get(name)
        if curve is None:
            if is_other and len(self.curves) >= _MOST_CURVES:
                return None
            curve = self.curves[name] = Points(self._most_other_points if is_other else None)
            if is_other:
                self.rewritten = max(self.rewritten, event)  # a chart gains a curve
        return curve

    def _take_process(self, kind: str, event: Event, process: Process | None) -> None:
        """Take in the processes and the status of an event."""
        if kind in ("queued", "started"):
            self._status = "queued" if kind == "queued" else "running"
            self.end, self.is_paused = None, False  # it was resumed
            self.stage, self.staged = "waiting for its turn" if kind == "queued" else "", {}
            if kind == "started":
                self.started = event
            else:
                self.supervisor, self._processes = event, []
        if process is not None and kind in ("queued", "started", "stage"):
            # Of the supervisor; then of the worker, which both of them report.
            self._status = "queued" if kind == "queued" else "running"
            self._processes.append(process)
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
            curve = self._curve(name, self.taken, is_other=is_other)
            if curve is None:
                continue
            if not curve.add(step, number, self.taken):
                self.rewritten = self.taken

    def _keep(self, name: str, item: Event | Note) -> None:
        getattr(self, name).append(item)
        self.changed[name] = self.taken

    def _answer(self, kind: Any, step: int) -> None:
        """Strike the notes of a kind, which are no longer true."""
        for i, note in enumerate(self.notes):
            if kind and note.kind == kind and note.answered_step is None:
                self.notes[i] = note._replace(answered_step=step)
                self.changed["notes"] = self.taken

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
        if self.completions.get("step", 0) > step:
            self.completions = {}
        self.notes = [note.at(step) for note in self.notes if (note.step or 0) <= step]
        self.changed = dict.fromkeys(self.changed, self.taken)


def _size(value: Any) -> int | None:
    found = events.number(value)
    return None if found is None or not math.isfinite(found) else int(found)


def _note(event: Event) -> Note:
    """Return the note of an event; warnings and pauses belong to no step."""
    if event["event"] != "note":
        return Note(event["text"])
    return Note(
        event["text"], event.get("step"), event.get("kind") or "", event.get("changes") or {}
    )


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
        problem: Why the file cannot be read; "" if it can.
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
        self.problem = ""
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

    @property
    def is_behind(self) -> bool:
        """Whether the last read left something unread."""
        return self._reader.is_behind

    def read(self, seconds: float | None = None) -> bool:
        """Take in what was appended since the last read, and return whether there was anything.

        Args:
            seconds: Stop after about this time, of a file that is larger than 256 KiB; the next read
                goes on there.
        """
        stamp = file_stamp(self.path)
        if stamp == self._stamp and not self.is_behind:
            return False
        is_other = bool(self._stamp) and stamp[:1] != self._stamp[:1]
        self._stamp = stamp
        self.file = stamp[0] if stamp else 0
        self.problem = ""
        until = math.inf if seconds is None else time.monotonic() + seconds
        before = self.state.taken
        try:
            if is_other or not self._reader.continues():
                self.generation += 1
                self._start_over()
                before = 0
            for lines in self._reader.blocks():
                self._take(lines)
                if time.monotonic() > until:
                    break
        except OSError as error:
            self.problem = f"{self.path.name} cannot be read: {why_not(error)}."
        self.state.heard = stamp[2] / 1e9 if stamp else None
        return self.state.taken > before

    def _take(self, lines: Sequence[bytes]) -> None:
        """Take in lines; many logs in a row at once."""
        if self.state.few is not None:
            self._take_few(lines)
            return
        for are_logs, group in itertools.groupby(lines, lambda line: line.startswith(_LOG)):
            some = list(group)
            if are_logs and len(some) >= _MANY_LOGS and self._take_at_once(some):
                continue
            for event in map(events.parse, some):
                if event is not None:
                    self.state.take(event)

    def _take_at_once(self, lines: Sequence[bytes]) -> bool:
        try:
            found = [from_json(line) for line in lines]
        except ValueError:
            return False
        return self.state.take_logs(found)

    def _take_few(self, lines: Sequence[bytes]) -> None:
        """Take in lines; of logs only the points of the curve, and the last as a whole."""
        few = self.state.few
        assert few is not None
        logs = [i for i, line in enumerate(lines) if line.startswith(_LOG)]
        few.expect(len(logs))
        newest = logs[-1] if logs else -1
        for i, line in enumerate(lines):
            if line.startswith(_LOG) and i != newest and not few.takes_next:
                few.skip()
            elif i == newest or not line.startswith(_IN_SHORT) or not self._take_in_short(line):
                event = events.parse(line)
                if event is not None:
                    self.state.take(event)

    def _take_in_short(self, line: bytes) -> bool:
        try:
            return self.state.take_point(from_json(line))
        except (ValueError, AttributeError):  # no JSON, or no object
            return False


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
