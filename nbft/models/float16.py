"""Models with float16 weights, which compute products in float16 and sums between layers in float32.

float16 ends at 65,504, and what the layers of some models add up to exceeds it. Autocast makes
float16 of whatever goes into a product, so the sums may be float32. Called by `nbft.models.load`.

Source: Mixed Precision Training, arXiv:1710.03740, section 3.3.
"""

from __future__ import annotations

import functools
from typing import Any

import torch

from nbft.models.subclass import extend


def sum_in_float32(model: Any) -> None:
    """Let a language model with float16 weights add up its layers in float32.

    Args:
        model: The model, changed in place; its embeddings are where the sums begin.
    """
    if "forward" in vars(model):  # accelerate's, for device_map and bitsandbytes
        forward = model.forward

        @functools.wraps(forward)
        def in_float16(*args: Any, **kwargs: Any) -> Any:
            with torch.autocast(model.device.type, torch.float16):
                return forward(*args, **kwargs)

        model.forward = in_float16
    else:
        extend(model, _InFloat16)
    model.get_input_embeddings().register_forward_hook(_in_float32)


class _InFloat16:
    """Part of a model's class: computes products in float16, whatever goes into them."""

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the usual output."""
        with torch.autocast(self.device.type, torch.float16):
            return super().forward(*args, **kwargs)  # type: ignore[misc]


def _in_float32(_module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor:
    return output.float()
