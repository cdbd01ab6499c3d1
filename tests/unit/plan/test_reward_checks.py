"""What Check says of rewards, and what the plan knows of writing answers."""

from __future__ import annotations

from typing import Any

import pytest

import nbft
from nbft.errors import DataError, Problem

PATTERN = {"pattern": "<answer>(.*?)</answer>"}
REWARD = {"function": "exact_number", "options": PATTERN}


def config_of(**changes: Any) -> nbft.Config:
    config = nbft.Config(
        data={"dataset_name": "larger_number", "max_length": 128},
        training={"method": "grpo", "max_steps": 30, "per_device_train_batch_size": 8},
        evaluation={"eval_strategy": "no", "metrics": []},
        grpo={"rewards": [REWARD], "max_completion_length": 16},
    )
    return config.apply({name.replace("__", "."): value for name, value in changes.items()})


def errors(**changes: Any) -> list[Problem]:
    return [p for p in nbft.make_plan(config_of(**changes)).problems if p.level == "error"]


def test_a_good_config_has_no_errors() -> None:
    assert errors() == []
    assert errors(training__method="rloo") == []


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"grpo__rewards": []}, "grpo.rewards", "names no reward"),
        ({"grpo__num_generations": 5}, "grpo.num_generations", "does not divide the 32 answers"),
        ({"data__packing": True}, "data.packing", "each prompt is answered alone"),
        ({"data__max_tokens_per_batch": 512}, "data.max_tokens_per_batch", "batches by their tok"),
        ({"grpo__max_completion_length": 9000}, "data.max_length", "8,192 tokens that this model"),
        ({"grpo__use_vllm": True}, "grpo.use_vllm", "needs the package vllm"),
        (
            {"training__method": "rloo", "grpo__loss_type": "grpo"},
            "grpo.loss_type",
            "is not used by rloo",
        ),
        ({"training__method": "sft"}, "grpo.rewards", "is not used with training.method=sft"),
        (
            {"evaluation__eval_strategy": "epoch", "evaluation__per_device_eval_batch_size": 6},
            "evaluation.per_device_eval_batch_size",
            "is not a multiple of grpo.num_generations=8",
        ),
        (
            {"grpo__rewards": [{"function": "format", "options": {"pattern": "("}}]},
            "grpo.rewards[0].function",
            "is no regular expression",
        ),
        (
            {"grpo__rewards": [{"function": "judge", "options": {"model": "/nowhere"}}]},
            "grpo.rewards[0].options",
            "names the model /nowhere, which is not on this machine",
        ),
        (
            {"grpo__rewards": [{"function": "reward_model", "options": {"model": "/nowhere"}}]},
            "grpo.rewards[0].options",
            "names /nowhere, which is not on this machine",
        ),
        (
            {"grpo__rewards": [{"function": "reward_model", "options": {}}]},
            "grpo.rewards[0].options",
            "lacks model",
        ),
        ({"peft__method": "prompt_tuning"}, "peft.method", "PEFT repeats them where"),
        (
            {"peft__bias": "all", "grpo__beta": 0.04},
            "peft.bias",
            "so the reference would be trained too",
        ),
        (
            {"training__per_device_train_batch_size": 8192},
            "training.per_device_train_batch_size",
            "there would be no step",
        ),
    ],
)
def test_each_mistake_is_one_sentence(changes: dict[str, Any], field: str, words: str) -> None:
    found = [problem for problem in errors(**changes) if problem.field == field]
    assert any(words in problem.why for problem in found), errors(**changes)


def test_what_check_proposes_is_accepted() -> None:
    (problem,) = errors(grpo__num_generations=5)
    assert nbft.make_plan(config_of(grpo__num_generations=5).apply(problem.changes)).errors == []
    (problem,) = errors(grpo__rewards=[])
    fixed = nbft.make_plan(config_of(grpo__rewards=[]).apply(problem.changes))
    assert fixed.errors == []


def test_plain_text_has_no_prompts() -> None:
    rows = [{"text": "Only text."}] * 8
    with pytest.raises(DataError, match=r"the rows hold plain text; .* needs prompts to answer"):
        nbft.examples(config_of(data={"train": {"datasets": [{"rows": rows}]}}))


def test_prompts_alone_are_enough_and_other_methods_refuse_them() -> None:
    rows = [{"prompt": "Say it."}] * 8
    examples = nbft.examples(config_of(data={"train": {"datasets": [{"rows": rows}]}}))
    assert examples[0].prompt == "Say it."
    assert examples[0].kind == "prompt"
    with pytest.raises(DataError):
        nbft.examples(nbft.Config(data={"rows": rows}))
    templated = {"train": {"datasets": [{"rows": [{"q": "a"}] * 8, "prompt_template": "Q {q}\n"}]}}
    assert nbft.examples(config_of(data=templated))[0].prompt == "Q a\n"


def test_the_plan_counts_prompts_answers_and_time() -> None:
    plan = nbft.make_plan(config_of(training__max_steps=-1, training__num_train_epochs=1.0))
    # 900 rows (100 of 1,000 are held out), 32 answers a step: 4 prompts.
    assert plan.total_steps == plan.train_rows // 4
    longer = nbft.make_plan(
        config_of(
            training__max_steps=-1, training__num_train_epochs=1.0, grpo__max_completion_length=64
        )
    )
    assert longer.memory_bytes > plan.memory_bytes
    if plan.seconds is not None:  # on a CPU
        assert longer.seconds > 1.5 * plan.seconds
    assert any("answers of 16 tokens each" in remark for remark in plan.remarks)


def test_a_second_model_is_counted_where_there_is_one() -> None:
    full = {"peft__method": "full", "training__learning_rate": 2e-5}
    without = nbft.make_plan(config_of(**full)).memory_parts
    with_copy = nbft.make_plan(config_of(**full, grpo__beta=0.1)).memory_parts
    assert with_copy["reference"] > 0
    assert "reference" not in without
    assert "reference" not in nbft.make_plan(config_of(grpo__beta=0.1)).memory_parts
