"""Settings that the exported Python cell ignores, each with a reason.

Every setting is written in the cell, listed here, or does not affect the training; a test checks
that none is missing. Called by `interop.python`.
"""

from __future__ import annotations

from collections.abc import Container
from pathlib import Path
from typing import Any

import yaml

from nbft import registry
from nbft.config import Config, io, settings
from nbft.config.data import Dataset
from nbft.interop.python_preferences import plain
from nbft.methods import Method

_OWN = "a mechanism of nbft's own"
_OF_ROWS = (
    *("system_template", "system_prompt", "history_column"),
    *("message_property_mappings", "roles", "train_target"),
)
_FLOAT8_LAYERS = ("precision.apply_hadamard", "precision.apply_online_actscale_step")


REASONS: dict[str, str] = {
    path: reason
    for reason, paths in yaml.safe_load(
        Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8")
    ).items()
    for path in paths
}
"""Settings, or whole sections, that the cell ignores when they are not at their default."""

OF_NO_CONSEQUENCE = (
    *("training.output_dir", "training.run_name", "training.share_with_group"),
    "training.stop_on_nan",
    *("checkpoint.overwrite_output_dir", "data.test", "data.dataset_num_proc"),
    # held-out rows are read completely, one set after the other
    *("data.validation.mixture_strategy", "data.validation.stream", "data.validation.seed"),
    *("data.validation.shuffle_buffer_size", "data.validation.datasets[].mixture_proportion"),
    *("data.train.datasets[].trust_remote_code", "data.validation.datasets[].trust_remote_code"),
    *("compute.provider", "compute.price_usd_per_hour", "compute.peak_tflops", "speed"),
    *("compute.launcher", "compute.slurm"),
    *("logging.disable_tqdm", "logging.log_level", "logging.dep_log_level", "logging.logging_dir"),
)
"""Settings that change neither the losses nor the files of the cell."""


def absent(config: Config, dataset_types: Container[str]) -> dict[str, str]:
    """Return the settings that the cell ignores, with the reason.

    Args:
        config: The config.
        dataset_types: Values of dataset_type that the cell supports.
    """
    ignored = _of_values(config, dataset_types)
    has_float8_layers = config.quantization.weight_quantize_algo == "fp8_linear"
    default = {setting.path: setting.default for setting in settings()}
    for path, value in io.flatten(config.to_dict(full=True), default).items():
        known = io.without_indices(path)
        reason = REASONS.get(known) or REASONS.get(path.partition(".")[0])
        if reason is None or (has_float8_layers and path in _FLOAT8_LAYERS):
            continue
        is_empty = known not in default and not value  # a list of blocks without any
        if value != default.get(known) and not is_empty:
            ignored[path] = reason
    return ignored


def _of_values(config: Config, dataset_types: Container[str]) -> dict[str, str]:
    """Return settings that are ignored for some of their values only."""
    ignored: dict[str, str] = {}
    model, data, optim = config.model, config.data, config.optimizer.optim
    if model.model_type != "hf":
        ignored["model.model_type"] = "a model class of your own"
    if config.quantization.weight_quantize_algo == "weight_only_mix":
        ignored["quantization.weight_quantize_algo"] = "the weights are not quantised here"
    for field, dataset in data.named_datasets():
        for name in _OF_ROWS:
            if getattr(dataset, name) != Dataset.model_fields[name].get_default(
                call_default_factory=True
            ):
                ignored[f"{field}.{name}"] = "rows are read in nbft's own way; insert them here"
        if dataset.dataset_type not in dataset_types and not dataset.input_columns:
            ignored[f"{field}.dataset_type"] = "insert its pairs here"
    if data.collate_fn != "dynamic_padding":
        ignored["data.collate_fn"] = "a collator of your own"
    if data.length_column_name != "input_ids":
        ignored["data.length_column_name"] = "rows are grouped by their number of tokens here"
    method = registry.trainers.get(config.training.method)
    if not isinstance(method, Method):
        ignored["training.method"] = "a trainer of your own; transformers' Trainer here"
    elif preference := plain(config):
        ignored |= preference.lacks
    if registry.optimizers.is_own(optim) or optim == "adam":
        ignored["optimizer.optim"] = f"{_OWN if optim == 'adam' else 'of your own'}; AdamW here"
    if registry.schedulers.is_own(config.scheduler.lr_scheduler_type):
        ignored["scheduler.lr_scheduler_type"] = "a shape of your own; constant here"
    if "phoenix" in config.tracking.report_to:
        ignored["tracking.report_to"] = "transformers has no tracker called phoenix"
    return ignored


def value_of(config: Config, path: str) -> Any:
    """Return the value of a setting as plain data.

    >>> value_of(Config(optimizer={"moment_dtype": "bfloat16"}), "optimizer.moment_dtype")
    'bfloat16'
    """
    value: Any = config.to_dict(full=True)
    for part in io.parts(path):
        value = value[part]
    return value
