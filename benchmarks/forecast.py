"""The plan's time, stage by stage, against what a run took on this machine.

A run takes longer on a busy machine than any plan can know. So the load is reported, the goal is for
a free machine, and the other stages are also compared relative to the training of the same process.
"""

from __future__ import annotations

import json
import os
import textwrap

from nbft.limits import usable_cores

from .measurement import Measurement, run_python

_CODE = """
import json, os, sys, tempfile
folder = tempfile.mkdtemp()
os.environ["NBFT_QUEUE"] = folder + "/queue"
import nbft
changes = json.loads(sys.argv[1])
config = nbft.Config.preset("two-minute-try").apply({"training.output_dir": folder, **changes})
plan = nbft.make_plan(config)
run = nbft.train(config, show=False)
assert run.status == "completed", run.problems
end = run.state.end
print(json.dumps({"planned": plan.stages, "taken": end["stages"]}))
"""

_SHORT = {"training.max_steps": 10, "data.validation.datasets[0].sample_count": 16}
_GENERATING = {
    "data.train.datasets[0].dataset_name": "grammar",
    "data.validation.datasets[0].dataset_name": "grammar",
    "training.max_steps": 10,
}
CONFIGS = {
    "the default model, as the preset has it": {},
    "answers that are scored, every 5 steps": {
        **_GENERATING,
        "evaluation.eval_strategy": "steps",
        "evaluation.eval_steps": 5,
    },
    "checkpoints every 2 steps, nothing measured": {
        "training.max_steps": 10,
        "checkpoint.save_steps": 2,
        "evaluation.eval_strategy": "no",
        "evaluation.metrics": [],
        "evaluation.sample_count": 0,
    },
}

_GOAL = 1.5
_FREE_LOAD = 0.5  # per core, before the run begins


def measure(quick: bool) -> list[Measurement]:
    """Train each config once and compare; with quick, ten steps of the first one."""
    found = []
    configs = {"ten steps": _SHORT} if quick else CONFIGS
    cores = usable_cores()
    for name, changes in configs.items():
        load = os.getloadavg()[0]
        told = run_python(
            "-c",
            textwrap.dedent(_CODE),
            json.dumps(changes),
            environment={"OMP_NUM_THREADS": str(cores)},
        )
        planned, taken = told["planned"], told["taken"]
        is_free = load < _FREE_LOAD * cores
        found += [
            Measurement(f"{name}: load before it", load),
            Measurement(
                f"{name}: planned, off by a factor of",
                _factor(sum(planned.values()), sum(taken.values())),
                goal=_GOAL if is_free else None,
            ),
            Measurement(
                f"{name}: stages relative to the training", _factor(_rest(planned), _rest(taken))
            ),
        ]
        for stage in {**planned, **taken}:
            found += [
                Measurement(f"  {stage}: planned", planned.get(stage, 0.0), "s"),
                Measurement(f"  {stage}: taken", taken.get(stage, 0.0), "s"),
            ]
    return found


def _factor(planned: float, taken: float) -> float:
    return max(planned / taken, taken / planned)


def _rest(stages: dict[str, float]) -> float:
    """Return the time of all other stages, relative to the training."""
    return sum(stages.values()) / stages["training"] - 1
