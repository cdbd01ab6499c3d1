"""What a config will lead to: the numbers, the problems together, and every fix."""

import copy
import importlib.util
import json
import os
import shutil

import pytest

from nbft import make_plan, registry
from nbft.config import Config, presets
from nbft.hardware import Choice
from nbft.plan import plan as plan_module
from nbft.plan import ranges as ranges_module

ROWS = [{"prompt": f"Add {n}.\n", "completion": str(n)} for n in range(40)]


@pytest.fixture
def config(tiny_model):
    return Config(model={"model_name": str(tiny_model)}, data={"rows": ROWS})


def find(plan, field):
    return [problem for problem in plan.problems if problem.field == field]


def test_the_numbers(config):
    plan = make_plan(config.apply({"training.num_train_epochs": 2}))
    assert plan.problems == []
    assert (plan.train_rows, plan.eval_rows) == (35, 5)
    assert plan.effective_batch_size == 16
    assert (plan.steps_per_epoch, plan.total_steps, plan.warmup_steps) == (3, 6, 1)
    assert plan.total_parameters > 100_000
    assert plan.memory_bytes > 0
    assert plan.free_memory_bytes > 0
    assert plan.device.reason


def test_the_default_model_is_planned_before_it_is_downloaded(empty_cache):
    plan = make_plan(Config.preset("two-minute-try").apply({"compute.device": "cpu"}))
    assert plan.total_parameters == 134_515_008
    assert plan.seconds > 10
    assert plan.memory_bytes > 134_515_008
    assert plan.decisions.is_final
    assert "smollm2-135m is downloaded first, once; the time does not include that." in plan.remarks
    other = make_plan(Config(model={"model_name": "a/b"}, data={"dataset_name": "alpaca"}))
    assert other.total_parameters is None


def test_tokens_are_counted_with_the_models_own_tokenizer(config, tiny_tokenizer):
    plan = make_plan(config.apply({"data.split_ratio": 1, "evaluation.eval_strategy": "no"}))
    real = sum(len(tiny_tokenizer(r["prompt"] + r["completion"])["input_ids"]) + 1 for r in ROWS)
    assert plan.tokens == real


def test_the_learning_rates_begin_and_end_where_the_run_does(config):
    plan = make_plan(config.apply({"training.max_steps": 500}))
    rates = plan.learning_rates(points=50)
    assert len(rates) <= 50
    assert rates[0] == (0, 0.0)
    assert rates[-1][0] == 500
    assert max(rate for _, rate in rates) <= 2e-4
    assert make_plan(Config()).learning_rates() == []


@pytest.mark.parametrize("name", presets())
def test_every_preset_has_no_error(name):
    config = Config.preset(name)
    if not config.data.train.datasets:
        config = config.apply({"data.train.datasets[0].dataset_name": "alpaca"})
    errors = make_plan(config).errors
    if not importlib.util.find_spec("bitsandbytes"):  # an extra
        errors = [error for error in errors if "pip install bitsandbytes" not in error.fix]
    assert errors == []


@pytest.mark.parametrize("tree", [{}, {"training": {"max_steps": 60}}, {"data": {"max_length": 9}}])
def test_a_config_without_rows_says_so_and_nothing_else(tree):
    plan = make_plan(Config(**tree))
    assert [str(problem) for problem in plan.errors] == [
        (
            "data.train.datasets: names no rows. Give a path or a dataset_name, for example "
            "data.train.datasets[0].dataset_name=alpaca."
        )
    ]
    assert plan.total_steps is None


