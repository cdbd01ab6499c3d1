"""The supervisor of a background run: a small process that outlives the kernel and the server.

It waits for the device, starts the worker in its own session, waits for its end, and writes the last
event if the worker could not. It imports neither torch nor settings, so that it stays small. Started
by the launcher `process` as `python -m nbft.launchers.supervisor RUN COMMAND…` with the command of
the worker; without a run it starts a worker that imports its libraries, and waits for a run.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nbft import events
from nbft.access import own_process
from nbft.devices import names_to_take, visible_variable
from nbft.errors import NbftError, RunError
from nbft.launchers.signals import Signals, heard
from nbft.launchers.spare import log_to, tell, wait_for_run
from nbft.processes import identity, set_title
from nbft.queue import Ticket, beating, say_queued, turn
from nbft.runs.files import log_tail, read_plan
from nbft.runs.requests import because, stop_by, stopped_at_once

_POLL_SECONDS = 0.2
_LOG_LINES = 20


def worker_command(*run: Path) -> list[str]:
    """Return the command of a worker in this Python; without a run it waits for one."""
    return [sys.executable, "-m", "nbft.launchers.worker", *map(str, run)]


class Spare(NamedTuple):
    """A worker that waits for a run.

    Attributes:
        process: Its process.
        sees: Names of the GPUs that it sees, which it cannot change; () without any.
    """

    process: subprocess.Popen[bytes]
    sees: tuple[str, ...]


def supervise(
    run: Path, command: list[str], spare: Spare | None = None, *, job_begin: int | None = None
) -> None:
    """Supervise a run from the queue to its last event.

    Args:
        run: The run's folder.
        command: What starts its worker.
        spare: A waiting worker, which is used instead if it still lives and sees the right GPUs.
        job_begin: In the job of a cluster, which has its devices and waits for none: where the
            commands to the run begin, in bytes.
    """
    path = run / "events.jsonl"
    device, needs = devices_of(read_plan(run))
    set_title(f"supervising {run.name}")
    with heard() as signals:
        commands = say_queued(run, device, job_begin)
        ends: list[events.Event] = []

        def is_to_end() -> bool:
            ends.extend(c for c in commands.read() if c["event"] in ("cancel", "stop"))
            if signals.first is not None:
                ends.append(stop_by(signals.first.name))
            return bool(ends)

        def among() -> list[str]:
            names = names_to_take(device, needs)
            return sorted(names, key=lambda name: not (spare and name in spare.sees))

        try:
            if job_begin is not None:
                with beating(path):
                    _watch(run, path, commands, None, command, None, signals)
                return
            say = functools.partial(report_queued, path)
            with turn(device, run, say, is_to_end, among=among, needs=needs) as ticket:
                if ticket is None:
                    leave_queue(path, ends[0])
                    return
                _watch(run, path, commands, ticket, command, spare, signals)
        except Exception as error:
            report_failure(path, error)


def leave_queue(path: Path, request: events.Event) -> None:
    """Write the last event, at `path`, of a run that was asked to end before its turn."""
    step = max((e.get("step") or 0 for e in events.read(path)), default=0)
    is_stop = request.get("why") or (step and request["event"] == "stop")
    text = f"Left the queue{because(request)}."
    events.append(path, "stopped" if is_stop else "cancelled", step=step, seconds=0.0, text=text)


def report_failure(path: Path, error: Exception) -> None:
    """Report in the events at `path` why a run could not be started."""
    kind = type(error).__name__
    why = (
        str(error) if isinstance(error, NbftError) else f"It could not be started: {kind}: {error}"
    )
    events.append(path, "failed", step=0, problems=[why], error=kind)


def report_queued(path: Path, text: str) -> None:
    """Report in the events at `path` what a waiting run waits for."""
    events.append(path, "stage", stage="queued", text=text)


def wait_with_spare() -> None:
    """Start a worker that imports its libraries, wait for a run, and supervise it."""
    own_process()
    set_title("spare supervisor")
    sees = names_to_take("cuda")[:1]
    with start_worker(worker_command(), sees, stdin=subprocess.PIPE) as process:
        run = wait_for_run()
        if run is not None:
            own_process(run)
            log_to(run)
            supervise(run, worker_command(run), Spare(process, sees))


def start_worker(
    command: list[str], sees: Sequence[str], stdin: int = subprocess.DEVNULL
) -> subprocess.Popen[bytes]:
    """Start a worker in a session of its own; it shares this process's output.

    Args:
        command: The command.
        sees: Names of the GPUs that it sees; all that this process sees if there are none.
        stdin: Its standard input, as for `subprocess.Popen`.
    """
    environment = os.environ | visible_variable(sees)
    return subprocess.Popen(command, stdin=stdin, start_new_session=True, env=environment)


def _watch(
    run: Path,
    path: Path,
    commands: events.EventReader,
    ticket: Ticket | None,
    command: list[str],
    spare: Spare | None,
    signals: Signals,
) -> None:
    began = time.monotonic()
    kills_before = memory_kills()
    uses = ticket.uses if ticket else ()
    worker = _told(spare, run, uses) or start_worker(command, uses)
    # If this process is killed, the worker keeps the device, and the status stays correct.
    if ticket is not None:
        with contextlib.suppress(RunError):
            ticket.hand_to(worker.pid)
    with contextlib.suppress(OSError):  # on a full disk the worker waits and reports it
        text = "Starting the worker …"
        events.append(path, "stage", stage="starting", text=text, **identity(worker.pid))
    cancelled = False
    while worker.poll() is None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.wait(_POLL_SECONDS)
        cancelled |= any(command["event"] == "cancel" for command in commands.read())
        if signals.first is not None and not signals.is_passed_on:
            signals.is_passed_on = True
            _pass_on(run, worker, signals.first)
        if cancelled or signals.is_second:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(worker.pid, signal.SIGKILL)
    report_end(
        run,
        worker,
        seconds=round(time.monotonic() - began, 1),
        is_cancelled=cancelled,
        second=signals.first.name if signals.is_second and signals.first else "",
        has_killed=memory_kills() > kills_before,
    )


def _told(spare: Spare | None, run: Path, uses: tuple[str, ...]) -> subprocess.Popen[bytes] | None:
    """Give a spare worker its run and return it; None if it does not fit, which ends it."""
    if spare is None:
        return None
    if uses in ((), spare.sees) and tell(spare.process, run):
        return spare.process
    assert spare.process.stdin is not None
    with contextlib.suppress(OSError):
        spare.process.stdin.close()
    return None


def report_end(
    run: Path,
    worker: subprocess.Popen[bytes],
    *,
    seconds: float,
    is_cancelled: bool = False,
    second: str = "",
    has_killed: bool,
) -> None:
    """Write the last event of a run if its worker has not.

    Args:
        run: The run's folder.
        worker: The worker, which has ended.
        seconds: How long it lived.
        is_cancelled: Whether it was ended for a command.
        second: The second signal, if that ended it.
        has_killed: Whether the system has killed processes for memory meanwhile.
    """
    path = run / "events.jsonl"
    written = events.read(path)
    if _has_ended(written, worker.pid):
        return
    step = max((e.get("step") or 0 for e in written), default=0)
    if is_cancelled:
        events.append(path, "cancelled", step=step, seconds=seconds, **identity())
        return
    if second:
        ending = stopped_at_once(run, second)
        kind = ending.pop("event")
        events.append(path, kind, step=step, seconds=seconds, **ending, **identity())
        return
    memory = has_killed and worker.returncode == -signal.SIGKILL
    events.append(
        path,
        "failed",
        step=step,
        seconds=seconds,
        error="Killed" if worker.returncode < 0 else "Exited",
        exit_code=worker.returncode if worker.returncode >= 0 else None,
        signal=-worker.returncode if worker.returncode < 0 else None,
        out_of_memory=memory,
        fixes=memory_fixes(run) if memory else [],
        problems=[how_it_ended(worker.returncode, memory=memory, step=step)],
        log=log_tail(run, _LOG_LINES)[0],
        **identity(),
    )


def _pass_on(run: Path, worker: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """Ask the worker to stop by a command.

    When a machine shuts down, the worker gets the same signal itself, and a second one would mean
    at once.
    """
    request = stop_by(number.name)
    try:
        events.append(run / "commands.jsonl", request.pop("event"), **request)
    except OSError:
        worker.send_signal(number)


def _has_ended(written: list[events.Event], pid: int) -> bool:
    """Whether a worker has written its last event; another attempt may have begun since."""
    starts = [n for n, e in enumerate(written) if e["event"] == "started" and e.get("pid") == pid]
    since = written[starts[-1] :] if starts else []
    return any(e["event"] in events.FINAL_KINDS or e.get("released") for e in since)


def how_it_ended(code: int, *, memory: bool, step: int, who: str = "The worker") -> str:
    """Describe how a worker, or one of its processes, ended that wrote no last event."""
    if code >= 0:
        return f"{who} ended by itself with exit code {code} after step {step}. See log.txt."
    name = signal.Signals(-code).name
    if memory:
        return (
            f"{who} was killed by the system after step {step} because memory ran out. run.fixes lists "
            "changes that would fit, run.retry(0) starts the first."
        )
    if -code == signal.SIGKILL:
        return (
            f"{who} was killed after step {step} (signal SIGKILL), but not by the system for "
            "memory. Resume the run to continue from its last checkpoint."
        )
    return (
        f"{who} ended with signal {name} after step {step}. See log.txt. Resume the run to "
        "continue from its last checkpoint."
    )


def memory_kills() -> int:
    """Return how many processes the system has killed for memory since it started."""
    with contextlib.suppress(OSError, ValueError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            if line.startswith("oom_kill "):
                return int(line.split()[1])
    return 0


def memory_fixes(run: Path) -> list[dict[str, Any]]:
    """Return what would need less memory; only now are settings and plan imported."""
    from nbft.plan.fixes import fixes_for_event

    return fixes_for_event(run)


def devices_of(plan: Mapping[str, Any]) -> tuple[str, int | None]:
    """Return the kind of device of a run's plan, and how many of them it needs.

    All, which is None, if the plan is of an older version, which had one place for all.
    """
    try:
        needs = plan.get("devices")
        return str(plan["device"]["value"]), None if needs is None else int(needs)
    except (KeyError, TypeError, ValueError):
        return "cpu", 1


if __name__ == "__main__":
    if sys.argv[1:]:
        own_process(Path(sys.argv[1]))
        supervise(Path(sys.argv[1]), sys.argv[2:])
    else:
        wait_with_spare()
