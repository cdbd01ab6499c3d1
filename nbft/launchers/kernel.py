"""Runs in this kernel: the worker is a thread."""

from __future__ import annotations

import atexit
import contextlib
import functools
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

from nbft import events
from nbft.devices import names_of, names_to_take
from nbft.errors import RunError
from nbft.launchers.interpreter import remember
from nbft.launchers.launcher import Launcher
from nbft.launchers.openmp import give_up_threads
from nbft.launchers.signals import heard
from nbft.launchers.supervisor import devices_of, leave_queue, report_failure, report_queued
from nbft.queue import say_queued, turn
from nbft.runs.requests import (
    Requests,
    ask_to_stop,
    forget,
    stop_now,
    stopped_at_once,
)

if TYPE_CHECKING:
    from nbft.runs.folder import Run

POLL_SECONDS = 0.2

_AT_ONCE_SECONDS = 2.0
"""Longest wait for a thread that was told to end at once; one operation may take longer."""

_ended: dict[Path, threading.Event] = {}
"""Set by the thread of a run as its last act.

Python 3.11 takes a living thread for dead once an interrupt has hit its `join`.
"""

_hurried: set[Path] = set()
"""Runs that were told to end at once."""


class Kernel(Launcher):
    """A thread of this process; the run ends with it."""

    title = "this kernel"

    def start(self, run: Run, python: str | None = None) -> None:
        """Start the worker as a thread, which first waits for its device."""
        remember()
        device, needs = devices_of(run.plan)
        say_queued(run.path, device)
        forget(run.path)
        _hurried.discard(run.path)
        ended = _ended[run.path] = threading.Event()

        def work_in_turn() -> None:
            try:
                _work_in_turn(run.path, device, needs)
            except Exception as error:
                report_failure(run.events_path, error)
            finally:
                ended.set()

        give_up_threads()
        threading.Thread(target=work_in_turn, name=run.id, daemon=True).start()


def _work_in_turn(run: Path, device: str, needs: int | None) -> None:
    from nbft.launchers.ranks import work_or_spread

    requests, path = Requests(run), run / "events.jsonl"
    names = names_of(device)
    if needs == 1:  # this process computes on one of them; which of unlike ones, CUDA decides
        names = names[:1] if len(names_to_take(device)) == len(names) else ()
    with turn(
        device,
        run,
        functools.partial(report_queued, path),
        lambda: requests.end() is not None,
        among=lambda: names,
        needs=needs,
    ) as ticket:
        if ticket is None:
            leave_queue(path, requests.end() or {})
        else:
            work_or_spread(run, ticket.uses)


def is_working(run: Run) -> bool:
    """Whether the thread of a run has not ended."""
    ended = _ended.get(run.path)
    return ended is not None and not ended.is_set()


def pause_for(run: Run, seconds: float = POLL_SECONDS) -> None:
    """Wait for the end of the thread of a run, at most so long."""
    if ended := _ended.get(run.path):
        ended.wait(seconds)


def join(run: Run, timeout_seconds: float = 600) -> None:
    """Wait until the thread of a run has ended, with its memory given back.

    Raises:
        RunError: It has not after that time.
    """
    pause_for(run, timeout_seconds)
    if is_working(run):
        raise RunError(f"{run.id}: has not ended within {timeout_seconds:g} seconds.")


def _end_with_process() -> None:
    """Stop what this process still trains, with a checkpoint; a signal means at once.

    A thread that were still computing when Python ends would abort the process.
    """
    working = [path for path, ended in _ended.items() if not ended.is_set()]
    with heard() as signals:
        for path in working:
            ask_to_stop(path, "")
        patient = [path for path in working if path not in _hurried]
        while signals.first is None and not _all_end(patient, POLL_SECONDS):
            pass
        if not _all_end(working, 0):
            end_now(working, exit_code=128 + (signals.first or signal.SIGINT))


def _all_end(runs: list[Path], seconds: float) -> bool:
    """Whether the threads of runs end within so many seconds."""
    until = time.monotonic() + seconds
    return all(_ended[path].wait(max(0.0, until - time.monotonic())) for path in runs)


def end_now(runs: list[Path], exit_code: int | None = None) -> None:
    """End runs between two Python instructions, wherever they are.

    Args:
        runs: Their folders.
        exit_code: End this process with it where an operation takes longer than some seconds.
    """
    for path in runs:
        _hurried.add(path)
        stop_now(path)
    if _all_end(runs, _AT_ONCE_SECONDS) or exit_code is None:
        return
    for path in runs:
        with contextlib.suppress(OSError):
            ending = stopped_at_once(path)
            events.append(path / "events.jsonl", ending.pop("event"), **ending)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError, AttributeError):
            stream.flush()
    os._exit(exit_code)


# Before Python ends other threads and processes, which the training may need for its last step.
getattr(threading, "_register_atexit", atexit.register)(_end_with_process)

LAUNCHER = Kernel()
