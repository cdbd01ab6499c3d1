"""A DeepSpeed configuration: what of it nbft does by other names, and what not. Called by `make_plan`.

Its stages of ZeRO are done with FSDP2 (`nbft.config.distributed`), which gives the same numbers. The
rest repeats settings that are elsewhere here, so it has to agree with them or say "auto", as in
transformers.

Source: DeepSpeed's configuration, https://www.deepspeed.ai/docs/config-json/.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from typing import Any

from nbft.config import Config
from nbft.decisions import Decisions
from nbft.errors import ConfigError, Problem
from nbft.plan.problems import error
from nbft.plan.several import is_several

_FIELD = "distributed.deepspeed"

_SAME = {
    "train_micro_batch_size_per_gpu": "training.per_device_train_batch_size",
    "gradient_accumulation_steps": "training.gradient_accumulation_steps",
    "gradient_clipping": "training.max_grad_norm",
    "optimizer.params.lr": "training.learning_rate",
    "optimizer.params.eps": "optimizer.adam_epsilon",
    "optimizer.params.weight_decay": "optimizer.weight_decay",
    "scheduler.params.warmup_max_lr": "training.learning_rate",
    "scheduler.params.warmup_num_steps": "scheduler.warmup_steps",
    "zero_optimization.mics_shard_size": "distributed.sharding_parallel_size",
    "tensor_parallel.autotp_size": "distributed.tensor_parallel_size",
}
"""Numbers that are settings here."""

_SCHEDULES = {
    "WarmupLR": "constant_with_warmup",
    "WarmupDecayLR": "linear",
    "WarmupCosineLR": "cosine",
}

_ELSEWHERE = {
    "activation_checkpointing": "memory.gradient_checkpointing",
    "compile": "compute.torch_compile",
    "seed": "training.seed",
    "tensorboard": "tracking.report_to",
    "wandb": "tracking.report_to",
    "comet": "tracking.report_to",
    "csv_monitor": "logging.logging_steps",
    "fp16.loss_scale": "precision.loss_scale",
    "zero_optimization.cpu_offload": "zero_optimization.offload_optimizer: {device: cpu}",
    "zero_optimization.cpu_offload_param": "zero_optimization.offload_param: {device: cpu}",
}
"""What is another setting here, or was renamed."""

_READ = {
    *(path.split(".")[0] for path in _SAME),
    *("train_batch_size", "fp16", "bf16", "bfloat16"),
}
_WITHOUT_EFFECT = frozenset(
    """
    aio checkpoint comms_logger disable_allgather dump_state flops_profiler memory_breakdown
    gradient_predivide_factor prescale_gradients steps_per_print timers wall_clock_breakdown
    zero_allow_untested_optimizer zero_force_ds_cpu_optimizer
    """.split()
)
"""Keys for speed and messages, which change no result."""

_OF_ZERO = frozenset(
    """
    allgather_bucket_size allgather_partitions contiguous_gradients elastic_checkpoint
    enable_sanity_checks ignore_unused_parameters legacy_stage1 load_from_fp32_weights
    log_trace_cache_warnings memory_efficient_linear mics_shard_size model_persistence_threshold
    offload_optimizer offload_param overlap_comm override_module_apply parameter_alignment
    param_persistence_threshold
    pipeline_loading_checkpoint prefetch_bucket_size reduce_bucket_size reduce_scatter
    round_robin_gradients stage stage3_allgather_sequential
    stage3_gather_16bit_weights_on_model_save stage3_gather_fp16_weights_on_model_save
    stage3_max_live_parameters stage3_max_reuse_distance stage3_module_granularity_threshold
    stage3_param_persistence_threshold stage3_prefetch_bucket_size
    stage3_use_all_reduce_for_fetch_params sub_group_size use_multi_rank_bucket_allreduce
    """.split()
)


_OFFLOADS = ("zero_optimization.offload_optimizer", "zero_optimization.offload_param")
_BLOCKS = (
    *("optimizer", "optimizer.params", "scheduler", "scheduler.params", "tensor_parallel"),
    *_OFFLOADS,
)
_TYPES = {
    "bf16.enabled": ("bf16", "bfloat16"),
    "bfloat16.enabled": ("bf16", "bfloat16"),
    "fp16.enabled": ("fp16", "float16"),
}
"""Its switches: the name of the mixed precision, and of weights of that type."""


_NESTED = {
    "optimizer": "type params",
    "optimizer.params": "lr betas eps weight_decay torch_adam",
    "scheduler": "type params",
    "scheduler.params": "warmup_min_lr warmup_max_lr warmup_num_steps warmup_type total_num_steps",
    "tensor_parallel": "autotp_size",
    "bf16": "enabled",
    "bfloat16": "enabled",
    "fp16": "enabled auto_cast loss_scale_window initial_scale_power hysteresis "
    "consecutive_hysteresis min_loss_scale",
}
"""What is read of the blocks, or has no effect."""
_OFF = {
    "optimizer.params.adam_w_mode": True,
    "optimizer.params.bias_correction": True,
    "zero_optimization.mics_shard_size": -1,
    "zero_optimization.zero_hpz_partition_size": 1,
}
"""Values that ask for nothing else than what is done."""


def deepspeed_problems(config: Config, decisions: Decisions) -> Iterator[Problem]:
    """Yield what a DeepSpeed configuration asks for and the rest of the config does not.

    In one process, which has nothing to shard, they are warnings.
    """
    for problem in _problems(config, decisions, config.distributed.deepspeed or {}):
        yield problem if is_several(config) else replace(problem, level="warning")


def _problems(config: Config, decisions: Decisions, given: Mapping[str, Any]) -> Iterator[Problem]:
    if not given:
        return
    blocks = (*_BLOCKS, *(switch.split(".")[0] for switch in _TYPES))
    wrong = {path: _at(given, path) for path in blocks if not _is_block(_at(given, path))}
    for path, value in wrong.items():
        yield _problem(path, value, "is no block of keys.", "Leave it out.", None)
    if wrong:
        return
    yield from _numbers(config, given)
    yield from _rows_of_a_step(config, given)
    yield from _clipping(config, given)
    yield from _kinds(config, decisions, given)
    yield from _schedule(config, given)
    zero = given.get("zero_optimization") or {}
    yield from _other_keys(given, "", _READ | _WITHOUT_EFFECT)
    yield from _other_keys(zero, "zero_optimization.", _OF_ZERO)
    for place, known in _NESTED.items():
        yield from _other_keys(_at(given, place) or {}, f"{place}.", known.split())
    for place in _OFFLOADS:
        path = f"{place}.device"
        if (device := _at(given, path)) not in (None, "none", "cpu"):
            why = "is not supported: shards can be in CPU memory."
            yield _problem(path, device, why, "Use cpu.", "cpu")


def _is_block(value: Any) -> bool:
    return value is None or isinstance(value, Mapping)


def _at(given: Mapping[str, Any], path: str) -> Any:
    """Return the value at a path; None where there is none, and for "auto", which agrees with all."""
    value: Any = given
    for name in path.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return None if value == "auto" else value


def _problem(path: str, value: Any, why: str, fix: str, use: Any) -> Problem:
    """Return a problem with a key, and the value to use for it."""
    return error(f"{_FIELD}.{path}", why, fix, {f"{_FIELD}.{path}": use}, value=value)


def _differs(config: Config, path: str, value: Any, changes: Mapping[str, Any]) -> Problem:
    """Return the problem with a value that is not that of the settings, with what they should be."""
    why = f"is not what {_shown({name: _setting(config, name) for name in changes})} says."
    try:
        config.apply(changes)
    except ConfigError:
        return _problem(path, value, why, 'Write "auto".', "auto")
    fix = f'Set {_shown(changes)}, or write "auto" here.'
    return error(f"{_FIELD}.{path}", why, fix, changes, value=value)


def _setting(config: Config, path: str) -> Any:
    section, name = path.split(".")
    return getattr(getattr(config, section), name)


def _shown(values: Mapping[str, Any]) -> str:
    return " and ".join(f"{name}={value}" for name, value in values.items())


def _numbers(config: Config, given: Mapping[str, Any]) -> Iterator[Problem]:
    """Compare numbers with the settings that they repeat."""
    for path, name in _SAME.items():
        value = _at(given, path)
        if isinstance(value, bool) or not isinstance(value, int | float | None):
            yield _problem(path, value, "is no number.", 'Write one, or "auto".', "auto")
        elif value not in (None, _OFF.get(path), _setting(config, name)):
            yield _differs(config, path, value, {name: value})
    path, ours = "optimizer.params.betas", config.optimizer
    if (betas := _at(given, path)) is None or betas == [ours.adam_beta1, ours.adam_beta2]:
        return
    if not isinstance(betas, list) or len(betas) != 2:
        yield _problem(path, betas, "is no list of two numbers.", 'Write one, or "auto".', "auto")
        return
    names = ("optimizer.adam_beta1", "optimizer.adam_beta2")
    yield _differs(config, path, betas, dict(zip(names, betas, strict=True)))


def _rows_of_a_step(config: Config, given: Mapping[str, Any]) -> Iterator[Problem]:
    """Compare the rows of a step with the three numbers that they are the product of."""
    path, training = "train_batch_size", config.training
    processes = config.distributed.data_parallel_size
    who = "groups of processes" if config.distributed.splits_layers else "processes"
    at_once = training.per_device_train_batch_size * processes
    ours = at_once * training.gradient_accumulation_steps
    if (rows := _at(given, path)) in (None, ours):
        return
    why = (
        f"is not the rows of a step: {training.per_device_train_batch_size} rows × "
        f"{training.gradient_accumulation_steps} accumulated × {processes} {who} = {ours}."
    )
    if type(rows) is int and rows > 0 and rows % at_once == 0:
        steps = rows // at_once
        fix = f'Set training.gradient_accumulation_steps={steps}, or write "auto" here.'
        changes = {"training.gradient_accumulation_steps": steps}
        yield error(f"{_FIELD}.{path}", why, fix, changes, value=rows)
    else:
        yield _problem(path, rows, why, 'Write "auto".', "auto")


def _clipping(config: Config, given: Mapping[str, Any]) -> Iterator[Problem]:
    """Report gradients that DeepSpeed would not clip."""
    if "gradient_clipping" not in given and (limit := config.training.max_grad_norm):
        why = f"is missing, so DeepSpeed clips nothing; here training.max_grad_norm={limit:g} does."
        fix = 'Write "auto", or set training.max_grad_norm=0.'
        problem = _problem("gradient_clipping", None, why, fix, "auto")
        yield replace(problem, level="warning")


def _kinds(config: Config, decisions: Decisions, given: Mapping[str, Any]) -> Iterator[Problem]:
    """Compare number types and optimiser."""
    computed, weights = decisions.mixed_precision.value, decisions.dtype.value
    for path, (name, dtype) in _TYPES.items():
        asked = _at(given, path)
        if asked is not None and bool(asked) != (name == computed or dtype == weights):
            wanted = name if asked else "no"
            yield _differs(config, path, asked, {"precision.mixed_precision": wanted})
    path = "optimizer.type"
    if (kind := _at(given, path)) is None:
        return
    if str(kind).lower() not in ("adam", "adamw"):
        why = f"is chosen with optimizer.optim here, which is {config.optimizer.optim}."
        yield _problem(path, kind, why, "Leave it out.", None)
    elif config.optimizer.optim not in ("adamw_torch", "adamw_torch_fused"):
        yield _differs(config, path, kind, {"optimizer.optim": "adamw_torch_fused"})


def _schedule(config: Config, given: Mapping[str, Any]) -> Iterator[Problem]:
    """Compare the learning rate's schedule."""
    path, steps = "scheduler.params.total_num_steps", config.training.max_steps
    if steps > 0 and (total := _at(given, path)) not in (None, steps):
        yield _differs(config, path, total, {"training.max_steps": total})
    path, ours = "scheduler.type", config.scheduler.lr_scheduler_type
    if (kind := _at(given, path)) is None:
        return
    like = _SCHEDULES.get(str(kind))
    if like is None:
        why = f"is chosen with scheduler.lr_scheduler_type here, which is {ours}."
        yield _problem(path, kind, why, "Leave it out.", None)
        return
    if ours != like:
        yield _differs(config, path, kind, {"scheduler.lr_scheduler_type": like})
    path = "scheduler.params.warmup_min_lr"
    if lowest := _at(given, path):
        why = "is not possible: the learning rate rises from 0."
        yield _problem(path, lowest, why, "Use 0.", 0)
    path = "scheduler.params.warmup_type"
    rises = _at(given, path) or "log"
    if config.scheduler.warmup_steps and rises != "linear" and like != "cosine":
        why = "is done as linear; log is DeepSpeed's default."
        yield replace(_problem(path, rises, why, "Write linear.", "linear"), level="warning")


def _other_keys(block: Mapping[str, Any], place: str, known: Collection[str]) -> Iterator[Problem]:
    """Report keys that ask for something, and are neither read nor without effect."""
    for name, value in block.items():
        path = f"{place}{name}"
        is_off = value in (None, False, 0, {}, [])
        if isinstance(value, Mapping) and value.get("enabled", True) is False:
            is_off = True
        if path in _OFF:
            is_off = value in (None, _OFF[path])
        if name in known or is_off or value == "auto":
            continue
        why, fix = "is not known to nbft, which does ZeRO with FSDP2.", "Leave it out."
        if instead := _ELSEWHERE.get(path):
            why, fix = f"is {instead} here.", "Set that, and leave it out here."
        yield _problem(path, value, why, fix, None)
