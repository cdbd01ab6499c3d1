"""What the settings of the training itself do to a run of a tiny model."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
import trl

import nbft
from nbft import registry
from nbft.config import Config
from nbft.decisions import Decisions, decide
from nbft.hardware import Choice
from nbft.models.load import load_model, load_tokenizer, quiet
from nbft.plan.schedule import learning_rate_at
from nbft.training import throughput
from nbft.training import trainer as trainers
from nbft.training.callbacks import verifying
from nbft.training.environment import environment
from nbft.training.optim import BfloatAdamW, OffloadedOptimizer
from nbft.training.rows import read_rows
from nbft.training.trainer import build_trainer

Fit = Callable[..., Any]

PLAIN = {
    "evaluation__eval_strategy": "no",
    "evaluation__eval_on_start": False,
    "training__max_steps": 3,
}


class Probe(transformers.TrainerCallback):
    """Looks into a training: calls a function at each of its moments."""

    def __init__(self, **moments: Callable[..., Any]) -> None:
        for name, look in moments.items():
            setattr(self, name, lambda *a, look=look, **k: look(*a, **k) and None)


def decided(config: nbft.Config, device: str) -> Decisions:
    """Return what a config leads to where this device is there."""
    found = decide(config.apply({"compute.device": device}))
    return dataclasses.replace(found, dtype=Choice("float32", ""))


@pytest.fixture
def built(make_config: Any, tiny_model: Path, tmp_path: Path) -> Fit:
    """Return a context in which a config has its trainer, as in a run."""

    def build(*callbacks: Any, device: str = "cpu", folder: str = "run", **changes: Any) -> Any:
        config = make_config(**{**PLAIN, **changes})
        decisions = decided(config, device)
        run = tmp_path / folder
        run.mkdir(exist_ok=True)
        with quiet(), environment(config, "cpu"):
            tokenizer = load_tokenizer(config, tiny_model)
            padding_free = decisions.padding_free
            rows = read_rows(
                config, tokenizer, lambda _: None, lambda _: None, padding_free=padding_free
            )
            transformers.set_seed(config.training.seed)
            model = load_model(config, tiny_model, "float32", "cpu")
            trainer = build_trainer(
                config,
                decisions,
                model,
                tokenizer,
                rows,
                output_dir=run / "checkpoints",
                callbacks=list(callbacks),
            )
            trainer.asked = config
            yield trainer

    return contextlib.contextmanager(build)


@pytest.fixture
def fit(built: Fit) -> Fit:
    """Return a function that builds such a trainer and trains."""

    def run(*callbacks: Any, resume: Any = None, **changes: Any) -> Any:
        with built(*callbacks, **changes) as trainer:
            trainer.train(resume_from_checkpoint=resume)
            return trainer

    return run


def losses(trainer: Any) -> list[float]:
    return [log["loss"] for log in trainer.state.log_history if "loss" in log]


def logged(trainer: Any, name: str) -> list[Any]:
    return [log[name] for log in trainer.state.log_history if name in log]


def weights(trainer: Any) -> dict[str, torch.Tensor]:
    named = trainer.model.named_parameters()
    return {name: p.detach().clone() for name, p in named if p.requires_grad}


# Length, batches, measurements


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({"training__num_train_epochs": 2}, 18),  # 36 rows, batches of 4
        ({"training__max_steps": 4, "training__num_train_epochs": 2}, 4),
        ({"training__per_device_train_batch_size": 12}, 3),
        ({"training__gradient_accumulation_steps": 3}, 3),
        ({"training__num_samples_each_epoch": 8}, 2),
        ({"training__num_samples_each_epoch": 80, "training__per_device_train_batch_size": 16}, 5),
    ],
    ids=str,
)
def test_the_length_of_a_run(fit, changes, steps):
    trainer = fit(**{"training__max_steps": -1, **changes})
    assert trainer.state.global_step == steps


def test_evaluation_strategy_steps_and_batch(fit):
    batches = []

    def evals(**changes):
        batches.clear()
        seen = Probe(on_prediction_step=lambda *_, **__: batches.append(1))
        trainer = fit(seen, **changes)
        steps = [log["step"] for log in trainer.state.log_history if "eval_loss" in log]
        return steps, len(batches)

    # 4 held-out rows
    assert evals(evaluation__eval_strategy="no") == ([], 0)
    each = {"evaluation__eval_strategy": "steps", "evaluation__eval_steps": 2}
    assert evals(**each) == ([2, 3], 2)  # and at the end
    assert evals(**each, evaluation__per_device_eval_batch_size=1) == ([2, 3], 8)
    assert evals(evaluation__eval_strategy="epoch", training__max_steps=-1)[0] == [9]


def test_max_eval_steps(built):
    """Two batches of one row: the loss is their mean by tokens, and no other row counts."""
    asked = {"evaluation__per_device_eval_batch_size": 1, "evaluation__eval_strategy": "epoch"}
    with built(**asked) as whole:
        rows = [whole.eval_dataset.select([n]) for n in range(2)]
        alone = [whole.evaluate(row)["eval_loss"] for row in rows]
        everything = whole.evaluate()["eval_loss"]
        assert len(whole.eval_dataset) == 4
    with built(**asked, evaluation__max_eval_steps=2) as two:
        assert len(two.eval_dataset) == 2
        found = two.evaluate()["eval_loss"]
    assert found == pytest.approx(sum(alone) / 2, rel=1e-5)  # transformers' mean over rows
    assert found != pytest.approx(everything, rel=1e-6)


def test_deterministic(fit):
    seen = []
    look = Probe(
        on_step_end=lambda *_, **__: seen.append(torch.are_deterministic_algorithms_enabled())
    )
    fit(look, training__full_determinism=True, training__max_steps=1)
    fit(look, training__max_steps=1)
    assert seen == [True, False]


def test_a_trainer_of_ones_own(fit):
    @registry.trainers.register("counting")
    class Counting(transformers.Trainer):
        steps = 0

        def training_step(self, *args, **kwargs):
            Counting.steps += 1
            return super().training_step(*args, **kwargs)

    try:
        trainer = fit(training__method="counting")
    finally:
        registry.trainers.unregister("counting")
    assert Counting.steps == 3
    assert losses(trainer) == pytest.approx(losses(fit(training__method="base")))


def test_a_trainer_of_ones_own_keeps_what_it_overrides(fit):
    """Its methods may take fewer arguments than transformers' own."""
    called = []

    @registry.trainers.register("frugal")
    class Frugal(transformers.Trainer):
        def create_optimizer(self):
            called.append("optimizer")
            return super().create_optimizer()

        def floating_point_ops(self, inputs):
            called.append("operations")
            return 7

    try:
        trainer = fit(training__method="frugal", training__max_steps=2)
    finally:
        registry.trainers.unregister("frugal")
    assert called.count("optimizer") == 1
    assert trainer.state.total_flos == 7 * called.count("operations") > 0