def test_everything_wrong_comes_together_in_the_order_of_the_settings(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jsonl").write_text("{\n{}\n[")
    plan = make_plan(
        Config(
            model={"model_name": "nowhere"},
            data={"path": "a.jsonl", "validation": {"path": "gone.jsonl"}},
            training={"learning_rate": 0.5},
            checkpoint={"load_best_model_at_end": True},
        )
    )
    assert [problem.field for problem in plan.problems] == [
        "model.model_name",
        "data.train.datasets[0].path",
        "data.train.datasets[0].path",
        "data.validation.datasets[0].path",
        "training.learning_rate",
        "checkpoint.load_best_model_at_end",
    ]
    assert [problem.field for problem in plan.warnings] == ["training.learning_rate"]


@pytest.mark.parametrize(
    "tree",
    [
        {"data": {"path": "a" * 300}},
        {"data": {"path": "a\0b"}},
        {"model": {"model_name": "a" * 300}},
        {"model": {"model_name": ""}},
        {"training": {"output_dir": "a" * 300}},
        {"data": {"rows": 5}},
        {"data": {"rows": [{}]}},
        {"data": {"dataset_name": "alpaca", "columns": {"a": "b"}}},
    ],
    ids=str,
)
def test_a_mistake_is_a_problem_and_never_an_exception(tree):
    assert make_plan(Config(**tree)).errors


def test_a_changed_file_is_read_again_and_an_unchanged_one_is_not(tmp_path, monkeypatch):
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in ROWS))
    config = Config(data={"path": str(path)})
    assert make_plan(config).train_rows == 35
    monkeypatch.setattr(plan_module, "load_examples", pytest.fail)
    assert make_plan(config).train_rows == 35
    monkeypatch.undo()
    path.write_text("\n".join(json.dumps(row) for row in ROWS[:10]))
    assert make_plan(config).train_rows == 9
    assert make_plan(config.apply({"data.split_ratio": 0.5})).train_rows == 7


def test_paths_are_relative_to_the_folder_of_the_config(tmp_path):
    (tmp_path / "a.jsonl").write_text(json.dumps(ROWS[0]) + "\n" + json.dumps(ROWS[1]))
    config = Config(data={"path": "a.jsonl"})
    assert make_plan(config, folder=tmp_path).errors == []
    (problem,) = make_plan(config).errors
    assert "does not exist." in str(problem)


def test_a_warmup_longer_than_the_run(config):
    changed = config.apply({"training.max_steps": 10, "scheduler.warmup_steps": 10})
    (problem,) = find(make_plan(changed), "scheduler.warmup_steps")
    assert str(problem) == (
        "scheduler.warmup_steps=10.0: warms up for 10 steps, but the run has 10 steps, so the "
        "learning rate never reaches its full value. Use 0.05, which is 5% of the steps."
    )
    assert find(make_plan(changed.apply(problem.changes)), problem.field) == []


def test_a_run_of_one_step_should_not_warm_up(config):
    changed = config.apply({"training.max_steps": 1})
    (problem,) = find(make_plan(changed), "scheduler.warmup_steps")
    assert problem.sentence == (
        "warms up for 1 step, but the run has 1 step, so the learning rate never reaches its full value. "
        "Use 0."
    )
    assert find(make_plan(changed.apply(problem.changes)), problem.field) == []


def test_leaving_out_the_only_batch(config):
    changed = config.apply(
        {"data.dataloader_drop_last": True, "training.per_device_train_batch_size": 64}
    )
    (problem,) = find(make_plan(changed), "data.dataloader_drop_last")
    assert str(problem) == (
        "data.dataloader_drop_last=True: drops the only batch: there are 35 rows, and a batch "
        "has 64. Set it to false."
    )
    assert find(make_plan(changed.apply(problem.changes)), problem.field) == []


def test_a_length_that_cuts_rows(config):
    long = [{"prompt": "word " * n, "completion": "x"} for n in range(1, 101)]
    changed = config.apply({"data.max_length": 20})
    changed.data.train.datasets[0].rows = long
    (problem,) = find(make_plan(changed), "data.max_length")
    assert problem.level == "warning"
    assert problem.why.startswith("truncates about ")
    assert "keep 95% whole, about " in problem.why
    assert "keep 99% whole; the longest has about " in problem.why
    mended = changed.apply(problem.changes)
    assert mended.data.max_length > 20
    assert find(make_plan(mended), problem.field) == []


def test_targets_that_match_nothing(config):
    changed = config.apply({"peft.target_modules": ["c_attn"]})
    (problem,) = find(make_plan(changed), "peft.target_modules")
    assert str(problem) == (
        "peft.target_modules='c_attn': matches no layer of the model. "
        "Use all-linear, or some of down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj."
    )
    assert find(make_plan(changed.apply(problem.changes)), problem.field) == []


@pytest.mark.parametrize(("batch", "accumulation"), [(16, 1), (5, 1), (6, 4)])
def test_a_batch_that_does_not_fit(config, monkeypatch, batch, accumulation):
    changed = config.apply(
        {
            "training.per_device_train_batch_size": batch,
            "training.gradient_accumulation_steps": accumulation,
        }
    )
    needed = make_plan(changed).memory_bytes
    monkeypatch.setattr(plan_module, "free_memory_bytes", lambda *_: needed - 1)
    field = "training.per_device_train_batch_size"
    plan = make_plan(changed)
    (problem,) = find(plan, field)
    assert problem.level == "warning"
    mended = changed.apply(problem.changes)
    training = mended.training
    assert training.per_device_train_batch_size < batch
    assert (
        training.per_device_train_batch_size * training.gradient_accumulation_steps
        == batch * accumulation
    )
    assert find(make_plan(mended), field) == []


def test_a_single_row_that_does_not_fit(config, monkeypatch):
    one = config.apply({"training.per_device_train_batch_size": 1})
    needed = make_plan(one).memory_bytes
    monkeypatch.setattr(plan_module, "free_memory_bytes", lambda *_: needed - 1)
    (problem,) = make_plan(one).warnings
    assert problem.fix.startswith("Turn memory.gradient_checkpointing on (PEFT Studio), about ")
    assert make_plan(one.apply(problem.changes)).warnings == []
    monkeypatch.setattr(plan_module, "free_memory_bytes", lambda *_: 1)
    (problem,) = make_plan(one).errors
    assert problem.fix == "Choose a smaller model, or a device with more memory."
    assert problem.changes == {}


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({}, "Use 1 with gradient_accumulation_steps=16 and checkpointing (PEFT Studio), about "),
        ({"quantization.load_in_4bit": True}, "Use QLoRA with batch 1 and checkpointing"),
    ],
    ids=str,
)
def test_what_else_saves_memory_in_the_order_of_the_guide(config, monkeypatch, more, words):
    small = {
        "training.per_device_train_batch_size": 1,
        "training.gradient_accumulation_steps": 16,
        "memory.gradient_checkpointing": True,
        **more,
    }
    if more:  # on a CPU the 16-bit file stays in memory beside the quantised weights
        config = config.apply({"model.dtype": "float32"})
    needed = make_plan(config.apply(small)).memory_bytes
    found = importlib.util.find_spec

    def find_spec(name):
        return name == "bitsandbytes" or found(name)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    monkeypatch.setattr(plan_module, "free_memory_bytes", lambda *_: needed)
    (problem,) = find(make_plan(config), "training.per_device_train_batch_size")
    assert problem.fix.startswith(words)
    assert make_plan(config.apply(problem.changes)).memory_bytes == needed


