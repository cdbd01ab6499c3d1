"""What is offered when memory ran out: less memory each, in the order of what changes least."""

import importlib.util

import pytest

from nbft.config import Config
from nbft.plan import fixes

ROWS = [{"prompt": f"Add {n}.\n", "completion": str(n)} for n in range(40)]


@pytest.fixture
def config(tiny_model):
    return Config(model={"model_name": str(tiny_model), "dtype": "float32"}, data={"rows": ROWS})


def offered(config):
    found = fixes.memory_fixes(config)
    assert all(fix.memory_bytes < config_bytes(config) for fix in found)
    return [fix.words for fix in found]


def config_bytes(config):
    return fixes.make_plan(config).memory_bytes


@pytest.mark.parametrize("is_there", [True, False])
def test_quantisation_is_offered_where_its_package_is(config, monkeypatch, is_there):
    found = importlib.util.find_spec

    def find_spec(name):
        return is_there or None if name == "bitsandbytes" else found(name)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    assert ("4-bit weights (QLoRA)" in offered(config)) == is_there
    quantised = config.apply({"quantization.load_in_4bit": True})
    assert "4-bit weights (QLoRA)" not in offered(quantised)


def test_full_training_is_offered_an_adapter_and_what_is_set_is_not_offered(config):
    full = config.apply({"peft.method": "full", "memory.gradient_checkpointing": True})
    words = offered(full)
    assert words[0] == "batch 2 with accumulation 8, the same effective batch"
    assert words[-1] == "LoRA instead of full training, at a learning rate of 0.0002"
    assert "gradient checkpointing, 20 to 30% slower" not in words
    lora = fixes.memory_fixes(full)[-1].changes
    assert lora == {"peft.method": "lora", "training.learning_rate": 2e-4}


def test_a_high_rank_is_offered_a_lower_one_with_the_same_scaling(config):
    assert not any("rank" in words for words in offered(config))
    high = config.apply({"peft.r": 256, "peft.lora_alpha": 512})
    (fix,) = [fix for fix in fixes.memory_fixes(high) if "rank 16" in fix.words]
    assert fix.changes == {"peft.r": 16, "peft.lora_alpha": 32}
    written = [{"words": fix.words, "changes": fix.changes, "memory_bytes": 1}]
    assert len(fixes.read_fixes(written, "cpu")) == 1
