"""The supervisor of a background run: a small process that outlives the kernel and the server.

It waits for the device, starts the worker in its own session, waits for its end, and writes the last
event if the worker could not. It imports neither torch nor settings, so that it stays small. Started
by `nbft.launchers.launch.submit` as `python -m nbft.launchers.supervisor RUN`; without a run it starts
a worker that imports its libraries, and waits for a run.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from nbft import events
from nbft.launchers.spare import log_to, tell, wait_for_run
from nbft.runs.processes import process_start_time
from nbft.runs.queue import Ticket, say_queued, turn

_POLL_SECONDS = 0.2
_LOG_LINES = 20


def supervise(run: Path, spare: subprocess.Popen[bytes] | None = None) -> None:
    """Supervise a run from the queue to its last event.

    Args:
        run: The run's folder.
        spare: A waiting worker; a new one is started when None.
    """
    path = run / "events.jsonl"
    device = _device(run)
    commands = say_queued(run, device)

    def cancelled() -> bool:
        return any(c["event"] in ("cancel", "stop") for c in commands.read())

    waiting = functools.partial(report_waiting, path, device)
    with turn(device, run, waiting, cancelled) as ticket:
        if ticket is None:
            events.append(path, "cancelled", step=0, seconds=0.0, text="Left the queue.")
            return
        _watch(run, path, commands, ticket, spare)


def report_waiting(path: Path, device: str, ahead: str) -> None:
    """Report in the events at `path` that the run `ahead` is using the device."""
    name = "the CPU" if device == "cpu" else device
    text = f"Waiting for run “{ahead}”, which is using {name}."
    events.append(path, "stage", stage="queued", text=text)


def wait_with_spare() -> None:
    """Start a worker that imports its libraries, wait for a run, and supervise it."""
    with _worker() as spare:
        run = wait_for_run()
        if run is not None:
            log_to(run)
            supervise(run, spare)


def _worker(*run: str) -> subprocess.Popen[bytes]:
    """Start a worker, with or without a run; it shares this process's output."""
    return subprocess.Popen(
        [sys.executable, "-m", "nbft.launchers.worker", *run],
        stdin=subprocess.DEVNULL if run else subprocess.PIPE,
        start_new_session=True,
    )


def _watch(
    run: Path,
    path: Path,
    commands: events.EventReader,
    ticket: Ticket,
    spare: subprocess.Popen[bytes] | None,
) -> None:
    began = time.monotonic()
    kills_before = _memory_kills()
    worker = spare if spare and tell(spare, run) else _worker(str(run))
    # If this process is killed, the worker keeps the device, and the status stays correct.
    ticket.hand_to(worker.pid)
    with contextlib.suppress(OSError):  # on a full disk the worker waits and reports it
        began_at = process_start_time(worker.pid)
        about = {"pid": worker.pid, "process_start_time": began_at}
        events.append(path, "stage", stage="starting", text="Starting the worker …", **about)
    cancelled = False
    while worker.poll() is None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.wait(_POLL_SECONDS)
        if any(command["event"] == "cancel" for command in commands.read()):
            cancelled = True
            with contextlib.suppress(ProcessLookupError):
                os.killpg(worker.pid, signal.SIGKILL)
    written = events.read(path)
    if _has_ended(written, worker.pid):
        return
    step = max((e.get("step", 0) for e in written), default=0)
    seconds = round(time.monotonic() - began, 1)
    if cancelled:
        events.append(path, "cancelled", step=step, seconds=seconds)
        return
    memory = _memory_kills() > kills_before
    events.append(
        path,
        "failed",
        step=step,
        seconds=seconds,
        error="Killed" if worker.returncode < 0 else "Exited",
        exit_code=worker.returncode if worker.returncode >= 0 else None,
        signal=-worker.returncode if worker.returncode < 0 else None,
        out_of_memory=memory and worker.returncode == -signal.SIGKILL,
        problems=[_how_it_ended(worker.returncode, memory=memory, step=step)],
        log=_log_tail(run / "log.txt"),
    )


def _has_ended(written: list[events.Event], pid: int) -> bool:
    """Whether a worker has written its last event; another attempt may have begun since."""
    remaining = iter(written)
    for event in remaining:
        if event["event"] == "started" and event["pid"] == pid:
            break
    return any(e["event"] in events.FINAL_KINDS or e.get("released") for e in remaining)


def _how_it_ended(code: int, *, memory: bool, step: int) -> str:
    """Describe how a worker ended that wrote no last event."""
    if code >= 0:
        return f"The worker ended by itself with exit code {code} after step {step}. See log.txt."
    name = signal.Signals(-code).name
    if -code == signal.SIGKILL and memory:
        return (
            f"The system killed the worker after step {step} because memory ran out. run.fixes lists "
            "changes that would fit, run.retry(0) starts the first."
        )
    if -code == signal.SIGKILL:
        return (
            f"The worker was killed after step {step} (signal SIGKILL), but not by the system for "
            "memory. Resume the run to continue from its last checkpoint."
        )
    return f"The worker ended with signal {name} after step {step}. See log.txt."


def _memory_kills() -> int:
    """Return how many processes the system has killed for memory since it started."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def _device(run: Path) -> str:
    try:
        plan: dict[str, Any] = json.loads((run / "plan.json").read_text(encoding="utf-8"))
        return str(plan["device"]["value"])
    except (OSError, ValueError, KeyError, TypeError):
        return "cpu"


def _log_tail(path: Path) -> str:
    with contextlib.suppress(OSError):
        return "\n".join(path.read_text(errors="replace").splitlines()[-_LOG_LINES:])
    return ""


if __name__ == "__main__":
    supervise(Path(sys.argv[1])) if sys.argv[1:] else wait_with_spare()