@pytest.mark.parametrize(
    "asked",
    [
        {"callbacks__early_stopping_patience": 2},
        {"callbacks__callbacks": {"early_stopping": {"early_stopping_patience": 2}}},
    ],
)
def test_early_stopping_judges_what_others_have_measured(built, asked):
    """Scores are added to the metrics by a callback of the run."""
    scoring = Probe()
    with built(scoring, **asked) as trainer:
        order = trainer.callback_handler.callbacks
        early = [isinstance(one, transformers.EarlyStoppingCallback) for one in order]
        assert order.index(scoring) < early.index(True)


def test_torch_compile(fit, monkeypatch):
    """Compiled for real, by the backend that needs no C++ compiler, with the same losses."""
    from torch._dynamo.utils import counters

    compile_ = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model, **_: compile_(model, backend="eager"))
    usual = losses(fit(training__method="base", training__max_steps=1))
    counters.clear()
    found = losses(fit(training__method="base", training__max_steps=1, compute__torch_compile=True))
    assert counters["stats"]["unique_graphs"] > 0
    assert found == pytest.approx(usual, rel=1e-4)
    torch._dynamo.reset()


def test_there_is_one_trainer_for_each_method_and_nothing_is_asked_of_it_by_itself():
    for method, kind in (("sft", trl.SFTTrainer), ("base", transformers.Trainer)):
        base = registry.trainers.get(method).trainer_class()
        assert base is kind
        assert trainers.trainer_class(base) is trainers.trainer_class(base)
        assert issubclass(trainers.trainer_class(base), base)
        assert trainers.trainer_class(base).__name__ == kind.__name__
    assert trainers.asked_callbacks(Config()) == []


# The optimiser


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"training__learning_rate": 1e-3},
        {"optimizer__weight_decay": 0.5},
        {"optimizer__adam_beta1": 0.5},
        {"optimizer__adam_beta2": 0.9},
        {"optimizer__adam_epsilon": 1e-2},
        {"training__max_grad_norm": 0.01, "optimizer__adam_epsilon": 1e-2},
    ],
    ids=str,
)
def test_two_steps_are_those_of_adamw_by_hand(fit, changes):
    """Source: Decoupled Weight Decay Regularization, arXiv:1711.05101, algorithm 2."""
    before: list[dict[str, torch.Tensor]] = []
    gradients: list[dict[str, torch.Tensor]] = []

    def look(args, state, control, model, **_):
        named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        before.append({n: p.detach().clone() for n, p in named})
        gradients.append({n: p.grad.clone() for n, p in named})

    constant = {"scheduler__lr_scheduler_type": "constant", "scheduler__warmup_steps": 0}
    trainer = fit(Probe(on_pre_optimizer_step=look), training__max_steps=2, **constant, **changes)
    config = trainer.asked
    rate, ours = config.training.learning_rate, config.optimizer
    assert len(before) == 2
    if "training__max_grad_norm" in changes:
        norm = sum(g.square().sum() for g in gradients[0].values()).sqrt()
        assert norm <= 0.01 * 1.001
    after = weights(trainer)
    for name, w in before[0].items():
        m = v = torch.zeros_like(w)
        for step in (1, 2):
            g = gradients[step - 1][name]
            m = ours.adam_beta1 * m + (1 - ours.adam_beta1) * g
            v = ours.adam_beta2 * v + (1 - ours.adam_beta2) * g * g
            top = m / (1 - ours.adam_beta1**step)
            bottom = (v / (1 - ours.adam_beta2**step)).sqrt() + ours.adam_epsilon
            w = w * (1 - rate * ours.weight_decay) - rate * top / bottom
        assert torch.allclose(after[name], w, atol=2e-6), name


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("adam", torch.optim.Adam),
        ("adamw", torch.optim.AdamW),
        ("adamw_torch", torch.optim.AdamW),
        ("adamw_torch_fused", torch.optim.AdamW),
        ("sgd", torch.optim.SGD),
        ("adafactor", transformers.Adafactor),
        ("rmsprop", torch.optim.RMSprop),
    ],
)
def test_optimisers(fit, name, kind):
    trainer = fit(optimizer__optim=name, training__max_steps=1)
    found = trainer.optimizer.optimizer
    assert type(found) is kind
    if name.startswith("adamw_torch"):
        assert bool(found.defaults["fused"]) is name.endswith("fused")


@pytest.mark.parametrize(
    "name", ["adamw_8bit", "paged_adamw", "paged_adamw_8bit", "paged_adamw_32bit"]
)
def test_optimisers_of_bitsandbytes(fit, name):
    trainer = fit(optimizer__optim=name, training__max_steps=1)
    found = trainer.optimizer.optimizer
    assert "bitsandbytes" in type(found).__module__
    assert found.is_paged is name.startswith("paged")
    assert found.args.optim_bits == (8 if "8bit" in name else 32)


def test_sgd_momentum(fit):
    plain = fit(optimizer__optim="sgd")
    carried = fit(optimizer__optim="sgd", optimizer__sgd_momentum=0.9)
    assert carried.optimizer.param_groups[0]["momentum"] == 0.9
    assert losses(carried)[:2] == losses(plain)[:2]  # warm-up: the first step is at rate 0
    assert losses(carried)[2] != pytest.approx(losses(plain)[2], rel=1e-9) or not torch.equal(
        *(next(iter(weights(t).values())) for t in (plain, carried))
    )


def test_layerwise_lr_decay(fit):
    """After one step of Adam every weight has moved by its own rate, so the layers show it."""
    moved = {}
    constant = {"scheduler__lr_scheduler_type": "constant", "peft__method": "full"}
    before = None

    def look(args, state, control, model, **_):
        nonlocal before
        before = {n: p.detach().clone() for n, p in model.named_parameters()}

    trainer = fit(
        Probe(on_train_begin=look),
        optimizer__layerwise_lr_decay=0.5,
        training__max_steps=1,
        training__max_grad_norm=0.0,
        **constant,
    )
    for name, p in trainer.model.named_parameters():
        moved[name] = (p - before[name]).abs().max().item()
    rate = trainer.asked.training.learning_rate
    assert moved["model.norm.weight"] == pytest.approx(rate, rel=1e-2)
    assert moved["model.layers.1.mlp.up_proj.weight"] == pytest.approx(rate / 2, rel=1e-2)
    assert moved["model.layers.0.mlp.up_proj.weight"] == pytest.approx(rate / 4, rel=1e-2)
    assert moved["model.embed_tokens.weight"] == pytest.approx(rate / 8, rel=1e-2)
    assert logged(trainer, "learning_rate") == [rate]


