"""Processes, identified by pid and start time, since a pid may be reused."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

_SAME_START_SECONDS = 0.05


def process_start_time(pid: int) -> float:
    """Return when a process started, in seconds since boot; 0 if there is none.

    The time since boot does not change when the clock is set.
    """
    try:
        # Field 22 of proc_pid_stat(5); the name in brackets before it may hold anything.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except OSError:
        pass
    if Path("/proc/self").exists():
        return 0.0
    import psutil

    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return 0.0


def identity(pid: int | None = None) -> dict[str, Any]:
    """Return pid and process_start_time of a process, or of this one, as events record them."""
    pid = os.getpid() if pid is None else pid
    return {"pid": pid, "process_start_time": process_start_time(pid)}


def lives(pid: int, start_time: float) -> bool:
    """Whether exactly this process lives; a zombie does not.

    Args:
        pid: Its number.
        start_time: Its `process_start_time`.
    """
    if abs(process_start_time(pid) - start_time) > _SAME_START_SECONDS or not start_time:
        return False
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        if Path("/proc/self").exists():
            return False
    import psutil

    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False


def kill(pid: int, start_time: float) -> bool:
    """Kill exactly this process; return whether it lived."""
    if not lives(pid, start_time):
        return False
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True
