"""Settings that conflict with each other or with this machine. Called by `make_plan`."""

from __future__ import annotations

import difflib
import os
import re
import shutil
from collections.abc import Iterator
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
from nbft.plan.problems import error, is_installed, warning, with_values
from nbft.plan.schedule import ARGUMENTS_OF, shape_of
from nbft.plan.training_checks import PACKAGE_OF, training_problems

_LEAST_FREE_BYTES = 300 * 2**20


def check(config: Config, decisions: Decisions) -> list[Problem]:
    """Run every check.

    Args:
        config: The config.
        decisions: What it leads to on this machine.
    """
    problems = [
        *_model_name(config),
        *_device(config, decisions),
        *_number_types(config, decisions),
        *_learning_rate(config),
        *_best_model(config),
        *_held_out_rows(config),
        *_order_of_rows(config),
        *_batches(config),
        *_fast_path(config, decisions),
        *_packages(config),
        *_schedule(config),
        *_not_supported_yet(config),
        *model_problems(config, decisions),
        *training_problems(config, decisions),
        *_output_folder(config),
    ]
    return [*with_values(problems, config), *method_of(config).problems(config)]


def _model_name(config: Config) -> Iterator[Problem]:
    name = config.model.model_name
    if name in ALIASES or find_local(name) or re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        return
    close = difflib.get_close_matches(name.lower(), ALIASES, n=1, cutoff=0.5)
    known = close[0] if close else next(iter(ALIASES))
    yield error(
        "model.model_name",
        "is neither a folder with a model nor a name on the hub (owner/name).",
        f"Did you mean {known}?" if close else f"Use {known}, which needs no hub access.",
        use=known,
    )


def _device(config: Config, decisions: Decisions) -> Iterator[Problem]:
    device, available = decisions.device.value, available_devices()
    if device not in available:
        yield error(
            "compute.device",
            f"was not found; this machine has {', '.join(available)}.",
            device_of(device).absent,
            use="auto",
            value=device,
        )


def _number_types(config: Config, decisions: Decisions) -> Iterator[Problem]:
    device, dtype, precision = decisions.device.value, decisions.dtype.value, config.precision
    bfloat16 = has_bfloat16(device)
    if device == "cpu":
        if precision.mixed_precision == "fp16":
            yield error(
                "precision.mixed_precision",
                "needs a GPU: on a CPU transformers would silently use float32.",
                use="auto",
            )
        if config.model.dtype == "float16":
            instead = decide(config.apply({"model.dtype": "auto"})).dtype
            why, fix = "is very slow on a CPU.", f"Use auto ({instead.value} here)."
            yield error("model.dtype", why, fix, use="auto")
    else:
        asked = {"model.dtype": config.model.dtype == "bfloat16"}
        asked["precision.mixed_precision"] = precision.mixed_precision == "bf16"
        changes = {name: "auto" for name, is_asked in asked.items() if is_asked}
        if changes and bfloat16.value != "yes":
            yield error(next(iter(changes)), f"{bfloat16.reason}.", "Use auto.", changes)
        if precision.mixed_precision == "fp16" and dtype != "float32":
            shown = dtype if config.model.dtype == dtype else f"{dtype}, {config.model.dtype} here"
            yield error(
                "precision.mixed_precision",
                f"needs float32 weights, and model.dtype is {shown}.",
                "Use float32 for model.dtype.",
                {"model.dtype": "float32"},
            )
    # Measured: TrainingArguments(tf32=True) refuses to start without an Ampere GPU.
    if precision.tf32 and not (device == "cuda" and bfloat16.value == "yes"):
        why = "needs an NVIDIA GPU with compute capability 8.0 (Ampere) or newer."
        yield error("precision.tf32", why, use=None)


_LEARNING_RATES = {
    "lora": (
        "LoRA",
        *(1e-5, 2e-3, 2e-4),
        "1e-4 to 5e-4; Unsloth: 5e-5 to 1e-4, PEFT Studio: up to 5e-4",
    ),
    "ia3": ("IA3", 1e-4, 5e-2, 3e-3, "1e-3 to 1e-2, arXiv:2205.05638, section 3.3"),
    "full": (
        "full training",
        *(1e-6, 2e-4, 2e-5),
        "1e-5 to 5e-5; Oumi: 2e-5, ERNIEKit: 3e-5, QEfficient: 5e-5",
    ),
}
"""Name, lowest, highest, proposed and usual learning rates of each peft.method."""


