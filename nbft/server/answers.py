"""The answers of the routes, as JSON values. Knows no HTTP.

Everything here may block on the disk; `handlers` calls it in a thread.
"""

from __future__ import annotations

import contextlib
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from nbft.charts import LOSS, SMOOTHING, STANDARD, ChartSpec, Curve, other_charts
from nbft.errors import NbftError
from nbft.evaluate.timeline import when
from nbft.events import parse
from nbft.runs import Run
from nbft.runs.progress import sentence
from nbft.runs.state import RunState, StateReader
from nbft.runs.summary import summary
from nbft.server.roots import Nbft

COMMANDS = ("stop", "pause", "continue", "save", "sample", "cancel", "move_up")

_EVENTS_BYTES = 1_000_000
_STATE_EVENTS = 20_000
"""Events whose points fit in one answer: about 1 MB."""

_KEPT_STATES = 16
_MEASURES = frozenset(name for chart in STANDARD for name in chart.names)
_OTHER_POINTS = 2_000
_LOG_BYTES = 256_000
_COMPARED_RUNS = 6
_ACTIVE = frozenset({"queued", "running", "paused"})
_HIDDEN = "(hidden)"
# Tokens of Hugging Face, OpenAI, GitHub and GitLab by their form, and whatever is called a token.
_SECRET = re.compile(
    r"\b(?:hf_|sk-|gh[pousr]_|glpat-)[\w-]{16,}"
    r"|(?<=[Bb]earer )[\w.~+/-]{8,}=*"
    r"|(?i:(?<=token=)|(?<=api_key=)|(?<=password=))[^\s&,'\"]+"
)
_SECRET_NAME = re.compile(r"(?:^|_)(?:token|secret|password|api_key)$")


class BadRequestError(NbftError):
    """The request cannot be understood."""


def list_runs(nbft: Nbft, search: str = "", limit: int = 200) -> dict[str, Any]:
    """Return the runs, active ones first, then the newest.

    Args:
        nbft: The folders of runs.
        search: Words to find in name, model, data, method or status, in any order.
        limit: Maximum number of runs.
    """
    runs = []
    for run_id, run in nbft.runs().items():
        with contextlib.suppress(OSError):  # deleted meanwhile
            runs.append(describe(nbft, run_id, run))
    words = search.casefold().split()

    def matches(run: dict[str, Any]) -> bool:
        text = " ".join(str(run[key]) for key in ("name", "model", "data", "method", "status"))
        return all(word in text.casefold() for word in words)

    matching = list(filter(matches, runs))
    matching.sort(key=lambda run: (run["status"] not in _ACTIVE, -run["started"]))
    return {
        "version": version("nbft"),
        "total": len(runs),
        "matching": len(matching),
        "runs": matching[:limit],
    }


def describe(nbft: Nbft, run_id: str, run: Run) -> dict[str, Any]:
    """Return a run's summary, with the id of the routes and its folder relative to the root."""
    inside = run.path.is_relative_to(nbft.top)
    about = summary(run)
    about["problems"] = [_SECRET.sub(_HIDDEN, str(problem)) for problem in about["problems"]]
    return about | {
        "id": run_id,
        "folder": run.path.relative_to(nbft.top).as_posix() if inside else None,
    }


def details(nbft: Nbft, run_id: str) -> dict[str, Any]:
    """Return a run's summary, the settings that differ from the defaults, and possible fixes."""
    run = nbft.find(run_id)
    about = describe(nbft, run_id, run)
    fixes = []
    if about["status"] == "failed":
        fixes = _fixes(run.path, run.events_path.stat().st_mtime_ns)
    return about | {"settings": _settings(run), "fixes": fixes}


def events(nbft: Nbft, run_id: str, after: int) -> dict[str, Any]:
    """Return the events after a position in the file, up to 1 MB.

    Args:
        nbft: The folders of runs.
        run_id: The run.
        after: `next` of the last answer, or 0. A position beyond the end means that the file was
            replaced: the answer starts again, with `after` 0.

    Returns:
        after, events, next (the position to continue at), more (whether there are more already).
    """
    path = nbft.find(run_id).events_path
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if after > size:
                after = 0
            file.seek(after)
            block = file.read(_EVENTS_BYTES)
            if size - after > len(block) and b"\n" not in block:
                block += file.readline()  # one event larger than an answer
    except FileNotFoundError:
        return {"after": 0, "events": [], "next": 0, "more": False}
    end = block.rfind(b"\n") + 1
    parsed = [event for event in map(parse, block[:end].splitlines()) if event is not None]
    more = size > after + len(block)
    return {"after": after, "events": parsed, "next": after + end, "more": more}


