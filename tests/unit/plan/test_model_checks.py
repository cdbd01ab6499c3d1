"""One sentence for each setting of model, quantization and peft that cannot be done."""

import json

import pytest
import safetensors.torch
import torch

from nbft.config import Config
from nbft.methods import method_of
from nbft.plan import model_checks
from nbft.plan.model_checks import model_problems, model_remarks
from nbft.plan.plan import make_plan

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


def test_a_template_file_that_is_missing_or_wrong_is_found_before_the_run(tmp_path):
    (tmp_path / "torn.jinja").write_text("one\n{% for %}")
    (tmp_path / "good.jinja").write_text("{{ messages }}")

    def found(name):
        config = Config(model={"chat_template_path": name})
        return [
            str(problem)
            for problem in make_plan(config, folder=tmp_path).problems
            if problem.field == "model.chat_template_path"
        ]

    (torn,), (missing,) = found("torn.jinja"), found("none.jinja")
    assert torn.startswith("model.chat_template_path='torn.jinja': line 2: is not valid Jinja (")
    assert "cannot be read: no such file or directory. Name a file with a Jinja" in missing
    assert found("good.jinja") == []


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
    (adapter / "adapter_model.safetensors").touch()
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


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "{tmp}/nothing",
            "is neither a folder with an adapter nor a name on the hub (owner/name).",
        ),
        ("adapter", "is neither a folder with an adapter nor a name on the hub (owner/name)."),
        ("{tmp}", "holds no adapter_config.json."),
        ("{tmp}/torn", "has an adapter_config.json that is no JSON object."),
        ("{tmp}/bare", "holds no weights: there is no adapter_model.safetensors."),
    ],
)
def test_an_adapter_that_is_none_is_refused_by_its_own_field(tmp_path, tiny_model, name, words):
    for folder, text in (("torn", "{"), ("bare", '{"peft_type": "LORA"}')):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "adapter_config.json").write_text(text)
    asked = name.format(tmp=tmp_path)
    (one,) = said(model__model_name=str(tiny_model), model__adapter_name_or_path=asked)
    assert one.startswith("model.adapter_name_or_path=")
    assert words in one
    assert said(model__model_name=str(tiny_model), model__adapter_name_or_path="a/b") == []


def test_an_adapter_of_another_model_is_refused(tmp_path, tiny_model):
    def adapter(layer, d_in, d_out):
        folder = tmp_path / f"{layer}-{d_in}-{d_out}"
        folder.mkdir()
        about = {"peft_type": "LORA", "base_model_name_or_path": "them/theirs"}
        (folder / "adapter_config.json").write_text(json.dumps(about))
        name = f"base_model.model.model.layers.0.self_attn.{layer}"
        tensors = {
            f"{name}.lora_A.weight": torch.zeros(4, d_in),
            f"{name}.lora_B.weight": torch.zeros(d_out, 4),
        }
        safetensors.torch.save_file(tensors, folder / "adapter_model.safetensors")
        return said(model__model_name=str(tiny_model), model__adapter_name_or_path=str(folder))

    assert adapter("q_proj", 64, 64) == []
    for (layer, d_in, d_out), words in (
        (("q_proj", 128, 64), "q_proj has 64 inputs there and 128 in the adapter."),
        (("k_proj", 64, 64), "k_proj has 32 outputs there and 64 in the adapter."),
        (("c_attn", 64, 64), "c_attn, which the model lacks."),
    ):
        (one,) = adapter(layer, d_in, d_out)
        assert one.startswith("model.adapter_name_or_path=")
        assert words in one
        assert one.endswith("It was made for them/theirs.")


def test_an_adapter_on_tied_embeddings_is_not_gone_on_with(tmp_path, tiny_model):
    about = {"peft_type": "LORA", "target_modules": ["q_proj", "lm_head"]}
    (tmp_path / "adapter_config.json").write_text(json.dumps(about))
    (tmp_path / "adapter_model.safetensors").touch()
    changes = {"model__model_name": str(tiny_model), "training__method": "base"}
    (one,) = said(model__adapter_name_or_path=str(tmp_path), **changes)
    assert "would put an adapter on lm_head, which shares its weights with embed_tokens" in one


def test_sft_refuses_an_adapter_on_the_head():
    for targets in (["all-linear", "lm_head"], r".*\.q_proj|lm_head"):
        found = said(peft__target_modules=targets)
        (one,) = [text for text in found if "SFTTrainer reads without it" in text]
        assert one.startswith("peft.target_modules=")
    assert not any("SFTTrainer" in text for text in said(peft__modules_to_save=["lm_head"]))


def test_rows_longer_than_the_model_reads_get_its_length(tiny_model):
    config = Config(model={"model_name": str(tiny_model)})
    assert "data.max_length" not in {
        problem.field for problem in model_problems(config, on(config))
    }
    longer = config.apply({"data.max_length": 100_000})
    (problem,) = (p for p in model_problems(longer, on(longer)) if p.field == "data.max_length")
    assert str(problem) == (
        "data.max_length=100000: is more than the 1,024 tokens that this model reads at once. Use 1024."
    )
    assert (problem.level, problem.changes) == ("warning", {"data.max_length": 1024})
