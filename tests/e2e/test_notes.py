"""A run that goes wrong gets its note, and the run that follows its advice is better.

Most are real runs on the tiny model. Instabilities that take such a model long are those of a
quadratic bowl, which gradient descent leaves when its rate exceeds 2 / curvature.
"""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from typing import Any

import pytest

import nbft
from nbft.data.samples import sample_path
from nbft.launchers.kernel import join
from nbft.plan.schedule import learning_rate_at
from nbft.runs import notes
from nbft.runs.state import RunState, read_state

FEW = [
    json.loads(line)
    for line in sample_path("grammar", "train").read_text(encoding="utf-8").splitlines()[:12]
]
EASY = [{"input": f"easy {n % 3}", "target": "yes yes yes yes yes"} for n in range(80)]
HARD = [{"input": f"hard {n}", "target": f"{n * n} moon {n * 7} river {n * 3}"} for n in range(40)]

BY_HEART = {
    "data.train.datasets[0].rows": FEW,
    "data__split_ratio": 0.5,
    "peft__method": "full",
    "training__learning_rate": 5e-3,
    "training__max_steps": 60,
}


def state_of(run: nbft.Run) -> RunState:
    return read_state(run.events_path)


def first_note(state: RunState) -> Any:
    return next(note for note in state.notes if note.kind in notes.NOTES)


@pytest.fixture
def work(make_config: Callable[..., nbft.Config]) -> Callable[[nbft.Config], nbft.Run]:
    """Return a function that trains a config to its end."""

    def train(config: nbft.Config) -> nbft.Run:
        run = nbft.train(config, show=False)
        join(run)
        return run

    return train


@pytest.fixture
def sick_config(make_config: Callable[..., nbft.Config]) -> Callable[..., nbft.Config]:
    def make(**changes: Any) -> nbft.Config:
        usual = {
            "training__max_steps": 40,
            "evaluation__eval_strategy": "steps",
            "evaluation__eval_steps": 10,
            "evaluation__sample_count": 0,
        }
        return make_config(**{**usual, **changes})

    return make


# What is measured: lower is better.


def held_out(run: nbft.Run) -> float:
    """The last held-out loss."""
    return state_of(run).eval_loss or math.inf


def result(run: nbft.Run) -> float:
    """The held-out loss of the model that is saved."""
    config = run.config.apply(
        {
            "model.model_name": str(run.path / "model"),
            "training.do_train": False,
            "training.run_name": None,
            "callbacks.early_stopping_patience": None,
            "checkpoint.load_best_model_at_end": False,
        }
    )
    measured = nbft.train(config, show=False)
    join(measured)
    return held_out(measured)


def highest_rise(run: nbft.Run) -> float:
    """The largest rise of the loss from one tenth of the run to a later one."""
    losses = state_of(run).curve("loss").values
    size = len(losses) // 10
    means = [math.fsum(losses[at : at + size]) / size for at in range(0, len(losses), size)]
    return max(after - min(means[: i + 1]) for i, after in enumerate(means))


CURES: dict[str, tuple[str, dict[str, Any], Callable[[nbft.Run], float], float]] = {
    "tiny rate": ("tiny_rate", {"training__learning_rate": 1e-7}, held_out, 0.02),
    "SGD at the rate of Adam": (
        "tiny_rate",
        {"optimizer__optim": "sgd", "training__learning_rate": 1e-4},
        held_out,
        0.05,
    ),
    "endless warm-up": ("endless_warmup", {"scheduler__warmup_steps": 1e5}, held_out, 0.1),
    "clipped to nothing": ("clipped", {"training__max_grad_norm": 1e-9}, held_out, 0.1),
    "flat at the lowest rate": ("flat", {"training__learning_rate": 2e-5}, held_out, 0.02),
    "schedule that ends early": (
        "schedule_over",
        {"scheduler__lr_scheduler_type": "polynomial", "scheduler__power": 60.0}
        | {"training__max_steps": 60},
        held_out,
        0.1,
    ),
    "base model best": (
        "base_best",
        {"peft__method": "full", "training__learning_rate": 1.0, "training__max_grad_norm": 0.0}
        | {"logging__logging_steps": 10, "scheduler__lr_scheduler_type": "constant"},
        held_out,
        1.0,
    ),
    "exploding loss": (
        "exploded",
        {"peft__method": "full", "training__learning_rate": 1.0, "training__max_grad_norm": 0.0}
        | {"optimizer__optim": "sgd", "optimizer__optim_args": "momentum=0.9"},
        held_out,
        0.5,
    ),
    "overfit": ("overfit", BY_HEART, result, 0.2),
    "stopped early": (
        "stopped_early",
        {**BY_HEART, "callbacks__early_stopping_patience": 2},
        result,
        0.1,
    ),
    "easy rows first": (
        "row_order",
        {
            "data.train.datasets[0].rows": EASY + HARD,
            "data__validation": {
                "rows": [*EASY[:4], *HARD[:4]],
                "prompt_template": "Correct: {input}\n",
                "completion_template": "{target}",
            },
            "data__shuffle": False,
            "peft__method": "full",
            "training__max_steps": 60,
            "training__per_device_train_batch_size": 2,
        },
        highest_rise,
        1.0,
    ),
}
"""The note, the settings, what is measured, and how much better it becomes at least."""


