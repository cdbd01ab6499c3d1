"""Smart defaults: each follows from the model, the rows and the machine, and says why."""

import dataclasses

import pytest

from nbft.config import Config
from nbft.hardware import Choice
from nbft.plan.advice import (
    IN_MEMORY,
    METHODS,
    SETTINGS_OF,
    STEPS,
    Machine,
    answers_of,
    choose_method,
    dataset_of,
    needed_bytes,
    parameters_of,
    settings_asked,
    settings_of,
)

GIB = 2**30
GPU = Machine(Choice("cuda", "a GPU"), 80 * GIB, has_16_bits=True)
CPU = Machine(Choice("cpu", "no GPU was found"), 16 * GIB, has_16_bits=True)


def answered(machine, **given):
    """Go through the steps, with some answers given and the defaults for the rest."""
    answers = {path.replace("__", "."): value for path, value in given.items()}
    reasons = {}
    for step in STEPS:
        for question in step.questions(answers, machine):
            answers.setdefault(question.path, question.value)
            reasons[question.path] = question.reason
    return answers, reasons


@pytest.mark.parametrize(
    ("billions", "machine", "method"),
    [
        (0.1, GPU, "full"),
        (2.9, GPU, "full"),
        (3.0, GPU, "lora"),
        (13.0, GPU, "lora"),
        (14.0, GPU, "qlora"),
        (0.1, CPU, "lora"),  # a CPU learns sooner so
        (2.0, dataclasses.replace(GPU, free_bytes=24 * GIB), "lora"),  # 16 bytes a weight
        (7.0, dataclasses.replace(GPU, free_bytes=12 * GIB), "qlora"),
        (70.0, dataclasses.replace(GPU, free_bytes=12 * GIB), "qlora"),
    ],
)
def test_auto_goes_by_the_guide_and_by_what_fits(billions, machine, method):
    choice = choose_method("auto", round(billions * 1e9), machine)
    assert choice.value == method
    assert "Oumi's guide" in choice.reason


def test_auto_says_why_it_went_further_down():
    tight = dataclasses.replace(GPU, free_bytes=12 * GIB)
    reason = choose_method("auto", 2 * 10**9, tight).reason
    assert "full needs about 32 GiB" in reason
    assert "of 12 GiB free" in reason
    assert "use a smaller model" in choose_method("auto", 70 * 10**9, tight).reason


def test_what_is_asked_for_or_unknown():
    assert choose_method("full", 70 * 10**9, CPU) == Choice("full", "as requested")
    assert choose_method("auto", None, GPU).value == "lora"


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("a/Model-7B", 7_000_000_000),
        ("a/Qwen2.5-1.5B-Instruct", 1_500_000_000),
        ("a/SmolLM2-360M", 360_000_000),
        ("a/gpt-j-6b", 6_000_000_000),
        ("a/model-4bit", None),
        ("a/v2-mixture", None),
    ],
)
def test_the_size_in_a_name(empty_cache, name, parameters):
    assert parameters_of(name) == parameters


def test_the_size_of_a_model_that_is_here_is_counted(tiny_model):
    assert 0 < parameters_of(str(tiny_model)) < 10_000_000


def test_each_method_needs_less_than_the_one_before():
    needed = [needed_bytes(name, 7 * 10**9, has_16_bits=True) for name in METHODS]
    assert needed == sorted(needed, reverse=True)


def test_there_are_seven_steps_of_two_sentences():
    assert [step.title for step in STEPS] == [
        *("Model", "Data", "Algorithm", "Hyperparameters", "Compute", "Tracking"),
        "Review and launch",
    ]
    assert [step.about.count(". ") + 1 for step in STEPS] == [2] * 7


def test_every_default_is_a_setting_with_a_reason(empty_cache):
    answers, reasons = answered(GPU)
    assert "training.learning_rate" in reasons
    assert all(len(reason) > 15 and reason.endswith(".") for reason in reasons.values())
    settings = {p: v for p, v in answers.items() if p not in ("method", "data")}
    Config().apply(settings | SETTINGS_OF[answers["method"]] | dataset_of(answers["data"]))


