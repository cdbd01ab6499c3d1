"""FP8 training: linear layers whose inputs and weights are rounded to float8 in the forward pass.

A tensor x is scaled so that its largest number is float8's largest and rounded to e4m3. A GPU with
float8 products multiplies these (`multiplies_float8`). Elsewhere they are scaled back and multiplied in the
type of the computation, with the same error and without the speed. The gradient treats rounding as the
identity, so the weights can be trained, unlike those of `nbft.models.float8`, which are stored as float8.

Source: FP8 Formats for Deep Learning, arXiv:2209.05433, section 3.
Called by `nbft.training.trainer`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional
from transformers import TrainerCallback, TrainerState

from nbft.models.float8 import (
    LARGEST,
    ActivationScale,
    clipped_to_float8,
    float8_product,
    multiplies_float8,
    to_float8,
    transform,
)


class FakeFloat8Linear(torch.nn.Linear):
    """A linear layer with the weights of another, which rounds them to float8 at each step.

    Args:
        linear: The layer that it replaces; their parameters are the same.
        apply_hadamard: Spread outliers before rounding.
        online_steps: Training steps over which the scale of x follows each batch; then it stays at
            the largest number seen.
    """

    def __init__(self, linear: torch.nn.Linear, *, apply_hadamard: bool, online_steps: int) -> None:
        torch.nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.weight, self.bias = linear.weight, linear.bias
        self.apply_hadamard, self.activation = apply_hadamard, ActivationScale(online_steps)
        self.train(linear.training)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply, [*, d_in] to [*, d_out]."""
        weight: torch.Tensor = self.weight
        if self.apply_hadamard:
            x, weight = transform(x), transform(weight)
        largest = self.activation(x, is_training=self.training), weight.detach().abs().amax()
        if multiplies_float8(x, weight):
            y = _Product.apply(x, weight, *largest)
            return y if self.bias is None else y + self.bias  # type: ignore[no-any-return]
        rounded, of_weight = map(_straight_through, (x, weight), largest)
        return functional.linear(rounded, of_weight, self.bias)


class _Product(torch.autograd.Function):
    """x [..., d_in], W [d_out, d_in] and their largest magnitudes to x W' [..., d_out]."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, *largest: torch.Tensor
    ) -> torch.Tensor:
        (rounded, own), (of_weight, scale) = map(to_float8, (x, weight), largest)
        ctx.save_for_backward(rounded, own, of_weight, scale)
        ctx.dtypes = x.dtype, weight.dtype
        return float8_product(rounded, own, of_weight, scale).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        rounded, own, of_weight, scale = ctx.saved_tensors
        gradient, (dtype, weight_dtype) = gradients[0], ctx.dtypes
        of_x = of_w = None
        if ctx.needs_input_grad[0]:
            of_x = (gradient @ of_weight.to(gradient.dtype)) * scale.to(dtype)
        if ctx.needs_input_grad[1]:
            flat = rounded.flatten(0, -2).to(gradient.dtype)
            of_w = (gradient.flatten(0, -2).t() @ flat).to(weight_dtype) * own.to(weight_dtype)
        return of_x, of_w, None, None


def round_to_float8(x: torch.Tensor, largest: torch.Tensor) -> torch.Tensor:
    """Return x rounded to float8 under the scale at which `largest` is the largest number."""
    scale = LARGEST / largest.float().clamp(min=1e-12)
    return (clipped_to_float8(x.float() * scale).float() / scale).to(x.dtype)


def _straight_through(x: torch.Tensor, largest: torch.Tensor) -> torch.Tensor:
    return x + (round_to_float8(x.detach(), largest) - x).detach()


class StepCount(TrainerCallback):
    """Tells the scales of a model which step it is."""

    def __init__(self, scales: list[ActivationScale]) -> None:
        self._scales = scales

    def on_step_begin(self, args: Any, state: TrainerState, *_: Any, **__: Any) -> None:
        """Pass the step on."""
        for scale in self._scales:
            scale.step = state.global_step
