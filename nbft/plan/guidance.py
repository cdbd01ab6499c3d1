"""What the guides of other systems advise, said where its condition holds, each with its source.

Where the guides disagree, the sentence says so. A hint is a warning: it stops nothing. Called by
`make_plan`; what goes wrong while a run trains is said by `nbft.training.callbacks.watching`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from nbft.config import Config
from nbft.errors import Problem
from nbft.formatting import count, duration, size
from nbft.hardware import has_bfloat16
from nbft.limits import usable_cores
from nbft.models.adapters import base_name
from nbft.plan.advice import parameters_of
from nbft.plan.schedule import shape_of

if TYPE_CHECKING:
    from nbft.plan.plan import Plan

LARGE_ROWS = 50_000
"""Rows from which a set counts as large; the guides name no number."""

_JUMPY_ROWS = 4
_LATE_WARMUP = 0.2
_SLOW_SECONDS = 3600
_FREE_SHARE = 0.6
_LOSS_SEEN_STEPS = 50
"""Steps from which a shape of the loss can be told from chance."""


def guidance(plan: Plan, needed_bytes: Callable[[Config], int]) -> Iterator[Problem]:
    """Yield the advice of the guides that applies to a run.

    Args:
        plan: What the run will be.
        needed_bytes: Estimates the memory of a changed config, where the plan has an estimate.
    """
    for one in (_method, _passes, _batch, _warmup, _clipping, _rank, _fp16, _workers):
        yield from one(plan)
    yield from _slow(plan, needed_bytes)


def _hint(field: str, value: Any, why: str, fix: str, changes: dict[str, Any]) -> Problem:
    return Problem(field, value, why, fix, changes, level="warning")


def _method(plan: Plan) -> Iterator[Problem]:
    """Source: Oumi's advice by size; several GPUs may train larger models in full (FSDP)."""
    if plan.config.peft.trains_adapter:
        return
    parameters = plan.total_parameters or parameters_of(base_name(plan.config))
    if parameters is None or parameters < 3e9:
        return
    usual = "LoRA" if parameters <= 13e9 else "QLoRA, LoRA on weights in 4 bits,"
    yield _hint(
        "peft.method",
        "full",
        f"trains all of about {parameters / 1e9:.3g} billion parameters; Oumi's guide has full "
        f"training below 3 billion, and {usual} for this size unless several GPUs share it.",
        "Use lora.",
        {"peft.method": "lora"},
    )


def _passes(plan: Plan) -> Iterator[Problem]:
    """Source: Unsloth's and PEFT Studio's advice on epochs."""
    if not plan.train_rows or not plan.total_steps or not plan.steps_per_epoch:
        return
    training = plan.config.training
    passes = plan.total_steps / plan.steps_per_epoch
    most = 2 if plan.train_rows >= LARGE_ROWS else 5
    if passes >= most + 1:
        asked = "num_train_epochs" if training.max_steps <= 0 else "max_steps"
        fewer = most if training.max_steps <= 0 else most * plan.steps_per_epoch
        yield _hint(
            f"training.{asked}",
            getattr(training, asked),
            f"goes over {count(plan.train_rows, 'row')} {passes:.3g} times, so they may be learnt "
            "by heart. Unsloth's guide has 1 to 5 passes, PEFT Studio 3 to 5 for small sets and 1 "
            "to 2 for large ones, though it allows 10; both say to watch the held-out loss.",
            f"Use {fewer}, or callbacks.early_stopping_patience=3 (PEFT Studio).",
            {f"training.{asked}": fewer},
        )
    if passes >= 3 and not plan.eval_rows:
        yield _hint(
            "data.split_ratio",
            plan.config.data.split_ratio,
            f"holds no row out, so nobody sees when {passes:.3g} passes are too many. PEFT Studio "
            "advises to hold out 10 to 20%, QEfficient holds out 20%.",
            "Use 0.9.",
            {"data.split_ratio": 0.9},
        )


