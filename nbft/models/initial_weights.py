"""PiSSA and OLoRA: LoRA that begins with a part of the model's weights, which is taken out of them.

Called by `nbft.models.peft_types.lora` and `nbft.training`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

_WEIGHTS = "adapter_model.safetensors"


@torch.no_grad()
def use_part_of_weights(model: Any, start: str) -> None:
    """Start from a part of each layer's weights, which is taken out of them.

    PEFT does it while it makes the adapter, and then rounds both matrices to the type of the weights,
    which no longer fit what has been taken out; here they stay float32.

    Args:
        model: PEFT's model with an adapter of its usual initial weights.
        start: Value of init_lora_weights: pissa, pissa_niter_[n] or olora.

    Source: PiSSA, arXiv:2404.02948, section 3; OLoRA, arXiv:2406.01775, section 3.
    """
    for layer in model.modules():
        if not hasattr(layer, "lora_A"):
            continue
        for adapter in layer.lora_A:
            if start == "olora":
                layer.olora_init(adapter)
            else:
                layer.pissa_init(adapter, start)


def adapter_matrices(model: Any) -> dict[str, torch.Tensor]:
    """Return a copy of A and B of every layer, by their names in the model."""
    return {
        name: p.detach().clone()
        for name, p in model.named_parameters()
        if ".lora_A." in name or ".lora_B." in name
    }


def take_out(model: Any, matrices: Mapping[str, torch.Tensor]) -> None:
    """Subtract initial matrices from the weights of the model, as PEFT does when it computes them.

    Args:
        model: PEFT's model, whose weights are those of the base model.
        matrices: What `adapter_matrices` returned at the start.
    """
    for name, a in matrices.items():
        layer_name, found, adapter = name.partition(".lora_A.")
        if not found:
            continue
        adapter = adapter.removesuffix(".weight")
        layer = model.get_submodule(layer_name)
        weight = layer.get_base_layer().weight
        a = a.to(weight.device)
        b = matrices[f"{layer_name}.lora_B.{adapter}.weight"].to(weight.device)
        whole = weight.data.float()
        if is_transposed := bool(layer.fan_in_fan_out):
            whole = whole.T
        rest = (whole - layer.scaling[adapter] * b @ a).to(weight.dtype)
        weight.data = rest.T.contiguous() if is_transposed else rest


def to_plain_lora(folder: Path, initial: Mapping[str, torch.Tensor]) -> None:
    """Rewrite a saved adapter so that it fits the unchanged model: B A - B0 A0, of twice the rank.

    Args:
        folder: Folder of the adapter, which is changed.
        initial: The matrices at the start, by their names in the model.

    Source: PEFT, LoraModel.subtract_mutated_init.
    """
    weights = load_file(folder / _WEIGHTS)
    of_file = {name.replace(".default.weight", ".weight"): one for name, one in initial.items()}
    for name, now in weights.items():
        if name not in of_file:
            continue
        first = of_file[name].to("cpu", now.dtype)
        is_a = ".lora_A." in name
        weights[name] = torch.cat([now, first if is_a else -first], dim=0 if is_a else 1)
    save_file({k: v.contiguous() for k, v in weights.items()}, folder / _WEIGHTS, {"format": "pt"})
    file = folder / "adapter_config.json"
    about = json.loads(file.read_text(encoding="utf-8"))
    more = (
        2**0.5 if about.get("use_rslora") else 2
    )  # what keeps lora_alpha over the (root of the) rank
    about |= {
        "init_lora_weights": True,
        "r": 2 * about["r"],
        "lora_alpha": more * about["lora_alpha"],
        "rank_pattern": {k: 2 * v for k, v in (about.get("rank_pattern") or {}).items()},
        "alpha_pattern": {k: more * v for k, v in (about.get("alpha_pattern") or {}).items()},
    }
    file.write_text(json.dumps(about, indent=2, sort_keys=True), encoding="utf-8")
