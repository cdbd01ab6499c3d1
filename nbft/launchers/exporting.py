"""An export in a process of its own, for the server, which must not load a model itself.

The process writes what it does to `exporting.jsonl` in the run's folder, in the form of events:
`started` with its process, format and folder, `stage` with a sentence, and at the end `exported`,
`refused` or `stopped`; `stopping` is written by whoever stops it. Its output goes to `export.log`.
As with a run, the state is what the last events say, or that the process is gone. SIGTERM stops it,
and nothing of the export is left.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from nbft import events
from nbft.errors import NbftError, RunError
from nbft.launchers.detached import reap, start_detached
from nbft.launchers.interpreter import python_for, remember
from nbft.processes import Process, identity, set_title
from nbft.runs.exports import left_by_stopped
from nbft.runs.folder import Run

EVENTS, LOG = "exporting.jsonl", "export.log"

_LOST = (
    "The export ended without a word. The system may have stopped it because memory ran out; "
    f"{LOG} in the run's folder may say more."
)
_ENDS = frozenset({"exported", "refused", "stopped"})
_starting = threading.Lock()  # a server may be asked twice at once


class ExportState(NamedTuple):
    """The last export of a run that was started as a process.

    Attributes:
        to: Its format.
        path: Its folder.
        began: When it was started, in seconds since the epoch.
        is_going: Whether it goes on.
        text: What it is doing, what the proof found, or why it ended without an export.
    """

    to: str
    path: Path
    began: float
    is_going: bool
    text: str


class _StoppedError(BaseException):
    """A person has stopped the export; not an Exception, which a library might catch."""


def start_export(run: Run, to: str, path: Path, **options: Any) -> None:
    """Start an export and return at once.

    Args:
        run: The run.
        to: Its format.
        path: Folder to write.
        **options: Fields of `nbft.export.format.Options`.

    Raises:
        RunError: An export of this run is going on, or none can be started.
    """
    remember()
    python, _ = python_for(run.state.supervisor.get("python"))
    asked = json.dumps({"to": to, "path": str(path), "options": options})
    with _starting:
        state = export_state(run)
        if state is not None and state.is_going:
            raise RunError(f"{run.id}: is being exported to {state.path}. Wait, or stop it first.")
        try:
            command = [python, "-m", "nbft.launchers.exporting", str(run.path), asked]
            process = start_detached(command, run.path / LOG, appends=False)
            place = {"to": to, "path": str(path)}
            events.append(run.path / EVENTS, "started", **identity(process.pid), **place)
        except OSError as error:
            why = (error.strerror or str(error)).lower()
            raise RunError(f"{run.id}: the export cannot be started: {why}.") from None
    reap(process)


def stop_export(run: Run) -> None:
    """Stop the export that is going on.

    Raises:
        RunError: There is none, or its process is not ours to stop.
    """
    process = Process.of(_last(run).get("started", {}))
    state = export_state(run)
    if state is None or not state.is_going or process is None or process.lives() is None:
        raise RunError(f"{run.id}: is not being exported here.")
    try:
        # Before the signal: a process that is not ready to hear it ends without a word of its own.
        events.append(run.path / EVENTS, "stopping", text="Stopping …")
        os.kill(process.pid, signal.SIGTERM)
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise RunError(f"{run.id}: the export cannot be stopped: {why}.") from None


def export_state(run: Run) -> ExportState | None:
    """Return the state of the last export that was started as a process; None if there is none."""
    last = _last(run)
    started = last.pop("started", None)
    if started is None:
        return None
    about = str(started.get("to", "")), Path(str(started.get("path", ""))), started.get("time", 0.0)
    kind, event = next(reversed(last.items()), ("", {}))
    if kind in _ENDS:
        return ExportState(*about, is_going=False, text=str(event.get("text", "")))
    process = Process.of(started)
    if process is None or process.lives() is False:
        if _ENDS & _last(run).keys():  # its last event has come meanwhile
            return export_state(run)
        is_stopped = "stopping" in last
        text = left_by_stopped(run.path, about[1], about[2]) if is_stopped else _LOST
        return ExportState(*about, is_going=False, text=text)
    return ExportState(*about, is_going=True, text=str(event.get("text", "Starting …")))


def _last(run: Run) -> dict[str, events.Event]:
    """Return the last event of each kind since the last start, in the order of their last."""
    found: dict[str, events.Event] = {}
    with contextlib.suppress(OSError):  # a link or a pipe is in its place
        for event in events.read(run.path / EVENTS):
            if event["event"] == "started":
                found = {}
            found.pop(event["event"], None)
            found[event["event"]] = event
    return found


def _stop(number: int, _frame: object) -> NoReturn:
    signal.signal(number, signal.SIG_IGN)  # a second one would disturb the clearing up
    raise _StoppedError


def main(folder: str, asked: str) -> None:
    """Export a run, and say in its folder how it goes.

    Args:
        folder: The run's folder.
        asked: to, path and options as JSON.
    """
    path, wanted, began = Path(folder) / EVENTS, json.loads(asked), time.time()
    target = Path(wanted["path"])

    def say(text: str) -> None:
        events.append(path, "stage", text=text)

    try:
        signal.signal(signal.SIGTERM, _stop)
        set_title(f"exporting {Path(folder).name}")
        from nbft.export.exporting import write_export

        found = write_export(Run(folder), wanted["to"], target, say=say, **wanted["options"])
        text = f"Exported to {found.path}. {found.proof.sentence}"
        events.append(path, "exported", path=str(found.path), text=text)
    except _StoppedError:
        events.append(path, "stopped", text=left_by_stopped(path.parent, target, began))
    except NbftError as error:
        events.append(path, "refused", text=str(error))
    except Exception as error:
        what = f"{type(error).__name__}: {error}".strip(": ")
        text = f"The export failed ({what}). {LOG} in the run's folder has more."
        events.append(path, "refused", text=text)
        raise


if __name__ == "__main__":
    main(*sys.argv[1:])
