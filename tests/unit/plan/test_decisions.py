"""What is decided without the model is decided again when it is there."""

import json

import pytest

from nbft import registry
from nbft.config import Config
from nbft.decisions import PARTS, Decisions, decide
from nbft.plan.checks import check


def test_nothing_is_final_before_the_model_is_there(tmp_path):
    asked = {"data.packing": True, "memory.use_attn_mask_start_row_indices": True}
    config = Config(model={"model_name": "somebody/model"}).apply(asked)
    before = decide(config)
    assert not before.is_final
    assert not before.uses("row_attention")
    about = {"model_type": "gemma2", "attn_logit_softcapping": 50.0}
    (tmp_path / "config.json").write_text(json.dumps(about), encoding="utf-8")
    after = decide(config, tmp_path)
    assert after.is_final
    assert after.parts["row_attention"].reason == "this model caps its attention scores"


def test_decisions_are_read_as_they_were_written():
    decisions = decide(Config())
    assert Decisions.from_dict(json.loads(json.dumps(decisions.to_dict()))) == decisions
    assert {*decisions.to_dict()["parts"]} == {*PARTS}
    for broken in (None, {}, {"device": 3}, {**decisions.to_dict(), "parts": {}}):
        assert Decisions.from_dict(broken) is None


ASKED = {"data.packing": True, "memory.use_attn_mask_start_row_indices": True}


@pytest.fixture
def folder(tmp_path):
    """Return a function that makes the folder of a model, or of an adapter."""

    def make(about, name="config.json"):
        path = tmp_path / str(about.get("model_type", "adapter"))
        path.mkdir()
        (path / name).write_text(json.dumps(about), encoding="utf-8")
        return path

    return make


@pytest.mark.parametrize(
    ("about", "reason"),
    [
        # Gemma 2 caps its scores by default; its file need not say so.
        ({"model_type": "gemma2"}, "not tested with gemma2 models"),
        ({"model_type": "gpt_oss"}, "not tested with gpt_oss models"),
        ({"model_type": "t5gemma", "decoder": {"attn_logit_softcapping": 50.0}}, "not tested with"),
        ({"model_type": "llama", "attn_logit_softcapping": 30.0}, "caps its attention scores"),
        ({"model_type": "gemma3_text", "use_bidirectional_attention": True}, "later tokens too"),
        ({"model_type": "qwen2", "is_causal": False}, "later tokens too"),
        ({"model_type": "llama", "attn_implementation": "eager"}, "attn_implementation is eager"),
    ],
)
def test_row_attention_that_was_asked_for_is_guarded_as_well(about, reason, folder):
    config = Config(model={"model_name": str(folder(about))}).apply(ASKED)
    decisions = decide(config)
    assert reason in decisions.parts["row_attention"].reason
    assert not decisions.uses("row_attention")
    said = [str(p) for p in check(config, decisions) if p.field.endswith("start_row_indices")]
    assert len(said) == 1
    assert f"is not used: {decisions.parts['row_attention'].reason}." in said[0]


def test_row_attention_that_was_asked_for_is_used_where_it_computes_the_same(folder):
    about = {"model_type": "mistral", "sliding_window": 8}
    config = Config(model={"model_name": str(folder(about))}).apply(ASKED)
    assert decide(config.apply({"speed.row_attention": "off"})).uses("row_attention")
    assert [p for p in check(config, decide(config)) if p.field.startswith("memory")] == []


def test_arguments_of_the_model_count_as_its_own(folder):
    config = Config(model={"model_name": str(folder({"model_type": "llama"}))})
    assert decide(config).padding_free
    for arguments in ({"attn_implementation": "eager"}, {"attn_logit_softcapping": 50.0}):
        other = config.apply({"model.model_init_kwargs": arguments})
        assert not decide(other).uses("row_attention")


def test_a_model_of_somebodys_own_is_not_taken_for_one_of_its_name(folder):
    path = folder({"model_type": "llama", "auto_map": {"AutoModelForCausalLM": "a.B"}})
    config = Config(model={"model_name": str(path)})
    assert decide(config).padding_free
    assert not decide(config.apply({"model.trust_remote_code": True})).padding_free

    @registry.models.register("llama")
    class Mine: ...

    try:
        own = config.apply({"model.model_type": "llama"})
        for asked in ({}, ASKED):
            decisions = decide(own.apply(asked))
            assert decisions.padding_free == bool(asked)
            assert not any(map(decisions.uses, ("row_attention", "label_head", "lean_norm")))
    finally:
        registry.models.unregister("llama")


@pytest.mark.parametrize(
    ("settings", "off"),
    [
        ({}, set()),
        ({"lora_dropout": 0.1}, {"fused_lora"}),
        ({"use_dora": True}, {"fused_lora"}),
        ({"bias": "all"}, {"fused_lora"}),
        ({"target_modules": ["q_proj", "lm_head"]}, {"label_head"}),
        ({"target_modules": r".*\.(q_proj|lm_head)"}, {"label_head"}),
        ({"modules_to_save": ["lm_head"]}, {"label_head"}),
    ],
)
def test_an_adapter_that_is_the_models_name_decides_by_its_own_settings(settings, off, folder):
    base = folder({"model_type": "llama"})
    about = {"peft_type": "LORA", "base_model_name_or_path": str(base), **settings}
    config = Config(model={"model_name": str(folder(about, "adapter_config.json"))})
    decisions, given = decide(config), decide(config, base)
    assert decisions == given
    assert {part for part in PARTS if not decisions.uses(part)} == off


def test_batches_of_a_collator_of_ones_own_are_not_said_to_be_free_of_padding(folder):
    config = Config(model={"model_name": str(folder({"model_type": "llama"}))})

    @registry.collators.register("mine")
    def collator(tokenizer): ...

    try:
        own = config.apply({"data.collate_fn": "mine"})
        assert not decide(own).padding_free
        assert decide(own.apply({"data.padding_free": True})).padding_free
    finally:
        registry.collators.unregister("mine")
