"""Settings that do not go together, or not with this machine. Each check is one function.

A check returns a `Problem` or None; `check` runs them all. Called by `make_plan`.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from nbft import registry
from nbft.config import Config
from nbft.config.speed import Speed
from nbft.data.ready import READY
from nbft.data.sources import is_there
from nbft.decisions import Decisions, decide
from nbft.errors import Problem
from nbft.hardware import available_devices, device_of, has_bfloat16
from nbft.methods import method_of
from nbft.models.find import ALIASES, find_local
from nbft.plan.model_checks import model_problems
from nbft.plan.schedule import ARGUMENTS_OF, shape_of
from nbft.plan.training_checks import PACKAGE_OF, training_problems

Check = Callable[[Config, Decisions], "Problem | None"]

_CHECKS: list[Check] = []
_LEAST_FREE_BYTES = 300 * 2**20


def check(config: Config, decisions: Decisions) -> list[Problem]:
    """Run every check.

    Args:
        config: The config.
        decisions: What it leads to on this machine.
    """
    found = [problem for one in _CHECKS if (problem := one(config, decisions))]
    found += [*model_problems(config, decisions), *training_problems(config, decisions)]
    found += method_of(config).problems(config)
    return [*found, *_files(config)]


def _check(function: Check) -> Check:
    _CHECKS.append(function)
    return function


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


@_check
def _model_name(config: Config, decisions: Decisions) -> Problem | None:
    import difflib

    name = config.model.model_name
    if name in ALIASES or find_local(name) or re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        return None
    close = difflib.get_close_matches(name.lower(), ALIASES, n=1, cutoff=0.5)
    return Problem(
        "model.model_name",
        name,
        "is no folder with a model here, and no hub name (owner/name).",
        f"Did you mean {close[0]}?" if close else f"Use {next(iter(ALIASES))}, which needs no hub.",
        {"model.model_name": close[0] if close else next(iter(ALIASES))},
    )


@_check
def _device_is_there(config: Config, decisions: Decisions) -> Problem | None:
    device = decisions.device.value
    there = available_devices()
    if device in there:
        return None
    return Problem(
        "compute.device",
        device,
        f"was not found; this machine has {', '.join(there)}.",
        device_of(device).absent,
        {"compute.device": "auto"},
    )


@_check
def _float16_needs_a_gpu(config: Config, decisions: Decisions) -> Problem | None:
    device = decisions.device.value
    if device != "cpu" or config.precision.mixed_precision != "fp16":
        return None
    return Problem(
        "precision.mixed_precision",
        "fp16",
        "a CPU does not compute in float16; transformers would use float32 without a word.",
        "Use auto.",
        {"precision.mixed_precision": "auto"},
    )


@_check
def _float16_weights_need_a_gpu(config: Config, decisions: Decisions) -> Problem | None:
    device = decisions.device.value
    if device != "cpu" or config.model.dtype != "float16":
        return None
    instead = decide(config.apply({"model.dtype": "auto"})).dtype.value
    return Problem(
        "model.dtype",
        "float16",
        "a CPU computes in float16 very slowly.",
        f"Use auto ({instead} here).",
        {"model.dtype": "auto"},
    )


@_check
def _bfloat16_is_there(config: Config, decisions: Decisions) -> Problem | None:
    device = decisions.device.value
    there = has_bfloat16(device)
    if device == "cpu" or there.value == "yes":
        return None
    changes = {}
    if config.model.dtype == "bfloat16":
        changes["model.dtype"] = "auto"
    if config.precision.mixed_precision == "bf16":
        changes["precision.mixed_precision"] = "auto"
    for name in changes:
        value = "bfloat16" if name == "model.dtype" else "bf16"
        return Problem(name, value, f"{there.reason}.", "Use auto.", changes)
    return None


@_check
def _tf32_is_there(config: Config, decisions: Decisions) -> Problem | None:
    device = decisions.device.value
    # Measured: TrainingArguments(tf32=True) refuses to start without an Ampere GPU.
    if not config.precision.tf32 or (device == "cuda" and has_bfloat16(device).value == "yes"):
        return None
    return Problem(
        "precision.tf32",
        True,
        "needs an NVIDIA GPU from Ampere on (compute capability 8.0).",
        "Leave it empty.",
        {"precision.tf32": None},
    )


@_check
def _mixed_with_16_bit_weights(config: Config, decisions: Decisions) -> Problem | None:
    device, dtype = decisions.device.value, decisions.dtype.value
    if device == "cpu" or config.precision.mixed_precision != "fp16" or dtype == "float32":
        return None
    asked = "" if config.model.dtype == dtype else f", {config.model.dtype} here"
    return Problem(
        "precision.mixed_precision",
        "fp16",
        f"needs float32 weights, and model.dtype is {dtype}{asked}.",
        "Use float32 for model.dtype.",
        {"model.dtype": "float32"},
    )


@_check
def _learning_rate_is_usual(config: Config, decisions: Decisions) -> Problem | None:
    rate = config.training.learning_rate
    low, high, usual, advised, name = {
        "lora": (
            *(1e-5, 2e-3, 2e-4),
            "1e-4 to 5e-4 is usual; Unsloth has 5e-5 to 1e-4, PEFT Studio up to 5e-4",
            "LoRA",
        ),
        "ia3": (1e-4, 5e-2, 3e-3, "1e-3 to 1e-2 is usual: arXiv:2205.05638, section 3.3", "IA3"),
        "full": (
            *(1e-6, 2e-4, 2e-5),
            "1e-5 to 5e-5 is usual; Oumi has 2e-5, ERNIEKit 3e-5, QEfficient 5e-5",
            "full training",
        ),
    }[config.peft.method]
    if low <= rate <= high:
        return None
    side = "above" if rate > high else "below"
    return Problem(
        "training.learning_rate",
        rate,
        f"is {side} the range for {name} ({advised}).",
        f"Use {usual:g}.",
        {"training.learning_rate": usual},
        level="warning",
    )


@_check
def _best_needs_evaluations_at_saves(config: Config, decisions: Decisions) -> Problem | None:
    keep, measure = config.checkpoint, config.evaluation
    if keep.save_strategy == "best" and measure.eval_strategy == "no":
        return Problem(
            "checkpoint.save_strategy",
            "best",
            "has no scores to go by: evaluation.eval_strategy is no.",
            "Use epoch for it.",
            {"evaluation.eval_strategy": "epoch"},
        )
    if not keep.load_best_model_at_end or keep.save_strategy == "best":
        return None
    if measure.eval_strategy != keep.save_strategy or measure.eval_strategy == "no":
        return Problem(
            "checkpoint.load_best_model_at_end",
            True,
            f"needs a measurement at every save, but evaluation.eval_strategy is "
            f"{measure.eval_strategy} and checkpoint.save_strategy is {keep.save_strategy}.",
            "Use epoch for both.",
            {"evaluation.eval_strategy": "epoch", "checkpoint.save_strategy": "epoch"},
        )
    every = measure.eval_steps or config.logging.logging_steps
    if measure.eval_strategy == "steps" and keep.save_steps % every:
        nearest = max(1, round(keep.save_steps / every)) * every
        return Problem(
            "checkpoint.save_steps",
            keep.save_steps,
            f"is no multiple of the {every} steps between measurements, so the best checkpoint "
            "could not be known.",
            f"Use {nearest}.",
            {"checkpoint.save_steps": nearest},
        )
    return None


@_check
def _early_stopping_needs_measurements(config: Config, decisions: Decisions) -> Problem | None:
    if config.callbacks.early_stopping_patience and config.evaluation.eval_strategy == "no":
        return Problem(
            "callbacks.early_stopping_patience",
            config.callbacks.early_stopping_patience,
            "has no scores to go by: evaluation.eval_strategy is no.",
            "Use epoch for it.",
            {"evaluation.eval_strategy": "epoch"},
        )
    return None


@_check
def _held_out_rows_are_of_the_same_kind(config: Config, decisions: Decisions) -> Problem | None:
    """See the held-out sample of a preset that stayed when the training rows were changed."""
    trained = {dataset.dataset_name for dataset in config.data.train.datasets if not dataset.path}
    held_out = config.data.validation.datasets if config.data.validation else []
    for number, dataset in enumerate(held_out):
        name = dataset.dataset_name
        if name in READY and dataset.path is None and dataset.rows is None and name not in trained:
            return Problem(
                f"data.validation.datasets[{number}].dataset_name",
                name,
                "is another kind of rows than the training rows.",
                "Hold some of those out instead.",
                {"data.validation": None},
                level="warning",
            )
    return None


@_check
def _stream_needs_steps(config: Config, decisions: Decisions) -> Problem | None:
    if not config.data.train.stream or config.training.max_steps > 0:
        return None
    return Problem(
        "data.train.stream",
        True,
        "leaves the number of rows unknown, so an epoch has no end.",
        "Set training.max_steps, or turn it off.",
        {"data.train.stream": False},
    )


@_check
def _packed_sequences_have_one_length(config: Config, decisions: Decisions) -> Problem | None:
    by_length = config.data.train_sampling_strategy == "group_by_length"
    if not by_length or not (config.data.packing or config.data.train.stream):
        return None
    why = "are packed to one length" if config.data.packing else "come as a stream"
    return Problem(
        "data.train_sampling_strategy",
        "group_by_length",
        f"cannot order rows that {why}.",
        "Use random.",
        {"data.train_sampling_strategy": "random"},
    )


@_check
def _everything_trained(config: Config, decisions: Decisions) -> Problem | None:
    if config.data.split_ratio < 1 or config.data.validation is not None:
        return None
    if config.evaluation.eval_strategy == "no":
        return None
    return Problem(
        "data.split_ratio",
        1.0,
        "leaves no row to measure on.",
        "Use 0.9, or set evaluation.eval_strategy=no.",
        {"data.split_ratio": 0.9},
    )


@_check
def _loader_processes(config: Config, decisions: Decisions) -> Problem | None:
    data = config.data
    if data.dataloader_num_workers:
        return None
    for name in ("dataloader_prefetch_factor", "dataloader_persistent_workers"):
        if value := getattr(data, name):
            return Problem(
                f"data.{name}",
                value,
                "needs dataloader_num_workers of at least 1, and it is 0.",
                "Use 1 worker, or leave this out.",
                {"data.dataloader_num_workers": 1},
            )
    return None


@_check
def _padding_free_fits(config: Config, decisions: Decisions) -> Problem | None:
    if not config.data.padding_free:
        return None
    if config.data.pad_to_multiple_of:
        return Problem(
            "data.pad_to_multiple_of",
            config.data.pad_to_multiple_of,
            "nothing is padded while data.padding_free is on.",
            "Leave it empty.",
            {"data.pad_to_multiple_of": None},
        )
    return None


@_check
def _asked_parts_apply(config: Config, decisions: Decisions) -> Problem | None:
    asked = [name for name in Speed.model_fields if getattr(config.speed, name) == "on"]
    if not asked:
        return None
    for name in asked:
        if not decisions.uses(name):
            why = f"cannot be used: {decisions.parts[name].reason}."
            return Problem(f"speed.{name}", "on", why, "Use auto.", {f"speed.{name}": "auto"})
    return None


@_check
def _bitsandbytes(config: Config, decisions: Decisions) -> Problem | None:
    optim = config.optimizer.optim
    is_theirs = optim == "lion_32bit" or "8bit" in optim or "paged" in optim
    if is_theirs and not _installed("bitsandbytes"):
        return Problem(
            "optimizer.optim",
            optim,
            "needs the package bitsandbytes, which is not installed.",
            "pip install bitsandbytes, or use adamw_torch_fused.",
            {"optimizer.optim": "adamw_torch_fused"},
        )
    return None


@_check
def _trackers(config: Config, decisions: Decisions) -> Problem | None:
    absent = [name for name in config.tracking.report_to if not _installed(name)]
    if not absent:
        return None
    rest = [name for name in config.tracking.report_to if name not in absent]
    return Problem(
        "tracking.report_to",
        config.tracking.report_to,
        f"not installed: {', '.join(absent)}.",
        f"pip install {' '.join(PACKAGE_OF.get(n, n) for n in absent)}, or leave out what is not installed.",
        {"tracking.report_to": rest},
    )


@_check
def _minimum_rate(config: Config, decisions: Decisions) -> Problem | None:
    kind, more = shape_of(config)
    if kind != "cosine_with_min_lr":
        return None
    if (lowest := config.scheduler.min_lr or 0) > config.training.learning_rate:
        return Problem(
            "scheduler.min_lr",
            lowest,
            f"is above training.learning_rate, {config.training.learning_rate:g}.",
            f"Use {config.training.learning_rate / 10:g}.",
            {"scheduler.min_lr": config.training.learning_rate / 10},
        )
    if ("min_lr" in more) == ("min_lr_rate" in more):
        return Problem(
            "scheduler.lr_scheduler_kwargs",
            config.scheduler.lr_scheduler_kwargs or None,
            "cosine_with_min_lr wants min_lr or min_lr_rate, one of them.",
            "Use {min_lr_rate: 0.1}.",
            {"scheduler.lr_scheduler_kwargs": {"min_lr_rate": 0.1}},
        )
    return None


@_check
def _arguments_of_the_shape(config: Config, decisions: Decisions) -> Problem | None:
    kind, more = shape_of(config)[0], config.scheduler.lr_scheduler_kwargs
    if registry.schedulers.is_own(kind):
        return None
    known = ARGUMENTS_OF.get(kind, set())
    strange = [name for name in more if name not in known]
    if not strange:
        return None
    rest = {name: value for name, value in more.items() if name in known}
    takes = f"it takes {', '.join(sorted(known))}" if known else "it takes none"
    return Problem(
        "scheduler.lr_scheduler_kwargs",
        more,
        f"{', '.join(strange)} is no argument of {kind}; {takes}.",
        "Leave it out.",
        {"scheduler.lr_scheduler_kwargs": rest},
    )


@_check
def _engines_of_several_processes(config: Config, decisions: Decisions) -> Problem | None:
    for name, reason in config.distributed.engines().items():
        default = type(config.distributed).model_fields[name].default
        return Problem(
            f"distributed.{name}",
            getattr(config.distributed, name),
            f"{reason}, and nbft trains in one process for now: planned.",
            "Leave it out.",
            {f"distributed.{name}": default},
        )
    return None


@_check
def _settings_of_another_method(config: Config, decisions: Decisions) -> Problem | None:
    """Refuse settings of a section that belongs to methods which are not chosen."""
    fields = type(config.preference).model_fields
    set_here = [n for n in fields if getattr(config.preference, n) != fields[n].default]
    if not set_here or method_of(config).section == "preference":
        return None
    why = "learns from pairs of answers, which nbft does not do yet: planned."
    if set_here[0] != "method":
        why = "is of preference training, which nbft does not do yet: planned."
    return Problem(
        f"preference.{set_here[0]}",
        getattr(config.preference, set_here[0]),
        why,
        "Leave it out: the better answers are imitated.",
        {f"preference.{name}": fields[name].default for name in set_here},
    )


def _files(config: Config) -> Iterator[Problem]:
    """Check that the run's folder can be made and has room."""
    place = Path(config.training.output_dir).expanduser().absolute()
    while not is_there(place):
        place = place.parent
    if not place.is_dir():
        yield Problem(
            "training.output_dir",
            config.training.output_dir,
            f"{place} is a file.",
            "Name another.",
        )
    elif not os.access(place, os.W_OK):
        yield Problem(
            "training.output_dir",
            config.training.output_dir,
            f"you may not write into {place}.",
            "Name a folder of your own.",
        )
    elif (free := shutil.disk_usage(place).free) < _LEAST_FREE_BYTES:
        yield Problem(
            "training.output_dir",
            config.training.output_dir,
            f"the disk has {free / 2**20:,.0f} MiB free; a run needs about "
            f"{_LEAST_FREE_BYTES / 2**20:,.0f} MiB.",
            "Free some room or name a folder on another disk.",
        )
