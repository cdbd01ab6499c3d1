"""A run on a machine with several GPUs, as far as a machine without one can tell."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import transformers

from nbft import events
from nbft.decisions import Decisions
from nbft.errors import RunError
from nbft.launchers import supervisor
from nbft.launchers.process import Process
from nbft.runs.files import read_plan
from nbft.runs.folder import Run
from nbft.training import worker

from .conftest import losses, until


@pytest.mark.parametrize(
    ("owns_process", "changes", "seen"),
    [
        (True, {}, ["one GPU", "libraries"]),
        (True, {"model__device_map": "auto"}, ["libraries"]),
        (False, {}, ["libraries"]),  # a kernel's other work may use them
    ],
)
def test_a_worker_sees_one_gpu_before_its_libraries_are_imported(
    make_config, monkeypatch, owns_process, changes, seen
):
    done = []

    def stop(**_: Any) -> None:
        done.append("libraries")
        raise RuntimeError("enough")

    monkeypatch.setattr(worker, "see_one_gpu", lambda: done.append("one GPU"))
    monkeypatch.setattr(worker, "import_libraries", stop)
    run = Run.create(make_config(**changes))
    worker.work(run.path, owns_process=owns_process)
    assert done == seen


def test_several_gpus_in_a_kernel_are_no_data_parallel(train, monkeypatch):
    """TRL refuses torch.nn.DataParallel, and transformers would use it."""
    usual = train(training__max_steps=2)
    setup = transformers.TrainingArguments.__dict__["_setup_devices"]

    def two(arguments: Any) -> Any:
        device = setup.func(arguments)
        arguments._n_gpu = 2
        return device

    seen_by_all = functools.cached_property(two)
    seen_by_all.__set_name__(transformers.TrainingArguments, "_setup_devices")
    monkeypatch.setattr(transformers.TrainingArguments, "_setup_devices", seen_by_all)
    run = train(training__max_steps=2)
    assert run.status == "completed"
    assert losses(run) == losses(usual)


def test_a_planned_device_that_is_not_there_is_said(make_config, monkeypatch):
    run = Run.create(make_config(training__max_steps=1))
    planned = Decisions.from_dict(read_plan(run.path))
    assert planned is not None
    plan = {**read_plan(run.path), "device": {"value": "cuda", "reason": "Tesla T4 was found"}}
    monkeypatch.setattr(worker, "read_plan", lambda _: plan)
    worker.work(run.path)
    said = [event["text"] for event in events.read(run.events_path) if event["event"] == "warning"]
    assert said == [
        (
            "The plan chose cuda (Tesla T4 was found), which PyTorch does not find. The run uses cpu "
            f"({planned.device.reason}) with float32 weights instead."
        )
    ]
    assert run.status == "completed"


def test_a_run_measures_its_own_peak(train, monkeypatch):
    begun = []
    monkeypatch.setattr(worker, "begin_peak", lambda: begun.append(1))
    train(training__max_steps=1)
    train(training__max_steps=1)
    assert len(begun) == 2


WORKER = """
import os, time
print("sees", os.environ["CUDA_VISIBLE_DEVICES"], flush=True)
time.sleep(600)
"""


class ShowingGpus(Process):
    """A launcher whose worker prints which GPUs it sees."""

    def worker_command(self, run: Path) -> list[str]:
        return [sys.executable, "-c", WORKER]


@pytest.fixture
def four_gpus(monkeypatch, tmp_path):
    """A driver that lists four GPUs; the third has the most free memory."""
    rows = [
        f"GPU-{n}, Tesla T4, {free}, 7.5, [N/A]"
        for n, free in (("a", 4), ("b", 3), ("c", 9), ("d", 2))
    ]
    program = tmp_path / "nvidia-smi"
    program.write_text(f"#!/bin/sh\ncase $1 in --query-gpu*) echo '{chr(10).join(rows)}';; esac\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("NBFT_QUEUE", str(tmp_path / "queue"))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_background_runs_take_different_gpus(make_config, four_gpus):
    def start(needs: int) -> Run:
        run = Run.create(make_config())
        device = {"value": "cuda", "reason": "Tesla T4 was found"}
        plan = {**read_plan(run.path), "device": device, "devices": needs}
        (run.path / "plan.json").write_text(json.dumps(plan))
        ShowingGpus().start(run)
        return run

    def seen(run: Run) -> str:
        until(lambda: "sees" in run.log_tail(3), "what the worker sees")
        return run.log_tail(3).split()[-1]

    runs = [start(1), start(2), start(2)]
    try:
        assert (seen(runs[0]), seen(runs[1])) == ("GPU-c", "GPU-a,GPU-b")
        until(lambda: "1 of 4 is free" in runs[2].state.stage, "what it waits for")
        assert runs[2].state.stage == (
            f"Waiting for 2 GPUs: 1 of 4 is free, and run “{runs[0].id}” uses 1."
        )
        runs.append(start(1))
        until(lambda: "comes before" in runs[3].state.stage, "what it waits for")
        worker = next(e["pid"] for e in runs[0].events() if e.get("stage") == "starting")
        os.kill(worker, signal.SIGKILL)
        assert seen(runs[2]) == "GPU-c,GPU-d"
        runs[1].cancel()
        assert seen(runs[3]) == "GPU-a"
    finally:
        for run in runs:
            with contextlib.suppress(RunError):  # it is over
                run.cancel()
            until(lambda run=run: run.is_over, "its end")


@pytest.mark.parametrize(("uses", "is_used"), [((), True), (("a",), True), (("b",), False)])
def test_a_spare_worker_that_sees_other_gpus_is_not_used(tmp_path, uses, is_used):
    """Which GPUs a process sees is settled when its libraries are imported."""
    command = [sys.executable, "-c", "print(input())"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=False)
    with process:
        told = supervisor._told(supervisor.Spare(process, ("a",)), tmp_path, uses)
        assert (told is process) == is_used
        printed = process.stdout.read().decode()
    assert printed == (f'"{tmp_path}"\n' if is_used else "")
