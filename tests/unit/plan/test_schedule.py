"""Steps and learning rates are those of transformers itself."""

import itertools
import types

import pytest
import torch
import transformers

from nbft import registry
from nbft.config import Config
from nbft.plan.schedule import (
    learning_rate_at,
    shape_of,
    steps_per_epoch,
    total_steps,
    warmup_steps,
)


def _theirs(config, total):
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=config.training.learning_rate)
    arguments = transformers.TrainingArguments(
        "x", use_cpu=True, warmup_steps=config.scheduler.warmup_steps
    )
    kind, more = shape_of(config)
    scheduler = transformers.get_scheduler(
        kind,
        optimizer,
        num_warmup_steps=arguments.get_warmup_steps(total),
        num_training_steps=total,
        scheduler_specific_kwargs=more,
    )
    rates = []
    for _ in range(total + 1):
        rates.append(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()
    return rates


_KINDS = registry.schedulers.keys()
_ARGUMENTS = {
    "cosine": [{}, {"num_cycles": 1.5}],
    "cosine_with_restarts": [{}, {"num_cycles": 3}],
    "cosine_with_min_lr": [
        {"min_lr": 1e-5},
        {"min_lr_rate": 0.1},
        {"min_lr_rate": 0.2, "num_cycles": 1.0},
    ],
    "polynomial": [{}, {"power": 2.0, "lr_end": 1e-5}],
    "inverse_sqrt": [{}, {"timescale": 30}],
}


@pytest.mark.parametrize(
    ("kind", "more"), [(k, more) for k in _KINDS for more in _ARGUMENTS.get(k, [{}])], ids=str
)
@pytest.mark.parametrize(("total", "warmup"), [(40, 0.05), (7, 3), (10, 0), (1, 0.05), (3, 5)])
def test_the_learning_rate_at_every_step(kind, more, total, warmup):
    config = Config(
        scheduler={
            "lr_scheduler_type": kind,
            "lr_scheduler_kwargs": more,
            "warmup_steps": warmup,
        },
        training={"learning_rate": 3e-4},
    )
    if kind == "polynomial" and warmup_steps(config, total) == total:
        pytest.skip("transformers divides by zero here; the plan warns of such a warm-up")
    rate = learning_rate_at(config, total)
    ours = [rate(step) for step in range(total + 1)]
    assert ours == pytest.approx(_theirs(config, total), rel=1e-9, abs=1e-15)


def _their_steps(config, rows):
    class Sized:
        def __init__(self, n):
            self.n = n

        def __len__(self):
            return self.n

        def __getitem__(self, number):
            return number

    loader = torch.utils.data.DataLoader(
        Sized(rows),
        batch_size=config.training.per_device_train_batch_size,
        drop_last=config.data.dataloader_drop_last,
    )
    arguments = transformers.TrainingArguments(
        "x",
        use_cpu=True,
        max_steps=config.training.max_steps,
        num_train_epochs=config.training.num_train_epochs,
        per_device_train_batch_size=config.training.per_device_train_batch_size,
        gradient_accumulation_steps=config.training.gradient_accumulation_steps,
    )
    trainer = types.SimpleNamespace(
        get_total_train_batch_size=lambda _: 1,
        get_sp_size=lambda: 1,
        num_examples=len,
        args=arguments,
    )
    found = transformers.Trainer.set_initial_training_values(trainer, arguments, loader)
    return found[1], found[-1]


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("max_steps", [-1, 5])
def test_the_steps_of_a_run(drop_last, max_steps):
    grid = itertools.product([8, 17, 100], [1, 3, 8], [1, 4], [0.3, 1, 2.5])
    for rows, batch, accumulation, epochs in grid:
        config = Config(
            training={
                "per_device_train_batch_size": batch,
                "gradient_accumulation_steps": accumulation,
                "num_train_epochs": epochs,
                "max_steps": max_steps,
            },
            data={"dataloader_drop_last": drop_last},
        )
        ours = (steps_per_epoch(config, rows), total_steps(config, rows))
        assert ours == _their_steps(config, rows), (rows, batch, accumulation, epochs)


@pytest.mark.parametrize(
    ("asked", "steps"), [(0, 0), (0.05, 5), (0.041, 5), (0.99, 99), (1, 1), (1.9, 1), (250, 250)]
)
def test_a_warmup_below_one_is_a_share(asked, steps):
    config = Config(scheduler={"warmup_steps": asked})
    assert warmup_steps(config, 100) == steps
    theirs = transformers.TrainingArguments("x", use_cpu=True, warmup_steps=asked)
    assert theirs.get_warmup_steps(100) == steps


@pytest.mark.parametrize(
    ("kind", "given"),
    [
        ("cosine", {"min_lr": 1e-5}),
        ("cosine", {"num_cycles": 1.5}),
        ("cosine", {"min_lr": 2e-5, "num_cycles": 1.0}),
        ("cosine_with_restarts", {"num_cycles": 3.0}),
        ("polynomial", {"lr_end": 1e-5}),
        ("polynomial", {"power": 2.0}),
    ],
    ids=str,
)
def test_the_settings_of_a_shape(kind, given):
    """Each changes the curve, and the curve is transformers'."""
    plain = Config(scheduler={"lr_scheduler_type": kind}, training={"learning_rate": 3e-4})
    config = Config(
        scheduler={"lr_scheduler_type": kind, **given}, training={"learning_rate": 3e-4}
    )
    ours = [learning_rate_at(config, 40)(step) for step in range(41)]
    assert ours == pytest.approx(_theirs(config, 40), rel=1e-9, abs=1e-15)
    assert ours != pytest.approx([learning_rate_at(plain, 40)(step) for step in range(41)])
    lowest = given.get("min_lr", given.get("lr_end"))
    if lowest:
        assert min(ours[2:]) == pytest.approx(lowest)


def test_a_shape_of_ones_own():
    @registry.schedulers.register("halves")
    def halves(step, warmup_steps, total_steps, *, base=2):
        return base**-step

    try:
        config = Config(
            scheduler={"lr_scheduler_type": "halves", "lr_scheduler_kwargs": {"base": 4}},
            training={"learning_rate": 0.1},
        )
        assert learning_rate_at(config, 10)(2) == pytest.approx(0.1 / 16)
    finally:
        registry.schedulers.unregister("halves")


def test_an_epoch_of_another_length():
    config = Config(
        training={
            "num_samples_each_epoch": 10,
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 1,
            "num_train_epochs": 3,
        }
    )
    assert (steps_per_epoch(config, 1000), total_steps(config, 1000)) == (5, 15)
