"""A run that several processes train: starts them, and ends all when one has died.

They have torchrun's variables, and sessions of their own, so that neither a terminal nor the state
of a notebook's GPU reaches them. The run belongs to the process that calls this: a worker, or a
kernel. Those of other machines are started there by `follow`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nbft import events
from nbft.access import inherit_all
from nbft.config import Config
from nbft.devices import visible_variable
from nbft.launchers.detached import start_detached
from nbft.launchers.nodes import Follower, Nodes, Others
from nbft.launchers.supervisor import how_it_ended, memory_fixes, memory_kills
from nbft.limits import usable_cores
from nbft.processes import identity, is_stopped
from nbft.runs.files import log_tail
from nbft.runs.requests import Requests, StopNow, stopped_at_once, take_asked
from nbft.training.failure import last_step
from nbft.training.ranks import Ranks
from nbft.training.worker import work

_POLL_SECONDS = 0.1
_LEAVE_SECONDS = 5.0
"""How long the others may take to end after the first."""

_STOPPED_SECONDS = 5.0
"""How long a process may be stopped (SIGSTOP) while the others wait for it."""

_LOG_LINES = 20
_GIVEN = ("config.yaml", "plan.json")
_TOLD = ("error", "problems", "out_of_memory", "fixes")


def work_or_spread(run: Path, uses: Sequence[str] = (), *, owns_process: bool = False) -> None:
    """Train a run in this process, or in several others if its config says so; never raises.

    Args:
        run: The run's folder.
        uses: Names of the GPUs that the others see; those of this process if there are none.
        owns_process: Whether this process does nothing else.
    """
    count = 1
    with contextlib.suppress(Exception):  # the worker reports what is wrong with it
        count = Config.load(run / "config.yaml").distributed.processes
    if count == 1:
        work(run, owns_process=owns_process)
    else:
        work_in_ranks(run, count, uses)


def work_in_ranks(run: Path, count: int, uses: Sequence[str] = ()) -> None:
    """Train a run in several processes, and report what they could not report themselves.

    Args:
        run: The run's folder.
        count: Number of processes.
        uses: As in `work_or_spread`.
    """
    began, requests, nodes = time.monotonic(), Requests(run), Nodes.here()
    processes = _Processes(run)
    ending: dict[str, Any] = {}
    try:
        with requests.interruptible():
            every = _prepared(run, count, nodes)
            nodes.say_start(run, count, every[0].rendezvous)
            processes.start(every[: every[0].on_each_node], uses)
            ending = _watch(run, processes, Others(run, nodes))
    except StopNow:
        ending = stopped_at_once(run)
    except Exception as error:
        ending = _not_started(error)
    finally:
        processes.kill()
        inherit_all(run)
    if ending:
        seconds = round(time.monotonic() - began, 1)
        step = last_step(run / "events.jsonl")
        events.append(
            run / "events.jsonl",
            ending.pop("event"),
            **{"step": step, "seconds": seconds, **ending, **identity()},
        )


def follow(run: Path, number: int, nodes: Nodes) -> None:
    """Start and watch the processes of another machine than the first, until the first says it is over.

    Args:
        run: The run's folder.
        number: Number of this machine, from 1.
        nodes: The machines.
    """
    if (start := nodes.wait_for_start(run)) is None:
        return
    count, rendezvous = start
    follower, processes = Follower(run, number), _Processes(run)
    every = [Ranks(n, count, rendezvous, nodes.count) for n in range(count)]
    try:
        processes.start([ranks for ranks in every if ranks.node == number])
        while not nodes.is_over(run):
            if failed := processes.failure():
                follower.report(failed)
            follower.beat()
            time.sleep(_POLL_SECONDS)
        processes.wait(_LEAVE_SECONDS)
    except Exception as error:
        follower.report(_not_started(error, f" on node {number + 1} of {nodes.count}"))
        while not nodes.is_over(run):
            time.sleep(_POLL_SECONDS)
    finally:
        processes.kill()


def _not_started(error: Exception, where: str = "") -> dict[str, Any]:
    problem = f"Its processes{where} could not be started: {error}"
    return {"event": "failed", "error": type(error).__name__, "problems": [problem]}


def _prepared(run: Path, count: int, nodes: Nodes) -> list[Ranks]:
    """Return the processes of all machines, each with its folder."""
    others = run / "ranks"
    shutil.rmtree(others, ignore_errors=True)
    others.mkdir(exist_ok=True)
    rendezvous = nodes.rendezvous(others)
    every = [Ranks(number, count, rendezvous, nodes.count) for number in range(count)]
    for ranks in every[1:]:
        folder = ranks.folder(run)
        folder.mkdir()
        for name in _GIVEN:
            if (run / name).is_file():
                shutil.copy2(run / name, folder)
    inherit_all(others)
    return every


class _Processes:
    """The processes of a run on this machine.

    Args:
        run: The run's folder.
    """

    def __init__(self, run: Path) -> None:
        self._run, self._kills = run, memory_kills()
        self._started: list[tuple[Ranks, subprocess.Popen[bytes]]] = []
        self._stopped_since: dict[int, float] = {}

    def start(self, every: Sequence[Ranks], uses: Sequence[str] = ()) -> None:
        """Start processes; what each prints is in its log.

        Args:
            every: Which.
            uses: As in `work_or_spread`.
        """
        for ranks in every:
            command = [
                sys.executable,
                "-m",
                "nbft.launchers.rank",
                str(self._run),
                str(os.getpid()),
            ]
            threads = {"OMP_NUM_THREADS": str(max(1, usable_cores() // len(every)))}
            environment = threads | os.environ | visible_variable(uses) | ranks.variables()
            log = ranks.folder(self._run) / "log.txt"
            process = start_detached(command, log, environment=environment)
            self._started.append((ranks, process))

    @property
    def first(self) -> subprocess.Popen[bytes]:
        """The first of them."""
        return self._started[0][1]

    def failure(self) -> dict[str, Any] | None:
        """Return the fields of the last event if one has ended badly, or does not go on."""
        for ranks, process in self._started:
            if process.poll():
                killed = memory_kills() > self._kills and process.returncode == -signal.SIGKILL
                return _failure(self._run, ranks, process.returncode, memory=killed)
            if process.returncode is None and is_stopped(process.pid):
                since = self._stopped_since.setdefault(process.pid, time.monotonic())
                if time.monotonic() - since > _STOPPED_SECONDS:
                    return _failure(self._run, ranks, None)
            else:
                self._stopped_since.pop(process.pid, None)
        return None

    def wait(self, seconds: float) -> None:
        """Wait for their ends, at most so long in all."""
        until = time.monotonic() + seconds
        for _, process in self._started:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, until - time.monotonic()))

    def kill(self) -> None:
        """Kill those that have not ended."""
        for _, process in self._started:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _watch(run: Path, processes: _Processes, others: Others) -> dict[str, Any]:
    """Wait for the end; return the fields of the last event if no process has written it."""
    while True:
        if ending := processes.failure() or others.ending():
            return ending
        if processes.first.returncode == 0:
            processes.wait(_LEAVE_SECONDS)
            return {}
        if (request := take_asked(run)) is not None:
            events.append(run / "commands.jsonl", request.pop("event"), **request)
        with contextlib.suppress(subprocess.TimeoutExpired):
            processes.first.wait(_POLL_SECONDS)


def _failure(run: Path, ranks: Ranks, code: int | None, *, memory: bool = False) -> dict[str, Any]:
    """Return why a run ends of whose processes one has ended, or does not go on.

    Args:
        run: The run's folder.
        ranks: Which process.
        code: Its exit code; None if it was stopped.
        memory: Whether the system has killed it for memory.
    """
    folder = ranks.folder(run)
    who = f"Process {ranks.number + 1} of {ranks.count}"
    if ranks.nodes > 1:
        who += f" on node {ranks.node + 1}"
    log = log_tail(folder, _LOG_LINES)[0]
    own = events.read(folder / "events.jsonl") if not ranks.is_first else []
    if own and own[-1]["event"] == "failed":
        told = {name: own[-1].get(name) for name in _TOLD}
        problems = [f"{who}: {problem}" for problem in told.get("problems") or ["it failed."]]
        return {"event": "failed", **told, "problems": problems, "log": log}
    step = last_step(run / "events.jsonl")
    if code is None:
        said = (
            f"{who} was stopped in step {step + 1} and did not go on for {_STOPPED_SECONDS:g} "
            "seconds. Resume the run to continue from its last checkpoint."
        )
        return {"event": "failed", "error": "Stopped", "problems": [said], "log": log}
    return {
        "event": "failed",
        "error": "Killed" if code < 0 else "Exited",
        "signal": -code if code < 0 else None,
        "exit_code": code if code > 0 else None,
        "out_of_memory": memory,
        "fixes": memory_fixes(run) if memory else [],
        "problems": [how_it_ended(code, who=who, memory=memory, step=step)],
        "log": log,
    }
