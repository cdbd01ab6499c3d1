"""FP8 training in its numbers: linear layers whose inputs and weights are rounded to float8.

A tensor x is scaled so that its largest number is float8's largest, rounded to e4m3, multiplied in
the type of the computation and scaled back: the error is that of FP8 hardware, the speed is not.
Gradients pass the rounding as if it were not there, so weights can be trained under it, unlike those
of `nbft.models.float8`, which stay float8.

Source: FP8 Formats for Deep Learning, arXiv:2209.05433, section 3.
Called by `nbft.training.trainer`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from nbft.models.float8_scale import ActivationScale, transform

_LARGEST = torch.finfo(torch.float8_e4m3fn).max


def round_to_float8(x: torch.Tensor, largest: torch.Tensor) -> torch.Tensor:
    """Return x rounded to float8 under the scale at which `largest` is the largest number."""
    scale = _LARGEST / largest.float().clamp(min=1e-12)
    low = (x.float() * scale).clamp(-_LARGEST, _LARGEST).to(torch.float8_e4m3fn)
    return (low.float() / scale).to(x.dtype)


def _straight_through(x: torch.Tensor, largest: torch.Tensor) -> torch.Tensor:
    return x + (round_to_float8(x.detach(), largest) - x).detach()


class Float8Linear:
    """The forward pass of a linear layer in float8.

    Args:
        layer: The layer.
        apply_hadamard: Spread outliers first.
        online_steps: Training steps over which the scale of the input follows each batch; then it
            stays at the largest number seen.
    """

    def __init__(self, layer: torch.nn.Linear, *, apply_hadamard: bool, online_steps: int) -> None:
        self.layer = layer
        self.apply_hadamard = apply_hadamard
        self.scale = ActivationScale(online_steps)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Return x w' + bias; x [..., d_in]."""
        weight = self.layer.weight
        if self.apply_hadamard:
            x, weight = transform(x), transform(weight)
        rounded = _straight_through(x, self.scale(x, is_training=self.layer.training))
        return functional.linear(
            rounded, _straight_through(weight, weight.detach().abs().amax()), self.layer.bias
        )


def use_float8(
    model: torch.nn.Module, *, apply_hadamard: bool, online_steps: int
) -> list[ActivationScale]:
    """Let the linear layers of a model compute in float8, the head and adapters excepted.

    Returns:
        The scale of each layer; whoever trains counts their steps.
    """
    head = getattr(model, "get_output_embeddings", lambda: None)()
    found = []
    for name, layer in model.named_modules():
        is_adapter = "lora_" in name or "adapter" in name.split(".")
        if type(layer) is torch.nn.Linear and layer is not head and not is_adapter:
            made = Float8Linear(layer, apply_hadamard=apply_hadamard, online_steps=online_steps)
            layer.forward = made  # type: ignore[method-assign, assignment]
            found.append(made.scale)
    return found


def count_steps(scales: list[ActivationScale]) -> Any:
    """Return the callback that tells the scales which step it is."""
    from transformers import TrainerCallback

    class StepCount(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            for scale in scales:
                scale.step = state.global_step

    return StepCount()
