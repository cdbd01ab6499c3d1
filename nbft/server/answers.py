"""The answers of the routes, as JSON values. Knows no HTTP.

Everything here may block on the disk; `handlers` calls it in a thread.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from nbft import registry
from nbft.charts import LOSS, SMOOTHING, STANDARD, ChartSpec, Curve, other_charts
from nbft.errors import NbftError, RunError
from nbft.evaluate.timeline import when
from nbft.events import EventReader
from nbft.formatting import one_line
from nbft.launchers.exporting import export_state, start_export, stop_export
from nbft.reading import is_file
from nbft.runs import Run
from nbft.runs.comparison import LARGEST_COMPARISON, differing_settings, settings_of
from nbft.runs.exports import PROOF
from nbft.runs.files import log_tail
from nbft.runs.progress import sentence
from nbft.runs.state import RunState, StateReader
from nbft.runs.summary import summary
from nbft.server.roots import NbftServer, SharedRun

_OPTIONS = {"dtype": str, "max_shard_size": str, "repo_id": str, "private": bool, "adapter": bool}
"""Options of an export that a request may name, with their types."""

COMMANDS = ("stop", "pause", "continue", "save", "sample", "cancel", "move_up")

_EVENTS_BYTES = 1_000_000
_STATE_EVENTS = 20_000
"""Events whose points fit in one answer: about 1 MB."""

_KEPT_STATES = 16
_MEASURES = frozenset(name for chart in STANDARD for name in chart.names)
_OTHER_POINTS = 2_000
_READING_SECONDS = 1.0
"""How long an answer reads events before it is sent; the next one continues."""

_ACTIVE = frozenset({"queued", "running", "paused"})


class BadRequestError(NbftError):
    """The request cannot be understood."""


class SharedRunError(NbftError):
    """The run may only be looked at."""


def list_runs(nbft: NbftServer, search: str = "", limit: int = 200) -> dict[str, Any]:
    """Return the runs, active ones first, then the newest.

    Args:
        nbft: The folders of runs.
        search: Words to find in name, model, data, method or status, in any order.
        limit: Maximum number of runs.
    """
    runs = []
    until = time.monotonic() + _READING_SECONDS
    found, refused = nbft.look()
    for run_id, error in refused.items():
        runs.append(_odd(run_id, error.path, str(error)))
    for run_id, run in found.items():
        try:
            runs.append(describe(nbft, run_id, run, until - time.monotonic()))
        except FileNotFoundError:  # deleted meanwhile
            continue
        except Exception as error:
            name = type(error).__name__
            why = f"This run cannot be read ({name}). Its files may be damaged."
            runs.append(_odd(run_id, run.path, why))
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


def _odd(run_id: str, path: Path, why: str) -> dict[str, Any]:
    """Return the line of a run that cannot be described, so that the others are listed."""
    unknown = "host heard model method data rows total_steps loss eval_loss seconds_left"
    nothing = dict.fromkeys(unknown.split())
    return nothing | {
        "id": run_id,
        "path": str(path),
        "folder": None,
        "name": one_line(path.name),
        "status": "lost",
        "step": 0,
        "stage": "",
        "started": 0.0,
        "ended": None,
        "curve": [],
        "problems": [why],
        "allowed": [],
    }


def describe(
    nbft: NbftServer, run_id: str, run: Run, seconds: float = _READING_SECONDS
) -> dict[str, Any]:
    """Return a run's summary, with the id of the routes and its folder relative to the root."""
    inside = run.path.is_relative_to(nbft.top)
    about = summary(run, seconds)
    if isinstance(run, SharedRun):
        about["allowed"] = []
    return about | {
        "id": run_id,
        "folder": run.path.relative_to(nbft.top).as_posix() if inside else None,
    }


def details(nbft: NbftServer, run_id: str) -> dict[str, Any]:
    """Return a run's summary, the settings that differ from the defaults, and possible fixes."""
    run = nbft.find(run_id)
    about = describe(nbft, run_id, run)
    offered = about["status"] == "failed" and not isinstance(run, SharedRun)
    return about | {"settings": _settings(run), "fixes": _fixes(run) if offered else []}


def _fixes(run: Run) -> list[str]:
    """Return the changes that a failed run may be started again with, by the reader kept of it."""
    from nbft.plan.fixes import read_fixes  # plans are not needed to start a server

    reader, lock = _state_reader(run.events_path)
    with lock:
        reader.read(_READING_SECONDS)
        return [fix.offer for fix in read_fixes(reader.state.fixes, reader.state.device)]


