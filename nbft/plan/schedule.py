"""Number of steps and learning rate schedule, without torch.

The formulas are those of transformers (`Trainer.set_initial_training_values`,
`optimization.get_scheduler`); a test compares them with the originals.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from nbft import registry
from nbft.config import Config
from nbft.methods import method_of

ARGUMENTS_OF = {
    "cosine": {"num_cycles"},
    "cosine_with_restarts": {"num_cycles"},
    "cosine_with_min_lr": {"num_cycles", "min_lr", "min_lr_rate"},
    "polynomial": {"lr_end", "power"},
    "inverse_sqrt": {"timescale"},
}
"""Arguments of each shape. Source: the functions behind transformers' get_scheduler."""

OWN_SETTINGS = ("min_lr", "num_cycles", "lr_end", "power")
"""Arguments with a setting of their own."""


def shape_of(config: Config) -> tuple[str, dict[str, Any]]:
    """Return transformers' name of the schedule, and its arguments.

    >>> shape_of(Config(scheduler={"lr_scheduler_type": "cosine", "min_lr": 1e-5}))
    ('cosine_with_min_lr', {'min_lr': 1e-05})
    """
    ours = config.scheduler
    kind = ours.lr_scheduler_type
    if kind == "cosine" and ours.min_lr:
        kind = "cosine_with_min_lr"
    arguments = {
        name: value
        for name in OWN_SETTINGS
        if name in ARGUMENTS_OF.get(kind, set()) and (value := getattr(ours, name)) is not None
    }
    return kind, arguments | ours.lr_scheduler_kwargs


def steps_per_epoch(config: Config, rows: int) -> int:
    """Return the optimiser steps of one pass over the rows.

    Args:
        config: Its training section gives the batch size.
        rows: Training rows; batches where data.max_tokens_per_batch makes them.
    """
    rows = config.training.num_samples_each_epoch or rows
    batch = rows_per_batch(config)
    batches = method_of(config).micro_batches(config, rows)
    if batches is None:
        batches = rows // batch if config.data.dataloader_drop_last else math.ceil(rows / batch)
    if (several := config.distributed.data_parallel_size) > 1:  # each takes every so-manieth batch
        is_whole = config.data.dataloader_drop_last
        batches = batches // several if is_whole else math.ceil(batches / several)
    return max(math.ceil(batches / config.training.gradient_accumulation_steps), 1)


def rows_per_batch(config: Config) -> int:
    """Return the sequences of a batch; batches by their tokens count as one sequence each."""
    if config.data.max_tokens_per_batch is not None:
        return 1
    return config.training.per_device_train_batch_size


def total_steps(config: Config, rows: int) -> int:
    """Return the optimiser steps of the whole run."""
    if config.training.max_steps > 0:
        return config.training.max_steps
    return math.ceil(config.training.num_train_epochs * steps_per_epoch(config, rows))


def warmup_steps(config: Config, total: int, asked: float | None = None) -> int:
    """Return the steps over which the learning rate rises.

    Args:
        config: Its scheduler section gives the number or share.
        total: Optimiser steps of the run.
        asked: Used instead of the config's; below 1 it is a share of all steps.
    """
    asked = config.scheduler.warmup_steps if asked is None else asked
    return int(asked) if asked >= 1 else math.ceil(total * asked)


def learning_rate_at(config: Config, total: int) -> Callable[[int], float]:
    """Return the function from a step, counted from 0, to its learning rate.

    Args:
        config: Its scheduler section gives the shape.
        total: Optimiser steps of the run.
    """
    peak = config.training.learning_rate
    kind, arguments = shape_of(config)
    warmup = 0 if kind == "constant" else warmup_steps(config, total)
    after = max(1, total - warmup)

    if registry.schedulers.is_own(kind):
        share = registry.schedulers.get(kind)
        return lambda step: peak * float(share(step, warmup, total, **arguments))

    def number(name: str, default: float) -> float:
        value = arguments.get(name)
        return default if value is None else float(value)

    def decayed(step: int) -> float:
        """Return the share of the peak after the warm-up."""
        done = (step - warmup) / after
        if kind == "linear":
            return max(0.0, (total - step) / after)
        if kind == "cosine":
            return max(0.0, (1 + math.cos(2 * math.pi * number("num_cycles", 0.5) * done)) / 2)
        if kind == "cosine_with_restarts":
            if done >= 1:
                return 0.0
            return (1 + math.cos(math.pi * (number("num_cycles", 1) * done % 1))) / 2
        if kind == "cosine_with_min_lr":
            lowest = number("min_lr_rate", number("min_lr", 0) / peak)
            wave = (1 + math.cos(2 * math.pi * number("num_cycles", 0.5) * done)) / 2
            return max(0.0, wave * (1 - lowest) + lowest)
        if kind == "polynomial":
            end = number("lr_end", 1e-7) / peak
            return end if done > 1 else (1 - end) * (1 - done) ** number("power", 1) + end
        if kind == "inverse_sqrt":
            scale = number("timescale", warmup or 10_000)
            return 1 / math.sqrt((step + scale - warmup) / scale)
        return 1.0

    def rate(step: int) -> float:
        return peak * (step / warmup if step < warmup else decayed(step))

    return rate
