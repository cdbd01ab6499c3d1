"""What is resumed is the trajectory of the uninterrupted run, to the last digit.

Every row of the table is trained for 10 steps at once, and for 5, stopped, and for 5 in another
process. Whatever the number type, all numbers are the same: a checkpoint holds every weight, moment
and random number in the type that it has in memory. Two settings say that they are not exact, and
are left out: checkpoint.save_only_model and checkpoint.quantize_checkpoint. float16 needs a GPU.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import nbft
from nbft import registry
from nbft.config import settings
from nbft.runs.checkpoints import last_whole, step_of
from nbft.training import worker

from . import trajectories as table

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(worker, "_write_report", worker._write_report)  # and back afterwards
    table.register()
    yield
    registry.callbacks.unregister("stops")
    registry.schedulers.unregister("their_slope")
    registry.optimizers.unregister("their_adagrad")


@pytest.mark.parametrize("group", table.GROUPS)
def test_two_halves_are_the_whole(group: str, tmp_path: Path) -> None:
    names = list(table.GROUPS[group])
    table.make_files(tmp_path)
    halves = subprocess.Popen(
        [sys.executable, "-m", "tests.e2e.trajectories", str(tmp_path), *names],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "NBFT_QUEUE": str(tmp_path / "queue")},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert halves.stdout is not None
    differing = []
    for name in names:
        whole = table.train(table.make_run(tmp_path, name, "whole"))
        assert whole.status == "completed", (name, whole.problems)
        line = halves.stdout.readline()
        stopped, folder, status, problems = json.loads(line)
        assert (stopped, status) == (name, "stopped"), problems
        half = nbft.Run(tmp_path / "halves" / folder)
        checkpoint = last_whole(half.path)
        assert checkpoint is not None
        assert step_of(checkpoint) == half.step < table.STEPS
        table.train(half)
        assert half.status == "completed", (name, half.problems)
        assert half.state.prepared["resumed_step"] == step_of(checkpoint)
        expected, found = table.numbers(whole), table.numbers(half)
        assert len(expected) >= 4
        if found != expected:
            pairs = zip(expected, found, strict=False)
            first = next((pair for pair in pairs if pair[0] != pair[1]), (expected, found))
            differing.append(f"{name}: {first[0]} became {first[1]}")
    assert halves.wait(timeout=60) == 0
    assert not differing, "\n".join(differing)


@pytest.mark.parametrize(
    ("setting", "left_out"),
    [
        ("training.method", ()),
        ("optimizer.optim", ()),
        ("optimizer.moment_dtype", ()),
        ("scheduler.lr_scheduler_type", ()),
        ("peft.method", ("lora",)),
        ("peft.init_lora_weights", ("default", "pissa_niter_16")),  # as pissa_niter_4
        ("model.dtype", ("float16",)),
        ("precision.mixed_precision", ("auto", "no", "fp16")),
        ("precision.fp16_opt_level", ("O1",)),
        ("quantization.weight_quantize_algo", ()),
        ("quantization.bnb_4bit_quant_type", ("nf4",)),
        ("data.packing_strategy", ()),
        ("data.train_sampling_strategy", ("random",)),
        ("checkpoint.state_dict_type", ("FULL_STATE_DICT",)),
    ],
)
def test_the_table_has_every_choice(setting: str, left_out: tuple[str, ...]) -> None:
    (about,) = [known for known in settings() if known.path == setting]
    tried = {changes[setting] for changes in table.TABLE.values() if setting in changes}
    missing = set(map(str, about.choices)) - set(map(str, tried)) - set(left_out)
    missing -= {str(about.default)} if setting != "training.method" else set()
    assert not missing
