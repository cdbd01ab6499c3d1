"""Races: each contestant trains as it would alone; halved, dropped, cloned and stopped."""

from __future__ import annotations

import logging

import pytest
import torch
from safetensors.torch import load_file

import nbft
from nbft.launchers import racing
from nbft.launchers.kernel import join
from nbft.launchers.openmp import give_up_threads
from nbft.queue import say_queued
from nbft.runs.checkpoints import last_whole, step_of
from nbft.runs.folder import list_runs
from nbft.training import shared_weights
from nbft.training.racing import race as train_race
from nbft.training.turns import World

from .conftest import losses, steps, until

MEASURED = {"evaluation__eval_strategy": "steps", "evaluation__eval_steps": 2}


@pytest.fixture
def started():
    """Return a function that starts a race; what still trains at the end is cancelled."""
    made = []

    def start(*arguments, **options):
        made.append(nbft.race(*arguments, **options))
        return made[-1]

    yield start
    for one in made:
        for run in one.runs:
            if not run.is_over:
                run.cancel()
        until(lambda one=one: one.is_over, "the clean-up")


@pytest.fixture
def trained_here(monkeypatch):
    """Let `nbft.race` train in this process, which has its libraries, until all have ended."""

    def train(race):
        for run in race.runs:
            say_queued(run.path, "cpu")
        before = World("cpu")
        train_race(race.path, give_up_threads)
        logging.captureWarnings(False)
        before.restore()

    monkeypatch.setattr(racing, "_start", train)


def held_out(run):
    return [e["eval_loss"] for e in run.events() if e["event"] == "eval"]


def weights(run):
    return load_file(next(run.adapter.glob("*.safetensors")))


def test_each_curve_is_that_of_the_config_trained_alone(make_config, trained_here, monkeypatch):
    loaded = []
    load = shared_weights.load_model
    monkeypatch.setattr(
        shared_weights,
        "load_model",
        lambda *args, **named: loaded.append(1) or load(*args, **named),
    )
    changes = [
        {"peft__r": 4, "peft__lora_dropout": 0.3},
        {
            "peft__r": 8,
            "peft__lora_dropout": 0.3,
            "training__seed": 7,
            "training__gradient_accumulation_steps": 2,
        },
        {"peft__method": "full"},
    ]
    configs = [make_config(**MEASURED, **each) for each in changes]
    race = nbft.race(configs, steps_per_turn=1)
    assert race.is_over
    assert len(loaded) == 2  # one for both adapters
    assert {run.status for run in race.runs} == {"completed"}, race
    assert "seed 7" in race.titles[race.runs[1].id]
    for config, run in zip(configs, race.runs, strict=True):
        alone = nbft.train(config, show=False)
        join(alone)
        assert "waiting" not in alone.events()[-1]["stages"]
        assert losses(run) == losses(alone)
        assert held_out(run) == held_out(alone)
        expected = weights(alone)
        assert all(torch.equal(value, expected[name]) for name, value in weights(run).items())
    order = [race.table().rows[n].value for n in range(3)]
    assert order == sorted(held_out(run)[-1] for run in race.runs)
    assert race.best.id == race.table().rows[0].run
    assert {run.id for run in list_runs(race.path.parent)} >= {run.id for run in race.runs}
    for run in race.runs:  # the time of the others is not its own
        stages = run.events()[-1]["stages"]
        assert stages["waiting"] > 0


def test_the_worse_half_drops_out_again_and_again(make_config, trained_here):
    config = make_config(**MEASURED, training__max_steps=16)
    grid = {"training.learning_rate": [1e-6, 3e-3, 1e-5, 1e-3]}
    race = nbft.race(config, grid, keep="half")
    by_rate = {run.config.training.learning_rate: run for run in race.runs}
    assert by_rate[3e-3].status == "completed", race
    assert race.best.id == by_rate[3e-3].id
    for rate, step in {1e-6: 4, 1e-5: 4, 1e-3: 8}.items():
        run = by_rate[rate]
        assert (run.status, run.step) == ("stopped", step), run.state.reason
        reason = run.state.reason
        assert reason.startswith(f"Dropped from race {race.id} after step {step} of 16: held-out")
        assert step_of(last_whole(run.path)) == step
        assert run.adapter is not None
    assert "place 4 of 4; the first 2 go on." in by_rate[1e-6].state.reason


def test_drop_one_clone_another_and_stop(make_config, started):
    config = make_config(training__max_steps=4000, training__learning_rate=1e-3)
    race = started(config, {"peft.r": [4, 8]}, steps_per_turn=5)
    first, second = race.runs
    with pytest.raises(nbft.RunError, match="is no contestant of"):
        race.drop("kind-otter-14")
    with pytest.raises(nbft.ConfigError, match=r"peft.r=16: belongs to the weights"):
        race.clone(first, {"peft.r": 16})
    until(lambda: steps(first) >= 20, "step 20")
    race.drop(second)
    until(lambda: second.is_over, "the end of one")
    assert (second.status, second.adapter is not None) == ("stopped", True)
    clone = race.clone(first, {"training.learning_rate": 1e-4})
    until(lambda: steps(clone) >= 1, "a step of the clone")
    assert not first.is_over
    parent = {e["step"]: e["loss"] for e in first.events() if e["event"] == "log"}
    assert losses(clone)[0] < parent[1]
    assert "from" in race.titles[clone.id]
    assert clone.config.training.learning_rate == 1e-4
    first.pause()
    until(lambda: first.status == "paused", "the pause")
    now = steps(clone)
    until(lambda: steps(clone) > now + 10, "steps of the clone during the pause")
    first.continue_()
    race.stop()
    race.wait()
    assert {run.status for run in race.runs} == {"stopped"}, race
    until(lambda: race._record.get("is_over"), "the end of the process")
    with pytest.raises(nbft.RunError, match="is over"):
        race.clone(first)
    assert nbft.Race(race.path).table().rows[0].value is not None
