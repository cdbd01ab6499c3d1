"""Runs as jobs of a Slurm cluster, through submitit.

The job supervises the run on its node, where the worker trains; what it writes is in the run's
folder, which the nodes share with the machine that submits. Before the job's time ends, or when the
cluster takes its node back, the run is saved and paused with its process ended, and the job returns
to the queue; when Slurm starts it again, the run goes on from there.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import platform
import secrets
import shlex
import shutil
import signal
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from nbft import events
from nbft.access import own_process
from nbft.config import Config
from nbft.config.code import forbidden
from nbft.errors import RunError
from nbft.launchers.interpreter import python_for, remember
from nbft.launchers.launcher import Launcher
from nbft.launchers.nodes import Nodes
from nbft.launchers.signals import HEARD
from nbft.launchers.spare import log_to
from nbft.launchers.supervisor import leave_queue, report_failure, supervise, worker_command
from nbft.plan.cluster import TIME_MINUTES, cluster_problems, nodes_asked
from nbft.reading import read_bytes
from nbft.runs.checkpoints import last_whole
from nbft.runs.files import read_plan
from nbft.runs.requests import GOES_ON, release_because
from nbft.runs.state import read_state

if TYPE_CHECKING:
    from nbft.runs.folder import Run

_ASK_SECONDS = 30.0
"""How often Slurm is asked for this user's jobs, at most."""

_LATE_SECONDS = 60.0
"""How long after the end of a job its last event may arrive over a shared disk."""

_SHORT_SECONDS = 5.0
"""How long whoever looks at a list of runs may wait for Slurm."""

_MOST_BYTES = 10_000

_DECIDED = ("device", "dtype", "mixed_precision", "parts", "devices")
"""What a plan decides for the machine that it was made on; the node decides for itself."""


class Slurm(Launcher):
    """A job of a Slurm cluster."""

    title = "a Slurm job"

    def check(self, config: Config) -> None:
        """Check whether this machine can submit a job.

        Raises:
            RunError: submitit is missing, this is no machine of a cluster, or an option is unknown.
        """
        _executor(config, Path("slurm"), "nbft")

    def start(self, run: Run, python: str | None = None) -> None:
        """Submit the job of a run; an earlier one of it that still waits is removed.

        Args:
            run: The run.
            python: The Python of the job, at the same path on its node, as in `Launcher.start`.

        Raises:
            RunError: As `check`; or the run is somebody else's and runs commands that nobody has
                allowed, or Slurm refuses the job.
        """
        config, folder = run.config, run.path / "slurm"
        if blocked := [code for code in forbidden(config) if code.setting == "compute.slurm"]:
            raise RunError([str(code.problem) for code in blocked])
        chosen, remark = python_for(python)
        executor = _executor(config, folder, run.id, chosen)
        remember()
        if remark:
            events.append(run.events_path, "warning", text=remark)
        self.withdraw(run)
        job = Job(str(run.path), secrets.token_hex(8))
        job.say_waiting("Waiting in the queue of Slurm.", _end_of_commands(run.path))
        try:
            for name in ("gone", "job.json"):
                (folder / name).unlink(missing_ok=True)
            plan = {name: v for name, v in read_plan(run.path).items() if name not in _DECIDED}
            (run.path / "plan.json").write_text(json.dumps(plan, indent=2), encoding="utf-8")
            from submitit.helpers import clean_env

            with clean_env():  # this may be a job itself
                submitted = executor.submit(job)
            about = {"job": submitted.job_id, "host": platform.node()}
            (folder / "job.json").write_text(json.dumps(about), encoding="utf-8")
        except BaseException as error:
            why = RunError(_sentence(error))
            report_failure(run.events_path, why)
            if isinstance(error, Exception):
                raise why from None
            raise

    def look(self, run: Run) -> None:
        """Report the end of a job that waited and could not report it itself.

        Only where it was submitted: another machine may belong to another cluster.
        """
        number, host = _job_of(run)
        jobs = _jobs_at(int(time.monotonic() / _ASK_SECONDS)) if host == platform.node() else None
        if jobs is None:
            return
        folder, gone = run.path / "slurm", run.path / "slurm" / "gone"
        with contextlib.suppress(OSError):
            if number in jobs:
                gone.unlink(missing_ok=True)
            elif not gone.exists():
                gone.touch()
            elif time.time() - gone.stat().st_mtime >= _LATE_SECONDS:
                said = f"Its Slurm job {number} is over and did not report how it ended."
                report_failure(run.events_path, RunError(f"{said} Its log is in {folder}."))

    def withdraw(self, run: Run) -> None:
        """Take the job of a run out of the queue of Slurm; one that was made elsewhere stays."""
        number, _ = _job_of(run)
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            job = _jobs().get(number)
            if job is not None and Path(job.script).parent == run.path / "slurm":
                _ask("scancel", number)