def test_a_plan_is_json_and_copies_no_rows(config):
    class Heavy(list):
        def __deepcopy__(self, _):
            raise AssertionError("rows were copied")

    config.data.train.datasets[0].rows = Heavy(ROWS)
    plan = make_plan(config)
    tree = plan.to_dict()
    assert json.loads(json.dumps(tree)) == tree
    assert tree["device"] == {"value": plan.device.value, "reason": plan.device.reason}
    assert tree["total_steps"] == plan.total_steps
    assert "config" not in tree


def test_the_plan_says_which_parts_of_the_fast_path_are_used(tiny_model):
    rows = [{"prompt": f"{n}", "completion": "a"} for n in range(40)]
    config = Config(model={"model_name": str(tiny_model)}, data={"rows": rows})
    config = config.apply({"compute.device": "cpu"})
    assert make_plan(config).fast_path == Choice("on", "every part applies")
    dropped = make_plan(config.apply({"peft.lora_dropout": 0.1}))
    assert dropped.fast_path == Choice("in part", "without fused_lora (peft.lora_dropout=0.1)")
    assert dropped.to_dict()["fast_path"]["value"] == "in part"


def test_rows_are_read_for_the_method_of_the_config(tmp_path, monkeypatch):
    """The same file and settings, for another method, are not taken from the last plan."""
    from nbft import registry
    from nbft.methods import method_of

    file = tmp_path / "rows.jsonl"
    turns = [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]
    lines = [json.dumps({"messages": turns, "label": n % 2 == 0}) for n in range(8)]
    file.write_text("\n".join(lines), encoding="utf-8")
    config = Config(data={"path": str(file), "split_ratio": 1.0})
    assert plan_module.make_plan(config).train_rows == 4
    both = copy.copy(method_of(config.apply({"training.method": "base"})))
    both.uses_labels = True
    get = registry.trainers.get
    monkeypatch.setattr(registry.trainers, "get", lambda key: both if key == "base" else get(key))
    plan = plan_module.make_plan(config.apply({"training.method": "base"}))
    assert plan.train_rows == 8


