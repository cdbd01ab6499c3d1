"""Linear layers that multiply float8 (e4m3) numbers.

Weights W and inputs x are rounded to float8 with a scale each, s = max|.| / 448, so that the largest
number becomes float8's largest; y = (x / s_x)(W / s_W)^T s_x s_W. The gradient of x treats rounding
as the identity; W is frozen. Source: FP8 Formats for Deep Learning, arXiv:2209.05433.
GPUs with float8 do this in hardware; elsewhere the same numbers are multiplied in x's type.

A Hadamard transform tames outliers: with H a Hadamard matrix of orthonormal columns,
x W' = (x H)(W H)'. The product is the same, and an outlier in x is spread over a block, so that fewer
of the other numbers underflow. Smaller outliers need no such help, since float8 is a floating type.
Source: QuaRot, arXiv:2404.00456. Called by `nbft.models.quantize` and `nbft.training.fp8`.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

LARGEST = 448.0
"""The largest number of float8_e4m3fn."""

_BLOCK = 32
"""ERNIEKit's hadamard_block_size."""


def to_float8(
    values: torch.Tensor, largest: torch.Tensor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return values as float8 and their scale, one number per tensor.

    Args:
        values: The values.
        largest: Magnitude that becomes float8's largest number; larger values are clipped to it.
            The largest magnitude of the values when None.
    """
    largest = values.detach().abs().max() if largest is None else largest
    scale = largest.float().clamp(min=1e-12) / LARGEST
    return clipped_to_float8(values.detach().float() / scale), scale


def clipped_to_float8(values: torch.Tensor) -> torch.Tensor:
    """Round float32 values to the nearest float8 number, those out of range to its largest."""
    return values.clamp(-LARGEST, LARGEST).to(torch.float8_e4m3fn)


@functools.cache
def hadamard(size: int) -> torch.Tensor:
    """Return the Hadamard matrix with H H' = 1, [size, size]; size is a power of two.

    >>> h = hadamard(4)
    >>> bool(torch.allclose(h @ h.T, torch.eye(4)))
    True
    """
    h: torch.Tensor = torch.ones(1, 1)
    while len(h) < size:
        h = torch.cat([torch.cat([h, h], 1), torch.cat([h, -h], 1)])
    return h.div(size**0.5)


def transform(x: torch.Tensor) -> torch.Tensor:
    """Multiply each block of 32 numbers of the last dimension by the Hadamard matrix.

    It is its own inverse. A shorter last block stays as it is; x [..., d].
    """
    whole = x.shape[-1] // _BLOCK * _BLOCK
    if whole == 0:
        return x
    blocks = x[..., :whole].unflatten(-1, (-1, _BLOCK))
    turned = (blocks @ hadamard(_BLOCK).to(x.device, x.dtype)).flatten(-2)
    return torch.cat([turned, x[..., whole:]], -1)


class ActivationScale:
    """The largest magnitude of a layer's input: that of each batch at first, then the largest seen.

    Args:
        online_steps: Training steps over which it follows each batch.
    """

    def __init__(self, online_steps: int) -> None:
        self.online_steps = online_steps
        self.step = 0
        self.largest: torch.Tensor | None = None

    def __call__(self, x: torch.Tensor, *, is_training: bool) -> torch.Tensor:
        """Return the magnitude that becomes float8's largest number."""
        now = x.detach().abs().amax()
        if self.largest is not None and self.step >= self.online_steps:
            return self.largest
        if is_training or self.largest is None:
            self.largest = now if self.largest is None else torch.maximum(self.largest, now)
        return now


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, largest: torch.Tensor
    ) -> Any:
        ctx.save_for_backward(weight, scale)
        rounded, own = to_float8(x, largest)
        if multiplies_float8(x, weight):
            return float8_product(rounded, own, weight, scale).to(x.dtype)
        return (rounded.to(x.dtype) @ weight.to(x.dtype).t()) * (own * scale).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> Any:
        weight, scale = ctx.saved_tensors
        return (gradient @ weight.to(gradient.dtype)) * scale.to(gradient.dtype), None, None, None


def multiplies_float8(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether the device multiplies float8 numbers itself, as GPUs from Ada and Hopper on do."""
    return (
        x.is_cuda
        and torch.cuda.get_device_capability(x.device) >= (8, 9)
        and not any(n % 16 for n in weight.shape)  # torch._scaled_mm asks for that
    )


def float8_product(
    x: torch.Tensor, x_scale: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor
) -> torch.Tensor:
    """Return x W' in bfloat16 by torch's scaled product: x [..., d_in] and W [d_out, d_in] float8."""
    flat = x.reshape(-1, x.shape[-1])
    y = torch._scaled_mm(flat, weight.t(), scale_a=x_scale, scale_b=scale, out_dtype=torch.bfloat16)
    return y.view(*x.shape[:-1], -1)


class Float8Linear(torch.nn.Linear):
    """A frozen linear layer with float8 weights, one byte each.

    Args:
        linear: The layer that it replaces.
        apply_hadamard: Spread outliers before rounding.
        online_steps: Training steps over which the scale of x follows each batch.
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
        """The dequantised weights, for PEFT."""
        weight = (self.rounded.float() * self.scale).to(self.dtype)
        return transform(weight) if self.apply_hadamard else weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Multiply, [*, d_in] to [*, d_out]."""
        x = transform(x) if self.apply_hadamard else x
        largest = self.activation(x, is_training=self.training)
        y = _Product.apply(x, self.rounded, self.scale, largest)
        return y if self.bias is None else y + self.bias  # type: ignore[no-any-return]


def use_float8(
    model: Any, kind: type = Float8Linear, *, apply_hadamard: bool = False, online_steps: int = 200
) -> list[ActivationScale]:
    """Replace the linear layers of a model, except the head and adapters.

    Args:
        model: The model, changed in place.
        kind: Class of the new layers.
        apply_hadamard: As of `Float8Linear`.
        online_steps: As of `Float8Linear`.

    Returns:
        The scale of each layer's input.
    """
    head = getattr(model, "get_output_embeddings", lambda: None)()
    if head is None:
        head = getattr(model, "score", None)  # of a reward model
    heads = set() if head is None else {*head.modules()}
    scales = []
    for path, parent in list(model.named_modules()):
        for name, child in list(parent.named_children()):
            is_adapter = "lora_" in path + name or "adapter" in [*path.split("."), name]
            if type(child) is torch.nn.Linear and child not in heads and not is_adapter:
                new = kind(child, apply_hadamard=apply_hadamard, online_steps=online_steps)
                setattr(parent, name, new)
                scales.append(new.activation)
    return scales


def activation_scales(model: Any) -> dict[str, ActivationScale]:
    """Return the scale of each float8 layer's input by the layer's name."""
    named = ((name, getattr(m, "activation", None)) for name, m in model.named_modules())
    return {name: scale for name, scale in named if isinstance(scale, ActivationScale)}
