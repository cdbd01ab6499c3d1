"""Losses and gradients are those of the whole logits; fewer logits exist at once."""

import copy
import inspect

import pytest
import torch
import transformers
from transformers import AutoModelForCausalLM

from nbft.training.fast import head
from nbft.training.fast.batches import Measured
from nbft.training.fast.head import use_loss_head

WAYS = [(True, False), (False, True), (True, True)]


def batch():
    torch.manual_seed(0)
    ids = torch.randint(3, 900, (3, 40))
    labels = ids.clone()
    labels[:, :25] = -100
    labels[1, 35:] = -100
    return {"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids)}


def reference(model, inputs):
    logits = model(input_ids=inputs["input_ids"]).logits[:, :-1]
    targets = inputs["labels"][:, 1:]
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), ignore_index=-100, reduction="sum"
    )


@pytest.mark.parametrize(("sparse", "fused"), WAYS)
@pytest.mark.parametrize("trains_head", [False, True])
def test_loss_and_gradients_are_those_of_the_whole_logits(tiny_model, sparse, fused, trains_head):
    inputs = batch()
    gradients, losses = [], []
    for own in (False, True):
        model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
        if not trains_head:
            model.get_output_embeddings().weight.requires_grad_(False)
        if own:
            use_loss_head(model, sparse=sparse, fused=fused)
            found = model(**inputs, fused_lm_head=True)
            loss = -found.log_probs.sum()
            is_trained = inputs["labels"][:, 1:] != -100
            assert torch.equal(found.label_mask, is_trained)
            assert not found.log_probs[~is_trained].any()
            assert not found.is_top1[~is_trained].any()
            mean = model.train()(**inputs).loss  # as transformers' Trainer asks
            assert mean.item() == pytest.approx(loss.item() / int(is_trained.sum()))
            model.zero_grad()
        else:
            loss = reference(model, inputs)
        loss.backward()
        losses.append(loss.item())
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)
    for name, expected in gradients[0].items():
        assert torch.allclose(gradients[1][name], expected, atol=1e-4), name


def places_of_the_head(model, inputs, **ways):
    """Return how many places go through the head's matrix at a time."""
    seen = []
    head = model.get_output_embeddings()
    handle = head.register_forward_hook(lambda _, __, out: seen.append(out.shape))
    use_loss_head(model, **ways)
    model(**inputs, fused_lm_head=True)
    handle.remove()
    return seen


def test_logits_exist_only_where_a_token_is_trained(tiny_model):
    model, inputs = AutoModelForCausalLM.from_pretrained(tiny_model), batch()
    learnt = int((inputs["labels"][:, 1:] != -100).sum())
    (shape,) = places_of_the_head(model, inputs, sparse=True, fused=False)
    assert shape == (learnt, model.config.vocab_size)
    assert learnt < inputs["input_ids"].numel()


def test_the_whole_logits_never_exist_when_fused(tiny_model):
    model, inputs = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32), batch()
    inputs = {name: value.repeat(8, 1) for name, value in inputs.items()}  # 960 places
    largest = []

    class Sizes(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out.shape[-1:] == (model.config.vocab_size,):
                largest.append(out.numel() // model.config.vocab_size)
            return out

    use_loss_head(model, sparse=False, fused=True)
    with Sizes():
        model(**inputs, fused_lm_head=True)
    assert 0 < max(largest) <= 256


@pytest.mark.parametrize(
    ("device", "vocabulary", "tokens"),
    [("cpu", 49_152, (256, 32)), ("meta", 128_256, (2092, 2092)), ("meta", 2**21, (256, 256))],
)
def test_a_gpu_takes_few_large_chunks(device, vocabulary, tokens):
    """A GiB of logits in float32 at a time; `meta` stands for a GPU."""
    assert head._chunks(torch.empty(vocabulary, 1, device=device)) == tokens


@pytest.mark.parametrize(("sparse", "fused"), WAYS)
def test_positions_of_the_batch_give_the_same(tiny_model, sparse, fused):
    model, inputs = AutoModelForCausalLM.from_pretrained(tiny_model), batch()
    use_loss_head(model, sparse=sparse, fused=fused)
    known = Measured(dict, targets=True)(inputs)
    assert len(known["trained_positions"]) == int((inputs["labels"][:, 1:] != -100).sum())
    found, expected = (model(**one, fused_lm_head=True) for one in (known, inputs))
    assert torch.equal(found.log_probs, expected.log_probs)
    assert torch.equal(found.is_top1, expected.is_top1)


def test_a_batch_says_how_long_its_rows_are():
    begins = torch.tensor([0, 3, 12, 16], dtype=torch.int32)
    made = Measured(dict, rows=True)({"cu_seq_lens_q": begins})
    assert made["row_lengths"] == [3, 9, 4]
    assert Measured(dict, rows=True, targets=True)({"input_ids": begins}).keys() == {"input_ids"}


def test_a_model_that_is_asked_for_no_loss_is_as_before(tiny_model):
    model, inputs = AutoModelForCausalLM.from_pretrained(tiny_model), batch()
    before = model(**inputs)
    use_loss_head(model, sparse=True, fused=True)
    model(**inputs, fused_lm_head=True)
    assert torch.equal(model(input_ids=inputs["input_ids"]).logits, before.logits)
    assert torch.equal(model.eval()(**inputs).loss, before.loss)


def test_a_copy_of_the_model_makes_its_own_loss(tiny_model):
    model, inputs = AutoModelForCausalLM.from_pretrained(tiny_model), batch()
    use_loss_head(model, sparse=True, fused=True)
    before = model(**inputs, fused_lm_head=True).log_probs
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(1.5)
    assert torch.equal(model(**inputs, fused_lm_head=True).log_probs, before)
    assert not torch.allclose(other(**inputs, fused_lm_head=True).log_probs, before)


def test_the_model_still_shows_which_arguments_it_takes(tiny_model):
    """`generate` reads them: without position_ids padded prompts would be answered wrongly."""
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    before = inspect.signature(model.forward)
    use_loss_head(model, sparse=True, fused=True)
    assert inspect.signature(model.forward) == before
    assert {"position_ids", "logits_to_keep"} <= {*before.parameters}


def test_padded_prompts_are_answered_as_before():
    torch.manual_seed(0)
    shape = transformers.GPT2Config(n_embd=32, n_layer=2, n_head=2, vocab_size=64, n_positions=64)
    model = AutoModelForCausalLM.from_config(shape).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(4)
    ids = torch.randint(1, 64, (2, 10))
    mask = torch.ones_like(ids)
    mask[0, :6] = 0
    asked = {"attention_mask": mask, "max_new_tokens": 8, "do_sample": False, "pad_token_id": 0}
    before = model.generate(ids, **asked)
    use_loss_head(model, sparse=True, fused=True)
    assert torch.equal(model.generate(ids, **asked), before)
