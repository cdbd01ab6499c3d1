"""4-bit weights (nf4) beside our own 16-bit ones on the default model: speed, and bytes of weights."""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from nbft.bench.compare import train_side
from nbft.bench.task import Task

from .measurement import Measurement, in_turn, median_ratio, run_python
from .training import make_data_task

ROUNDS = 3


def measure(quick: bool) -> list[Measurement]:
    """Train with both in turn, in processes of their own; count the weights of both once."""
    with tempfile.TemporaryDirectory() as name:
        wide = make_data_task(Path(name), "alpaca", tiny=quick)
        narrow = replace(wide, load_in_4bit=True)
        found = in_turn(
            [lambda: train_side("nbft", wide), lambda: train_side("nbft", narrow)],
            1 if quick else ROUNDS,
        )
        bytes_of = []
        for task in (wide, narrow):
            path = Path(name) / "task.json"
            task.save(path)
            bytes_of.append(run_python("-m", "benchmarks.four_bit", str(path)))
    speeds = [[one.tokens_per_second for one in side] for side in found]
    cpu = [[one.tokens_per_cpu_second for one in side] for side in found]
    # With the tiny model nearly all weights are embeddings, which stay as they are.
    speed_goal, bytes_goal = (None, None) if quick else (1 / 0.85, 0.45)
    return [
        Measurement("tokens/s with nf4", statistics.median(speeds[1])),
        Measurement("tokens/s, bf16 / nf4", median_ratio(*speeds), goal=speed_goal),
        Measurement("tokens/CPU-s, bf16 / nf4", median_ratio(*cpu)),
        Measurement("bytes of weights, nf4 / bf16", bytes_of[1] / bytes_of[0], goal=bytes_goal),
    ]


def _bytes_of_weights(path: str) -> int:
    """Load the model of a task as a run does, and count what it holds."""
    import nbft
    from nbft.models.load import load_model

    task = Task.load(Path(path))
    config = nbft.Config(
        model={"model_name": task.model}, quantization={"load_in_4bit": task.load_in_4bit}
    )
    model = load_model(config, Path(task.model), task.dtype)
    total = 0
    for weight in model.parameters():
        total += weight.nbytes
        state = getattr(weight, "quant_state", None)
        if state is not None:
            total += state.absmax.nbytes + state.code.nbytes
    return total


if __name__ == "__main__":
    print(json.dumps(_bytes_of_weights(sys.argv[1])))
