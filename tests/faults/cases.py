"""One fault: a background run, what is done to it at a moment, and what must be true afterwards.

A small process in the place of a kernel submits the run and follows it; where the Jupyter server
is to be killed, a real one starts a real kernel for that. Each case has its own folder, runs and
queue, so that several can go on at a time. A process that is killed must have lived before and be
gone afterwards, or the case counts as failed. Called by `python -m tests.faults` and by
`tests/e2e/test_faults.py`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import json
import math
import os
import random
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import psutil

import nbft
from nbft import events
from nbft.data.samples import sample_path
from nbft.data.tiny_model import make_tiny_model
from nbft.models.load import quiet
from nbft.processes import process_start_time
from nbft.runs.checkpoints import last_whole, step_of

Target = Literal["worker", "supervisor", "kernel", "server", "process 1", "process 2"]
_OF_ANY_RUN: tuple[Target, ...] = ("worker", "supervisor", "kernel", "server")
_OF_SEVERAL: tuple[Target, ...] = ("process 1", "process 2")
TARGETS = (*_OF_ANY_RUN, *_OF_SEVERAL)
KINDS = (
    *_OF_ANY_RUN,
    "slow disk",
    *_OF_ANY_RUN,
    "SIGTERM to the worker",
    "SIGTERM to the supervisor",
    "full disk: events",
    "full disk: checkpoint",
    "full disk: final model",
    "full disk: report",
    "full disk: commands",
    "clock forward",
    "clock back",
    "renamed folder",
    "removed ticket",
    "two resumes",
)
"""One after another; a target is killed with SIGKILL."""
KINDS_OF_SEVERAL = (
    *_OF_SEVERAL,
    "worker",
    "supervisor",
    *_OF_SEVERAL,
    "SIGTERM to the worker",
    "slow disk",
    *_OF_SEVERAL,
    "SIGTERM to the supervisor",
    "two resumes",
    "kernel",
)
"""The same for runs that several processes train."""
ENDING = (
    *_OF_SEVERAL,
    *("worker", "supervisor", "slow disk", "renamed folder", "two resumes"),
    *("SIGTERM to the worker", "SIGTERM to the supervisor"),
)
"""Those that may end a run, which is then resumed."""
DISK_BYTES = 512 * 2**20
STEPS = 40
SAVE_STEPS = 5
TRUE_WITHIN_SECONDS = 5.0
SECONDS = 300.0
"""For a run of the tiny model to come to its end; on a quiet machine it takes 10."""

_SUBMIT = """
import sys, time, nbft
run = nbft.submit(sys.argv[1])
print(run.path, flush=True)
for event in run.follow():
    pass
"""
_LIMITS = """
import os, time
if "NBFT_FAULTS_SLOW" in os.environ:
    fsync = os.fsync
    os.fsync = lambda file: (time.sleep(0.1), fsync(file))
if offset := os.environ.get("NBFT_FAULTS_CLOCK"):
    clock = time.time
    def moved():
        try:
            with open(offset) as file:
                return clock() + float(file.read())
        except (OSError, ValueError):
            return clock()
    time.time = moved