@pytest.mark.parametrize("name", CURES)
def test_a_real_run_that_follows_its_note_is_better(
    name: str, sick_config: Callable[..., nbft.Config], work: Callable[..., nbft.Run]
) -> None:
    kind, settings, measure, gain = CURES[name]
    config = sick_config(**settings)
    sick = work(config)
    note = first_note(state_of(sick))
    assert (note.kind, bool(note.changes)) == (kind, True), note
    cured = work(config.apply(dict(note.changes)))
    assert cured.status == "completed", cured.problems
    assert kind not in {note.kind for note in state_of(cured).notes} or kind in (
        "overfit",  # the curve is the same, the result is the best checkpoint
        "stopped_early",
    )
    before, after = measure(sick), measure(cured)
    assert not after > before - gain, (before, after)


def test_the_note_is_in_the_report(
    sick_config: Callable[..., nbft.Config], work: Callable[..., nbft.Run]
) -> None:
    run = work(sick_config(**BY_HEART))
    note = first_note(state_of(run))
    held = state_of(run).curve("eval_loss")
    lowest = min(held.values)
    step = held.steps[list(held.values).index(lowest)]
    assert f"was lowest at step {step} ({lowest:.3g})" in note.text
    assert "The model is overfitting" in (run.path / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_healthy_run_has_no_note(
    method: str, sick_config: Callable[..., nbft.Config], work: Callable[..., nbft.Run]
) -> None:
    rates = {"lora": 2e-3, "full": 1e-3}
    run = work(sick_config(peft__method=method, training__learning_rate=rates[method]))
    assert [note.text for note in state_of(run).notes if note.kind] == []


# A bowl: loss = floor + curvature * w² / 2, with noise in its gradient.


def descend(
    config: nbft.Config,
    *,
    steps: int = 100,
    noise: float = 0.0,
    bad_step: int | None = None,
    logged_noise: float = 0.01,
) -> RunState:
    """Descend a bowl of curvature 10 with the settings of a config."""
    rng, weight, rate = random.Random(1), 1.0, learning_rate_at(config, steps)
    warmup = int(config.scheduler.warmup_steps) if config.scheduler.warmup_steps >= 1 else 0
    run = RunState([{"event": "prepared", "total_steps": steps, "warmup_steps": warmup, "rows": 9}])

    def loss(at: float) -> float:
        return 1.5 + 5 * min(at * at, 1e300)

    run.take({"event": "eval", "step": 0, "eval_loss": loss(weight)})
    for step in range(1, steps + 1):
        is_bad = step == bad_step
        gradient = 10 * weight + rng.gauss(0, noise) + (300 if is_bad else 0)
        logged = loss(weight) * (20 if is_bad else math.exp(rng.gauss(0, logged_noise)))
        limit = config.training.max_grad_norm
        event = {"event": "log", "step": step, "loss": logged, "grad_norm": abs(gradient)}
        run.take({**event, "learning_rate": rate(step - 1), "epoch": step / steps})
        if limit and abs(gradient) > limit:
            gradient *= limit / abs(gradient)
        weight -= rate(step - 1) * gradient
        if step % 10 == 0:
            run.take({"event": "eval", "step": step, "eval_loss": loss(weight)})
    return run


SGD = {
    "optimizer.optim": "sgd",
    "training.max_grad_norm": 0.0,
    "scheduler.lr_scheduler_type": "constant_with_warmup",
    "scheduler.warmup_steps": 0.0,
}


def last(run: RunState) -> float:
    return run.eval_loss or math.inf


BOWLS: dict[str, tuple[str, dict[str, Any], dict[str, Any], Callable[[RunState], float]]] = {
    "leaves the bowl": ("exploded", {"training.learning_rate": 0.25}, {"steps": 30}, last),
    "leaves it slowly": ("base_best", {"training.learning_rate": 0.2002}, {"steps": 60}, last),
    "rises within one pass": (
        "high_rate",
        {"training.learning_rate": 0.2, "scheduler.warmup_steps": 50.0},
        {"steps": 80, "noise": 0.5, "logged_noise": 0.8},
        last,
    ),
    "one bad batch": (
        "spike",
        {"training.learning_rate": 1e-2},
        {"bad_step": 61, "steps": 120, "noise": 0.2},
        lambda run: max(run.curve("loss").values[61:]),
    ),
}


@pytest.mark.parametrize("name", BOWLS)
def test_a_descent_that_follows_its_note_is_better(name: str) -> None:
    kind, settings, descent, measure = BOWLS[name]
    config = nbft.Config().apply({**SGD, **settings})
    sick = descend(config, **descent)
    found = notes.notes_of(sick, config)
    assert kind in found, found
    advice = notes.advise(found[kind], config)
    assert advice.changes
    cured = descend(config.apply(advice.changes), **descent)
    assert measure(cured) < measure(sick) - 0.1
    assert kind not in notes.notes_of(cured, config) or kind == "spike"
