"""What a run in several processes needs, and how its plan differs. Called by `make_plan`.

Each process has a copy of the model, or a shard of it, and takes its share of the batches of a step.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nbft import registry
from nbft.config import Config
from nbft.config.distributed import Distributed
from nbft.decisions import Decisions, choose_device, read_about
from nbft.devices import names_of
from nbft.errors import Problem
from nbft.formatting import count
from nbft.hardware import gpu_count, is_this_machine
from nbft.methods import method_of
from nbft.models.find import find_described
from nbft.plan.problems import error, warning
from nbft.plan.schedule import rows_per_batch
from nbft.queue import in_use

_FIELD = "distributed.num_processes"
_OF_GPUS = ("nccl", "xccl", "hccl", "cncl", "mccl")


def settled(config: Config) -> tuple[Config, list[str]]:
    """Return a config whose number of processes is a number, and what is to be said of it.

    Where it is left open, each free GPU gets one. If runs hold all, it is one for each, and the run
    waits. It is one in all on a CPU, whose cores several would share, and where one is all that can
    train the run.
    """
    if config.distributed.num_processes is not None:
        return config, []
    asked, why = _automatic(config, choose_device(config).value)
    processes = "1 process" if asked == 1 else f"{asked} processes"
    return config.apply({_FIELD: asked}), [f"{_FIELD} is auto: {processes}, since {why}."]


def _automatic(config: Config, device: str) -> tuple[int, str]:
    """Return how many processes train a config that leaves it open, and why."""
    if device == "cpu":
        return 1, "on a CPU several would share its cores"
    if alone := next((path for path, is_used in _without(config).items() if is_used), None):
        return 1, f"several do not go with {alone} yet"
    names = names_of(device) if is_this_machine() else ()
    if not hasattr(os, "killpg") or _are_slices(names):
        return 1, "several need Linux or macOS, and whole GPUs"
    there = len(names) or max(1, gpu_count(device))
    free = len(set(names) - in_use(device)) if names else there
    asked = free or there
    size = config.distributed.sharding_parallel_size * config.distributed.tensor_parallel_size
    asked = asked // size * size or asked
    if not free:
        return asked, f"there are {count(there, 'GPU')}; all are in use, so the run waits"
    return asked, f"{free} of {count(there, 'GPU')} {'is' if free == 1 else 'are'} free"


def _are_slices(names: Sequence[str]) -> bool:
    """Whether GPUs are slices of one (MIG), of which a process sees one and no two can exchange."""
    return any(name.startswith("MIG-") for name in names)


def engine_of(config: Config) -> str:
    """Return the name of how several processes train together."""
    return "FSDP2" if config.distributed.shards else "DDP"


def is_several(config: Config) -> bool:
    """Whether a run is trained by several processes."""
    return config.distributed.processes > 1


def several_problems(config: Config, decisions: Decisions) -> Iterator[Problem]:
    """Yield what several processes cannot do, or this machine cannot for them."""
    yield from _stages(config)
    yield from _sizes(config)
    if not is_several(config):
        return
    asked, device = config.distributed.processes, decisions.device.value
    if not hasattr(os, "killpg"):
        yield error(_FIELD, "needs Linux or macOS.", use=1)
        return
    if device != "cpu" and asked > (there := max(1, gpu_count(device))):
        why = f"needs a device for each process, and there {_are(there)} here."
        yield error(_FIELD, why, use=there)
    if device != "cpu" and is_this_machine() and _are_slices(names_of(device)):
        why = "needs whole GPUs, and those here are slices (MIG), which cannot exchange gradients."
        yield error(_FIELD, why, use=1)
        return
    if device == "cpu" and config.distributed.ddp_backend in _OF_GPUS:
        yield error("distributed.ddp_backend", "is for GPUs, and this run uses the CPU.", use=None)
    for path, is_used in _without(config).items():
        if is_used:
            yield error(
                _FIELD, f"does not go with {path} yet.", "Use 1, or leave that out.", {_FIELD: 1}
            )

    if config.distributed.shards:
        yield from _sharding_problems(config, decisions)
    for name, why in _without_effect(config):
        setting = Distributed.model_fields[name]
        usual = setting.get_default(call_default_factory=True)
        if getattr(config.distributed, name) != usual:
            yield warning(f"distributed.{name}", f"has no effect {why}.", use=usual)


_OF_STAGES = (
    *("pipeline_parallel_config", "pipeline_segmentation", "virtual_pipeline_stages"),
    "add_tail_layers",
)


def _without_effect(config: Config) -> Iterator[tuple[str, str]]:
    """Yield settings that several processes make no use of here, each with the reason."""
    ours = config.distributed
    yield "tensor_parallel_output", "since the head is not split: each process computes all logits"
    if not ours.splits_layers:
        for name in ("tensor_parallel_config", "sequence_parallel"):
            yield name, "without distributed.tensor_parallel_size above 1"
    for name in _OF_STAGES:
        yield name, "without pipeline stages, which nbft does not have"
    for name in ("moe_group", "moe_dispatch"):
        yield name, "since nbft does not distribute experts: a process has all, or a shard of each"
    if not ours.shards:
        why = "on whole copies of the model"
        for name in Distributed.model_fields:
            if name.startswith("fsdp_") or name == "sharding_parallel_config":
                yield name, f"with distributed.fsdp={ours.fsdp}" if ours.fsdp else why
        return
    for name in ("ddp_find_unused_parameters", "ddp_bucket_cap_mb", "ddp_broadcast_buffers"):
        yield name, "on a sharded model"
    policy = ours.fsdp_auto_wrap_policy
    if policy != "SIZE_BASED_WRAP":
        yield "fsdp_min_num_params", f"with fsdp_auto_wrap_policy={policy}"
    if policy != "TRANSFORMER_BASED_WRAP":
        yield "fsdp_transformer_layer_cls_to_wrap", f"with fsdp_auto_wrap_policy={policy}"


def _stages(config: Config) -> Iterator[Problem]:
    """Report layers that are to be distributed in stages, which wait for each other."""
    path = "distributed.pipeline_parallel_size"
    if config.distributed.pipeline_parallel_size == 1:
        return
    why = "distributes the layers in stages, which nbft does not do."
    fix = (
        "Use distributed.fsdp=full_shard, which holds as little in each process, or "
        "model.device_map=auto, which puts the layers on several GPUs of one process."
    )
    changes: dict[str, Any] = {path: 1}
    if not config.distributed.sharder:
        changes["distributed.fsdp"] = "full_shard"
    yield error(path, why, fix, changes)


def _sizes(config: Config) -> Iterator[Problem]:
    """Report processes that cannot share copies of the size that is asked for."""
    ours, path = config.distributed, "distributed.sharding_parallel_size"
    processes, size = ours.processes, ours.sharding_parallel_size
    parts, of_parts = ours.tensor_parallel_size, "distributed.tensor_parallel_size"
    if processes == 1 and parts > 1:
        yield warning(of_parts, f"has no effect with {_FIELD}=1.", use=1)
        return
    if processes % parts:
        why = f"does not divide {_FIELD}, which is {processes}."
        yield error(of_parts, why, "Use 1, or as many as all processes.", {of_parts: 1})
        return
    if ours.data_parallel_size % size:
        each = f", {parts} of which split a layer" if ours.splits_layers else ""
        why = f"does not divide {_FIELD}, which is {processes}{each}."
        yield error(path, why, "Use 1, for one copy in all processes.", {path: 1})
    elif size > 1 and not ours.shards:
        why = "has no effect on whole copies of the model."
        yield error(path, why, "Use 1, or name what is to be sharded.", {path: 1})


def _sharding_problems(config: Config, decisions: Decisions) -> Iterator[Problem]:
    """Yield what does not go with a model in shards."""
    ours = config.distributed
    field = f"distributed.{ours.sharder}"
    usual = Distributed.model_fields[ours.sharder].default
    for path, is_used in _without_shards(config, decisions).items():
        if is_used:
            why, fix = f"does not go with {path}.", "Leave one of them out."
            yield error(field, why, fix, {field: usual})
    if ours.splits_layers:
        yield from _split_problems(config)
    if ours.fsdp_backward_prefetch == "backward_post":
        why = "is not known to FSDP2, which fetches a unit before the backward pass of the last."
        yield error("distributed.fsdp_backward_prefetch", why, use="backward_pre")
    if ours.fsdp_use_orig_params is False:
        why = "is not possible: FSDP2 keeps all parameters separate."
        yield error("distributed.fsdp_use_orig_params", why, use=None)
    if ours.sharding_parallel_config:
        why = "has no effect: FSDP2 overlaps the exchange and frees gathered gradients in any case."
        yield warning("distributed.sharding_parallel_config", why, use=[])

    yield from _rest_of_fsdp_config(config)


def _split_problems(config: Config) -> Iterator[Problem]:
    """Report layers that cannot be split in as many parts."""
    path, parts = "distributed.tensor_parallel_size", config.distributed.tensor_parallel_size
    folder = find_described(config.model.model_name, config.model.model_revision)
    about = read_about(folder) if folder else {}
    heads = about.get("num_attention_heads")
    sizes = {
        "attention heads": heads,
        "key and value heads": about.get("num_key_value_heads") or heads,
        "neurons of a layer": about.get("intermediate_size"),
    }
    uneven = {name: size for name, size in sizes.items() if size and size % parts}
    if uneven and config.distributed.processes % parts == 0:
        possible = [
            each
            for each in range(2, config.distributed.processes + 1)
            if config.distributed.processes % each == 0
            and all(size % each == 0 for size in sizes.values() if size)
        ]
        use = possible[0] if possible else 1
        has = " and ".join(f"{size:,} {name}" for name, size in uneven.items())
        fix = f"Use {use}." if possible else "Use 1, and distributed.fsdp=full_shard."
        changes: dict[str, Any] = {path: use}
        if not possible and not config.distributed.fsdp:
            changes["distributed.fsdp"] = "full_shard"
        yield error(path, f"does not divide what this model has: {has}.", fix, changes)
    if config.distributed.sequence_parallel and not method_of(config).takes_sequence_parallel:
        along, why = "distributed.sequence_parallel", "does not go with training.method="
        yield error(along, f"{why}{config.training.method}.", "Leave it out.", {along: False})
    if config.peft.method == "lora" and config.peft.use_dora:
        yield error(path, "does not go with peft.use_dora.", "Leave one of them out.", {path: 1})


def _rest_of_fsdp_config(config: Config) -> Iterator[Problem]:
    """Report keys of fsdp_config that FSDP2 has no use for, or that are other settings here."""
    rest, path = config.distributed.fsdp_config, "distributed.fsdp_config"
    for key, value in rest.items():
        name = key.removeprefix("fsdp_")
        left = {path: {other: one for other, one in rest.items() if other != key}}
        is_asked = value not in (False, None) or name == "reshard_after_forward"
        if name in _ELSEWHERE and is_asked:
            yield error(path, f"has {key}, which is {_ELSEWHERE[name]} here.", "Set that.", left)
        elif name not in (*_ELSEWHERE, *_WITHOUT_EFFECT):
            yield error(path, f"has {key}, which FSDP2 does not know.", "Leave it out.", left)
        elif name == "version" and str(value) != "2":
            why = f"asks for version {value} of FSDP. nbft has version 2, which trains the same."
            yield warning(path, why, "Leave it out.", left)


_ELSEWHERE = {
    "activation_checkpointing": "memory.gradient_checkpointing",
    "reshard_after_forward": "distributed.fsdp (full_shard or shard_grad_op)",
    "state_dict_type": "checkpoint.state_dict_type",
}
_WITHOUT_EFFECT = ("version", "limit_all_gathers", "cpu_ram_efficient_loading")
"""The first version's ways to hold less; the second, or nbft, does so in any case."""

