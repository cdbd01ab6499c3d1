"""What a run is asked to do: commands in its file, and signals to the process that trains it.

A request is an event of `commands.jsonl`. One that the system makes has `why`, and `monotonic`, its
time in seconds. Called by `nbft.launchers`, which hear signals, and by
`nbft.training`, which carries requests out.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

from nbft import events
from nbft.runs.checkpoints import last_whole, step_of

_URGENT = ("SIGTERM", "SIGHUP")
"""The system kills a process some seconds after these."""

GOES_ON = "NBFT_GOES_ON"
"""A variable of the processes whose run goes on by itself after the system has ended them."""

_lock = threading.Lock()
_asked: dict[Path, events.Event] = {}
_interruptible: dict[Path, int] = {}
"""The thread of each run that is being trained here."""


class StopRequested(BaseException):
    """A run ends before its next step. No library's `except Exception` may hold it up.

    Args:
        request: The request.
    """

    def __init__(self, request: events.Event) -> None:
        self.request = request
        super().__init__(request["event"])


class Unfinished(BaseException):
    """What takes long between steps was left unfinished, because the run stops."""


class StopNow(BaseException):
    """Raised in the thread of a run that must end at once."""


def stop_by(signal: str) -> events.Event:
    """Return the request that a signal makes.

    Args:
        signal: Its name; "" where the process ends by itself.
    """
    why = f"the system asked ({signal})" if signal in _URGENT else ""
    if not signal:
        why = "its process is ending"
    if why and GOES_ON in os.environ:
        return release_because(why)
    return {"event": "stop", "monotonic": time.monotonic(), **({"why": why} if why else {})}


def release_because(why: str) -> events.Event:
    """Return the request to save a run, end its process and let it go on later."""
    return {"event": "pause", "release": True, "monotonic": time.monotonic(), "why": why}


def because(request: events.Event) -> str:
    """Return why, to follow a clause; "" for a person's own command."""
    why = request.get("why")
    return f" because {why}" if why else ""


def ask_to_stop(run: Path, signal: str) -> None:
    """Ask the worker of a run in this process to stop; this works on a full disk too."""
    with _lock:
        _asked.setdefault(run, stop_by(signal))


def take_asked(run: Path) -> events.Event | None:
    """Take out what a signal to this process has asked of a run, or return None."""
    with _lock:
        return _asked.pop(run, None)


def forget(run: Path) -> None:
    """Forget what earlier attempts of a run were asked."""
    with _lock:
        _asked.pop(run, None)


def is_training_thread() -> bool:
    """Whether this thread trains a run."""
    return threading.get_ident() in _interruptible.values()


def stop_now(run: Path) -> None:
    """End a run in this process between two Python instructions, wherever it is."""
    with _lock:
        thread = _interruptible.pop(run, None)
        if thread is not None:
            _raise_in(thread, StopNow)


def stopped_at_once(run: Path, signal: str = "") -> events.Event:
    """Return the last event of a run that was asked to end twice.

    Args:
        run: The run's folder.
        signal: The second signal, if it was the system's.
    """
    why = f"the system asked twice ({signal})" if signal in _URGENT else "of a second interrupt"
    checkpoint = last_whole(run)
    kept = f"only up to the checkpoint of step {step_of(checkpoint):,}" if checkpoint else "nothing"
    return {"event": "stopped", "text": f"Stopped at once because {why}; {kept} is saved."}


def _raise_in(thread: int, error: type[BaseException] | None) -> None:
    """Raise an error in another thread; None withdraws one that has not arrived."""
    found = ctypes.py_object(error) if error is not None else None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), found)


class Requests:
    """The requests to one attempt of a run.

    Args:
        run: The run's folder; commands to earlier attempts are skipped.
    """

    def __init__(self, run: Path) -> None:
        queued = [e for e in events.read(run / "events.jsonl") if e["event"] == "queued"]
        begin = queued[-1].get("commands_bytes", 0) if queued else 0
        self._run = run
        self._commands = events.EventReader(run / "commands.jsonl", begin)
        self._waiting: deque[events.Event] = deque()

    def read(self) -> deque[events.Event]:
        """Return those not carried out yet, oldest first; whoever carries one out removes it."""
        self._waiting += self._commands.read()
        if (stop := take_asked(self._run)) is not None:
            self._waiting.appendleft(stop)
        return self._waiting

    def end(self) -> events.Event | None:
        """Return the first request to end the run, or None."""
        ends = (r for r in self.read() if r["event"] in ("stop", "cancel") or r.get("why"))
        return next(ends, None)

    def take_urgent(self) -> events.Event | None:
        """Take out a request that the system will enforce soon, or return None."""
        urgent = next((r for r in self.read() if r.get("why")), None)
        if urgent is not None:
            self._waiting.remove(urgent)
        return urgent

    def check(self) -> None:
        """Check whether to go on before the first step.

        Raises:
            StopRequested: The run is to end.
        """
        request = self.end()
        if request is not None:
            raise StopRequested(request)

    @contextlib.contextmanager
    def interruptible(self) -> Iterator[None]:
        """Let `stop_now` raise StopNow in the block."""
        thread = threading.get_ident()
        with _lock:
            _interruptible[self._run] = thread
        try:
            yield
        finally:
            with _lock:
                _interruptible.pop(self._run, None)
                _raise_in(thread, None)
