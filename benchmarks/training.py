"""Training speed beside TRL, as its documentation shows it and at its best, on the default model."""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import nbft
from nbft.bench.compare import Comparisons, compare
from nbft.bench.rows import write_equal_rows
from nbft.bench.task import Task, make_task
from nbft.data.tiny_model import make_tiny_model
from nbft.models.find import find_local
from nbft.models.load import quiet

from .measurement import ROOT, Measurement

ROUNDS, STEPS, EQUAL_TOKENS = 3, 8, 128
SHARED = ROOT.parent / "shared" / "data"


def measure(quick: bool) -> list[Measurement]:
    """Compare each task in turn; speeds are of real tokens, by seconds of the clock."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        alpaca = make_data_task(folder, "alpaca", tiny=quick)
        gsm8k = make_data_task(folder, "gsm8k", tiny=quick)
        whole = make_data_task(folder, "alpaca", tiny=quick, method="full")
        equal = folder / "equal.jsonl"
        write_equal_rows(equal, Path(gsm8k.rows), gsm8k.model, EQUAL_TOKENS, 8 * STEPS)
        rounds = 1 if quick else ROUNDS

        def against(task: Task, what: str, *peers: str) -> list[Measurement]:
            found = compare(task, peers, rounds=rounds, what=what)
            sys.stderr.write(f"{what}\n{found}\n")
            return _measurements(what, found, is_tiny=quick)

        return [
            *against(alpaca, "LoRA, Alpaca", "trl", "trl-tuned"),
            *against(gsm8k, "LoRA, GSM8K", "trl-tuned"),
            *against(replace(alpaca, rows=str(equal)), "LoRA, rows of one length", "trl-tuned"),
            *against(whole, "all weights, Alpaca", "trl"),
        ]


# Ours must be at least so many times as fast, and take at most so much of the memory.
_FLOORS = {
    ("LoRA, Alpaca", "TRL, its defaults"): (4.0, 0.6),
    ("LoRA, Alpaca", "TRL, tuned"): (2.2, 0.7),
    ("LoRA, GSM8K", "TRL, tuned"): (1.5, None),
    ("LoRA, rows of one length", "TRL, tuned"): (1.5, None),
    ("all weights, Alpaca", "TRL, its defaults"): (2.0, None),
}


def _measurements(what: str, found: Comparisons, *, is_tiny: bool) -> list[Measurement]:
    if found.notes:
        raise RuntimeError(" ".join(found.notes))
    measured = []
    for one in found.pairs:
        if one.ratio is None or one.cpu_ratio is None:
            raise RuntimeError(f"{what}: the losses of {one.peer} differ from ours.")
        speed, memory = (None, None) if is_tiny else _FLOORS[what, one.peer]
        title = f"{what}: {one.peer} / nbft"
        measured += [
            Measurement(f"{title}, tokens/s", 1 / one.ratio, goal=speed and 1 / speed),
            Measurement(f"{title}, tokens/CPU-s", 1 / one.cpu_ratio),
            Measurement(f"{what}: nbft / {one.peer}, memory", one.memory_ratio, goal=memory),
        ]
    return measured


def make_data_task(folder: Path, name: str, *, tiny: bool, method: str = "lora") -> Task:
    """Make the task of a data set: the real rows where they are at hand, else the bundled ones.

    Args:
        folder: Where to.
        name: alpaca or gsm8k.
        tiny: Whether to train the tiny model although the default one is on this machine.
        method: lora or full.
    """
    shared = {"alpaca": SHARED / "alpaca.json", "gsm8k": SHARED / "gsm8k.jsonl"}[name]
    data = {"path": str(shared)} if shared.is_file() else {"dataset_name": name}
    own = folder / f"{name}-{method}"
    own.mkdir()
    config = nbft.Config(
        data={**data, "max_length": 512, "split_ratio": 1.0},
        training={"per_device_train_batch_size": 8},
        peft={"method": method, "r": 16},
    )
    if tiny or find_local(config.model.model_name, None) is None:
        with quiet():
            config = config.apply({"model.model_name": str(make_tiny_model(folder / "tiny"))})
    return make_task(config, own, steps=STEPS)