def test_moments_in_bfloat16(fit):
    trainer = fit(optimizer__moment_dtype="bfloat16")
    found = trainer.optimizer.optimizer
    assert type(found) is BfloatAdamW
    assert {s["exp_avg"].dtype for s in found.state.values()} == {torch.bfloat16}
    assert losses(trainer) == pytest.approx(losses(fit()), rel=1e-3)


def test_an_optimiser_of_ones_own(fit):
    @registry.optimizers.register("signs")
    def signs(groups, config):
        class Signs(torch.optim.Optimizer):
            def __init__(self):
                super().__init__(groups, {"lr": config.training.learning_rate})

            @torch.no_grad()
            def step(self, closure=None):
                for group in self.param_groups:
                    for p in group["params"]:
                        if p.grad is not None:
                            p -= group["lr"] * p.grad.sign()

        return Signs()

    try:
        trainer = fit(optimizer__optim="signs")
    finally:
        registry.optimizers.unregister("signs")
    assert type(trainer.optimizer.optimizer).__name__ == "Signs"
    assert losses(trainer) != losses(fit())


# The schedule


@pytest.mark.parametrize(
    "changes",
    [
        *(
            {"lr_scheduler_type": kind}
            for kind in registry.schedulers
            if kind != "cosine_with_min_lr"
        ),
        {"warmup_steps": 0.5},
        {"warmup_steps": 3},
        {"min_lr": 1e-4},
        {"num_cycles": 1.5},
        {"lr_scheduler_type": "polynomial", "lr_end": 1e-4, "power": 2.0},
    ],
    ids=str,
)
def test_the_rates_of_a_run_are_those_of_its_plan(fit, make_config, changes):
    def planned(config):
        rate = learning_rate_at(config, 6)
        return pytest.approx([rate(step) for step in range(6)])

    usual = make_config(scheduler__warmup_steps=0)
    scheduler = {f"scheduler__{name}": value for name, value in changes.items()}
    trainer = fit(training__max_steps=6, **{"scheduler__warmup_steps": 0, **scheduler})
    rates = logged(trainer, "learning_rate")
    assert rates == planned(trainer.asked)
    same = ("cosine", "cosine_with_restarts")  # without a second wave
    assert (rates == planned(usual)) is (changes.get("lr_scheduler_type") in same)


def test_a_scheduler_of_ones_own(fit):
    @registry.schedulers.register("stairs")
    def stairs(step, warmup_steps, total_steps, *, width=2):
        return 0.5 ** (step // width)

    own = {"scheduler__lr_scheduler_type": "stairs"}
    try:
        trainer = fit(training__max_steps=5, **own, scheduler__lr_scheduler_kwargs={"width": 2})
    finally:
        registry.schedulers.unregister("stairs")
    assert logged(trainer, "learning_rate") == pytest.approx([2e-3, 2e-3, 1e-3, 1e-3, 5e-4])


# Checkpoints


def steps_kept(trainer: Any) -> list[int]:
    found = Path(trainer.args.output_dir).glob("checkpoint-*")
    return sorted(int(path.name.rpartition("-")[2]) for path in found)


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({"save_strategy": "no"}, []),
        ({"save_strategy": "steps", "save_steps": 2, "save_total_limit": None}, [2, 4, 6, 8, 9]),
        ({"save_strategy": "steps", "save_steps": 2, "save_total_limit": 2}, [8, 9]),
        ({"save_strategy": "epoch"}, [9]),
        ({"save_steps": 100}, [9]),
        ({"save_steps": 5, "save_total_limit": None, "save_on_epoch_end": True}, [5, 9]),
    ],
    ids=str,
)
def test_when_checkpoints_are_saved(fit, changes, kept):
    trainer = fit(
        training__max_steps=-1, **{f"checkpoint__{name}": value for name, value in changes.items()}
    )
    assert steps_kept(trainer) == kept


def test_save_on_epoch_end_adds_to_the_steps(fit):
    every = {"checkpoint__save_steps": 5, "checkpoint__save_total_limit": None}
    two = {"training__max_steps": -1, "training__num_train_epochs": 2}
    assert steps_kept(fit(**every, **two, folder="a")) == [5, 10, 15, 18]
    both = fit(**every, **two, checkpoint__save_on_epoch_end=True, folder="b")
    assert steps_kept(both) == [5, 9, 10, 15, 18]


SAVE = {"checkpoint__save_steps": 3, "checkpoint__save_total_limit": None}


def test_save_only_model(fit):
    for only in (False, True):
        trainer = fit(**SAVE, checkpoint__save_only_model=only, folder=str(only))
        folder = Path(trainer.args.output_dir) / "checkpoint-3"
        assert (folder / "adapter_model.safetensors").is_file()
        assert (folder / "optimizer.pt").is_file() is not only


def resumed(fit: Fit, **changes: Any) -> tuple[list[float], list[float], Path]:
    """Return the losses of 6 steps, those of the last 3 after resuming, and the checkpoint."""
    through = fit(training__max_steps=6, **SAVE, **changes, folder="through")
    checkpoint = Path(through.args.output_dir) / "checkpoint-3"
    again = fit(training__max_steps=6, **SAVE, **changes, folder="again", resume=str(checkpoint))
    return losses(through), losses(again)[-3:], checkpoint


@pytest.mark.parametrize("shards", [1, 3])
def test_unified_checkpoint(fit, shards):
    split = {"checkpoint__unified_checkpoint_config": ["ignore_merge_optimizer"]}
    split |= {"checkpoint__optim_shard_num": shards}
    through, again, folder = resumed(
        fit, checkpoint__unified_checkpoint=True, **(split if shards > 1 else {})
    )
    assert again == pytest.approx(through[3:], rel=1e-6)
    assert not (folder / "optimizer.pt").exists()
    assert len(list(folder.glob("optimizer*.safetensors"))) == shards


