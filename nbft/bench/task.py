"""What all sides of a comparison train: the same model, rows, order, adapter and batch."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from nbft.config import Config
from nbft.decisions import decide
from nbft.errors import DataError
from nbft.models.find import find_model


@dataclass(frozen=True)
class Task:
    """One thing to train.

    Attributes:
        model: Folder of the model.
        rows: File of rows, JSON lines with prompt and completion, in the order of training.
        folder: Where a side may write.
        device: Device that trains.
        dtype: Number type of the weights, of those sides that choose one.
        mixed_precision: Autocast, of those sides that choose one: bf16, fp16 or no.
        method: LoRA on all linear layers, or all weights.
        r: Rank of LoRA; alpha is twice as much.
        batch_rows: Rows a step.
        steps: Optimiser steps.
        load_in_4bit: Whether the frozen weights are quantised to nf4.
        seed: Seed of the adapter.
        speed: The settings of our own fast path; the defaults where it names none.
    """

    model: str
    rows: str
    folder: str
    device: str = "cpu"
    dtype: str = "float32"
    mixed_precision: str = "no"
    method: Literal["lora", "full"] = "lora"
    r: int = 16
    batch_rows: int = 8
    steps: int = 8
    load_in_4bit: bool = False
    seed: int = 42
    speed: dict[str, Any] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write the task as JSON."""
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @classmethod
    def load(cls, path: Path) -> Task:
        """Read a task."""
        return cls(**json.loads(path.read_text(encoding="utf-8")))


def make_task(
    config: Config, folder: Path, data_folder: Path | None = None, *, steps: int = 8
) -> Task:
    """Make the task of a config: its model and training rows, whole rows only.

    Rows that data.max_length would cut are left out: systems cut in ways of their own.

    Args:
        config: Names the model and the rows. Of its other settings count number types, method,
            rank, batch, seed, 4 bits and speed; the rest is alike on all sides.
        folder: Where rows and results are written.
        data_folder: Folder of relative paths of rows.
        steps: Optimiser steps.

    Raises:
        ModelError: The model is not here and cannot be fetched.
        DataError: There are fewer rows than two steps need.
    """
    from nbft.data.examples import load_examples
    from nbft.data.tokens import encode
    from nbft.models.load import load_tokenizer

    found = find_model(config.model.model_name, config.model.model_revision, lambda text: None)
    decisions = decide(config, found.path)
    batch = config.training.per_device_train_batch_size
    tokenizer = load_tokenizer(config, found.path)
    examples, _ = load_examples(config, "train", folder=data_folder)
    rows = []
    for row in encode(examples, tokenizer):
        if len(row.ids) <= config.data.max_length:
            end = len(row.ids) - (row.ids[-1] == tokenizer.eos_token_id)  # every side adds it
            parts = row.ids[: row.prompt_tokens], row.ids[row.prompt_tokens : end]
            rows.append([tokenizer.decode(p, clean_up_tokenization_spaces=False) for p in parts])
    if len(rows) < 2 * batch:
        raise DataError(
            f"data: {len(rows)} whole rows are left of {len(examples)}; a comparison needs "
            f"{2 * batch}. Name more rows, or raise data.max_length={config.data.max_length}."
        )
    path = folder / "rows.jsonl"
    write_rows(path, rows)
    return Task(
        model=str(found.path),
        rows=str(path),
        folder=str(folder),
        device=decisions.device.value,
        dtype=decisions.dtype.value,
        mixed_precision=decisions.mixed_precision.value,
        method="full" if config.peft.method == "full" else "lora",
        r=config.peft.r,
        batch_rows=batch,
        steps=steps,
        load_in_4bit=config.quantization.load_in_4bit,
        seed=config.training.seed,
        speed=config.speed.model_dump(),
    )


def write_rows(path: Path, rows: Iterable[Sequence[str]]) -> None:
    """Write pairs of prompt and completion as JSON lines."""
    with path.open("w", encoding="utf-8") as file:
        for prompt, completion in rows:
            file.write(json.dumps({"prompt": prompt, "completion": completion}) + "\n")
