"""A few real steps on the fullest and on a typical batch: what they take is what the run will take.

Loads the model as a run does, trains and keeps nothing. Runs in a process of its own, whose peak is
that of a run, started by `nbft.plan.rehearsal`.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nbft.config import Config
from nbft.decisions import decide
from nbft.hardware import peak_memory_bytes
from nbft.models.adapters import base_name
from nbft.models.find import find_model
from nbft.models.load import load_tokenizer, quiet
from nbft.training.beginning import load_untrained
from nbft.training.environment import environment
from nbft.training.libraries import import_libraries

_STEPS_OF_A_KIND = 2
"""The first step on a batch of a new size prepares kernels; the second one counts."""


def probe(config: Config, fullest: Sequence[int], typical: Sequence[int]) -> dict[str, Any]:
    """Train two steps on each of two batches, and return JSON values.

    Args:
        config: The config.
        fullest: Tokens of the rows of the fullest batch.
        typical: The same of another batch with as many rows.

    Returns:
        `peak_bytes` of this process on the device; `batch_seconds` and `update_seconds` of a step on
        the typical batch.

    Raises:
        ModelError: The model is not there.
    """
    import_libraries(owns_process=True)
    from nbft.training.matmul_rate import measure_rates
    from nbft.training.simulation import rows_of, shortened
    from nbft.training.trainer import build_trainer

    decisions = decide(config)
    device = decisions.device.value
    short = shortened(config, len(fullest), steps=2 * _STEPS_OF_A_KIND)
    short = short.apply({"data.shuffle": False})
    again = _STEPS_OF_A_KIND * short.training.gradient_accumulation_steps
    with quiet(), tempfile.TemporaryDirectory() as folder, environment(config, device):
        measure_rates(decisions)
        found = find_model(base_name(config), config.model.model_revision, lambda _: None)
        model = load_untrained(config, decisions, found.path, lambda _: None)
        trainer = build_trainer(
            short,
            decisions,
            model,
            load_tokenizer(config, found.path),
            rows_of(config, [fullest] * again + [typical] * again),
            output_dir=Path(folder),
            callbacks=[],
        )
        batches, steps = _clocked(trainer)
        trainer.train()
    batch = batches[-1]
    update = steps[-1] - sum(batches[-short.training.gradient_accumulation_steps :])
    return {
        "peak_bytes": peak_memory_bytes(device),
        "batch_seconds": batch,
        "update_seconds": max(0.0, update),
    }


def _clocked(trainer: Any) -> tuple[list[float], list[float]]:
    """Return lists that will have the seconds of each batch, and of each step."""
    from transformers import TrainerCallback

    batches: list[float] = []
    steps: list[float] = []
    usual = trainer.training_step

    def training_step(*args: Any, **kwargs: Any) -> Any:
        began = time.monotonic()
        loss = usual(*args, **kwargs)
        loss.item()  # waits for a GPU
        batches.append(time.monotonic() - began)
        return loss

    class Clock(TrainerCallback):
        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.began = time.monotonic()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            steps.append(time.monotonic() - self.began)

    trainer.training_step = training_step
    trainer.add_callback(Clock())
    return batches, steps


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    config = Config(**asked["config"]).own()  # its code was checked by the plan
    sys.stdout.write(json.dumps(probe(config, asked["fullest"], asked["typical"])))