class Job:
    """What a job does, each time that Slurm starts it; submitit calls it on the node.

    Args:
        run: The run's folder.
        key: Names this job; a run that was submitted again belongs to another one.
    """

    def __init__(self, run: str, key: str) -> None:
        self._run, self._key = run, key

    def say_waiting(self, text: str, begin: int) -> None:
        """Record that the run waits for Slurm.

        Args:
            text: What it waits for.
            begin: Where the commands to this attempt begin in their file, in bytes.
        """
        run = Path(self._run)
        path = run / "events.jsonl"
        events.keep_reserve(run)
        about = {"device": "slurm", "commands_bytes": begin}
        events.append(path, "queued", cluster="slurm", job=self._key, **about)
        events.append(path, "stage", stage="queued", text=text)

    def __call__(self) -> None:
        """Supervise the run to its end, or to that of the job, which then returns to the queue.

        On other nodes than the first, train with it until then.
        """
        run, environment = Path(self._run), os.environ
        attempt = f"{environment.get('SLURM_JOB_ID')}.{environment.get('SLURM_RESTART_COUNT', 0)}"
        address = environment.get("SLURMD_NODENAME") or platform.node()
        nodes = Nodes(int(environment.get("SLURM_NNODES", "1")), attempt, address)
        if (number := int(environment.get("SLURM_PROCID", "0"))) > 0:
            for told in (*HEARD, signal.SIGUSR2):  # the first node decides what follows
                signal.signal(told, signal.SIG_IGN)
            own_process(run)
            from nbft.launchers.ranks import follow  # it loads what trains

            follow(run, number, nodes)
            return
        environment.update(nodes.variables())
        try:
            self._supervise(run, nodes)
        finally:
            nodes.say_over(run)

    def _supervise(self, run: Path, nodes: Nodes) -> None:
        path = run / "events.jsonl"
        submitted = self._submitted()
        if submitted is None:
            return
        own_process(run)
        commands = events.EventReader(run / "commands.jsonl", submitted["commands_bytes"])
        if (wish := _wish(commands)) is not None:
            if wish["event"] != "pause":
                leave_queue(path, wish)
            elif not read_state(path).is_released:  # its node died while it was paused
                events.append(path, "paused", released=True)
            return
        log_to(run)
        before = last_whole(run)
        os.environ[GOES_ON] = "slurm"
        is_time_up = _pause_at_signal(run)
        supervise(run, worker_command(run), job_begin=commands.offset_bytes)
        nodes.say_over(run)  # before the job returns to the queue, which waits for its processes
        if not read_state(path).is_released:
            return
        number = os.environ.get("SLURM_JOB_ID", "")
        is_to_return = is_time_up.is_set() or _state_of(number) in ("RUNNING", "PREEMPTED")
        if (wish := _wish(commands)) is not None:
            if wish["event"] != "pause" and self._submitted():
                leave_queue(path, wish)
        elif is_time_up.is_set() and last_whole(run) == before:
            told = "It saved nothing new within the time of its Slurm job, so it would never end."
            report_failure(path, RunError(f"{told} Give compute.slurm.time more minutes."))
        elif is_to_return and self._submitted():  # otherwise somebody cancelled: it stays paused
            self.say_waiting(
                "Waiting in the queue of Slurm to go on from its checkpoint.", commands.offset_bytes
            )
            try:
                _ask("scontrol", "requeue", number)
            except (OSError, subprocess.SubprocessError) as error:
                if _state_of(number) in ("RUNNING", ""):  # else it ended scontrol with this process
                    text = f"Its Slurm job could not return to the queue: {_sentence(error)}."
                    events.append(path, "paused", released=True, text=text)

    def _submitted(self) -> events.Event | None:
        """Return the event of this job's submission; None if the run is over or another job's."""
        path = Path(self._run) / "events.jsonl"
        submitted = [e for e in events.read(path) if e.get("cluster")][-1:]
        is_ours = bool(submitted) and submitted[0].get("job") == self._key
        return submitted[0] if is_ours and read_state(path).end is None else None


