"""Settings that conflict with each other or with this machine. Called by `make_plan`."""

from __future__ import annotations

import difflib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nbft.config import Config
from nbft.config.base import Section
from nbft.config.io import is_there
from nbft.config.speed import Speed
from nbft.data.ready import READY
from nbft.decisions import Decisions, best_measure, choose_dtype
from nbft.errors import Problem
from nbft.hardware import available_devices, device_of, has_bfloat16
from nbft.methods import method_of
from nbft.models.find import ALIASES, find_local, is_hub_name
from nbft.plan.argument_checks import schedule_argument_problems
from nbft.plan.cluster import cluster_problems
from nbft.plan.deepspeed import deepspeed_problems
from nbft.plan.disk import DiskUse, disk_problems
from nbft.plan.model_checks import model_problems
from nbft.plan.problems import error, is_installed, warning, with_values
from nbft.plan.rates import rates_of
from nbft.plan.schedule import shape_of
from nbft.plan.several import several_problems
from nbft.plan.training_checks import training_problems
from nbft.tracking import install_line, version_of


def check(
    config: Config,
    decisions: Decisions,
    folder: Path | None = None,
    use: DiskUse | None = None,
) -> list[Problem]:
    """Run every check.

    Args:
        config: The config.
        decisions: What it leads to on this machine.
        folder: Folder of the config file, for relative paths.
        use: What the run writes; None where that is not known.
    """
    problems = [
        *_model_name(config),
        *_device(config, decisions),
        *_number_types(config, decisions),
        *_learning_rate(config),
        *_best_model(config),
        *_best_measure(config),
        *_sources(config),
        *_held_out_rows(config),
        *_order_of_rows(config),
        *_batches(config),
        *_fast_path(config, decisions),
        *_packages(config),
        *_schedule(config),
        *several_problems(config, decisions),
        *deepspeed_problems(config, decisions),
        *cluster_problems(config),
        *_sections_of_methods(config),
        *model_problems(config, decisions, folder),
        *training_problems(config, decisions),
        *_output_folder(config, use),
    ]
    return [*with_values(problems, config), *method_of(config).problems(config)]


def _model_name(config: Config) -> Iterator[Problem]:
    name = config.model.model_name
    if name in ALIASES or find_local(name) or is_hub_name(name):
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
            instead = choose_dtype(config.apply({"model.dtype": "auto"}), device)
            why, fix = "is very slow on a CPU.", f"Use auto ({instead.value} here)."
            yield error("model.dtype", why, fix, use="auto")
    else:
        asked = {"model.dtype": config.model.dtype == "bfloat16"}
        asked["precision.mixed_precision"] = precision.mixed_precision == "bf16"
        changes = {name: "auto" for name, is_asked in asked.items() if is_asked}
        if changes and bfloat16.value != "yes":
            yield error(next(iter(changes)), f"{bfloat16.reason}.", "Use auto.", changes)
        is_scaled = dtype == "float16" and config.peft.trains_adapter  # what is trained is float32
        if precision.mixed_precision == "fp16" and dtype != "float32" and not is_scaled:
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


def _learning_rate(config: Config) -> Iterator[Problem]:
    usual, rate = rates_of(config), config.training.learning_rate
    if not usual.lowest <= rate <= usual.highest:
        side = "above" if rate > usual.highest else "below"
        why = f"is {side} the usual range for {usual.name} ({usual.usual})."
        yield warning("training.learning_rate", why, use=usual.proposed)


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


def _best_measure(config: Config) -> Iterator[Problem]:
    """Check that a trainer's own measure that decides which checkpoint is best is computed."""
    name, method = best_measure(config), method_of(config)
    if name in ("mean_token_accuracy", "entropy") and name not in method.held_out_measures:
        why = f"is not measured by {method.trainer_name}."
        yield error("checkpoint.metric_for_best_model", why, use="eval_loss")
    elif name == "entropy":
        for head in ("use_sparse_head_and_loss_fn", "use_fused_head_and_loss_fn"):
            if getattr(config.memory, head):
                yield error(
                    "checkpoint.metric_for_best_model",
                    f"is not computed by memory.{head}.",
                    use="eval_loss",
                )
                break


def _sources(config: Config) -> Iterator[Problem]:
    for field, dataset in config.data.named_datasets():
        for name in ("path", "dataset_name"):
            value = getattr(dataset, name)
            if dataset.rows is not None and value is not None:
                place, why = f"{field}.{name}", "is not read, because rows are given in Python."
                fix = "Leave it empty, or leave rows out."
                yield warning(place, why, fix, use=None, value=value)


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
    if missing := [name for name in trackers if version_of(name) is None]:
        yield error(
            "tracking.report_to",
            f"not installed: {', '.join(missing)}.",
            f"{install_line(missing)}, or remove what is not installed.",
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
    yield from schedule_argument_problems(config)


def _sections_of_methods(config: Config) -> Iterator[Problem]:
    """Report settings of a section that the method does not read."""
    method, own = config.training.method, method_of(config).section
    if own != "preference" and (asked := _changed(config.preference)):
        yield error(
            f"preference.{next(iter(asked))}",
            f"has no effect with training.method={method}.",
            "Use training.method=dpo, or leave it out to train on the better answers.",
            {f"preference.{name}": default for name, default in asked.items()},
        )
    if own != "grpo" and (asked := _changed(config.grpo)):
        name = next(iter(asked))
        shown = None if name == "rewards" else getattr(config.grpo, name)
        why = f"is not used with training.method={method}."
        fix = "Use training.method=grpo, or leave it out."
        yield Problem(f"grpo.{name}", shown, why, fix, {"training.method": "grpo"})


def _changed(section: Section) -> dict[str, Any]:
    """Return the defaults of the settings of a section that differ from them."""
    defaults = vars(type(section)())
    return {name: usual for name, usual in defaults.items() if getattr(section, name) != usual}


def _output_folder(config: Config, use: DiskUse | None) -> Iterator[Problem]:
    folder = Path(config.training.output_dir).expanduser().absolute()
    while not is_there(folder):
        folder = folder.parent
    if not folder.is_dir():
        yield error("training.output_dir", f"{folder} is a file.", "Name another folder.")
    elif not os.access(folder, os.W_OK):
        why = f"{folder} is not writable."
        yield error("training.output_dir", why, "Choose a folder that you can write to.")
    else:
        yield from disk_problems(config, use)
