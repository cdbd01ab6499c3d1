"""The trainer with what a config asks for beyond transformers: each part is a class in its file.

A config that asks for none of it gets the library's class itself, so the usual run has no hook of
ours. Called by `nbft.training.trainer`.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from nbft import registry
from nbft.config import Config
from nbft.errors import ConfigError, Problem
from nbft.plan.devices import peak_flops
from nbft.plan.hardware import available_devices
from nbft.plan.schedule import shape_of, warmup_steps
from nbft.training.fp8 import count_steps, use_float8
from nbft.training.head import OwnHead
from nbft.training.optim import OwnOptimizer
from nbft.training.precision import FirstLossScale, OperatorPrecision, low_weights
from nbft.training.recompute import use_granularity
from nbft.training.sampling import VirtualEpochs
from nbft.training.saving import OwnSaving
from nbft.training.throughput import Measures

_FIRST_LOSS_SCALE = 65536.0
"""torch's own."""


class OwnScheduler:
    """Part of a trainer: a learning rate of a registered shape."""

    nbft_config: Config

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Build the scheduler once."""
        trainer: Any = self
        if trainer.lr_scheduler is None:
            kind, more = shape_of(self.nbft_config)
            share = registry.schedulers.get(kind)
            warmup = warmup_steps(self.nbft_config, num_training_steps)
            trainer.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                optimizer or trainer.optimizer,
                lambda step: float(share(step, warmup, num_training_steps, **more)),
            )
            trainer._created_lr_scheduler = True
        return trainer.lr_scheduler


def _parts(config: Config, device: str, mixed_precision: str) -> list[type]:
    """Return the parts that a config asks for."""
    optimizer, precision, memory = config.optimizer, config.precision, config.memory
    checkpoint, is_mixed = config.checkpoint, mixed_precision != "no"
    asked = {
        OwnOptimizer: registry.optimizers.get(optimizer.optim) is not None
        or optimizer.layerwise_lr_decay != 1
        or optimizer.moment_dtype != "float32"
        or (memory.offload_optimizer and device != "cpu")
        or (is_mixed and precision.fp16_opt_level == "O2"),
        OwnScheduler: registry.schedulers.is_own(config.scheduler.lr_scheduler_type),
        OwnSaving: checkpoint.unified_checkpoint
        or checkpoint.quantize_checkpoint
        or checkpoint.ignore_load_lr_and_optim
        or checkpoint.state_dict_type != "FULL_STATE_DICT",
        OperatorPrecision: is_mixed
        and bool(precision.amp_custom_white_list or precision.amp_custom_black_list),
        FirstLossScale: mixed_precision == "fp16" and precision.loss_scale != _FIRST_LOSS_SCALE,
        OwnHead: memory.use_sparse_head_and_loss_fn or memory.use_fused_head_and_loss_fn,
        VirtualEpochs: config.training.num_samples_each_epoch is not None,
        Measures: config.logging.include_performance_metrics or config.logging.include_mfu,
    }
    return [part for part, is_asked in asked.items() if is_asked]


def extended(base: type, config: Config, device: str, mixed_precision: str) -> type:
    """Return a trainer's class with the parts that a config asks for; the class itself for none.

    Args:
        base: SFTTrainer, Trainer or one of somebody's own.
        config: The config.
        device: The device that was chosen.
        mixed_precision: bf16, fp16 or no.
    """
    parts = _parts(config, device, mixed_precision)
    if not parts:
        return base
    peak = peak_flops(device, config.compute.peak_tflops, available_devices().get(device, ""))
    about = {"nbft_config": config, "nbft_device": device, "nbft_peak_flops": peak}
    return type(base.__name__, (*parts, base), about)


def unfit_for(config: Config) -> set[str]:
    """Return the parts of the fast path that what is asked for here replaces or goes around."""
    unfit = set()
    if config.precision.fp8:
        unfit |= {"fused_lora"}  # it multiplies by the frozen weights itself
    if config.memory.use_sparse_head_and_loss_fn or config.memory.use_fused_head_and_loss_fn:
        unfit |= {"label_head"}
    if config.memory.use_attn_mask_start_row_indices is False:
        unfit |= {"row_attention"}
    return unfit


def finish(trainer: Any, config: Config, mixed_precision: str) -> None:
    """Change the model of a trainer, adapter included, as a config asks.

    Args:
        trainer: The trainer, before its first step.
        config: The config.
        mixed_precision: bf16, fp16 or no.
    """
    model, precision, memory = trainer.model, config.precision, config.memory
    if mixed_precision != "no" and precision.fp16_opt_level == "O2":
        low_weights(model, mixed_precision, master_grad=precision.amp_master_grad)
    scales = [m.activation for m in model.modules() if hasattr(m, "rounded")]  # fp8_linear's
    if precision.fp8:
        scales += use_float8(
            model,
            apply_hadamard=precision.apply_hadamard,
            online_steps=precision.apply_online_actscale_step,
        )
    if scales:
        trainer.add_callback(count_steps(scales))
    if memory.gradient_checkpointing and memory.recompute_granularity != "full":
        use_granularity(model, memory.recompute_granularity, memory.gradient_checkpointing_kwargs)
    if not memory.release_grads:
        model.zero_grad = functools.partial(type(model).zero_grad, model, set_to_none=False)
    if config.checkpoint.save_on_epoch_end:
        trainer.add_callback(SaveOnEpochEnd())


class SaveOnEpochEnd(TrainerCallback):
    """Saves at the end of each epoch, beside the steps of save_strategy."""

    def on_epoch_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Ask for a checkpoint."""
        control.should_save = True


def asked_callbacks(config: Config) -> list[TrainerCallback]:
    """Return the callbacks of callbacks.callbacks, tracking and logging.

    Raises:
        ConfigError: A callback does not take its arguments, or cannot be made.
    """
    asked = dict(config.callbacks.callbacks)
    if not config.logging.disable_tqdm:
        asked.setdefault("enhanced_progressbar", {})
    found = [_made(key, arguments) for key, arguments in asked.items()]
    if "phoenix" in config.tracking.report_to:
        from nbft.training.callbacks.phoenix import PhoenixCallback

        tracking = config.tracking
        found.append(PhoenixCallback(tracking.project, config.training.run_name, tracking.tags))
    return found


def _made(key: str, arguments: dict[str, Any]) -> TrainerCallback:
    try:
        return registry.callbacks.get(key)(**arguments)  # type: ignore[no-any-return]
    except (TypeError, ValueError, RuntimeError, ImportError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            Problem(
                f"callbacks.callbacks.{key}",
                arguments or None,
                f"cannot be made: {reason.rstrip('.')}.",
                "Mend its arguments, or leave it out.",
            )
        ) from error