def state(nbft: Nbft, run_id: str, after: str) -> dict[str, Any]:
    """Return the changes of a run's curves, notes, scores and answers.

    Args:
        nbft: The folders of runs.
        run_id: The run.
        after: `next` of the last answer; "" for everything.

    Returns:
        whole (whether this replaces every earlier answer), next, more (whether there is more
        already), said (number of events other than measurements), smoothing; charts, each with its
        rows from the first that changed; notes, scores and answers, each None if unchanged.
    """
    reader, lock = _state_reader(nbft.find(run_id).events_path)
    with lock:
        reader.read()
        now = reader.state
        file = f"{reader.file}-{reader.generation}-{now.rewritten}"
        known, _, number = after.rpartition("-")
        since = int(number) if known == file and number.isdigit() else 0
        whole = since == 0 or since > now.taken
        since = 0 if whole else since
        until = min(now.taken, since + _STATE_EVENTS)
        is_new = {name: whole or number > since for name, number in now.changed.items()}
        return {
            "whole": whole,
            "next": f"{file}-{until}",
            "more": until < now.taken,
            "said": now.taken - now.counts["log"] - now.counts["eval"],
            "smoothing": SMOOTHING,
            "charts": [
                _chart(spec, now.rows(spec, since, until))
                for spec in (*STANDARD, *other_charts(now.curves, now.measures))
            ],
            "notes": [_SECRET.sub(_HIDDEN, sentence(note)) for note in now.notes]
            if is_new["notes"]
            else None,
            "scores": _scores(now) if is_new["scored"] else None,
            "answers": _answers(now) if is_new["samples"] else None,
        }


def _chart(spec: ChartSpec, rows: Iterable[Sequence[float | None]]) -> dict[str, Any]:
    return {"title": spec.title, "series": spec.series(), "rows": list(rows)}


def _scores(now: RunState) -> dict[str, Any]:
    scores = now.scores
    return {"tables": scores.tables(), "charts": [_chart(*chart) for chart in scores.charts]}


def _answers(now: RunState) -> list[dict[str, Any]]:
    return [
        {
            "title": told.title,
            "prompt": told.prompt.strip(),
            "answers": [{"when": when(step), "text": text} for step, text in told.answers],
        }
        for told in now.timeline.prompts
    ]


def _state_reader(path: Path) -> tuple[StateReader, threading.Lock]:
    """Return the reader of a run's state, and the lock to use it with."""
    with _states_lock:
        reader = _states.pop(path, None) or (
            StateReader(path, measures=_MEASURES, most_other_points=_OTHER_POINTS),
            threading.Lock(),
        )
        _states[path] = reader
        while len(_states) > _KEPT_STATES:
            _states.popitem(last=False)
        return reader


_states: OrderedDict[Path, tuple[StateReader, threading.Lock]] = OrderedDict()
_states_lock = threading.Lock()  # a server asks from several threads


def log(nbft: Nbft, run_id: str, lines: int) -> dict[str, Any]:
    """Return the last lines of a run's log, without what looks like a secret."""
    path = nbft.find(run_id).path / "log.txt"
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - _LOG_BYTES))
            tail = file.read(_LOG_BYTES).decode(errors="replace").splitlines()
    except FileNotFoundError:
        return {"text": "", "truncated": False}
    text = _SECRET.sub(_HIDDEN, "\n".join(tail[-lines:]))
    return {"text": text, "truncated": size > _LOG_BYTES or len(tail) > lines}


def command(nbft: Nbft, run_id: str, name: Any) -> dict[str, Any]:
    """Send a command to a run and return its summary.

    Raises:
        BadRequestError: There is no such command.
        RunError: The run's status does not allow it.
    """
    run = nbft.find(run_id)
    if not isinstance(name, str) or name not in COMMANDS:
        raise BadRequestError(f"command: is none of {', '.join(COMMANDS)}.")
    getattr(run, "continue_" if name == "continue" else name)()
    return describe(nbft, run_id, run)