OF_TORCH = ("adamw_torch", "adamw_torch_fused", "sgd", "rmsprop")
"""Optimisers that take each number by itself, so that they need not know of shards."""


def can_shard(config: Config, decisions: Decisions) -> bool:
    """Whether nothing that a config asks for needs whole weights."""
    return not any(_without_shards(config, decisions).values())


def _without_shards(config: Config, decisions: Decisions) -> Mapping[str, bool]:
    """Return what needs whole weights, and whether a config asks for it."""
    how, peft, optim = config.quantization, config.peft, config.optimizer
    return {
        "weights in 4 or 8 bits (quantization)": how.bits is not None,
        f"peft.method={peft.method}": peft.method not in ("lora", "full"),
        f"peft.init_lora_weights={peft.init_lora_weights}": (
            peft.method == "lora" and peft.init_lora_weights in ("eva", "random")
        ),
        f"optimizer.optim={optim.optim}": optim.optim not in OF_TORCH,
        "optimizer.moment_dtype=bfloat16": optim.moment_dtype == "bfloat16",
        "checkpoint.quantize_checkpoint with checkpoint.state_dict_type=SHARDED_STATE_DICT": (
            config.checkpoint.quantize_checkpoint
            and config.checkpoint.state_dict_type == "SHARDED_STATE_DICT"
        ),
        "memory.offload_optimizer": (
            config.memory.offload_optimizer and decisions.device.value != "cpu"
        ),
        "shards in CPU memory (offload) on a GPU yet": (
            config.distributed.offloads and decisions.device.value != "cpu"
        ),
        "precision.mixed_precision=fp16": decisions.mixed_precision.value == "fp16",
        "precision.fp16_opt_level=O2": (
            config.precision.fp16_opt_level == "O2" and decisions.mixed_precision.value != "no"
        ),
        "precision.fp8": config.precision.fp8,
        "compute.torch_compile": config.compute.torch_compile,
        "preference.ref_model_update_steps": (
            method_of(config).section == "preference"
            and config.preference.ref_model_update_steps not in (None, -1)
        ),
    }


