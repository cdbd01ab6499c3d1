"""Runs that several processes train: the same numbers as in one, and one end for all of them."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file

import nbft
from nbft import registry
from nbft.runs.checkpoints import last_whole, step_of
from nbft.training.ranks import Ranks

from .conftest import losses, steps, until

ENDLESS = {"training__max_steps": 100_000, "checkpoint__save_steps": 50_000}
PLAIN = {
    "peft__lora_dropout": 0.0,
    "training__per_device_train_batch_size": 2,
    "logging__logging_steps": 1,
    "evaluation__eval_strategy": "no",
    "evaluation__sample_count": 0,
    "evaluation__metrics": [],
}
ENDS_SECONDS = 10.0
"""How soon the end of one process must be the end of the run."""


@pytest.fixture(autouse=True)
def quick_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several processes of several threads would wait for each other's cores."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def spread(make_config) -> Callable[..., nbft.Config]:
    """Return a function that makes a config whose steps have 8 rows, whatever the processes."""

    def make(processes: int, **changes) -> nbft.Config:
        several = {
            "distributed__num_processes": processes,
            "training__gradient_accumulation_steps": 4 // processes,
        }
        return make_config(**{**PLAIN, **several, **changes})

    return make


@pytest.fixture
def submitted(submitting, spread) -> Callable[..., nbft.Run]:
    return lambda **changes: submitting(spread(2, **{**ENDLESS, **changes}))


def processes(run: nbft.Run) -> dict[int, int]:
    """Return the pids of the processes of a run by their numbers."""
    found = {}
    for process in psutil.process_iter(["cmdline"]):
        title = " ".join(process.info["cmdline"] or ())
        if title.startswith(f"nbft: training {run.id}, process "):
            found[int(title.split()[-3]) - 1] = process.pid
    return found


def weights(run: nbft.Run) -> dict[str, object]:
    folder = run.adapter or run.path / "model"
    (file,) = folder.glob("*.safetensors")
    return load_file(file)


@pytest.mark.parametrize(("trainer", "method"), [("sft", "lora"), ("base", "full")])
def test_two_processes_train_as_one_does(spread, trainer, method):
    changes = {"training__method": trainer, "peft__method": method}
    if method == "full":
        changes["training__learning_rate"] = 1e-4
    one, two = (nbft.train(spread(n, **changes), show=False) for n in (1, 2))
    assert (one.status, two.status) == ("completed", "completed"), two.problems
    assert losses(two) == pytest.approx(losses(one), abs=1e-5)
    norms = [[e["grad_norm"] for e in run.events() if e["event"] == "log"] for run in (one, two)]
    assert norms[1] == pytest.approx(norms[0], rel=1e-4)
    theirs = weights(two)
    for name, tensor in weights(one).items():
        assert (tensor - theirs[name]).abs().max() < 1e-5, name
    assert one.events()[-1]["tokens"] == two.events()[-1]["tokens"] > 0
    logged = [e["step"] for e in two.events() if e["event"] == "log"]
    assert logged == list(range(1, 7))  # by one of the two alone


ORDERS = {
    "grouped by length": {"data__train_sampling_strategy": "group_by_length"},
    "virtual epochs": {
        "training__num_samples_each_epoch": 12,
        "training__num_train_epochs": 2,
        "training__max_steps": -1,
    },
}


@pytest.mark.parametrize("name", ORDERS)
def test_rows_in_another_order_are_shared_out(spread, name):
    def config(processes, **changes):
        return spread(
            processes,
            **{"training__max_steps": 4, "data__shuffle": True, **ORDERS[name], **changes},
            training__per_device_train_batch_size=3,
            training__gradient_accumulation_steps=2 // processes,
            checkpoint__save_steps=3,  # in the middle of an epoch
        )

    one, two = (nbft.train(config(n), show=False) for n in (1, 2))
    assert (one.status, two.status) == ("completed", "completed"), two.problems
    assert len(losses(one)) == 4
    assert losses(two) == pytest.approx(losses(one), abs=1e-5)
    checkpoint = str(two.path / "checkpoints" / "checkpoint-3")
    rest = nbft.train(config(2, training__resume_from_checkpoint=checkpoint), show=False)
    assert losses(rest) == losses(two)[3:]


def test_a_score_decides_for_all_processes(spread):
    """Only the first of them scores; all of them end, and go back to its best checkpoint."""
    config = spread(
        2,
        evaluation__eval_strategy="steps",
        evaluation__eval_steps=1,
        evaluation__metrics=["exact_match"],
        checkpoint__save_steps=1,
        checkpoint__metric_for_best_model="exact_match",
        checkpoint__load_best_model_at_end=True,
        callbacks__early_stopping_patience=2,
        training__max_steps=9,
    )
    run = nbft.train(config, show=False)
    assert run.status == "completed", run.problems
    assert run.step == 3
    assert "Early stopping after step 3 of 9: exact_match has not improved" in run.state.reason
    assert [e["step"] for e in run.events() if e["event"] == "scores"][-1] == 1
    best = load_file(run.path / "checkpoints" / "checkpoint-1" / "adapter_model.safetensors")
    for name, tensor in weights(run).items():
        assert torch.equal(tensor, best[name]), name


@pytest.mark.parametrize(
    ("trainer", "method"),
    [("dpo", "lora"), ("dpo", "full"), ("kto", "full"), ("orpo", "lora"), ("reward", "lora")],
)
def test_two_processes_learn_preferences_as_one_does(preference, trainer, method):
    def config(processes):
        return preference(
            trainer,
            peft__method=method,
            evaluation__eval_strategy="steps",
            evaluation__eval_steps=3,
            evaluation__per_device_eval_batch_size=2,
            # 13 rows are held out, and the last batches filled up; KTO's KL and ORPO's SFT loss are
            # measured by batches.
            evaluation__max_eval_steps=6 if trainer in ("kto", "orpo") else None,
            data__split_ratio=0.7,
            training__max_steps=3,  # before the end of an epoch, where batches are filled up
            distributed__num_processes=processes,
            training__per_device_train_batch_size=2,
            training__gradient_accumulation_steps=4 // processes,
        )

    one, two = (nbft.train(config(n), show=False) for n in (1, 2))
    assert (one.status, two.status) == ("completed", "completed"), two.problems
    expected, found = (
        [e for e in run.events() if e["event"] in ("log", "eval")] for run in (one, two)
    )
    assert len(found) == len(expected) == 5  # three steps, and two measurements
    for ours, theirs in zip(found, expected, strict=True):
        measured = re.compile(r"(eval_)?(loss|kl|rewards/\w+|logps/\w+)")
        names = [name for name in theirs if measured.fullmatch(name)]
        assert len(names) >= 5
        for name in names:
            assert ours[name] == pytest.approx(theirs[name], abs=1e-5, rel=1e-5), name
    theirs = weights(two)
    for name, tensor in weights(one).items():
        assert (tensor - theirs[name]).abs().max() < 1e-5, name


def test_numbers_summed_for_a_log_outlive_a_checkpoint(preference):
    changes = {
        "peft__method": "lora",
        "distributed__num_processes": 2,
        "training__per_device_train_batch_size": 2,
        "training__max_steps": 4,
        "checkpoint__save_strategy": "steps",
        "checkpoint__save_steps": 2,
        "logging__logging_steps": 4,
    }
    whole = nbft.train(preference("dpo", **changes), show=False)
    checkpoint = str(whole.path / "checkpoints" / "checkpoint-2")
    rest = nbft.train(
        preference("dpo", **changes, training__resume_from_checkpoint=checkpoint), show=False
    )
    assert rest.status == "completed", rest.problems
    expected, found = (
        [e for e in run.events() if e["event"] == "log"][-1] for run in (whole, rest)
    )
    assert expected["step"] == 4
    names = [name for name in expected if name.startswith(("loss", "rewards/", "logps/"))]
    assert len(names) >= 5
    for name in names:
        assert found[name] == pytest.approx(expected[name], rel=1e-5, abs=1e-6), name


def test_all_processes_compute_the_reference_and_none_does_it_again(
    preference, tmp_path, monkeypatch
):
    monkeypatch.setenv("NBFT_CACHE", str(tmp_path / "cache"))
    config = preference(
        "dpo",
        distributed__num_processes=2,
        training__per_device_train_batch_size=2,
        training__max_steps=1,
    )

    def said(run):
        assert run.status == "completed", run.problems
        logs = [run.path / "events.jsonl", run.path / "ranks" / "1" / "events.jsonl"]
        return [
            sum('"stage": "reference"' in line for line in log.read_text().splitlines())
            for log in logs
        ]

    first, again = (nbft.train(config, show=False) for _ in range(2))
    assert min(said(first)) > 0
    assert said(again) == [0, 0]
    assert losses(again) == losses(first)


def test_four_processes_and_a_plan_that_knows_them(spread):
    config = spread(4, data__dataloader_drop_last=False, training__max_steps=-1)
    plan = nbft.make_plan(config)
    assert plan.effective_batch_size == 8
    run = nbft.train(config, show=False)
    assert run.status == "completed", run.problems
    assert run.step == plan.total_steps
    assert run.state.peak_bytes > 1.5 * 2**30  # one of them takes 0.6 GB, most of it libraries
    assert run.events()[-1]["peak_bytes"] >= run.state.peak_bytes
    # 36 rows are 4 steps of 8 and one of 4, which is filled up.
    filled = "filled up with 4 rows from its beginning"
    assert [text for text in plan.remarks if filled in text]
    one = nbft.make_plan(spread(1))
    assert plan.memory_bytes == pytest.approx(4 * one.memory_bytes, rel=0.02)


def test_a_checkpoint_goes_on_in_as_many_processes_exactly_and_in_others(spread):
    changes = {
        "peft__lora_dropout": 0.5,
        "training__max_steps": 8,
        "evaluation__eval_strategy": "steps",
        "evaluation__eval_steps": 2,
        "checkpoint__save_steps": 4,
        "training__gradient_accumulation_steps": 1,
    }
    whole = nbft.train(spread(2, **changes), show=False)
    checkpoint = whole.path / "checkpoints" / "checkpoint-4"
    again = spread(2, **changes, training__resume_from_checkpoint=str(checkpoint))
    rest = nbft.train(again, show=False)
    assert rest.status == "completed", rest.problems
    assert losses(rest) == losses(whole)[4:]
    for n in (1, 4):  # other numbers of processes go on from it, and say what differs
        other = spread(
            n,
            **{**changes, "training__gradient_accumulation_steps": 4 // n},
            training__per_device_train_batch_size=1,
            training__resume_from_checkpoint=str(checkpoint),
        )
        run = nbft.train(other, show=False)
        assert run.status == "completed", run.problems
        assert run.step == 8
        said = [e["text"] for e in run.events() if e["event"] == "warning"]
        assert any(f"with {n} from here on: random numbers" in text for text in said)


def test_commands_reach_all_processes(submitted):
    run = submitted()
    until(lambda: steps(run) >= 2, "a step")
    assert sorted(processes(run)) == [0, 1]
    run.pause()
    until(lambda: run.status == "paused", "the pause")
    step = run.step
    time.sleep(0.5)
    assert run.step == step
    run.continue_()
    until(lambda: run.step > step, "a step")
    run.save()
    until(lambda: last_whole(run.path), "the checkpoint")
    run.stop()
    until(lambda: run.is_over, "the end")
    assert run.status == "stopped"
    assert step_of(last_whole(run.path)) == run.step
    assert run.adapter is not None
    assert not processes(run)


@pytest.mark.parametrize(
    ("number", "engine"), [(0, {}), (1, {}), (1, {"distributed__fsdp": "full_shard"})]
)
def test_a_process_that_is_killed_ends_the_run_which_can_go_on(submitted, number, engine):
    run = submitted(checkpoint__save_steps=2, **engine)
    until(lambda: last_whole(run.path), "a checkpoint")
    os.kill(processes(run)[number], signal.SIGKILL)
    began = time.monotonic()
    until(lambda: run.is_over, "the end")
    assert time.monotonic() - began < ENDS_SECONDS
    assert run.status == "failed"
    (problem,) = run.problems
    assert problem.startswith(f"Process {number + 1} of 2 was killed after step ")
    assert "signal SIGKILL" in problem
    assert not processes(run)
    done = step_of(last_whole(run.path))
    run.resume({"training.max_steps": done + 3})
    until(lambda: run.status == "completed", "the rest")
    assert run.step == done + 3


def test_a_process_that_hangs_ends_the_run(submitted):
    run = submitted()
    until(lambda: steps(run) >= 2, "a step")
    os.kill(processes(run)[1], signal.SIGSTOP)
    began = time.monotonic()
    until(lambda: run.is_over, "the end")
    assert time.monotonic() - began < ENDS_SECONDS
    (problem,) = run.problems
    assert problem.startswith("Process 2 of 2 was stopped in step ")
    assert not processes(run)


@pytest.mark.parametrize("whose", ["worker", "supervisor"])
def test_the_system_ends_all_processes_after_a_checkpoint(submitted, whose):
    run = submitted()
    until(lambda: steps(run) >= 2, "a step")
    pids = {e["event"]: e["pid"] for e in run.events() if e.get("pid")}
    os.kill(pids["started" if whose == "worker" else "queued"], signal.SIGTERM)
    until(lambda: run.is_over, "the end")
    assert run.status == "stopped"
    assert "because the system asked (SIGTERM)" in run.events()[-1]["text"]
    assert step_of(last_whole(run.path)) == run.step
    assert not processes(run)


def test_an_evaluation_that_all_are_in_is_finished_first(submitted, rows):
    columns = {"prompt_template": "Correct: {input}\n", "completion_template": "{target}"}
    run = submitted(
        data__validation={"rows": rows * 20, **columns},
        evaluation__eval_strategy="steps",
        evaluation__eval_on_start=False,
        evaluation__eval_steps=2,
        evaluation__per_device_eval_batch_size=1,
    )
    until(lambda: [e for e in run.events() if e.get("stage") == "evaluating"], "the evaluation")
    os.kill(next(e["pid"] for e in run.events() if e["event"] == "started"), signal.SIGTERM)
    until(lambda: run.is_over, "the end")
    assert run.status == "stopped", run.problems
    assert step_of(last_whole(run.path)) == run.step


def test_no_process_outlives_what_started_it(submitted):
    run = submitted()
    until(lambda: steps(run) >= 2, "a step")
    worker = next(e["pid"] for e in reversed(run.events()) if e["event"] == "started")
    os.kill(worker, signal.SIGKILL)
    until(lambda: run.is_over, "the end")
    until(lambda: not processes(run), "the end of its processes")


TROUBLE = """
import os, time
from nbft import registry

