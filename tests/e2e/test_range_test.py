"""The learning rate test: it is the training of a run, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

import nbft
from nbft import registry
from nbft.launchers.kernel import join
from nbft.runs.range_test import rising_rates
from nbft.training.range_test import run_range_test

STEPS = 20
RATES = rising_rates(1e-5, 1e-1, STEPS)


@pytest.fixture(autouse=True)
def schedules():
    """A schedule like that of the test, for runs to compare with; and none that stays."""
    registry.schedulers.register("like_the_test")(lambda step, *_: RATES[step % STEPS] / RATES[0])
    yield
    for name in ("like_the_test", "nbft_rising"):
        registry.schedulers.unregister(name)


def logged(config):
    """Train a run at the rates of the test, and return its losses and rates."""
    run = nbft.train(
        config.apply(
            {
                "training.learning_rate": RATES[0],
                "training.max_steps": STEPS,
                "training.stop_on_nan": False,
                "scheduler.lr_scheduler_type": "like_the_test",
                "logging.logging_steps": 1,
            }
        ),
        show=False,
    )
    join(run)
    assert run.status == "completed", run.problems
    logs = [event for event in run.events() if event["event"] == "log"]
    return [log["loss"] for log in logs], [log["learning_rate"] for log in logs]


def measured(config, folder):
    """Test in this process, and return the losses and rates."""
    told = []
    folder.mkdir()
    run_range_test(config, RATES, folder, lambda **message: told.append(message))
    assert not [*folder.iterdir()]
    steps = [message for message in told if "loss" in message]
    assert "exploded" in told[-1]
    return [step["loss"] for step in steps], [step["learning_rate"] for step in steps]


def test_it_trains_as_a_run_and_leaves_nothing(make_config, tmp_path, monkeypatch):
    """With dropout and accumulation, so that the random numbers and the batches must be the same."""
    config = make_config(
        peft__lora_dropout=0.1,
        training__gradient_accumulation_steps=2,
        training__per_device_train_batch_size=3,
        callbacks__callbacks={"json_logger": {}},
        evaluation__eval_strategy="no",  # its batches draw from the random numbers of the dropout
        logging__logging_steps=7,
    )
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    before, folders = torch.get_rng_state(), {*tmp_path.iterdir()}
    said, watched = [], []
    found = nbft.find_learning_rate(
        config,
        steps=STEPS,
        lowest=RATES[0],
        highest=RATES[-1],
        say=said.append,
        watch=watched.append,
    )
    assert torch.equal(torch.get_rng_state(), before)
    assert {*tmp_path.iterdir()} == folders
    assert not [*temporary.iterdir()]
    assert said[-1].startswith(f"Step {len(found.losses)} of {STEPS}: loss ")
    losses, rates = logged(config)
    assert len(found.losses) == STEPS or found.ending == "exploded"
    # Another process rounds differently; other random numbers differ by more than a thousandth.
    assert [*found.losses] == pytest.approx(losses[: len(found.losses)], rel=1e-4)
    assert [*found.learning_rates] == pytest.approx(rates[: len(found.losses)], rel=1e-9)
    assert nbft.registry.schedulers.keys().count("nbft_rising") == 0


@pytest.mark.parametrize("method", ["dpo", "kto", "orpo", "cpo", "reward", "base"])
def test_every_method_with_a_loss_is_tested_as_it_trains(make_config, preference, tmp_path, method):
    if method == "base":
        config = make_config(training__method=method, peft__method="full")
    elif method == "reward":
        config = preference("dpo", training__method=method)
    else:
        config = preference(method)
    losses, rates = logged(config)
    own, own_rates = measured(config, tmp_path / "empty")
    assert own == losses[: len(own)]
    assert own_rates == pytest.approx(rates[: len(own)], rel=1e-9)
    assert len(own) >= 15


def test_a_short_run_is_tested_for_longer_than_it_lasts(make_config, tmp_path):
    config = make_config(training__max_steps=2, checkpoint__save_on_epoch_end=True)
    losses, _ = measured(config, tmp_path / "empty")
    assert len(losses) == STEPS


def test_it_ends_with_the_process_that_started_it(make_config, tmp_path):
    task = {"config": {}, "learning_rates": RATES, "folder": str(tmp_path)}
    process = subprocess.Popen(
        [sys.executable, "-m", "nbft.training.range_test"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": str(Path(nbft.__file__).parents[1])},
    )
    process.stdin.write(f"{json.dumps(task)}\n".encode())
    process.stdin.flush()
    assert b"say" in process.stdout.readline()  # it is at work
    process.stdin.close()
    assert process.wait(timeout=60) == 1
