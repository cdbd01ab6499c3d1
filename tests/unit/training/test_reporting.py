"""What a trainer logs and measures becomes events, whole and by its own names."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import TrainerControl

from nbft import events
from nbft.training.callbacks.reporting import ReportingCallback


@pytest.fixture
def callback(tmp_path: Path) -> ReportingCallback:
    return ReportingCallback(tmp_path, "cpu", lambda model: [])


def written(tmp_path: Path) -> list[dict[str, Any]]:
    return events.read(tmp_path / "events.jsonl")


ARGS: Any = SimpleNamespace(logging_steps=1)
STATE: Any = SimpleNamespace(global_step=7, max_steps=10, num_input_tokens_seen=0)


def test_every_number_of_a_log_is_kept(tmp_path: Path, callback: ReportingCallback) -> None:
    logged = {"loss": 1.5, "rewards/chosen": np.float32(0.5), "num_tokens": 12, "step": 99}
    callback.on_log(ARGS, STATE, None, logs={**logged, "name": "x", "flags": [1]})  # type: ignore[arg-type]
    (log,) = written(tmp_path)
    assert log["step"] == 7
    assert log.keys() == {
        *("event", "time", "step", "loss", "rewards/chosen", "num_tokens"),
        *("memory_bytes", "peak_bytes"),
    }


def test_the_totals_at_the_end_are_no_step(tmp_path: Path, callback: ReportingCallback) -> None:
    callback.on_log(ARGS, STATE, None, logs={"train_loss": 1.0, "total_flos": 1e12})  # type: ignore[arg-type]
    callback.on_log(ARGS, STATE, None, logs={"eval_loss": 1.0})  # type: ignore[arg-type]
    assert written(tmp_path) == []


def test_every_number_of_an_evaluation_is_kept(tmp_path: Path, callback: ReportingCallback) -> None:
    metrics = {"eval_loss": math.inf, "eval_rewards/margins": 0.25, "epoch": 1}
    callback.on_evaluate(ARGS, STATE, None, metrics=metrics)  # type: ignore[arg-type]
    (found,) = written(tmp_path)
    assert {name: found[name] for name in metrics} == metrics


def test_the_time_left_is_that_of_the_whole_run(tmp_path: Path) -> None:
    callback = ReportingCallback(tmp_path, "cpu", lambda model: [])
    callback.stages.expect({"saving": [10]}, 10, {"saving": 5.0, "training": 20.0})
    callback.on_log(ARGS, STATE, None, logs={"loss": 1.5})  # type: ignore[arg-type]
    callback.begin("saving", 10, "Saving …")
    log, stage = written(tmp_path)
    assert log["seconds_left"] == 3 * 2 + 5
    assert (stage["stage"], stage["text"]) == ("saving", "Saving …")
    assert stage["seconds_left"] == pytest.approx(5, abs=1)


@pytest.mark.parametrize("first", ["stop", "pause"])
def test_what_the_system_asked_stays_urgent_whatever_a_person_asks_then(
    tmp_path: Path, callback: ReportingCallback, first: str
) -> None:
    second = "pause" if first == "stop" else "stop"
    commands = tmp_path / "commands.jsonl"
    events.append(commands, first, release=True, why="the system asked")
    events.append(commands, second, release=True)
    callback.on_step_end(ARGS, STATE, TrainerControl(), model=torch.nn.Linear(1, 1))
    assert callback.ending == "stopped"  # which keeps the adapter as well
    assert callback.reason == {"text": "Stopped because the system asked."}
