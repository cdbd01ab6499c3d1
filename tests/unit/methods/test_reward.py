"""Reward models in the plan: what is refused before a model is loaded, and what is said."""

import json

import pytest

import nbft
from nbft.methods import method_of
from nbft.models.classifiers import scoring_obstacle
from nbft.plan.memory import memory_parts, model_shape
from nbft.plan.step_time import training_seconds

ROWS = [{"prompt": f"Why {n}?\n", "chosen": "So.", "rejected": "No."} for n in range(20)]


def make(model=None, rows=ROWS, **changes):
    config = nbft.Config(
        model={"model_name": str(model)} if model else {},
        data={"rows": rows},
        training={"method": "reward", "learning_rate": 1e-4},
    )
    return config.apply({name.replace("__", "."): value for name, value in changes.items()})


def errors(config):
    return {problem.field: problem for problem in nbft.make_plan(config).errors}


def test_pairs_can_be_trained_on(tiny_model):
    assert errors(make(tiny_model)) == {}


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("evaluation.sample_prompts", ["Hi."], "a reward model writes none"),
        ("evaluation.metrics", ["rouge"], "a reward model writes none"),
        ("evaluation.score_every_n_steps", 5, "a reward model writes none"),
        ("evaluation.do_sample", True, "a reward model writes none"),
        ("memory.use_fused_head_and_loss_fn", True, "gives one score"),
        ("data.completion_only_loss", False, "as a whole"),
        ("data.packing", True, "the two answers of a pair belong together"),
        ("model.auto_class_name", "AutoModelForImageTextToText", "gives no score"),
        ("peft.method", "prompt_tuning", "virtual tokens"),
        ("grpo.beta", 0.1, "is not used"),
    ],
)
def test_what_a_reward_model_cannot_do_is_refused(tiny_model, field, value, why):
    config = make(tiny_model).apply({field: value})
    problem = errors(config)[field]
    assert why in problem.why
    if problem.changes and field != "grpo.beta":
        assert field not in errors(config.apply(problem.changes))


def described(folder, **about):
    folder.mkdir()
    sizes = {
        "vocab_size": 300,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
    }
    (folder / "config.json").write_text(json.dumps({**sizes, **about}), encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("about", "why"),
    [
        (
            {"model_type": "granite", "architectures": ["GraniteForCausalLM"]},
            "transformers has no class for sequence classification with granite models",
        ),
        (
            {"model_type": "bert", "architectures": ["BertForMaskedLM"]},
            "BertForSequenceClassification does not read its score at the last token",
        ),
        (
            {"model_type": "llama", "architectures": ["LlamaForSequenceClassification"]},
            "sorts texts into 2 classes",
        ),
    ],
)
def test_a_model_that_cannot_give_one_score_is_refused(tmp_path, about, why):
    problem = errors(make(described(tmp_path / "model", **about)))["model.model_name"]
    assert why in problem.why
    assert str(problem).count(". ") <= 2


def test_the_classes_of_transformers_are_found_without_it():
    from nbft.decisions import _TESTED

    without = [kind for kind in _TESTED if scoring_obstacle(kind)]
    assert without == ["granite"]
    assert scoring_obstacle("gpt2") == ""


def test_the_list_is_that_of_transformers():
    from transformers.models.auto.modeling_auto import (
        MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES as LISTED,
    )

    from nbft.models.classifiers import _classes

    assert _classes() == dict(LISTED)


@pytest.mark.parametrize("method", ["sft", "reward"])
def test_an_adapter_of_the_other_kind_is_refused(tiny_model, tmp_path, method):
    folder = tmp_path / "adapter"
    folder.mkdir()
    kind = "CAUSAL_LM" if method == "reward" else "SEQ_CLS"
    about = {"peft_type": "LORA", "task_type": kind, "base_model_name_or_path": str(tiny_model)}
    (folder / "adapter_config.json").write_text(json.dumps(about), encoding="utf-8")
    (folder / "adapter_model.safetensors").write_bytes(b"")
    config = make(tiny_model, training__method=method, model__adapter_name_or_path=str(folder))
    why = errors(config)["model.adapter_name_or_path"].why
    assert ("without the head" if method == "reward" else "scores answers and writes none") in why


def test_the_head_is_counted_and_logits_are_not(tiny_model):
    shape = model_shape(tiny_model)
    config = make(tiny_model, peft__r=4)
    own = method_of(config).with_head(shape)
    assert own.parameters == shape.parameters + shape.hidden_size  # the head of logits is tied
    assert own.vocab_size == shape.vocab_size
    plan = nbft.make_plan(config)
    dpo = nbft.make_plan(make(tiny_model, peft__r=4, training__method="dpo"))
    assert plan.trainable_parameters == dpo.trainable_parameters + shape.hidden_size
    assert plan.total_parameters == own.parameters
    assert dpo.memory_parts["head"] > 0
    assert "head" not in plan.memory_parts
    assert plan.memory_parts == memory_parts(config, own, plan.lengths_tokens, plan.decisions)
    seconds = [
        training_seconds(
            one.config, shape, one.decisions, tokens=9999, steps=9, lengths=one.lengths_tokens
        )
        for one in (plan, dpo)
    ]
    assert seconds[0] < 0.9 * seconds[1]


def test_what_it_trains_is_said(tiny_model):
    rows = [{**row, "margin": 2} if n % 2 else row for n, row in enumerate(ROWS)]
    remarks = " ".join(nbft.make_plan(make(tiny_model, rows)).remarks)
    assert "The head of the reward model (score) is new and random." in remarks
    assert "peft.modules_to_save: [score]" in remarks
    assert "task type is SEQ_CLS" in remarks
    assert "writes no answers" in remarks
    assert "in the loss: the chosen answer should score higher by as much, 2 on average" in remarks
    full = make(tiny_model, peft__method="full", training__learning_rate=1e-5)
    assert "modules_to_save" not in " ".join(nbft.make_plan(full).remarks)


def test_where_the_score_is_read_is_said_where_padding_ends_answers(tiny_model):
    config = make(tiny_model, model__pad_token="<|end|>")
    assert any(
        "The padding token <|end|> also ends each answer" in remark
        for remark in nbft.make_plan(config).remarks
    )


def test_the_learning_rate_is_that_of_reward_models(tiny_model):
    plan = nbft.make_plan(make(tiny_model, training__learning_rate=5e-6))
    (problem,) = (one for one in plan.warnings if one.field == "training.learning_rate")
    assert "a reward model with LoRA" in problem.why
    assert problem.changes["training.learning_rate"] == 1e-4
