"""A run in a few lines: what a list of runs shows, read cheaply enough for a thousand of them.

Only what was appended since the last look is read, and of the loss no more points are kept than a
small curve needs. Called by `nbft.server` and by the command line.
"""

from __future__ import annotations

import json
import math
import re
import threading
from pathlib import Path, PurePath
from typing import Any

from nbft.events import FINAL_KINDS, Event
from nbft.runs.folder import ALLOWED, Run, status_of

CURVE_POINTS = 60

_CACHED_RUNS = 20_000
_LOG = b'{"event": "log"'  # as `events.append` writes it
_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


def summary(run: Run) -> dict[str, Any]:
    """Return what a list shows of a run.

    Returns:
        id, path, status, name, model, method, data, rows, step, total_steps, loss, eval_loss,
        seconds_left, started and ended (epoch seconds), curve ([step, loss], at most 60), problems
        and allowed. What is not known yet is None.
    """
    with _lock:
        return _summary(run, _digest(run.path))


def _summary(run: Run, digest: _Digest) -> dict[str, Any]:
    last = digest.last
    story = list(last.values())
    status = status_of(story)
    log, prepared, failed = last.get("log", {}), last.get("prepared", {}), last.get("failed", {})
    ending = story[-1] if story and story[-1]["event"] in FINAL_KINDS else {}
    return {
        "id": run.id,
        "path": str(run.path),
        "status": status,
        "name": run.id,
        **digest.settings,
        "rows": prepared.get("rows"),
        "step": max(digest.step, ending.get("step") or 0),
        "total_steps": prepared.get("total_steps"),
        "loss": _number(log.get("loss")),
        "eval_loss": _number(last.get("eval", {}).get("eval_loss")),
        "seconds_left": _number(log.get("seconds_left")) if status == "running" else None,
        "started": digest.began,
        "ended": ending.get("time"),
        "curve": digest.shown_curve(),
        "problems": list(failed.get("problems", [])) if status == "failed" else [],
        "allowed": ALLOWED[status],
    }


class _Digest:
    """What the files of one run say, kept up to date by reading what is new.

    Attributes:
        settings: Names of the model, the method and the data.
        last: The last event of each kind, in the order of the file: the status depends on no more.
        began: When the first event was written, or the config where there is none.
        step: Optimiser steps done.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stamp: tuple[int, ...] = ()
        self.config_stamp: tuple[int, ...] = ()
        self.settings: dict[str, str | None] = {}
        self.began = 0.0
        self._start_over()

    def _start_over(self) -> None:
        self.last: dict[str, Event] = {}
        self.step = 0
        self._offset_bytes = 0
        self._curve: list[list[float]] = []
        self._stride = 1  # of so many log events one is a point of the curve
        self._logs = 0

    def shown_curve(self) -> list[list[float]]:
        """Return the points of the loss, the last one among them."""
        log = self.last.get("log", {})
        newest = self._curve[-1][0] if self._curve else self.step
        if "loss" in log and newest < log.get("step", 0) <= self.step:
            return [*self._curve, [log["step"], _number(log["loss"])]]
        return list(self._curve)

    def refresh(self) -> None:
        """Read what was written since the last call."""
        config = self.path / "config.yaml"
        stamp = _stamp(config)
        if stamp != self.config_stamp:
            self.config_stamp = stamp
            self.settings = _settings(config.read_text(encoding="utf-8", errors="replace"))
        stamp = _stamp(self.path / "events.jsonl")
        if stamp != self.stamp:
            if stamp[:1] != self.stamp[:1] or stamp[1:2] < (self._offset_bytes,):
                self._start_over()  # another file, or one cut short
            self.stamp = stamp
            self._read_on()
        if not self.last:
            self.began = self.config_stamp[2] / 1e9

    def _read_on(self) -> None:
        try:
            with (self.path / "events.jsonl").open("rb") as file:
                file.seek(self._offset_bytes)
                block = file.read()
        except OSError:
            return
        end = block.rfind(b"\n") + 1
        self._offset_bytes += end
        lines = block[:end].splitlines()
        # A log line that is no point of the curve and not the last is not even parsed.
        newest = next((i for i in reversed(range(len(lines))) if lines[i].startswith(_LOG)), -1)
        for i, line in enumerate(lines):
            is_log = line.startswith(_LOG)
            self._logs += is_log
            is_point = is_log and (self._logs - 1) % self._stride == 0
            if is_log and not is_point and i != newest:
                continue
            try:
                event = json.loads(line)
                self._take(event, is_point)
            except (ValueError, TypeError, KeyError):
                continue  # a line that a crash tore

    def _take(self, event: Event, is_point: bool) -> None:
        kind = event["event"]
        if not self.last:
            self.began = event["time"]
        if kind in ("queued", "started"):
            _ = event["pid"], event["process_start_time"]  # without them it says nothing
        self.last.pop(kind, None)
        self.last[kind] = event
        self.step = max(self.step, event.get("step") or 0)
        if kind == "prepared" and "resumed_step" in event:
            self.step = event["resumed_step"]  # what came after it is done again
            self._curve = [point for point in self._curve if point[0] <= self.step]
        if is_point and "loss" in event:
            self._curve.append([event["step"], _number(event["loss"])])
            if len(self._curve) >= CURVE_POINTS:
                self._curve = self._curve[::2]
                self._stride *= 2


_digests: dict[Path, _Digest] = {}
_lock = threading.Lock()  # a server asks from several threads


def _digest(path: Path) -> _Digest:
    digest = _digests.get(path)
    if digest is None:
        if len(_digests) >= _CACHED_RUNS:
            _digests.clear()
        digest = _digests[path] = _Digest(path)
    digest.refresh()
    return digest


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _number(value: Any) -> Any:
    return _NON_FINITE.get(value, value) if isinstance(value, str) else value


def _settings(text: str) -> dict[str, str | None]:
    """Find model, method and data in a config as nbft writes it.

    The text is searched, not parsed: reading a thousand configs whole takes 10 s.
    """
    sections = re.split(r"^(?=\w)", text, flags=re.MULTILINE)
    block = {part.partition(":")[0]: part for part in sections}
    train = re.split(r"^  (?=\w)", block.get("data", ""), flags=re.MULTILINE)
    rows = next((part for part in train if part.startswith("train:")), "")
    names = _values(rows, "path") or _values(rows, "dataset_name")
    data = PurePath(names[0]).name if names else None
    if len(names) > 1:
        data = f"{data} and {len(names) - 1} more"
    return {
        "model": next(iter(_values(block.get("model", ""), "model_name")), None),
        "method": next(iter(_values(block.get("peft", ""), "method")), None),
        "data": data,
    }


def _values(block: str, key: str) -> list[str]:
    found = re.findall(rf"^[ -]+{key}: (.*)$", block, flags=re.MULTILINE)
    return [value.strip("'\"") for value in found if value != "null"]
