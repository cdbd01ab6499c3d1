"""Checks of the optimiser, precision, memory, checkpoints, callbacks, trackers and the machine.

Each is one function; called by `checks.check`. What an engine cannot do here is said here, in one
sentence, before anything is loaded.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

from nbft import registry
from nbft.config import Config
from nbft.decisions import Decisions
from nbft.devices import peak_flops
from nbft.errors import Problem
from nbft.hardware import available_devices
from nbft.plan.schedule import ARGUMENTS_OF, OWN_SETTINGS, shape_of

PACKAGE_OF = {"phoenix": "arize-phoenix-otel", "comet_ml": "comet-ml"}
"""What to install for a module, where it is called otherwise."""

PROVIDERS = {
    "local": ("Local GPU", 0.0, 0.0),
    "runpod": ("RunPod", 0.39, 2.89),
    "lambda_labs": ("Lambda Labs", 1.10, 2.49),
    "vast_ai": ("Vast.ai", 0.20, 1.50),
}
"""Name and price range in USD an hour. Source: PEFT Studio's table of providers."""


def training_problems(config: Config, decisions: Decisions) -> Iterator[Problem]:
    """Yield what is wrong with the settings of the training itself.

    Args:
        config: The config.
        decisions: What it leads to on this machine.
    """
    for one in (
        _optimizer,
        _scheduler,
        _checkpoint,
        _callbacks,
        _token_budget,
        _epochs,
        _head,
        _provider,
    ):
        yield from one(config)
    for other in (_rows, _precision, _memory, _logging):
        yield from other(config, decisions)


def _optimizer(config: Config) -> Iterator[Problem]:
    ours = config.optimizer
    is_adamw = ours.optim in ("adamw_torch", "adamw_torch_fused")
    if ours.moment_dtype != "float32" and not is_adamw:
        yield Problem(
            "optimizer.moment_dtype",
            ours.moment_dtype,
            f"is for adamw, and optimizer.optim is {ours.optim}.",
            "Use adamw_torch_fused.",
            {"optimizer.optim": "adamw_torch_fused"},
        )
    if ours.sgd_momentum and ours.optim != "sgd":
        yield Problem(
            "optimizer.sgd_momentum",
            ours.sgd_momentum,
            f"has no effect: optimizer.optim is {ours.optim}.",
            "Use sgd, or leave it at 0.",
            {"optimizer.sgd_momentum": 0.0},
            level="warning",
        )
    plus = getattr(config.peft, "loraplus_lr_ratio", 1)
    if config.peft.method == "lora" and plus != 1:
        for field, value, usual in (
            ("layerwise_lr_decay", ours.layerwise_lr_decay, 1.0),
            ("moment_dtype", ours.moment_dtype, "float32"),
        ):
            if value != usual:
                yield Problem(
                    f"optimizer.{field}",
                    value,
                    f"cannot go with peft.loraplus_lr_ratio={plus:g}: each groups the parameters "
                    "in its own way.",
                    f"Use {usual}.",
                    {f"optimizer.{field}": usual},
                )


def _scheduler(config: Config) -> Iterator[Problem]:
    kind = shape_of(config)[0]
    if registry.schedulers.is_own(kind):
        return
    for name in OWN_SETTINGS:
        value = getattr(config.scheduler, name)
        if (
            value is not None
            and name not in ARGUMENTS_OF.get(kind, set())
            and (name != "min_lr" or value)
        ):
            usable = ", ".join(k for k, taken in ARGUMENTS_OF.items() if name in taken)
            yield Problem(
                f"scheduler.{name}",
                value,
                f"has no effect with {config.scheduler.lr_scheduler_type}; it is for {usable}.",
                "Leave it empty.",
                {f"scheduler.{name}": None},
                level="warning",
            )


