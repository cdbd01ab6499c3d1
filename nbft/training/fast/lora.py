"""A LoRA layer on frozen weights as one step of the backward pass.

y = x W' + s (x A') B', with W frozen: no gradient of W is made, x is kept once, and the adapter is
computed in the type of x while its weights stay in float32. PEFT's own layer does the rest: saving,
merging, switching adapters off.

Source: LoRA, arXiv:2106.09685, section 4.1; the gradients by hand as in Unsloth's published notes.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import Linear
from torch.nn import functional


class _FrozenLora(torch.autograd.Function):
    """x [n, d_in], W [d_out, d_in], A [r, d_in], B [d_out, r] to y [n, d_out]."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        lora_a: torch.Tensor,
        lora_b: torch.Tensor,
        scaling: float,
    ) -> torch.Tensor:
        flat = x.reshape(-1, x.shape[-1])
        a, b = lora_a.to(x.dtype), lora_b.to(x.dtype)
        inner = flat @ a.t()
        # In place: addmm would first copy what it adds to.
        y = functional.linear(flat, weight, bias).addmm_(inner, b.t(), alpha=scaling)
        ctx.save_for_backward(flat, inner, weight, a, b)
        ctx.scaling, ctx.shape, ctx.dtype = scaling, x.shape, lora_a.dtype
        return y.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        flat, inner, weight, a, b = ctx.saved_tensors
        gradient = gradients[0].reshape(-1, gradients[0].shape[-1])
        of_inner = gradient @ b
        of_a = (of_inner.t() @ flat).to(ctx.dtype) * ctx.scaling
        of_b = (gradient.t() @ inner).to(ctx.dtype) * ctx.scaling
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = (gradient @ weight).addmm_(of_inner, a, alpha=ctx.scaling).view(ctx.shape)
        return of_x, None, None, of_a, of_b, None


class FrozenLoraLinear(Linear):
    """PEFT's LoRA layer, with one fused step where nothing special is asked of it."""

    def forward(self, x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return x W' + s (x A') B'; x [..., d_in]."""
        names = [name for name in self.active_adapters if name in self.lora_A]
        if args or kwargs or self.disable_adapters or self.merged or len(names) != 1:
            return super().forward(x, *args, **kwargs)
        (name,) = names
        a: Any = self.lora_A[name]
        b: Any = self.lora_B[name]
        base: Any = self.base_layer
        is_plain = (
            self.training
            and isinstance(self.lora_dropout[name], torch.nn.Identity)
            and name not in self.lora_variant
            and b.bias is None
            and not base.weight.requires_grad
            and (base.bias is None or not base.bias.requires_grad)
            and x.dtype == base.weight.dtype
            and not torch.is_autocast_enabled(x.device.type)
        )
        if not is_plain:
            return super().forward(x)
        scaling = self.scaling[name]
        y: torch.Tensor = _FrozenLora.apply(x, base.weight, base.bias, a.weight, b.weight, scaling)
        return y
