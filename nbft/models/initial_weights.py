"""Initial weights of LoRA that need more than its layer: training rows, or unquantised weights.

And those that are taken out of the model's weights, which have to be put back or accounted for.
Called by `nbft.models.peft_types` and `nbft.training`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from nbft.config import Config
from nbft.errors import ConfigError, Problem
from nbft.models.adapters import base_name
from nbft.models.find import find_local

IGNORE_INDEX = -100
"""Label of a token that is not trained on."""

_WEIGHTS = "adapter_model.safetensors"


_EVA_TOKENS = 512
"""Trained tokens of a batch that EVA looks at, at least."""

_EVA_BATCHES = 64
"""Batches of rows that it goes through again and again until its directions stay."""


def use_eva(model: Any, rows: Any, pad_token_id: int) -> None:
    """Start from the directions in which the inputs of each layer vary most.

    Args:
        model: PEFT's model with init_lora_weights=eva.
        rows: Training rows with input_ids and labels, [s] each.
        pad_token_id: The token that fills rows up.

    Raises:
        ConfigError: The rows have fewer trained tokens than a layer may get directions.

    Source: EVA, arXiv:2410.07170, section 3.
    """
    import peft

    (asked,) = model.peft_config.values()
    layers = [layer for layer in model.modules() if hasattr(layer, "lora_A")]
    ranks = [asked.r, *asked.rank_pattern.values()]
    narrowest = min(layer.in_features for layer in layers)
    asked.eva_config.rho = max(1.0, min(asked.eva_config.rho, narrowest / max(ranks)))
    directions = round(max(ranks) * asked.eva_config.rho)
    batches = _batches(rows, pad_token_id, max(_EVA_TOKENS, 2 * directions))
    found = max((_trained(batch) for batch in batches), default=0)
    if found < directions:
        why = f"needs {directions:,} trained tokens, and the rows have {found:,}."
        fix = "Use more rows, a lower rank, or default."
        raise ConfigError(Problem("peft.init_lora_weights", "eva", why, fix))
    peft.initialize_lora_eva_weights(
        model,
        [batch for batch in batches if _trained(batch) >= directions],
        show_progress_bar=False,
        gather_distributed_inputs=False,
    )


def _batches(rows: Any, pad_token_id: int, tokens: int) -> list[dict[str, torch.Tensor]]:
    """Return batches of rows, each with at least so many trained tokens, but the last."""
    batches: list[dict[str, torch.Tensor]] = []
    batch: list[tuple[list[int], list[int]]] = []
    count = 0
    for row in rows:
        batch.append((row["input_ids"], row["labels"]))
        count += sum(label != IGNORE_INDEX for label in row["labels"])
        if count >= tokens:
            batches.append(_padded(batch, pad_token_id))
            batch, count = [], 0
            if len(batches) == _EVA_BATCHES:
                break
    return batches + ([_padded(batch, pad_token_id)] if batch and not batches else [])


def _padded(rows: list[tuple[list[int], list[int]]], pad_token_id: int) -> dict[str, torch.Tensor]:
    """Return input_ids, labels and attention_mask of rows, [b, s] each, filled up on the right."""
    width = max(len(ids) for ids, _ in rows)

    def filled(parts: list[list[int]], value: int) -> torch.Tensor:
        return torch.tensor([part + [value] * (width - len(part)) for part in parts])

    return {
        "input_ids": filled([ids for ids, _ in rows], pad_token_id),
        "labels": filled([labels for _, labels in rows], IGNORE_INDEX),
        "attention_mask": filled([[1] * len(ids) for ids, _ in rows], 0),
    }


def _trained(batch: Mapping[str, torch.Tensor]) -> int:
    return int((batch["labels"] != IGNORE_INDEX).sum())


def use_loftq(model: Any, config: Config) -> None:
    """Start from the best approximation of what the rounding of 4-bit weights has lost.

    Args:
        model: PEFT's model on layers in 4 bits.
        config: Its model section names the unquantised weights.

    Raises:
        ConfigError: They are not there as safetensors.

    Source: LoftQ, arXiv:2310.08659, section 3, with one iteration on fixed 4-bit weights.
    """
    from peft.utils.integrations import dequantize_module_weight

    found = find_local(base_name(config), config.model.model_revision)
    files = sorted(found.path.glob("*.safetensors")) if found else []
    if not files:
        why = "compares with the unquantised weights, which are not there as safetensors."
        raise ConfigError(Problem("peft.init_lora_weights", "loftq", why, "Use default."))
    layers = {
        f"{name.removeprefix('base_model.model.')}.weight": layer
        for name, layer in model.named_modules()
        if hasattr(layer, "lora_A") and hasattr(layer.get_base_layer().weight, "quant_state")
    }
    for file in files:
        with safe_open(file, "pt") as weights:
            for name in layers.keys() & set(weights.keys()):
                layer = layers[name]
                rounded = dequantize_module_weight(layer.get_base_layer()).float()
                lost = weights.get_tensor(name).to(rounded.device, torch.float32) - rounded
                (adapter,) = layer.lora_A
                rank, scaling = layer.r[adapter], layer.scaling[adapter]
                u, s, v = torch.linalg.svd(lost, full_matrices=False)
                root = (s[:rank] / scaling).sqrt()
                layer.lora_A[adapter].weight.data.copy_(root[:, None] * v[:rank])
                layer.lora_B[adapter].weight.data.copy_(u[:, :rank] * root)


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


def eva_ranks(checkpoint: Path) -> dict[str, Any]:
    """Return the layers and ranks that EVA has chosen, from a checkpoint of the run."""
    about = json.loads((checkpoint / "adapter_config.json").read_text(encoding="utf-8"))
    names = ("target_modules", "rank_pattern", "alpha_pattern")
    return {name: about[name] for name in names if name in about}


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
