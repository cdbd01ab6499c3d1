"""What surrounds a run: its log file, environment variables, log levels, a device's plugin.

Everything is restored afterwards, since a run may share its process with a notebook. Called by
`nbft.training.worker`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from nbft.access import inherit
from nbft.config import Config
from nbft.hardware import Choice, device_of
from nbft.limits import usable_cores
from nbft.redaction import redact_text
from nbft.tracking import changed_variables

LIBRARIES = ("transformers", "trl", "peft", "accelerate", "datasets", "bitsandbytes")

_LONGEST_LINE_CHARS = 100_000
# A killed run loses so much of what it logged, rather than 15 s in W&B's file and 5 s in Phoenix.
_SOON = {"WANDB__TRANSACTION_LOG_FLUSH_INTERVAL": "1", "OTEL_BSP_SCHEDULE_DELAY": "1000"}

_BUILT_IN = ("cpu", "cuda", "mps", "xpu")


def variables(
    config: Config, device: str, trackers: Mapping[str, Choice] | None = None
) -> dict[str, str | None]:
    """Return the environment variables that a run sets; it unsets those that are None.

    Args:
        config: The config.
        device: Device to train on.
        trackers: How each tracker is used; as its own library decides where None.

    >>> variables(Config(logging={"logging_dir": "tb"}), "cpu")
    {'TENSORBOARD_LOGGING_DIR': 'tb'}
    """
    values: dict[str, str | None] = changed_variables(trackers or {})
    tracking = config.tracking
    if config.logging.logging_dir:
        values["TENSORBOARD_LOGGING_DIR"] = config.logging.logging_dir
    if tracking.report_to:
        for name in ("WANDB_PROJECT", "COMET_PROJECT_NAME", "MLFLOW_EXPERIMENT_NAME"):
            values[name] = tracking.project
    if tracking.report_to and tracking.tags:
        for name in ("WANDB_TAGS", "COMET_START_EXPERIMENT_TAGS"):
            values[name] = ",".join(tracking.tags)
        values["MLFLOW_TAGS"] = json.dumps(dict.fromkeys(tracking.tags, "true"))
    if tracking.report_to:
        values |= {name: _SOON[name] for name in _SOON.keys() - os.environ.keys()}
    if device not in _BUILT_IN:
        values["ACCELERATE_TORCH_DEVICE"] = device
    return values


class _Formatter(logging.Formatter):
    """Writes records without secrets: libraries log addresses, and errors quote them."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as text."""
        return redact_text(super().format(record))


class _Redacted:
    """An output of this process that writes complete lines, without secrets.

    Args:
        stream: The output.
    """

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._begun = ""

    def write(self, text: str) -> int:
        """Write the lines that are complete."""
        self._begun += text
        end = max(self._begun.rfind("\n"), self._begun.rfind("\r")) + 1
        if end or len(self._begun) > _LONGEST_LINE_CHARS:
            end = end or len(self._begun)
            self._stream.write(redact_text(self._begun[:end]))
            self._begun = self._begun[end:]
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        """Write several texts."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Write what there is."""
        self._stream.write(redact_text(self._begun))
        self._begun = ""
        self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def redact_output() -> None:
    """Keep secrets out of what this process prints, which a run's log takes in."""
    sys.stdout, sys.stderr = _Redacted(sys.stdout), _Redacted(sys.stderr)


@contextlib.contextmanager
def run_log(path: Path) -> Iterator[logging.Logger]:
    """Send what nbft and the libraries log, and Python's warnings, to a file."""
    handler = logging.FileHandler(path, encoding="utf-8")
    inherit(path)
    handler.setFormatter(_Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    loggers = [logging.getLogger(name) for name in ("nbft", *LIBRARIES, "py.warnings")]
    propagated, shown = [logger.propagate for logger in loggers], warnings.showwarning
    logging.captureWarnings(True)
    for logger in loggers:
        logger.addHandler(handler)
        logger.propagate = False
    logging.getLogger("nbft").setLevel(logging.INFO)
    try:
        yield logging.getLogger("nbft")
    finally:
        for logger, before in zip(loggers, propagated, strict=True):
            logger.removeHandler(handler)
            logger.propagate = before
        logging.captureWarnings(False)
        warnings.showwarning = shown
        handler.close()


@contextlib.contextmanager
def environment(
    config: Config, device: str, trackers: Mapping[str, Choice] | None = None
) -> Iterator[None]:
    """Set up what a run needs, and restore everything after it; arguments as of `variables`."""
    wanted, ours = variables(config, device, trackers), config.logging
    environment = {name: os.environ.get(name) for name in wanted}
    levels = {name: logging.getLogger(name).level for name in (*LIBRARIES, "nbft")}
    _set(wanted)
    try:
        device_of(device).load()
        logging.getLogger("nbft").setLevel(ours.log_level.upper())
        for name in LIBRARIES if ours.dep_log_level else ():
            logging.getLogger(name).setLevel(str(ours.dep_log_level).upper())
        with _variables_of_wandb(config, environment), _determinism(config), _threads():
            yield
    finally:
        _set(environment)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)


def _set(values: Mapping[str, str | None]) -> None:
    """Set environment variables, and unset those that are None."""
    for name, value in values.items():
        if value is None:
            os.environ.pop(name, None)
        else:
            os.environ[name] = value


@contextlib.contextmanager
def _variables_of_wandb(config: Config, before: Mapping[str, str | None]) -> Iterator[None]:
    """Tell W&B the mode and the tags of the run, and afterwards those that it had.

    It reads its variables once in a process, so a kernel's second run would have those of the first.

    Args:
        config: The config.
        before: The variables as they were before the run.
    """
    if "wandb" not in config.tracking.report_to:
        yield
        return
    theirs = _set_up_wandb(os.environ.get("WANDB_MODE"), os.environ.get("WANDB_TAGS"))
    try:
        yield
    finally:
        mode, tags = (before.get(n, os.environ.get(n)) for n in ("WANDB_MODE", "WANDB_TAGS"))
        _set_up_wandb(*(theirs or (mode or "online", tags)))


def _set_up_wandb(mode: str | None, tags: str | None) -> tuple[str, str] | None:
    """Change the mode and the tags of W&B; return those before, or None if it is not loaded."""
    wandb: Any = sys.modules.get("wandb")
    if wandb is None:
        return None
    with contextlib.suppress(Exception):  # its own start will say what is wrong
        settings = wandb.setup().settings
        before = settings.mode, ",".join(settings.run_tags or ())
        new = tuple(tag for tag in (tags or "").split(",") if tag)
        wandb.setup(settings=wandb.Settings(mode=mode or before[0], run_tags=new))
        return before
    return None


@contextlib.contextmanager
def _threads() -> Iterator[None]:
    """Use no more threads than usable cores; torch counts those of the machine."""
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
    """Restore torch's switches: transformers leaves them on."""
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
