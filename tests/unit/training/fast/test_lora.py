"""A LoRA layer in one step computes what PEFT's own does, whatever weights it stands on."""

import copy

import peft
import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from nbft.training.fast.lora import FrozenLoraLinear, use_lean_adapters


@pytest.fixture
def gpt2():
    torch.manual_seed(0)
    size = {"n_embd": 32, "n_layer": 1, "n_head": 2, "vocab_size": 64, "n_positions": 32}
    no_dropout = dict.fromkeys(("attn_pdrop", "embd_pdrop", "resid_pdrop"), 0.0)
    shape = transformers.GPT2Config(**size, **no_dropout)
    return AutoModelForCausalLM.from_config(shape)


def loss_and_gradients(model):
    ids = torch.arange(1, 17)[None]
    model.zero_grad()
    loss = model.train()(input_ids=ids, labels=ids).loss
    loss.backward()
    return loss, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("target", ["c_attn", "c_proj", "lm_head"])
def test_transposed_weights_keep_the_way_of_the_library(gpt2, target):
    """GPT-2's layers hold their weights as [d_in, d_out], and PEFT gives them the same class."""
    model = peft.get_peft_model(gpt2, peft.LoraConfig(target_modules=[target], r=4))
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    lean = copy.deepcopy(model)
    use_lean_adapters(lean)
    used = [m for m in lean.modules() if isinstance(m, FrozenLoraLinear)]
    assert len(used) == (target == "lm_head")
    loss, gradients = loss_and_gradients(model)
    found, found_gradients = loss_and_gradients(lean)
    torch.testing.assert_close(found, loss)
    assert found_gradients.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(found_gradients[name], gradient, msg=name)
