"""A spare supervisor and worker that wait, libraries imported, for the next `submit`.

Importing takes most of the time to the first step. The spare processes only need the run's folder.
They end with the kernel, after ten idle minutes, or when memory is short. Called by the form and by
`nbft.launchers.launch`.
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
"""The libraries take 0.6 GB, and training needs memory as well."""

_IDLE_SECONDS = 600.0
_LOOK_SECONDS = 5.0

_lock = threading.Lock()
_waiting: _Spare | None = None


class _Spare:
    """A waiting supervisor, and the environment it was started in."""

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
        """Whether it still waits, in the current environment."""
        return self.process.poll() is None and self.environment == _environment()

    def end(self) -> None:
        """Let it end by itself: it gets no run."""
        assert self.process.stdin is not None
        with contextlib.suppress(OSError):
            self.process.stdin.close()
        threading.Thread(target=self.process.wait, daemon=True).start()  # leaves no zombie


def prepare() -> bool:
    """Start a spare supervisor unless memory is short, and return whether one waits."""
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
    """Give the spare supervisor a run and return it; None if there is no suitable one."""
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
    """Give a waiting process its run, and return whether that worked."""
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
    """Wait in a spare process until standard input names a run; None if none will come."""
    until = time.monotonic() + idle_seconds
    while time.monotonic() < until and not _is_short(LEAST_FREE_BYTES // 3):
        if select.select([sys.stdin], [], [], _LOOK_SECONDS)[0]:
            line = sys.stdin.readline().rstrip("\n")
            return Path(line) if line else None
    return None


def log_to(run: Path) -> None:
    """Redirect the output of this process and its children to a run's log."""
    with (run / "log.txt").open("ab") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)


def _is_short(bytes_needed: int) -> bool:
    free = available_bytes()
    return free is not None and free < bytes_needed
