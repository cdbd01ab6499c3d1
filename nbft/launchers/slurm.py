"""Runs as jobs of a Slurm cluster, through submitit.

The job supervises the run on its node, where the worker trains; what it writes is in the run's
folder, which the nodes share with the machine that submits. Before its time ends, or when the
cluster takes its node back, the run is stopped with a checkpoint and the job returns to the queue;
when it is started again, the run goes on from there.
"""

from __future__ import annotations

import contextlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbft import events
from nbft.access import own_process
from nbft.errors import RunError
from nbft.launchers.interpreter import python_for, remember
from nbft.launchers.launcher import Launcher
from nbft.launchers.spare import log_to
from nbft.launchers.supervisor import leave_queue, report_failure, supervise, worker_command
from nbft.runs.files import read_plan

if TYPE_CHECKING:
    from nbft.runs.folder import Run

_TIME_MINUTES = 60
_POLL_SECONDS = 0.2
_ASK_SECONDS = 30.0
"""How often Slurm is asked for a job, at most."""

_LATE_SECONDS = 60.0
"""How long after the end of a job its last event may arrive over a shared disk."""

_asked: dict[Path, float] = {}
"""When Slurm was last asked for the job of a run, by this process's clock."""

_gone: dict[Path, float] = {}
"""When Slurm first said that it has no such job."""

_DECIDED = ("device", "dtype", "mixed_precision", "parts", "devices")
"""What a plan decides for the machine that it was made on; the node decides for itself."""


class Slurm(Launcher):
    """A job of a Slurm cluster."""

    title = "a Slurm job"

    def start(self, run: Run, python: str | None = None) -> None:
        """Submit the job of a run.

        Args:
            run: The run.
            python: The Python of the job, at the same path on its node, as in `Launcher.start`.

        Raises:
            RunError: submitit is missing, this is no machine of a cluster, or it refuses the job.
        """
        try:
            remember()
            chosen, remark = python_for(python)
            if remark:
                events.append(run.events_path, "warning", text=remark)
            executor = _executor(run, shlex.quote(chosen))
            _leave_decisions_to_the_node(run.path)
            _say_waiting(run.path, "Waiting in the queue of Slurm.")
            job = executor.submit(Attempt(str(run.path)))
        except Exception as error:
            why = error if isinstance(error, RunError) else RunError(_sentence(error))
            report_failure(run.events_path, why)
            raise why from None
        _job_file(run.path).write_text(job.job_id, encoding="ascii")

    def look(self, run: Run) -> None:
        """Report the end of a job that could not report it itself; asks Slurm now and then."""
        now, path = time.monotonic(), _job_file(run.path)
        if now - _asked.get(run.path, -_ASK_SECONDS) < _ASK_SECONDS:
            return
        _asked[run.path] = now
        with contextlib.suppress(OSError):
            job = path.read_text(encoding="ascii")
            if _state_of(job):
                _gone.pop(run.path, None)
            elif now - _gone.setdefault(run.path, now) >= _LATE_SECONDS and not _is_over(run.path):
                said = f"Its Slurm job {job} is over, and it has written nothing of its end. "
                error = RunError(f"{said}The log of the job is in {path.parent}.")
                report_failure(run.events_path, error)

    def withdraw(self, run: Run, request: events.Event) -> None:
        """Take a run that waits out of the queue of Slurm."""
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            subprocess.run(["scancel", _job_file(run.path).read_text()], check=True, timeout=30)
        leave_queue(run.events_path, request)


class Attempt:
    """What a job does: it trains a run, or goes on with it; submitit calls it on the node.

    Args:
        run: The run's folder.
    """

    def __init__(self, run: str) -> None:
        self._run = run
        self._first_step = -1

    def __call__(self) -> None:
        """Supervise the run to its end, or to that of the job."""
        run = Path(self._run)
        self._first_step = _step(run)
        if _is_over(run):
            return
        own_process(run)
        if requests := _requests(run):
            leave_queue(run / "events.jsonl", requests[0])
            return
        log_to(run)
        signals = supervise(run, worker_command(run), has_devices=True)
        if signals.first == signal.SIGTERM and _is_to_go_on():
            signal.raise_signal(signal.SIGUSR2)  # submitit calls `checkpoint`, and queues the job

    def checkpoint(self) -> Any:
        """Stop the run with a checkpoint, and return what goes on from it in the next attempt.

        Called by submitit in the middle of `__call__`, before the time of the job ends.
        """
        run = Path(self._run)
        if not _is_over(run):
            why = {"why": "the time of its Slurm job ends"}
            events.append(run / "commands.jsonl", "stop", monotonic=time.monotonic(), **why)
            _wait_for_worker()
        ending = events.read(run / "events.jsonl")[-1]["event"]
        if ending in events.FINAL_KINDS and (ending != "stopped" or _requests(run)):
            sys.exit(0)
        if _step(run) <= self._first_step:
            told = "It made no step within the time of its Slurm job. Give compute.slurm.time more."
            report_failure(run / "events.jsonl", RunError(told))
            sys.exit(1)
        _say_waiting(run, "Waiting in the queue of Slurm to go on from its checkpoint.")
        from submitit.helpers import DelayedSubmission

        return DelayedSubmission(Attempt(self._run))