def trouble(what, at):
    from transformers import TrainerCallback

    class Trouble(TrainerCallback):
        def on_step_begin(self, args, state, control, **_):
            if os.environ.get("RANK") == "1" and state.global_step == at:
                if what == "hangs":
                    time.sleep(600)
                raise MemoryError("no more") if what == "memory" else ValueError("rank trouble")

    return Trouble()

registry.callbacks.register("trouble")(trouble)
"""


@pytest.fixture
def troubled(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A callback that every process of this test knows, and that fails in one of them."""
    (tmp_path / "sitecustomize.py").write_text(TROUBLE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    exec(TROUBLE, {})
    yield
    registry.callbacks.unregister("trouble")


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("fails", "Process 2 of 2: ValueError: rank trouble"),
        ("memory", "Process 2 of 2: Memory ran out on cpu"),
        ("hangs", "have not answered for 8 seconds"),
    ],
)
def test_what_fails_in_one_process_is_said_once(spread, troubled, what, said):
    trouble = {"trouble": {"what": what, "at": 2}}
    config = spread(2, **ENDLESS, callbacks__callbacks=trouble, distributed__ddp_timeout=8)
    run = nbft.train(config, show=False)
    assert run.status == "failed"
    (problem,) = run.problems
    assert said in problem
    assert run.step == 2
    assert not processes(run)
    endings = [e for e in run.events() if e["event"] in ("failed", "stopped", "completed")]
    assert len(endings) == 1
    assert bool(run.fixes) == (what == "memory")


