"""Counts of parameters are PEFT's own, without loading the model."""

import json

import pytest

from nbft.config import Config
from nbft.plan.memory import (
    adapter_parameters,
    memory_bytes,
    model_shape,
    trainable_parameters,
    training_seconds,
)


def config_of(**peft):
    return Config(peft=peft)


@pytest.mark.parametrize(
    "peft_settings",
    [
        {},
        {"r": 3, "target_modules": ["q_proj", "v_proj"]},
        {"r": 8, "target_modules": ["self_attn.q_proj"]},
        {"r": 8, "target_modules": ["model.layers.1.mlp.up_proj"]},
        {"r": 4, "use_dora": True},
        {"r": 4, "modules_to_save": ["embed_tokens"]},
        {"r": 4, "use_rslora": True, "target_modules": ["down_proj"]},
    ],
    ids=str,
)
def test_the_adapter_has_as_many_parameters_as_pefts(tiny_model, peft_settings):
    import peft
    from transformers import AutoModelForCausalLM

    from nbft.interop.huggingface import lora_arguments

    config = config_of(**peft_settings)
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    shape = model_shape(tiny_model)
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    wrapped = peft.get_peft_model(model, peft.LoraConfig(**lora_arguments(config)))
    theirs, _ = wrapped.get_nb_trainable_parameters()
    assert trainable_parameters(config, shape) == theirs


def test_full_training_trains_everything(tiny_model):
    shape = model_shape(tiny_model)
    assert trainable_parameters(config_of(method="full"), shape) == shape.parameters


def test_a_head_that_is_the_embeddings_counts_once(tiny_model, tmp_path):
    import safetensors.torch

    tensors = safetensors.torch.load_file(tiny_model / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
    safetensors.torch.save_file(tensors, tmp_path / "model.safetensors")
    about = json.loads((tiny_model / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(about))
    assert model_shape(tmp_path).parameters == model_shape(tiny_model).parameters


def test_a_count_by_hand():
    assert adapter_parameters([(10, 20), (5, 5)], r=2) == 2 * 30 + 2 * 10


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"hidden_size": 1}', "null"])
def test_a_folder_that_says_nothing_has_no_shape(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    assert model_shape(tmp_path) is None
    (tmp_path / "model.safetensors").write_bytes(b"broken")
    model_shape.cache_clear()
    assert model_shape(tmp_path) is None


def test_memory_grows_with_what_takes_memory(tiny_model):
    shape = model_shape(tiny_model)

    def needed(**changes):
        config = Config().apply({k.replace("__", "."): v for k, v in changes.items()})
        return memory_bytes(config, shape, [100] * 50, "cpu", "float32")

    usual = needed()
    assert needed(training__per_device_train_batch_size=64) > usual
    assert needed(peft__method="full") > usual
    assert needed(memory__gradient_checkpointing=True) < usual
    assert needed(optimizer__optim="sgd") < usual
    assert needed(data__max_length=8) < usual
    assert memory_bytes(Config(), shape, [100], "cpu", "bfloat16") < usual


def test_the_time_is_known_on_a_cpu_only(tiny_model):
    shape = model_shape(tiny_model)
    assert training_seconds(Config(), shape, 10**6, "cuda", "bfloat16", 2) is None
    one = training_seconds(Config(), shape, 10**9, "cpu", "float32", 1)
    assert one > training_seconds(Config(), shape, 10**9, "cpu", "float32", 4)
