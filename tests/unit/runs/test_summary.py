from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from nbft import events
from nbft.config import Config
from nbft.errors import RunError
from nbft.processes import process_start_time
from nbft.runs import Run
from nbft.runs.folder import ALLOWED
from nbft.runs.mark import mark
from nbft.runs.state import RunState, StateReader
from nbft.runs.summary import CURVE_POINTS, summary


def make_run(folder: Path, name: str = "kind-otter-14", rows: str = "/data/alpaca.jsonl") -> Run:
    path = folder / name
    path.mkdir(parents=True)
    config = Config(model={"model_name": "smollm2-135m"}, data={"path": rows})
    mark(path)
    config.save(path / "config.yaml", full=True)
    return Run(path)


def start(run: Run, pid: int | None = None) -> None:
    pid = pid or os.getpid()
    began = process_start_time(pid)
    events.append(run.events_path, "started", pid=pid, process_start_time=began, model="m")
    events.append(run.events_path, "prepared", rows=300, total_steps=94)


def log(run: Run, step: int, loss: float) -> None:
    events.append(run.events_path, "log", step=step, loss=loss, seconds_left=112.0)


def test_a_run_that_has_not_begun(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    about = summary(run)
    assert about["status"] == "created"
    assert (about["model"], about["method"], about["data"]) == (
        "smollm2-135m",
        "lora",
        "alpaca.jsonl",
    )
    assert about["step"] == 0
    assert about["curve"] == []
    assert about["loss"] is about["total_steps"] is about["ended"] is None
    assert about["started"] == pytest.approx(time.time(), abs=60)


def test_a_running_run_is_followed(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    start(run)
    log(run, 1, 2.0)
    assert summary(run)["curve"] == [[1, 2.0]]
    log(run, 2, 1.5)
    events.append(run.events_path, "eval", step=2, eval_loss=1.7)
    about = summary(run)
    assert about["status"] == "running"
    assert (about["step"], about["total_steps"], about["rows"]) == (2, 94, 300)
    assert (about["loss"], about["eval_loss"]) == (1.5, 1.7)
    assert about["seconds_left"] == pytest.approx(112.0, abs=10)  # counted down since it was said
    assert about["stage"] == ""
    events.append(run.events_path, "stage", stage="scoring", text="Scoring 16 held-out rows …")
    assert summary(run)["stage"] == "Scoring 16 held-out rows …"
    assert about["curve"] == [[1, 2.0], [2, 1.5]]
    assert "stop" in about["allowed"]
    assert "delete" not in about["allowed"]
    events.append(run.events_path, "completed", step=3, seconds=9, adapter="adapter")
    about = summary(run)
    assert (about["status"], about["step"], about["seconds_left"]) == ("completed", 3, None)
    assert about["allowed"] == ["delete"]
    assert about["ended"] == pytest.approx(time.time(), abs=60)


def test_a_run_whose_process_died_is_lost(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    start(run, process.pid)
    assert summary(run)["status"] == "running"
    process.kill()
    process.wait()
    assert summary(run)["status"] == "lost"
    assert "resume" in summary(run)["allowed"]


def test_a_failed_run_says_why_until_it_is_resumed(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    start(run)
    events.append(run.events_path, "failed", step=1, problems=["Memory ran out."], error="X")
    assert summary(run)["problems"] == ["Memory ran out."]
    start(run)
    assert summary(run)["problems"] == []


@pytest.mark.parametrize("status", ALLOWED)
def test_what_is_allowed_is_not_refused(
    tmp_path: Path, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Run, "status", status)
    for number, name in enumerate(ALLOWED[status]):
        run = make_run(tmp_path, f"run-{number}")
        start(run)
        if name not in ("resume", "move_up"):  # they ask for more than a status
            getattr(run, "continue_" if name == "continue" else name)()


@pytest.mark.parametrize("status", ALLOWED)
def test_what_is_not_allowed_is_refused(
    tmp_path: Path, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Run, "status", status)
    run = make_run(tmp_path)
    every = {name for names in ALLOWED.values() for name in names} - {"resume", "move_up"}
    for name in every - set(ALLOWED[status]):
        with pytest.raises(RunError, match=f"is {status}"):
            getattr(run, "continue_" if name == "continue" else name)()
    assert run.path.is_dir()
    assert not (run.path / "commands.jsonl").exists()


@pytest.mark.parametrize("steps", [1, 59, 60, 61, 1_000, 5_003])
@pytest.mark.parametrize("looks", [1, 7])
def test_the_curve_keeps_its_ends_in_few_points(tmp_path: Path, steps: int, looks: int) -> None:
    run = make_run(tmp_path)
    start(run)
    lines = [json.dumps({"event": "log", "time": 1.0, "step": i, "loss": 1 / i}) + "\n"
             for i in range(1, steps + 1)]  # fmt: skip
    for i in range(looks):
        with run.events_path.open("a") as file:
            file.writelines(lines[i * steps // looks : (i + 1) * steps // looks])
        curve = summary(run)["curve"]
    assert curve[0] == [1, 1.0]
    assert curve[-1] == [steps, 1 / steps]
    assert min(steps, CURVE_POINTS // 2) <= len(curve) <= CURVE_POINTS
    assert [step for step, _ in curve] == sorted({step for step, _ in curve})


def test_what_a_resumed_run_does_again_counts_once(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    start(run)
    for step in range(1, 9):
        log(run, step, 1.0)
    events.append(run.events_path, "prepared", rows=300, total_steps=94, resumed_step=4)
    about = summary(run)
    assert about["step"] == 4
    assert [step for step, _ in about["curve"]] == [1, 2, 3, 4]
    log(run, 5, 0.5)
    assert summary(run)["curve"][-1] == [5, 0.5]


def test_numbers_that_are_not_finite_are_floats(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    start(run)
    log(run, 1, math.nan)
    about = summary(run)
    assert math.isnan(about["loss"])
    assert math.isnan(about["curve"][0][1])


def test_torn_and_odd_lines_are_passed_over(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    start(run)
    log(run, 1, 2.0)
    with run.events_path.open("a") as file:
        file.write('{"event": "log", "ti\n[]\n{}\n{"event": "started", "time": 1}\n{"event": "lo')
    assert summary(run)["curve"] == [[1, 2.0]]
    log(run, 2, 1.0)
    assert summary(run)["curve"] == [[1, 2.0], [2, 1.0]]


def test_another_file_of_events_is_read_anew(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    start(run)
    log(run, 1, 2.0)
    summary(run)
    run.events_path.write_text("")
    assert (summary(run)["status"], summary(run)["curve"]) == ("created", [])


def test_data_of_two_files(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    config = run.config
    first = config.data.train.datasets[0]
    config.data.train.datasets.append(first.model_copy(update={"path": "/data/samsum.json"}))
    config.save(run.path / "config.yaml", full=True)
    assert summary(run)["data"] == "alpaca.jsonl and 1 more"


def test_a_list_reads_again_only_what_has_changed(
    tmp_path: Path, cpu_seconds: Callable[..., float]
) -> None:
    text = Config().to_yaml(full=True)
    lines = [{"event": "started", "time": 1.0, "pid": 1, "process_start_time": 1.0}]
    lines += [{"event": "log", "time": 2.0, "step": i, "loss": 1.0} for i in range(100)]
    lines += [{"event": "completed", "time": 3.0, "step": 100, "seconds": 2}]
    written = "".join(json.dumps(line) + "\n" for line in lines)
    for number in range(200):
        path = tmp_path / f"run-{number}"
        path.mkdir()
        (path / "config.yaml").write_text(text)
        (path / "events.jsonl").write_text(written)
    found = [Run(path) for path in tmp_path.iterdir()]

    def look() -> None:
        for run in found:
            summary(run)

    first = cpu_seconds(look)
    assert min(cpu_seconds(look) for _ in range(3)) < first / 3


LINES = [
    '{"event": "log", "step": 3, "loss": 1.5, "time": 12.0}',
    '{"event": "log", "step": 4, "loss": 2}',
    '{"event": "log", "step": "5", "loss": 1.25}',
    '{"event": "log", "step": 6, "loss": "NaN"}',
    '{"event": "log", "step": true, "loss": 1.0}',
    '{"event": "log", "step": -7, "loss": 1.0}',
    '{"event": "log", "step": 8}',
    '{"event": "log", "step": 9, "loss": 1.0',
    '{"event": "log"}[]',
    '{"event": "log", "event": 7, "step": 10, "loss": 1.0}',
    '{"event": "sample", "step": 11, "samples": [{"prompt": "a", "text": "b"}]}',
    '{"event": "sample", "step": 1e400, "samples": 5}',
    '{"event": "log", "step": 12, "loss": 0.5}',
    '{"event": "sample", "step": 20, "samples": []}',
]


@pytest.mark.parametrize("skipped", [None, *range(len(LINES))])
def test_a_list_sees_what_a_reader_of_every_event_sees(tmp_path: Path, skipped: int | None) -> None:
    """Lines that are looked at in short count as if they were read whole, however odd they are."""
    run = make_run(tmp_path)
    start(run)
    with run.events_path.open("a") as file:
        file.writelines(line + "\n" for n, line in enumerate(LINES) if n != skipped)
    whole = RunState()
    in_short = RunState(most_points=CURVE_POINTS)
    for event in events.read(run.events_path):
        whole.take(event)
        in_short.take(event)
    reader = StateReader(run.events_path, most_points=CURVE_POINTS)
    reader.read()
    found = reader.state
    assert (found.step, found.status) == (whole.step, whole.status)
    assert found.few is not None
    assert in_short.few is not None
    assert repr(found.few.points()) == repr(in_short.few.points())
    assert (found.taken, found.counts, found.log) == (whole.taken, whole.counts, whole.log)