def test_a_unified_checkpoint_is_loaded_under_another_grouping(fit):
    """Grouped by layer on resuming: the first resumed step still has the first run's moments."""
    unified = {"checkpoint__unified_checkpoint": True}
    first = fit(training__max_steps=6, **SAVE, **unified, folder="first")
    moments = {}

    def look(args, state, control, optimizer, model, **_):
        if not moments:
            names = {p: n for n, p in model.named_parameters()}
            moments.update({names[p]: s["exp_avg"].clone() for p, s in optimizer.state.items()})

    second = fit(
        Probe(on_step_begin=look),
        training__max_steps=6,
        **SAVE,
        **unified,
        optimizer__layerwise_lr_decay=0.9,
        folder="second",
        resume=str(Path(first.args.output_dir) / "checkpoint-3"),
    )
    from safetensors.torch import load_file

    saved = load_file(Path(first.args.output_dir) / "checkpoint-3" / "optimizer.safetensors")
    assert len(second.optimizer.param_groups) > 1
    for name, moment in moments.items():
        assert torch.equal(moment, saved[f"{name}/exp_avg"])
    rate = learning_rate_at(second.asked, 6)
    top = max(second.lr_scheduler.base_lrs)
    assert logged(second, "learning_rate")[3:] == pytest.approx(
        [rate(step) / 2e-3 * top for step in (3, 4, 5)]
    )


def test_quantize_checkpoint(fit):
    _, usual, _whole = resumed(fit)
    through, again, folder = resumed(fit, checkpoint__quantize_checkpoint=True)
    assert again != usual
    assert again == pytest.approx(through[3:], rel=1e-2)
    state = torch.load(folder / "optimizer.pt", weights_only=True)["state"]
    assert {s["exp_avg"]["codes"].dtype for s in state.values()} == {torch.int8}
    assert {s["exp_avg_sq"]["codes"].dtype for s in state.values()} == {torch.uint8}


def test_ignore_load_lr_and_optim(fit):
    _, usual, checkpoint = resumed(fit)
    seen = []
    look = Probe(on_step_begin=lambda *_, optimizer, **__: seen.append(len(optimizer.state)))
    again = fit(
        look,
        training__max_steps=6,
        checkpoint__ignore_load_lr_and_optim=True,
        folder="anew",
        resume=str(checkpoint),
    )
    assert seen[0] == 0  # no moments
    assert losses(again)[-3] == pytest.approx(usual[0], rel=1e-6)  # the weights are there
    assert losses(again)[-1] != pytest.approx(usual[2], rel=1e-6)


def test_state_dict_type(fit):
    from safetensors.torch import load_file

    trainer = fit(**SAVE, checkpoint__state_dict_type="SHARDED_STATE_DICT")
    folder = Path(trainer.args.output_dir) / "checkpoint-3"
    (file,) = (folder / "distributed_checkpoint").iterdir()
    moments = load_file(file)
    assert {name.rpartition("/")[0] for name in moments} == set(weights(trainer))
    assert not (folder / "optimizer.pt").exists()
    full = fit(**SAVE, folder="full")
    folder = Path(full.args.output_dir) / "checkpoint-3"
    assert not (folder / "distributed_checkpoint").exists()
    state = torch.load(folder / "optimizer.pt", weights_only=True)["state"]
    names = [n for n, p in full.model.named_parameters() if p.requires_grad]
    assert len(state) == len(names)
    assert sum(v.sum() for n, v in moments.items() if n.endswith("exp_avg_sq")) == pytest.approx(
        float(sum(one["exp_avg_sq"].sum() for one in state.values())), rel=1e-5
    )


def test_metric_for_best_model(fit):
    each = {"evaluation__eval_strategy": "steps", "evaluation__eval_steps": 1}
    each |= {"checkpoint__save_steps": 1, "checkpoint__load_best_model_at_end": True}
    for name, greater, best in (
        ("eval_loss", False, min),
        ("eval_mean_token_accuracy", True, max),
    ):
        trainer = fit(
            **each,
            checkpoint__metric_for_best_model=name,
            checkpoint__greater_is_better=greater,
            folder=name,
        )
        scores = [log[name] for log in trainer.state.log_history if name in log and log["step"]]
        assert trainer.state.best_metric == best(scores)


# Runs, from their settings to their files


def test_files_of_a_run(train, tmp_path):
    run = train(
        logging__log_model_summary=True,
        logging__disable_tqdm=False,
        logging__include_performance_metrics=True,
        logging__include_mfu=True,
        compute__peak_tflops=1.0,
        tracking__tags=["try", "tiny"],
        callbacks__callbacks={"printer": {}, "json_logger": {}},
        training__run_name="named",
    )
    assert run.status == "completed", run.problems
    assert "named" in run.id
    summary = (run.path / "model.txt").read_text()
    assert "lora_A" in summary
    bar = (run.path / "progress.txt").read_text()
    assert bar.startswith("[##############################] 6/6 100%")
    assert "loss" in bar
    assert (run.path / "printer.txt").read_text().count("'loss'") == 6
    lines = (run.path / "metrics.jsonl").read_text().splitlines()
    logs = [e for e in run.events() if e["event"] == "log"]
    found = [json.loads(line) for line in lines]
    assert [line["loss"] for line in found if "loss" in line] == [e["loss"] for e in logs]
    for log in logs:
        assert log["rows_per_second"] > 0
        assert 0 <= log["padding_share"] < 1
        assert 0 < log["mfu"] < 1
        assert log["mfu"] == pytest.approx(log["model_flops_per_second"] / 1e12)
    started = next(e for e in run.events() if e["event"] == "started")
    assert started["tags"] == ["try", "tiny"]
    run.close()


def test_a_usual_run_has_none_of_these(train):
    run = train(training__max_steps=2)
    names = {path.name for path in run.path.iterdir()}
    assert not names & {"model.txt", "progress.txt", "printer.txt", "metrics.jsonl"}
    assert "mfu" not in next(e for e in run.events() if e["event"] == "log")


def test_resume_from_checkpoint(train):
    first = train(checkpoint__save_steps=3, training__max_steps=6)
    folder = first.path / "checkpoints" / "checkpoint-3"
    expected = [e["loss"] for e in first.events() if e["event"] == "log"][3:]
    for asked in (str(folder), "auto"):
        again = train(
            training__max_steps=6 if asked != "auto" else 8, training__resume_from_checkpoint=asked
        )
        assert again.status == "completed", again.problems
        prepared = next(e for e in again.events() if e["event"] == "prepared")
        logs = [e["loss"] for e in again.events() if e["event"] == "log"]
        if asked == "auto":
            assert prepared["resumed_step"] == 6  # the newest
            assert len(logs) == 2
        else:
            assert prepared["resumed_step"] == 3
            assert logs == pytest.approx(expected, rel=1e-6)