def _checkpoint(config: Config) -> Iterator[Problem]:
    ours = config.checkpoint
    if ours.overwrite_output_dir:
        yield Problem(
            "checkpoint.overwrite_output_dir",
            True,
            "has no effect: every run has a folder of its own, so nothing is overwritten.",
            "Leave it at false, and delete old runs with nbft.",
            {"checkpoint.overwrite_output_dir": False},
            level="warning",
        )
    is_split = "ignore_merge_optimizer" in ours.unified_checkpoint_config
    if is_split and not ours.unified_checkpoint:
        yield Problem(
            "checkpoint.unified_checkpoint_config",
            ours.unified_checkpoint_config,
            "acts only with checkpoint.unified_checkpoint.",
            "Turn that on.",
            {"checkpoint.unified_checkpoint": True},
        )
    if ours.optim_shard_num > 1 and not is_split:
        yield Problem(
            "checkpoint.optim_shard_num",
            ours.optim_shard_num,
            "acts only with ignore_merge_optimizer in checkpoint.unified_checkpoint_config.",
            "Add it.",
            {
                "checkpoint.unified_checkpoint": True,
                "checkpoint.unified_checkpoint_config": ["ignore_merge_optimizer"],
            },
        )
    adam = config.optimizer.optim in ("adam", "adamw_torch", "adamw_torch_fused")
    if ours.quantize_checkpoint and not adam:
        yield Problem(
            "checkpoint.quantize_checkpoint",
            True,
            f"is for the two moments of Adam, and optimizer.optim is {config.optimizer.optim}.",
            "Turn it off.",
            {"checkpoint.quantize_checkpoint": False},
        )
    asked = config.training.resume_from_checkpoint
    if asked not in (None, "", "auto") and not Path(str(asked)).expanduser().is_dir():
        yield Problem(
            "training.resume_from_checkpoint",
            asked,
            "is no folder.",
            "Name a checkpoint or a run, write auto, or leave it empty.",
            {"training.resume_from_checkpoint": None},
        )
    if ours.save_on_epoch_end and ours.save_strategy != "steps":
        yield Problem(
            "checkpoint.save_on_epoch_end",
            True,
            f"adds to save_strategy steps, and checkpoint.save_strategy is {ours.save_strategy}.",
            "Use steps."
            if ours.save_strategy != "epoch"
            else "Turn it off: epoch does so already.",
            {"checkpoint.save_strategy": "steps"}
            if ours.save_strategy != "epoch"
            else {"checkpoint.save_on_epoch_end": False},
            level="warning",
        )


def _callbacks(config: Config) -> Iterator[Problem]:
    asked = config.callbacks.callbacks
    if "tensorboard" in asked and not _installed("tensorboard"):
        yield Problem(
            "callbacks.callbacks.tensorboard",
            None,
            "needs the package tensorboard, which is not installed.",
            "pip install tensorboard, or leave it out.",
            {"callbacks.callbacks": {k: v for k, v in asked.items() if k != "tensorboard"}},
        )
    if "early_stopping" in asked and config.evaluation.eval_strategy == "no":
        yield Problem(
            "callbacks.callbacks.early_stopping",
            None,
            "has no scores to go by: evaluation.eval_strategy is no.",
            "Use epoch for it.",
            {"evaluation.eval_strategy": "epoch"},
        )


def _token_budget(config: Config) -> Iterator[Problem]:
    budget, data = config.data.max_tokens_per_batch, config.data
    if budget is None:
        return
    against = {
        "data.packing": (data.packing, "packed sequences are batches already", False),
        "data.train.stream": (data.train.stream, "a stream's rows are not known before", False),
        "data.train_sampling_strategy": (
            data.train_sampling_strategy == "group_by_length",
            "batches are made of rows in their order",
            "random",
        ),
        "training.num_samples_each_epoch": (
            config.training.num_samples_each_epoch is not None,
            "an epoch has as many batches as its rows fill",
            None,
        ),
    }
    for name, (is_set, why, instead) in against.items():
        if is_set:
            yield Problem(
                "data.max_tokens_per_batch",
                budget,
                f"does not go with {name}: {why}.",
                f"Leave it empty, or use {instead if instead is not False else 'false'} for {name}.",
                {"data.max_tokens_per_batch": None},
            )


def _epochs(config: Config) -> Iterator[Problem]:
    samples = config.training.num_samples_each_epoch
    if samples is None:
        return
    if config.data.train_sampling_strategy == "group_by_length":
        yield Problem(
            "training.num_samples_each_epoch",
            samples,
            "draws rows in turn and cannot group them by length.",
            "Use random for data.train_sampling_strategy.",
            {"data.train_sampling_strategy": "random"},
        )
    if config.data.train.stream:
        yield Problem(
            "training.num_samples_each_epoch",
            samples,
            "has no effect on a stream, whose length training.max_steps says.",
            "Leave it empty.",
            {"training.num_samples_each_epoch": None},
            level="warning",
        )


def _head(config: Config) -> Iterator[Problem]:
    named = [*config.peft.target_modules, *config.peft.modules_to_save]
    if config.memory.use_fused_head_and_loss_fn and "lm_head" in named:
        yield Problem(
            "memory.use_fused_head_and_loss_fn",
            True,
            "needs a head without an adapter, and peft names lm_head.",
            "Use use_sparse_head_and_loss_fn.",
            {
                "memory.use_fused_head_and_loss_fn": False,
                "memory.use_sparse_head_and_loss_fn": True,
            },
        )