def test_uneven_processes_count_by_their_tokens(spread):
    """Else a process with few tokens would count as much as one with many."""
    short = {"training__max_steps": 2}
    one = nbft.train(spread(1, **short), show=False)
    two = nbft.train(
        spread(2, **short, distributed__average_tokens_across_devices=False), show=False
    )
    assert two.status == "completed", two.problems
    assert losses(two) != pytest.approx(losses(one), abs=1e-4)
    assert losses(two) == pytest.approx(losses(one), abs=0.2)


def test_the_backend_is_the_one_that_was_asked_for(spread, monkeypatch: pytest.MonkeyPatch):
    from torch import distributed

    asked = []
    monkeypatch.setattr(distributed, "init_process_group", lambda name, **_: asked.append(name))
    monkeypatch.setattr(distributed, "new_group", lambda **_: None)
    monkeypatch.setattr(distributed, "barrier", lambda **_: None)
    for changes in ({}, {"distributed__ddp_backend": "mpi"}):
        Ranks(1, 2, "rendezvous").join(spread(2, **changes), "cpu")
    assert asked == ["gloo", "mpi"]


def test_the_arguments_of_ddp_reach_the_library(spread):
    from nbft.decisions import decide
    from nbft.interop.huggingface import training_arguments

    asked = {
        "ddp_find_unused_parameters": True,
        "ddp_bucket_cap_mb": 3,
        "ddp_broadcast_buffers": False,
        "ddp_timeout": 77,
        "average_tokens_across_devices": False,
    }
    more = {"dispatch_batches": False, "accelerator_config": {"split_batches": False}}
    one, two = (
        training_arguments(config, decide(config))
        for config in (
            spread(n).apply({"distributed": {"num_processes": n, **asked, **more}}) for n in (1, 2)
        )
    )
    assert asked.items() <= two.items()
    assert two["accelerator_config"] == {"dispatch_batches": False, "split_batches": False}
    assert not asked.keys() & one.keys()