def _learning_rate(config: Config) -> Iterator[Problem]:
    name, lowest, highest, proposed, usual = _LEARNING_RATES[config.peft.method]
    rate = config.training.learning_rate
    if not lowest <= rate <= highest:
        side = "above" if rate > highest else "below"
        why = f"is {side} the usual range for {name} ({usual})."
        yield warning("training.learning_rate", why, use=proposed)


def _best_model(config: Config) -> Iterator[Problem]:
    saving, evaluation = config.checkpoint, config.evaluation
    evaluated, saved = evaluation.eval_strategy, saving.save_strategy
    if evaluated == "no":
        asked = {
            "checkpoint.save_strategy": saved == "best",
            "callbacks.early_stopping_patience": config.callbacks.early_stopping_patience,
            "callbacks.callbacks.early_stopping": "early_stopping" in config.callbacks.callbacks,
        }
        for field in (field for field, is_asked in asked.items() if is_asked):
            yield error(
                field,
                "needs evaluations, and evaluation.eval_strategy is no.",
                "Use epoch for it.",
                {"evaluation.eval_strategy": "epoch"},
            )
    if not saving.load_best_model_at_end or saved == "best":
        return
    interval = evaluation.eval_steps or config.logging.logging_steps
    if evaluated != saved or evaluated == "no":
        yield error(
            "checkpoint.load_best_model_at_end",
            f"needs an evaluation at every checkpoint, but evaluation.eval_strategy is {evaluated} "
            f"and checkpoint.save_strategy is {saved}.",
            "Use epoch for both.",
            {"evaluation.eval_strategy": "epoch", "checkpoint.save_strategy": "epoch"},
        )
    elif evaluated == "steps" and saving.save_steps % interval:
        yield error(
            "checkpoint.save_steps",
            f"is not a multiple of the evaluation interval of {interval} steps, so the best "
            "checkpoint could not be determined.",
            use=max(1, round(saving.save_steps / interval)) * interval,
        )


def _held_out_rows(config: Config) -> Iterator[Problem]:
    data = config.data
    # The validation sample of a preset may stay when its training data is replaced.
    trained = {dataset.dataset_name for dataset in data.train.datasets if not dataset.path}
    for number, dataset in enumerate(data.validation.datasets if data.validation else []):
        name = dataset.dataset_name
        if name in READY and dataset.path is None and dataset.rows is None and name not in trained:
            yield Problem(
                f"data.validation.datasets[{number}].dataset_name",
                name,
                "is a different kind of data than the training data.",
                "Hold out some of the training rows instead.",
                {"data.validation": None},
                level="warning",
            )
            break
    is_measured = config.evaluation.eval_strategy != "no"
    if data.split_ratio == 1 and data.validation is None and is_measured:
        fix = "Use 0.9, or set evaluation.eval_strategy=no."
        yield error("data.split_ratio", "leaves no rows for evaluation.", fix, use=0.9)


def _order_of_rows(config: Config) -> Iterator[Problem]:
    data = config.data
    if data.train.stream and config.training.max_steps <= 0:
        why = "leaves the number of rows unknown, so an epoch never ends."
        fix = "Set training.max_steps, or turn streaming off."
        yield error("data.train.stream", why, fix, use=False)
    by_length = data.train_sampling_strategy == "group_by_length"
    if by_length and (data.packing or data.train.stream):
        kind = "packed to the same length" if data.packing else "streamed"
        why = f"cannot sort rows that are {kind}."
        yield error("data.train_sampling_strategy", why, use="random")


def _batches(config: Config) -> Iterator[Problem]:
    data = config.data
    if not data.dataloader_num_workers:
        for name in ("dataloader_prefetch_factor", "dataloader_persistent_workers"):
            if getattr(data, name):
                yield error(
                    f"data.{name}",
                    "needs at least 1 data loader worker, and dataloader_num_workers is 0.",
                    "Use 1 worker, or leave this out.",
                    {"data.dataloader_num_workers": 1},
                )
                break
    if data.padding_free and data.pad_to_multiple_of:
        why = "has no effect, because nothing is padded while data.padding_free is on."
        yield error("data.pad_to_multiple_of", why, use=None)


