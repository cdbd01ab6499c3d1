"""Every note: a sick run that gets it, a healthy one that doesn't, and that its advice is accepted."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from nbft import make_plan
from nbft.config import Config
from nbft.runs import notes
from nbft.runs.state import RunState

NAN, INF = float("nan"), float("inf")


def run_of(
    losses: Sequence[float],
    *,
    held: Mapping[int, float] | None = None,
    rates: Sequence[float] | None = None,
    norms: Sequence[float | None] | None = None,
    passes: float = 1.0,
    total: int | None = None,
    peak: int | None = None,
    logged: Mapping[str, Sequence[float]] | None = None,
    **prepared: Any,
) -> RunState:
    """Return a run that has logged these losses, one a step, and other measures by their name.

    Of a measure of the held-out rows, the values are those of each tenth step from 0 on.
    """
    held, total, measures = held or {}, total or len(losses), logged or {}
    run = RunState([{"event": "prepared", "rows": 100, "total_steps": total, **prepared}])
    for step, loss in enumerate([None, *losses]):
        if loss is not None:
            log = {"event": "log", "step": step, "loss": loss, "epoch": passes * step / total}
            log["learning_rate"] = rates[step - 1] if rates else 1e-4
            log["grad_norm"] = norms[step - 1] if norms else 1.0
            log["peak_bytes"] = peak
            run.take(log | {k: v[step - 1] for k, v in measures.items() if k[:5] != "eval_"})
        if step in held:
            also = {k: v[step // 10] for k, v in measures.items() if k[:5] == "eval_"}
            run.take({"event": "eval", "step": step, "eval_loss": held[step], **also})
    return run


def line(first: float, last: float, logs: int, noise: float = 0.0, seed: int = 0) -> list[float]:
    """Return losses along a line, with the noise of batches."""
    rng = random.Random(seed)
    step = (last - first) / max(1, logs - 1)
    return [(first + step * i) * math.exp(rng.gauss(0, noise)) for i in range(logs)]


def found(run: RunState, **changes: Any) -> dict[str, notes.Found]:
    changed = {name.replace("__", "."): value for name, value in changes.items()}
    return notes.notes_of(run, Config().apply(changed))


FALLING = line(2.5, 1.5, 40, 0.05)
LEVEL = line(2.5, 2.5, 40, 0.01)
EVERY_10 = (0, 10, 20, 30, 40)


def held(*values: float) -> dict[int, float]:
    return dict(zip(EVERY_10, values, strict=False))


DPO = {"training__method": "dpo"}
LEARNS = line(0.69, 0.4, 40, 0.05)
HELD = held(0.69, 0.6, 0.55, 0.52, 0.5)
GROWS = line(0.1, 2.0, 40, 0.2)


def wavering(first: float, last: float, noise: float, seed: int = 0) -> list[float]:
    """Return 40 values along a line, with noise in their own unit."""
    rng = random.Random(seed)
    return [value + rng.gauss(0, noise) for value in line(first, last, 40)]


def of_answers(
    chosen: tuple[float, float], rejected: tuple[float, float], *, beta: float = 0.1
) -> dict[str, Sequence[float]]:
    """Return measures of answers whose log-probabilities go from one value to another."""
    found: dict[str, Sequence[float]] = {}
    for seed, (side, (first, last)) in enumerate({"chosen": chosen, "rejected": rejected}.items()):
        found[f"rewards/{side}"] = wavering(0, beta * (last - first), 0.05 * beta * 10, seed)
        found[f"logps/{side}"] = wavering(first, last, 15, seed)  # of answers of all lengths
    return found


def rewarded(
    logs: int = 40, *, equal: float = 0.0, by_length: float = 0.0, **ends: tuple[float, float]
) -> RunState:
    """Return a run with rewards: the share of equal groups, the correlation of reward and length, and
    the first and last value of other measures, with a little noise."""
    rng = random.Random(0)
    names = {"reward": "reward", "length": "completions/mean_length"}
    run = RunState([{"event": "prepared", "rows": 100, "total_steps": logs}])
    for n in range(logs):
        values = {
            names.get(name, f"rewards/{name}/mean"): first
            + (last - first) * n / (logs - 1)
            + rng.gauss(0, 0.01 * max(abs(first), abs(last)))
            for name, (first, last) in ends.items()
        }
        values |= {"frac_reward_zero_std": equal, "reward_length_correlation": by_length}
        run.take({"event": "log", "step": n + 1, "loss": 0.0, **values})
    return run


OF_REWARDS = {
    "training__method": "grpo",
    "grpo__rewards": [
        {"function": "format", "options": {"pattern": "a"}},
        {"function": "exact_number"},
    ],
}
BOTH_RISE = {"reward": (0.3, 1.8), "format": (0.2, 0.98), "exact_number": (0.1, 0.8)}


def test_a_run_whose_rewards_rise_has_no_note() -> None:
    assert found(rewarded(length=(20, 21), **BOTH_RISE), **OF_REWARDS) == {}
    longer = rewarded(length=(20, 40), by_length=0.1, **BOTH_RISE)
    assert found(longer, **OF_REWARDS) == {}


def test_a_reward_that_rises_with_much_noise_is_not_called_unlearned() -> None:
    """Of a real run: the right number 0.33 in its first five steps, 0.78 in the last."""
    task = "16 19 50 22 59 3 47 50 25 41 78 56 47 97 69 62 100 81 72 75"
    form = "41 25 50 53 91 84 97 97 97 100 100 97 100 100 100 94 100 100 100 100"
    run = RunState([{"event": "prepared", "rows": 100, "total_steps": 30}])
    pairs = zip(task.split(), form.split(), strict=True)
    for n, (right, formed) in enumerate(pairs, start=1):
        values = {"exact_number": int(right) / 100, "format": int(formed) / 100}
        named = {f"rewards/{name}/mean": value for name, value in values.items()}
        run.take({"event": "log", "step": n, "loss": 0.0, **named})
    assert "form_only" not in found(run, **OF_REWARDS)


def test_a_loss_of_0_is_none_of_a_method_with_rewards() -> None:
    run = rewarded(length=(20, 21), **BOTH_RISE)
    assert "zero" in found(run)
    assert "zero" not in found(run, **OF_REWARDS)


SICK: dict[str, tuple[RunState, dict[str, Any], list[str]]] = {
    "nan": (run_of([2.0, 1.9, NAN]), {}, ["The loss is nan at step 3", "learning_rate=2e-05"]),
    "no_spread": (
        rewarded(equal=0.9, reward=(0.5, 0.5)),
        OF_REWARDS,
        ["all answers to 90% of the prompts had the same reward", "grpo.temperature=1.3"],
    ),
    "longer_only": (
        rewarded(by_length=0.9, reward=(0.2, 0.9), length=(20, 60)),
        OF_REWARDS,
        ["as the answers get longer (2", "correlation 0.90", "grpo.rewards="],
    ),
    "form_only": (
        rewarded(reward=(0.5, 1.4), format=(0.2, 0.99), exact_number=(0.45, 0.45)),
        OF_REWARDS,
        ["format is learned (0.9", "and exact_number is not (0.4"],
    ),
    "nan before any update": (
        run_of([NAN], total=40),
        {"model__dtype": "bfloat16"},
        ["before the first update, so the cause is in the rows or in the model", "float32"],
    ),
    "nan_gradient": (run_of([2.0, 2.0], norms=[1.0, INF], total=9), {}, ["gradient is inf at st"]),
    "held_out_nan": (
        run_of(FALLING, held=held(2.5, 2.0, 1.8, NAN, NAN)),
        {},
        ["The held-out loss is nan, although the loss is 1."],
    ),
    "zero": (
        run_of([0.0] * 5, total=40, longest=1024),
        {},
        ["exactly 0.0 for 5 logs", "Try data.max_length=2048"],
    ),
    "exploded": (
        run_of([*line(2.5, 2.0, 20, 0.02), 5.0, 7.0, 8.0, 9.0, 9.0, 10.0, 11.0]),
        {},
        ["over 5 logs", "and does not come back", "learning_rate=2e-05. Expect the loss to fall"],
    ),
    "diverged": (
        run_of([*line(2.0, 1.5, 30, 0.01), *line(1.5, 2.2, 40, 0.01)]),
        {},
        ["The loss rises: 1.", "around step"],
    ),
    "diverged slowly from its start": (run_of(line(4.72, 5.05, 40, 0.01)), {}, ["4.7", "rises"]),
    "diverged to the logarithm of the vocabulary": (
        run_of([*line(9.8, 6, 30, 0.01), *line(6, 10.8, 20, 0.01)]),
        {},
        ["The loss rises: 6.", "10."],
    ),
    "row_order": (
        run_of(line(1.5, 3.0, 40, 0.02), held=held(2.5, 2.4, 2.3, 2.2, 2.1)),
        {"data__shuffle": False},
        ["while the held-out loss went from 2.5 to 2.1", "in their own order", "data.shuffle=true"],
    ),
    "base_best": (
        run_of(line(2.5, 1.5, 40, 0.02), held=held(2.0, 2.2, 2.3, 2.4, 2.5)),
        {},
        ["The base model was best", "2 before training and is 2.5", "learning_rate=2e-05"],
    ),
    "stopped_early": (
        run_of(line(2.5, 0.5, 40), held=held(2.5, 2.0, 1.8, 1.9, 2.0), total=100, passes=5),
        {"callbacks__early_stopping_patience": 2, "training__max_steps": 100},
        ["ends the run after step 40 of 100", "lowest at step 20 (1.8) and is 2."],
    ),
    "stopped_early by a callback": (
        run_of(line(2.5, 0.5, 30), held=held(2.5, 2.0, 1.8, 1.9), total=100, passes=5),
        {"callbacks__callbacks": {"early_stopping": {}}, "training__max_steps": 100},
        ["ends the run after step 30 of 100"],
    ),
    "overfit": (
        run_of(line(2.5, 0.5, 40), held=held(2.5, 2.0, 1.8, 1.9, 2.0), passes=5),
        {},
        ["after 5 passes", "lowest at step 20 (1.8) and is 2", "load_best_model_at_end=true"],
    ),
    "high_rate": (
        run_of(line(2.5, 2.4, 40), held=held(2.5, 2.0, 1.8, 1.9, 2.0)),
        {},
        ["no row was seen twice: the learning rate is too high", "learning_rate=2e-05"],
    ),
    "clipped": (
        run_of(FALLING, norms=[0.5] * 40),
        {"training__max_grad_norm": 0.001},
        ["at least 0.5 in the last 20 logs", "limit of 0.001", "max_grad_norm=1"],
    ),
    "endless_warmup": (
        run_of(LEVEL, warmup_steps=4000, rates=[n * 5e-8 for n in range(40)]),
        {"scheduler__warmup_steps": 4000},
        ["takes 4,000 steps of a run of 40", "rate is only 1.9e-06", "warmup_steps=0.05"],
    ),
    "tiny_rate": (
        run_of(LEVEL, held=held(2.5, 2.5, 2.5, 2.4999, 2.4999)),
        {"training__learning_rate": 1e-7},
        ["hardly changed: 2.5 at step 0, 2.5 at step 40", "1e-07 is low for LoRA", "=0.0002"],
    ),
    "tiny_rate of SGD": (
        run_of(LEVEL),
        {"optimizer__optim": "sgd"},
        ["0.0002 is low for SGD", "learning_rate=0.05"],
    ),
    "flat": (run_of(LEVEL), {}, ["over 40 logs it has changed by", "learning_rate=0.0006"]),
    "margin_without_accuracy": (
        run_of(
            LEARNS,
            held=HELD,
            eval_rows=400,
            logged={
                "rewards/margins": GROWS,
                "eval_rewards/accuracies": (0.5, 0.78, 0.76, 0.7, 0.66),
            },
        ),
        DPO,
        [
            *("the reward margin grew from 0.", "66% are in the right order, after 78% at step 10"),
            "training.num_train_epochs=0.25",
        ],
    ),
    "length_alone": (
        run_of(
            LEARNS,
            held=HELD,
            eval_rows=400,
            length_accuracy=0.72,
            logged={"eval_rewards/accuracies": (0.5, 0.6, 0.66, 0.71, 0.73)},
        ),
        DPO,
        ["orders 73% of the held-out pairs rightly", "orders 72% rightly", "nbft.doctor"],
    ),
    "length_alone by the training pairs": (
        run_of(
            LEARNS, length_accuracy=0.8, logged={"rewards/accuracies": wavering(0.8, 0.8, 0.02)}
        ),
        DPO,
        ["80% of the training pairs"],
    ),
    "both_less_likely": (
        run_of(LEARNS, logged=of_answers((-60, -85), (-58, -110))),
        DPO,
        ["Both answers have become less likely", "Try preference.sft_loss_ratio=0.2"],
    ),
    "both_less_likely by the held-out pairs": (
        run_of(
            LEARNS,
            held=HELD,
            logged={
                "eval_logps/chosen": (-60, -62, -66, -70, -75),
                "eval_logps/rejected": (-55, -60, -70, -80, -95),
            },
        ),
        {"training__method": "cpo"},
        ["chosen ones went from -60 to -75, that of the rejected ones from -55 to -95", "Try "],
    ),
    "spike": (
        run_of([*FALLING, 9.0, *line(1.5, 1.4, 10, 0.05)]),
        {"training__max_grad_norm": 0.0},
        ["jumped from about 1.", "to 9 at step 41 and came back", "max_grad_norm=1"],
    ),
    "more_memory": (
        run_of(FALLING, peak=3 * 2**30, planned_bytes=2**31, planned_most_bytes=2.5 * 2**30),
        {},
        ["takes 3.0 GiB of memory; the plan expected 2.0 GiB, and 2.5 GiB at most"],
    ),
    "no_rate": (run_of([2.0] * 5, rates=[0.0] * 5, total=50), {}, ["has been 0 for 5 logs"]),
    "schedule_over": (
        run_of(FALLING, rates=[1e-4] * 20 + [0.0] * 20, total=100),
        {"scheduler__lr_scheduler_type": "polynomial", "scheduler__power": 20.0},
        ["practically 0 since step 21 of 100", "Try scheduler.power=none"],
    ),
}
"""A sick run, its settings and words of its note; the key begins with the name of the note."""


@pytest.mark.parametrize("name", SICK)
def test_a_sick_run_gets_its_note_and_no_other(name: str) -> None:
    run, changes, words = SICK[name]
    kind = name.split()[0]
    config = Config().apply({path.replace("__", "."): v for path, v in changes.items()})
    all_found = notes.notes_of(run, config)
    assert list(all_found) == [kind]
    text = notes.advise(all_found[kind], config).text
    assert [word for word in words if word not in text] == [], text


def test_every_note_has_a_sick_run() -> None:
    assert {name.split()[0] for name in SICK} == set(notes.NOTES)


@pytest.mark.parametrize("name", SICK)
def test_a_healthy_run_with_these_settings_has_no_note(name: str) -> None:
    changes = SICK[name][1]
    if name == "clipped":
        changes = {}
    healthy = run_of(FALLING, held=held(2.5, 2.2, 2.0, 1.9, 1.8), passes=2)
    assert found(healthy, **changes) == {}


HEALTHY: dict[str, tuple[RunState, dict[str, Any]]] = {
    "pairs that are learned": (
        run_of(
            LEARNS,
            held=HELD,
            eval_rows=400,
            length_accuracy=0.72,
            logged={
                **of_answers((-60, -57), (-58, -90)),
                "rewards/margins": GROWS,
                "rewards/accuracies": wavering(0.6, 0.95, 0.05),
                "eval_rewards/accuracies": (0.5, 0.7, 0.78, 0.84, 0.86),
                "eval_logps/chosen": (-60, -60, -59, -58, -58),
                "eval_logps/rejected": (-58, -60, -70, -80, -90),
            },
        ),
        DPO,
    ),
    "chosen answers that become a little less likely": (
        run_of(LEARNS, logged=of_answers((-60, -63), (-58, -90))),
        DPO,
    ),
    "an accuracy that wavers within the chance of few held-out pairs": (
        run_of(
            LEARNS,
            held=HELD,
            eval_rows=40,
            logged={
                "rewards/margins": GROWS,
                "eval_rewards/accuracies": (0.5, 0.75, 0.7, 0.65, 0.68),
            },
        ),
        DPO,
    ),
    "an accuracy as of chance, where length tells nothing": (
        run_of(
            LEARNS,
            held=HELD,
            length_accuracy=0.52,
            logged={"eval_rewards/accuracies": (0.5, 0.5, 0.51, 0.52, 0.52)},
        ),
        DPO,
    ),
    "an accuracy on its way past that of length": (
        run_of(
            LEARNS,
            held=HELD,
            eval_rows=400,
            length_accuracy=0.7,
            logged={"eval_rewards/accuracies": (0.5, 0.6, 0.7, 0.78, 0.85)},
        ),
        DPO,
    ),
    "one high step of a short run": (run_of([2.0] * 5 + [9.0] + [2.0] * 5), {}),
    "a held-out loss that wavers": (run_of(FALLING, held=held(2.1, 1.8, 1.9, 1.8, 1.9)), {}),
    "a held-out loss that hardly rises": (run_of(FALLING, held=held(2.0, 1.9, 1.91, 1.92)), {}),
    "a warm-up in which the held-out loss rises": (
        run_of(FALLING[:20], held=held(2.0, 2.05, 2.06), warmup_steps=21, total=400),
        {},
    ),
    "one overflow of the loss scale of fp16": (
        run_of(FALLING, norms=[1.0] * 39 + [INF]),
        {"precision__mixed_precision": "fp16"},
    ),
    "short and long answers by turns": (run_of([0.3, 3.0, 3.1, 0.2] * 20), {}),
    "five long answers in a row": (run_of([0.3, 3.0, 0.2, 3.1] * 8 + [3.0] * 5), {}),
    "the end of a cosine": (
        run_of(FALLING, rates=[1e-4 * (1 + math.cos(math.pi * n / 40)) / 2 for n in range(40)]),
        {},
    ),
    "the middle of a schedule with two waves": (
        run_of(FALLING, rates=[1e-4 * abs(math.cos(math.pi * n / 40)) for n in range(40)]),
        {},
    ),
    "a rate of 0 at the first step": (run_of(FALLING, rates=[0.0] + [1e-4] * 39), {}),
    "gradients somewhat above their limit": (run_of(FALLING, norms=[5.0] * 40), {}),
    "a run that has just begun": (run_of(LEVEL[:20], total=1000, warmup_steps=30), {}),
    "rows learnt to a loss near 0": (
        run_of([*line(2.0, 0.002, 30), *[0.002, 0.004] * 10, *[0.006, 0.008] * 5]),
        {},
    ),
}


@pytest.mark.parametrize("name", HEALTHY)
def test_what_is_no_pathology(name: str) -> None:
    run, changes = HEALTHY[name]
    assert found(run, **changes) == {}


def test_one_high_batch_among_many_like_it_is_no_spike() -> None:
    assert found(run_of([2.0, 2.0, 6.0, 2.0] * 15 + [1.9] * 3)) == {}


@pytest.mark.parametrize(("logs", "step"), [(24, None), (60, 25)])
def test_gradients_that_no_loss_scale_helps(logs: int, step: int | None) -> None:
    """The scale is 2**16, and each overflow halves it."""
    kinds = []
    for n in range(1, logs + 1):
        run = run_of([2.0] * n, norms=[NAN] * n, total=1000)
        if "nan_gradient" in found(run, precision__mixed_precision="fp16"):
            kinds.append(n)
    assert (kinds[0] if kinds else None) == step


def test_rising_is_never_flat() -> None:
    for noise, logs in itertools.product((0.005, 0.02, 0.05), (40, 100, 400)):
        for seed in range(5):
            kinds = set(found(run_of(line(4.0, 4.6, logs, noise, seed))))
            is_clear = noise < 0.03 or logs > 100  # a rise by 14%
            assert kinds == {"diverged"} if is_clear else "flat" not in kinds


def test_flat_is_found_during_the_run_and_despite_noise() -> None:
    hits = [
        "flat" in found(run_of(line(2.5, 2.5, 100, 0.05, seed), total=200, held={0: 2.5, 90: 2.5}))
        for seed in range(20)
    ]
    assert all(hits)
    by_trend = [
        "tiny_rate" in found(run_of(line(2.5, 2.5, 60, 0.1, s)), training__learning_rate=1e-7)
        for s in range(50)
    ]
    assert sum(by_trend) >= 38


def test_overfitting_with_a_kept_best_checkpoint_proposes_what_is_not_set() -> None:
    run = SICK["overfit"][0]
    keep = {
        "checkpoint.load_best_model_at_end": True,
        "checkpoint.save_strategy": "epoch",
        "evaluation.eval_strategy": "epoch",
    }
    proposed = []
    config = Config().apply(keep)
    for _ in range(6):
        what = notes.overfit(run, config)
        assert what is not None
        advice = notes.advise(what, config)
        assert "load_best" not in "".join(advice.changes)
        proposed += advice.changes
        config = config.apply(advice.changes)
    assert "callbacks.early_stopping_patience" in proposed
    assert "The best checkpoint is kept." in advice.text


# Healthy runs of many kinds.


def _level(shape: str, done: float) -> float:
    """Return how much of its fall a loss has done."""
    if shape == "late":
        return done**1.3
    if shape == "power":
        return (1 - (1 + 20 * done) ** -0.5) / (1 - 21**-0.5)
    if shape == "three passes":
        return (math.floor(3 * done) + 0.3 * (3 * done % 1)) / 3
    return (1 - math.exp(-4 * done)) / (1 - math.exp(-4))


def healthy_stream(seed: int) -> Iterable[tuple[RunState, int, int]]:
    """Yield a healthy run after each step, with the step and the number of steps."""
    rng = random.Random(seed)
    steps = rng.choice([10, 20, 30, 50, 100, 200, 400])
    start, fall = rng.choice([0.8, 1.5, 2.5, 4, 10.8]), rng.choice([0.05, 0.1, 0.3, 0.6])
    noise = rng.choice([0.02, 0.1, 0.25, 0.4])
    shape = rng.choice(["exponential", "late", "power", "three passes"])
    warmup, evaluations = int(steps * rng.choice([0, 0.03, 0.1])), rng.choice([0, 2, 4, 10])
    run = RunState([{"event": "prepared", "total_steps": steps, "warmup_steps": warmup, "rows": 9}])
    if evaluations:
        run.take({"event": "eval", "step": 0, "eval_loss": start})
    for step in range(1, steps + 1):
        loss = start * (1 - fall * _level(shape, step / steps))
        rate = step / max(1, warmup)
        if step > warmup:
            rate = (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup))) / 2
        run.take(
            {
                "event": "log",
                "step": step,
                "loss": loss * rng.lognormvariate(0, noise),
                "learning_rate": 2e-4 * rate,
                "grad_norm": rng.lognormvariate(0.3, 0.5),
                "epoch": 3 * step / steps,
            }
        )
        if evaluations and step % max(1, steps // evaluations) == 0:
            wavers = start * rng.gauss(0, 0.001)
            run.take(
                {"event": "eval", "step": step, "eval_loss": 0.2 * start + 0.8 * loss + wavers}
            )
        yield run, step, steps


@pytest.mark.parametrize("seed", range(40))
def test_a_healthy_run_has_no_note_at_any_step(seed: int) -> None:
    look = 0
    for run, step, steps in healthy_stream(seed):
        if step >= look or step == steps:
            look = step + max(1, step // 50)  # as often as the callback
            assert found(run) == {}, step


# What a note proposes.

CONFIGS: dict[str, dict[str, Any]] = {
    "default": {},
    "full": {"peft.method": "full", "training.learning_rate": 2e-5},
    "full, at its lowest rate": {"peft.method": "full", "training.learning_rate": 1e-6},
    "full, too fast": {"peft.method": "full", "training.learning_rate": 2e-4},
    "LoRA, slow": {"training.learning_rate": 1e-5},
    "LoRA, at its lowest rate": {"training.learning_rate": 2e-5},
    "LoRA, too fast": {"training.learning_rate": 0.05},
    "LoRA+": {"peft.loraplus_lr_ratio": 16.0},
    "IA3": {"peft.method": "ia3", "training.learning_rate": 3e-3},
    "SGD": {"optimizer.optim": "sgd", "training.learning_rate": 0.05},
    "no evaluation": {"evaluation.eval_strategy": "no"},
    "no held-out rows": {"evaluation.eval_strategy": "no", "data.split_ratio": 1.0},
    "measured every 7 steps": {"evaluation.eval_strategy": "steps", "evaluation.eval_steps": 7},
    "steps": {"training.max_steps": 40},
    "best kept": {
        "checkpoint.load_best_model_at_end": True,
        "checkpoint.save_strategy": "epoch",
    },
    "saved when best": {"checkpoint.save_strategy": "best"},
    "early stopping": {"callbacks.early_stopping_patience": 3},
    "everything against overfitting": {
        "callbacks.early_stopping_patience": 2,
        "callbacks.early_stopping_threshold": 0.01,
        "checkpoint.load_best_model_at_end": True,
        "checkpoint.save_strategy": "epoch",
        "optimizer.weight_decay": 0.05,
    },
    "constant": {"scheduler.lr_scheduler_type": "constant"},
    "no clipping, no warm-up": {"training.max_grad_norm": 0.0, "scheduler.warmup_steps": 0.0},
    "packed": {"data.packing": True, "training.max_steps": 40},
    "by length": {"data.train_sampling_strategy": "group_by_length"},
    "least rate of cosine": {"scheduler.min_lr": 1e-4},
    "arguments of a schedule": {
        "scheduler.lr_scheduler_type": "polynomial",
        "scheduler.lr_scheduler_kwargs": {"power": 20},
    },
}


@pytest.fixture(scope="module")
def plans(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Return a function that makes the plan of a config, once."""
    kept: dict[str, Any] = {}

    def plan(config: Config) -> Any:
        key = repr(config.to_dict(full=True))
        if key not in kept:
            kept[key] = make_plan(config)
        return kept[key]

    return plan


