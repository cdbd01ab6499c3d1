"""Memory and time of a step on one long row, beside TRL at its best: LoRA on the default model.

Each side may ask for as much address space as memory is free; one that needs more ends, and is said.
"""

from __future__ import annotations

import resource
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from nbft.bench.compare import Trained, train_side
from nbft.bench.rows import write_equal_rows
from nbft.bench.task import Task
from nbft.errors import NbftError
from nbft.hardware import free_memory_bytes

from .measurement import Measurement
from .training import make_data_task

# The second one takes two minutes a step on two cores.
LENGTHS_TOKENS = (4096, 16_384)
_PEER = "trl-tuned"


def measure(quick: bool) -> list[Measurement]:
    """Train one row a step with both sides."""
    measured = []
    with tempfile.TemporaryDirectory() as name:
        alpaca = make_data_task(Path(name), "alpaca", tiny=quick)
        for tokens in (512,) if quick else LENGTHS_TOKENS:
            rows = Path(name) / f"{tokens}.jsonl"
            write_equal_rows(rows, Path(alpaca.rows), alpaca.model, tokens, 3)
            task = replace(alpaca, rows=str(rows), batch_rows=1, steps=3)
            ours, theirs = _train("nbft", task), _train(_PEER, task)
            if ours is None:
                raise RuntimeError(f"nbft ran out of memory at {tokens:,} tokens.")
            title = f"{tokens:,} tokens: nbft"
            measured.append(Measurement(f"{title}, memory", ours.peak_bytes / 2**30, "GiB"))
            measured.append(Measurement(f"{title}, speed", ours.tokens_per_second, "tokens/s"))
            if theirs is not None:
                ratio = ours.peak_bytes / theirs.peak_bytes
                goal = None if quick else 0.7
                measured.append(Measurement(f"{title} / TRL, tuned, memory", ratio, goal=goal))
                ratio = ours.tokens_per_second / theirs.tokens_per_second
                measured.append(Measurement(f"{title} / TRL, tuned, speed", ratio))
    return measured


def _train(name: str, task: Task) -> Trained | None:
    """Train one side within the memory that is free; None when that does not suffice."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (int(free_memory_bytes("cpu") * 0.9), before[1]))
    try:
        return train_side(name, task)  # its process inherits the limit
    except NbftError as error:
        if "memory" not in str(error).lower():
            raise
        sys.stderr.write(f"{name}: {error}\n")
        return None
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
