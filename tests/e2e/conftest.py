"""A tiny model and a few rows, for whole runs in seconds."""

from __future__ import annotations

import gc
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import nbft
from nbft.data.samples import sample_path
from nbft.data.tiny_model import make_tiny_model
from nbft.hardware import Choice
from nbft.launchers.kernel import join


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session", autouse=True)
def libraries_uncollected() -> Iterator[None]:
    """Leave the libraries out of the garbage collection that accelerate begins each run with.

    To go through all that their import holds takes 0.25 s: two thirds of a run of three steps.
    """
    from trl import SFTTrainer  # noqa: F401

    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def own_queue(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Wait for no run of anybody else's."""
    monkeypatch.setenv("NBFT_QUEUE", str(tmp_path_factory.mktemp("queue")))


@pytest.fixture(scope="session")
def rows() -> list[dict[str, Any]]:
    """Forty rows, of which 36 are trained on and four held out."""
    lines = sample_path("grammar", "train").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines[125:165]]


@pytest.fixture
def make_config(tiny_model: Path, rows: list[dict[str, Any]], tmp_path: Path) -> Callable[..., Any]:
    """Return a function that makes a small config; arguments are dotted settings."""

    def make(**changes: Any) -> nbft.Config:
        config = nbft.Config(
            model={"model_name": str(tiny_model), "dtype": "float32"},
            data={
                "rows": rows,
                "prompt_template": "Correct: {input}\n",
                "completion_template": "{target}",
                "max_length": 128,
            },
            training={
                "output_dir": str(tmp_path / "runs"),
                "max_steps": 6,
                "gradient_accumulation_steps": 1,
                "learning_rate": 2e-3,
            },
            evaluation={"sample_count": 2, "sample_max_new_tokens": 8},
        )
        return config.apply({name.replace("__", "."): value for name, value in changes.items()})

    return make


@pytest.fixture
def train(make_config: Callable[..., nbft.Config]) -> Callable[..., nbft.Run]:
    """Return a function that trains such a config to its end."""

    def run(**changes: Any) -> nbft.Run:
        done = nbft.train(make_config(**changes), show=False)
        join(done)
        return done

    return run


PREFERENCE_STEPS, PREFERENCE_BATCH = 20, 3


@pytest.fixture(scope="session")
def pairs(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Pairs of answers of different lengths; some prompts have several lines."""
    return [
        {
            "prompt": f"Correct:\n{row['input']}\n" if n % 3 else f"{row['input']}\n",
            "chosen": row["target"],
            "rejected": " ".join(rows[n - 1]["target"].split()[: 2 + n % 7]),
        }
        for n, row in enumerate(rows)
    ]


@pytest.fixture
def preference(
    tiny_model: Path, pairs: list[dict[str, Any]], tmp_path: Path
) -> Callable[..., nbft.Config]:
    """Return a function that makes a config of whole-model training in float32, in order."""

    def make(method: str, **changes: Any) -> nbft.Config:
        rows = pairs
        if method == "kto":
            rows = [
                {"prompt": p["prompt"], "completion": p[name], "label": name == "chosen"}
                for n, p in enumerate(pairs)
                for name in [("chosen", "rejected")[n % 2]]
            ]
        config = nbft.Config(
            model={"model_name": str(tiny_model), "dtype": "float32"},
            data={"rows": rows, "max_length": 128, "shuffle": False},
            training={
                "method": method,
                "output_dir": str(tmp_path / "runs"),
                "max_steps": PREFERENCE_STEPS,
                "per_device_train_batch_size": PREFERENCE_BATCH,
                "gradient_accumulation_steps": 1,
                "learning_rate": 1e-3,
            },
            scheduler={"lr_scheduler_type": "constant", "warmup_steps": 0},
            optimizer={"optim": "adamw_torch"},
            peft={"method": "full"},
            precision={"mixed_precision": "no"},
            logging={"logging_steps": 1},
            evaluation={"sample_count": 0},
            checkpoint={"save_strategy": "no"},
        )
        return config.apply({name.replace("__", "."): value for name, value in changes.items()})

    return make


def losses(run: nbft.Run) -> list[float]:
    return [e["loss"] for e in run.events() if e["event"] == "log"]


SECONDS = 120
"""How long a test waits for something that takes seconds on a free machine."""


def until(condition: Callable[[], object], what: str) -> None:
    """Wait for a condition."""
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end, f"not within {SECONDS} s: {what}"
        time.sleep(0.02)


def steps(run: nbft.Run) -> int:
    """Return the last step that a run has logged."""
    return max((e["step"] for e in run.events() if e["event"] == "log"), default=0)


@pytest.fixture
def older_gpu(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Decide as on a Tesla T4, and give accelerate a scaler that it refuses to a CPU.

    Returns the trainer of the last run, when there is one.
    """
    import accelerate
    import torch

    from nbft.training import trainer as trainers

    begin: Callable[..., None] = accelerate.Accelerator.__init__

    def init(self: Any, *args: Any, **keys: Any) -> None:
        begin(self, *args, **keys)
        if self.state.mixed_precision == "fp16":
            scale = self.scaler_handler.to_kwargs() if self.scaler_handler else {}
            self.native_amp, self.scaler = True, torch.amp.GradScaler("cpu", **scale)

    monkeypatch.setattr(accelerate.Accelerator, "__init__", init)
    monkeypatch.setattr("nbft.decisions.choose_dtype", lambda *_: Choice("float16", "a T4"))
    monkeypatch.setattr("nbft.decisions.choose_mixed_precision", lambda *_: Choice("fp16", "a T4"))
    kept: dict[str, Any] = {}
    build = trainers.build_trainer

    def keep(*args: Any, **keys: Any) -> Any:
        kept["trainer"] = build(*args, **keys)
        return kept["trainer"]

    monkeypatch.setattr(trainers, "build_trainer", keep)
    return kept


@pytest.fixture
def submitting() -> Iterator[Callable[[nbft.Config], nbft.Run]]:
    """Return a function that submits a config; what still runs at the end is killed."""
    made: list[nbft.Run] = []

    def submit(config: nbft.Config) -> nbft.Run:
        made.append(nbft.submit(config))
        return made[-1]

    yield submit
    for one in made:
        if not one.is_over:
            one.cancel()
            until(lambda one=one: one.is_over, "the clean-up")


@pytest.fixture
def trained(train: Callable[..., nbft.Run]) -> Callable[..., nbft.Run]:
    """Return a function that trains a run far enough to change its answers."""

    def run(**changes: Any) -> nbft.Run:
        done = train(
            **{
                "training__learning_rate": 2e-2,
                "training__per_device_train_batch_size": 36,
                "training__max_steps": 10,
                **changes,
            }
        )
        assert done.status == "completed", done.problems
        return done

    return run
