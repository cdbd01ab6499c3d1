"""Interrupts and the signals of a system, real ones: to a script, a kernel, the command line, a run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from jupyter_client.manager import KernelManager

import nbft
from nbft.runs.checkpoints import last_whole, step_of

from .conftest import SECONDS, steps, until

AT_ONCE_SECONDS = 20.0
"""Half a minute less than the rest of a slow step, on a busy machine as well; Python takes seconds to leave."""

ENDLESS = {"training__max_steps": 100_000, "checkpoint__save_steps": 50_000}
COLUMNS = {"prompt_template": "Correct: {input}\n", "completion_template": "{target}"}


@pytest.fixture
def slow(rows) -> dict[str, object]:
    """A run whose first step takes minutes."""
    many = {"rows": rows * 1000, **COLUMNS}
    # Nothing is measured or answered before it, which takes longer on a busy machine.
    first = {"evaluation__eval_strategy": "no", "evaluation__sample_count": 0}
    steps = {"training__gradient_accumulation_steps": 60_000, "data__train": many}
    return {**ENDLESS, **first, **steps}


def kept(run: nbft.Run) -> str:
    """Return what the last event of a run that ended at once must say is saved.

    A fast machine may be through its rows, and so through the first step, before the second signal.
    """
    checkpoint = last_whole(run.path)
    if checkpoint is None:
        return "nothing is saved."
    return f"only up to the checkpoint of step {step_of(checkpoint):,} is saved."


def is_stepping(run: nbft.Run) -> bool:
    """Whether a slow run is in its first step, in which it says nothing.

    Transformers collates all rows of a step before it: about twice as long as tokenising them takes.
    """
    times = {e.get("stage", e["event"]): e["time"] for e in run.events()}
    if "prepared" not in times:
        return False
    return time.time() > times["prepared"] + 4 * (times["loading"] - times["tokenizing"])


@pytest.fixture
def saved_config(make_config, tmp_path: Path):
    """Return a function that writes a config file with its rows beside it."""

    def save(**changes) -> Path:
        config = make_config(**changes)
        (dataset,) = config.data.train.datasets
        rows = tmp_path / "rows.jsonl"
        rows.write_text("\n".join(json.dumps(row) for row in dataset.rows))
        dataset.rows, dataset.path = None, str(rows)
        return config.save(tmp_path / "config.yaml", full=True)

    return save


class Started:
    """A process that trains, and the run that it made."""

    def __init__(self, command: list[str], folder: Path) -> None:
        self._folder = folder
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        runs = folder / "runs"
        until(lambda: [*runs.glob("*/events.jsonl")] or self.process.poll() is not None, "the run")
        self.run = nbft.attach(next(runs.glob("*/events.jsonl")).parent)

    def send(self, number: int) -> None:
        os.killpg(self.process.pid, number)

    def output(self) -> str:
        out, _ = self.process.communicate(timeout=SECONDS)
        assert "terminate called" not in out
        assert "Traceback" not in out, out
        return out


@pytest.fixture
def started(tmp_path: Path) -> Iterator[Callable[..., Started]]:
    made = []

    def start(*command: str) -> Started:
        made.append(Started([sys.executable, *command], tmp_path))
        return made[-1]

    yield start
    for one in made:
        if one.process.poll() is None:
            os.killpg(one.process.pid, signal.SIGKILL)
            one.process.wait()


SCRIPT = """
import signal, sys, nbft
before = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
run = nbft.train(sys.argv[1])
assert before == [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]
print(run.status)
"""
ASYNC = """
import asyncio, sys, nbft
run = asyncio.run(nbft.train_async(sys.argv[1]))
print(run.status)
"""


def has_saved(run: nbft.Run) -> bool:
    """Whether a stopped run has lost no step."""
    assert run.status == "stopped", run.problems
    checkpoint = last_whole(run.path)
    return checkpoint is not None and step_of(checkpoint) == steps(run)


@pytest.mark.parametrize(
    ("code", "workers"), [(SCRIPT, 1), (ASYNC, 0)], ids=["train", "train_async"]
)
def test_an_interrupt_of_a_script_saves(saved_config, started, code, workers):
    config = saved_config(**ENDLESS, data__dataloader_num_workers=workers)
    script = started("-c", code, str(config))
    until(lambda: steps(script.run) >= 2, "a step")
    script.send(signal.SIGINT)
    assert script.output() == "stopped\n"
    assert script.process.returncode == 0
    assert has_saved(script.run)
    assert script.run.adapter is not None
    said = [e["text"] for e in script.run.events() if e["event"] == "command"]
    assert said[0].startswith("Stopping after this step, with a checkpoint.")


@pytest.mark.parametrize("code", [SCRIPT, ASYNC], ids=["train", "train_async"])
def test_a_second_interrupt_of_a_script_ends_it_at_once(saved_config, started, code, slow):
    script = started("-c", code, str(saved_config(**slow)))
    until(lambda: is_stepping(script.run), "the first step")
    script.send(signal.SIGINT)
    until(lambda: "command" in [e["event"] for e in script.run.events()], "the first answer")
    assert script.process.poll() is None
    began = time.monotonic()
    script.send(signal.SIGINT)
    # On a busy machine one operation may outlast the call; the end of the script then ends the run.
    assert script.output() in ("stopped\n", "running\n")
    assert time.monotonic() - began < AT_ONCE_SECONDS
    assert script.run.status == "stopped"
    last = script.run.events()[-1]
    assert last["text"] == f"Stopped at once because of a second interrupt; {kept(script.run)}"


@pytest.mark.parametrize("stage", [1, 3])
def test_an_interrupt_while_a_script_loads_trains_no_step(saved_config, started, stage):
    script = started("-c", SCRIPT, str(saved_config(**ENDLESS)))

    def stages() -> int:
        return [e["event"] for e in script.run.events()].count("stage")

    until(lambda: stages() >= stage, "the stage")
    script.send(signal.SIGINT)
    assert script.output() == "stopped\n"
    assert script.run.status == "stopped"
    assert script.run.events()[-1]["text"] == "Stopped before step 1."
    assert {"log", "checkpoint"}.isdisjoint(e["event"] for e in script.run.events())


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_the_system_ends_a_script_after_a_checkpoint(saved_config, started, name):
    script = started("-c", SCRIPT, str(saved_config(**ENDLESS)))
    until(lambda: steps(script.run) >= 2, "a step")
    script.send(getattr(signal, name))
    assert script.output() == ""  # it ended as it would have without nbft
    assert script.process.returncode == -getattr(signal, name)
    assert has_saved(script.run)
    text = script.run.events()[-1]["text"]
    assert text.startswith(f"Stopped because the system asked ({name}); the checkpoint was whole ")


STARTS = """
import sys, time
from nbft.launchers import start
run = start(sys.argv[1])
while not run.is_over and (run.step < 2 or sys.argv[2] == "stays"):
    time.sleep(0.1)
