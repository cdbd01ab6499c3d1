"""RMSNorm as one step of the backward pass.

y = w x / sqrt(mean(x^2) + eps). Only x and one number per token are kept for the gradient, while a
norm in plain torch keeps several copies of x in float32; with x^ = x / sqrt(…) and
g' = g w: dx = (g' - x^ mean(g' x^)) / sqrt(…), and dw = sum of g x^ over the tokens. On an NVIDIA GPU
torch's own kernel does the same.

Source: Root Mean Square Layer Normalization, arXiv:1910.07467, section 3.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from nbft.models.subclass import extend


class _RmsNorm(torch.autograd.Function):
    """x [..., d], w [d] to y [..., d]; sums are in float32."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
        whole = x.to(torch.float32, copy=True)
        scale = torch.linalg.vector_norm(whole, dim=-1, keepdim=True)
        scale = scale.square_().div_(x.shape[-1]).add_(eps).rsqrt_()
        ctx.save_for_backward(x, weight, scale)
        return weight * whole.mul_(scale).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, scale = ctx.saved_tensors
        (gradient,) = gradients
        normed = x.to(torch.float32, copy=True).mul_(scale)
        of_weight = None
        if ctx.needs_input_grad[1]:
            tokens = gradient.flatten(0, -2).float() * normed.to(x.dtype).flatten(0, -2)
            of_weight = tokens.sum(0).to(weight.dtype)
        whole = (gradient * weight).to(torch.float32)
        shared = torch.linalg.vecdot(whole, normed).div_(-x.shape[-1])[..., None]
        of_x = torch.addcmul(whole, normed, shared).mul_(scale).to(x.dtype)
        return of_x, of_weight, None


def _lean(x: torch.Tensor, weight: torch.Tensor, eps: float) -> torch.Tensor:
    """Return the norm of x, [..., d]."""
    if x.device.type == "cuda" and x.dtype == weight.dtype:
        return functional.rms_norm(x, weight.shape, weight, eps)
    y: torch.Tensor = _RmsNorm.apply(x, weight, eps)
    return y


def use_lean_norms(model: torch.nn.Module) -> int:
    """Use this norm for the RMSNorm layers of a model, and return how many do.

    A layer of that name that computes something else, such as Gemma's, stays as it is.
    """
    count = 0
    for module in model.modules():
        eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
        if type(module).__name__.endswith("RMSNorm") and eps is not None and _is_plain(module, eps):
            extend(module, _LeanNorm)
            module.lean_eps = float(eps)  # type: ignore[assignment]
            count += 1
    return count


class _LeanNorm:
    """Part of a norm's class: the lean norm during training.

    Otherwise the library's norm is used, so that scores equal those of the saved model exactly.
    """

    lean_eps: float

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the norm of x, [..., d]."""
        module: Any = self
        if not module.training:
            return super().forward(x)  # type: ignore[misc,no-any-return]
        return _lean(x, module.weight, self.lean_eps)


def _is_plain(module: Any, eps: float) -> bool:
    """Whether a layer computes this norm, by trying it."""
    weight = module.weight
    x = torch.linspace(-2, 3, 2 * weight.numel(), device=weight.device, dtype=weight.dtype)
    x = x.view(2, -1)
    with torch.no_grad():
        theirs, ours = module(x).float(), _lean(x, weight, eps).float()
    return torch.allclose(ours, theirs, rtol=1e-2, atol=1e-4)
