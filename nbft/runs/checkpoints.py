"""Complete checkpoints; one that a crash cut short is skipped.

A checkpoint is whole when all of the files listed in its mark, which is written last, exist with
their sizes.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from nbft.config import Config
from nbft.errors import ConfigError, NbftError, Problem

_MARK = "whole.json"


def mark_whole(checkpoint: Path) -> None:
    """Record that everything of a checkpoint is on the disk."""
    sizes = {
        str(file.relative_to(checkpoint)): file.stat().st_size
        for file in sorted(checkpoint.rglob("*"))
        if file.is_file()
    }
    partial = checkpoint / f"{_MARK}.partial"
    with partial.open("w", encoding="utf-8") as stream:
        json.dump(sizes, stream)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(checkpoint / _MARK)


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint has all its files in their sizes."""
    try:
        sizes = json.loads((checkpoint / _MARK).read_text(encoding="utf-8"))
        return all((checkpoint / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, AttributeError):
        return False


def last_whole(run: Path) -> Path | None:
    """Return the whole checkpoint of a run with the most steps, or None."""
    return max(
        filter(is_whole, (run / "checkpoints").glob("checkpoint-*")), key=step_of, default=None
    )


def resume_point(config: Config, run: Path) -> Path | None:
    """Return the checkpoint that training.resume_from_checkpoint names, or None.

    Args:
        config: The config.
        run: The new run; auto looks at the runs beside it.

    Raises:
        ConfigError: There is no such checkpoint.
    """
    asked = config.training.resume_from_checkpoint
    if not asked:
        return None
    if asked == "auto":
        runs = [other for other in run.parent.iterdir() if _is_like(other, run, config)]
        checkpoints = filter(None, map(last_whole, runs))
        return max(checkpoints, key=lambda path: path.stat().st_mtime, default=None)
    path = Path(asked).expanduser()
    if (path / "trainer_state.json").is_file() and path.name.rpartition("-")[2].isdigit():
        return path
    if whole := last_whole(path):
        return whole
    raise ConfigError(
        Problem(
            "training.resume_from_checkpoint",
            asked,
            "is neither a checkpoint (checkpoint-<step>, with trainer_state.json) nor a run with one.",
            "Name one, write auto, or leave it empty.",
            {"training.resume_from_checkpoint": None},
        )
    )


def _is_like(other: Path, run: Path, config: Config) -> bool:
    """Whether another run has trained the same parameters."""
    if other == run or not (other / "config.yaml").is_file():
        return False
    try:
        theirs = Config.load(other / "config.yaml")
    except NbftError:
        return False
    same = ("model_name", "adapter_name_or_path", "freeze_layers")
    are_same = all(getattr(theirs.model, n) == getattr(config.model, n) for n in same)
    return are_same and theirs.peft == config.peft


def step_of(checkpoint: Path) -> int:
    """Return the optimiser steps that a checkpoint has done.

    >>> step_of(Path("checkpoint-500"))
    500
    """
    return int(checkpoint.name.rpartition("-")[2])
