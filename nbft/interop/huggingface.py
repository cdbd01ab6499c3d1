"""Our settings as the arguments of transformers, TRL and PEFT: one table each.

The training and the exported Python cell both read these tables, so they cannot differ. Loads no
library. Called by `nbft.training` and `interop.python`.
"""

from __future__ import annotations

from typing import Any

from nbft.config import Config
from nbft.plan.hardware import Choice

# Section → settings that TrainingArguments takes under the same name.
_SAME_NAME = {
    "training": (
        "num_train_epochs",
        "max_steps",
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
        "learning_rate",
        "max_grad_norm",
        "seed",
        "data_seed",
        "full_determinism",
        "neftune_noise_alpha",
    ),
    "optimizer": (
        "optim",
        "weight_decay",
        "adam_beta1",
        "adam_beta2",
        "adam_epsilon",
        "optim_args",
    ),
    "scheduler": ("lr_scheduler_type", "warmup_steps", "lr_scheduler_kwargs"),
    "evaluation": ("eval_strategy", "eval_steps", "per_device_eval_batch_size", "eval_on_start"),
    "checkpoint": (
        "save_strategy",
        "save_steps",
        "save_total_limit",
        "save_only_model",
        "load_best_model_at_end",
        "metric_for_best_model",
        "greater_is_better",
    ),
    "precision": ("tf32",),
    "memory": (
        "gradient_checkpointing",
        "gradient_checkpointing_kwargs",
        "torch_empty_cache_steps",
        "auto_find_batch_size",
    ),
    "compute": ("torch_compile",),
    "logging": ("logging_steps", "logging_first_step", "log_level"),
    "tracking": ("report_to", "project"),
    "data": (
        "train_sampling_strategy",
        "dataloader_num_workers",
        "dataloader_prefetch_factor",
        "dataloader_persistent_workers",
        "dataloader_pin_memory",
        "dataloader_drop_last",
    ),
}


def training_arguments(config: Config, device: str, mixed_precision: Choice) -> dict[str, Any]:
    """Return the arguments of SFTConfig, or of TrainingArguments for training.method base.

    Args:
        config: The config.
        device: The device that was chosen.
        mixed_precision: bf16, fp16 or no.
    """
    arguments: dict[str, Any] = {
        name: getattr(getattr(config, section), name)
        for section, names in _SAME_NAME.items()
        for name in names
    }
    arguments |= {
        "bf16": mixed_precision.value == "bf16",
        "fp16": mixed_precision.value == "fp16",
        "use_cpu": device == "cpu",
        "disable_tqdm": True,
        # On by default, and then a loss of NaN is left out of the log: nobody would see it.
        "logging_nan_inf_filter": False,
        "run_name": config.training.run_name,
    }
    # Pinned memory serves the copy to a GPU; without one torch warns that it is of no use.
    if device != "cuda":
        arguments["dataloader_pin_memory"] = False
    for absent in ("tf32", "neftune_noise_alpha", "greater_is_better", "torch_empty_cache_steps"):
        if arguments[absent] is None:
            del arguments[absent]
    if not config.data.shuffle and config.data.train_sampling_strategy == "random":
        arguments["train_sampling_strategy"] = "sequential"
    if not config.memory.gradient_checkpointing:
        arguments["gradient_checkpointing_kwargs"] = None
    if not config.checkpoint.load_best_model_at_end:
        early = config.callbacks.early_stopping_patience is not None
        if config.checkpoint.save_strategy != "best" and not early:
            del arguments["metric_for_best_model"]
    if config.training.method == "sft":
        arguments |= {
            "max_length": None,
            "padding_free": config.data.padding_free or config.data.packing,
            "pad_to_multiple_of": config.data.pad_to_multiple_of,
            "completion_only_loss": config.data.completion_only_loss,
            "dataset_kwargs": {"skip_prepare_dataset": True},
        }
    else:
        arguments["include_num_input_tokens_seen"] = "non_padding"
        arguments["remove_unused_columns"] = False
    return arguments


def lora_arguments(config: Config) -> dict[str, Any]:
    """Return the arguments of PEFT's LoraConfig."""
    peft = config.peft
    targets: Any = peft.target_modules
    return {
        "r": peft.r,
        "lora_alpha": peft.lora_alpha,
        "lora_dropout": peft.lora_dropout,
        "target_modules": "all-linear" if "all-linear" in targets else list(targets),
        "modules_to_save": list(peft.modules_to_save) or None,
        "bias": peft.bias,
        "use_rslora": peft.use_rslora,
        "use_dora": peft.use_dora,
        "init_lora_weights": True
        if peft.init_lora_weights == "default"
        else peft.init_lora_weights,
        "task_type": "CAUSAL_LM",
    }