def _are(devices: int) -> str:
    return f"{'is' if devices == 1 else 'are'} {count(devices, 'device')}"


def _without(config: Config) -> Mapping[str, bool]:
    """Return what one process can do and several cannot, and whether a config asks for it."""
    data, method = config.data, config.training.method
    return {
        f"training.method={method}": (
            method not in registry.METHOD_NAMES or method_of(config).generates
        ),
        "data.train.stream": data.train.stream,
        "data.max_tokens_per_batch": data.max_tokens_per_batch is not None,
        "distributed.dispatch_batches": bool(config.distributed.dispatch_batches),
        "distributed.accelerator_config.split_batches": bool(
            config.distributed.accelerator_config.get("split_batches")
        ),
        "model.device_map": config.model.device_map is not None,
        "memory.auto_find_batch_size": config.memory.auto_find_batch_size,
    }


def several_remarks(
    config: Config, decisions: Decisions, numbers: Mapping[str, Any]
) -> Iterator[str]:
    """Yield what differs from a run in one process.

    Args:
        config: The config.
        decisions: What it leads to on this machine.
        numbers: Rows and steps of the plan, where they are known.
    """
    if not is_several(config):
        return
    processes, groups = config.distributed.processes, config.distributed.data_parallel_size
    batch = rows_per_batch(config) * groups
    learnt = count(batch * config.training.gradient_accumulation_steps, "row")
    who = "each computes its share of"
    if config.distributed.splits_layers:
        who = "all compute" if groups == 1 else f"{groups} groups of them compute their share of"
    yield (
        f"{processes} processes train together ({engine_of(config)}): {who} the {learnt} of a step."
    )
    if config.distributed.shards:
        yield from _shards_remarks(config)
    if decisions.device.value == "cpu":
        held = "" if config.distributed.shards else ", and each holds a copy of the model"
        yield f"On a CPU they share its cores, so they are hardly faster than one{held}."
    else:
        yield (
            "The time is that of one process divided by their number; what they exchange is not "
            "counted, and was not measured."
        )
    rows = config.training.num_samples_each_epoch or numbers.get("train_rows")
    if rows and not config.data.packing and not config.data.dataloader_drop_last:
        rest = rows % batch
        if rest and numbers["total_steps"] >= numbers["steps_per_epoch"]:
            yield (
                f"The last batches of an epoch are filled up with {count(batch - rest, 'row')} from "
                "its beginning, so that all processes have as many."
            )
    held_out = config.evaluation.per_device_eval_batch_size * groups
    is_measured = config.evaluation.eval_strategy != "no"
    if is_measured and (rows := numbers.get("eval_rows")) and rows % held_out:
        yield (
            "The held-out loss is a mean over batches, which several processes cut differently: it "
            "may differ a little from that of one process."
        )