def _rows(config: Config, decisions: Decisions) -> Iterator[Problem]:
    if config.memory.use_attn_mask_start_row_indices and not decisions.padding_free:
        yield Problem(
            "memory.use_attn_mask_start_row_indices",
            True,
            "has no effect on rows that are padded: each has a mask of its own.",
            "Turn data.padding_free on.",
            {"data.padding_free": True, "data.pad_to_multiple_of": None},
            level="warning",
        )


def _precision(config: Config, decisions: Decisions) -> Iterator[Problem]:
    ours = config.precision
    if decisions.mixed_precision.value != "no":
        if ours.amp_master_grad and ours.fp16_opt_level == "O1":
            yield Problem(
                "precision.amp_master_grad",
                True,
                "has no effect under O1, whose weights and gradients are float32 already.",
                "Leave it at false.",
                {"precision.amp_master_grad": False},
                level="warning",
            )
        return
    for name, value in (
        ("fp16_opt_level", ours.fp16_opt_level == "O2"),
        ("amp_custom_white_list", ours.amp_custom_white_list),
        ("amp_custom_black_list", ours.amp_custom_black_list),
        ("amp_master_grad", ours.amp_master_grad),
    ):
        if value:
            yield Problem(
                f"precision.{name}",
                getattr(ours, name),
                "acts under mixed precision only, and precision.mixed_precision is no here.",
                "Use bf16, with float32 for model.dtype.",
                {"precision.mixed_precision": "bf16", "model.dtype": "float32"},
                level="warning",
            )


def _memory(config: Config, decisions: Decisions) -> Iterator[Problem]:
    ours = config.memory
    if ours.offload_optimizer and decisions.device.value == "cpu":
        yield Problem(
            "memory.offload_optimizer",
            True,
            "needs a GPU: on a CPU the optimiser lies in the computer's memory already.",
            "Turn it off.",
            {"memory.offload_optimizer": False},
        )
    if ours.recompute_granularity != "full" and not ours.gradient_checkpointing:
        yield Problem(
            "memory.recompute_granularity",
            ours.recompute_granularity,
            "acts only with memory.gradient_checkpointing.",
            "Turn that on.",
            {"memory.gradient_checkpointing": True},
            level="warning",
        )


def _logging(config: Config, decisions: Decisions) -> Iterator[Problem]:
    device = decisions.device.value
    name = available_devices().get(device, "")
    if config.logging.include_mfu and not peak_flops(device, config.compute.peak_tflops, name):
        yield Problem(
            "logging.include_mfu",
            True,
            f"needs the peak of this device ({device}), which nbft does not know.",
            "Set compute.peak_tflops.",
            {"logging.include_mfu": False},
        )


def _provider(config: Config) -> Iterator[Problem]:
    provider = config.compute.provider
    if provider == "local":
        return
    name, low, high = PROVIDERS[provider]
    yield Problem(
        "compute.provider",
        provider,
        f"nbft starts no machine at {name} ({low:g} to {high:g} USD an hour); the plan says what "
        "it would cost.",
        "Rent one there, install nbft on it and run this config with local.",
        {"compute.provider": "local"},
    )


def cost_usd(config: Config, seconds: float | None) -> tuple[float, float] | None:
    """Return the least and the most that a run costs, or None where its time is not known.

    Args:
        config: Its compute section says where, and the price of an hour if known.
        seconds: Time of the training.

    >>> cost_usd(Config(compute={"provider": "vast_ai"}), 1800)
    (0.1, 0.75)
    >>> cost_usd(Config(), 1800)
    (0.0, 0.0)
    """
    if seconds is None:
        return None
    _, low, high = PROVIDERS[config.compute.provider]
    if (own := config.compute.price_usd_per_hour) is not None:
        low = high = own
    return round(seconds / 3600 * low, 4), round(seconds / 3600 * high, 4)


_RENTED_FLOPS = 50e12
"""What one rented GPU is taken to compute: a sixth of an A100's peak. Assumed, not measured."""

_RENTED_START_SECONDS = 300
"""To start a machine there and load the model; assumed."""


def rented_seconds(parameters: int, tokens: int) -> float:
    """Return the time of a training on one rented GPU: a rough guess.

    Args:
        parameters: Of the model.
        tokens: That all steps see together.
    """
    return 6 * parameters * tokens / _RENTED_FLOPS + _RENTED_START_SECONDS


def cost_remark(config: Config, cost: tuple[float, float] | None) -> list[str]:
    """Say what a run costs, where it costs something."""
    if cost is None or cost[1] == 0:
        return []
    name, *_ = PROVIDERS[config.compute.provider]
    low, high = cost
    price = f"{low:.2f}" if low == high else f"{low:.2f} to {high:.2f}"
    return [f"{name}: about {price} USD for this training, an estimate."]


def _installed(module: str) -> bool:
    return importlib.util.find_spec(module) is not None