"""


@pytest.mark.parametrize("name", ["SIGTERM", "SIGHUP"])
def test_the_system_ends_a_script_that_trains_beside_its_own_work(saved_config, started, name):
    script = started("-c", STARTS, str(saved_config(**ENDLESS)), "stays")
    until(lambda: steps(script.run) >= 2, "a step")
    script.send(getattr(signal, name))
    assert script.output() == ""
    assert script.process.returncode == 128 + getattr(signal, name)
    assert has_saved(script.run)


def test_a_script_that_ends_while_its_run_trains_saves_it(saved_config, started):
    script = started("-c", STARTS, str(saved_config(**ENDLESS)), "ends")
    script.output()
    assert script.process.returncode == 0
    assert has_saved(script.run)
    assert "because its process is ending" in script.run.events()[-1]["text"]


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_the_command_line_stops_and_says_by_its_exit_code(saved_config, started, name, code):
    nbft_train = started("-m", "nbft.cli", "train", str(saved_config(**ENDLESS)))
    until(lambda: steps(nbft_train.run) >= 2, "a step")
    nbft_train.send(getattr(signal, name))
    out = nbft_train.output()
    assert nbft_train.process.returncode == code, out
    assert "Stopping after this step, with a checkpoint." in out
    assert has_saved(nbft_train.run)


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_a_second_signal_ends_the_command_line_at_once(saved_config, started, name, code, slow):
    nbft_train = started("-m", "nbft.cli", "train", str(saved_config(**slow)))
    until(lambda: is_stepping(nbft_train.run), "the first step")
    nbft_train.send(getattr(signal, name))
    until(lambda: "command" in [e["event"] for e in nbft_train.run.events()], "the first answer")
    began = time.monotonic()
    nbft_train.send(getattr(signal, name))
    out = nbft_train.output()
    assert time.monotonic() - began < AT_ONCE_SECONDS
    assert nbft_train.process.returncode == code
    assert nbft_train.run.status == "stopped"
    assert "Stopped at once" in out


def test_a_signal_that_is_ignored_stays_ignored(saved_config, started):
    config = saved_config(**{**ENDLESS, "training__max_steps": 40})
    code = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)"
    script = started("-c", f"{code}\n{SCRIPT}", str(config))
    until(lambda: steps(script.run) >= 2, "a step")
    script.send(signal.SIGHUP)  # as under nohup
    assert script.output() == "completed\n"


@pytest.fixture
def submitted(submitting, make_config) -> Callable[..., nbft.Run]:
    return lambda **changes: submitting(make_config(**changes))


def pids(run: nbft.Run) -> dict[str, int]:
    found = {e["event"]: e["pid"] for e in run.events() if e.get("pid")}
    return {"supervisor": found["queued"], "worker": found["started"]}


@pytest.mark.parametrize(
    ("name", "parts"),
    [("SIGTERM", "worker"), ("SIGHUP", "supervisor"), ("SIGINT", "worker supervisor")],
)
def test_the_system_ends_a_background_run_after_a_checkpoint(submitted, name, parts):
    run = submitted(**ENDLESS)
    until(lambda: steps(run) >= 2, "a step")
    for part in parts.split():
        os.kill(pids(run)[part], getattr(signal, name))
    until(lambda: run.is_over, "the end")
    assert has_saved(run)
    if name != "SIGINT":
        assert f"because the system asked ({name})" in run.events()[-1]["text"]


@pytest.mark.parametrize("part", ["worker", "supervisor"])
def test_a_second_signal_ends_a_background_run_at_once(submitted, part, slow):
    run = submitted(**slow)
    until(lambda: is_stepping(run), "the first step")
    pid = pids(run)[part]
    os.kill(pid, signal.SIGTERM)
    time.sleep(0.5)
    assert run.status == "running"
    began = time.monotonic()
    os.kill(pid, signal.SIGTERM)
    until(lambda: run.is_over, "the end")
    assert time.monotonic() - began < AT_ONCE_SECONDS
    assert run.status == "stopped"
    text = f"Stopped at once because the system asked twice (SIGTERM); {kept(run)}"
    assert run.events()[-1]["text"] == text


def test_a_terminal_that_closes_counts_once(submitted):
    run = submitted(**ENDLESS)
    until(lambda: steps(run) >= 2, "a step")
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGHUP):
        os.kill(pids(run)["worker"], number)
    until(lambda: run.is_over, "the end")
    assert has_saved(run)


def test_the_system_ends_a_waiting_run(submitted):
    first = submitted(**ENDLESS)
    until(lambda: steps(first) >= 1, "a step")
    second = submitted()
    os.kill(next(e["pid"] for e in second.events() if e["event"] == "queued"), signal.SIGTERM)
    until(lambda: second.is_over, "the end")
    assert second.status == "stopped"
    assert second.events()[-1]["text"] == "Left the queue because the system asked (SIGTERM)."


def test_an_evaluation_does_not_hold_up_the_system(submitted, rows):
    """It would take minutes; the process is killed after seconds."""
    run = submitted(
        **ENDLESS,
        data__validation={"rows": rows * 500, **COLUMNS},
        evaluation__eval_on_start=False,
        evaluation__eval_strategy="steps",
        evaluation__eval_steps=3,
        evaluation__per_device_eval_batch_size=1,
    )
    until(lambda: steps(run) >= 3, "the evaluation")
    time.sleep(0.5)
    began = time.monotonic()
    os.kill(pids(run)["worker"], signal.SIGTERM)
    until(lambda: run.is_over, "the end")
    assert time.monotonic() - began < AT_ONCE_SECONDS
    assert steps(run) == 3
    assert has_saved(run)


def test_ps_shows_which_run_a_process_trains(submitted):
    pytest.importorskip("setproctitle")
    run = submitted(**ENDLESS)
    until(lambda: steps(run) >= 1, "a step")
    shown = {
        part: Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode().strip()
        for part, pid in pids(run).items()
    }
    assert shown == {
        "supervisor": f"nbft: supervising {run.id}",
        "worker": f"nbft: training {run.id}",
    }


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[KernelManager]:
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(cwd=str(tmp_path))
    yield manager
    manager.shutdown_kernel(now=True)


class Cell:
    """A cell that runs in a kernel."""

    def __init__(self, manager: KernelManager, code: str) -> None:
        self._client = manager.blocking_client()
        self._client.start_channels()
        self._client.wait_for_ready(timeout=SECONDS)
        self._sent = self._client.execute(textwrap.dedent(code))

    def output(self) -> str:
        out = ""
        while True:
            message = self._client.get_iopub_msg(timeout=SECONDS)
            if message["parent_header"].get("msg_id") != self._sent:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "stream":
                out += content["text"]
            elif kind == "error":
                out += f"{content['ename']}: {content['evalue']}"
            elif kind == "status" and content["execution_state"] == "idle":
                self._client.stop_channels()
                return out


CELL = """
import signal, nbft
numbers = signal.SIGINT, signal.SIGTERM, signal.SIGHUP
before = [signal.getsignal(n) for n in numbers]
run = {call}({config!r})
assert before == [signal.getsignal(n) for n in numbers]
print(run.status)
run._is_shown = True
None
"""


def run_in(folder: Path) -> nbft.Run:
    runs = folder / "runs"
    until(lambda: [*runs.glob("*/events.jsonl")], "the run")
    return nbft.attach(next(runs.glob("*/events.jsonl")).parent)


CALLS = ["nbft.train", "await nbft.train_async"]


@pytest.mark.parametrize("call", CALLS)
def test_an_interrupt_of_a_cell_saves_and_leaves_the_kernel_alone(
    saved_config, kernel, tmp_path, call
):
    cell = Cell(kernel, CELL.format(call=call, config=str(saved_config(**ENDLESS))))
    run = run_in(tmp_path)
    until(lambda: steps(run) >= 2, "a step")
    kernel.interrupt_kernel()
    assert cell.output().strip().endswith("stopped")
    assert has_saved(run)
    assert Cell(kernel, "print(run.adapter is not None)").output() == "True\n"
    asleep = Cell(kernel, "import time; print('zzz'); time.sleep(60)")
    time.sleep(2)
    kernel.interrupt_kernel()
    assert "KeyboardInterrupt" in asleep.output()


@pytest.mark.parametrize("call", CALLS)
def test_a_second_interrupt_of_a_cell_ends_it_at_once(saved_config, kernel, tmp_path, call, slow):
    cell = Cell(kernel, CELL.format(call=call, config=str(saved_config(**slow))))
    run = run_in(tmp_path)
    until(lambda: is_stepping(run), "the first step")
    kernel.interrupt_kernel()
    until(lambda: "command" in [e["event"] for e in run.events()], "the first answer")
    began = time.monotonic()
    kernel.interrupt_kernel()
    assert cell.output().strip().endswith("stopped")
    assert time.monotonic() - began < AT_ONCE_SECONDS
    assert run.status == "stopped"
    assert Cell(kernel, "print(1 + 1)").output() == "2\n"


def test_an_interrupt_while_a_cell_loads_trains_no_step(saved_config, kernel, tmp_path):
    cell = Cell(kernel, CELL.format(call="nbft.train", config=str(saved_config(**ENDLESS))))
    run = run_in(tmp_path)
    until(run.events, "the start")
    kernel.interrupt_kernel()
    assert cell.output().strip().endswith("stopped")
    assert steps(run) == 0
    assert run.events()[-1]["text"] == "Stopped before step 1."


@pytest.mark.parametrize("end", ["a shutdown", "SIGTERM"])
def test_a_kernel_that_ends_saves_what_it_trains(saved_config, kernel, tmp_path, end):
    code = f"from nbft.launchers import start; run = start({str(saved_config(**ENDLESS))!r})"
    Cell(kernel, code).output()
    run = run_in(tmp_path)
    until(lambda: steps(run) >= 2, "a step")
    if end == "SIGTERM":
        kernel.signal_kernel(signal.SIGTERM)
        until(lambda: not kernel.is_alive(), "the end of the kernel")
    else:
        kernel.shutdown_kernel()
    assert has_saved(run)
