"""Changes that would make a run fit after it ran out of memory.

Whoever reports the failure finds them (`memory_fixes`) and writes them into the event; `Run.fixes` only
reads them there (`read_fixes`), because looking at a run reads no rows and makes no plan.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbft.config import Config
from nbft.errors import ConfigError, NbftError
from nbft.formatting import size
from nbft.hardware import free_memory_bytes
from nbft.plan.plan import make_plan
from nbft.plan.problems import is_installed
from nbft.plan.rates import with_its_rate


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


_CHANGEABLE = frozenset(
    {
        "training.per_device_train_batch_size",
        "training.gradient_accumulation_steps",
        "memory.gradient_checkpointing",
        "data.max_length",
        "peft.method",
        "peft.r",
        "peft.lora_alpha",
        "training.learning_rate",
        "quantization.load_in_4bit",
    }
)
"""The settings that a fix changes; an event that names others was not written by nbft."""


def fixes_for_event(run: Path) -> list[dict[str, Any]]:
    """Return the fixes of a run that memory ran out on, as its `failed` event holds them."""
    try:
        found = memory_fixes(Config.load(run / "config.yaml"))
    except (NbftError, OSError):  # a report of a failure must not fail itself
        return []
    return [
        {"words": fix.words, "changes": fix.changes, "memory_bytes": fix.memory_bytes}
        for fix in found
    ]


def read_fixes(written: Iterable[Mapping[str, Any]], device: str) -> list[Fix]:
    """Return the fixes in an event.

    Args:
        written: The event's `fixes`.
        device: The device of the run, whose free memory tells what fits now.
    """
    free = free_memory_bytes(device)
    return [
        Fix(**fix, fits=fix["memory_bytes"] < free)
        for fix in written
        if fix["changes"].keys() <= _CHANGEABLE
    ]


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
        changes = with_its_rate(config, {"peft.method": "lora"})
        rate = changes.get("training.learning_rate", config.training.learning_rate)
        yield f"LoRA instead of full training, at a learning rate of {rate:g}", changes
        return
    if config.peft.method == "lora" and config.peft.r >= 64:
        yield "LoRA rank 16 and the same scaling", _lower_rank(config, 16)
    if config.quantization.bits is None and is_installed("bitsandbytes"):
        yield "4-bit weights (QLoRA)", {"quantization.load_in_4bit": True}


def _lower_rank(config: Config, rank: int) -> dict[str, Any]:
    """Return a lower rank with the same scaling. Source: PEFT Studio, "out of memory"."""
    peft = config.peft
    share = rank / peft.r
    alpha = round(peft.alpha * (share**0.5 if peft.use_rslora else share))
    return {"peft.r": rank, "peft.lora_alpha": max(1, alpha)}
