"""What a run does and the exported Python cell does not: each setting, with a reason.

Every setting is written in the cell, named here, or of no consequence to what is trained; a test
sees that none is forgotten. Called by `interop.python`.
"""

from __future__ import annotations

from collections.abc import Container
from typing import Any

from nbft import registry
from nbft.config import Config, io, settings

_OWN = "a mechanism of nbft's own"
_SCORES = "the cell answers no prompts and scores no answers"
_SAVES = "checkpoints are written as transformers does"
_FP8 = "nothing is rounded to float8 here"

REASONS = {
    "training.num_samples_each_epoch": "an epoch has every row here",
    "training.do_train": "the cell trains",
    "training.resume_from_checkpoint": "name the folder in trainer.train(resume_from_checkpoint=…)",
    "data.max_tokens_per_batch": f"{_OWN}; per_device_train_batch_size rows a batch here",
    "optimizer.layerwise_lr_decay": _OWN,
    "optimizer.moment_dtype": f"{_OWN}; the moments are float32 here",
    "evaluation.max_eval_steps": "every held-out row is measured",
    **dict.fromkeys(
        [
            f"evaluation.{name}"
            for name in (
                *("sample_count", "sample_prompts", "sample_max_new_tokens", "metrics"),
                *("metric_function", "metric_function_greater_is_better", "format_pattern"),
                *("score_every_n_steps", "score_rows", "score_max_new_tokens", "do_sample"),
                *("temperature", "top_p", "per_device_generation_batch_size"),
            )
        ],
        _SCORES,
    ),
    "checkpoint.save_on_epoch_end": "it is saved by save_strategy alone",
    "checkpoint.save_final_model": "the cell saves at the end",
    "checkpoint.ignore_load_lr_and_optim": "the cell resumes nothing",
    "checkpoint.unified_checkpoint": _SAVES,
    "checkpoint.unified_checkpoint_config": _SAVES,
    "checkpoint.optim_shard_num": _SAVES,
    "checkpoint.quantize_checkpoint": _SAVES,
    "checkpoint.state_dict_type": _SAVES,
    "callbacks.callbacks": "callbacks by name are nbft's",
    "precision.fp16_opt_level": f"{_OWN}; O1 here",
    "precision.loss_scale": f"{_OWN}; torch's own scale here",
    "precision.amp_custom_white_list": f"{_OWN}; torch's own lists here",
    "precision.amp_custom_black_list": f"{_OWN}; torch's own lists here",
    "precision.amp_master_grad": f"{_OWN}",
    "precision.fp8": f"{_OWN}; {_FP8}",
    "precision.apply_hadamard": _FP8,
    "precision.apply_online_actscale_step": _FP8,
    "memory.recompute_granularity": f"{_OWN}; nothing is computed again here, the losses are alike",
    "memory.offload_optimizer": f"{_OWN}; the optimiser stays on the device",
    "memory.use_sparse_head_and_loss_fn": f"{_OWN}; the losses are alike, the memory is not",
    "memory.use_fused_head_and_loss_fn": f"{_OWN}; the losses are alike, the memory is not",
    "memory.release_grads": "gradients are freed after each step here",
    "memory.use_attn_mask_start_row_indices": f"{_OWN}; the losses are alike",
    "logging.include_performance_metrics": "the cell logs what transformers logs",
    "logging.include_mfu": "the cell logs what transformers logs",
    "logging.log_model_summary": "the cell writes no summary",
    "tracking.project": "trackers read it from the environment, such as WANDB_PROJECT",
    "tracking.tags": "trackers read them from the environment, such as WANDB_TAGS",
    "distributed": "the cell trains in one process",
    "preference": "the better answers are imitated",
}
"""Settings, or whole sections, that are named when they are not at their default."""

OF_NO_CONSEQUENCE = (
    *("training.output_dir", "training.run_name", "training.stop_on_nan"),
    *("checkpoint.overwrite_output_dir", "data.test", "data.dataset_num_proc"),
    # held-out rows are read one set after the other, and whole
    *("data.validation.mixture_strategy", "data.validation.stream", "data.validation.seed"),
    *("data.validation.shuffle_buffer_size", "data.validation.datasets[].mixture_proportion"),
    *("data.train.datasets[].trust_remote_code", "data.validation.datasets[].trust_remote_code"),
    *("compute.provider", "compute.price_usd_per_hour", "compute.peak_tflops", "speed"),
    *("logging.disable_tqdm", "logging.log_level", "logging.dep_log_level", "logging.logging_dir"),
)
"""What neither the losses nor the files of the cell would show."""


def absent(config: Config, dataset_types: Container[str]) -> dict[str, str]:
    """Return what a run does and the cell does not: the setting, and why.

    Args:
        config: The config.
        dataset_types: Values of dataset_type that the cell can write.
    """
    found = dict(_of_values(config, dataset_types))
    float8_weights = config.quantization.weight_quantize_algo == "fp8_linear"
    tree = config.to_dict(full=True)
    for path, default in _defaults().items():
        section, _, name = path.partition(".")
        if path not in REASONS and section not in REASONS:
            continue
        if float8_weights and REASONS.get(path) == _FP8:
            continue
        if tree[section].get(name) != default:
            found[path] = REASONS.get(path) or REASONS[section]
    return found


def _defaults() -> dict[str, object]:
    return {setting.path: setting.default for setting in settings()}


def _of_values(config: Config, dataset_types: Container[str]) -> dict[str, str]:
    """Return what depends on the value: keys of a registry, and what the cell does in part."""
    found: dict[str, str] = {}
    model, data, optim = config.model, config.data, config.optimizer.optim
    if model.model_type != "hf":
        found["model.model_type"] = "a model class of your own"
    if config.quantization.weight_quantize_algo == "weight_only_mix":
        found["quantization.weight_quantize_algo"] = "the weights stay whole here"
    for field, dataset in data.named_datasets():
        if dataset.dataset_type not in dataset_types and not dataset.input_columns:
            found[f"{field}.dataset_type"] = "put its pairs here"
    if data.collate_fn != "dynamic_padding":
        found["data.collate_fn"] = "a collator of your own"
    if data.length_column_name != "input_ids":
        found["data.length_column_name"] = "rows are grouped by their tokens here"
    if registry.trainers.is_own(config.training.method):
        found["training.method"] = "a trainer of your own; transformers' Trainer here"
    if registry.optimizers.is_own(optim) or optim == "adam":
        found["optimizer.optim"] = f"{_OWN if optim == 'adam' else 'of your own'}; AdamW here"
    if registry.schedulers.is_own(config.scheduler.lr_scheduler_type):
        found["scheduler.lr_scheduler_type"] = "a shape of your own; constant here"
    if "phoenix" in config.tracking.report_to:
        found["tracking.report_to"] = "phoenix is no tracker of transformers"
    return found


def value_of(config: Config, path: str) -> Any:
    """Return the value of a setting as plain data.

    >>> value_of(Config(optimizer={"moment_dtype": "bfloat16"}), "optimizer.moment_dtype")
    'bfloat16'
    """
    value: Any = config.to_dict(full=True)
    for part in io.parts(path):
        value = value[part]
    return value
