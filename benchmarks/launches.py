"""Operators of a training step beside TRL, by part, as a GPU would launch them: LoRA on short rows.

Counted on a CPU, without a GPU: `nbft.bench.operators` says how. Two things of TRL's are not as on a
GPU: its loss is one Triton kernel a tile there, which nbft uses too, and with liger-kernel installed
its norms, rotary embeddings and MLP are kernels as well.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path

from nbft.bench.compare import train_side
from nbft.bench.rows import write_rows

from .measurement import Measurement
from .training import make_data_task

STEPS = 3
_PEERS = {"trl": None, "trl-tuned": 0.7}
"""The most operators that nbft may launch, as a share of each peer's."""

_ON_A_GPU = {"label_head": "off"}


def measure(quick: bool) -> list[Measurement]:
    """Count the operators of the last step of each side."""
    with tempfile.TemporaryDirectory() as name:
        task = make_data_task(Path(name), "alpaca", tiny=quick)
        task = replace(
            task,
            rows=str(_short(Path(task.rows), STEPS * task.batch_rows)),
            dtype="bfloat16",
            mixed_precision="no",
            steps=STEPS,
            speed=_ON_A_GPU,
            counts_operators=True,
        )
        counts = {side: dict(train_side(side, task).operators) for side in ("nbft", *_PEERS)}
    ours = counts["nbft"]
    found = []
    for peer, goal in _PEERS.items():
        theirs = counts[peer]
        ratio = sum(ours.values()) / sum(theirs.values())
        found.append(Measurement(f"nbft / {peer}, operators a step", ratio, goal=goal))
    for side, of_side in counts.items():
        found.append(Measurement(f"{side}: all", sum(of_side.values())))
        found += [Measurement(f"  {part}", n) for part, n in sorted(of_side.items())]
    return found


def _short(rows: Path, number: int) -> Path:
    """Write the shortest rows of a file."""
    lines = map(json.loads, rows.read_text(encoding="utf-8").splitlines())
    pairs = sorted(
        ([row["prompt"], row["completion"]] for row in lines), key=lambda p: len("".join(p))
    )
    path = rows.with_name("short.jsonl")
    write_rows(path, pairs[:number])
    return path
