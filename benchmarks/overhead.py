"""Training through nbft beside a plain script of TRL: the same model, rows and settings.

The script is what `Config.to_python` writes. Both sides get the same clock.
"""

from __future__ import annotations

import json
import runpy
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from nbft.bench.clock import Clock
from nbft.bench.compare import DROPPED_STEPS

from .measurement import Measurement, in_turn, losses_off, median_ratio, run_python

ROUNDS = 3


def measure(quick: bool) -> list[Measurement]:
    """Train in fresh processes, in turn."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = make_config(folder, tiny=quick, steps=30 if quick else 12)
        script = folder / "plain.py"
        script.write_text(config.to_python(), encoding="utf-8")

        def ours() -> Any:
            from nbft.runs import Run

            return run_python("-m", "benchmarks.overhead", "nbft", str(Run.create(config).path))

        def theirs() -> Any:
            return run_python("-m", "benchmarks.overhead", "plain", str(script))

        mine, plain = in_turn([ours, theirs], ROUNDS)
        model = Path(config.model.model_name).name
        # A step of the tiny model takes 15 ms, so that a third of a millisecond would be 2 %.
        goal = None if model == "tiny" else 1.02
    return [
        Measurement(f"step, of nbft ({model})", statistics.median(r["wall"] for r in mine), "s"),
        Measurement("step, of the script", statistics.median(r["wall"] for r in plain), "s"),
        Measurement(
            "seconds a step, nbft / script",
            median_ratio([r["wall"] for r in mine], [r["wall"] for r in plain]),
            goal=goal,
        ),
        Measurement(
            "CPU seconds a step, nbft / script",
            median_ratio([r["cpu"] for r in mine], [r["cpu"] for r in plain]),
            goal=goal,
        ),
        Measurement(
            "largest relative difference of a loss", losses_off(mine, plain), goal=1e-5
        ),  # float32
    ]


def make_config(folder: Path, *, tiny: bool, steps: int) -> Any:
    """Return a config on bundled rows, with nothing held out, that saves only in the end.

    Args:
        folder: Of the rows, the tiny model and the runs.
        tiny: Whether to train the tiny model although the default one is on this machine.
        steps: Optimiser steps.
    """
    import nbft
    from nbft.data.samples import sample_path
    from nbft.data.tiny_model import make_tiny_model
    from nbft.models.find import find_local
    from nbft.models.load import quiet

    default = nbft.Config().model.model_name
    if tiny or find_local(default, None) is None:
        with quiet():
            default = str(make_tiny_model(folder / "tiny"))
    return nbft.Config(
        model={"model_name": default, "dtype": "float32"},
        data={
            "path": str(sample_path("grammar", "train")),
            "prompt_template": "Correct: {input}\n",
            "completion_template": "{target}",
            "max_length": 128,
            "split_ratio": 1.0,  # nothing is held out
        },
        training={
            "output_dir": str(folder / "runs"),
            "max_steps": steps,
            "gradient_accumulation_steps": 1,
        },
        checkpoint={"save_steps": 1000},
        evaluation={"eval_strategy": "no"},
    )


def _seconds_a_step(seconds: list[float]) -> float:
    counted = seconds[DROPPED_STEPS:]
    return sum(counted) / max(1, len(counted))


def _train(side: str, path: str) -> None:
    clock = Clock()
    clock.install()
    if side == "nbft":
        from nbft.training.worker import work

        work(Path(path))
    else:
        import contextlib

        with contextlib.chdir(Path(path).parent):
            runpy.run_path(path, run_name="__main__")
    said = clock.record("cpu")
    print(
        json.dumps(
            {
                "wall": _seconds_a_step(said["seconds"]),
                "cpu": _seconds_a_step(said["cpu_seconds"]),
                "first_step_at": said["first_step_at"],
                "losses": said["losses"],
            }
        )
    )


if __name__ == "__main__":
    _train(sys.argv[1], sys.argv[2])
