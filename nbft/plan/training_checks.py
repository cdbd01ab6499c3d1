"""Checks of the optimiser, precision, memory, checkpoints, callbacks and the machine.

Called by `checks.check`.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator
from pathlib import Path

from nbft import registry
from nbft.config import Config
from nbft.decisions import Decisions
from nbft.devices import peak_flops
from nbft.errors import Problem
from nbft.hardware import available_devices
from nbft.models.targets import trains_head
from nbft.plan.argument_checks import optimiser_argument_problems
from nbft.plan.prices import PROVIDERS
from nbft.plan.problems import error, is_installed, warning, with_values
from nbft.plan.ranges import power_watts
from nbft.plan.schedule import ARGUMENTS_OF, OWN_SETTINGS, shape_of

_MASTER_GRADIENTS = (2, 10)
"""First torch whose gradients may have another number type than their weights."""

_SHARDS_IN_SAFETENSORS = (2, 9)
"""First torch whose distributed checkpoints may be safetensors, read by any number of processes."""


def training_problems(config: Config, decisions: Decisions) -> Iterator[Problem]:
    """Yield what is wrong with the settings of the training itself.

    Args:
        config: The config.
        decisions: What it leads to on this machine.
    """
    for check in (
        _optimizer,
        _scheduler,
        _checkpoint,
        _callbacks,
        _token_budget,
        _epochs,
        _head,
        _cost,
    ):
        yield from with_values(check(config), config)
    for check_with in (_precision, _memory, _machine):
        yield from with_values(check_with(config, decisions), config)


def _optimizer(config: Config) -> Iterator[Problem]:
    ours, ratio = config.optimizer, config.peft.loraplus_lr_ratio
    if ours.moment_dtype != "float32" and ours.optim not in ("adamw_torch", "adamw_torch_fused"):
        yield error(
            "optimizer.moment_dtype",
            f"is for AdamW, and optimizer.optim is {ours.optim}.",
            "Use adamw_torch_fused.",
            {"optimizer.optim": "adamw_torch_fused"},
        )
    if ours.sgd_momentum and ours.optim != "sgd":
        why = f"has no effect, because optimizer.optim is {ours.optim}."
        yield warning("optimizer.sgd_momentum", why, "Use sgd, or leave it at 0.", use=0.0)
    if config.peft.method == "lora" and ratio != 1:
        for name, usual in (("layerwise_lr_decay", 1.0), ("moment_dtype", "float32")):
            if getattr(ours, name) != usual:
                yield error(
                    f"optimizer.{name}",
                    f"cannot be combined with peft.loraplus_lr_ratio={ratio:g}: each groups the "
                    "parameters differently.",
                    use=usual,
                )
    yield from optimiser_argument_problems(config)


def _scheduler(config: Config) -> Iterator[Problem]:
    shape = shape_of(config)[0]
    if registry.schedulers.is_own(shape):
        return
    for name in OWN_SETTINGS:
        value = getattr(config.scheduler, name)
        if value is None or name in ARGUMENTS_OF.get(shape, set()):
            continue
        if name != "min_lr" or value:
            usable = ", ".join(k for k, arguments in ARGUMENTS_OF.items() if name in arguments)
            why = f"has no effect with {config.scheduler.lr_scheduler_type}; it is for {usable}."
            yield warning(f"scheduler.{name}", why, use=None)


def _checkpoint(config: Config) -> Iterator[Problem]:
    ours, optim = config.checkpoint, config.optimizer.optim
    if ours.overwrite_output_dir:
        yield warning(
            "checkpoint.overwrite_output_dir",
            "has no effect: every run has its own folder, so nothing is overwritten.",
            "Leave it at false, and delete old runs with nbft.",
            use=False,
        )
    if ours.state_dict_type == "SHARDED_STATE_DICT":
        version = importlib.metadata.version("torch")
        if not _is_at_least(version, _SHARDS_IN_SAFETENSORS):
            why, fix = (
                f"needs torch 2.9, and this is {version}.",
                "Save it whole, or upgrade torch.",
            )
            yield error("checkpoint.state_dict_type", why, fix, use="FULL_STATE_DICT")
        if ours.unified_checkpoint:
            yield warning(
                "checkpoint.unified_checkpoint",
                "has no effect with checkpoint.state_dict_type=SHARDED_STATE_DICT, which saves by "
                "name as well.",
                use=False,
            )
    is_split = "ignore_merge_optimizer" in ours.unified_checkpoint_config
    if is_split and not ours.unified_checkpoint:
        yield error(
            "checkpoint.unified_checkpoint_config",
            "requires checkpoint.unified_checkpoint.",
            "Turn that on.",
            {"checkpoint.unified_checkpoint": True},
        )
    if ours.optim_shard_num > 1 and not is_split:
        yield error(
            "checkpoint.optim_shard_num",
            "requires ignore_merge_optimizer in checkpoint.unified_checkpoint_config.",
            "Add it.",
            {
                "checkpoint.unified_checkpoint": True,
                "checkpoint.unified_checkpoint_config": ["ignore_merge_optimizer"],
            },
        )
    if ours.quantize_checkpoint and optim not in ("adam", "adamw_torch", "adamw_torch_fused"):
        why = f"is for the two moments of Adam, and optimizer.optim is {optim}."
        yield error("checkpoint.quantize_checkpoint", why, "Turn it off.", use=False)
    start = config.training.resume_from_checkpoint
    if start not in (None, "", "auto") and not Path(str(start)).expanduser().is_dir():
        fix = "Name a checkpoint or a run, write auto, or leave it empty."
        yield error("training.resume_from_checkpoint", "is not a folder.", fix, use=None)
    if ours.save_on_epoch_end and ours.save_strategy != "steps":
        is_epoch = ours.save_strategy == "epoch"
        yield warning(
            "checkpoint.save_on_epoch_end",
            f"is for save_strategy steps, and checkpoint.save_strategy is {ours.save_strategy}.",
            "Turn it off: epoch already does this." if is_epoch else "Use steps.",
            {"checkpoint.save_on_epoch_end": False}
            if is_epoch
            else {"checkpoint.save_strategy": "steps"},
        )


def _callbacks(config: Config) -> Iterator[Problem]:
    asked = config.callbacks.callbacks
    if "tensorboard" in asked and not is_installed("tensorboard"):
        yield error(
            "callbacks.callbacks.tensorboard",
            "needs the package tensorboard, which is not installed.",
            "pip install tensorboard, or leave it out.",
            {"callbacks.callbacks": {k: v for k, v in asked.items() if k != "tensorboard"}},
        )


def _token_budget(config: Config) -> Iterator[Problem]:
    data = config.data
    if data.max_tokens_per_batch is None:
        return
    conflicts = {
        "data.packing": (data.packing, "packed sequences are batches already", "false"),
        "data.train.stream": (data.train.stream, "streamed rows are not known in advance", "false"),
        "data.train_sampling_strategy": (
            data.train_sampling_strategy == "group_by_length",
            "batches are made of rows in their order",
            "random",
        ),
        "training.num_samples_each_epoch": (
            config.training.num_samples_each_epoch is not None,
            "an epoch has as many batches as its rows fill",
            "nothing",
        ),
    }
    for name, (is_set, reason, instead) in conflicts.items():
        if is_set:
            why = f"cannot be combined with {name}: {reason}."
            fix = f"Leave it empty, or use {instead} for {name}."
            yield error("data.max_tokens_per_batch", why, fix, use=None)


def _epochs(config: Config) -> Iterator[Problem]:
    if config.training.num_samples_each_epoch is None:
        return
    if config.data.train_sampling_strategy == "group_by_length":
        yield error(
            "training.num_samples_each_epoch",
            "uses rows in turn, so they cannot be grouped by length.",
            "Use random for data.train_sampling_strategy.",
            {"data.train_sampling_strategy": "random"},
        )
    if config.data.train.stream:
        why = "has no effect on a stream, whose length is set by training.max_steps."
        yield warning("training.num_samples_each_epoch", why, use=None)


def _head(config: Config) -> Iterator[Problem]:
    if config.memory.use_fused_head_and_loss_fn and trains_head(config):
        yield error(
            "memory.use_fused_head_and_loss_fn",
            "needs a head without an adapter, but peft names lm_head.",
            "Use use_sparse_head_and_loss_fn.",
            {
                "memory.use_fused_head_and_loss_fn": False,
                "memory.use_sparse_head_and_loss_fn": True,
            },
        )


def _precision(config: Config, decisions: Decisions) -> Iterator[Problem]:
    ours = config.precision
    if decisions.mixed_precision.value != "no":
        if ours.amp_master_grad and ours.fp16_opt_level == "O1":
            why = "has no effect under O1, where weights and gradients are float32 already."
            yield warning("precision.amp_master_grad", why, "Leave it at false.", use=False)
        if ours.fp16_opt_level == "O2":
            yield from _o2(ours.amp_master_grad, decisions.mixed_precision.value)
        return
    asked = {
        "fp16_opt_level": ours.fp16_opt_level == "O2",
        "amp_custom_white_list": ours.amp_custom_white_list,
        "amp_custom_black_list": ours.amp_custom_black_list,
        "amp_master_grad": ours.amp_master_grad,
    }
    for name, is_asked in asked.items():
        if is_asked:
            yield warning(
                f"precision.{name}",
                "requires mixed precision, and precision.mixed_precision is no here.",
                "Use bf16, with float32 for model.dtype.",
                {"precision.mixed_precision": "bf16", "model.dtype": "float32"},
            )


def _is_at_least(version: str, first: tuple[int, int]) -> bool:
    return tuple(map(int, version.split(".")[:2])) >= first


def _o2(is_master_grad: bool, mixed_precision: str) -> Iterator[Problem]:
    """Check the gradients of 16-bit weights: torch unscales none that are float16."""
    version = importlib.metadata.version("torch")
    is_kept_apart = _is_at_least(version, _MASTER_GRADIENTS)
    if is_master_grad and not is_kept_apart:
        yield error(
            "precision.amp_master_grad",
            f"needs torch 2.10, and this is {version}.",
            "Turn it off, or upgrade torch.",
            use=False,
        )
    elif mixed_precision == "fp16" and not is_master_grad:
        yield error(
            "precision.fp16_opt_level",
            "keeps gradients in float16, from which the loss scale of fp16 cannot be removed.",
            "Turn precision.amp_master_grad on." if is_kept_apart else "Use O1.",
            {"precision.amp_master_grad": True}
            if is_kept_apart
            else {"precision.fp16_opt_level": "O1"},
        )


def _memory(config: Config, decisions: Decisions) -> Iterator[Problem]:
    ours = config.memory
    if ours.use_attn_mask_start_row_indices and not decisions.padding_free:
        yield warning(
            "memory.use_attn_mask_start_row_indices",
            "has no effect on padded rows, which have a mask of their own.",
            "Turn data.padding_free on.",
            {"data.padding_free": True, "data.pad_to_multiple_of": None},
        )
    elif ours.use_attn_mask_start_row_indices and decisions.is_final:
        part = decisions.parts["row_attention"]
        if part.value == "off":
            why = f"is not used: {part.reason}. The full attention mask is used instead."
            yield warning("memory.use_attn_mask_start_row_indices", why, use=None)
    if ours.offload_optimizer and decisions.device.value == "cpu":
        why = "needs a GPU: on a CPU the optimiser state is in CPU memory already."
        yield error("memory.offload_optimizer", why, "Turn it off.", use=False)
    if ours.recompute_granularity != "full" and not ours.gradient_checkpointing:
        yield warning(
            "memory.recompute_granularity",
            "requires memory.gradient_checkpointing.",
            "Turn that on.",
            {"memory.gradient_checkpointing": True},
        )


def _cost(config: Config) -> Iterator[Problem]:
    if config.training.max_cost_usd is not None and config.compute.price_usd_per_hour is None:
        yield error(
            "training.max_cost_usd",
            "needs the hourly price of this machine, which is not set.",
            "Set compute.price_usd_per_hour, or leave the budget empty.",
            use=None,
        )


def _machine(config: Config, decisions: Decisions) -> Iterator[Problem]:
    device, provider = decisions.device.value, config.compute.provider
    name = available_devices().get(device, "")
    if config.logging.include_mfu and not peak_flops(device, config.compute.peak_tflops, name):
        yield error(
            "logging.include_mfu",
            f"needs the peak throughput of this device ({device}), which nbft does not know.",
            "Set compute.peak_tflops.",
            use=False,
        )
    if config.training.max_energy_kwh is not None and not power_watts(device, name):
        yield error(
            "training.max_energy_kwh",
            f"needs the power of this device ({device}), which nbft does not know.",
            "Leave it empty, and set training.max_seconds.",
            use=None,
        )
    if provider != "local":
        title, _, low, high = PROVIDERS[provider]
        yield error(
            "compute.provider",
            f"nbft cannot start a machine at {title} ({low:g} to {high:g} USD an hour); the plan "
            "estimates what it would cost.",
            "Compare its GPUs with: nbft cloud offers CONFIG. Rent one there, install nbft on it and "
            "run this config with local.",
            use="local",
        )


def cost_usd(config: Config, seconds: float | None) -> tuple[float, float] | None:
    """Return the lowest and highest cost of a run in USD, or None if its time is unknown.

    Args:
        config: Its compute section gives the provider, and the hourly price if known.
        seconds: Time of the training.

    >>> cost_usd(Config(compute={"provider": "vast_ai"}), 1800)
    (0.1, 0.75)
    >>> cost_usd(Config(), 1800)
    (0.0, 0.0)
    """
    if seconds is None:
        return None
    *_, low, high = PROVIDERS[config.compute.provider]
    if (own := config.compute.price_usd_per_hour) is not None:
        low = high = own
    return round(seconds / 3600 * low, 4), round(seconds / 3600 * high, 4)


_RENTED_FLOPS = 50e12
"""Assumed throughput of a rented GPU: a sixth of an A100's peak. Not measured."""

_RENTED_START_SECONDS = 300
"""Assumed time to start a machine and load the model."""


def rented_seconds(parameters: int, tokens: int) -> float:
    """Return the time in seconds of a training on one rented GPU: a rough guess.

    Args:
        parameters: Parameters of the model.
        tokens: Tokens in all steps together.
    """
    return 6 * parameters * tokens / _RENTED_FLOPS + _RENTED_START_SECONDS


def cost_remark(config: Config, cost: tuple[float, float] | None) -> list[str]:
    """Return what a run costs as text; empty where it is free or unknown."""
    if cost is None or cost[1] == 0:
        return []
    name, *_ = PROVIDERS[config.compute.provider]
    low, high = cost
    price = f"{low:.2f}" if low == high else f"{low:.2f} to {high:.2f}"
    return [f"{name}: about {price} USD for this run (estimate)."]
