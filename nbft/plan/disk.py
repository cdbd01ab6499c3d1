"""What a run writes to its disk: checkpoints, and the adapter or model at the end."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nbft.config import Config
from nbft.config.io import is_there
from nbft.decisions import Decisions, best_measure
from nbft.errors import Problem
from nbft.formatting import count, size
from nbft.plan.memory import Shape, saved_weight_bytes, state_bytes, trainable_parameters
from nbft.plan.problems import error

_TOKENIZER_FILES = ("*token*", "vocab*", "merges.txt", "*.jinja", "*.model")
_OTHER_BYTES = 2**20
"""Events, log, plan and report; and the states of trainer, schedule and random numbers."""

_LOG_BYTES = 1000
"""A logged step, in the events and in the trainer's state of each checkpoint."""

_UNKNOWN_BYTES = 300 * 2**20
"""Assumed where the model is not on this machine: a small adapter and two checkpoints of it."""

_QUANTISED_MOMENTS_BYTES = 2 + 4 * 4 / 128
"""Of both moments of a parameter: a byte each, and two numbers for each block of 128."""


@dataclass(frozen=True)
class DiskUse:
    """The most that a run has on its disk at once; an estimate.

    Attributes:
        checkpoint_bytes: One checkpoint.
        checkpoints: Checkpoints at once: those that are kept, and one more while it is written.
        result_bytes: The adapter or model at the end.
        other_bytes: Everything else.
    """

    checkpoint_bytes: int
    checkpoints: int
    result_bytes: int
    other_bytes: int

    @property
    def total_bytes(self) -> int:
        """All of it."""
        kept = self.checkpoint_bytes * self.checkpoints
        return kept + self.result_bytes + self.other_bytes


def disk_use(
    config: Config,
    shape: Shape,
    decisions: Decisions,
    tokenizer_folder: Path | None,
    *,
    total_steps: int,
    steps_per_epoch: int,
) -> DiskUse:
    """Estimate what a run writes.

    Args:
        config: The config.
        shape: The model's shape.
        decisions: Number type of the weights.
        tokenizer_folder: Folder of the tokenizer, which is saved with each checkpoint.
        total_steps: Optimiser steps of the run.
        steps_per_epoch: Optimiser steps of an epoch.
    """
    saving, trained = config.checkpoint, trainable_parameters(config, shape)
    is_o2 = config.precision.fp16_opt_level == "O2" and decisions.mixed_precision.value != "no"
    weights = saved_weight_bytes(config, shape, "bfloat16" if is_o2 else decisions.dtype.value)
    logs = _LOG_BYTES * math.ceil(total_steps / max(1, config.logging.logging_steps))
    result = weights + _tokenizer_bytes(tokenizer_folder)
    checkpoint = float(result + logs)
    if not saving.save_only_model:
        moments = state_bytes(config)
        checkpoint += trained * (
            _QUANTISED_MOMENTS_BYTES if saving.quantize_checkpoint else moments
        )
        checkpoint += trained * 4 * is_o2
    is_saved = saving.save_final_model and config.training.do_train
    return DiskUse(
        round(checkpoint),
        _checkpoints_at_once(config, total_steps, steps_per_epoch),
        result if is_saved else 0,
        _OTHER_BYTES + logs,
    )


def _checkpoints_at_once(config: Config, total_steps: int, steps_per_epoch: int) -> int:
    saving, evaluation = config.checkpoint, config.evaluation
    if not config.training.do_train:
        return 0
    strategy, every = saving.save_strategy, saving.save_steps
    if strategy == "best":  # whenever it improves
        strategy = evaluation.eval_strategy
        every = evaluation.eval_steps or config.logging.logging_steps
    epochs = math.ceil(total_steps / max(1, steps_per_epoch))
    made = {"no": 0, "epoch": epochs, "steps": math.ceil(total_steps / every)}[strategy]
    if saving.save_on_epoch_end and strategy == "steps":
        made = min(total_steps, made + epochs)
    if saving.save_total_limit is None:
        return made
    kept = saving.save_total_limit
    if best_measure(config) is not None:
        kept = max(kept, 2)  # the best and the last
    return min(made, kept + 1)


def _tokenizer_bytes(folder: Path | None) -> int:
    """Return the bytes of a tokenizer's files."""
    if folder is None:
        return 0
    files = {file for pattern in _TOKENIZER_FILES for file in folder.glob(pattern)}
    return sum(file.stat().st_size for file in files if file.is_file())


def free_disk_bytes(config: Config) -> int:
    """Return what is free on the disk of training.output_dir, which need not exist yet."""
    folder = Path(config.training.output_dir).expanduser().absolute()
    while not is_there(folder):
        folder = folder.parent
    return shutil.disk_usage(folder).free


def disk_problems(config: Config, use: DiskUse | None) -> Iterator[Problem]:
    """Yield a problem where the disk is too small for a run.

    Args:
        config: The config.
        use: What the run writes; None where that is not known.
    """
    free = free_disk_bytes(config)
    if use is None:
        if free < _UNKNOWN_BYTES:
            yield error(
                "training.output_dir",
                f"the disk has {free / 2**20:,.0f} MiB free; a run needs about "
                f"{_UNKNOWN_BYTES / 2**20:,.0f} MiB.",
                "Free some space, or choose a folder on another disk.",
            )
        return
    if use.total_bytes <= free:
        return
    parts = []
    if use.checkpoints:
        parts.append(f"{count(use.checkpoints, 'checkpoint')} of {size(use.checkpoint_bytes)}")
    if use.result_bytes:
        what = "adapter" if config.peft.trains_adapter else "model"
        parts.append(f"the {what} of {size(use.result_bytes)}")
    written = f" ({' and '.join(parts)})" if parts else ""
    fix = "Free some space, or choose a folder on another disk."
    fits = _limit_that_fits(use, free)
    changes = {}
    if fits and (config.checkpoint.save_total_limit or math.inf) > fits:
        changes = {"checkpoint.save_total_limit": fits}
        fix = f"Use checkpoint.save_total_limit={fits}, or choose a folder on another disk."
    yield error(
        "training.output_dir",
        f"the run writes about {size(use.total_bytes)} at once{written}, and {size(free)} are free.",
        fix,
        changes,
    )


def _limit_that_fits(use: DiskUse, free: int) -> int:
    """Return how many checkpoints can be kept, besides the one that is being written; 0 if none."""
    left = free - use.result_bytes - use.other_bytes
    return max(0, left // max(1, use.checkpoint_bytes) - 1)
