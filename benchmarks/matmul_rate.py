"""The share of this machine's own matmul rate that a step of LoRA reaches, on the default model.

The rate is that of a large product in bfloat16. Operations are counted as torch dispatches them, in
a run of its own, since counting takes time. Where the processor has matrix units (AMX), products
are so fast that the rest of a step counts; so the share is measured without them as well.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from nbft.bench.clock import Clock
from nbft.bench.compare import DROPPED_STEPS
from nbft.bench.task import Task
from nbft.limits import usable_cores

from .measurement import Measurement, run_python
from .training import make_data_task

ROUNDS, STEPS = 3, 6
_SIZE = 2048
_SOME_SECONDS = 0.5
_ALL_CORES = {"OMP_NUM_THREADS": str(usable_cores()), "GOMP_SPINCOUNT": "3000"}
_WITHOUT_AMX = {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}


def measure(quick: bool) -> list[Measurement]:
    """Count once, then time."""
    import torch

    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "task.json"
        task = make_data_task(Path(name), "alpaca", tiny=quick)
        replace(task, steps=STEPS).save(path)
        flops = _run("count", path, {})["flops"]
        ways: dict[str, dict[str, str]] = {"": {}}
        if torch.cpu._is_amx_tile_supported():
            ways[" without matrix units"] = _WITHOUT_AMX
        found, slowest = [], [*ways][-1]
        for way, environment in ways.items():
            rounds = [_run("time", path, environment) for _ in range(1 if quick else ROUNDS)]
            reached = [sum(flops[DROPPED_STEPS:]) / sum(r["seconds"]) for r in rounds]
            shares = [a / r["rate"] for a, r in zip(reached, rounds, strict=True)]
            rate = statistics.median(r["rate"] for r in rounds)
            found += [
                Measurement(f"matmul rate{way}", rate / 1e12, "TFLOP/s"),
                Measurement(f"of it a step reaches{way}", 100 * statistics.median(shares), "%"),
                Measurement(
                    f"matmul rate / that of a step{way}",
                    1 / statistics.median(shares),
                    # With matrix units products are a third of a step; nobody reaches half there.
                    goal=None if quick or way != slowest else 2,
                ),
            ]
    return found


def _run(what: str, path: Path, environment: dict[str, str]) -> Any:
    module = "benchmarks.matmul_rate"
    return run_python("-m", module, what, str(path), environment=_ALL_CORES | environment)


def _count(path: str) -> dict[str, list[int]]:
    """Train, and return the floating-point operations of the products of each step."""
    import torch
    import transformers
    from torch.utils.flop_counter import FlopCounterMode

    from nbft.bench.sides import train_nbft

    def added(_: Any, a: Any, b: Any, *__: Any, out_shape: Any = None, **keys: Any) -> int:
        return 2 * a[0] * a[1] * b[1]

    flops: list[int] = []
    step = transformers.Trainer.training_step

    def counted(*args: Any, **keys: Any) -> Any:
        with FlopCounterMode(
            display=False, custom_mapping={torch.ops.aten.addmm_: added}
        ) as counter:
            loss = step(*args, **keys)
        flops.append(counter.get_total_flops())
        return loss

    transformers.Trainer.training_step = counted  # type: ignore[method-assign, assignment]
    train_nbft(Task.load(Path(path)))
    return {"flops": flops}


def _time(path: str) -> dict[str, Any]:
    """Train, and return the seconds of each step that counts, and the rate of a product after."""
    import torch

    from nbft.bench.sides import train_nbft

    clock = Clock()
    clock.install()
    train_nbft(Task.load(Path(path)))
    a, b = (torch.randn(_SIZE, _SIZE, dtype=torch.bfloat16) for _ in range(2))
    a @ b
    seconds = []
    while sum(seconds) < _SOME_SECONDS:
        began = time.perf_counter()
        a @ b
        seconds.append(time.perf_counter() - began)
    return {
        "seconds": clock.record("cpu")["seconds"][DROPPED_STEPS:],
        "rate": 2 * _SIZE**3 / statistics.median(seconds),
    }


if __name__ == "__main__":
    print(json.dumps({"count": _count, "time": _time}[sys.argv[1]](sys.argv[2])))
