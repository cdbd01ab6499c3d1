"""A LoRA layer on frozen weights as one step of the backward pass.

y = x W' + s (x A') B', with W frozen: W gets no gradient, x is stored once, and the adapter is
computed in the type of x while its weights stay in float32. PEFT's own layer does the rest: saving,
merging, disabling adapters.

Source: LoRA, arXiv:2106.09685, section 4.1; the gradients by hand as in Unsloth's published notes.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import Linear
from torch.nn import functional

from nbft.models.subclass import extend


class _FrozenLora(torch.autograd.Function):
    """x [n, d_in], W [d_out, d_in], A [r, d_in], B [d_out, r] to y [n, d_out].

    Without W only s (x A') B', for a frozen product computed elsewhere.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor | None,
        bias: torch.Tensor | None,
        lora_a: torch.Tensor,
        lora_b: torch.Tensor,
        scaling: float,
    ) -> torch.Tensor:
        flat = x.reshape(-1, x.shape[-1])
        a, b = lora_a.to(x.dtype), lora_b.to(x.dtype)
        inner = _scaled(flat, a.t(), scaling)
        if weight is None:
            y = inner @ b.t()
        else:  # in place: addmm would first copy its input
            y = functional.linear(flat, weight, bias).addmm_(inner, b.t())
        ctx.save_for_backward(flat, inner, weight, a, b)
        ctx.scaling, ctx.shape, ctx.dtype = scaling, x.shape, lora_a.dtype
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        flat, inner, weight, a, b = ctx.saved_tensors
        gradient = gradients[0].reshape(-1, gradients[0].shape[-1])
        of_inner = _scaled(gradient, b, ctx.scaling)
        of_a = (of_inner.t() @ flat).to(ctx.dtype)
        of_b = (gradient.t() @ inner).to(ctx.dtype)
        of_x = None
        if ctx.needs_input_grad[0]:
            if weight is None:
                of_x = (of_inner @ a).view(ctx.shape)
            else:
                of_x = (gradient @ weight).addmm_(of_inner, a).view(ctx.shape)
        return of_x, None, None, of_a, of_b, None


def _scaled(left: torch.Tensor, right: torch.Tensor, scaling: float) -> torch.Tensor:
    """Return s times the product of [n, m] and [m, k] in one kernel."""
    empty = left.new_empty(left.shape[0], right.shape[1])
    return empty.addmm_(left, right, beta=0, alpha=scaling)


class FrozenLoraLinear(Linear):
    """PEFT's LoRA layer, with one fused step in the usual case."""

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return x W' + s (x A') B'; x [..., d_in]."""
        base: Any = self.base_layer
        adapter = None if args or kwargs else _plain_adapter(self, x)
        if adapter is None or x.dtype != base.weight.dtype:
            return super().forward(x, *args, **kwargs)
        y: torch.Tensor = _FrozenLora.apply(x, base.weight, base.bias, *adapter)
        return y


def _plain_adapter(layer: Any, x: torch.Tensor) -> tuple[Any, Any, float] | None:
    """Return A, B and the scaling of a layer; None if it computes more than s (x A') B'."""
    names = [name for name in layer.active_adapters if name in layer.lora_A]
    if layer.disable_adapters or layer.merged or len(names) != 1:
        return None
    (name,) = names
    a, b, base = layer.lora_A[name], layer.lora_B[name], layer.base_layer
    is_plain = (
        layer.training
        and isinstance(layer.lora_dropout[name], torch.nn.Identity)
        and name not in layer.lora_variant
        and b.bias is None
        and not base.weight.requires_grad
        and (base.bias is None or not base.bias.requires_grad)
        and not torch.is_autocast_enabled(x.device.type)
    )
    return (a.weight, b.weight, layer.scaling[name]) if is_plain else None


class _LeanAdapter:
    """Part of the class of an adapter on a 4-bit layer: the adapter computes in the type of x.

    PEFT's own layer copies x to float32 for it. The frozen product stays bitsandbytes'.
    """

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return the frozen product of x plus s (x A') B'; x [..., d_in]."""
        layer: Any = self
        adapter = None if args or kwargs else _plain_adapter(layer, x)
        if adapter is None:
            return super().forward(x, *args, **kwargs)  # type: ignore[misc,no-any-return]
        y: torch.Tensor = layer.base_layer(x) + _FrozenLora.apply(x, None, None, *adapter)
        return y


def use_lean_adapters(model: torch.nn.Module) -> None:
    """Use these layers for the adapters of a model, on 16-bit, 32-bit and 4-bit weights."""
    for module in model.modules():
        # PEFT's class is also that of adapters on transposed weights, as GPT-2 has them.
        if type(module) is Linear and isinstance(module.base_layer, torch.nn.Linear):
            module.__class__ = FrozenLoraLinear
        elif type(module).__name__ == "Linear4bit" and hasattr(module, "lora_A"):
            extend(module, _LeanAdapter)
