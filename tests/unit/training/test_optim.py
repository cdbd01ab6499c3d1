"""Each optimiser against one worked out by hand or torch's own."""

import copy
import math

import pytest
import torch
import transformers
from torch.utils._python_dispatch import TorchDispatchMode

from nbft.config import Config
from nbft.training import optim
from nbft.training.optim import (
    BfloatAdamW,
    OffloadedOptimizer,
    load_exactly,
    parameter_groups,
)


def weights(seed=0, n=400):
    return torch.nn.Parameter(torch.randn(n, generator=torch.Generator().manual_seed(seed)))


def train(optimizer, parameters, steps=10):
    generator = torch.Generator().manual_seed(1)
    for _ in range(steps):
        for p in parameters:
            p.grad = torch.randn(p.shape, generator=generator).to(p.dtype) + 0.5
        optimizer.step()
        for p in parameters:
            p.grad = None


def test_adam_adds_its_decay_to_the_gradient_and_adamw_does_not():
    config = Config(
        optimizer={"optim": "adam", "weight_decay": 0.5, "adam_beta1": 0.8},
        training={"learning_rate": 0.1},
    )
    p = weights()
    found = optim.adam([{"params": [p], "weight_decay": 0.5}], config)
    assert type(found) is torch.optim.Adam
    before = p.detach().clone()
    p.grad = torch.ones_like(p)
    found.step()
    gradient = 1 + 0.5 * before  # the first step of Adam is lr · sign(g)
    by_hand = before - 0.1 * gradient / (gradient.abs() + 1e-8)
    assert torch.allclose(p, by_hand, atol=1e-6)


def test_moments_in_bfloat16_take_half_the_room_and_train_alike():
    """Over 200 steps the weights stay within 1% of AdamW's with float32 moments."""
    ours, theirs = weights(), weights()
    arguments = {"lr": 1e-2, "betas": (0.9, 0.999), "weight_decay": 0.1}
    small, usual = BfloatAdamW([ours], **arguments), torch.optim.AdamW([theirs], **arguments)
    start = ours.detach().clone()
    train(small, [ours], 200)
    train(usual, [theirs], 200)
    for state in small.state.values():
        assert state["exp_avg"].dtype == state["exp_avg_sq"].dtype == torch.bfloat16
    assert (ours - theirs).norm() < 0.01 * (theirs - start).norm()
    assert not torch.equal(ours, theirs)


class Operators(TorchDispatchMode):
    """Counts what is computed."""

    number = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.number += not func.is_view
        return func(*args, **(kwargs or {}))


def test_moments_in_bfloat16_take_few_operators_for_many_weights():
    parameters = [weights(n) for n in range(420)]
    found = BfloatAdamW(parameters, lr=1e-3)
    for p in parameters:
        p.grad = torch.ones_like(p)
    found.step()
    with Operators() as operators:
        found.step()
    assert operators.number < 40


def test_weights_of_other_shapes_types_and_ages_are_updated_together(monkeypatch):
    """Every weight is where AdamW with float32 moments brings it, within the rounding."""
    monkeypatch.setattr(optim, "_TOGETHER_NUMBERS", 1000)

    def make():
        shapes = [(7, 3), (40,), (900,), (5, 300), (2, 2)]
        made = [torch.nn.Parameter(weights(n, 2000)[: math.prod(s)].detach().view(s).clone())
                for n, s in enumerate(shapes)]  # fmt: skip
        return [*made, torch.nn.Parameter(torch.ones(6, dtype=torch.bfloat16))]

    ours, theirs = make(), make()
    arguments = {"lr": 1e-2, "weight_decay": 0.1}
    small, usual = BfloatAdamW(ours, **arguments), torch.optim.AdamW(theirs, **arguments)
    start = [p.detach().clone() for p in ours]
    train(small, ours[1:], 5)  # the first one is older by none of these
    train(usual, theirs[1:], 5)
    train(small, ours, 20)
    train(usual, theirs, 20)
    assert [small.state[p]["step"] for p in ours] == [20, 25, 25, 25, 25, 25]
    for before, mine, other in zip(start, ours, theirs, strict=True):
        assert (mine - other).norm() < 0.05 * (other - before).norm()


