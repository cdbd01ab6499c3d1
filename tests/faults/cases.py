"""One fault: a background run, a kill -9 at a moment, and what must be true afterwards.

A small process in the place of a kernel submits the run and follows it; where the Jupyter server
is to be killed, a real one starts a real kernel for that. Each case has its own folder, runs and
queue, so that several can go on at a time. Called by `python -m tests.faults` and by
`tests/e2e/test_faults.py`.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import psutil

import nbft
from nbft import events
from nbft.data.samples import sample_path
from nbft.data.tiny_model import make_tiny_model
from nbft.models.load import quiet
from nbft.runs.checkpoints import last_whole, step_of

Target = Literal["worker", "supervisor", "kernel", "server"]
TARGETS: tuple[Target, ...] = ("worker", "supervisor", "kernel", "server")
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
        target: What was killed.
        moment: When.
        step: The step that the run had logged by then.
        wrong: What was not as it must be; empty for a run that survived.
    """

    target: Target
    moment: Moment
    step: int = 0
    wrong: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        text = f"killed the {self.target} {self.moment.words} (step {self.step}): "
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


def make_reference(folder: Path) -> Reference:
    """Make the tiny model and a config, and train it once without a fault."""
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
    began = time.monotonic()
    with _Bench(folder / "uninterrupted", path) as bench:
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


def survive(folder: Path, reference: Reference, target: Target, moment: Moment) -> Outcome:
    """Run one case and say what was wrong."""
    outcome = Outcome(target, moment)
    with _Bench(folder, reference.config) as bench:
        try:
            _survive(bench, reference, outcome)
        except Exception as error:  # a fault in one case must not hide the others
            outcome.wrong.append(f"{type(error).__name__}: {error}")
    return outcome


def _survive(bench: _Bench, reference: Reference, outcome: Outcome) -> None:
    target, moment = outcome.target, outcome.moment
    bench.submit(target)
    run = bench.run
    watcher = events.EventReader(run.events_path)
    seen: list[events.Event] = []

    def watch() -> list[events.Event]:
        seen.extend(watcher.read())
        return seen

    bench.wait_for(moment, watch)
    was_over = run.is_over
    bench.kill(target)
    outcome.step = max((e["step"] for e in watch() if e["event"] == "log"), default=0)
    end = time.monotonic() + TRUE_WITHIN_SECONDS
    while not (is_true := bench.tells_the_truth()) and time.monotonic() < end:
        time.sleep(0.05)
    if not is_true:
        outcome.wrong.append(f"the status is {run.status}, {bench.truth()}")
    if target in ("kernel", "server") and not was_over and run.status in ("failed", "lost"):
        outcome.wrong.append(f"the run did not outlive its {target}: {run.status}, {run.problems}")
    bench.until(lambda: run.is_over and not bench.processes(), "the end after the kill")
    if run.status != "completed":
        checkpoint = last_whole(run.path)
        if checkpoint is None and run.step:
            # Nothing to go on from, and `resume` says so: the run is started anew.
            bench.submit("kernel")
            run = bench.run
        else:
            bench.python(_RESUME, str(run.path))
        bench.until(lambda: run.is_over, "the end after resuming")
        resumed = [e for e in run.events() if e["event"] == "prepared"][-1].get("resumed_step")
        if resumed != (step_of(checkpoint) if checkpoint else None):
            outcome.wrong.append(f"resumed from {resumed}, not from {checkpoint}")
    if run.status != "completed":
        outcome.wrong.append(f"in the end it is {run.status}: {run.problems}")
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

    def __init__(self, folder: Path, config: Path) -> None:
        folder.mkdir(parents=True)
        self._folder = folder
        self._config = folder / "config.yaml"
        text = nbft.Config.load(config).apply({"training.output_dir": str(folder / "runs")})
        text.save(self._config)
        self._environment = os.environ | {
            "NBFT_QUEUE": str(folder / "queue"),
            "OMP_NUM_THREADS": "1",
            "JUPYTER_CONFIG_DIR": str(folder / "jupyter"),
            "JUPYTER_DATA_DIR": str(folder / "jupyter"),
            "JUPYTER_RUNTIME_DIR": str(folder / "runtime"),
            "IPYTHONDIR": str(folder / "ipython"),
        }
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

    def submit(self, target: Target) -> None:
        """Submit the run from a process that then follows it."""
        before = set((self._folder / "runs").glob("*/events.jsonl"))
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
            if moment.at == "writing":
                name = f"checkpoint-{SAVE_STEPS * moment.count}"
                reached = (self.run.path / "checkpoints" / name).exists()
            else:
                kinds = [e["event"] for e in watch()]
                reached = kinds.count(moment.at) >= moment.count
            said = watch()
            if reached or (said and said[-1]["event"] in events.FINAL_KINDS):
                time.sleep(moment.seconds)
                return
            if time.monotonic() - self._submitted_at > SECONDS:
                raise TimeoutError(f"{moment.words} never came")
            time.sleep(0.002)

    def kill(self, target: Target) -> None:
        """Kill -9; a process that has ended already, or not begun, is left alone."""
        if target in ("kernel", "server"):
            victims: list[Any] = [self._started[-1]]
        else:
            part = "nbft.launchers.worker" if target == "worker" else "nbft.launchers.supervisor"
            victims = [p for p in self.processes() if part in _command(p)]
        for victim in victims:
            with contextlib.suppress(ProcessLookupError, psutil.Error):
                os.kill(victim.pid, signal.SIGKILL)

    def processes(self) -> list[psutil.Process]:
        """Return the supervisor and the worker of this case, as the system knows them."""
        return list(_of_folder(self._folder / "runs"))

    def truth(self) -> str:
        """Say what lives, independently of what nbft says."""
        living = [_module(p) for p in self.processes()]
        return f"but these live: {', '.join(living) or 'none'}"

    def tells_the_truth(self) -> bool:
        """Whether the status fits what lives."""
        living = " ".join(_module(p) for p in self.processes())
        status = self.run.status
        if "worker" in living:
            # Until it has said that it started, the supervisor speaks for it.
            speaks = ("queued", "running") if "supervisor" in living else ("running",)
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


def _module(process: psutil.Process) -> str:
    """Return the module that a process runs, or "" if it has ended meanwhile."""
    return "".join(_command(process)[2:3])


def _of_folder(folder: Path) -> Iterator[psutil.Process]:
    for process in psutil.process_iter():
        command = _command(process)
        is_nbft = len(command) > 3 and command[2] in (
            "nbft.launchers.worker",
            "nbft.launchers.supervisor",
        )
        if is_nbft and Path(command[3]).is_relative_to(folder):
            with contextlib.suppress(psutil.Error):
                if process.status() != psutil.STATUS_ZOMBIE:
                    yield process
