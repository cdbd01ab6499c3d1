"""A spare background run that waits, its libraries imported, for the next `submit`.

Importing takes most of the time to the first step, and a person fills in a form meanwhile. What
waits is a supervisor with its worker; the run's folder is all that they still have to be told. They
end when the kernel does, after ten idle minutes, or when memory gets short. Called by the form and
by `nbft.launchers.launch`.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import threading
import time
from pathlib import Path

from nbft.limits import available_bytes

LEAST_FREE_BYTES = 3 * 2**30
"""The libraries take 0.6 GB, and training has to find room as well."""

_IDLE_SECONDS = 600.0
_LOOK_SECONDS = 5.0

_lock = threading.Lock()
_waiting: _Spare | None = None


class _Spare:
    """A supervisor that waits, and what it began with."""

    def __init__(self) -> None:
        self.environment = _environment()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "nbft.launchers.supervisor"],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def is_good(self) -> bool:
        """Whether it still waits, and began as a new one would."""
        return self.process.poll() is None and self.environment == _environment()

    def end(self) -> None:
        """Let it end by itself: nobody will tell it a run any more."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        threading.Thread(target=self.process.wait, daemon=True).start()  # leaves no zombie


def prepare() -> bool:
    """Let a spare run wait, unless memory is short; returns whether one waits."""
    global _waiting
    with _lock:
        if _waiting is not None:
            if _waiting.is_good():
                return True
            _waiting.end()
            _waiting = None
        is_off = os.environ.get("NBFT_SPARE_WORKER") == "off" or os.name != "posix"
        if is_off or _is_short(LEAST_FREE_BYTES):
            return False
        _waiting = _Spare()
        return True


def take(run: Path) -> subprocess.Popen[bytes] | None:
    """Give the spare supervisor a run and return it; None when none waits that would do."""
    global _waiting
    with _lock:
        spare, _waiting = _waiting, None
    if spare is None:
        return None
    if spare.is_good() and tell(spare.process, run):
        return spare.process
    spare.end()
    return None


def tell(waiting: subprocess.Popen[bytes], run: Path) -> bool:
    """Give a process that waits its run; returns whether it could be told."""
    assert waiting.stdin is not None
    try:
        waiting.stdin.write(f"{run}\n".encode())
        waiting.stdin.close()
    except OSError:
        return False
    return waiting.poll() is None


def _environment() -> tuple[Path, dict[str, str]]:
    return Path.cwd(), dict(os.environ)


def wait_for_run(idle_seconds: float = _IDLE_SECONDS) -> Path | None:
    """Wait until standard input names a run, in a process that waits; None when none will come."""
    until = time.monotonic() + idle_seconds
    while time.monotonic() < until and not _is_short(LEAST_FREE_BYTES // 3):
        if select.select([sys.stdin], [], [], _LOOK_SECONDS)[0]:
            line = sys.stdin.readline().rstrip("\n")
            return Path(line) if line else None
    return None


def log_to(run: Path) -> None:
    """Send what this process and its children print to a run's log."""
    with (run / "log.txt").open("ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)


def _is_short(bytes_needed: int) -> bool:
    free = available_bytes()
    return free is not None and free < bytes_needed
