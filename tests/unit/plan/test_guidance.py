"""The guides' advice appears where its condition holds, with its source, and its fix ends it."""

import dataclasses

import pytest

from nbft import make_plan
from nbft.config import Config
from nbft.hardware import Choice
from nbft.plan import guidance

ROWS = [{"prompt": f"Add {n}.\n", "completion": str(n)} for n in range(40)]


@pytest.fixture
def config(tiny_model):
    return Config(model={"model_name": str(tiny_model)}, data={"rows": ROWS})


def hints(plan, needed_bytes=lambda config: 0):
    return list(guidance.guidance(plan, needed_bytes))


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        (
            {"training.num_train_epochs": 8},
            "training.num_train_epochs",
            ["goes over 36 rows 8 times", "Unsloth's guide has 1 to 5", "PEFT Studio 3 to 5"],
        ),
        (
            {"training.max_steps": 60},
            "training.max_steps",
            ["20 times", "Use 15, or callbacks.early_stopping_patience=3 (PEFT Studio)."],
        ),
        (
            {
                "training.num_train_epochs": 3,
                "data.split_ratio": 1.0,
                "evaluation.eval_strategy": "no",
            },
            "data.split_ratio",
            ["nobody sees when 3 passes are too many", "PEFT Studio", "QEfficient holds out 20%"],
        ),
        (
            {
                "training.per_device_train_batch_size": 1,
                "training.gradient_accumulation_steps": 2,
                "training.num_train_epochs": 3,
            },
            "training.gradient_accumulation_steps",
            ["steps of 2 rows", "Unsloth's guide has 2 to 16", "also calls a smaller batch more"],
        ),
        (
            {"training.max_steps": 100, "scheduler.warmup_steps": 50},
            "scheduler.warmup_steps",
            ["50% of the steps", "Unsloth", "ERNIEKit 1 to 10%", "only for 1,000 to 2,000 steps"],
        ),
        (
            {"training.max_grad_norm": 0.0, "scheduler.warmup_steps": 0},
            "training.max_grad_norm",
            ["NaN", "PEFT Studio"],
        ),
        (
            {"peft.r": 64},
            "peft.r",
            ["ERNIEKit advises rsLoRA from 64 on, PEFT Studio above 16"],
        ),
        (
            {"data.dataloader_num_workers": 128},
            "data.dataloader_num_workers",
            ["takes every one of the", "QEfficient has 4 and 1, ERNIEKit 1, Oumi 0"],
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_advice_of_the_guides_and_what_ends_it(config, changes, field, words):
    assert make_plan(config).problems == []
    changed = config.apply(changes)
    plan = make_plan(changed)
    assert plan.errors == []
    (hint,) = [problem for problem in plan.warnings if problem.field == field]
    for word in words:
        assert word in hint.sentence
    mended = make_plan(changed.apply(hint.changes))
    assert [problem for problem in mended.problems if problem.field == field] == []


@pytest.mark.parametrize(
    "changes",
    [
        {"training.num_train_epochs": 5},
        {"training.max_steps": 100, "scheduler.warmup_steps": 20, "training.num_train_epochs": 1},
        {"training.max_grad_norm": 0.0},  # there is a warm-up
        {"peft.r": 32},
        {"peft.r": 64, "peft.use_rslora": True},
        {"training.per_device_train_batch_size": 1, "training.gradient_accumulation_steps": 4},
        {"scheduler.lr_scheduler_type": "constant", "scheduler.warmup_steps": 10},
    ],
    ids=str,
)
def test_silence_below_the_limits(config, changes):
    fields = {problem.field for problem in make_plan(config.apply(changes)).problems}
    assert fields - {"training.max_steps"} == set()


def test_a_large_set_wants_fewer_passes(config):
    plan = make_plan(config)
    large = dataclasses.replace(plan, train_rows=60_000, steps_per_epoch=3750, total_steps=11250)
    (hint,) = hints(large)
    assert (hint.field, hint.changes) == (
        "training.num_train_epochs",
        {"training.num_train_epochs": 2},
    )
    assert hints(dataclasses.replace(large, total_steps=7500)) == []


@pytest.mark.parametrize(
    ("name", "words"),
    [("a/model-2.9b", ""), ("a/model-7b", "and LoRA for"), ("a/model-70b", "and QLoRA, LoRA on")],
)
def test_full_training_of_a_large_model(name, words, empty_cache):
    full = Config(model={"model_name": name}, data={"rows": ROWS}, peft={"method": "full"}).apply(
        {"training.learning_rate": 2e-5}
    )
    found = [p for p in make_plan(full).problems if p.field == "peft.method"]
    assert len(found) == bool(words)
    assert all(words in problem.why and "Oumi's guide" in problem.why for problem in found)
    lora = full.apply({"peft.method": "lora"})
    assert [p for p in make_plan(lora).problems if p.field == "peft.method"] == []


def test_fp16_where_the_gpu_has_bf16(config, monkeypatch):
    plan = make_plan(config)
    config.precision.mixed_precision = "fp16"
    decisions = dataclasses.replace(plan.decisions, device=Choice("cuda", "a GPU"))
    plan = dataclasses.replace(plan, decisions=decisions, config=config)
    monkeypatch.setattr(guidance, "has_bfloat16", lambda device: Choice("yes", "Ampere"))
    (hint,) = hints(plan)
    assert "bf16 from Ampere on" in hint.why
    assert "QEfficient advises fp16 for its own cards" in hint.why
    monkeypatch.setattr(guidance, "has_bfloat16", lambda device: Choice("no", "Turing"))
    assert hints(plan) == []


def test_checkpointing_that_a_slow_run_does_not_need(config):
    config.memory.gradient_checkpointing = True
    plan = dataclasses.replace(make_plan(config), seconds=7500, free_memory_bytes=10 * 2**30)
    (hint,) = hints(plan, lambda changed: 2 * 2**30)
    assert hint.field == "memory.gradient_checkpointing"
    assert "about 2 h 5 min, 20 to 30% slower (PEFT Studio, which also advises it" in hint.why
    assert "about 2.0 GiB of 10 GiB free" in hint.why
    assert hints(plan, lambda changed: 9 * 2**30) == []
    assert hints(dataclasses.replace(plan, seconds=600)) == []


def test_a_setting_that_has_a_problem_already_gets_no_second_hint(config):
    changed = config.apply({"training.max_steps": 100, "scheduler.warmup_steps": 100})
    found = [p for p in make_plan(changed).problems if p.field == "scheduler.warmup_steps"]
    assert len(found) == 1
    assert "never reaches its value" in found[0].why