@pytest.mark.parametrize("setup", CONFIGS)
def test_what_a_note_proposes_is_new_and_accepted(
    setup: str, tiny_model: Path, tmp_path: Path, plans: Callable[..., Any]
) -> None:
    rows = [{"prompt": f"Add {n}.\n", "completion": str(n)} for n in range(40)]
    base = Config(model={"model_name": str(tiny_model)}, data={"rows": rows}).apply(
        {"training.output_dir": str(tmp_path), **CONFIGS[setup]}
    )
    assert plans(base).errors == []
    proposed = set()
    for name, (run, changes, _) in SICK.items():
        wanted = {path.replace("__", "."): value for path, value in changes.items()}
        try:
            config = base.apply(wanted)
        except Exception:
            continue
        if plans(config).errors:
            continue
        what = notes.NOTES[name.split()[0]].find(run, config)
        if what is None:
            continue
        advice = notes.advise(what, config)
        assert bool(advice.changes) == ("Try " in advice.text), name
        assert advice.changes or what.otherwise or name == "stopped_early", (name, advice.text)
        changed = config.apply(advice.changes)
        assert changed != config or not advice.changes, name
        assert plans(changed).errors == [], (name, advice.changes)
        known = {problem.field for problem in plans(config).problems}
        proposed |= {name} if advice.changes else set()
        about = [p for p in plans(changed).problems if p.field in advice.changes.keys() - known]
        assert about == [], (name, advice.changes, about)
    assert len(proposed) >= 10, proposed
