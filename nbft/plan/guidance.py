"""What the guides of other systems recommend, shown when it applies to a run, with its source.

Where the guides disagree, the message says so. Advice is a warning and stops nothing. Called by
`make_plan`; problems that appear during training are reported by
`nbft.runs.notes`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbft.config import Config, settings
from nbft.errors import Problem
from nbft.formatting import count, duration, size
from nbft.hardware import has_bfloat16
from nbft.limits import usable_cores
from nbft.models.adapters import base_name
from nbft.plan.advice import parameters_of
from nbft.plan.problems import warning, with_values
from nbft.plan.rates import RATES, rates_of, with_its_rate
from nbft.plan.schedule import shape_of

if TYPE_CHECKING:
    from nbft.plan.plan import Plan

_LARGE_ROWS = 50_000
"""Rows from which a dataset counts as large; the guides give no number."""

_LOSS_SEEN_STEPS = 50
"""Steps from which the shape of the loss can be told from noise."""

_SLOW_SECONDS = 3600
_VERY_SLOW_SECONDS = 8 * 3600

_USUAL_ROWS = 16
"""Rows per step that the guides' learning rates are for."""

_USUAL_SHARE = 0.9
"""Share of the rows to train on; QEfficient's is 0.8."""

_FEWEST_STEPS = 20
"""Steps below which a run hardly learns, whatever the rows."""


def guidance(plan: Plan) -> Iterator[Problem]:
    """Yield the advice of the guides that applies to a run."""
    for advice in (
        *(_method, _passes, _batch, _few_steps, _batch_rate, _schedule, _clipping),
        *(_rank, _scaling, _ranges, _same_rows, _logging, _fp16, _workers, _very_slow, _slow),
    ):
        yield from with_values(advice(plan), plan.config)


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
        f"Use lora, at its usual learning rate of {RATES['lora'].proposed:g}.",
        with_its_rate(plan.config, {"peft.method": "lora"}),
    )


def most_passes(rows: int) -> int:
    """Return how often a run may usefully go over some rows.

    Source: Unsloth's guide has 1 to 5; PEFT Studio 3 to 5 for small datasets, 1 to 2 for large ones.
    """
    return 2 if rows >= _LARGE_ROWS else 5


def _passes(plan: Plan) -> Iterator[Problem]:
    """Source: Unsloth's and PEFT Studio's advice on epochs."""
    if not plan.train_rows or not plan.total_steps or not plan.steps_per_epoch:
        return
    passes = plan.total_steps / plan.steps_per_epoch
    most = most_passes(plan.train_rows)
    stopping = plan.config.callbacks.stops_early
    if passes >= most + 1 and not stopping:
        by_epochs = plan.config.training.max_steps <= 0
        fewer = most if by_epochs else most * plan.steps_per_epoch
        yield warning(
            f"training.{'num_train_epochs' if by_epochs else 'max_steps'}",
            f"goes over {count(plan.train_rows, 'row')} {passes:.3g} times, so the model may "
            "overfit. Unsloth's guide recommends 1 to 5 epochs, PEFT Studio 3 to 5 for small "
            "datasets and 1 to 2 for large ones, but allows 10; both advise to watch the held-out "
            "loss.",
            f"Use {fewer}, or callbacks.early_stopping_patience=3, which ends the run in time.",
            use=fewer,
        )
    data = plan.config.data
    can_hold_out = data.validation is None and data.split_ratio != _USUAL_SHARE
    if passes >= 3 and not plan.eval_rows and can_hold_out:
        yield warning(
            "data.split_ratio",
            f"holds out no rows, so nothing shows whether {passes:.3g} epochs are too many. PEFT "
            "Studio recommends holding out 10 to 20%; QEfficient holds out 20%.",
            use=_USUAL_SHARE,
        )


def _batch(plan: Plan) -> Iterator[Problem]:
    """Source: Unsloth's ranges; PEFT Studio, which says both."""
    rows, config = plan.effective_batch_size, plan.config
    if rows >= 4 or config.data.packing or (plan.total_steps or 0) < _LOSS_SEEN_STEPS:
        return
    at_once = config.training.per_device_train_batch_size * config.distributed.data_parallel_size
    accumulation = 16 // at_once
    yield warning(
        "training.gradient_accumulation_steps",
        f"makes steps of {count(rows, 'row')}, so the loss is noisy. Unsloth's guide recommends 2 "
        "to 16, and PEFT Studio uses 16 rows per step; it also calls a smaller batch more stable, "
        "which is true of the memory but not of the loss.",
        f"Use {accumulation}, which needs no more memory.",
        use=accumulation,
    )


