"""Linear layers whose products are those of float8 (e4m3) numbers.

Weights W and inputs x are rounded to float8 with a scale each, s = max|.| / 448, so that the largest
number is the largest that float8 has; y = (x / s_x)(W / s_W)^T s_x s_W. The gradient to x takes the
rounding as the identity; W is frozen. Source: FP8 Formats for Deep Learning, arXiv:2209.05433.
A GPU with float8 multiplies so by itself; elsewhere the same numbers are multiplied in x's type.
"""

from __future__ import annotations

from typing import Any

import torch

from nbft.models.float8_scale import ActivationScale, transform

LARGEST = 448.0
"""The largest number of float8_e4m3fn."""


def to_float8(
    values: torch.Tensor, largest: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return values as float8 and their scale, a number each tensor.

    Args:
        values: The values.
        largest: What to take for the largest of them; what lies above is cut off.
    """
    largest = values.detach().abs().max() if largest is None else largest
    scale = largest.float().clamp(min=1e-12) / LARGEST
    scaled = (values.detach().float() / scale).clamp(-LARGEST, LARGEST)
    return scaled.to(torch.float8_e4m3fn), scale


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        scale: torch.Tensor,
        largest: torch.Tensor,
    ) -> Any:
        ctx.save_for_backward(weight, scale)
        rounded, own = to_float8(x, largest)
        if _has_hardware(x) and not any(n % 16 for n in weight.shape):
            flat = rounded.reshape(-1, rounded.shape[-1])
            y = torch._scaled_mm(
                flat, weight.t(), scale_a=own, scale_b=scale, out_dtype=torch.bfloat16
            )
            return y.to(x.dtype).reshape(*x.shape[:-1], -1)
        return (rounded.to(x.dtype) @ weight.to(x.dtype).t()) * (own * scale).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        weight, scale = ctx.saved_tensors
        return (gradient @ weight.to(gradient.dtype)) * scale.to(gradient.dtype), None, None, None


def _has_hardware(x: torch.Tensor) -> bool:
    return x.is_cuda and torch.cuda.get_device_capability(x.device) >= (8, 9)


class Float8Linear(torch.nn.Linear):
    """A frozen linear layer with float8 weights, a byte each.

    Args:
        linear: The layer that it takes the place of.
        apply_hadamard: Spread outliers before rounding.
        online_steps: Steps over which the scale of x follows each batch.
    """

    rounded: torch.Tensor
    scale: torch.Tensor
    activation: ActivationScale

    def __init__(
        self, linear: torch.nn.Linear, *, apply_hadamard: bool = False, online_steps: int = 200
    ) -> None:
        torch.nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.apply_hadamard, self.activation = apply_hadamard, ActivationScale(online_steps)
        weight = linear.weight.detach()
        rounded, scale = to_float8(transform(weight) if apply_hadamard else weight)
        self.register_buffer("rounded", rounded)
        self.register_buffer("scale", scale)
        self.dtype = linear.weight.dtype
        self.bias = linear.bias

    @property
    def weight(self) -> torch.Tensor:  # type: ignore[override]
        """The weights that the layer stands for, as PEFT asks for them."""
        weight = (self.rounded.float() * self.scale).to(self.dtype)
        return transform(weight) if self.apply_hadamard else weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply, [*, d_in] to [*, d_out]."""
        x = transform(x) if self.apply_hadamard else x
        largest = self.activation(x, is_training=self.training)
        y = _Product.apply(x, self.rounded, self.scale, largest)
        return y if self.bias is None else y + self.bias  # type: ignore[no-any-return]


def use_float8(model: Any, *, apply_hadamard: bool = False, online_steps: int = 200) -> None:
    """Replace every linear layer of a model but the head; arguments as of `Float8Linear`."""
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if type(child) is torch.nn.Linear and child is not head:
                new = Float8Linear(child, apply_hadamard=apply_hadamard, online_steps=online_steps)
                setattr(parent, name, new)
