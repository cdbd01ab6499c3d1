"""What the guides of other systems recommend, shown when it applies to a run, with its source.

Where the guides disagree, the message says so. Advice is a warning and stops nothing. Called by
`make_plan`; problems that appear during training are reported by
`nbft.training.callbacks.watching`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from nbft.config import Config
from nbft.errors import Problem
from nbft.formatting import count, duration, size
from nbft.hardware import has_bfloat16
from nbft.limits import usable_cores
from nbft.models.adapters import base_name
from nbft.plan.advice import parameters_of
from nbft.plan.problems import warning, with_values
from nbft.plan.schedule import shape_of

if TYPE_CHECKING:
    from nbft.plan.plan import Plan

_LARGE_ROWS = 50_000
"""Rows from which a dataset counts as large; the guides give no number."""

_LOSS_SEEN_STEPS = 50
"""Steps from which the shape of the loss can be told from noise."""

_SLOW_SECONDS = 3600


def guidance(plan: Plan, needed_bytes: Callable[[Config], int]) -> Iterator[Problem]:
    """Yield the advice of the guides that applies to a run.

    Args:
        plan: What the run will be.
        needed_bytes: Estimates the memory of a changed config, where the plan has an estimate.
    """
    for advice in (_method, _passes, _batch, _schedule, _rank, _fp16, _workers):
        yield from with_values(advice(plan), plan.config)
    yield from with_values(_slow(plan, needed_bytes), plan.config)


def _method(plan: Plan) -> Iterator[Problem]:
    """Source: Oumi's advice by size; several GPUs may train larger models in full (FSDP)."""
    parameters = plan.total_parameters or parameters_of(base_name(plan.config))
    if plan.config.peft.trains_adapter or parameters is None or parameters < 3e9:
        return
    usual = "LoRA" if parameters <= 13e9 else "QLoRA (LoRA on 4-bit weights)"
    yield warning(
        "peft.method",
        f"trains all of about {parameters / 1e9:.3g} billion parameters. Oumi's guide recommends "
        f"full training below 3 billion, and {usual} for this size unless several GPUs share it.",
        use="lora",
    )


def _passes(plan: Plan) -> Iterator[Problem]:
    """Source: Unsloth's and PEFT Studio's advice on epochs."""
    if not plan.train_rows or not plan.total_steps or not plan.steps_per_epoch:
        return
    passes = plan.total_steps / plan.steps_per_epoch
    most = 2 if plan.train_rows >= _LARGE_ROWS else 5
    if passes >= most + 1:
        by_epochs = plan.config.training.max_steps <= 0
        fewer = most if by_epochs else most * plan.steps_per_epoch
        yield warning(
            f"training.{'num_train_epochs' if by_epochs else 'max_steps'}",
            f"goes over {count(plan.train_rows, 'row')} {passes:.3g} times, so the model may "
            "overfit. Unsloth's guide recommends 1 to 5 epochs, PEFT Studio 3 to 5 for small "
            "datasets and 1 to 2 for large ones, but allows 10; both advise to watch the held-out "
            "loss.",
            f"Use {fewer}, or callbacks.early_stopping_patience=3 (PEFT Studio).",
            use=fewer,
        )
    if passes >= 3 and not plan.eval_rows:
        yield warning(
            "data.split_ratio",
            f"holds out no rows, so nothing shows whether {passes:.3g} epochs are too many. PEFT "
            "Studio recommends holding out 10 to 20%; QEfficient holds out 20%.",
            use=0.9,
        )


def _batch(plan: Plan) -> Iterator[Problem]:
    """Source: Unsloth's ranges; PEFT Studio, which says both."""
    rows, config = plan.effective_batch_size, plan.config
    if rows >= 4 or config.data.packing or (plan.total_steps or 0) < _LOSS_SEEN_STEPS:
        return
    accumulation = 16 // config.training.per_device_train_batch_size
    yield warning(
        "training.gradient_accumulation_steps",
        f"makes steps of {count(rows, 'row')}, so the loss is noisy. Unsloth's guide recommends 2 "
        "to 16, and PEFT Studio uses 16 rows per step; it also calls a smaller batch more stable, "
        "which is true of the memory but not of the loss.",
        f"Use {accumulation}, which needs no more memory.",
        use=accumulation,
    )


def _schedule(plan: Plan) -> Iterator[Problem]:
    """Source: the ranges of Unsloth, PEFT Studio and ERNIEKit; PEFT Studio on loss that is NaN."""
    total, warmup = plan.total_steps or 0, plan.warmup_steps or 0
    is_long = total >= _LOSS_SEEN_STEPS and warmup > 0.2 * total
    if is_long and shape_of(plan.config)[0] != "constant":
        yield warning(
            "scheduler.warmup_steps",
            f"warms up for {warmup / total:.0%} of the steps, so the loss falls late. Unsloth's "
            "guide recommends 3 to 10%, PEFT Studio 5 to 10%, ERNIEKit 1 to 10%; PEFT Studio's "
            "default of 100 steps is that only for 1,000 to 2,000 steps.",
            "Use 0.05, which is 5%.",
            use=0.05,
        )
    if total and not warmup and not plan.config.training.max_grad_norm:
        yield warning(
            "training.max_grad_norm",
            "disables gradient clipping, and there is no warm-up: one bad batch at the start can "
            "make the loss NaN. PEFT Studio recommends both to prevent it.",
            use=1.0,
        )


def _rank(plan: Plan) -> Iterator[Problem]:
    """Source: ERNIEKit and PEFT Studio on rsLoRA."""
    peft = plan.config.peft
    if peft.method == "lora" and not peft.use_rslora and peft.r >= 64:
        yield warning(
            "peft.r",
            "is high for plain LoRA, whose updates shrink as the rank grows. ERNIEKit recommends "
            "rsLoRA from 64, PEFT Studio above 16.",
            "Turn peft.use_rslora on, with lora_alpha=-1, which then means 4 (ERNIEKit).",
            {"peft.use_rslora": True, "peft.lora_alpha": -1},
        )


def _fp16(plan: Plan) -> Iterator[Problem]:
    """Source: PEFT Studio on GPUs; QEfficient on QAIC, which is no cuda device."""
    is_fp16 = plan.config.precision.mixed_precision == "fp16"
    if is_fp16 and plan.device.value == "cuda" and has_bfloat16("cuda").value == "yes":
        yield warning(
            "precision.mixed_precision",
            "can overflow where bf16 does not, and this GPU supports bf16. PEFT Studio recommends "
            "bf16 from Ampere on and fp16 before it; QEfficient recommends fp16 for its own cards.",
            use="auto",
        )


def _workers(plan: Plan) -> Iterator[Problem]:
    """Source: the defaults of QEfficient, ERNIEKit and Oumi, which disagree."""
    cores = usable_cores()
    if plan.config.data.dataloader_num_workers >= cores:
        yield warning(
            "data.dataloader_num_workers",
            f"takes all {count(cores, 'core')} of this machine away from training. QEfficient uses "
            "4 and 1, ERNIEKit 1, Oumi 0; rows are tokenized before training, so few workers are "
            "enough.",
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
    if needed <= 0.6 * plan.free_memory_bytes:
        yield warning(
            "memory.gradient_checkpointing",
            f"makes this run of about {duration(plan.seconds or 0)} 20 to 30% slower (PEFT Studio, "
            f"although it recommends it for slow training), and the run fits without it: about "
            f"{size(needed)} of {size(plan.free_memory_bytes)} free.",
            "Turn it off.",
            without,
        )
