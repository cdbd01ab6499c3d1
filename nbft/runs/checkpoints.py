"""Complete checkpoints; one that a crash cut short is skipped.

A checkpoint is whole when all of the files listed in its mark, which is written last, exist with
their sizes.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from nbft.access import inherit, inherit_all
from nbft.atomic import previous, replacing, sync
from nbft.errors import ConfigError, NbftError, Problem
from nbft.reading import read_bytes

if TYPE_CHECKING:
    from nbft.config import Config

CONSENT = "training.resume_despite_changes"
"""The setting with which a run goes on although what it was trained on has changed."""

_MARK = "whole.json"
_MARK_BYTES = 10_000_000


def mark_whole(checkpoint: Path) -> None:
    """Record that everything of a checkpoint is on the disk, with the access of its run."""
    sync(checkpoint)
    sizes = {
        str(file.relative_to(checkpoint)): file.stat().st_size
        for file in sorted(checkpoint.rglob("*"))
        if file.is_file()
    }
    with replacing(checkpoint / _MARK) as mark:
        mark.write_text(json.dumps(sizes), encoding="utf-8")
    for folder in (checkpoint.parent, checkpoint):
        inherit(folder)
    inherit_all(checkpoint)


@contextlib.contextmanager
def keeping(checkpoint: Path) -> Iterator[None]:
    """Keep a whole checkpoint while another of the same step is written in its place."""
    kept = previous(checkpoint)
    if is_whole(checkpoint):
        shutil.rmtree(kept, ignore_errors=True)
        checkpoint.rename(kept)
    try:
        shutil.rmtree(checkpoint, ignore_errors=True)
        yield
    except BaseException:
        shutil.rmtree(checkpoint, ignore_errors=True)
        if kept.exists():
            kept.rename(checkpoint)
        raise
    shutil.rmtree(kept, ignore_errors=True)


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint has all its files in their sizes."""
    try:
        sizes = json.loads(read_bytes(checkpoint / _MARK, _MARK_BYTES))
        return all((checkpoint / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, AttributeError):
        return False


def last_whole(run: Path) -> Path | None:
    """Return the whole checkpoint of a run with the most steps, or None."""
    return max(
        filter(is_whole, (run / "checkpoints").glob("checkpoint-*")), key=step_of, default=None
    )


def remove_older(folder: Path, limit: int | None, best: Path | None) -> None:
    """Remove the checkpoints that checkpoint.save_total_limit does not keep.

    Args:
        folder: Folder of the checkpoints.
        limit: How many to keep, the newest and the best in any case; all if None.
        best: The best one, if it is known.
    """
    if not limit:
        return
    found = list(folder.glob("checkpoint-*"))
    newest_first = sorted(found, key=lambda path: (is_whole(path), _saved_at(path)), reverse=True)
    kept = [path for path in newest_first if path == best or path == newest_first[0]]
    others = [path for path in newest_first if path not in kept]
    for path in others[max(limit - len(kept), 0) :]:
        shutil.rmtree(path, ignore_errors=True)


def _saved_at(checkpoint: Path) -> int:
    try:
        return checkpoint.stat().st_mtime_ns
    except OSError:
        return 0


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
    from nbft.config import Config

    try:
        theirs = Config.load(other / "config.yaml")
    except NbftError:
        return False
    same = ("model_name", "adapter_name_or_path", "freeze_layers", "unfrozen_parameters")
    are_same = all(getattr(theirs.model, n) == getattr(config.model, n) for n in same)
    return are_same and theirs.peft == config.peft


def step_of(checkpoint: Path) -> int:
    """Return the optimiser steps that a checkpoint has done.

    >>> step_of(Path("checkpoint-500")), step_of(previous(Path("checkpoint-500")))
    (500, 500)
    """
    return int(checkpoint.name.partition(".")[0].rpartition("-")[2])