"""
"""Put before every Python of a case: a disk that is slow, and a clock that can be moved."""
_RESUME = "import sys, nbft; nbft.attach(sys.argv[1]).resume()"


@dataclass(frozen=True)
class Moment:
    """When to kill.

    Attributes:
        words: For people.
        at: What to wait for: an event of this kind, "writing" a checkpoint, or "seconds".
        count: Which one of its kind, from 1.
        seconds: Waited after it, or after the submission.
    """

    words: str
    at: str
    count: int = 1
    seconds: float = 0.0


@dataclass
class Outcome:
    """How a case ended.

    Attributes:
        kind: What was done.
        moment: When.
        step: The step that the run had logged by then.
        wrong: What was not as it must be; empty for a run that survived.
    """

    kind: str
    moment: Moment
    step: int = 0
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        what = f"killed the {self.kind}" if self.kind in TARGETS else self.kind
        text = f"{what} {self.moment.words} (step {self.step}): "
        return text + ("; ".join(self.wrong) or "survived")


@dataclass(frozen=True)
class Reference:
    """The same run without a fault.

    Attributes:
        config: Its config file, in a folder that the cases share.
        losses: Loss of each step.
        seconds: From the submission to the end.
    """

    config: Path
    losses: dict[int, float]
    seconds: float


def make_reference(folder: Path, overrides: Sequence[str] = ()) -> Reference:
    """Make the tiny model and a config, and train it once without a fault.

    Args:
        folder: Where to put them.
        overrides: Other settings, as on the command line.
    """
    with quiet():
        model = make_tiny_model(folder / "model")
    lines = sample_path("grammar", "train").read_text(encoding="utf-8").splitlines()[:40]
    rows = folder / "rows.jsonl"
    rows.write_text("\n".join(lines), encoding="utf-8")
    config = nbft.Config(
        model={"model_name": str(model), "dtype": "float32"},
        data={
            "path": str(rows),
            "prompt_template": "Correct: {input}\n",
            "completion_template": "{target}",
            "max_length": 128,
        },
        training={
            "max_steps": STEPS,
            "gradient_accumulation_steps": 1,
            "learning_rate": 2e-3,
        },
        checkpoint={"save_steps": SAVE_STEPS},
        evaluation={"sample_count": 1, "sample_max_new_tokens": 4},
    ).apply({"evaluation.eval_steps": 10, "evaluation.eval_strategy": "steps"})
    path = folder / "config.yaml"
    config.save(path)
    nbft.Config.load(path, overrides).save(path)
    began = time.monotonic()
    with _Bench(folder / "uninterrupted", path, "kernel") as bench:
        bench.submit("kernel")
        bench.until(lambda: bench.run.is_over, "the end of the uninterrupted run")
        if bench.run.status != "completed":
            raise RuntimeError(f"The uninterrupted run {bench.run.status}: {bench.run.problems}")
        return Reference(path, _losses(bench.run), time.monotonic() - began)


def random_moment(chance: random.Random, number: int, seconds: float) -> Moment:
    """Choose a moment: every third anywhere, the others where something is being written.

    Args:
        chance: Source of chance.
        number: Number of the case.
        seconds: Length of a run without a fault.
    """
    delay = chance.uniform(0, 0.05)
    if number % 3 == 0:
        after = chance.uniform(0, seconds)
        return Moment(f"{after:.1f} s after the submission", "seconds", seconds=after)
    kind, count = chance.choice(
        [
            ("stage", chance.randint(1, 4)),
            ("log", chance.randint(1, STEPS)),
            ("eval", chance.randint(1, 4)),
            ("checkpoint", chance.randint(1, STEPS // SAVE_STEPS - 1)),
            ("writing", chance.randint(1, STEPS // SAVE_STEPS - 1)),
        ]
    )
    what = "into writing checkpoint" if kind == "writing" else f"after the event {kind}"
    return Moment(f"{delay * 1000:.0f} ms {what} {count}", kind, count, delay)


def moment_of(kind: str, chance: random.Random, number: int, seconds: float) -> Moment:
    """Choose the moment of a kind of fault; see `random_moment`."""
    middle = chance.randint(1, STEPS // SAVE_STEPS - 2)
    if kind in ("slow disk", "full disk: checkpoint"):
        return Moment(f"while checkpoint {middle} is written", "writing", middle, 0.2)
    if kind == "full disk: final model":
        return Moment("when the result is about to be saved", "log", STEPS)
    if kind == "full disk: report":
        return Moment("when the result was saved", "saved")
    if kind in TARGETS:
        return random_moment(chance, number, seconds)
    return Moment(f"after step {SAVE_STEPS * middle + 1}", "log", SAVE_STEPS * middle + 1)


def survive(folder: Path, reference: Reference, kind: str, moment: Moment) -> Outcome:
    """Run one case and say what was wrong; where the run was over too soon, try an earlier moment."""
    for attempt in range(4):
        outcome = Outcome(kind, moment)
        with _Bench(folder / str(attempt), reference.config, kind) as bench:
            try:
                _survive(bench, reference, outcome)
                return outcome
            except _TooLateError:
                outcome.wrong.append("the run was over by then")
                moment = dataclasses.replace(moment, seconds=moment.seconds / 2)
            except Exception as error:  # a fault in one case must not hide the others
                outcome.wrong.append(f"{type(error).__name__}: {error}")
                return outcome
    return outcome


class _TooLateError(Exception):
    """The run had ended, so there was nothing to do it to."""


def _survive(bench: _Bench, reference: Reference, outcome: Outcome) -> None:
    kind, moment = outcome.kind, outcome.moment
    bench.submit(kind)
    run = bench.run
    watcher = events.EventReader(run.events_path)
    seen: list[events.Event] = []

    def watch() -> list[events.Event]:
        seen.extend(watcher.read())
        return seen

    bench.wait_for(moment, watch)
    outcome.wrong += bench.do(kind)
    run = bench.run
    outcome.step = max((e["step"] for e in run.events() if e["event"] == "log"), default=0)
    end = time.monotonic() + TRUE_WITHIN_SECONDS
    while not (is_true := bench.tells_the_truth()) and time.monotonic() < end:
        time.sleep(0.05)
    if not is_true:
        outcome.wrong.append(f"the status is {run.status}, {bench.truth()}")
    bench.until(lambda: run.is_over and not bench.processes(), "the end after the fault")
    if kind not in ENDING and run.status != "completed":
        outcome.wrong.append(f"the run did not outlive it: {run.status}, {run.problems}")
    if kind.startswith("SIGTERM"):
        checkpoint = last_whole(run.path)
        if run.status != "stopped" or checkpoint is None or step_of(checkpoint) != run.step:
            outcome.wrong.append(f"{run.status} at step {run.step} with {checkpoint}")
    if run.status != "completed":
        checkpoint = last_whole(run.path)
        if checkpoint is None and run.step:
            # Nothing to go on from, and `resume` says so: the run is started anew.
            bench.submit("kernel")
            run = bench.run
        elif kind == "two resumes":
            outcome.wrong += bench.resume_twice()
        else:
            bench.python(_RESUME, str(run.path))
        bench.until(lambda: run.is_over, "the end after resuming")
        resumed = [e for e in run.events() if e["event"] == "prepared"][-1].get("resumed_step")
        if resumed != (step_of(checkpoint) if checkpoint else None):
            outcome.wrong.append(f"resumed from {resumed}, not from {checkpoint}")
    if run.status != "completed" or run.problems:
        outcome.wrong.append(f"in the end it is {run.status}: {run.problems}")
    if run.adapter is None or [*run.path.glob("*.previous")]:
        outcome.wrong.append("the adapter is not whole")
    outcome.wrong += _lines_wrong(run, watch() if run.path == watcher.path.parent else None)
    outcome.wrong += _losses_wrong(_losses(run), reference.losses)


def _lines_wrong(run: nbft.Run, watched: list[events.Event] | None) -> list[str]:
    """Compare what readers get with every line that is whole."""
    wrong = []
    whole = 0
    torn = 0
    for line in run.events_path.read_bytes().split(b"\n"):
        with contextlib.suppress(ValueError):
            whole += isinstance(json.loads(line), dict)
            continue
        torn += bool(line.strip())
    if torn > 1:
        wrong.append(f"{torn} lines are torn by one kill")
    if len(run.events()) != whole:
        wrong.append(f"a reader gets {len(run.events())} of {whole} events")
    if watched is not None and len(watched) != whole:
        wrong.append(f"a reader that was there all along got {len(watched)} of {whole} events")
    return wrong


def _losses_wrong(found: dict[int, float], expected: dict[int, float]) -> list[str]:
    if found.keys() != expected.keys():
        return [f"losses of {len(found)} steps, not of {len(expected)}"]
    off = {
        step: loss
        for step, loss in found.items()
        if not math.isclose(loss, expected[step], rel_tol=1e-6, abs_tol=1e-9)
    }
    return [f"the losses differ at steps {sorted(off)}"] if off else []


def _losses(run: nbft.Run) -> dict[int, float]:
    current = events.current(run.events())
    return {e["step"]: e["loss"] for e in current if e["event"] == "log" and "loss" in e}


class _Bench:
    """The processes of one case, in a folder of its own; what is left is killed in the end."""

    def __init__(self, folder: Path, config: Path, kind: str) -> None:
        folder.mkdir(parents=True)
        self._disk = kind.startswith("full disk") and _mount(folder)
        self._folder = folder
        self._config = folder / "config.yaml"
        self._name = f"case-{secrets.token_hex(4)}"
        self._attempts = 0
        self._settings = nbft.Config.load(config)
        self._environment = os.environ | {
            "NBFT_QUEUE": str(folder / "queue"),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(
                [str(folder / "python"), os.environ.get("PYTHONPATH", "")]
            ),
            "NBFT_FAULTS_CLOCK": str(folder / "clock"),
            "JUPYTER_CONFIG_DIR": str(folder / "jupyter"),
            "JUPYTER_DATA_DIR": str(folder / "jupyter"),
            "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
            "IPYTHONDIR": str(folder / "ipython"),
        }
        if kind == "slow disk":
            self._environment["NBFT_FAULTS_SLOW"] = "1"
        (folder / "python").mkdir()
        (folder / "python" / "sitecustomize.py").write_text(_LIMITS, encoding="utf-8")
        self._started: list[subprocess.Popen[Any]] = []
        self._submitted_at = 0.0
        self.run: nbft.Run

    def __enter__(self) -> _Bench:
        return self

    def __exit__(self, *_: object) -> None:
        left: list[Any] = [*self.processes(), *self._started]
        for process in left:
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                process.kill()
        for process in self._started:
            process.wait()
        if self._disk:
            subprocess.run(["umount", "--lazy", str(self._folder)], check=True)

    def submit(self, target: str) -> None:
        """Submit the run from a process that then follows it."""
        before = set((self._folder / "runs").glob("*/events.jsonl"))
        self._attempts += 1
        self._settings.apply(
            {
                "training.output_dir": str(self._folder / "runs"),
                "training.run_name": f"{self._name}-{self._attempts}",
            }
        ).save(self._config)
        self._submitted_at = time.monotonic()
        if target == "server":
            self._submit_from_a_server()
        else:
            self._start([sys.executable, "-c", _SUBMIT, str(self._config)])

        def new() -> set[Path]:
            return set((self._folder / "runs").glob("*/events.jsonl")) - before

        self.until(new, "the submission")
        self.run = nbft.attach(new().pop().parent)

    def _submit_from_a_server(self) -> None:
        from jupyter_client.blocking.client import BlockingKernelClient

        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        token = secrets.token_hex(16)
        self._start(
            [
                *(sys.executable, "-m", "jupyter_server", "--ServerApp.ip=127.0.0.1"),
                *(f"--ServerApp.port={port}", "--ServerApp.port_retries=0"),
                *(f"--ServerApp.root_dir={self._folder}", "--ServerApp.allow_root=True"),
                *(f"--IdentityProvider.token={token}", "--ServerApp.open_browser=False"),
            ]
        )

        def ask(path: str, method: str) -> Any:
            request = urllib.request.Request(
                f"http://127.0.0.1:{port}{path}",
                method=method,
                headers={"Authorization": f"token {token}"},
            )
            with (
                contextlib.suppress(OSError),
                urllib.request.urlopen(request, timeout=30) as answer,
            ):
                return json.loads(answer.read())
            return None

        self.until(lambda: ask("/api/status", "GET"), "the Jupyter server")
        kernel = ask("/api/kernels", "POST")["id"]
        client = BlockingKernelClient(
            connection_file=str(self._folder / "runtime" / f"kernel-{kernel}.json")
        )
        client.load_connection_file()
        client.hb_channel.time_to_dead = 30.0  # a busy machine's kernel is late, and lives
        client.start_channels()
        client.wait_for_ready(timeout=60)
        argv = ["", str(self._config)]
        client.execute(f"import sys; sys.argv = {argv!r}\n{_SUBMIT}")
        client.stop_channels()

    def _start(self, command: list[str]) -> None:
        with (self._folder / "output.txt").open("ab") as output:
            process = subprocess.Popen(
                command,
                cwd=self._folder,
                env=self._environment,
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
            )
        self._started.append(process)

    def python(self, code: str, *arguments: str) -> None:
        """Run Python code to its end."""
        subprocess.run(
            [sys.executable, "-c", code, *arguments],
            env=self._environment,
            check=True,
            timeout=SECONDS,
            stdin=subprocess.DEVNULL,
        )

    def wait_for(self, moment: Moment, watch: Callable[[], list[events.Event]]) -> None:
        """Wait for a moment, or for the end of the run where it never comes."""
        if moment.at == "seconds":
            # From the submission on, which the folder of the run shows.
            time.sleep(moment.seconds)
            return
        while True:
            if moment.at == "saved":
                reached = (self.run.path / "adapter").exists()
            elif moment.at == "writing":
                name = f"checkpoint-{SAVE_STEPS * moment.count}"
                reached = (self.run.path / "checkpoints" / name).exists()
            else:
                kinds = [e["event"] for e in watch()]
                reached = kinds.count(moment.at) >= moment.count
            said = watch()
            if said and said[-1]["event"] in events.FINAL_KINDS:
                raise _TooLateError
            if reached:
                time.sleep(moment.seconds)
                return
            if time.monotonic() - self._submitted_at > SECONDS:
                raise TimeoutError(f"{moment.words} never came")
            time.sleep(0.002)

    def do(self, kind: str) -> list[str]:
        """Do what the kind of fault says, and return what was wrong with it."""
        if kind == "slow disk" or kind == "two resumes":
            return self._signal("worker", signal.SIGKILL)
        if kind in TARGETS:
            return self._signal(kind, signal.SIGKILL)
        if kind.startswith("SIGTERM"):
            return self._signal(kind.split()[-1], signal.SIGTERM)
        if kind.startswith("full disk"):
            return self._fill(kind)
        self._check_lives("worker")
        if kind.startswith("clock"):
            by = 10 * 365 * 86_400.0 if kind == "clock forward" else -10 * 365 * 86_400.0
            (self._folder / "clock").write_text(str(by), encoding="utf-8")
        elif kind == "removed ticket":
            tickets = [*(self._folder / "queue").rglob("*.json")]
            for ticket in tickets:
                ticket.unlink()
            if not tickets and self.run.step == STEPS:  # it had given its device back
                raise _TooLateError
            return [] if tickets else ["there was no ticket"]
        else:
            there = self.run.path.with_name(f"{self.run.id}-renamed")
            self.run.path.rename(there)
            self.run = nbft.attach(there)
        return []

    def _check_lives(self, target: str) -> list[psutil.Process]:
        """Return the living processes of a target, once there are any.

        Raises:
            _TooLateError: The run has ended.
        """
        if target in ("kernel", "server"):
            found = [psutil.Process(self._started[-1].pid)]
        else:
            self.until(lambda: self._of(target) or self.run.is_over, f"the {target}")
            found = self._of(target)
        if self.run.is_over or not found or not all(map(_lives, found)):
            raise _TooLateError
        return found

    def _signal(self, target: str, number: int) -> list[str]:
        victims = self._check_lives(target)
        wrong = []
        has_title = importlib.util.find_spec("setproctitle") is not None
        for victim in victims:
            shown = " ".join(_command(victim))
            begins = self.run.state.started == {} and "nbft: spare" in shown
            is_ours = target in ("worker", "supervisor")
            if has_title and is_ours and self.run.id not in shown and not begins:
                wrong.append(f"ps shows the {target} as {shown!r}")
            with contextlib.suppress(ProcessLookupError, psutil.Error):
                os.kill(victim.pid, number)
        end = time.monotonic() + (TRUE_WITHIN_SECONDS if number == signal.SIGKILL else SECONDS)
        while any(map(_lives, victims)) and time.monotonic() < end:
            time.sleep(0.02)
        if any(map(_lives, victims)):
            wrong.append(f"the {target} still lives")
        return wrong

    def _fill(self, kind: str) -> list[str]:
        """Fill the disk until the run pauses or ends, then make room again."""
        wrong = []
        self._check_lives("worker")
        others = self._folder / "others"
        with others.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(2**20))
        if shutil.disk_usage(self._folder).free > 2**20:
            wrong.append("the disk is not full")
        self.until(lambda: self.run.status == "paused" or self.run.is_over, "the pause")
        if kind.endswith("commands"):
            with contextlib.suppress(nbft.RunError):  # it says so, or the reserve is used
                self.run.save()
        elif self.run.is_over and self.run.status != "completed":
            wrong.append(f"the run is {self.run.status}: {self.run.problems}")
        time.sleep(0.5)
        others.unlink()
        return wrong

    def resume_twice(self) -> list[str]:
        """Resume from two processes at once; exactly one may do it."""
        begun = [
            subprocess.Popen(
                [sys.executable, "-c", _RESUME, str(self.run.path)],
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
            for _ in range(2)
        ]
        codes = sorted(process.wait(timeout=SECONDS) for process in begun)
        return [] if codes == [0, 1] else [f"the two resumes ended with {codes}"]

    def _of(self, target: str) -> list[psutil.Process]:
        return [process for process in self.processes() if self._part(process) == target]

    def processes(self) -> list[psutil.Process]:
        """Return the supervisor and the worker of this case, as the system knows them."""
        return [p for p in psutil.process_iter() if self._part(p) and _lives(p)]

    def _part(self, process: psutil.Process) -> str:
        """Return worker or supervisor for a process of this case; "" for others.

        By its title; without titles by its command, which a spare process lacks, or by the events.
        """
        shown = " ".join(_command(process))
        if f"nbft: training {self._name}" in shown and ", process " in shown:
            return shown.partition(", ")[2].partition(" of ")[0]
        if f"nbft.launchers.rank {self._folder / 'runs'}" in shown:
            return "a process that begins"
        for doing, part in (("training", "worker"), ("supervising", "supervisor")):
            if f"nbft: {doing} {self._name}" in shown:
                return part
            if f"nbft.launchers.{part} {self._folder / 'runs'}" in shown:
                return part
        recorded = self.run.events() if hasattr(self, "run") else []
        parts = {
            (e["pid"], round(e.get("process_start_time") or 0, 1)): (
                "supervisor" if e["event"] == "queued" else "worker"
            )
            for e in recorded
            if e.get("pid")
        }
        pids = {pid for pid, _ in parts}
        if process.pid not in pids:
            return ""
        return parts.get((process.pid, round(process_start_time(process.pid), 1)), "")

    def truth(self) -> str:
        """Say what lives, independently of what nbft says."""
        living = [self._part(p) for p in self.processes()]
        return f"but these live: {', '.join(living) or 'none'}"

    def tells_the_truth(self) -> bool:
        """Whether the status fits what lives."""
        living = " ".join(self._part(p) for p in self.processes())
        status = self.run.status
        if "worker" in living:
            # Until it has said that it started, the supervisor speaks for it.
            speaks = ("queued", "running", "paused") if "supervisor" in living else ("running",)
            return status in speaks or (self.run.is_over and status != "lost")
        if "supervisor" in living:
            return status in ("queued", "completed")
        return self.run.is_over

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait for a condition.

        Raises:
            TimeoutError: It does not come true.
        """
        end = time.monotonic() + SECONDS
        while not condition():
            if time.monotonic() > end:
                raise TimeoutError(f"not within {SECONDS:.0f} s: {what}")
            time.sleep(0.05)


def _command(process: psutil.Process) -> list[str]:
    with contextlib.suppress(psutil.Error):
        command: list[str] = process.cmdline()
        return command
    return []


def _lives(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    return False


def _mount(folder: Path) -> bool:
    """Mount a small disk on a folder."""
    command = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "nbft-faults", str(folder)]
    subprocess.run(command, check=True)
    return True
