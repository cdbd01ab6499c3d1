"""A spare supervisor and worker that wait, libraries imported, for the next `submit`.

Importing takes most of the time to the first step. The spare processes only need the run's folder.
They end with the kernel, after ten idle minutes, when memory is short, or when the installed
packages have changed. None waits where memory is shared; see `why_off`. Called by the form and by
`nbft.launchers.launch`.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import subprocess
import sys
import threading
import time
from pathlib import Path

from nbft.access import inherit
from nbft.limits import available_bytes
from nbft.queue import other_users

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
        if why_off():
            return False
        _waiting = _Spare()
        return True


def why_off() -> str:
    """Return why no spare worker may wait on this machine now; "" if one may."""
    asked = os.environ.get("NBFT_SPARE_WORKER")
    if asked == "off":
        return "NBFT_SPARE_WORKER is off."
    if os.name != "posix" or not hasattr(os, "killpg"):
        return "Background runs need Linux or macOS."
    if asked != "on" and any(name.startswith("JUPYTERHUB_") for name in os.environ):
        return "This is a JupyterHub, whose users share the memory."
    if _is_short(LEAST_FREE_BYTES):
        return "Less than 3 GiB of memory are free."
    if others := other_users():
        return f"Another user trains on this machine: {', '.join(others)}."
    return ""


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
        waiting.stdin.write(json.dumps(str(run)).encode() + b"\n")  # its name may hold anything
        waiting.stdin.close()
    except OSError:
        return False
    return waiting.poll() is None


def _environment() -> tuple[Path, dict[str, str], frozenset[tuple[str, int]]]:
    return Path.cwd(), dict(os.environ), _packages()


def _packages() -> frozenset[tuple[str, int]]:
    """Return the records of the installed packages, each with its time; an installation changes it."""
    found = set()
    for folder in {p for p in sys.path if Path(p).name in ("site-packages", "dist-packages")}:
        with contextlib.suppress(OSError), os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.endswith((".dist-info", ".egg-info", ".egg-link", ".pth")):
                    with contextlib.suppress(OSError):
                        found.add((entry.path, entry.stat().st_mtime_ns))
    return frozenset(found)


def wait_for_run(idle_seconds: float = _IDLE_SECONDS) -> Path | None:
    """Wait in a spare process until standard input names a run; None if none will come."""
    until = time.monotonic() + idle_seconds
    packages = _packages()
    while time.monotonic() < until and not _is_short(LEAST_FREE_BYTES // 3):
        if _packages() != packages:
            return None
        if select.select([sys.stdin], [], [], _LOOK_SECONDS)[0]:
            line = sys.stdin.readline()
            return Path(json.loads(line)) if line else None
    return None


def log_to(run: Path) -> None:
    """Redirect the output of this process and its children to a run's log."""
    with (run / "log.txt").open("ab") as log:
        inherit(run / "log.txt")
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)


def _is_short(bytes_needed: int) -> bool:
    free = available_bytes()
    return free is not None and free < bytes_needed
