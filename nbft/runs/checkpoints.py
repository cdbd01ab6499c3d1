"""Checkpoints: which are whole. One that a crash cut short is passed over.

A checkpoint is whole when the mark that is written after everything else names each of its files
with its size, and all of them are there. Called by the worker (marks) and by `resume` (looks).
"""

from __future__ import annotations

import json
import os
from pathlib import Path

_MARK = "whole.json"


def mark_whole(checkpoint: Path) -> None:
    """Say that everything of a checkpoint is on the disk."""
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
    """Whether a checkpoint has all its files, in the sizes that they were written in."""
    try:
        sizes = json.loads((checkpoint / _MARK).read_text(encoding="utf-8"))
        return all((checkpoint / name).stat().st_size == size for name, size in sizes.items())
    except (OSError, ValueError, AttributeError):
        return False


def last_whole(run: Path) -> Path | None:
    """Return the whole checkpoint of a run with the most steps, or None."""
    found = [path for path in (run / "checkpoints").glob("checkpoint-*") if is_whole(path)]
    return max(found, key=step_of, default=None)


def step_of(checkpoint: Path) -> int:
    """Return the optimiser steps that a checkpoint has done.

    >>> step_of(Path("checkpoint-500"))
    500
    """
    return int(checkpoint.name.rpartition("-")[2])
