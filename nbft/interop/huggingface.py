"""The arguments of transformers, TRL and PEFT that follow from a config.

The training and the exported Python cell both use them, so they cannot differ. Imports no library. Called by `nbft.training` and `interop.python`.
"""

from __future__ import annotations

from typing import Any

from nbft import registry
from nbft.config import Config
from nbft.decisions import Decisions
from nbft.methods import method_of
from nbft.models.peft_types import peft_type_of, peft_types
from nbft.plan.schedule import shape_of

# Section → settings that TrainingArguments takes under the same name.
_SAME_NAME = {
    "training": """
        num_train_epochs max_steps per_device_train_batch_size
        gradient_accumulation_steps learning_rate max_grad_norm seed data_seed
        full_determinism neftune_noise_alpha
    """.split(),
    "optimizer": "optim weight_decay adam_beta1 adam_beta2 adam_epsilon optim_args".split(),
    "scheduler": "lr_scheduler_type warmup_steps lr_scheduler_kwargs".split(),
    "evaluation": "eval_strategy eval_steps per_device_eval_batch_size eval_on_start".split(),
    "checkpoint": """
        save_strategy save_steps save_total_limit save_only_model load_best_model_at_end
        metric_for_best_model greater_is_better
    """.split(),
    "precision": "tf32".split(),
    "memory": """
        gradient_checkpointing gradient_checkpointing_kwargs torch_empty_cache_steps
        auto_find_batch_size
    """.split(),
    "model": "use_cache use_liger_kernel".split(),
    "compute": "torch_compile".split(),
    "callbacks": "restore_callback_states_from_checkpoint".split(),
    "logging": "logging_steps logging_first_step log_level logging_strategy log_on_each_node".split(),
    "tracking": "report_to project".split(),
    "data": """
        train_sampling_strategy dataloader_num_workers dataloader_prefetch_factor
        dataloader_persistent_workers dataloader_pin_memory dataloader_drop_last
    """.split(),
}


_OF_SEVERAL = """
    ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers ddp_timeout
    average_tokens_across_devices
""".split()


def training_arguments(config: Config, decisions: Decisions) -> dict[str, Any]:
    """Return the arguments of the trainer: those of every trainer, then those of the method."""
    device, mixed_precision = decisions.device.value, decisions.mixed_precision
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
        # On by default, which would hide a loss of NaN from the log.
        "logging_nan_inf_filter": False,
        "run_name": config.training.run_name,
    }
    arguments |= _optimizer_and_scheduler(config)
    arguments["report_to"] = [name for name in config.tracking.report_to if name != "phoenix"]
    arguments["log_level"] = config.logging.dep_log_level or config.logging.log_level
    arguments["eval_on_start"] &= config.evaluation.eval_strategy != "no"
    if not config.training.do_train:
        arguments["do_train"] = False
    # Pinned memory speeds up copies to a GPU; without one torch warns that it is useless.
    if device != "cuda":
        arguments["dataloader_pin_memory"] = False
    elif arguments["dataloader_pin_memory"]:  # a batch is copied while the step before computes
        arguments["accelerator_config"] = {"non_blocking": True}
    for absent in ("tf32", "neftune_noise_alpha", "greater_is_better", "torch_empty_cache_steps"):
        if arguments[absent] is None:
            del arguments[absent]
    if (several := config.distributed).num_processes != 1:
        arguments |= {
            name: getattr(several, name)
            for name in _OF_SEVERAL
            if getattr(several, name) is not None
        }
        asked = {"dispatch_batches": several.dispatch_batches, **several.accelerator_config}
        arguments["accelerator_config"] = arguments.get("accelerator_config", {}) | {
            name: value for name, value in asked.items() if value is not None
        }
    if not config.data.shuffle and config.data.train_sampling_strategy == "random":
        arguments["train_sampling_strategy"] = "sequential"
    if config.memory.recompute_granularity != "full":  # nbft.training.recompute does it
        arguments["gradient_checkpointing"] = False
    if not arguments["gradient_checkpointing"]:
        arguments["gradient_checkpointing_kwargs"] = None
    keep = config.checkpoint
    has_best = keep.load_best_model_at_end or keep.save_strategy == "best"
    if not (has_best or config.callbacks.stops_early):
        del arguments["metric_for_best_model"]
    arguments |= method_of(config).trainer_arguments(config, decisions)
    if (seen := config.logging.include_num_input_tokens_seen) != "auto":
        arguments["include_num_input_tokens_seen"] = seen
    return arguments


def _optimizer_and_scheduler(config: Config) -> dict[str, Any]:
    """Return the arguments that depend on several settings or on a key of our own."""
    kind, more = shape_of(config)
    found: dict[str, Any] = {"lr_scheduler_type": kind, "lr_scheduler_kwargs": more}
    if registry.schedulers.is_own(kind):  # nbft.training.optim builds it
        found = {"lr_scheduler_type": "constant", "lr_scheduler_kwargs": {}}
    ours = config.optimizer
    if registry.optimizers.is_own(ours.optim) or ours.optim == "adam":
        found["optim"] = "adamw_torch"
    if ours.optim == "sgd" and ours.sgd_momentum:
        given = [ours.optim_args] if ours.optim_args else []
        found["optim_args"] = ",".join([*given, f"momentum={ours.sgd_momentum}"])
    return found


def adapter_arguments(
    config: Config, total_steps: int | None = None
) -> tuple[str, dict[str, Any]] | None:
    """Return the name of PEFT's config class and its arguments; None in full training.

    Args:
        config: The config.
        total_steps: Steps of the run, where they are known.
    """
    kind = peft_type_of(config)
    if kind is None:
        return None
    arguments = kind.arguments(config, total_steps) | method_of(config).adapter_arguments(config)
    return kind.config_class, arguments


def lora_arguments(config: Config) -> dict[str, Any]:
    """Return the arguments of PEFT's LoraConfig."""
    return peft_types()["lora"].arguments(config)