def _executor(config: Config, folder: Path, name: str, python: str | None = None) -> Any:
    """Return submitit's executor with the options of a config.

    Raises:
        RunError: As `Slurm.check`.
    """
    try:
        from submitit import SlurmExecutor
    except ImportError:
        raise RunError(
            "compute.launcher=slurm: needs submitit. Install it with: pip install submitit"
        ) from None
    if not (shutil.which("sbatch") and shutil.which("srun")):
        raise RunError(
            "compute.launcher=slurm: sbatch and srun were not found. Submit on a machine of the "
            "cluster, or use compute.launcher=process."
        )
    given = config.compute.slurm
    if problems := [*cluster_problems(config)]:
        raise RunError([str(problem) for problem in problems])
    cpus = given.get("cpus_per_task")
    srun = [*([f"--cpus-per-task={cpus}"] if cpus else []), *(given.get("srun_args") or [])]
    more = {"requeue": True, **(given.get("additional_parameters") or {})}
    usual = {"job_name": name, "time": TIME_MINUTES, "stderr_to_stdout": True}
    if nodes_asked(config) > 1:
        usual["ntasks_per_node"] = 1
    executor = SlurmExecutor(folder, python=shlex.quote(python) if python else None)
    try:
        executor.update_parameters(
            **{**usual, **given, "srun_args": srun, "additional_parameters": more}
        )
    except (TypeError, ValueError) as error:
        raise RunError(f"compute.slurm={given}: {_sentence(error)}") from None
    return executor


def _wish(commands: events.EventReader) -> events.Event | None:
    """Return the command of a person for a run to wait or to end; None if it is to go on."""
    wish: events.Event | None = None
    for command in commands.read():
        if command["event"] == "continue":
            wish = None
        elif command["event"] in ("pause", "stop", "cancel") and not command.get("why"):
            wish = command
    return wish


def _pause_at_signal(run: Path) -> threading.Event:
    """Pause a run once Slurm says that the job's time ends; return what is set then.

    It may say so to every process of the job. Those that are started from here do not hear it, and
    of this process any thread may get the signal: libraries have started some that do not block it.
    """
    is_time_up = threading.Event()

    def act(*_: object) -> None:
        if not is_time_up.is_set():
            is_time_up.set()
            request = release_because("the time of its Slurm job ends")
            try:
                events.append(run / "commands.jsonl", request.pop("event"), **request)
            except OSError:  # on a full disk the worker is told by a signal
                signal.raise_signal(signal.SIGTERM)

    def wait() -> None:
        signal.sigwait([signal.SIGUSR2])
        act()

    signal.signal(signal.SIGUSR2, act)
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGUSR2])
    threading.Thread(target=wait, name="time limit", daemon=True).start()
    return is_time_up


def _end_of_commands(run: Path) -> int:
    commands = run / "commands.jsonl"
    return commands.stat().st_size if commands.exists() else 0


def _job_of(run: Run) -> tuple[str, str]:
    """Return the number of a run's job and the machine that submitted it; ("", "") without one."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        about = json.loads(read_bytes(run.path / "slurm" / "job.json", _MOST_BYTES))
        return str(about["job"]), str(about["host"])
    return "", ""


class _Known(NamedTuple):
    """What Slurm knows of a job that is not over.

    Attributes:
        state: Such as RUNNING.
        script: The path of its script.
    """

    state: str
    script: str


@functools.lru_cache(1)
def _jobs_at(_when: int) -> dict[str, _Known] | None:
    """Return what `_jobs` says at a time; None if it says nothing."""
    try:
        return _jobs(_SHORT_SECONDS)
    except (OSError, subprocess.SubprocessError):
        return None


def _jobs(timeout_seconds: float = 60.0) -> dict[str, _Known]:
    """Return this user's jobs that are not over, by their numbers.

    Raises:
        OSError: There is no Slurm here.
        SubprocessError: It does not answer.
    """
    asked = ("squeue", "--me", "--noheader", "--format=%i|%T|%o")
    lines = [
        line.split("|", 2) for line in _ask(*asked, timeout_seconds=timeout_seconds).split("\n")
    ]
    return {line[0].strip(): _Known(*line[1:]) for line in lines if len(line) == 3}


def _state_of(number: str) -> str:
    """Return the state of a job; "" if it is over or unknown."""
    with contextlib.suppress(OSError, subprocess.SubprocessError):
        job = _jobs().get(number)
        return job.state if job else ""
    return ""


def _ask(*command: str, timeout_seconds: float = 60.0) -> str:
    """Return what a command of Slurm prints.

    Raises:
        OSError: There is no Slurm here.
        SubprocessError: It refuses, or does not answer.
    """
    asked = subprocess.run(
        command, capture_output=True, text=True, timeout=timeout_seconds, check=False
    )
    if asked.returncode:
        why = asked.stderr.strip() or f"{command[0]} ended with exit code {asked.returncode}"
        raise subprocess.SubprocessError(why)
    return asked.stdout


def _sentence(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


LAUNCHER = Slurm()
