"""What a run in several processes needs, and how its plan differs. Called by `make_plan`.

Each process has a copy of the model and takes its share of the batches of a step.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from nbft import registry
from nbft.config import Config
from nbft.decisions import Decisions
from nbft.errors import Problem
from nbft.formatting import count
from nbft.hardware import gpu_count
from nbft.methods import method_of
from nbft.plan.problems import error
from nbft.plan.schedule import rows_per_batch

_FIELD = "distributed.num_processes"
_OF_GPUS = ("nccl", "xccl", "hccl", "cncl", "mccl")


def is_several(config: Config) -> bool:
    """Whether a run is trained by several processes."""
    return config.distributed.num_processes > 1


def several_problems(config: Config, decisions: Decisions) -> Iterator[Problem]:
    """Yield what several processes cannot do, or this machine cannot for them."""
    if not is_several(config):
        return
    asked, device = config.distributed.num_processes, decisions.device.value
    if not hasattr(os, "killpg"):
        yield error(_FIELD, "needs Linux or macOS.", use=1)
        return
    if device != "cpu" and asked > (there := max(1, gpu_count(device))):
        why = f"needs a device for each process, and there {_are(there)} here."
        yield error(_FIELD, why, use=there)
    if device == "cpu" and config.distributed.ddp_backend in _OF_GPUS:
        yield error("distributed.ddp_backend", "is for GPUs, and this run uses the CPU.", use=None)
    for path, is_used in _without(config).items():
        if is_used:
            yield error(
                _FIELD, f"does not go with {path} yet.", "Use 1, or leave that out.", {_FIELD: 1}
            )


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
        "checkpoint.state_dict_type=SHARDED_STATE_DICT": (
            config.checkpoint.state_dict_type == "SHARDED_STATE_DICT"
        ),
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
    processes = config.distributed.num_processes
    batch = rows_per_batch(config) * processes
    yield (
        f"{processes} processes train together (DDP): each computes its share of the "
        f"{count(batch * config.training.gradient_accumulation_steps, 'row')} of a step."
    )
    if decisions.device.value == "cpu":
        yield (
            "On a CPU they share its cores, so they are hardly faster than one, and each holds a "
            "copy of the model."
        )
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
    held_out = config.evaluation.per_device_eval_batch_size * processes
    is_measured = config.evaluation.eval_strategy != "no"
    if is_measured and (rows := numbers.get("eval_rows")) and rows % held_out:
        yield (
            "The held-out loss is a mean over batches, which several processes cut differently: it "
            "may differ a little from that of one process."
        )
