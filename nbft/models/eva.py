"""EVA: LoRA whose A begins with the directions in which the inputs of each layer vary most.

Called by `nbft.models.peft_types.lora`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import peft
import torch

from nbft.errors import ConfigError, Problem

IGNORE_INDEX = -100
"""Label of a token that is not trained on."""

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
    for name, p in model.named_parameters():
        if ".lora_" in name and p.dtype.itemsize < 4:  # PEFT makes layers of another rank anew
            p.data = p.data.float()


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


def eva_ranks(checkpoint: Path) -> dict[str, Any]:
    """Return the layers and ranks that EVA has chosen, from a checkpoint of the run."""
    about = json.loads((checkpoint / "adapter_config.json").read_text(encoding="utf-8"))
    names = ("target_modules", "rank_pattern", "alpha_pattern")
    return {name: about[name] for name in names if name in about}
