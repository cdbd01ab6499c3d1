"""Why a run ended, in sentences. Called by `nbft.training.worker`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from nbft import events
from nbft.errors import NbftError
from nbft.formatting import size
from nbft.hardware import free_memory_bytes

LEAST_FREE_BYTES = 2**20
"""Free room below which a disk counts as full."""


def failure(error: BaseException, run: Path) -> dict[str, Any]:
    """Say in sentences why a run ended."""
    memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if isinstance(error, NbftError):
        said = [str(problem) for problem in error.problems]
    elif memory:
        said = [_out_of_memory(error, run)]
    elif _is_disk_full(error, run):
        said = [f"The disk with {run} is full. Free some room, then run it again."]
    elif isinstance(error, (KeyboardInterrupt, SystemExit)):
        said = ["The run was interrupted."]
    else:
        first = next(iter(str(error).splitlines()), "")
        said = [f"{type(error).__name__}: {first} The whole message is in {run / 'log.txt'}."]
    return {"problems": said, "error": type(error).__name__, "out_of_memory": memory}


def _is_disk_full(error: BaseException, run: Path) -> bool:
    """Whether a full disk ended the run; safetensors and torch have errors of their own for it."""
    if isinstance(error, OSError) and events.is_disk_full(error):
        return True
    return "No space left" in str(error) or shutil.disk_usage(run).free < LEAST_FREE_BYTES


def _out_of_memory(error: BaseException, run: Path) -> str:
    """Say what was asked for, what is free, at which step, and how long the rows are."""
    found = events.read(run / "events.jsonl")
    prepared = next((e for e in reversed(found) if e["event"] == "prepared"), {})
    device = str(prepared.get("device", "cpu"))
    asked = next(iter(str(error).splitlines()), "") or "the system gave no more"
    rows = f"; the longest row has {prepared['longest']:,} tokens" if prepared else ""
    return (
        f"Memory ran out on {device} after step {last_step(run / 'events.jsonl')} ({asked}); "
        f"{size(free_memory_bytes(device))} are free now{rows}. run.fixes lists changes that would "
        "fit, run.retry(0) starts the first."
    )


def last_step(path: Path) -> int:
    """Return the last step that a file of events tells of."""
    return max((e.get("step", 0) for e in events.read(path)), default=0)
