"""How often each part runs again in the backward pass, and that nothing else changes."""

import copy

import pytest
import torch
from transformers import AutoModelForCausalLM
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from nbft.errors import ModelError
from nbft.training import recompute
from nbft.training.recompute import use_granularity


def run(folder, granularity, monkeypatch, **arguments):
    """Train one step; return how often MLPs, attention and its core ran, and the gradient."""
    counts = {"mlp": 0, "attention": 0, "core": 0}
    sdpa = ALL_ATTENTION_FUNCTIONS["sdpa"]

    def counted(name, forward):
        def wrapped(*args, **kwargs):
            counts[name] += 1
            return forward(*args, **kwargs)

        return wrapped

    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._local_mapping, "sdpa", counted("core", sdpa))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).train()
    for layer in model.model.layers:
        layer.mlp.forward = counted("mlp", layer.mlp.forward)
        layer.self_attn.forward = counted("attention", layer.self_attn.forward)
    if granularity == "full":
        model.gradient_checkpointing_enable({"use_reentrant": False})
    elif granularity:
        use_granularity(model, granularity, arguments)
    ids = torch.arange(12).view(2, 6)
    model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    return counts, model.model.layers[0].mlp.up_proj.weight.grad


@pytest.mark.parametrize(
    ("granularity", "expected"),
    [
        (None, {"mlp": 2, "attention": 2, "core": 2}),
        ("full", {"mlp": 4, "attention": 4, "core": 4}),
        ("full_attn", {"mlp": 2, "attention": 4, "core": 4}),
        ("core_attn", {"mlp": 2, "attention": 2, "core": 4}),
    ],
)
def test_what_is_computed_again(tiny_model, monkeypatch, granularity, expected):
    """The tiny model has two layers."""
    _, usual = run(tiny_model, None, monkeypatch)
    counts, gradient = run(tiny_model, granularity, monkeypatch)
    assert counts == expected
    assert torch.allclose(gradient, usual, atol=1e-7)


def test_the_reentrant_variant(tiny_model, monkeypatch):
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).train()
    use_granularity(model, "full_attn", {"use_reentrant": True})
    model.enable_input_require_grads()
    ids = torch.arange(12).view(2, 6)
    model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    assert model.model.layers[0].self_attn.q_proj.weight.grad is not None


def test_nothing_runs_again_when_answering(tiny_model, monkeypatch):
    model = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    calls = []
    monkeypatch.setattr(recompute, "checkpoint", lambda *_, **__: calls.append(1))
    use_granularity(model, "full_attn", {})
    with torch.no_grad():
        model(input_ids=torch.arange(6)[None])
    assert calls == []


@pytest.mark.parametrize("arguments", [{}, {"use_reentrant": True}], ids=str)
@pytest.mark.parametrize("granularity", ["full_attn", "core_attn"])
def test_a_copy_is_a_model_of_its_own(tiny_model, granularity, arguments):
    """It computes, again too, with its own weights, and its gradients are its own."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).train()
    model.enable_input_require_grads()  # what the reentrant variant needs
    use_granularity(model, granularity, arguments)
    attention = type(model.model.layers[0].self_attn)
    ids = torch.arange(12).view(2, 6)
    before = model(input_ids=ids, use_cache=False).logits
    other = copy.deepcopy(model)
    assert torch.equal(other(input_ids=ids, use_cache=False).logits, before)
    with torch.no_grad():
        for layer in other.model.layers:
            assert type(layer.self_attn) is attention
            layer.self_attn.o_proj.weight.zero_()
    assert torch.equal(model(input_ids=ids, use_cache=False).logits, before)
    plain = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).train()
    plain.load_state_dict(other.state_dict())
    for one in (other, plain):
        one(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    assert all(p.grad is None for p in model.parameters())
    for ours, theirs in zip(other.parameters(), plain.parameters(), strict=True):
        assert torch.equal(ours.grad, theirs.grad)


def test_names_and_classes_stay(tiny_model):
    """PEFT, checkpoints and optimisers know modules by their names, and libraries by their class."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    names = [name for name, _ in model.named_modules()]
    kind = type(model.model.layers[0].self_attn)
    use_granularity(model, "full_attn", {})
    assert [name for name, _ in model.named_modules()] == names
    assert isinstance(model.model.layers[0].self_attn, kind)
    assert not any("forward" in vars(module) for module in model.modules())


def test_a_model_without_attention():
    with pytest.raises(ModelError, match="finds no attention"):
        use_granularity(torch.nn.Linear(2, 2), "full_attn", {})
