"""Counts of parameters are PEFT's own, without loading the model."""

import dataclasses
import json

import pytest

from nbft.config import Config
from nbft.plan.memory import (
    MARGINS,
    PART_NAMES,
    adapter_parameters,
    margin_bytes,
    memory_bytes,
    memory_parts,
    model_shape,
    state_bytes,
    trainable_parameters,
    weight_bytes,
)

from .conftest import on


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


def test_a_llama_without_weights_is_counted_by_its_config(tiny_model, tmp_path):
    (tmp_path / "config.json").write_text((tiny_model / "config.json").read_text())
    by_config, by_files = model_shape(tmp_path), model_shape(tiny_model)
    for name in (field.name for field in dataclasses.fields(by_files)):
        ours, theirs = getattr(by_config, name), getattr(by_files, name)
        is_list = isinstance(theirs, tuple)
        assert (sorted(ours) if is_list else ours) == (sorted(theirs) if is_list else theirs), name


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
        return memory_bytes(config, shape, [100] * 50, on(config, dtype="float32"))

    usual = needed()
    assert needed(training__per_device_train_batch_size=64) > usual
    assert needed(peft__method="full") > usual
    assert needed(memory__gradient_checkpointing=True) < usual
    assert needed(optimizer__optim="sgd") < usual
    assert needed(data__max_length=8) < usual
    assert memory_bytes(Config(), shape, [100], on(Config(), dtype="bfloat16")) < usual


@pytest.mark.parametrize(
    ("how", "a_weight"),
    [
        ({"load_in_4bit": True}, 0.5 + 4 / 64),
        ({"load_in_4bit": True, "bnb_4bit_use_double_quant": True}, 0.5 + (1 + 4 / 256) / 64),
        ({"weight_quantize_algo": "fp8_linear"}, 1),
    ],
    ids=str,
)
def test_quantised_weights_by_hand(tiny_model, how, a_weight):
    shape = model_shape(tiny_model)
    # Two layers of q and o [64, 64], k and v [32, 64], gate, up and down [128, 64].
    linear = 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 128 * 64)
    rest = (shape.parameters - linear) * 4
    config = Config(quantization=how)
    assert weight_bytes(config, shape, "float32") == pytest.approx(linear * a_weight + rest, abs=2)
    assert weight_bytes(Config(), shape, "float64") == 8 * shape.parameters
    lengths = [100] * 50
    needs = (memory_bytes(c, shape, lengths, on(c, dtype="float32")) for c in (config, Config()))
    assert next(needs) < next(needs)


def test_ia3_and_frozen_layers_by_hand(tiny_model):
    shape = model_shape(tiny_model)
    # Outputs of q, k, v, o, gate, up, and the inputs of down.
    a_layer = 64 + 32 + 32 + 64 + 128 + 128 + 128
    assert trainable_parameters(config_of(method="ia3"), shape) == 2 * a_layer
    frozen = config_of(method="ia3").apply({"model.freeze_layers": ["layers.0", "*.1.mlp"]})
    assert trainable_parameters(frozen, shape) == 64 + 32 + 32 + 64
    most = Config(peft={"method": "full"}, model={"freeze_layers": ["layers", "embed_tokens"]})
    assert trainable_parameters(most, shape) == 64  # the last norm


def memory(config, shape, device="cuda"):
    return memory_bytes(config, shape, [100] * 40, on(config, device, "float32"))


def test_shares_of_attention_are_kept_on_a_cpu_and_not_by_flash_attention(tiny_model):
    shape = model_shape(tiny_model)
    used = Config(model={"model_name": str(tiny_model)}, data={"padding_free": True})
    unused = used.apply({"speed.row_attention": "off"})
    assert on(used, "cuda").uses("row_attention")
    assert memory(used, shape) < memory(unused, shape)  # which repeats keys and values
    assert memory(used, shape, "cpu") > memory(unused, shape, "cpu")


@pytest.mark.parametrize(
    ("optimizer", "bytes_each"),
    [
        ({}, 8),
        ({"moment_dtype": "bfloat16"}, 4),
        ({"optim": "adamw_8bit"}, 2),
        ({"optim": "paged_adamw_8bit"}, 2),
        ({"optim": "paged_adamw_32bit"}, 8),
        ({"optim": "adam"}, 8),
        ({"optim": "lion_32bit"}, 4),
        ({"optim": "rmsprop"}, 4),
        ({"optim": "sgd"}, 0),
        ({"optim": "sgd", "sgd_momentum": 0.9}, 4),
    ],
    ids=str,
)
def test_the_optimisers_state_by_hand(tiny_model, optimizer, bytes_each):
    shape = model_shape(tiny_model)
    full = Config(peft={"method": "full"}, optimizer=optimizer)
    assert state_bytes(full) == bytes_each
    without = full.apply({"optimizer.optim": "sgd", "optimizer.sgd_momentum": 0.0})
    grown = memory(full, shape) - memory(without, shape)
    assert grown == shape.parameters * bytes_each


