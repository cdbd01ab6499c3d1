"""What every side of a comparison trains: the same model, rows, order, adapter and batch size."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from nbft.bench.rows import write_rows
from nbft.config import Config
from nbft.decisions import decide
from nbft.errors import DataError
from nbft.models.find import find_model


@dataclass(frozen=True)
class Task:
    """One training job.

    Attributes:
        model: Folder of the model.
        rows: File of rows, JSON lines with prompt and completion, in the order of training.
        folder: Where a side may write.
        device: Device that trains.
        dtype: Data type of the weights, for sides that let it be chosen.
        mixed_precision: Autocast type, for sides that let it be chosen: bf16, fp16 or no.
        method: LoRA on all linear layers, or full fine-tuning.
        r: LoRA rank; alpha is twice the rank.
        batch_rows: Rows per step.
        steps: Optimiser steps.
        gradient_checkpointing: Whether nbft and TRL tuned recompute activations.
        load_in_4bit: Whether the frozen weights are quantised to nf4.
        seed: Seed for the initial adapter weights.
        speed: Settings of nbft's fast path; defaults apply to those left out.
        counts_operators: Whether to count the operators of the last step, as a GPU would run them.
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
    gradient_checkpointing: bool = False
    load_in_4bit: bool = False
    seed: int = 42
    speed: dict[str, Any] = field(default_factory=dict)
    counts_operators: bool = False

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
    """Make the task of a config from its model and its training rows.

    Rows longer than data.max_length are left out, because each system truncates differently.

    Args:
        config: Names the model and the rows. Its data types, method, rank, batch size, seed, 4-bit
            setting and speed settings are used too; everything else is the same on all sides.
        folder: Where rows and results are written.
        data_folder: Folder that relative paths of rows start from.
        steps: Optimiser steps.

    Raises:
        ModelError: The model is not on this machine and cannot be downloaded.
        DataError: Fewer rows are left than two steps need.
    """
    from nbft.data.examples import load_examples
    from nbft.data.tokens import encode
    from nbft.models.load import load_tokenizer

    found = find_model(config.model.model_name, config.model.model_revision, lambda text: None)
    decisions = decide(config, found.path)
    batch = config.training.per_device_train_batch_size
    tokenizer = load_tokenizer(config, found.path)
    examples, _ = load_examples(config, "train", folder=data_folder, tokenizer=tokenizer)
    rows = []
    for row in encode(examples, tokenizer):
        if len(row.ids) <= config.data.max_length:
            end = len(row.ids) - (row.ids[-1] == tokenizer.eos_token_id)  # every side adds one
            parts = row.ids[: row.prompt_tokens], row.ids[row.prompt_tokens : end]
            rows.append([tokenizer.decode(p, clean_up_tokenization_spaces=False) for p in parts])
    if len(rows) < 2 * batch:
        raise DataError(
            f"data: {len(rows)} of {len(examples)} rows fit within "
            f"data.max_length={config.data.max_length}; a comparison needs {2 * batch}. "
            "Use more rows, or raise data.max_length."
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