def _few_steps(plan: Plan) -> Iterator[Problem]:
    """Source: nbft; Adam alone needs some steps to know the size of the gradients."""
    rows, total = plan.effective_batch_size, plan.total_steps or 0
    if rows <= _USUAL_ROWS or not 0 < total < _FEWEST_STEPS or not plan.train_rows:
        return
    training = plan.config.training
    seen = min(total * rows, plan.train_rows * training.num_train_epochs)
    if training.max_steps > 0 or plan.config.data.max_tokens_per_batch is not None:
        return
    wanted = min(_USUAL_ROWS, int(seen // _FEWEST_STEPS))
    wanted = max(1, wanted // plan.config.distributed.data_parallel_size)
    batch = min(training.per_device_train_batch_size, wanted)
    yield warning(
        "training.gradient_accumulation_steps",
        f"makes steps of {count(rows, 'row')}, so the whole run has {count(total, 'step')}, too few "
        "to learn much.",
        f"Use {wanted // batch} with a batch of {batch}.",
        {
            "training.gradient_accumulation_steps": wanted // batch,
            "training.per_device_train_batch_size": batch,
        },
    )


def _batch_rate(plan: Plan) -> Iterator[Problem]:
    """Source: PEFT Studio; the square root for Adam, arXiv:2205.10287, section 5."""
    rows, usual = plan.effective_batch_size, rates_of(plan.config)
    is_usual = usual.proposed / 2 <= plan.config.training.learning_rate <= usual.proposed
    if rows < 8 * _USUAL_ROWS or (plan.total_steps or 0) < _FEWEST_STEPS or not is_usual:
        return
    scaled = float(f"{min(usual.highest, usual.proposed * (rows / _USUAL_ROWS) ** 0.5):.1g}")
    yield warning(
        "training.learning_rate",
        f"is meant for steps of about {_USUAL_ROWS} rows, and these have {count(rows)}. PEFT Studio "
        "recommends a rate that grows with the batch; with Adam it grows with the square root.",
        use=scaled,
    )


def _clipping(plan: Plan) -> Iterator[Problem]:
    """Source: usual practice; QLoRA, arXiv:2305.14314, appendix B, has 0.3."""
    if 0 < plan.config.training.max_grad_norm < 0.1:
        yield warning(
            "training.max_grad_norm",
            "cuts nearly every gradient, so the run learns little or, with Adam, at random. 0.3 to "
            "1 is usual.",
            use=1.0,
        )


def _schedule(plan: Plan) -> Iterator[Problem]:
    """Source: the ranges of Unsloth, PEFT Studio and ERNIEKit; PEFT Studio on loss that is NaN."""
    total, warmup = plan.total_steps or 0, plan.warmup_steps or 0
    is_long = total >= _LOSS_SEEN_STEPS and warmup > 0.2 * total
    if is_long and shape_of(plan.config)[0] != "constant":
        yield warning(
            "scheduler.warmup_steps",
            f"warms up for {warmup / total:.0%} of the steps, so the loss falls late. Unsloth's "
            "guide recommends 3 to 10%, ERNIEKit 1 to 10% and PEFT Studio 5 to 10%, although its "
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
    """Source: rsLoRA, arXiv:2312.03732; ERNIEKit uses it from 64, PEFT Studio above 16."""
    peft = plan.config.peft
    if peft.method != "lora" or peft.use_rslora:
        return
    now, shrinks = peft.alpha / peft.r, peft.alpha < peft.r
    if peft.r < 64 and not (peft.r > 16 and shrinks):
        return
    why = (
        "hardly learns more than a lower rank would"
        if shrinks
        else "takes larger and larger steps as the rank grows, which can become unstable"
    )
    after = 4 / peft.r**0.5
    yield warning(
        "peft.r",
        f"is high for plain LoRA: with its scaling of lora_alpha / r = {now:.3g} it {why}. rsLoRA "
        "divides by the square root of the rank instead; PEFT Studio recommends it above 16, "
        "ERNIEKit from 64.",
        f"Turn peft.use_rslora on, with lora_alpha=-1, which then means 4: the scaling becomes "
        f"{after:.3g}, {_times(after / now)}.",
        {"peft.use_rslora": True, "peft.lora_alpha": -1},
    )


def _scaling(plan: Plan) -> Iterator[Problem]:
    """Source: usual practice; PEFT Studio and QEfficient use twice the rank, Oumi once."""
    peft = plan.config.peft
    if peft.method != "lora":
        return
    divisor = peft.r**0.5 if peft.use_rslora else peft.r
    scaling, named = peft.alpha / divisor, "sqrt(r)" if peft.use_rslora else "r"
    usual = 4 if peft.use_rslora else 2 * peft.r
    if not 0.25 <= scaling <= 4:
        yield warning(
            "peft.lora_alpha",
            f"multiplies the adapter's output by lora_alpha / {named} = {scaling:.3g}. 0.5 to 2 is "
            "usual: twice the rank for LoRA (PEFT Studio), 4 with rsLoRA (ERNIEKit).",
            f"Use -1, which means {usual} here: the scaling becomes {usual / divisor:.3g}, "
            f"{_times(usual / divisor / scaling)}.",
            use=-1,
        )


def _times(factor: float) -> str:
    """Return what becomes of the size of a step, in words."""
    if 0.9 < factor < 1.1:
        return "as before"
    return f"{factor:.3g} times" if factor > 1 else f"1/{1 / factor:.3g} of what it was"


_RANGES = {
    "peft.lora_dropout": "leaves out much of the adapter's input. PEFT Studio and Oumi's recipe use "
    "0.05, QEfficient 0.1",
    "optimizer.weight_decay": "pulls the weights towards zero faster than they learn. Unsloth's "
    "guide recommends 0.01 to 0.1; QEfficient commonly uses 0.01",
    "peft.loraplus_lr_ratio": "lets the second matrix learn too fast. LoRA+ recommends 4 to 16, with "
    "half the usual learning rate",
    "training.neftune_noise_alpha": "is outside what was tried. NEFTune's authors use 5 to 15",
}
"""What a value outside the usual range of a setting does, and whose range it is."""


def _ranges(plan: Plan) -> Iterator[Problem]:
    """Source: the guides, for the ranges that the settings have."""
    for setting in settings():
        value = _value(plan.config, setting.path) if setting.path in _RANGES else None
        if value is None or setting.usual is None:
            continue
        if setting.path.startswith("peft.") and plan.config.peft.method != "lora":
            continue
        lowest, highest = setting.usual
        if not lowest <= value <= highest:
            yield warning(
                setting.path, f"{_RANGES[setting.path]}.", use=min(highest, max(lowest, value))
            )


def _value(config: Config, path: str) -> Any:
    section, name = path.split(".")
    return getattr(getattr(config, section), name)


def _same_rows(plan: Plan) -> Iterator[Problem]:
    """Source: nbft; a held-out loss of rows that are trained on only ever falls."""
    data = plan.config.data
    trained = {_source(dataset) for dataset in data.train.datasets}
    if data.validation and any(_source(each) in trained for each in data.validation.datasets):
        yield warning(
            "data.validation",
            "has rows that are trained on, so the held-out loss cannot show overfitting.",
            "Leave it out, and hold out a tenth of the training rows.",
            {"data.validation": None, "data.split_ratio": min(data.split_ratio, 0.9)},
            value=", ".join(str(_source(each)[0]) for each in data.validation.datasets),
        )


def _source(dataset: Any) -> tuple[Any, ...]:
    """Return what tells the rows of a dataset: those in memory, a file, or a name and its split."""
    if dataset.rows is not None:
        return ("rows in memory", id(dataset.rows))
    if dataset.path is not None:
        return (str(Path(dataset.path).expanduser().absolute()), dataset.split)
    return (dataset.dataset_name, dataset.split or object())


def _logging(plan: Plan) -> Iterator[Problem]:
    """Source: nbft."""
    ours, total = plan.config.logging, plan.total_steps or 0
    every = max(1, total // 100)
    if ours.logging_strategy == "no" or (
        ours.logging_strategy == "steps" and total >= _FEWEST_STEPS and ours.logging_steps >= total
    ):
        is_off = ours.logging_strategy == "no"
        yield warning(
            f"logging.logging_{'strategy' if is_off else 'steps'}",
            "leaves the run without a curve, and nothing that goes wrong is noticed.",
            f"Log every {count(every, 'step')}.",
            {"logging.logging_strategy": "steps", "logging.logging_steps": every},
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


def _slow(plan: Plan) -> Iterator[Problem]:
    """Source: PEFT Studio, training too slow, which contradicts what it says of checkpointing."""
    if (plan.seconds or 0) < _SLOW_SECONDS or not plan.config.memory.gradient_checkpointing:
        return
    without = {"memory.gradient_checkpointing": False}
    changed = plan.config.apply(without | {"memory.recompute_granularity": "full"})
    needed = plan.needed_bytes(changed)
    if needed is not None and needed <= 0.6 * plan.free_memory_bytes:
        yield warning(
            "memory.gradient_checkpointing",
            f"makes this run of about {duration(plan.seconds or 0)} 20 to 30% slower (PEFT Studio, "
            f"although it recommends it for slow training), and the run fits without it: about "
            f"{size(needed)} of {size(plan.free_memory_bytes)} free.",
            "Turn it off.",
            without,
        )


def _very_slow(plan: Plan) -> Iterator[Problem]:
    """Source: PEFT Studio, training too slow."""
    if (plan.seconds or 0) < _VERY_SLOW_SECONDS:
        return
    yield warning(
        "model.model_name",
        f"trains for about {duration(plan.seconds or 0)}. PEFT Studio recommends a smaller model or "
        "quantisation, which saves memory rather than time.",
        "Choose a smaller model, shorter rows (data.max_length) or fewer of them.",
    )
