"""The norm in one step, beside the formula in float64."""

from __future__ import annotations

import pytest
import torch

from nbft.training.fast.norm import use_lean_norms


class RowRMSNorm(torch.nn.Module):
    """y = w x / sqrt(mean(x^2) + eps), written out."""

    def __init__(self, width: int, shift: float = 0.0) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.linspace(0.5, 2, width))
        self.variance_epsilon = 1e-5
        self.shift = shift

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        whole = x.double()
        normed = whole * (whole.square().mean(-1, keepdim=True) + self.variance_epsilon).rsqrt()
        return ((self.weight.double() + self.shift) * normed).to(x.dtype)


def output_and_gradients(norm, x, weights):
    x = x.clone().requires_grad_()
    norm.weight.grad = None
    y = norm(x)
    (y.float() * weights).sum().backward()
    return y.detach(), x.grad, norm.weight.grad


@pytest.mark.parametrize(("dtype", "within"), [(torch.float32, 1e-6), (torch.bfloat16, 2e-2)])
def test_output_and_gradients_are_those_of_the_formula(dtype, within):
    torch.manual_seed(0)
    norm = RowRMSNorm(64).to(dtype)
    x, weights = torch.randn(2, 7, 64).to(dtype), torch.randn(2, 7, 64)
    wanted = output_and_gradients(norm, x, weights)
    assert use_lean_norms(torch.nn.Sequential(norm)) == 1
    for ours, theirs in zip(output_and_gradients(norm, x, weights), wanted, strict=True):
        scale = theirs.abs().max().item()
        torch.testing.assert_close(ours, theirs, rtol=within, atol=within * scale)


def test_a_frozen_weight_gets_no_gradient_and_the_input_is_left_as_it_was():
    norm = RowRMSNorm(8)
    norm.weight.requires_grad_(False)
    use_lean_norms(torch.nn.Sequential(norm))
    x = torch.randn(3, 8, requires_grad=True)
    before = x.detach().clone()
    norm(x).sum().backward()
    assert norm.weight.grad is None
    assert x.grad is not None
    assert torch.equal(x.detach(), before)


def test_a_norm_that_computes_something_else_keeps_its_way():
    shifted = RowRMSNorm(8, shift=1.0)
    assert use_lean_norms(torch.nn.Sequential(shifted)) == 0
    assert "forward" not in vars(shifted)
