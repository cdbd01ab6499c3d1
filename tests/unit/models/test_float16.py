"""Models with float16 weights compute as with float32 ones, but for the rounding of products."""

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM

from nbft.models.float16 import sum_in_float32

IDS = torch.arange(3, 15)[None]


@pytest.fixture
def models(tiny_model):
    """Return the tiny model, one with float16 weights, and one that also sums in float32."""
    whole = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    half = copy.deepcopy(whole).half()
    summed = copy.deepcopy(half)
    sum_in_float32(summed)
    return whole, half, summed


def test_the_results_are_those_of_float32(models):
    whole, _, summed = models
    assert {p.dtype for p in summed.parameters()} == {torch.float16}
    with torch.no_grad():
        wanted, found = whole(IDS).logits, summed(IDS).logits.float()
    torch.testing.assert_close(found, wanted, rtol=2e-3, atol=2e-3)


def test_sums_of_layers_do_not_overflow(models):
    for model in models:
        model.get_input_embeddings().weight.data.mul_(2e6).clamp_(-60_000, 60_000)
        for layer in model.model.layers:
            layer.mlp.down_proj.weight.data.mul_(1.5e6).clamp_(-60_000, 60_000)
    whole, half, summed = models
    with torch.no_grad():
        assert whole(IDS).logits.isfinite().all()
        assert not half(IDS).logits.isfinite().all()
        states = summed(IDS, output_hidden_states=True).hidden_states
    assert all(state.isfinite().all() for state in states)
    assert max(float(state.abs().max()) for state in states) > 65_504


@pytest.mark.parametrize("is_placed", [False, True])
def test_it_answers(models, is_placed):
    whole, summed, _ = models
    if is_placed:  # as accelerate does
        summed.forward = summed.forward
    sum_in_float32(summed)
    asked = {"input_ids": IDS, "max_new_tokens": 5, "do_sample": False}
    assert summed.generate(**asked).tolist() == whole.generate(**asked).tolist()