def test_auto_begins_anew_where_there_is_nothing(train):
    run = train(training__max_steps=2, training__resume_from_checkpoint="auto")
    assert run.status == "completed"
    assert "resumed_step" not in next(e for e in run.events() if e["event"] == "prepared")


def test_save_final_model_and_do_train(train):
    run = train(training__max_steps=2, checkpoint__save_final_model=False)
    assert run.status == "completed"
    assert not (run.path / "adapter").exists()
    assert (run.path / "checkpoints" / "checkpoint-2").is_dir()
    only = train(training__do_train=False)
    assert only.status == "completed", only.problems
    kinds = [e["event"] for e in only.events()]
    assert "eval" in kinds
    assert "log" not in kinds


# Precision


def first_output(dtypes: list[Any]) -> Any:
    """Return a probe that notes the type of the first layer's products, and of its weights."""

    def look(args, state, control, model, **_):
        layer = next(m for n, m in model.named_modules() if n.endswith("layers.0.mlp.down_proj"))
        layer.register_forward_hook(lambda _, __, out: dtypes.append(out.dtype))

    return Probe(on_train_begin=look)


def test_mixed_precision(fit):
    found = {}
    for mixed in ("no", "bf16"):
        dtypes: list[Any] = []
        trainer = fit(first_output(dtypes), precision__mixed_precision=mixed)
        found[mixed] = losses(trainer)
        assert set(dtypes) == {torch.bfloat16 if mixed == "bf16" else torch.float32}
        assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}
    assert found["bf16"] != found["no"]
    assert found["bf16"] == pytest.approx(found["no"], rel=0.02)


@pytest.mark.parametrize("master_grad", [False, True])
def test_o2(fit, master_grad):
    types_of_gradients = set()

    def look(args, state, control, model, **_):
        types_of_gradients.update(p.grad.dtype for p in model.parameters() if p.grad is not None)

    trainer = fit(
        Probe(on_pre_optimizer_step=look),
        precision__mixed_precision="bf16",
        precision__fp16_opt_level="O2",
        precision__amp_master_grad=master_grad,
        training__gradient_accumulation_steps=2,
    )
    assert {p.dtype for p in trainer.model.parameters()} == {torch.bfloat16}
    found = trainer.optimizer.optimizer
    assert type(found) is OffloadedOptimizer
    assert {m.dtype for m in found.state_dict()["masters"]} == {torch.float32}
    assert types_of_gradients == {torch.float32 if master_grad else torch.bfloat16}
    usual = fit(precision__mixed_precision="bf16", training__gradient_accumulation_steps=2)
    assert losses(trainer) == pytest.approx(losses(usual), rel=0.03)


def test_o2_keeps_float32_copies_of_adapters_with_two_rates(fit):
    """Two rates group the parameters; what the optimiser moves are still the float32 copies."""
    lora = {"peft__method": "lora", "peft__loraplus_lr_ratio": 4.0}
    o2 = {"precision__mixed_precision": "bf16", "precision__fp16_opt_level": "O2"}
    trainer = fit(**lora, **o2)
    adapter = {p.dtype for n, p in trainer.model.named_parameters() if "lora_" in n}
    assert adapter == {torch.bfloat16}
    found = trainer.optimizer.optimizer
    assert type(found) is OffloadedOptimizer
    assert {m.dtype for m in found.state_dict()["masters"]} == {torch.float32}
    assert {g["initial_lr"] for g in found.param_groups if g["params"]} == {2e-3, 8e-3}
    usual = fit(**lora, precision__mixed_precision="bf16")
    assert losses(trainer) == pytest.approx(losses(usual), rel=0.03)


def test_two_rates_are_offloaded_too(built):
    changes = {"peft__method": "lora", "peft__loraplus_lr_ratio": 4.0}
    with built(**changes, memory__offload_optimizer=True) as trainer:
        assert type(trainer.optimizer) is not OffloadedOptimizer  # a CPU has nothing to offload
        trainer.optimizer = None
        trainer._is_offloaded = lambda: True
        assert type(trainer.create_optimizer()) is OffloadedOptimizer


def test_operator_lists(fit):
    """A black product is that of float32; then only the rest of autocast differs from none."""
    bf16 = {"precision__mixed_precision": "bf16"}
    usual, dtypes = fit(**bf16), []
    black = fit(first_output(dtypes), **bf16, precision__amp_custom_black_list=["linear", "matmul"])
    assert set(dtypes) == {torch.float32}
    exact = losses(fit())
    assert abs(losses(black)[0] - exact[0]) < abs(losses(usual)[0] - exact[0])
    white = fit(**bf16, precision__amp_custom_white_list=["rsqrt", "silu", "mul"])
    assert losses(white) != losses(usual)


def test_fp8(fit):
    usual = losses(fit())
    found = {
        on: losses(fit(precision__fp8=True, precision__apply_hadamard=on)) for on in (True, False)
    }
    assert found[True] != found[False]
    for losses_of_fp8 in found.values():
        assert losses_of_fp8 != usual
        assert losses_of_fp8 == pytest.approx(usual, rel=0.02)


def test_fp8_activation_scales_stay_after_so_many_steps(fit):
    follows = losses(fit(precision__fp8=True, precision__apply_online_actscale_step=10))
    stays = losses(fit(precision__fp8=True, precision__apply_online_actscale_step=1))
    assert stays[0] == follows[0]
    assert stays[1:] != follows[1:]


# Memory


def runs_of_the_mlp(counts: list[int]) -> Any:
    def look(args, state, control, model, **_):
        layer = next(m for n, m in model.named_modules() if n.endswith("layers.0.mlp"))
        layer.register_forward_pre_hook(lambda *_: counts.append(1))

    return Probe(on_train_begin=look)


@pytest.mark.parametrize("method", ["sft", "base"])
def test_gradient_checkpointing(fit, method):
    counts: list[int] = []
    usual = fit(runs_of_the_mlp(counts), training__method=method)
    assert len(counts) == 3
    counts.clear()
    again = fit(
        runs_of_the_mlp(counts), training__method=method, memory__gradient_checkpointing=True
    )
    assert len(counts) == 6
    assert losses(again) == pytest.approx(losses(usual), rel=1e-5)