def events(nbft: NbftServer, run_id: str, after: int) -> dict[str, Any]:
    """Return the events after a position in the file, up to 1 MB.

    Args:
        nbft: The folders of runs.
        run_id: The run.
        after: `next` of the last answer, or 0. Where no event ends there, the file was replaced: the
            answer starts again, with `after` 0.

    Returns:
        after, events, next (the position to continue at), more (whether there are more already).
    """
    path = nbft.find(run_id).events_path
    reader = EventReader(path, after)
    if not reader.continues():
        after, reader = 0, EventReader(path)
    found = reader.read(_EVENTS_BYTES)  # more if an event is larger
    return {
        "after": after,
        "events": found,
        "next": reader.offset_bytes,
        "more": reader.is_behind,
    }


def state(nbft: NbftServer, run_id: str, after: str) -> dict[str, Any]:
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
        reader.read(_READING_SECONDS)
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
            "more": until < now.taken or reader.is_behind,
            "said": now.taken - now.counts["log"] - now.counts["eval"],
            "smoothing": SMOOTHING,
            "charts": [
                _chart(spec, now.rows(spec, since, until))
                for spec in (*STANDARD, *other_charts(now.curves, now.measures))
            ],
            "notes": [sentence(note) for note in now.notes] if is_new["notes"] else None,
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


def log(nbft: NbftServer, run_id: str, lines: int) -> dict[str, Any]:
    """Return the last lines of a run's log, without secrets."""
    text, is_truncated = log_tail(nbft.find(run_id).path, lines)
    return {"text": text, "truncated": is_truncated}


def _own(nbft: NbftServer, run_id: str) -> Run:
    """Return a run to change.

    Raises:
        SharedRunError: It may only be looked at.
    """
    run = nbft.find(run_id)
    if isinstance(run, SharedRun):
        why = "is in a shared folder, whose runs can be looked at but not changed."
        raise SharedRunError(f"{run.id}: {why}")
    return run


def command(nbft: NbftServer, run_id: str, name: Any) -> dict[str, Any]:
    """Send a command to a run and return its summary.

    Raises:
        BadRequestError: There is no such command.
        RunError: The run's status does not allow it.
    """
    run = _own(nbft, run_id)
    if not isinstance(name, str) or name not in COMMANDS:
        raise BadRequestError(f"command: is none of {', '.join(COMMANDS)}.")
    getattr(run, "continue_" if name == "continue" else name)()
    return describe(nbft, run_id, run)


def resume(nbft: NbftServer, run_id: str) -> dict[str, Any]:
    """Resume a run in the background from its last checkpoint, and return its summary."""
    run = _own(nbft, run_id)
    run.resume()
    return describe(nbft, run_id, run)


def retry(nbft: NbftServer, run_id: str, fix: Any) -> dict[str, Any]:
    """Start a new run in the background with a fix of another, and return its summary.

    Raises:
        BadRequestError: The fix is no integer.
        RunError: There is no such fix.
    """
    run = _own(nbft, run_id)
    if not isinstance(fix, int) or isinstance(fix, bool):
        raise BadRequestError("fix: is no whole number.")
    new = run.retry(fix)
    return describe(nbft, f"{new.id}~{run_id.rpartition('~')[2]}", new)


def exports(nbft: NbftServer, run_id: str) -> dict[str, Any]:
    """Return how a run can be exported, the exports so far, and the one that is going on.

    Returns:
        formats: name, title, about, options, choices (a dtype or "", what a button offers with it,
        and whether it is the usual one), folder (to be written, relative to the server's root), and
        problem (why it cannot be, or ""); none without an adapter, or while an export goes on.
        exports: format, path, folder (relative to the root; None if it is elsewhere or gone), time,
        passed, proof and commands that use it, the newest first. help: what each option is for. free_bytes. last: the export that was started
        here last: format, folder, is_going and text (its stage, its proof, or why it failed).
    """
    from nbft.export.format import HELP

    run = nbft.find(run_id)
    last = export_state(run)
    is_going = last is not None and last.is_going
    is_offered = run.adapter is not None and not (is_going or isinstance(run, SharedRun))
    return {
        "formats": _formats(nbft, run) if is_offered else [],
        "help": HELP,
        "free_bytes": shutil.disk_usage(nbft.top).free,
        "exports": [
            {
                "format": one.to,
                "path": str(one.path),
                "folder": _inside(nbft, one.path) if is_file(one.path / PROOF) else None,
                "time": one.time,
                "passed": one.passed,
                "proof": one.sentence,
                "commands": one.commands,
            }
            for one in reversed(run.exports)
        ],
        "last": last
        and {
            "format": last.to,
            "folder": _inside(nbft, last.path) or str(last.path),
            "is_going": last.is_going,
            "text": last.text,
        },
    }


