"""Processes, identified by pid and start time, since a pid may be reused, and by their machine.

A folder of runs may be on a disk that several machines share, and a container has pids of its own.
A process is looked up only where its pid means something.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import signal
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from nbft import events

_SAME_START_SECONDS = 0.05


class Process(NamedTuple):
    """A process, as events and tickets record it.

    Attributes:
        pid: Its number.
        start_time: Its `process_start_time`.
        host: Name of its machine; "" in the records of older versions.
        machine: Stable id of the machine, hashed; "" where the system has none.
        boot: Random id of the machine's current start; "" where the system has none.
        namespace: The pid namespace, which differs between containers; 0 where there is none.
        user: Id of its user; None where there is none.
    """

    pid: int
    start_time: float
    host: str = ""
    machine: str = ""
    boot: str = ""
    namespace: int = 0
    user: int | None = None

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> Process | None:
        """Return the process of an event or a ticket; None if it names none."""
        known = events.checked(dict(record))
        pid, began = known.get("pid"), known.get("process_start_time")
        if pid is None or began is None:
            return None
        place = {name: known[name] for name in cls._fields[2:] if known.get(name) is not None}
        return cls(pid, began, **place)

    def lives(self) -> bool | None:
        """Whether it lives; None if that cannot be seen from here.

        After its machine was started again it is gone.
        """
        here = _here()
        is_same_machine = (self.host, self.machine) == (here["host"], here["machine"])
        if self.host and (self.boot != here["boot"] or not (self.boot or is_same_machine)):
            return False if is_same_machine else None
        if self.host and self.namespace != here["namespace"]:
            return None
        if lives(self.pid, self.start_time):
            return True
        is_hidden = self.user not in (None, here["user"]) and _hides_others()
        return None if is_hidden else False

    @property
    def place(self) -> str:
        """Name of its machine, for people who look from elsewhere."""
        is_here = self.boot == _here()["boot"] and self.namespace != _here()["namespace"]
        return f"{self.host} (another container)" if is_here else self.host


def identity(pid: int | None = None) -> dict[str, Any]:
    """Return the fields by which events record a process of this machine, or this one."""
    pid = os.getpid() if pid is None else pid
    return {"pid": pid, "process_start_time": process_start_time(pid), **_here()}


def _here() -> dict[str, Any]:
    """Return the fields of `Process` that the processes around this one share."""
    user = os.getuid() if hasattr(os, "getuid") else None
    name = os.environ.get("NBFT_HOST")  # tests take the place of another machine
    if name:
        return {"host": name, "machine": name, "boot": name, "namespace": 0, "user": user}
    return {**_system(), "user": user}


@functools.cache
def _system() -> dict[str, Any]:
    # The id should stay on its machine (machine-id(5)), and runs are shared.
    machine = _text("/etc/machine-id")
    hashed = hashlib.sha256(f"nbft {machine}".encode()).hexdigest()[:16] if machine else ""
    try:
        namespace = Path("/proc/self/ns/pid").stat().st_ino
    except OSError:
        namespace = 0
    # Where processes start at a time since boot, their records need the boot as well.
    boot = _text("/proc/sys/kernel/random/boot_id")
    return {
        "host": socket.gethostname() or "localhost",
        "machine": hashed,
        "boot": boot,
        "namespace": namespace,
    }


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        return ""


def _hides_others() -> bool:
    """Whether this user cannot see other users' processes (hidepid in proc(5))."""
    return Path("/proc/self").exists() and not Path("/proc/1").exists()


def process_start_time(pid: int) -> float:
    """Return when a process started, in seconds since boot; 0 if there is none.

    The time since boot does not change when the clock is set. Systems without /proc give the time
    since the epoch.
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
    """Whether exactly this process lives here; a zombie does not.

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


def is_stopped(pid: int) -> bool:
    """Whether a process of this machine has been stopped, as by SIGSTOP, and may go on."""
    import psutil

    try:
        return bool(psutil.Process(pid).status() == psutil.STATUS_STOPPED)
    except psutil.Error:
        return False


def kill(pid: int, start_time: float) -> bool:
    """Kill exactly this process; return whether it lived and was ours to kill."""
    if not lives(pid, start_time):
        return False
    try:
        os.kill(pid, getattr(signal, "SIGKILL", signal.SIGTERM))  # on Windows any signal kills
    except (ProcessLookupError, PermissionError):
        return False
    return True


def set_title(doing: str) -> None:
    """Let `ps` and `top` show what this process does, as in "nbft: training kind-otter-14"."""
    with contextlib.suppress(ImportError):
        from setproctitle import setproctitle

        setproctitle(f"nbft: {doing}")