@pytest.mark.parametrize("granularity", ["full_attn", "core_attn"])
def test_recompute_granularity(fit, granularity):
    mlp: list[int] = []
    found = fit(
        runs_of_the_mlp(mlp),
        memory__gradient_checkpointing=True,
        memory__recompute_granularity=granularity,
    )
    assert len(mlp) == 3  # attention alone ran again: see tests/unit/training/test_recompute.py
    assert losses(found) == pytest.approx(losses(fit()), rel=1e-5)


def test_preserve_rng_state(fit):
    """Without it dropout falls elsewhere when it is computed again: other gradients."""
    dropped = {"peft__lora_dropout": 0.5, "memory__gradient_checkpointing": True}

    def at(preserve: bool) -> list[float]:
        arguments = {"use_reentrant": False, "preserve_rng_state": preserve}
        return losses(fit(**dropped, memory__gradient_checkpointing_kwargs=arguments))

    exact = losses(fit(peft__lora_dropout=0.5))
    assert at(True) == pytest.approx(exact, rel=1e-5)
    assert at(False)[2] != pytest.approx(exact[2], rel=1e-7)


@pytest.mark.parametrize("reentrant", [True, False])
def test_use_reentrant(fit, reentrant, monkeypatch):
    used = []
    apply = torch.utils.checkpoint.CheckpointFunction.apply

    def counted(*args):
        used.append(1)
        return apply(*args)

    monkeypatch.setattr(torch.utils.checkpoint.CheckpointFunction, "apply", counted)
    arguments = {"use_reentrant": reentrant}
    found = fit(
        memory__gradient_checkpointing=True, memory__gradient_checkpointing_kwargs=arguments
    )
    assert bool(used) is reentrant
    assert losses(found) == pytest.approx(losses(fit()), rel=1e-5)


def test_torch_empty_cache_steps(fit, monkeypatch):
    calls = []
    monkeypatch.setattr("transformers.trainer.clear_device_cache", lambda: calls.append(1))
    fit(training__max_steps=6)
    assert calls == []
    fit(training__max_steps=6, memory__torch_empty_cache_steps=2)
    assert len(calls) == 3


@pytest.mark.parametrize("release", [True, False])
def test_release_grads(fit, release):
    trainer = fit(memory__release_grads=release)
    found = [p.grad for p in trainer.model.parameters() if p.requires_grad]
    if release:
        assert found == [None] * len(found)
    else:
        assert all(not gradient.any() for gradient in found)


def test_offload_optimizer(fit):
    """The device is called xpu and is this CPU: the way of the numbers is that of a GPU."""
    trainer = fit(memory__offload_optimizer=True, device="xpu")
    found = trainer.optimizer.optimizer
    assert type(found) is OffloadedOptimizer
    (inner,) = [found.inner]
    assert {s["exp_avg"].device.type for s in inner.state.values()} == {"cpu"}
    copies = {id(p) for group in inner.param_groups for p in group["params"]}
    assert not copies & {id(p) for p in trainer.model.parameters()}
    assert losses(trainer) == pytest.approx(losses(fit()), rel=1e-5)


@pytest.mark.parametrize("method", ["sft", "base"])
@pytest.mark.parametrize("ways", [("sparse",), ("fused",), ("sparse", "fused")])
def test_sparse_and_fused_head(fit, method, ways):
    places = []

    def look(args, state, control, model, **_):
        head = model.get_output_embeddings()
        head.register_forward_hook(lambda _, __, out: places.append(tuple(out.shape)))

    settings = {f"memory__use_{way}_head_and_loss_fn": True for way in ways}
    usual = fit(training__method=method)
    found = fit(Probe(on_train_begin=look), training__method=method, **settings)
    assert losses(found) == pytest.approx(losses(usual), rel=1e-5)
    if "fused" in ways:
        assert places == []  # its matrix is used, a few tokens at a time; whole logits never exist
    else:
        assert len(places) == 3
        assert all(len(shape) == 2 for shape in places)  # trained tokens alone, of no row
    if method == "sft":
        accuracies = logged(found, "mean_token_accuracy"), logged(usual, "mean_token_accuracy")
        assert accuracies[0] == pytest.approx(accuracies[1])


@pytest.mark.parametrize(("on", "row_attention"), [(True, "off"), (False, "auto")])
def test_use_attn_mask_start_row_indices(fit, on, row_attention):
    """Each value wins over what `speed.row_attention` decides without it; the losses are equal."""

    def masks_and_losses(value: bool | None) -> tuple[list[Any], list[float]]:
        masks: list[Any] = []

        def look(args, state, control, model, **_):
            layer = next(m for n, m in model.named_modules() if n.endswith("layers.0.self_attn"))
            layer.register_forward_pre_hook(
                lambda _, __, kwargs: masks.append(kwargs["attention_mask"]), with_kwargs=True
            )

        trainer = fit(
            Probe(on_train_begin=look),
            memory__use_attn_mask_start_row_indices=value,
            speed__row_attention=row_attention,
            data__packing=True,
        )
        assert len(masks) == 3
        return masks, losses(trainer)

    asked, usual = masks_and_losses(on), masks_and_losses(None)
    without_mask, with_mask = (asked, usual) if on else (usual, asked)
    # One without elements keeps transformers from looking for joined rows on the device.
    assert all(mask is None or not mask.numel() for mask in without_mask[0])
    assert all(mask.shape[-1] == mask.shape[-2] > 1 for mask in with_mask[0])
    assert without_mask[1] == pytest.approx(with_mask[1], rel=1e-5)


# Logging and tracking


@pytest.mark.parametrize(
    ("changes", "steps"),
    [
        ({"logging_steps": 1}, [1, 2, 3, 4, 5, 6]),
        ({"logging_steps": 4}, [1, 4]),
        ({"logging_steps": 4, "logging_first_step": False}, [4]),
        ({"logging_strategy": "no", "logging_first_step": False}, []),
        ({"logging_strategy": "epoch", "logging_first_step": False}, [6]),
    ],
    ids=str,
)
def test_when_numbers_are_logged(fit, changes, steps):
    named = {f"logging__{name}": value for name, value in changes.items()}
    trainer = fit(training__max_steps=6, **named)
    assert [log["step"] for log in trainer.state.log_history if "loss" in log] == steps


