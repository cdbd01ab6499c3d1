"""Resuming: once, with the run's own Python, from a silent machine, in folders of any name."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

import nbft
from nbft import events
from nbft.launchers import interpreter
from nbft.launchers.launch import _starting
from nbft.processes import identity

from .test_background import until

LONGER = {"training.max_steps": 4}


@pytest.fixture
def done(train) -> nbft.Run:
    """A run of two steps, whose learning rate is the same however long it gets."""
    return train(training__max_steps=2, scheduler__lr_scheduler_type="constant")


def queued(run: nbft.Run) -> list[dict[str, Any]]:
    return [event for event in run.events() if event["event"] == "queued"]


RESUME = """
import os, sys, time
import nbft, filelock
from nbft.launchers import launch
run = nbft.attach(sys.argv[1])
while time.time() < float(sys.argv[2]):
    pass
try:
    run.resume({"training.max_steps": int(sys.argv[3])})
except nbft.RunError as error:
    print(error)
else:
    print("resumed")
"""


def test_of_several_resumes_at_once_one_wins(done: nbft.Run) -> None:
    at = str(time.time() + 8)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RESUME, str(done.path), at, str(steps)],
            stdout=subprocess.PIPE,
            text=True,
        )
        for steps in (400, 401, 402, 403)
    ]
    answers = [process.communicate(timeout=120)[0].strip() for process in processes]
    assert answers.count("resumed") == 1
    for answer in answers:
        assert answer == "resumed" or answer in (
            f"{done.id}: is being started by another process.",
            f"{done.id}: is queued; there is nothing to resume.",
            f"{done.id}: is running; there is nothing to resume.",
        )
    assert len(queued(done)) == 2
    winner = (400, 401, 402, 403)[answers.index("resumed")]
    assert done.config.training.max_steps == winner  # a loser changes no setting
    done.cancel()
    done.wait()


def test_a_start_that_crashed_does_not_stand_in_the_way(done: nbft.Run) -> None:
    code = (
        "import os, sys, nbft; from nbft.launchers.launch import _starting\n"
        "with _starting(nbft.attach(sys.argv[1])): os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code, str(done.path)], check=True)
    assert (done.path / "starting").exists()
    with _starting(done):
        pass
    lock = done.path / "starting"
    lock.touch()
    with pytest.raises(nbft.RunError, match="is being started by another process"), _starting(done):
        pass
    os.utime(lock, (time.time() - 60, time.time() - 60))  # of another machine, or an older version
    with _starting(done):
        pass


def test_the_kernel_resumes_only_what_nobody_else_is_starting(make_config, done) -> None:
    events.append(done.events_path, "stopped", step=2)
    config = done.config.apply({"training.run_name": None})
    with _starting(done), pytest.raises(nbft.RunError, match="is being started by another process"):
        nbft.train(config, show=False, resume="auto")
    assert len(queued(done)) == 1


@pytest.fixture
def other_python(tmp_path: Path) -> Path:
    """A Python that notes that it was called."""
    path = tmp_path / "other" / "python"
    path.parent.mkdir()
    path.write_text(f'#!/bin/sh\necho "$@" >> "$0.calls"\nexec {sys.executable} "$@"\n')
    path.chmod(0o755)
    return path


def started_with(run: nbft.Run, python: Path) -> None:
    last = {name: value for name, value in queued(run)[-1].items() if name not in ("event", "time")}
    events.append(run.events_path, "queued", **{**last, "python": str(python)})
    events.append(run.events_path, "completed", step=2, seconds=1.0, adapter="adapter")


def warnings(run: nbft.Run) -> list[str]:
    return [event["text"] for event in run.events() if event["event"] == "warning"]


def test_a_run_names_its_python(done: nbft.Run) -> None:
    assert [event["python"] for event in queued(done)] == [sys.executable]
    assert sys.executable in interpreter._known()


def test_a_run_is_resumed_with_its_own_python(done: nbft.Run, other_python: Path) -> None:
    interpreter._list().write_text(f"{sys.executable}\n{other_python}\n")
    started_with(done, other_python)
    assert done.resume(LONGER).wait().status == "completed", done.problems
    calls = Path(f"{other_python}.calls").read_text()
    assert "nbft.launchers.supervisor" in calls
    assert "nbft.launchers.worker" in calls
    assert warnings(done) == []


def test_a_run_is_tried_again_with_its_own_python(done: nbft.Run, other_python: Path) -> None:
    interpreter._list().write_text(f"{sys.executable}\n{other_python}\n")
    started_with(done, other_python)
    again = done.retry({"training.max_steps": 1})
    assert again.wait().status == "completed", again.problems
    assert str(again.path) in Path(f"{other_python}.calls").read_text()


@pytest.mark.parametrize("case", ["gone", "not known"])
def test_another_python_than_the_runs_own_is_said(
    done: nbft.Run, other_python: Path, case: str
) -> None:
    if case == "gone":
        interpreter._list().write_text(f"{sys.executable}\n{other_python}\n")
        other_python.unlink()
        why = "which is gone"
    else:  # a run of somebody else must not name the program that is started
        interpreter._list().write_text(f"{sys.executable}\n")
        why = "with which you have not started a run before"
    started_with(done, other_python)
    assert done.resume(LONGER).wait().status == "completed", done.problems
    assert not Path(f"{other_python}.calls").exists()
    (said,) = warnings(done)
    assert said == (
        f"The earlier training used the Python {other_python}, {why}. This one uses "
        f"{sys.executable}, which may have other versions of the packages."
    )


def test_a_run_of_a_silent_machine_is_resumed_here(done: nbft.Run) -> None:
    elsewhere = {**identity(), "host": "gpu-7", "machine": "x", "boot": "x"}
    events.append(done.events_path, "started", **elsewhere, model="m")
    events.append(done.events_path, "log", step=2, loss=1.0)
    with pytest.raises(nbft.RunError, match="is running on gpu-7; there is nothing to resume"):
        done.resume(LONGER)
    then = time.time() - 3_600
    os.utime(done.events_path, (then, then))
    assert done.status == "lost"
    done.resume(LONGER)
    assert done.wait().status == "completed", done.problems
    assert warnings(done)[0].startswith("Resumed here after no word from gpu-7 since ")
    # If it still trains there, it ends: two must not write one folder.
    assert events.read(done.path / "commands.jsonl")[0]["event"] == "cancel"
    assert (done.step, done.state.host) == (4, "")


@pytest.mark.parametrize("name", ["[a] {b} *? $HOME `x`", "-line\nbreak"])
def test_a_folder_of_any_name(make_config, rows, tmp_path: Path, name: str) -> None:
    config = make_config(
        training__max_steps=2, training__output_dir=str(tmp_path / name / "[runs]")
    )
    data = tmp_path / name / "rows [1].jsonl"
    data.parent.mkdir()
    data.write_text("\n".join(map(json.dumps, rows)))
    config.data.train.datasets[0].rows = None
    config.data.train.datasets[0].path = str(data)
    run = nbft.submit(config)
    assert run.wait().status == "completed", run.problems
    renamed = run.path.rename(run.path.with_name(name))
    again = nbft.attach(renamed).resume(LONGER)
    assert again.wait().status == "completed", again.problems
    assert again.step == 4
    assert [found.id for found in nbft.list_runs(renamed.parent)] == [name]
    queue = Path(os.environ["NBFT_QUEUE"])
    until(lambda: [path.name for path in queue.iterdir()] == ["lock"], "the end of the supervisor")


def test_a_queue_without_locks_in_the_kernel(
    make_config, train, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fcntl

    def refuse(*_: Any) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    assert train(training__max_steps=1).status == "completed"
    monkeypatch.setattr("nbft.queue._LOCK_SECONDS", 0.1)
    (Path(os.environ["NBFT_QUEUE"]) / "lock.soft").touch()  # of a machine that crashed
    run = train(training__max_steps=1)
    assert run.status == "failed"
    assert "The queue in" in run.problems[0]
    assert "NBFT_QUEUE" in run.problems[0]


def test_a_queue_that_cannot_be_used_in_the_background(
    make_config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("NBFT_QUEUE", str(tmp_path / "file"))
    run = nbft.submit(make_config(training__max_steps=1))
    assert run.wait().status == "failed"
    assert run.problems[0].startswith(f"The queue in {tmp_path / 'file'} cannot be used")


def test_events_and_tickets_name_the_machine(make_config) -> None:
    run = nbft.submit(make_config(training__max_steps=400))
    while not any(event["event"] == "started" for event in run.events()):
        time.sleep(0.05)
    here = {name: value for name, value in identity().items() if name in ("host", "boot", "user")}
    (ticket,) = Path(os.environ["NBFT_QUEUE"]).glob("*.json")
    records = [event for event in run.events() if "pid" in event]
    assert [record["event"] for record in records] == ["queued", "stage", "started"]
    for record in (*records, json.loads(ticket.read_text())):
        assert here.items() <= record.items()
    run.cancel()
    run.wait()