@pytest.mark.parametrize("name", ["adamw_torch", "adam", "adafactor", "rmsprop"])
def test_the_optimisers_state_is_what_torch_keeps(name):
    import torch

    kind = {
        "adamw_torch": torch.optim.AdamW,
        "adam": torch.optim.Adam,
        "adafactor": torch.optim.Adafactor,
        "rmsprop": torch.optim.RMSprop,
    }[name]
    weight = torch.nn.Parameter(torch.ones(64, 64))
    made = kind([weight])
    weight.grad = torch.ones_like(weight)
    made.step()
    kept = sum(v.nbytes for v in made.state[weight].values() if v.numel() > 1)
    assert kept / weight.numel() <= state_bytes(Config(optimizer={"optim": name}))
    assert kept / weight.numel() >= 0.03


def test_an_offloaded_optimiser_leaves_its_state_off_the_device(tiny_model):
    shape = model_shape(tiny_model)
    full = Config(peft={"method": "full"})
    off = full.apply({"memory.offload_optimizer": True})
    assert memory(full, shape) - memory(off, shape) == 8 * shape.parameters
    assert memory(full, shape, "cpu") == memory(off, shape, "cpu")  # it lies there already


def parts(shape, device="cpu", dtype="float32", lengths=(100,) * 40, **changes):
    config = Config().apply({key.replace("__", "."): value for key, value in changes.items()})
    return memory_parts(config, shape, lengths, on(config, device, dtype))


OFF = {f"speed__{part}": "off" for part in ("row_attention", "label_head", "fused_lora")}


def test_what_is_computed_again_by_hand(tiny_model):
    shape = model_shape(tiny_model)
    hidden, inner, layers, heads, keys = 64, 128, 2, 4, 32
    assert (shape.num_heads, shape.query_width, shape.key_width) == (heads, 64, keys)
    # PEFT's layers in float32, rows padded, torch's attention: norms, q k v (keys and values once
    # for each head) and the result, the inputs of the projections, the gate's three factors.
    norms, core = 2 * 4 * hidden, 4 * 4 * hidden
    attention, feed_forward = core + 4 * 2 * hidden, 4 * (hidden + inner) + 3 * 4 * inner
    a_layer, between = norms + attention + feed_forward, 4 * hidden
    kept = {
        None: layers * a_layer + between,
        "full": a_layer + layers * between,
        "full_attn": layers * (a_layer - attention + between) + attention,
        "core_attn": layers * (a_layer - core + between) + core,
    }
    for how, bytes_kept in kept.items():
        changes = {"data__padding_free": False, "speed__lean_norm": "off"} | OFF
        if how:
            changes |= {
                "memory__gradient_checkpointing": True,
                "memory__recompute_granularity": how,
            }
        assert parts(shape, **changes)["activations"] == 4 * 100 * bytes_kept


def test_the_parts_make_the_whole(tiny_model):
    shape = model_shape(tiny_model)
    config = Config()
    found = parts(shape)
    decisions = on(config, dtype="float32")
    assert sum(found.values()) == memory_bytes(config, shape, [100] * 40, decisions)
    assert list(found) == [name for name in MARGINS if name in found]
    assert found["weights"] == 4 * shape.parameters
    assert found["adapter"] == found["gradients"] == found["optimizer"] // 2
    assert 0 < margin_bytes(found) < sum(found.values())
    assert PART_NAMES.keys() == MARGINS.keys()


def test_autocast_keeps_a_copy_of_every_matrix(tiny_model):
    shape = model_shape(tiny_model)
    full = {
        "peft__method": "full",
        "training__per_device_train_batch_size": 16,
        "training__gradient_accumulation_steps": 1,
    }
    mixed = parts(shape, precision__mixed_precision="bf16", **full)
    plain = parts(shape, precision__mixed_precision="no", **full)
    linear = 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 128 * 64)
    assert mixed["autocast"] == 2 * (linear + shape.vocab_size * 64)
    assert "autocast" not in plain
    assert mixed["activations"] < plain["activations"]


def test_all_gradients_exist_when_activations_are_gone(tiny_model):
    shape = model_shape(tiny_model)
    once = {"peft__method": "full", "training__gradient_accumulation_steps": 1}
    few = parts(shape, lengths=[1], **once, training__per_device_train_batch_size=1)
    assert few["gradients"] == 4 * shape.parameters
    many = parts(shape, **once, training__per_device_train_batch_size=64)
    assert "gradients" not in many  # the loss is computed before the first of them
    twice = once | {"training__gradient_accumulation_steps": 2}
    assert parts(shape, **twice)["gradients"] == 4 * shape.parameters


def test_answers_keep_keys_and_values(tiny_model):
    shape = model_shape(tiny_model)
    changes = {"evaluation__sample_prompts": ["a"] * 500, "evaluation__sample_count": 0}
    found = parts(shape, evaluation__sample_max_new_tokens=900, **changes)
    assert found["cache"] == 500 * (100 + 900) * 2 * 32 * 2 * 4
    assert "activations" not in found


def test_a_config_without_weights_has_an_assumed_shape(tiny_model, tmp_path):
    about = json.loads((tiny_model / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(about | {"model_type": "another"}))
    shape, real = model_shape(tmp_path), model_shape(tiny_model)
    assert (shape.is_assumed, real.is_assumed) == (True, False)
    assert shape.parameters == real.parameters
    assert sorted(shape.layers) == sorted(real.layers)
    assert trainable_parameters(Config(), shape) == trainable_parameters(Config(), real)
