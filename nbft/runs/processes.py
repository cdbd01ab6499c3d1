"""Which process is which: a pid alone may be somebody else's by now, so its start counts too."""

from __future__ import annotations

import os
import signal
from pathlib import Path

_SAME_START_SECONDS = 0.05


def process_start_time(pid: int) -> float:
    """Return when a process began, in seconds since the system did; 0 where there is none.

    The time since boot does not change when somebody sets the clock.
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


def lives(pid: int, start_time: float) -> bool:
    """Whether the very process that was recorded lives; one that only waits to be buried does not.

    Args:
        pid: Its number.
        start_time: What `process_start_time` said of it.
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
    """Kill the very process that was recorded; returns whether it lived."""
    if not lives(pid, start_time):
        return False
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return False
    return True
