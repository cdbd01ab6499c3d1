"""A run on a machine with several GPUs, as far as a machine without one can tell."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import transformers

from nbft import events
from nbft.decisions import Decisions
from nbft.runs.files import read_plan
from nbft.runs.folder import Run
from nbft.training import worker

from .conftest import losses


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
