"""FP8 training: linear layers whose inputs and weights are rounded to float8 in the forward pass.

A tensor x is scaled so that its largest number is float8's largest, rounded to e4m3, scaled back and
multiplied in the type of the computation: the error is that of FP8 hardware, the speed is not. The
gradient treats rounding as the identity, so the weights can be trained, unlike those of
`nbft.models.float8`, which are stored as float8.

Source: FP8 Formats for Deep Learning, arXiv:2209.05433, section 3.
Called by `nbft.training.trainer`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional
from transformers import TrainerCallback, TrainerState

from nbft.models.float8 import LARGEST, ActivationScale, clipped_to_float8, transform


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
        rounded = _straight_through(x, self.activation(x, is_training=self.training))
        return functional.linear(
            rounded, _straight_through(weight, weight.detach().abs().amax()), self.bias
        )


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
