"""Changes that would fit, for a run that memory ran out on. Called by `Run.fixes`."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbft.config import Config
from nbft.errors import ConfigError
from nbft.formatting import size
from nbft.plan.plan import make_plan


@dataclass(frozen=True)
class Fix:
    """A change that makes a run smaller.

    Attributes:
        words: What changes, as a sentence would go on with it.
        changes: The settings, by dotted path.
        memory_bytes: What it will need; an estimate.
        fits: Whether that is free now.
    """

    words: str
    changes: dict[str, Any]
    memory_bytes: int
    fits: bool

    @property
    def text(self) -> str:
        """What changes, with what it needs."""
        return f"{self.words[0].upper()}{self.words[1:]}: about {size(self.memory_bytes)}."

    @property
    def offer(self) -> str:
        """What a button says that starts a run with the change."""
        return f"Run again with {self.words} (about {size(self.memory_bytes)})"


def memory_fixes(config: Config, folder: Path | None = None) -> list[Fix]:
    """Return changes that need less memory, those that train the same first.

    Args:
        config: The config that did not fit.
        folder: Folder of the config file, for relative paths.
    """
    before = make_plan(config, folder=folder).memory_bytes
    found = []
    for words, changes in _candidates(config):
        try:
            plan = make_plan(config.apply(changes), folder=folder)
        except ConfigError:
            continue
        needs = plan.memory_bytes
        if needs is None or (before is not None and needs >= before):
            continue
        found.append(Fix(words, changes, needs, needs < plan.free_memory_bytes))
    return found


def _candidates(config: Config) -> Iterator[tuple[str, dict[str, Any]]]:
    training, memory = config.training, config.memory
    batch, accumulation = (
        training.per_device_train_batch_size,
        training.gradient_accumulation_steps,
    )
    smaller: dict[str, Any] = {}
    while batch > 1:
        batch, accumulation = batch // 2, accumulation * 2
        smaller = {
            "training.per_device_train_batch_size": batch,
            "training.gradient_accumulation_steps": accumulation,
        }
        yield f"batch {batch} with accumulation {accumulation}, the same effective batch", smaller
    again = {"memory.gradient_checkpointing": True}
    if not memory.gradient_checkpointing:
        yield "gradient checkpointing, 20 to 30% slower", again
        if smaller:
            yield f"batch {batch} and gradient checkpointing", smaller | again
    if config.data.max_length >= 128:
        half = config.data.max_length // 2
        yield (
            f"rows cut at {half:,} tokens, batch {batch} and gradient checkpointing",
            smaller | again | {"data.max_length": half},
        )
    if config.peft.method == "full":
        yield "LoRA instead of full training", {"peft.method": "lora"}
    elif config.quantization.bits is None and importlib.util.find_spec("bitsandbytes"):
        yield "weights in 4 bits (QLoRA)", {"quantization.load_in_4bit": True}