def _fast_path(config: Config, decisions: Decisions) -> Iterator[Problem]:
    for name in Speed.model_fields:
        if getattr(config.speed, name) == "on" and not decisions.uses(name):
            why = f"cannot be used: {decisions.parts[name].reason}."
            yield error(f"speed.{name}", why, use="auto")


def _packages(config: Config) -> Iterator[Problem]:
    optim, trackers = config.optimizer.optim, config.tracking.report_to
    needs_bitsandbytes = optim == "lion_32bit" or "8bit" in optim or "paged" in optim
    if needs_bitsandbytes and not is_installed("bitsandbytes"):
        yield error(
            "optimizer.optim",
            "needs the package bitsandbytes, which is not installed.",
            "pip install bitsandbytes, or use adamw_torch_fused.",
            use="adamw_torch_fused",
        )
    if missing := [name for name in trackers if not is_installed(name)]:
        packages = " ".join(PACKAGE_OF.get(name, name) for name in missing)
        yield error(
            "tracking.report_to",
            f"not installed: {', '.join(missing)}.",
            f"pip install {packages}, or remove what is not installed.",
            use=[name for name in trackers if name not in missing],
        )


def _schedule(config: Config) -> Iterator[Problem]:
    ours, peak = config.scheduler, config.training.learning_rate
    shape, arguments = shape_of(config)
    if shape == "cosine_with_min_lr":
        if (ours.min_lr or 0) > peak:
            why = f"is above training.learning_rate, {peak:g}."
            yield error("scheduler.min_lr", why, use=peak / 10)
        elif ("min_lr" in arguments) == ("min_lr_rate" in arguments):
            yield error(
                "scheduler.lr_scheduler_kwargs",
                "cosine_with_min_lr needs either min_lr or min_lr_rate.",
                "Use {min_lr_rate: 0.1}.",
                use={"min_lr_rate": 0.1},
            )
    known = ARGUMENTS_OF.get(shape, set())
    unknown = [name for name in ours.lr_scheduler_kwargs if name not in known]
    if unknown and not registry.schedulers.is_own(shape):
        yield error(
            "scheduler.lr_scheduler_kwargs",
            f"{', '.join(unknown)} is not an argument of {shape}, which takes "
            f"{', '.join(sorted(known)) or 'none'}.",
            "Leave it out.",
            use={name: v for name, v in ours.lr_scheduler_kwargs.items() if name in known},
        )


def _not_supported_yet(config: Config) -> Iterator[Problem]:
    for name, reason in config.distributed.engines().items():
        yield error(
            f"distributed.{name}",
            f"{reason}; training in several processes is not supported yet.",
            "Leave it out.",
            use=type(config.distributed).model_fields[name].default,
        )
        break
    fields = type(config.preference).model_fields
    asked = [n for n in fields if getattr(config.preference, n) != fields[n].default]
    if asked and method_of(config).section != "preference":
        yield error(
            f"preference.{asked[0]}",
            "is for learning from pairs of answers, which is not supported yet.",
            "Leave it out to train on the better answers.",
            {f"preference.{name}": fields[name].default for name in asked},
        )


def _output_folder(config: Config) -> Iterator[Problem]:
    folder = Path(config.training.output_dir).expanduser().absolute()
    while not is_there(folder):
        folder = folder.parent
    if not folder.is_dir():
        yield error("training.output_dir", f"{folder} is a file.", "Name another folder.")
    elif not os.access(folder, os.W_OK):
        why = f"{folder} is not writable."
        yield error("training.output_dir", why, "Choose a folder that you can write to.")
    elif (free := shutil.disk_usage(folder).free) < _LEAST_FREE_BYTES:
        yield error(
            "training.output_dir",
            f"the disk has {free / 2**20:,.0f} MiB free; a run needs about "
            f"{_LEAST_FREE_BYTES / 2**20:,.0f} MiB.",
            "Free some space, or choose a folder on another disk.",
        )
