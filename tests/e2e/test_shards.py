"""Runs whose processes keep a shard of the model each: the same numbers as in one process."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

import nbft
from nbft.runs.checkpoints import last_whole, step_of

from .conftest import losses, steps, until
from .test_ranks import (  # noqa: F401
    processes,
    quick_start,
    spread,
    submitted,
    weights,
)

MEASURED = {
    "evaluation__eval_strategy": "steps",
    "evaluation__eval_steps": 2,
    "evaluation__sample_count": 2,
    "evaluation__metrics": ["exact_match", "perplexity"],
    "checkpoint__save_steps": 2,
}
ZERO_3 = {"zero_optimization": {"stage": 3, "overlap_comm": True}, "gradient_clipping": "auto"}
FSDP = {"distributed__fsdp": "full_shard"}


def told(run: nbft.Run, event: str) -> list[dict[str, object]]:
    return [e for e in run.events() if e["event"] == event]


def assert_alike(found: nbft.Run, expected: nbft.Run) -> None:
    """Check that two runs have the same losses and gradients, and the same weights in the end."""
    for run in (found, expected):
        assert run.status == "completed", run.problems
    assert losses(found) == pytest.approx(losses(expected), abs=1e-5)
    norms = [[e["grad_norm"] for e in told(run, "log")] for run in (found, expected)]
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)
    theirs = weights(expected)
    assert weights(found).keys() == theirs.keys()
    for name, tensor in weights(found).items():
        assert (tensor - theirs[name]).abs().max() < 1e-5, name


@pytest.mark.parametrize(
    ("method", "asked"),
    [
        ("lora", {"fsdp": "full_shard"}),
        ("full", {"sharding": "stage2", "fsdp_auto_wrap_policy": "NO_WRAP"}),
        ("full", {"deepspeed": ZERO_3, "fsdp_auto_wrap_policy": "SIZE_BASED_WRAP"}),
    ],
)
def test_shards_train_as_one_process_does(spread, method, asked):  # noqa: F811
    changes = {"peft__method": method, **MEASURED, "training__max_steps": 4}
    if method == "full":
        changes |= {"training__learning_rate": 1e-4, "memory__gradient_checkpointing": True}
    one = nbft.train(spread(1, **changes), show=False)
    asked = {f"distributed__{name}": value for name, value in asked.items()}
    two = nbft.train(spread(2, **changes, **asked), show=False)
    assert_alike(two, one)
    for name in ("scores", "sample"):  # by the first process alone, with shards of the other
        ours, theirs = told(two, name), told(one, name)
        assert [e["step"] for e in ours] == [e["step"] for e in theirs]
        assert len(ours) >= 3
        if name == "sample":
            assert [e["samples"] for e in ours] == [e["samples"] for e in theirs]
        else:
            for found, expected in zip(ours, theirs, strict=True):
                assert found["scores"] == pytest.approx(expected["scores"], rel=1e-4)
    assert not told(nbft.Run(two.path / "ranks" / "1"), "scores")


@pytest.mark.parametrize(("trainer", "method"), [("dpo", "full"), ("reward", "lora")])
def test_shards_learn_preferences_as_one_process_does(preference, trainer, method):
    def config(processes, **more):
        return preference(
            trainer,
            peft__method=method,
            training__max_steps=3,
            distributed__num_processes=processes,
            training__per_device_train_batch_size=2,
            training__gradient_accumulation_steps=4 // processes,
            **more,
        )

    one = nbft.train(config(1), show=False)
    assert_alike(nbft.train(config(2, **FSDP), show=False), one)


def test_a_checkpoint_in_shards_goes_on_in_any_number_of_processes(spread):  # noqa: F811
    changes = {
        "checkpoint__state_dict_type": "SHARDED_STATE_DICT",
        "peft__method": "full",
        "training__learning_rate": 1e-4,
        "checkpoint__save_steps": 2,
        "training__max_steps": 4,
    }
    whole = nbft.train(spread(2, **changes, **FSDP), show=False)
    assert whole.status == "completed", whole.problems
    checkpoint = whole.path / "checkpoints" / "checkpoint-2"
    assert len([*(checkpoint / "distributed_checkpoint").iterdir()]) == 2  # one of each process
    assert not (checkpoint / "optimizer.pt").exists()
    changes["training__resume_from_checkpoint"] = str(checkpoint)
    again = nbft.train(spread(2, **changes, **FSDP), show=False)
    assert losses(again) == losses(whole)[2:]
    one = nbft.train(spread(1, **changes), show=False)
    two_copies = {**FSDP, "distributed__sharding_parallel_size": 2}
    four = nbft.train(
        spread(4, **{**changes, **two_copies, "training__per_device_train_batch_size": 2}),
        show=False,
    )
    for run in (one, four):
        assert run.status == "completed", run.problems
        assert losses(run) == pytest.approx(losses(whole)[2:], abs=1e-5)


def test_the_best_checkpoint_is_taken_back_into_shards(spread):  # noqa: F811
    config = spread(
        2,
        **{**MEASURED, **FSDP, "evaluation__eval_steps": 1, "checkpoint__save_steps": 1},
        checkpoint__metric_for_best_model="exact_match",
        checkpoint__load_best_model_at_end=True,
        training__max_steps=3,
    )
    run = nbft.train(config, show=False)
    assert run.status == "completed", run.problems
    best = load_file(run.path / "checkpoints" / "checkpoint-1" / "adapter_model.safetensors")
    for name, tensor in weights(run).items():
        assert torch.equal(tensor, best[name]), name


def test_commands_reach_all_shards(submitted):  # noqa: F811
    run = submitted(**FSDP, evaluation__sample_count=1)
    until(lambda: steps(run) >= 2, "a step")
    known = len(told(run, "sample"))
    run.sample()
    until(lambda: len(told(run, "sample")) > known, "the answer")
    run.pause()
    until(lambda: run.status == "paused", "the pause")
    run.continue_()
    until(lambda: run.status == "running", "the next step")
    run.save()
    until(lambda: last_whole(run.path), "the checkpoint")
    run.stop()
    until(lambda: run.is_over, "the end")
    assert run.status == "stopped", run.problems
    assert step_of(last_whole(run.path)) == run.step
    assert run.adapter is not None
    assert not processes(run)
