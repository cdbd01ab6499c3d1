"""Changes that would make a run fit after it ran out of memory. Called by `Run.fixes`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbft.config import Config
from nbft.errors import ConfigError
from nbft.formatting import size
from nbft.plan.plan import make_plan
from nbft.plan.problems import is_installed


@dataclass(frozen=True)
class Fix:
    """A change that reduces the memory of a run.

    Attributes:
        words: What changes, as part of a sentence.
        changes: The settings, by dotted path.
        memory_bytes: Memory needed after the change; an estimate.
        fits: Whether that much is free now.
    """

    words: str
    changes: dict[str, Any]
    memory_bytes: int
    fits: bool

    @property
    def text(self) -> str:
        """What changes, with the memory needed."""
        return f"{self.words[0].upper()}{self.words[1:]}: about {size(self.memory_bytes)}."

    @property
    def offer(self) -> str:
        """Label of a button that starts a run with the change."""
        return f"Run again with {self.words} (about {size(self.memory_bytes)})"


def memory_fixes(config: Config, folder: Path | None = None) -> list[Fix]:
    """Return changes that need less memory, those with the same training result first.

    Args:
        config: The config that did not fit.
        folder: Folder of the config file, for relative paths.
    """
    before = make_plan(config, folder=folder).memory_bytes
    fixes = []
    for words, changes in _candidates(config):
        try:
            plan = make_plan(config.apply(changes), folder=folder)
        except ConfigError:
            continue
        needed = plan.memory_bytes
        if needed is not None and (before is None or needed < before):
            fixes.append(Fix(words, changes, needed, needed < plan.free_memory_bytes))
    return fixes


def _candidates(config: Config) -> Iterator[tuple[str, dict[str, Any]]]:
    training, memory = config.training, config.memory
    batch = training.per_device_train_batch_size
    accumulation = training.gradient_accumulation_steps
    smaller: dict[str, Any] = {}
    while batch > 1:
        batch, accumulation = batch // 2, accumulation * 2
        smaller = {
            "training.per_device_train_batch_size": batch,
            "training.gradient_accumulation_steps": accumulation,
        }
        yield f"batch {batch} with accumulation {accumulation}, the same effective batch", smaller
    checkpointing = {"memory.gradient_checkpointing": True}
    if not memory.gradient_checkpointing:
        yield "gradient checkpointing, 20 to 30% slower", checkpointing
        if smaller:
            yield f"batch {batch} and gradient checkpointing", smaller | checkpointing
    if config.data.max_length >= 128:
        half = config.data.max_length // 2
        yield (
            f"rows truncated to {half:,} tokens, batch {batch} and gradient checkpointing",
            smaller | checkpointing | {"data.max_length": half},
        )
    if config.peft.method == "full":
        yield "LoRA instead of full training", {"peft.method": "lora"}
    elif config.quantization.bits is None and is_installed("bitsandbytes"):
        yield "4-bit weights (QLoRA)", {"quantization.load_in_4bit": True}