def test_a_checkpoint_of_an_earlier_version_has_its_step_as_a_tensor():
    p = weights()
    first = BfloatAdamW([p], lr=1e-2)
    train(first, [p], 3)
    saved = copy.deepcopy(first.state_dict())
    saved["state"][0]["step"] = torch.tensor(3.0)
    second = BfloatAdamW([torch.nn.Parameter(p.detach().clone())], lr=1e-2)
    load_exactly(second, saved)
    (q,) = second.param_groups[0]["params"]
    train(first, [p], 2)
    train(second, [q], 2)
    assert torch.equal(p, q)


def test_small_squares_are_not_lost_in_bfloat16():
    """Plain rounding would keep v where it is: 0.001 g² is below half of bfloat16's step."""
    p = weights(n=4000)
    found = BfloatAdamW([p], lr=0.0)
    for _ in range(300):
        p.grad = torch.ones_like(p)
        found.step()
    expected = 1 - 0.999**300
    assert found.state[p]["exp_avg_sq"].float().mean() == pytest.approx(expected, rel=0.02)


def test_moments_in_bfloat16_leave_the_random_numbers_alone():
    p = weights()
    before = torch.get_rng_state()
    train(BfloatAdamW([p], lr=1e-3), [p], 2)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("kind", [torch.optim.AdamW, torch.optim.SGD])
def test_an_optimiser_on_copies_makes_the_same_steps(kind):
    ours, theirs = weights(), weights()
    moved = OffloadedOptimizer([{"params": [ours]}], lambda groups: kind(groups, lr=0.01))
    train(moved, [ours])
    train(kind([theirs], lr=0.01), [theirs])
    assert torch.equal(ours, theirs)


def test_the_state_lies_on_the_cpu_while_the_weights_are_elsewhere():
    """`meta` stands for a GPU: it has no numbers, but a place."""
    p = torch.nn.Parameter(torch.empty(8, device="meta"))
    copies = []
    built = OffloadedOptimizer(
        [{"params": [torch.nn.Parameter(torch.ones(8))]}],
        lambda groups: copies.extend(groups) or torch.optim.AdamW(groups, lr=0.01),
    )
    assert p.device.type == "meta"
    assert {q.device.type for group in copies for q in group["params"]} == {"cpu"}
    assert copies[0]["params"][0] is not built.param_groups[0]["params"][0]
    (q,) = built.param_groups[0]["params"]
    train(built, [q], 1)
    assert built.state == {}
    assert {s["exp_avg"].device.type for s in built.inner.state.values()} == {"cpu"}


def test_the_scheduler_reaches_an_optimiser_on_copies():
    p = weights()
    built = OffloadedOptimizer([{"params": [p]}], lambda g: torch.optim.SGD(g, lr=1.0))
    torch.optim.lr_scheduler.LambdaLR(built, lambda step: 0.25)
    before = p.detach().clone()
    p.grad = torch.ones_like(p)
    built.step()
    assert torch.allclose(before - p, torch.full_like(p, 0.25))


def test_a_float32_master_keeps_what_16_bits_would_lose():
    """1 - 100 · 0.0001 is 0.99; in bfloat16 each step rounds back to 1."""
    p = torch.nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    plain = torch.nn.Parameter(torch.ones(4, dtype=torch.bfloat16))
    master = OffloadedOptimizer(
        [{"params": [p]}], lambda g: torch.optim.SGD(g, lr=1e-4), dtype=torch.float32, device=None
    )
    usual = torch.optim.SGD([plain], lr=1e-4)
    for _ in range(100):
        p.grad, plain.grad = torch.ones_like(p), torch.ones_like(plain)
        master.step()
        usual.step()
    assert p.float().tolist() == pytest.approx([0.99] * 4, abs=3e-3)
    assert plain.float().tolist() == [1.0] * 4


def test_masters_are_saved_and_loaded():
    p = torch.nn.Parameter(torch.ones(4, dtype=torch.bfloat16))

    def build():
        return OffloadedOptimizer(
            [{"params": [p]}],
            lambda g: torch.optim.AdamW(g, lr=1e-3),
            dtype=torch.float32,
            device=None,
        )

    first = build()
    train(first, [p], 3)
    second = build()
    second.load_state_dict(first.state_dict())
    assert torch.equal(first.state_dict()["masters"][0], second.state_dict()["masters"][0])
    assert first.state_dict()["masters"][0].dtype == torch.float32


