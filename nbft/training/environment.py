"""What a run needs around it: variables that trackers read, levels of loggers, a device's plugin.

All is put back afterwards, as a run may share its process with a notebook. Called by
`nbft.training.worker`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterator
from typing import Any

from nbft.config import Config
from nbft.hardware import device_of
from nbft.limits import usable_cores

LIBRARIES = ("transformers", "trl", "peft", "accelerate", "datasets", "bitsandbytes")

_BUILT_IN = ("cpu", "cuda", "mps", "xpu")


def variables(config: Config, device: str) -> dict[str, str]:
    """Return the environment variables that a run sets.

    >>> variables(Config(logging={"logging_dir": "tb"}), "cpu")
    {'TENSORBOARD_LOGGING_DIR': 'tb'}
    """
    found: dict[str, str] = {}
    tracking = config.tracking
    if config.logging.logging_dir:
        found["TENSORBOARD_LOGGING_DIR"] = config.logging.logging_dir
    if tracking.report_to:
        for name in ("WANDB_PROJECT", "COMET_PROJECT_NAME", "MLFLOW_EXPERIMENT_NAME"):
            found[name] = tracking.project
    if tracking.report_to and tracking.tags:
        for name in ("WANDB_TAGS", "COMET_START_EXPERIMENT_TAGS"):
            found[name] = ",".join(tracking.tags)
        found["MLFLOW_TAGS"] = json.dumps(dict.fromkeys(tracking.tags, "true"))
    if device not in _BUILT_IN:
        found["ACCELERATE_TORCH_DEVICE"] = device
    return found


@contextlib.contextmanager
def environment(config: Config, device: str) -> Iterator[None]:
    """Set up what a run needs, and put everything back after it.

    Args:
        config: The config.
        device: The device that was chosen.
    """
    asked = variables(config, device)
    environment = {name: os.environ.get(name) for name in asked}
    levels = {name: logging.getLogger(name).level for name in (*LIBRARIES, "nbft")}
    os.environ.update(asked)
    try:
        device_of(device).load()
        _set_levels(config)
        with _determinism(config), _threads():
            yield
    finally:
        for name, value in environment.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _set_levels(config: Config) -> None:
    ours = config.logging
    logging.getLogger("nbft").setLevel(ours.log_level.upper())
    if ours.dep_log_level:
        for name in LIBRARIES:
            logging.getLogger(name).setLevel(ours.dep_log_level.upper())


@contextlib.contextmanager
def _threads() -> Iterator[None]:
    """Compute with no more threads than cores are granted; torch counts those of the machine."""
    import torch

    before, granted = torch.get_num_threads(), usable_cores()
    if before > granted:
        torch.set_num_threads(granted)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _determinism(config: Config) -> Iterator[None]:
    """Put torch's switches back: transformers leaves them on."""
    if not config.training.full_determinism:
        yield
        return
    import torch

    names = ("deterministic", "benchmark")
    backends: Any = torch.backends.cudnn
    before = torch.are_deterministic_algorithms_enabled(), [getattr(backends, n) for n in names]
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0])
        for name, value in zip(names, before[1], strict=True):
            setattr(backends, name, value)