def test_a_file_that_keeps_its_size_and_time_is_read_again(tmp_path):
    path = tmp_path / "rows.jsonl"

    def write(text):
        path.write_text(json.dumps({"prompt": text, "completion": "b"}) + "\n")
        os.utime(path, (1, 1))

    config = Config(data={"path": str(path), "split_ratio": 1})
    write("one")
    assert plan_module.read_examples(config, "train", None)[0][0].prompt == "one"
    write("two")
    assert plan_module.read_examples(config, "train", None)[0][0].prompt == "two"


def test_rows_of_a_type_of_ones_own_are_made_again_when_it_changes(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"q": "a"}\n')
    found = []
    for answer in ("one", "two"):
        registry.datasets.register("mine")(lambda row, answer=answer: (row["q"], answer))
        try:
            config = Config(data={"path": str(path), "split_ratio": 1, "dataset_type": "mine"})
            found.append(plan_module.read_examples(config, "train", None)[0][0].completion)
        finally:
            registry.datasets.unregister("mine")
    assert found == ["one", "two"]


def test_a_model_that_was_replaced_is_looked_at_again(tiny_model, tmp_path):
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    config = Config(model={"model_name": str(folder)}, data={"rows": ROWS})
    before = make_plan(config)
    from nbft.data.tiny_model import make_tiny_model

    make_tiny_model(folder, vocab_size=600)
    after = make_plan(config)
    assert after.total_parameters < before.total_parameters
    assert after.tokens > before.tokens


LENGTHS = [
    {"prompt": "a", "completion": "b", "n": n, "gap": n or None, "words": ["x"]} for n in range(9)
]


@pytest.mark.parametrize(
    ("column", "sentence"),
    [
        ("n", None),
        ("words", None),
        ("input_ids", None),
        ("size", "is no column with a text or a number; found prompt, completion, n, gap, words."),
        ("gap", "holds neither a text nor a number in row 1."),
    ],
)
def test_the_rows_have_the_lengths_that_group_them(tiny_model, column, sentence):
    config = Config(
        model={"model_name": str(tiny_model)},
        data={
            "rows": LENGTHS,
            "split_ratio": 1,
            "train_sampling_strategy": "group_by_length",
            "length_column_name": column,
        },
    )
    found = [str(p) for p in make_plan(config).errors if p.field == "data.length_column_name"]
    said = f"data.length_column_name='{column}': {sentence} Name one, or input_ids for the tokens."
    assert found == ([said] if sentence else [])
    for unused in ({"data.packing": True}, {"data.train_sampling_strategy": "random"}):
        plan = make_plan(config.apply(unused))
        assert not find(plan, "data.length_column_name")