@pytest.mark.parametrize("method", ["sft", "base"])
def test_include_num_input_tokens_seen(fit, method):
    padded = {"data__padding_free": False, "training__method": method}
    none = fit(**padded, logging__include_num_input_tokens_seen="no")
    every = fit(**padded, logging__include_num_input_tokens_seen="all")
    real = fit(**padded, logging__include_num_input_tokens_seen="non_padding")
    assert logged(none, "num_input_tokens_seen") == []
    counts = logged(every, "num_input_tokens_seen"), logged(real, "num_input_tokens_seen")
    assert counts[0][0] > counts[1][0] > 0
    assert counts[0] == sorted(counts[0])


def test_log_on_each_node(built, monkeypatch):
    """The first process of the second machine: local number 0, number 8 of all."""
    for asked in (True, False):
        with built(logging__log_on_each_node=asked) as trainer:
            arguments = trainer.args
        monkeypatch.setattr(type(arguments), "local_process_index", property(lambda _: 0))
        monkeypatch.setattr(type(arguments), "process_index", property(lambda _: 8))
        assert arguments.should_log is asked
        monkeypatch.undo()


def test_levels_reach_the_log(train):
    texts = {}
    for level in ("info", "error"):
        run = train(
            training__max_steps=1,
            logging__log_level=level,
            logging__dep_log_level="info" if level == "error" else "error",
        )
        texts[level] = (run.path / "log.txt").read_text()
    assert " nbft INFO Reading" in texts["info"]
    assert " nbft INFO Reading" not in texts["error"]
    assert " transformers.trainer INFO" in texts["error"]
    assert " transformers.trainer INFO" not in texts["info"]


@pytest.fixture
def tensorboard(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """TensorBoard as far as transformers uses it; it need not be installed."""
    made: list[Any] = []

    class SummaryWriter:
        def __init__(self, log_dir: str) -> None:
            self.log_dir, self.scalars = log_dir, {}
            made.append(self)

        def add_scalar(self, name: str, value: float, step: int) -> None:
            self.scalars[name, step] = value

        def add_text(self, *_: Any) -> None: ...
        def add_hparams(self, *_: Any, **__: Any) -> None: ...
        def flush(self) -> None: ...
        def close(self) -> None: ...

    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = SummaryWriter  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    place = "transformers.integrations.integration_utils"
    monkeypatch.setattr(f"{place}.is_tensorboard_available", lambda: True)
    return made


@pytest.mark.parametrize("by_key", [True, False])
def test_tensorboard(fit, tensorboard, tmp_path, by_key):
    asked = {"callbacks__callbacks": {"tensorboard": {}}} if by_key else {}
    asked |= {} if by_key else {"tracking__report_to": ["tensorboard"]}
    trainer = fit(**asked, logging__logging_dir=str(tmp_path / "tb"))
    (writer,) = tensorboard
    assert writer.log_dir == str(tmp_path / "tb")
    assert [writer.scalars["train/loss", step] for step in (1, 2, 3)] == losses(trainer)
    fit(**asked)
    assert str(tensorboard[1].log_dir).startswith(str(trainer.args.output_dir))


@pytest.mark.parametrize(
    ("tracker", "variables"),
    [
        ("wandb", {"WANDB_PROJECT": "mine", "WANDB_TAGS": "a,b"}),
        ("comet_ml", {"COMET_PROJECT_NAME": "mine", "COMET_START_EXPERIMENT_TAGS": "a,b"}),
        (
            "mlflow",
            {"MLFLOW_EXPERIMENT_NAME": "mine", "MLFLOW_TAGS": '{"a": "true", "b": "true"}'},
        ),
    ],
)
def test_trackers_get_name_project_and_tags(fit, monkeypatch, tracker, variables):
    """What the library of a tracker reads when its callback sets it up."""
    found: dict[str, Any] = {}

    class Tracker(transformers.TrainerCallback):
        def on_train_begin(self, args, state, control, **_):
            found.update(run_name=args.run_name, project=args.project)
            found.update({name: os.environ.get(name) for name in variables})

    known = transformers.integrations.integration_utils.INTEGRATION_TO_CALLBACK
    monkeypatch.setitem(known, tracker, Tracker)
    fit(
        tracking__report_to=[tracker],
        tracking__project="mine",
        tracking__tags=["a", "b"],
        training__run_name="first",
        training__max_steps=1,
    )
    assert found == {"run_name": "first", "project": "mine"} | variables


def test_phoenix(fit, monkeypatch):
    """The spans that Arize Phoenix would get, through a stand-in for its package."""
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    registered, provider, sent = [], TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(sent))
    phoenix, otel = types.ModuleType("phoenix"), types.ModuleType("phoenix.otel")
    otel.register = lambda **asked: registered.append(asked) or provider
    monkeypatch.setitem(sys.modules, "phoenix", phoenix)
    monkeypatch.setitem(sys.modules, "phoenix.otel", otel)
    trainer = fit(tracking__report_to=["phoenix"], tracking__project="mine", tracking__tags=["a"])
    assert registered[0]["project_name"] == "mine"
    *logs, run = sent.get_finished_spans()
    assert run.attributes["tag.tags"] == ("a",)
    assert run.attributes["training.max_steps"] == trainer.args.max_steps
    assert {log.parent.span_id for log in logs} == {run.context.span_id}
    numbers = [log.attributes for log in logs if "loss" in log.attributes]
    assert [n["loss"] for n in numbers] == losses(trainer)
    assert [n["step"] for n in numbers] == [1, 2, 3]


# Callbacks


@pytest.mark.parametrize("by_key", [True, False])
def test_early_stopping(fit, by_key):
    """A score must be better by 100 to count, so the run stops after `patience` measurements."""
    each = {"evaluation__eval_strategy": "steps", "evaluation__eval_steps": 1}
    each |= {"training__max_steps": 5}
    each |= {"checkpoint__load_best_model_at_end": True, "checkpoint__save_steps": 1}
    for patience in (1, 3):
        arguments = {"early_stopping_patience": patience, "early_stopping_threshold": 100.0}
        if by_key:
            asked: dict[str, Any] = {"callbacks__callbacks": {"early_stopping": arguments}}
        else:
            asked = {f"callbacks__{name}": value for name, value in arguments.items()}
        assert fit(**each, **asked).state.global_step == patience + 1
    free = {**arguments, "early_stopping_threshold": 0.0}
    assert fit(**each, callbacks__callbacks={"early_stopping": free}).state.global_step > 2