def _formats(nbft: NbftServer, found: Run) -> list[dict[str, Any]]:
    from nbft.export.exporting import SettledRun, foresee

    formats, run, parameters = [], SettledRun(found.path), _parameters(found)
    for name in registry.exports:
        try:
            form = registry.exports.get(name)
        except NbftError:  # of a package that nobody has consented to
            continue
        folder = _export_folder(nbft, run, name)
        foreseen = foresee(run, name, folder, parameters=parameters)
        formats.append(
            {
                "name": name,
                "title": form.title,
                "about": form.about,
                "options": form.options,
                "choices": [
                    {
                        "dtype": one,
                        "offer": foreseen.offer(one),
                        "is_usual": one == foreseen.dtype,
                    }
                    for one in form.offered_dtypes() or ("",)
                ],
                "folder": _inside(nbft, folder) or str(folder),
                # The form asks for the name of a repository, which is checked when it is there.
                "problem": "" if "repo_id" in form.options else foreseen.problem,
            }
        )
    return formats


def _parameters(run: Run) -> int | None:
    """Return the parameters of a run's model, by the reader kept of it."""
    reader, lock = _state_reader(run.events_path)
    with lock:
        reader.read(_READING_SECONDS)
        return reader.state.prepared.get("total_parameters")


def _export_folder(nbft: NbftServer, run: Run, to: str) -> Path:
    """Return where an export is written unless a request says otherwise: beside the runs."""
    beside = run.path.parent.parent
    return (beside if beside.is_relative_to(nbft.top) else nbft.top) / f"{run.id}-{to}"


def _inside(nbft: NbftServer, path: Path) -> str | None:
    """Return a path relative to the server's root; None if it is elsewhere."""
    is_inside = path.is_relative_to(nbft.top) and ".." not in path.parts
    return path.relative_to(nbft.top).as_posix() if is_inside else None


def export(nbft: NbftServer, run_id: str, asked: Any) -> dict[str, Any]:
    """Start an export in a process of its own, and return what `exports` does.

    Args:
        nbft: The folders of runs.
        run_id: The run.
        asked: `to`, `folder` (relative to the server's root; beside the runs if missing) and options.

    Raises:
        BadRequestError: The request has a field that is unknown, or of the wrong type.
        RunError: The run cannot be exported so, or is being exported.
    """
    from nbft.export.exporting import foresee

    run = _own(nbft, run_id)
    types = {"to": str, "folder": str, **_OPTIONS}
    if not isinstance(asked, dict) or not isinstance(asked.get("to"), str):
        raise BadRequestError("to: name the format.")
    for name, value in asked.items():
        if name not in types or not isinstance(value, types[name]):
            raise BadRequestError(f"{name}: is no option of an export, or of the wrong type.")
    to, options = asked["to"], {name: asked[name] for name in _OPTIONS if name in asked}
    folder = _export_folder(nbft, run, to)
    if text := asked.get("folder", "").strip():
        folder = (nbft.top / text.replace("\0", "")).resolve()
        if not folder.is_relative_to(nbft.top) or folder == nbft.top:
            raise BadRequestError("folder: is not below the server's root folder.")
    foreseen = foresee(run, to, folder, parameters=_parameters(run), **options)
    if foreseen.problem:
        raise RunError(foreseen.problem)
    # Whoever sends the name of a repository has agreed.
    start_export(run, to, folder, **options, yes=True)
    return exports(nbft, run_id)


def stop_exporting(nbft: NbftServer, run_id: str) -> dict[str, Any]:
    """Stop the export of a run, and return what `exports` does."""
    stop_export(_own(nbft, run_id))
    return exports(nbft, run_id)


def delete(nbft: NbftServer, run_id: str) -> dict[str, list[str]] | None:
    """Delete a run that is over, and return what stays because nbft did not write it."""
    left = _own(nbft, run_id).delete()
    return {"left": left} if left else None


def compare(nbft: NbftServer, run_ids: list[str]) -> dict[str, Any]:
    """Return the summaries of some runs, their losses and the settings in which they differ.

    Returns:
        runs, chart: the losses on one axis, smoothing, and settings: {path: [a value for each run]}.

    Raises:
        BadRequestError: Not two to six different runs were named.
    """
    if not 2 <= len(set(run_ids)) == len(run_ids) <= LARGEST_COMPARISON:
        raise BadRequestError(f"ids: name two to {LARGEST_COMPARISON} different runs.")
    runs = [nbft.find(run_id) for run_id in run_ids]
    return {
        "runs": [describe(nbft, *pair) for pair in zip(run_ids, runs, strict=True)],
        "smoothing": SMOOTHING,
        "chart": _losses(run_ids, runs),
        "settings": differing_settings([_settings(run) for run in runs]),
    }


def _losses(run_ids: list[str], runs: list[Run]) -> dict[str, Any]:
    """Return the training losses of some runs as one chart."""
    merged: dict[int, list[float | None]] = {}
    for column, run in enumerate(runs):
        reader, lock = _state_reader(run.events_path)
        with lock:
            reader.read(_READING_SECONDS)
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
    return settings_of(Run(path))
