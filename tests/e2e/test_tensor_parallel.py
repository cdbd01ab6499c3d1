"""Runs whose processes split each layer: the same numbers as in one."""

from __future__ import annotations

import json
import shutil

import pytest

import nbft

from .conftest import losses
from .test_ranks import quick_start, spread  # noqa: F401
from .test_shards import MEASURED, assert_alike, told

SPLIT = {"tensor_parallel_size": 2}
FOUR = {"training__gradient_accumulation_steps": 4}


def asked(**settings):
    return {f"distributed__{name}": value for name, value in {**SPLIT, **settings}.items()}


@pytest.mark.parametrize(
    ("method", "processes", "settings"),
    [
        ("full", 2, {"sequence_parallel": True}),
        ("lora", 4, {"fsdp": "full_shard", "tensor_parallel_config": ["sync_param"]}),
    ],
)
def test_split_layers_train_as_one_process_does(spread, method, processes, settings):  # noqa: F811
    changes = {"peft__method": method, **MEASURED, "training__max_steps": 4}
    if method == "full":
        changes |= {"training__learning_rate": 1e-4, "memory__gradient_checkpointing": True}
        changes["precision__mixed_precision"] = "no"  # parts of a sum are rounded apart in bfloat16
    if processes == 2:  # one group, so batches are cut as in one process, and the last is not full
        changes["evaluation__per_device_eval_batch_size"] = 5
    one = nbft.train(spread(1, **changes), show=False)
    changes |= {**asked(**settings), "training__gradient_accumulation_steps": 8 // processes}
    split = nbft.train(spread(processes, **changes), show=False)
    assert_alike(split, one)
    assert one.events()[-1]["tokens"] == split.events()[-1]["tokens"] > 0
    held_out = [[e["eval_loss"] for e in told(run, "eval")] for run in (split, one)]
    assert held_out[0] == pytest.approx(held_out[1], abs=1e-5)
    ours, theirs = told(split, "sample"), told(one, "sample")
    assert [e["samples"] for e in ours] == [e["samples"] for e in theirs]


def test_a_checkpoint_of_split_layers_goes_on_in_one_process_and_in_several(spread):  # noqa: F811
    changes = {
        "checkpoint__save_steps": 2,
        "training__max_steps": 4,
        "peft__method": "full",  # weights of two kinds: split ones, and the others
        "training__learning_rate": 1e-4,
        "precision__mixed_precision": "no",
    }
    whole = nbft.train(spread(2, **changes, **asked(), **FOUR), show=False)
    assert whole.status == "completed", whole.problems
    checkpoint = whole.path / "checkpoints" / "checkpoint-2"
    changes["training__resume_from_checkpoint"] = str(checkpoint)
    again = nbft.train(spread(2, **changes, **asked(), **FOUR), show=False)
    assert losses(again) == losses(whole)[2:]
    one = nbft.train(spread(1, **changes), show=False)
    assert losses(one) == pytest.approx(losses(whole)[2:], abs=1e-5)


def test_the_same_adds_up_to_one_run_of_preferences(preference):
    def config(processes, **more):
        return preference(
            "dpo",
            training__max_steps=3,
            distributed__num_processes=processes,
            training__per_device_train_batch_size=2,
            training__gradient_accumulation_steps=4,
            **more,
        )

    one = nbft.train(config(1), show=False)
    assert_alike(nbft.train(config(2, **asked()), show=False), one)


def test_a_model_that_cannot_be_split_is_said(spread, tiny_model, tmp_path):  # noqa: F811
    folder = shutil.copytree(tiny_model, tmp_path / "three")
    about = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(about | {"num_key_value_heads": 1}))
    made = nbft.make_plan(spread(2, model__model_name=str(folder), **asked()))
    (problem,) = (p for p in made.errors if p.field == "distributed.tensor_parallel_size")
    assert "1 key and value heads" in problem.why
    assert problem.changes == {
        "distributed.tensor_parallel_size": 1,
        "distributed.fsdp": "full_shard",
    }