def _executor(run: Run, python: str) -> Any:
    """Return submitit's executor, with the options of a run's config.

    Raises:
        RunError: submitit is missing, this is no machine of a cluster, or an option is unknown.
    """
    try:
        from submitit import SlurmExecutor
    except ImportError:
        raise RunError(
            "compute.launcher=slurm: needs submitit. Install it with: pip install submitit"
        ) from None
    if not (shutil.which("sbatch") and shutil.which("srun")):
        raise RunError(
            "compute.launcher=slurm: there is no sbatch and srun here. Submit on a machine of the "
            "cluster, or use compute.launcher=process."
        )
    folder = run.path / "slurm"
    executor = SlurmExecutor(folder, max_num_timeout=1_000_000, python=python)
    given = {"job_name": run.id, "time": _TIME_MINUTES, **run.config.compute.slurm}
    try:
        executor.update_parameters(**given, stderr_to_stdout=True)
    except (TypeError, ValueError) as error:
        raise RunError(f"compute.slurm={run.config.compute.slurm}: {_sentence(error)}") from None
    return executor


def _leave_decisions_to_the_node(run: Path) -> None:
    plan = {name: value for name, value in read_plan(run).items() if name not in _DECIDED}
    (run / "plan.json").write_text(json.dumps(plan, indent=2), encoding="utf-8")


def _say_waiting(run: Path, text: str) -> None:
    """Record that a run waits for Slurm; commands before do not concern this attempt."""
    commands = run / "commands.jsonl"
    begin = commands.stat().st_size if commands.exists() else 0
    events.keep_reserve(run)
    path = run / "events.jsonl"
    events.append(path, "queued", cluster="slurm", device="slurm", commands_bytes=begin)
    events.append(path, "stage", stage="queued", text=text)


def _requests(run: Path) -> list[events.Event]:
    """Return the requests of people to end this attempt, oldest first."""
    queued = [e for e in events.read(run / "events.jsonl") if e.get("cluster")]
    begin = queued[-1].get("commands_bytes", 0) if queued else 0
    commands = events.EventReader(run / "commands.jsonl", begin).read()
    return [c for c in commands if c["event"] in ("stop", "cancel") and not c.get("why")]


def _is_over(run: Path) -> bool:
    return events.read(run / "events.jsonl")[-1]["event"] in events.FINAL_KINDS


def _step(run: Path) -> int:
    return max((e.get("step") or 0 for e in events.read(run / "events.jsonl")), default=0)


def _wait_for_worker() -> None:
    """Wait for the end of the processes that this one has started."""
    import psutil

    children = psutil.Process().children()
    while any(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children):
        time.sleep(_POLL_SECONDS)


def _is_to_go_on() -> bool:
    """Whether the job was preempted: one that a person cancels does not count as running."""
    return _state_of(os.environ.get("SLURM_JOB_ID", "")) in ("RUNNING", "PREEMPTED")


def _state_of(job: str) -> str:
    """Return the state of a job as squeue has it; "" for one that is over.

    Raises:
        OSError: Slurm does not answer.
    """
    try:
        asked = subprocess.run(
            ["squeue", "--noheader", f"--jobs={job}", "--format=%T"],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
    except subprocess.SubprocessError as error:
        raise OSError(str(error)) from None
    if asked.returncode and "Invalid job id" not in asked.stderr:
        raise OSError(asked.stderr)
    return asked.stdout.strip()


def _job_file(run: Path) -> Path:
    """Return the file that names the job of a run."""
    return run / "slurm" / "job"


def _sentence(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


LAUNCHER = Slurm()