def _batch(plan: Plan) -> Iterator[Problem]:
    """Source: Unsloth's ranges; PEFT Studio, which says both."""
    rows, training = plan.effective_batch_size, plan.config.training
    long = (plan.total_steps or 0) >= _LOSS_SEEN_STEPS
    if rows >= _JUMPY_ROWS or plan.config.data.packing or not long:
        return
    batch = training.per_device_train_batch_size
    yield _hint(
        "training.gradient_accumulation_steps",
        training.gradient_accumulation_steps,
        f"makes steps of {count(rows, 'row')}, so the loss jumps. Unsloth's guide has 2 to 16, and "
        "PEFT Studio works with 16 rows a step; it also calls a smaller batch more stable, which "
        "holds for the memory, not for the loss.",
        f"Use {16 // batch}, which costs no memory.",
        {"training.gradient_accumulation_steps": 16 // batch},
    )


def _warmup(plan: Plan) -> Iterator[Problem]:
    """Source: the ranges of Unsloth, PEFT Studio and ERNIEKit; PEFT Studio, loss does not fall."""
    total, warmup = plan.total_steps or 0, plan.warmup_steps or 0
    if total < _LOSS_SEEN_STEPS or warmup <= _LATE_WARMUP * total:
        return
    if shape_of(plan.config)[0] == "constant":
        return
    yield _hint(
        "scheduler.warmup_steps",
        plan.config.scheduler.warmup_steps,
        f"warms up for {warmup / total:.0%} of the steps, so the loss falls late. Unsloth's guide "
        "has 3 to 10%, PEFT Studio 5 to 10%, ERNIEKit 1 to 10%; PEFT Studio's default of 100 "
        "steps is that only for 1,000 to 2,000 steps.",
        "Use 0.05, which is 5%.",
        {"scheduler.warmup_steps": 0.05},
    )


def _clipping(plan: Plan) -> Iterator[Problem]:
    """Source: PEFT Studio, loss is NaN."""
    if plan.config.training.max_grad_norm or plan.warmup_steps or not plan.total_steps:
        return
    yield _hint(
        "training.max_grad_norm",
        0.0,
        "shortens no gradient, and there is no warm-up: one bad first batch can end in NaN. "
        "Clipping and a warm-up are what PEFT Studio advises against it.",
        "Use 1.",
        {"training.max_grad_norm": 1.0},
    )


def _rank(plan: Plan) -> Iterator[Problem]:
    """Source: ERNIEKit and PEFT Studio on rsLoRA."""
    peft = plan.config.peft
    if peft.method != "lora" or peft.use_rslora or peft.r < 64:
        return
    yield _hint(
        "peft.r",
        peft.r,
        "is high for plain LoRA, whose updates shrink as the rank grows. ERNIEKit advises rsLoRA "
        "from 64 on, PEFT Studio above 16.",
        "Turn peft.use_rslora on with lora_alpha=-1, which is then 4 (ERNIEKit).",
        {"peft.use_rslora": True, "peft.lora_alpha": -1},
    )


def _fp16(plan: Plan) -> Iterator[Problem]:
    """Source: PEFT Studio on GPUs; QEfficient on QAIC, which is no cuda device."""
    asked = plan.config.precision.mixed_precision
    if asked != "fp16" or plan.device.value != "cuda" or has_bfloat16("cuda").value != "yes":
        return
    yield _hint(
        "precision.mixed_precision",
        asked,
        "overflows where bf16 does not, and this GPU has bf16. PEFT Studio advises bf16 from "
        "Ampere on and fp16 before it; QEfficient advises fp16 for its own cards.",
        "Use auto.",
        {"precision.mixed_precision": "auto"},
    )


def _workers(plan: Plan) -> Iterator[Problem]:
    """Source: the defaults of QEfficient, ERNIEKit and Oumi, which disagree."""
    workers, cores = plan.config.data.dataloader_num_workers, usable_cores()
    if workers < cores:
        return
    yield _hint(
        "data.dataloader_num_workers",
        workers,
        f"takes every one of the {count(cores, 'core')} here from the training. QEfficient has 4 "
        "and 1, ERNIEKit 1, Oumi 0; rows are cut into tokens before the training, so few loaders "
        "are enough.",
        "Use 0.",
        {
            "data.dataloader_num_workers": 0,
            "data.dataloader_prefetch_factor": None,
            "data.dataloader_persistent_workers": False,
        },
    )


def _slow(plan: Plan, needed_bytes: Callable[[Config], int]) -> Iterator[Problem]:
    """Source: PEFT Studio, training too slow, which contradicts what it says of checkpointing."""
    if (plan.seconds or 0) < _SLOW_SECONDS or not plan.config.memory.gradient_checkpointing:
        return
    without = {"memory.gradient_checkpointing": False}
    needed = needed_bytes(plan.config.apply(without | {"memory.recompute_granularity": "full"}))
    if needed > _FREE_SHARE * plan.free_memory_bytes:
        return
    yield _hint(
        "memory.gradient_checkpointing",
        True,
        f"makes this run, about {duration(plan.seconds or 0)}, 20 to 30% slower (PEFT Studio, which "
        f"also advises it for slow training), and it would fit without: about {size(needed)} of "
        f"{size(plan.free_memory_bytes)} free.",
        "Turn it off.",
        without,
    )
