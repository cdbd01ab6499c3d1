"""Runs whose processes split each layer: the same numbers as in one."""

from __future__ import annotations

import pytest

import nbft

from .test_ranks import quick_start, spread  # noqa: F401
from .test_shards import MEASURED, assert_alike, told

SPLIT = {"tensor_parallel_size": 2}


def asked(**settings):
    return {f"distributed__{name}": value for name, value in {**SPLIT, **settings}.items()}


@pytest.mark.parametrize(
    ("method", "processes", "settings"),
    [
        ("lora", 2, {}),
        ("full", 2, {"sequence_parallel": True}),
        ("full", 4, {"tensor_parallel_config": ["sync_grad", "sync_param", "sync_moment"]}),
        ("lora", 4, {"sequence_parallel": True, "fsdp": "full_shard"}),
    ],
)
def test_split_layers_train_as_one_process_does(spread, method, processes, settings):  # noqa: F811
    changes = {"peft__method": method, **MEASURED, "training__max_steps": 4}
    if method == "full":
        changes |= {"training__learning_rate": 1e-4, "memory__gradient_checkpointing": True}
        changes["precision__mixed_precision"] = "no"  # parts of a sum are rounded apart in bfloat16
    one = nbft.train(spread(1, **changes), show=False)
    changes |= {**asked(**settings), "training__gradient_accumulation_steps": 8 // processes}
    split = nbft.train(spread(processes, **changes), show=False)
    assert_alike(split, one)
    assert one.events()[-1]["tokens"] == split.events()[-1]["tokens"] > 0
    held_out = [[e["eval_loss"] for e in told(run, "eval")] for run in (split, one)]
    assert held_out[0] == pytest.approx(held_out[1], abs=1e-5)
    ours, theirs = told(split, "sample"), told(one, "sample")
    assert [e["samples"] for e in ours] == [e["samples"] for e in theirs]
