"""What the plan, a simulation and a probe say of a run, against what it took on this machine.

Memory: 26 configurations of size, method, batch, length, recomputation and fast path, each trained
in a process of its own whose peak the system reports. Time: a run takes longer on a busy machine
than any plan can know, so the load is reported, the goal is for a free machine, and the other stages
are also compared relative to the training of the same process.

`NBFT_FORECAST=mid` takes only the configurations with that in their name.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import textwrap
from pathlib import Path
from typing import Any

from nbft.data.tiny_model import make_tiny_model
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

_TAKEN = """
import json, os, sys, tempfile
folder = tempfile.mkdtemp()
os.environ["NBFT_QUEUE"] = folder + "/queue"
import nbft
from nbft.hardware import peak_memory_bytes
changes = json.loads(sys.argv[1])
run = nbft.train(nbft.Config().apply({"training.output_dir": folder, **changes}), show=False)
assert run.status == "completed", run.problems
print(json.dumps({"bytes": peak_memory_bytes("cpu"), "seconds": run.state.end["stages"]["training"]}))
"""

_SAID = """
import json, sys, nbft
plan = nbft.make_plan(nbft.Config().apply(json.loads(sys.argv[1])))
ways = {"formula": plan, "simulation": plan.simulate(), "probe": plan.probe()}
print(json.dumps({name: {"bytes": way.memory_bytes, "range": way.ranges["memory_bytes"],
                         "seconds": way.stages["training"]} for name, way in ways.items()}))
"""

_STEPS = 3
_GOALS = {"formula": (0.15, 0.4), "simulation": (0.08, None), "probe": (0.05, 0.1)}
"""How far memory and time may be off."""

_SLOW_PATH = {f"speed.{part}": "off" for part in ("row_attention", "label_head", "fused_lora")} | {
    "speed.lean_norm": "off",
    "data.padding_free": False,
}
_METHODS: dict[str, dict[str, Any]] = {
    "lora": {"peft.method": "lora"},
    "full": {"peft.method": "full", "training.learning_rate": 2e-5},
    "qlora": {"peft.method": "lora", "quantization.load_in_4bit": True},
}
_WAYS: dict[str, dict[str, Any]] = {
    "": {},
    "recomputed": {"memory.gradient_checkpointing": True},
    "slow path": _SLOW_PATH,
}
_RUNS = (
    *(("tiny", "lora", 4, 128, ""), ("tiny", "full", 4, 128, "")),
    *(("tiny", "lora", 8, 512, ""), ("tiny", "full", 8, 512, "recomputed")),
    *(("mid", "lora", 2, 256, ""), ("mid", "lora", 8, 256, ""), ("mid", "lora", 4, 1024, "")),
    *(("mid", "lora", 4, 1024, "recomputed"), ("mid", "lora", 4, 1024, "slow path")),
    *(("mid", "lora", 8, 256, "slow path"), ("mid", "full", 2, 256, "")),
    *(("mid", "full", 8, 256, ""), ("mid", "full", 4, 1024, "")),
    *(("mid", "full", 4, 1024, "recomputed"), ("mid", "full", 8, 256, "slow path")),
    *(("135m", "lora", 1, 128, ""), ("135m", "lora", 4, 256, "")),
    *(("135m", "lora", 4, 256, "recomputed"), ("135m", "lora", 4, 256, "slow path")),
    *(("135m", "lora", 2, 1024, ""), ("135m", "lora", 2, 1024, "recomputed")),
    *(("135m", "full", 1, 128, ""), ("135m", "full", 2, 256, "")),
    *(("135m", "full", 2, 256, "recomputed"), ("135m", "full", 2, 256, "slow path")),
    ("135m", "qlora", 4, 256, ""),
)
"""Model, method, batch, tokens of a row, way."""

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
    """Compare memory and time of steps, then the stages of runs; with quick, one of each."""
    return [*_steps(quick), *_stages(quick)]


def _steps(quick: bool) -> list[Measurement]:
    cores = usable_cores()
    threads = {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(cores))}
    wanted = os.environ.get("NBFT_FORECAST", "")
    errors: dict[str, list[float]] = {way: [] for way in _GOALS}
    found = []
    with tempfile.TemporaryDirectory() as name:
        for run in _RUNS[:1] if quick else _RUNS:
            size, method, batch, length, way = run
            title = f"{size} {method} {batch} x {length} {way}".strip()
            if wanted not in title:
                continue
            changes = json.dumps(_changes(Path(name), *run))
            is_free = os.getloadavg()[0] < _FREE_LOAD * cores
            taken = run_python("-c", textwrap.dedent(_TAKEN), changes, environment=threads)
            said = run_python("-c", textwrap.dedent(_SAID), changes, environment=threads)
            found.append(Measurement(f"{title}: memory", taken["bytes"] / 2**20, "MiB"))
            for how, (of_memory, of_time) in _GOALS.items():
                off = said[how]["bytes"] / taken["bytes"] - 1
                errors[how].append(abs(off))
                found.append(
                    Measurement(f"  {how}, off by", abs(off) * 100, "%", goal=of_memory * 100)
                )
                if of_time is not None:
                    time_off = abs(said[how]["seconds"] / taken["seconds"] - 1)
                    goal = of_time * 100 if is_free and size == "135m" else None
                    found.append(Measurement(f"  {how}, time off by", time_off * 100, "%", goal))
    return found + [
        Measurement(f"memory by {how}, off by in the middle", statistics.median(off) * 100, "%")
        for how, off in errors.items()
        if off
    ]


def _changes(
    folder: Path, size: str, method: str, batch: int, length: int, way: str
) -> dict[str, Any]:
    rows = folder / f"{length}.jsonl"
    row = {"prompt": "Say these words.", "completion": " ".join(f"word{n}" for n in range(length))}
    rows.write_text(f"{json.dumps(row)}\n" * 64, encoding="utf-8")
    return {
        "model.model_name": _model(folder / size) if size != "135m" else "smollm2-135m",
        "data.train.datasets[0].path": str(rows),
        "data.max_length": length,
        "data.split_ratio": 1.0,
        "training.per_device_train_batch_size": batch,
        "training.gradient_accumulation_steps": 1,
        "training.max_steps": _STEPS,
        "evaluation.eval_strategy": "no",
        "evaluation.metrics": [],
        "evaluation.sample_count": 0,
        "checkpoint.save_strategy": "no",
        **_METHODS[method],
        **_WAYS[way],
    }


def _model(folder: Path) -> str:
    """Return the folder of a model with random weights; "mid" has 16 million parameters."""
    if not folder.exists():
        make_tiny_model(folder, vocab_size=1024 if folder.name == "tiny" else 4096)
        if folder.name == "mid":
            from transformers import LlamaConfig, LlamaForCausalLM

            shape = LlamaConfig.from_pretrained(
                folder,
                hidden_size=384,
                intermediate_size=1152,
                num_hidden_layers=8,
                num_attention_heads=6,
                num_key_value_heads=3,
                head_dim=64,
                max_position_embeddings=4096,
            )
            LlamaForCausalLM(shape).save_pretrained(folder)
    return str(folder)


def _stages(quick: bool) -> list[Measurement]:
    """Train each config once and compare its stages; with quick, ten steps of the first one."""
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
