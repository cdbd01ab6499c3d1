"""Operators are counted once each, for the part that they belong to, forward and backward."""

from __future__ import annotations

import torch

from nbft.bench.operators import _OneKernel, counted_by_part


class ToyMLP(torch.nn.Module):
    def forward(self, x):
        return torch.nn.functional.silu(x) * x  # two; backward: silu's, two products, one sum


class ToyModel(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.gate = torch.nn.Linear(4, 4, bias=False)
        self.mlp = ToyMLP()

    def forward(self, x):
        return self.mlp(self.gate(x)).t() + 1  # a view is none


def test_each_operator_counts_for_its_part():
    model, x = ToyModel(), torch.ones(3, 4)
    counts: dict[str, int] = {}
    with counted_by_part(counts):
        loss = model(x).sum()
        loss.backward()
    assert counts["projections"] == 2  # the product, and that of its weight's gradient
    assert counts["activations of the MLP"] == 2 + 4
    assert counts["residuals and embeddings"] == 1
    assert model.gate.weight.grad is not None
    before = dict(counts)
    model(x)
    assert counts == before


def test_the_optimiser_is_a_part():
    p = torch.nn.Parameter(torch.ones(3))
    p.grad = torch.ones(3)
    counts: dict[str, int] = {}
    with counted_by_part(counts):
        torch.optim.SGD([p], lr=0.1, foreach=True).step()
    assert counts == {"optimiser": 1}


def test_a_kernel_that_is_stood_in_for_counts_as_one_each_way():
    x = torch.linspace(1, 2, 5, requires_grad=True)
    counts: dict[str, int] = {}
    with counted_by_part(counts):
        y = _OneKernel.apply(lambda one: (one.exp() + one).square().log(), x)
        y.backward(torch.ones(5))
    assert sum(counts.values()) == 2 + 1  # and the ones
    expected = torch.autograd.grad((x.exp() + x).square().log().sum(), x)[0]
    torch.testing.assert_close(x.grad, expected)