def _shards_remarks(config: Config) -> Iterator[str]:
    """Yield what each process holds of a sharded model."""
    ours = config.distributed
    if ours.splits_layers:
        positions = " and keep some positions between the layers" if ours.sequence_parallel else ""
        yield (
            f"{ours.tensor_parallel_size} processes split each layer: they read the same rows, compute "
            f"some heads and neurons each, and add up what these give{positions}."
        )
    what = {"NO_WRAP": "all weights", "SIZE_BASED_WRAP": "the weights of a part"}
    gathered = what.get(ours.fsdp_auto_wrap_policy, "the weights of a layer")
    when = "while it computes" if ours.shards == "weights" else "and kept for the step"
    size = ours.processes_per_copy // ours.alike
    kept = f"1/{ours.processes_per_copy} of the weights"
    if ours.splits_layers:
        rest = f"1/{size}" if size > 1 else "all"
        kept = f"1/{ours.processes_per_copy} of the split layers and {rest} of the other weights"
    yield (
        f"Each process keeps {kept}, their gradients and the optimiser state; {gathered} are gathered "
        f"{when}."
    )
    if ours.deepspeed and ours.stage:
        yield (
            f"Stage {ours.stage} of distributed.deepspeed is done with FSDP2, which gives the same "
            "numbers; DeepSpeed itself is not used."
        )
    if ours.stage == 1:
        yield (
            f"Stage 1 of distributed.{ours.sharder} is done as stage 2, which needs less memory and "
            "gives the same numbers."
        )
    if ours.fsdp in ("hybrid_shard", "hybrid_shard_zero2") and ours.sharding_parallel_size == 1:
        yield (
            f"On one machine distributed.fsdp={ours.fsdp} makes one sharded copy. "
            "distributed.sharding_parallel_size makes several."
        )
