"""The shares that are dropped, and the mathematics of dropping them."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from nbft.models.dropout import decoder_layers, set_dropout, set_warming_dropout


@pytest.fixture
def llama():
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(vocab_size=50, num_hidden_layers=4, **shape)).train()


def test_hidden_states_keep_their_mean_and_lose_their_share(llama):
    set_dropout(llama, None, 0.25)
    part = llama.model.layers[0].mlp
    x = torch.randn(4, 100, 32)
    whole = part.eval()(x)
    dropped = part.train()(x)
    kept = dropped != 0
    assert 1 - kept.float().mean() == pytest.approx(0.25, abs=0.02)
    assert torch.allclose(dropped[kept], whole[kept] / 0.75, atol=1e-6)


def test_attention_weights_are_dropped_only_in_training(llama):
    ids = torch.arange(20)[None]
    set_dropout(llama, 0.5, None)
    first, second = llama(ids).logits, llama(ids).logits
    assert not torch.equal(first, second)
    llama.eval()
    assert torch.equal(llama(ids).logits, llama(ids).logits)
    assert {layer.self_attn.attention_dropout for layer in llama.model.layers} == {0.5}


def test_setting_again_replaces_and_0_is_none(llama):
    ids = torch.arange(20)[None]
    exact = llama.eval()(ids).logits
    set_dropout(llama, 0.5, 0.5)
    set_dropout(llama, 0.0, 0.0)
    assert torch.equal(llama.train()(ids).logits, exact)
    assert len(llama.model.layers[0].mlp._forward_hooks) == 1


@pytest.mark.parametrize(
    ("step", "steps", "expected"),
    [
        (0, 10, [0, 0, 0, 0]),
        (5, 10, [0, 0.05, 0.1, 0.15]),
        (10, 10, [0, 0.1, 0.2, 0.3]),
        (99, 10, [0, 0.1, 0.2, 0.3]),
        (0, 0, [0, 0.1, 0.2, 0.3]),
    ],
)
def test_the_warm_up_rises_in_steps_and_layers(llama, step, steps, expected):
    set_warming_dropout(llama, 0.4, 0.2, step, steps)
    layers = llama.model.layers
    assert [layer.self_attn.attention_dropout for layer in layers] == pytest.approx(expected)
    half = [share / 2 for share in expected]
    assert [layer.mlp.result_dropout for layer in layers] == pytest.approx(half)
    assert [layer.self_attn.result_dropout for layer in layers] == pytest.approx(half)


def test_a_model_with_dropout_of_its_own_keeps_its_layers():
    model = GPT2LMHeadModel(GPT2Config(n_layer=2, n_head=2, n_embd=32, vocab_size=50))
    set_dropout(model, 0.3, 0.2)
    layer = decoder_layers(model)[0]
    assert layer.attn.attn_dropout.p == 0.3
    assert layer.attn.resid_dropout.p == 0.2
    assert not layer.attn._forward_hooks
    assert layer.mlp.dropout.p == 0.2
    assert not layer.mlp._forward_hooks


def test_a_model_without_such_layers_is_said():
    with pytest.raises(ValueError, match="no dropout that could be set"):
        set_dropout(torch.nn.Sequential(torch.nn.Linear(2, 2)), None, 0.1)


def test_gradient_checkpointing_draws_the_same_twice(llama):
    set_dropout(llama, 0.3, 0.3)
    ids = torch.arange(20)[None]
    gradients = []
    for on in (False, True):
        if on:
            llama.gradient_checkpointing_enable({"use_reentrant": False})
        llama.zero_grad()
        torch.manual_seed(1)
        llama(ids, labels=ids).loss.backward()
        gradients.append(llama.model.layers[1].mlp.up_proj.weight.grad.clone())
    assert torch.allclose(*gradients, atol=1e-7)