class Layers(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embed_tokens = torch.nn.Embedding(3, 2)
        self.layers = torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(2))
        self.lm_head = torch.nn.Linear(2, 3)


def test_the_rate_falls_from_layer_to_layer():
    config = Config(
        optimizer={"layerwise_lr_decay": 0.5, "weight_decay": 0.1},
        training={"learning_rate": 0.8},
    )
    model = Layers()
    decayed = [name for name, _ in model.named_parameters() if name.endswith("weight")]
    groups = parameter_groups(model, decayed, config)
    found = {
        name: (group["lr"], group["weight_decay"])
        for name, p in model.named_parameters()
        for group in groups
        if any(p is q for q in group["params"])
    }
    assert found["lm_head.weight"] == (0.8, 0.1)
    assert found["layers.1.weight"] == (0.4, 0.1)
    assert found["layers.1.bias"] == (0.4, 0.0)
    assert found["layers.0.weight"] == (0.2, 0.1)
    assert found["embed_tokens.weight"] == (pytest.approx(0.1), 0.1)
    assert groups[0]["lr"] == 0.8  # the log shows the first


def test_one_rate_for_all_when_nothing_falls():
    groups = parameter_groups(Layers(), [], Config())
    assert [group["lr"] for group in groups] == [Config().training.learning_rate]


def saved_and_loaded(make, p, tmp_path, steps=5):
    """Return an optimiser after some steps, and one that loaded its file into equal weights."""
    first = make(p)
    train(first, [p], steps)
    torch.save(first.state_dict(), tmp_path / "optimizer.pt")
    other = torch.nn.Parameter(p.detach().clone())
    second = make(other)
    load_exactly(second, torch.load(tmp_path / "optimizer.pt", weights_only=True))
    return first, second, other


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_moments_in_bfloat16_go_on_as_if_never_saved(tmp_path, kind):
    p = torch.nn.Parameter(weights().detach().to(kind))
    first, second, other = saved_and_loaded(lambda p: BfloatAdamW([p], lr=0.1), p, tmp_path)
    assert {s["exp_avg"].dtype for s in second.state.values()} == {torch.bfloat16}
    for _ in range(3):
        train(first, [p], 2)
        train(second, [other], 2)
        assert torch.equal(p, other)
    for mine, theirs in zip(first.state.values(), second.state.values(), strict=True):
        assert torch.equal(mine["exp_avg_sq"], theirs["exp_avg_sq"])


def test_float32_sums_over_bfloat16_weights_stay_float32(tmp_path):
    def adafactor(p):
        return transformers.Adafactor([p], lr=0.1, scale_parameter=False, relative_step=False)

    p = torch.nn.Parameter(weights().detach().view(20, 20).to(torch.bfloat16))
    first, second, other = saved_and_loaded(adafactor, p, tmp_path)
    assert second.state[other]["exp_avg_sq_row"].dtype == torch.float32
    train(first, [p])
    train(second, [other])
    assert torch.equal(p, other)


def test_the_options_of_the_config_are_not_overwritten_by_those_that_were_saved(tmp_path):
    p = weights()
    first = torch.optim.AdamW([p], lr=0.1, betas=(0.9, 0.99), weight_decay=0.1)
    train(first, [p])
    second = torch.optim.AdamW([p], lr=0.2, betas=(0.8, 0.95), weight_decay=0.0)
    load_exactly(second, first.state_dict())
    (group,) = second.param_groups
    assert (group["lr"], group["betas"], group["weight_decay"]) == (0.2, (0.8, 0.95), 0.0)
    assert torch.equal(second.state[p]["exp_avg"], first.state[p]["exp_avg"])


def test_a_state_of_torchs_own_optimiser_has_the_type_of_its_weights(tmp_path):
    """As of an adapter that an earlier version trained in bfloat16."""
    low = torch.nn.Parameter(weights().detach().to(torch.bfloat16))
    first = torch.optim.AdamW([low], lr=0.1)
    train(first, [low])
    p = torch.nn.Parameter(low.detach().float())
    second = torch.optim.AdamW([p], lr=0.1, fused=True)
    load_exactly(second, first.state_dict())
    assert second.state[p]["exp_avg"].dtype == torch.float32
    train(second, [p])