@pytest.mark.parametrize("content", [None, b"\xff", b"{% for", b""])
def test_a_template_file_is_read_before_the_run(tiny_model, tmp_path, content):
    path = tmp_path / "chat.jinja"
    if content is not None:
        path.write_bytes(content)
    config = Config(
        model={"model_name": str(tiny_model), "chat_template_path": str(path)}, data={"rows": ROWS}
    )
    errors = [p.field for p in make_plan(config).errors]
    assert errors == ([] if content == b"" else ["model.chat_template_path"])


@pytest.mark.parametrize(
    ("prompt", "completion", "is_glued"),
    [
        ("{q}", "{a}", True),
        ("Ask: {q}", "{a}", True),
        ("{q}\n", "{a}", False),
        ("{q}", " {a}", False),
        ("{q} -> ", "{a}", False),
        ("", "{a}", False),
    ],
)
def test_a_template_that_glues_the_answer_to_the_prompt(prompt, completion, is_glued):
    rows = [{"q": f"{n} + 8?", "a": f"{n + 8}"} for n in range(20)]
    dataset = {"rows": rows, "prompt_template": prompt, "completion_template": completion}
    config = Config(data={"train": {"datasets": [dataset]}})
    found = [p for p in make_plan(config).warnings if "one word" in p.why]
    assert bool(found) == is_glued
    if is_glued:
        assert "8?8" in found[0].why
        mended = config.apply(dict(found[0].changes))
        assert not [p for p in make_plan(mended).warnings if "one word" in p.why]


def test_a_machine_that_reports_no_memory_is_said(config, monkeypatch):
    monkeypatch.setattr(plan_module, "free_memory_bytes", lambda *_: -5)
    plan = make_plan(config)
    assert plan.free_memory_bytes == 0
    assert any("reports no free memory" in text for text in plan.assumptions)
    assert all("needs about" not in problem.why for problem in plan.problems)


@pytest.mark.parametrize(
    ("card", "words", "is_timed"),
    [
        ("Tesla T4 was found", "assumes 30% of its peak", True),
        ("Odd Card 9 was found", "not known", False),
    ],
)
def test_a_card_is_planned_by_its_data_sheet_or_not_at_all(
    config, monkeypatch, card, words, is_timed
):
    for module in (plan_module, ranges_module):
        monkeypatch.setattr(module, "available_devices", lambda: {"cpu": "", "cuda": card})
    monkeypatch.setattr(plan_module, "free_memory_bytes", lambda *_: 2**34)
    plan = make_plan(config.apply({"compute.device": "cuda"}))
    assert any(words in text for text in plan.assumptions)
    assert (plan.seconds is not None, "energy_kwh" in plan.ranges) == (is_timed, is_timed)
    if is_timed:
        lowest, highest = plan.ranges["seconds"]
        assert lowest == pytest.approx(highest / 5)


def test_a_config_without_weights_is_planned_as_llama(config, tiny_model, tmp_path):
    about = json.loads((tiny_model / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(about | {"model_type": "another"}))
    bare = make_plan(config.apply({"model.model_name": str(tmp_path)}))
    assert any("the layers of Llama" in text for text in bare.assumptions)
    assert bare.memory_parts["weights"] == pytest.approx(
        make_plan(config).memory_parts["weights"], rel=0.01
    )


def test_a_budget_that_ends_the_run_early_is_said(config):
    plan = make_plan(config)
    half = plan.tokens // 2
    remarks = make_plan(config.apply({"training.max_tokens": half})).remarks
    assert any(text.startswith("training.max_tokens=") for text in remarks)
    assert all("training.max_" not in text for text in plan.remarks)
    (problem,) = make_plan(config.apply({"training.max_cost_usd": 1.0})).errors
    assert problem.field == "training.max_cost_usd"
