"""LoftQ: LoRA that begins with what the rounding of 4-bit weights has lost.

Called by `nbft.models.peft_types.lora`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft.utils.integrations import dequantize_module_weight
from safetensors import safe_open

from nbft.errors import ConfigError, Problem


@torch.no_grad()
def use_loftq(model: Any, folder: Path | None) -> None:
    """Start from the best approximation of what the rounding of 4-bit weights has lost.

    Args:
        model: PEFT's model on layers in 4 bits.
        folder: Folder of the unquantised weights.

    Raises:
        ConfigError: They are not there as safetensors.

    Source: LoftQ, arXiv:2310.08659, section 3, with one iteration on fixed 4-bit weights.
    """
    files = sorted(folder.glob("*.safetensors")) if folder else []
    if not files:
        why = "compares with the unquantised weights, which are not there as safetensors."
        raise ConfigError(Problem("peft.init_lora_weights", "loftq", why, "Use default."))
    layers = {
        f"{name.removeprefix('base_model.model.')}.weight": layer
        for name, layer in model.named_modules()
        if hasattr(layer, "lora_A") and hasattr(layer.get_base_layer().weight, "quant_state")
    }
    missing = set(layers)
    for file in files:
        with safe_open(file, "pt") as weights:
            for name in layers.keys() & set(weights.keys()):
                layer = layers[name]
                missing.discard(name)
                rounded = dequantize_module_weight(layer.get_base_layer()).float()
                lost = weights.get_tensor(name).to(rounded.device, torch.float32) - rounded
                (adapter,) = layer.lora_A
                rank, scaling = layer.r[adapter], layer.scaling[adapter]
                u, s, v = torch.linalg.svd(lost, full_matrices=False)
                root = (s[:rank] / scaling).sqrt()
                layer.lora_A[adapter].weight.data.copy_(root[:, None] * v[:rank])
                layer.lora_B[adapter].weight.data.copy_(u[:, :rank] * root)
    if missing:
        why = f"compares with the unquantised weights, but their files lack {min(missing)}."
        raise ConfigError(Problem("peft.init_lora_weights", "loftq", why, "Use default."))