def test_defaults_follow_the_model_and_the_method(empty_cache):
    small = answered(GPU, model__model_name="a/b-0.5B", method="lora")[0]
    large = answered(GPU, model__model_name="a/b-7B", method="lora")[0]
    full = answered(GPU, model__model_name="a/b-0.5B", method="full")[0]
    rate = "training.learning_rate"
    assert small[rate] > large[rate] > full[rate]
    assert "peft.r" not in full
    batch, turns = "training.per_device_train_batch_size", "training.gradient_accumulation_steps"
    assert large[batch] * large[turns] == full[batch] * full[turns] == 16
    assert answered(GPU, training__per_device_train_batch_size=8)[0][turns] == 2
    assert answered(GPU, peft__r=8, method="lora")[0]["peft.lora_alpha"] == 16
    tight = dataclasses.replace(GPU, free_bytes=20 * GIB)
    checkpointing = "memory.gradient_checkpointing"
    assert answered(tight, model__model_name="a/b-7B", method="lora")[0][checkpointing] is True
    assert answered(GPU, model__model_name="a/b-7B", method="lora")[0][checkpointing] is False


def test_the_passes_follow_the_rows(write, empty_cache):
    few = write("few.jsonl", '{"prompt": "a", "completion": "b"}\n' * 30)
    many = write("many.jsonl", '{"prompt": "a", "completion": "b"}\n' * 7000)
    epochs = "training.num_train_epochs"
    assert answered(CPU, data=few)[0][epochs] == 3
    assert answered(CPU, data=many)[0][epochs] == 2
    answers, reasons = answered(CPU, data="someone/rows")
    assert answers[epochs] == 1
    assert "not counted" in reasons[epochs]


def test_rows_are_a_file_or_a_name(write):
    path = write("rows.jsonl", "{}")
    place = "data.train.datasets[0]"
    assert dataset_of(path) == {f"{place}.path": path}
    assert dataset_of("gone.jsonl") == {f"{place}.path": "gone.jsonl"}
    assert dataset_of("owner/name") == {f"{place}.dataset_name": "owner/name"}


@pytest.mark.parametrize(
    ("config", "method"),
    [
        ({}, "lora"),
        ({"peft.method": "full"}, "full"),
        ({"peft.method": "ia3"}, "ia3"),
        ({"quantization.load_in_4bit": True}, "qlora"),
        ({"quantization.load_in_8bit": True}, "lora in 8 bits"),
    ],
)
def test_what_a_config_answers(empty_cache, config, method):
    answers = answers_of(Config().apply(config))
    assert answers["method"] == method
    assert answers["data"] == ""
    questions = [question for step in STEPS for question in step.questions(answers, CPU)]
    assert ("peft.r" in [question.path for question in questions]) == (
        method not in ("full", "ia3")
    )
    for question in questions:  # and the answers are settings, which take what the rule gives
        assert set(settings_of(question.path, question.value)) <= set(settings_asked(question.path))


def test_the_rows_of_a_config_are_counted_as_they_are_read(write):
    path = write("rows.csv", "q,a\n" + "x,y\n" * 6000)
    named = {"path": path, "columns": {"prompt": "q", "completion": "a"}}
    answers = answers_of(Config(data=named))
    assert (answers["data"], answers["rows"].count) == (path, 5400)
    in_memory = answers_of(Config(data={"rows": [{"prompt": "a", "completion": "b"}] * 30}))
    assert (in_memory["data"], in_memory["rows"].count) == (IN_MEMORY, 27)
    assert answers_of(Config(data={"path": "gone.jsonl"}))["rows"].count is None
    epochs = "training.num_train_epochs"
    for given, passes in ((answers, 2), (in_memory, 3)):
        questions = {q.path: q.value for step in STEPS for q in step.questions(given, CPU)}
        assert questions[epochs] == passes


def test_the_maximum_length_follows_the_rows(write, empty_cache):
    length = "data.max_length"
    for words, tokens, limit in ((10, 13, 128), (300, 376, 512), (2000, 2501, 4096)):
        text = '{"prompt": "' + "word " * words + '", "completion": "b"}\n'
        answers, reasons = answered(CPU, data=write(f"{words}.jsonl", text * 30))
        assert answers[length] == limit
        assert f"99% of your rows have at most {tokens:,} tokens" in reasons[length]
    assert answered(CPU, data="someone/rows")[0][length] == 512
    assert answered(GPU, data="someone/rows")[0][length] == 1024


def test_a_value_in_the_usual_range_is_as_good_as_the_recommended_one(empty_cache):
    answers = {}
    questions = {}
    for step in STEPS:
        for question in step.questions(answers, CPU):
            answers[question.path] = question.value
            questions[question.path] = question
    assert all(question.suits(question.value) for question in questions.values())
    rate, rank = questions["training.learning_rate"], questions["peft.r"]
    assert rate.suits(2e-4)
    assert not rate.suits(2e-5)
    assert rank.suits(8)
    assert not rank.suits(64)
    assert questions["model.model_name"].suits("someone/model"), "a matter of taste"
    assert not questions["memory.gradient_checkpointing"].suits(True)
    assert not questions["method"].suits("full")
