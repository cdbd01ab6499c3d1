"""Why a run failed, in sentences. Called by `nbft.training.worker`."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

from nbft import events
from nbft.errors import NbftError
from nbft.formatting import size
from nbft.hardware import free_memory_bytes
from nbft.plan.fixes import fixes_for_event

LEAST_FREE_BYTES = 2**20
"""Free space below which a disk counts as full."""


_LATE = re.compile(r"(?:[Tt]imed out waiting |Timeout\(ms\)=)(\d+)")
"""What torch.distributed's backends say when one process waits in vain."""


def failure(error: BaseException, run: Path, *, is_of_several: bool = False) -> dict[str, Any]:
    """Return the fields of a `failed` event.

    Args:
        error: What was raised.
        run: The run's folder.
        is_of_several: Whether several processes train it.
    """
    memory = isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError"
    if isinstance(error, NbftError):
        problems = [str(problem) for problem in error.problems]
    elif memory:
        problems = [_out_of_memory(error, run)]
    elif is_disk_full(error, run):
        problems = [f"The disk with {run} is full. Free some space, then run it again."]
    elif isinstance(error, (KeyboardInterrupt, SystemExit)):
        problems = ["The run was interrupted."]
    elif (late := _LATE.search(str(error))) and is_of_several:
        seconds = int(late[1]) / 1000
        text = (
            f"The other processes have not answered for {seconds:g} seconds, the longest that "
            f"distributed.ddp_timeout lets one wait. Their logs are in {run / 'ranks'}."
        )
        problems = [text]
    else:
        first = next(iter(str(error).splitlines()), "")
        problems = [f"{type(error).__name__}: {first} The whole message is in {run / 'log.txt'}."]
    about = {"problems": problems, "error": type(error).__name__, "out_of_memory": memory}
    return about | ({"fixes": fixes_for_event(run)} if memory else {})


def is_disk_full(error: BaseException, run: Path) -> bool:
    """Whether a full disk is the cause; safetensors and torch raise their own errors for it."""
    if isinstance(error, OSError) and events.is_disk_full(error):
        return True
    return "No space left" in str(error) or shutil.disk_usage(run).free < LEAST_FREE_BYTES


def _out_of_memory(error: BaseException, run: Path) -> str:
    """Describe what was requested, what is free, at which step, and how long the rows are."""
    path = run / "events.jsonl"
    prepared = next((e for e in reversed(events.read(path)) if e["event"] == "prepared"), {})
    device = str(prepared.get("device") or "cpu")
    requested = next(iter(str(error).splitlines()), "") or "the system granted no more"
    longest = prepared.get("longest")  # unknown while rows are streamed
    rows = f"; the longest row has {longest:,} tokens" if longest else ""
    return (
        f"Memory ran out on {device} after step {last_step(path)} ({requested}); "
        f"{size(free_memory_bytes(device))} are free now{rows}. run.fixes lists changes that would "
        "fit, run.retry(0) starts the first."
    )


def last_step(path: Path) -> int:
    """Return the last step in a file of events."""
    return max((e.get("step") or 0 for e in events.read(path)), default=0)
