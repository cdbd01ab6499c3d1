"""Two processes through nbft beside `torchrun` on a plain script of TRL: model, rows and settings alike.

The script is what `Config.to_python` writes.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from nbft.bench.compare import DROPPED_STEPS

from .measurement import Measurement, in_turn, losses_off, median_ratio, run_python
from .overhead import make_config

PROCESSES = 2
ROUNDS = 3


def measure(quick: bool) -> list[Measurement]:
    """Train in fresh processes, in turn."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = make_config(folder, tiny=quick, steps=30 if quick else 12)
        config = config.apply({"logging.logging_steps": 1})
        script = folder / "plain.py"
        script.write_text(config.to_python(), encoding="utf-8")
        several = config.apply({"distributed.num_processes": PROCESSES})

        def ours() -> Any:
            from nbft.runs import Run

            return run_python("-m", "benchmarks.several", str(Run.create(several).path))

        def theirs() -> Any:
            torchrun = ("torch.distributed.run", "--nproc-per-node", str(PROCESSES))
            return run_python("-m", *torchrun, "-m", "benchmarks.overhead", "plain", str(script))

        mine, plain = in_turn([ours, theirs], ROUNDS)
        model = Path(config.model.model_name).name
    return [
        Measurement(f"step, of nbft ({model})", statistics.median(r["wall"] for r in mine), "s"),
        Measurement("step, of torchrun", statistics.median(r["wall"] for r in plain), "s"),
        Measurement(
            "seconds a step, nbft / torchrun",
            median_ratio([r["wall"] for r in mine], [r["wall"] for r in plain]),
            goal=None if model == "tiny" else 1.03,
        ),
        Measurement(
            "largest relative difference of a loss", losses_off(mine, plain), goal=1e-4
        ),  # of the mean of two
    ]


def _train(run: Path) -> None:
    from nbft import events
    from nbft.launchers.ranks import work_in_ranks

    work_in_ranks(run, PROCESSES)
    logs = [event for event in events.read(run / "events.jsonl") if event["event"] == "log"]
    times = [event["time"] for event in logs][DROPPED_STEPS - 1 :]
    wall = (times[-1] - times[0]) / (len(times) - 1)
    print(json.dumps({"wall": wall, "losses": [event["loss"] for event in logs]}))


if __name__ == "__main__":
    _train(Path(sys.argv[1]))
