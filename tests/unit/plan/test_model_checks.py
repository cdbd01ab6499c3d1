"""One sentence for each setting of model, quantization and peft that cannot be done."""

import json

import pytest

from nbft.config import Config
from nbft.methods import method_of
from nbft.plan import model_checks
from nbft.plan.model_checks import model_problems, model_remarks

from .conftest import on


def said(device="cpu", **changes):
    config = Config().apply({name.replace("__", "."): value for name, value in changes.items()})
    found = [*model_problems(config, on(config, device)), *method_of(config).problems(config)]
    return [str(problem) for problem in found]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"quantization__load_in_4bit": True, "peft__method": "full"},
            "quantization.load_in_4bit=True: freezes the weights, but peft.method=full would train",
        ),
        (
            {"quantization__weight_quantize_algo": "fp8_linear", "peft__method": "full"},
            "quantization.weight_quantize_algo='fp8_linear': freezes the weights",
        ),
        (
            {"quantization__load_in_4bit": True, "quantization__load_in_8bit": True},
            "a weight has either 4 or 8 bits.",
        ),
        (
            {
                "quantization__load_in_8bit": True,
                "quantization__weight_quantize_algo": "weight_only_int8",
            },
            "conflicts with quantization.load_in_8bit",
        ),
        (
            {"quantization__load_in_4bit": True, "model__load_pretrained_weights": False},
            "would freeze the random weights",
        ),
        (
            {"quantization__load_in_4bit": True, "peft__init_lora_weights": "pissa"},
            "peft.init_lora_weights='pissa': changes the weights of the base model, but they are",
        ),
        ({"peft__init_lora_weights": "orthogonal", "peft__r": 5}, "peft.r=5: is odd"),
        (
            {"peft__task_type": "SEQ_2_SEQ_LM"},
            "peft.task_type='SEQ_2_SEQ_LM': is for encoder-decoder models",
        ),
        (
            {
                "model__auto_class_name": "AutoModelForSeq2SeqLM",
                "memory__use_sparse_head_and_loss_fn": True,
            },
            "memory.use_sparse_head_and_loss_fn=True: shifts the labels, which an encoder-decoder",
        ),
        (
            {"model__auto_class_name": "AutoModelForSeq2SeqLM"},
            "training.method='sft': trains models that continue a text",
        ),
        (
            {"model__attn_implementation": "flash_attention_2"},
            "runs only on a GPU, and the run uses cpu. Use sdpa.",
        ),
        (
            {"model__use_liger_kernel": True},
            "runs only on a GPU, and the run uses cpu. Set it to false.",
        ),
        ({"model__chat_template": "chatlm"}, "Use chatml."),
        (
            {"model__chat_template": "chatml", "model__chat_template_path": "t.jinja"},
            "there can be only one template.",
        ),
        ({"peft__loraplus_lr_ratio": 4.0, "peft__method": "ia3"}, "is for LoRA's second matrix"),
        (
            {"peft__loraplus_lr_ratio": 4.0, "optimizer__optim": "adam"},
            "works with transformers' own optimisers only, not with optimizer.optim=adam",
        ),
        ({"peft__use_dora": True, "peft__method": "ia3"}, "is a variant of LoRA, not of IA3."),
        ({"model__dropout_warmup_steps": 5}, "has no effect: neither model.attention_dropout"),
        (
            {"model__use_cache": True, "memory__gradient_checkpointing": True},
            "is turned off during training by memory.gradient_checkpointing",
        ),
    ],
)
def test_what_does_not_go_together(changes, words):
    found = said(**changes)
    assert any(words in sentence for sentence in found), found


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"quantization__load_in_4bit": True, "quantization__bnb_4bit_use_double_quant": True},
        {"quantization__weight_quantize_algo": "fp8_linear"},
        {"peft__method": "ia3"},
        {"peft__use_rslora": True, "peft__loraplus_lr_ratio": 4.0, "peft__lora_alpha": 4},
        {"model__hidden_dropout": 0.1, "model__dropout_warmup_steps": 0},
    ],
    ids=str,
)
def test_what_does(changes):
    assert said(**changes) == []


def test_packages_and_devices_that_are_not_there(monkeypatch):
    monkeypatch.setattr(model_checks, "is_installed", lambda package: False)
    (one,) = said(quantization__load_in_8bit=True)
    assert "needs the package bitsandbytes, which is not installed." in one
    (one,) = said("cuda", model__attn_implementation="flash_attention_2")
    assert "needs the package flash-attn, which is not installed." in one
    monkeypatch.undo()
    (one,) = said("mps", quantization__load_in_8bit=True)
    assert one.startswith("compute.device='mps': does not support quantised layers")
    (one,) = said("mps", model__dtype="float64")
    assert one == "model.dtype='float64': is not available on mps. Use auto."


def test_frozen_layers_that_are_no_layers(tiny_model):
    (one,) = said(model__model_name=str(tiny_model), model__freeze_layers=["layer.0", "layers.0"])
    assert one.startswith("model.freeze_layers='layer.0': matches no layer of the model.")
    assert said(model__model_name=str(tiny_model), model__freeze_layers=["lm_head"]) == []


def test_an_adapter_is_gone_on_with_by_its_own_method(tmp_path, tiny_model):
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    about = {"peft_type": "IA3", "base_model_name_or_path": str(tiny_model)}
    (adapter / "adapter_config.json").write_text(json.dumps(about))
    (one,) = said(model__adapter_name_or_path=str(adapter))
    assert "was trained with ia3. Use ia3." in one
    assert said(model__adapter_name_or_path=str(adapter), peft__method="ia3") == []
    (one,) = said(model__adapter_name_or_path=str(tiny_model))
    assert "contains a model, not an adapter" in one


def test_what_settings_decide_for_themselves_is_said():
    plain, scaled = (
        Config(peft={"lora_alpha": -1, "r": 8}),
        Config(peft={"lora_alpha": -1, "use_rslora": True}),
    )
    assert model_remarks(plain) == ["peft.lora_alpha=-1 means twice the rank: 16."]
    assert model_remarks(scaled) == ["peft.lora_alpha=-1 means 4, because use_rslora is on."]
    assert model_remarks(Config()) == []
