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
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(plan), "needed_bytes", lambda _, config: needed_bytes(config))
        return list(guidance.guidance(plan))


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        (
            {"training.num_train_epochs": 8},
            "training.num_train_epochs",
            [
                "goes over 35 rows 8 times",
                "Unsloth's guide recommends 1 to 5",
                "PEFT Studio 3 to 5",
            ],
        ),
        (
            {"training.max_steps": 60},
            "training.max_steps",
            ["20 times", "Use 15, or callbacks.early_stopping_patience=3, which"],
        ),
        (
            {
                "training.num_train_epochs": 3,
                "data.split_ratio": 1.0,
                "evaluation.eval_strategy": "no",
            },
            "data.split_ratio",
            [
                "nothing shows whether 3 epochs are too many",
                "PEFT Studio",
                "QEfficient holds out 20%",
            ],
        ),
        (
            {
                "training.per_device_train_batch_size": 1,
                "training.gradient_accumulation_steps": 2,
                "training.num_train_epochs": 3,
            },
            "training.gradient_accumulation_steps",
            [
                "steps of 2 rows",
                "Unsloth's guide recommends 2 to 16",
                "also calls a smaller batch more",
            ],
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
            ["PEFT Studio recommends it above 16, ERNIEKit from 64", "hardly learns more"],
        ),
        (
            {"peft.r": 256, "peft.lora_alpha": 512},
            "peft.r",
            [
                "its scaling of lora_alpha / r = 2",
                "larger and larger steps as the rank grows",
                "the scaling becomes 0.25, 1/8 of what it was",
            ],
        ),
        ({"peft.r": 32, "peft.lora_alpha": 16}, "peft.r", ["PEFT Studio recommends it above 16"]),
        (
            {"peft.lora_alpha": 256},
            "peft.lora_alpha",
            ["lora_alpha / r = 16", "Use -1, which means 32 here", "becomes 2, 1/8 of what it was"],
        ),
        (
            {"peft.use_rslora": True, "peft.lora_alpha": 32},
            "peft.lora_alpha",
            ["lora_alpha / sqrt(r) = 8", "4 with rsLoRA (ERNIEKit)"],
        ),
        ({"peft.lora_dropout": 0.5}, "peft.lora_dropout", ["PEFT Studio and Oumi's recipe use"]),
        ({"optimizer.weight_decay": 0.5}, "optimizer.weight_decay", ["Unsloth's guide recommends"]),
        ({"peft.loraplus_lr_ratio": 64.0}, "peft.loraplus_lr_ratio", ["4 to 16"]),
        ({"training.neftune_noise_alpha": 50.0}, "training.neftune_noise_alpha", ["5 to 15"]),
        ({"training.max_grad_norm": 0.001}, "training.max_grad_norm", ["nearly every gradient"]),
        ({"optimizer.optim": "sgd"}, "training.learning_rate", ["for SGD (0.01 to 0.1"]),
        ({"peft.method": "full"}, "training.learning_rate", ["for full training", "2e-05"]),
        ({"training.learning_rate": 1e-5}, "training.learning_rate", ["below", "for LoRA"]),
        (
            {"logging.logging_strategy": "no"},
            "logging.logging_strategy",
            ["without a curve", "Log every 1 step."],
        ),
        (
            {"training.max_steps": 60, "logging.logging_steps": 500, "data.split_ratio": 0.5}
            | {"training.max_grad_norm": 1.0},
            "logging.logging_steps",
            ["without a curve"],
        ),
        (
            {"data.validation": {"rows": ROWS}},
            "data.validation",
            ["has rows that are trained on", "hold out a tenth"],
        ),
        (
            {"training.gradient_accumulation_steps": 16, "training.num_train_epochs": 3},
            "training.gradient_accumulation_steps",
            ["steps of 64 rows", "the whole run has 3 steps", "Use 1 with a batch of 4"],
        ),
        (
            {"training.gradient_accumulation_steps": 64, "training.max_steps": 30},
            "training.learning_rate",
            ["these have 256", "grows with the batch", "Use 0.0008"],
        ),
        (
            {"data.dataloader_num_workers": 128},
            "data.dataloader_num_workers",
            ["takes all", "QEfficient uses 4 and 1, ERNIEKit 1, Oumi 0"],
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
    [("a/model-2.9b", ""), ("a/model-7b", "and LoRA for"), ("a/model-70b", "and QLoRA (LoRA on")],
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
    assert "QEfficient recommends fp16 for its own cards" in hint.why
    monkeypatch.setattr(guidance, "has_bfloat16", lambda device: Choice("no", "Turing"))
    assert hints(plan) == []


def test_checkpointing_that_a_slow_run_does_not_need(config):
    config.memory.gradient_checkpointing = True
    plan = dataclasses.replace(make_plan(config), seconds=7500, free_memory_bytes=10 * 2**30)
    (hint,) = hints(plan, lambda changed: 2 * 2**30)
    assert hint.field == "memory.gradient_checkpointing"
    assert "about 2 h 5 min 20 to 30% slower (PEFT Studio, although it recommends it" in hint.why
    assert "about 2.0 GiB of 10 GiB free" in hint.why
    assert hints(plan, lambda changed: 9 * 2**30) == []
    assert hints(dataclasses.replace(plan, seconds=600)) == []


def test_a_setting_that_has_a_problem_already_gets_no_second_hint(config):
    changed = config.apply({"training.max_steps": 100, "scheduler.warmup_steps": 100})
    found = [p for p in make_plan(changed).problems if p.field == "scheduler.warmup_steps"]
    assert len(found) == 1
    assert "never reaches its full value" in found[0].why


def test_many_epochs_are_fine_where_early_stopping_ends_them(config):
    fields = {p.field for p in make_plan(config.apply({"training.num_train_epochs": 50})).problems}
    assert "training.num_train_epochs" in fields
    stopping = config.apply(
        {"training.num_train_epochs": 50, "callbacks.early_stopping_patience": 3}
    )
    assert "training.num_train_epochs" not in {p.field for p in make_plan(stopping).problems}


@pytest.mark.parametrize("name", ["a/model-7b", "a/model-70b"])
@pytest.mark.parametrize("rate", [2e-5, 2e-4, 1e-2])
def test_a_click_that_changes_the_method_brings_its_rate(name, rate, empty_cache):
    full = Config(model={"model_name": name}, data={"rows": ROWS}).apply(
        {"peft.method": "full", "training.learning_rate": rate}
    )
    (hint,) = [p for p in make_plan(full).problems if p.field == "peft.method"]
    assert hint.changes == {"peft.method": "lora", "training.learning_rate": 2e-4}
    assert "its usual learning rate of 0.0002" in hint.fix


def test_a_run_of_many_hours_hears_of_smaller_models(config):
    plan = make_plan(config)
    (hint,) = hints(dataclasses.replace(plan, seconds=9 * 3600))
    assert hint.field == "model.model_name"
    assert "about 9 h" in hint.why
    assert "smaller model or quantisation" in hint.why
    assert hints(dataclasses.replace(plan, seconds=7 * 3600)) == []


def test_the_same_file_twice_is_the_same_rows(config, tmp_path):
    file, other = tmp_path / "rows.jsonl", tmp_path / "other.jsonl"
    for path in (file, other):
        path.write_text('{"prompt": "a", "completion": "b"}\n' * 40)
    twice = Config(model=config.model, data={"train": {"path": str(file)}})
    fields = []
    for held_out in (file, other):
        changed = twice.apply({"data.validation": {"path": str(held_out)}})
        fields.append({p.field for p in make_plan(changed).problems})
    assert ["data.validation" in found for found in fields] == [True, False]


def test_rows_are_not_proposed_to_be_held_out_where_that_changes_nothing(config, tmp_path):
    """A validation file is named but unreadable, or the share is the proposed one already."""
    gone = {"data.validation": {"path": str(tmp_path / "gone.jsonl")}}
    for changes in (gone, gone | {"data.split_ratio": 1.0}):
        plan = dataclasses.replace(
            make_plan(config.apply(changes)), train_rows=40, total_steps=9, steps_per_epoch=3
        )
        assert not plan.eval_rows
        assert "data.split_ratio" not in {hint.field for hint in hints(plan)}
    plan = dataclasses.replace(
        make_plan(config.apply({"training.num_train_epochs": 3})), eval_rows=0
    )
    assert "data.split_ratio" not in {hint.field for hint in hints(plan)}


PIECES = [
    {"training.num_train_epochs": 8},
    {"training.max_steps": 60},
    {"training.num_train_epochs": 3, "data.split_ratio": 1.0, "evaluation.eval_strategy": "no"},
    {"training.per_device_train_batch_size": 1, "training.gradient_accumulation_steps": 2},
    {"training.gradient_accumulation_steps": 64},
    {"training.per_device_train_batch_size": 256},
    {"scheduler.warmup_steps": 50},
    {"scheduler.warmup_steps": 0, "training.max_grad_norm": 0.0},
    {"training.max_grad_norm": 0.001},
    {"peft.r": 64},
    {"peft.r": 256, "peft.lora_alpha": 512},
    {"peft.lora_alpha": 4},
    {"peft.lora_alpha": 1024},
    {"peft.use_rslora": True},
    {"peft.lora_dropout": 0.5},
    {"peft.loraplus_lr_ratio": 64.0},
    {"peft.method": "full"},
    {"peft.method": "ia3"},
    {"training.learning_rate": 1e-6},
    {"training.learning_rate": 0.5},
    {"optimizer.optim": "sgd"},
    {"optimizer.weight_decay": 0.9},
    {"training.neftune_noise_alpha": 99.0},
    {"logging.logging_strategy": "no"},
    {"logging.logging_steps": 5000},
    {"data.validation": {"rows": ROWS}},
    {"data.dataloader_num_workers": 128},
    {"memory.gradient_checkpointing": True},
    {"quantization.load_in_4bit": True},
    {"callbacks.early_stopping_patience": 3},
    {"checkpoint.load_best_model_at_end": True},
]
"""Settings of which each gets advice; all pairs that can hold together are tried."""

GUIDES = ("QEfficient", "Oumi", "Unsloth", "ERNIEKit", "PEFT Studio")


@pytest.mark.parametrize("first", range(len(PIECES)))
def test_no_two_pieces_of_advice_contradict_each_other(config, first, empty_cache):
    large = Config(model={"model_name": "a/model-7b"}, data={"rows": ROWS})
    for second in PIECES[first:]:
        for base in (config, large):
            plan = make_plan(base.apply({**PIECES[first], **second}))
            proposed = {}
            for problem in plan.problems:
                for path, value in problem.changes.items():
                    assert proposed.setdefault(path, value) == value, (path, plan.problems)
                assert all(problem.sentence.count(name) <= 1 for name in GUIDES), problem
            warned = [problem.field for problem in plan.warnings]
            assert len(set(warned)) == len(warned), plan.problems