def resume(nbft: Nbft, run_id: str) -> dict[str, Any]:
    """Resume a run in the background from its last checkpoint, and return its summary."""
    run = nbft.find(run_id)
    run.resume()
    return describe(nbft, run_id, run)


def retry(nbft: Nbft, run_id: str, fix: Any) -> dict[str, Any]:
    """Start a new run in the background with a fix of another, and return its summary.

    Raises:
        BadRequestError: The fix is no integer.
        RunError: There is no such fix.
    """
    run = nbft.find(run_id)
    if not isinstance(fix, int) or isinstance(fix, bool):
        raise BadRequestError("fix: is no whole number.")
    new = run.retry(fix)
    return describe(nbft, f"{new.id}~{run_id.rpartition('~')[2]}", new)


def delete(nbft: Nbft, run_id: str) -> None:
    """Delete a run that is over."""
    nbft.find(run_id).delete()


def compare(nbft: Nbft, run_ids: list[str]) -> dict[str, Any]:
    """Return the summaries of some runs, their losses and the settings in which they differ.

    Returns:
        runs, chart: the losses on one axis, smoothing, and settings: {path: [a value for each run]}.

    Raises:
        BadRequestError: Not two to six different runs were named.
    """
    if not 2 <= len(set(run_ids)) == len(run_ids) <= _COMPARED_RUNS:
        raise BadRequestError(f"ids: name two to {_COMPARED_RUNS} different runs.")
    runs = [nbft.find(run_id) for run_id in run_ids]
    changed = [_settings(run) for run in runs]
    usual = {path: values[0] for settings in changed for path, values in settings.items()}
    rows = {
        path: [settings.get(path, (default, default))[1] for settings in changed]
        for path, default in usual.items()
    }
    return {
        "runs": [describe(nbft, *pair) for pair in zip(run_ids, runs, strict=True)],
        "smoothing": SMOOTHING,
        "chart": _losses(run_ids, runs),
        "settings": {
            path: values
            for path, values in rows.items()
            if any(value != values[0] for value in values[1:])
        },
    }


def _losses(run_ids: list[str], runs: list[Run]) -> dict[str, Any]:
    """Return the training losses of some runs as one chart."""
    merged: dict[int, list[float | None]] = {}
    for column, run in enumerate(runs):
        reader, lock = _state_reader(run.events_path)
        with lock:
            reader.read()
            points = reader.state.curve("loss")
            for step, value in zip(points.steps, points.values, strict=True):
                merged.setdefault(step, [None] * len(runs))[column] = value
    curves = [Curve(name, run.id, smooth=True) for name, run in zip(run_ids, runs, strict=True)]
    rows = [(step, *merged[step]) for step in sorted(merged)]
    return _chart(ChartSpec(LOSS.title, tuple(curves)), rows)


def _settings(run: Run) -> dict[str, tuple[Any, Any]]:
    return _settings_of(run.path, (run.path / "config.yaml").stat().st_mtime_ns)


@lru_cache(maxsize=64)
def _settings_of(path: Path, _modified: int) -> dict[str, tuple[Any, Any]]:
    """Return {setting: (default, value)} of a run's config, where they differ."""
    return {
        setting: (default, _without_secrets(setting, value))
        for setting, (default, value) in Run(path).config.diff().items()
        if setting != "training.run_name"  # shown as the title
    }


@lru_cache(maxsize=64)
def _fixes(path: Path, _modified: int) -> list[str]:
    """Return the changes that a failed run may be started again with."""
    return [fix.offer for fix in Run(path).fixes]


def _without_secrets(name: str, value: Any) -> Any:
    name = name.rpartition(".")[2]
    if isinstance(value, dict):
        return {key: _without_secrets(str(key), item) for key, item in value.items()}
    if value is not None and _SECRET_NAME.search(name) and name != "pad_token":
        return _HIDDEN
    return _SECRET.sub(_HIDDEN, value) if isinstance(value, str) else value