def test_restore_callback_states_from_checkpoint(fit):
    each = {"evaluation__eval_strategy": "steps", "evaluation__eval_steps": 1}
    each |= {"checkpoint__save_steps": 1, "checkpoint__save_total_limit": None}
    each |= {"checkpoint__load_best_model_at_end": True}
    each |= {"callbacks__early_stopping_patience": 3, "callbacks__early_stopping_threshold": 100.0}
    first = fit(**each, training__max_steps=3, folder="first")
    checkpoint = Path(first.args.output_dir) / "checkpoint-3"
    ends = {}
    for restore in (True, False):
        again = fit(
            **each,
            training__max_steps=9,
            callbacks__restore_callback_states_from_checkpoint=restore,
            folder=str(restore),
            resume=str(checkpoint),
        )
        ends[restore] = again.state.global_step
    assert ends == {True: 4, False: 6}  # two of three waits were over


def test_default_flow(fit):
    """Asked for by its key it stands beside the trainer's own, and decides the same."""
    usual, asked = fit(), fit(callbacks__callbacks={"default_flow": {}})
    assert losses(asked) == losses(usual)
    flows = [
        sum(isinstance(c, transformers.DefaultFlowCallback) for c in t.callback_handler.callbacks)
        for t in (usual, asked)
    ]
    assert flows == [1, 2]


def test_the_progress_bar_by_its_key(fit, tmp_path):
    fit(callbacks__callbacks={"enhanced_progressbar": {"file": "bar.txt"}})
    bar = (tmp_path / "run" / "bar.txt").read_text()
    assert bar.startswith("[##############################] 3/3 100%")
    assert not (tmp_path / "run" / "progress.txt").exists()


def test_a_callback_of_ones_own_and_wrong_arguments(fit):
    seen = []

    @registry.callbacks.register("counts")
    class Counts(transformers.TrainerCallback):
        def __init__(self, by=1):
            self.by = by

        def on_step_end(self, *_, **__):
            seen.append(self.by)

    try:
        fit(callbacks__callbacks={"counts": {"by": 2}})
        assert seen == [2, 2, 2]
        with pytest.raises(
            nbft.ConfigError, match=r"callbacks\.callbacks\.counts=.*cannot be created"
        ):
            fit(callbacks__callbacks={"counts": {"bye": 2}})
    finally:
        registry.callbacks.unregister("counts")


def test_the_profiler_sees_the_steps_of_its_range(fit, tmp_path):
    from nbft.training.callbacks.profiling import ProfilerCallback

    trainer = fit(
        callbacks__callbacks={"profiler": {"first_step": 2, "last_step": 3}}, training__max_steps=5
    )
    folder = tmp_path / "run" / "profile"
    trace = json.loads((folder / "steps-2-3.json").read_text())["traceEvents"]
    steps = [e for e in trace if e.get("name", "").startswith("Optimizer.step")]
    assert len(steps) == 2
    assert "aten::mm" in (folder / "steps-2-3.txt").read_text()
    assert losses(trainer) == losses(fit(training__max_steps=5))
    with pytest.raises(nbft.ConfigError, match="is not a range of steps"):
        ProfilerCallback(3, 2)


def test_the_profiler_of_another_device_is_its_plugins(monkeypatch, tmp_path):
    from nbft.training.callbacks import profiling

    calls = []
    profiler = types.SimpleNamespace(
        __enter__=lambda: calls.append("start"),
        __exit__=lambda *_: calls.append("stop"),
        export_chrome_trace=lambda path: calls.append(Path(path).name),
        key_averages=lambda: types.SimpleNamespace(table=lambda **_: "table"),
    )
    asked = {}
    device = types.SimpleNamespace(profile=lambda **a: asked.update(a) or profiler)
    monkeypatch.setattr(profiling, "device_of", lambda key: asked.update(key=key) or device)
    callback = profiling.ProfilerCallback(1, 1, profile_memory=True)
    card = types.SimpleNamespace(device=types.SimpleNamespace(type="qaic"))
    model = types.SimpleNamespace(parameters=lambda: iter([card]))
    arguments = types.SimpleNamespace(output_dir=str(tmp_path / "checkpoints"))
    state = types.SimpleNamespace(global_step=0)
    callback.on_step_begin(arguments, state, None, model=model)
    state.global_step = 1
    callback.on_step_end(arguments, state)
    assert asked == {"key": "qaic", "record_shapes": True, "profile_memory": True}
    assert calls == ["start", "stop", "steps-1-1.json"]


VERIFY = {"op_by_op_verifier": {"first_step": 2, "last_step": 2}}


def verified(trainer: Any) -> dict[str, Any]:
    folder = Path(trainer.args.output_dir).parent
    return json.loads((folder / "verifier.json").read_text())


def test_the_verifier_finds_no_fault_where_there_is_none(fit):
    trainer = fit(callbacks__callbacks=VERIFY)
    found = verified(trainer)
    assert found["steps"] == [2]
    assert found["compared"] > 100
    assert found["first"] is None
    assert losses(trainer) == losses(fit())


def test_the_verifier_finds_an_injected_fault(fit, monkeypatch):
    again = verifying.OpByOp._again
    mistaken = []

    def with_a_fault(self, func, args, kwargs):
        result = again(self, func, args, kwargs)
        if func.overloadpacket.__name__ == "silu" and not mistaken:
            mistaken.append(tuple(args[0].shape))
            return result + 0.5
        return result

    monkeypatch.setattr(verifying.OpByOp, "_again", with_a_fault)
    trainer = fit(callbacks__callbacks=VERIFY)
    found = verified(trainer)
    assert found["differences"] == 1
    assert found["first"]["operator"] == "silu"
    assert found["first"]["shapes"] == [list(mistaken[0])]
    assert 0.05 < found["first"]["error"] <= 0.5
    notes = (Path(trainer.args.output_dir).parent / "events.jsonl").read_text()
    assert "The operator silu on inputs" in notes


def test_the_verifier_finds_a_fault_of_the_device(fit, monkeypatch):
    """Here the device is wrong and the reference is float64: products of 16 bits are too coarse."""
    asked = {**VERIFY["op_by_op_verifier"], "reference_dtype": "float64", "tolerance": 1e-4}
    trainer = fit(
        callbacks__callbacks={"op_by_op_verifier": asked}, precision__mixed_precision="bf16"
    )
    found = verified(trainer)
    assert found["differences"] > 0
    assert {d["operator"] for d in found["all"]} & {"mm", "addmm", "bmm", "_to_copy"}


def test_mfu_needs_a_peak(fit):
    trainer = fit(logging__include_mfu=True)
    assert isinstance(trainer, throughput.Throughput)
    assert logged(trainer, "mfu") == []
