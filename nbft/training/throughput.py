"""Measures of a run: its layers, its tokens, its share of the device's peak.

Model FLOPs utilisation: a token costs 2 N FLOPs forward, 2 N backward through the activations and
2 N_t for the gradients of the trained weights, and attention 12 L H T more (4 of it forward); MFU is
these FLOPs per second over the device's peak. Source: PaLM, arXiv:2204.02311, appendix B, where all
weights are trained and N_t = N. Called by `nbft.training.trainer` and the worker.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

from nbft.config import Config
from nbft.methods import IGNORE_INDEX


def summary(model: Any) -> str:
    """Return the layers of a model as a table: name, class, parameters, trained ones."""
    lines = [f"{'parameters':>14} {'trained':>12}  layer"]
    for name, module in model.named_modules():
        own = list(module.parameters(recurse=False))
        if not own:
            continue
        size, trained = _parameters(own)
        lines.append(f"{size:>14,} {trained:>12,}  {name or '(model)'} ({type(module).__name__})")
    size, trained = _parameters(model.parameters())
    lines.append(f"{size:>14,} {trained:>12,}  all, shared ones once")
    return "\n".join(lines) + "\n"


def _parameters(parameters: Iterable[Any]) -> tuple[int, int]:
    """Return the number of weights, and of those that are trained."""
    sizes = [(p.numel(), p.numel() * p.requires_grad) for p in parameters]
    return sum(size for size, _ in sizes), sum(trained for _, trained in sizes)


def flops_per_token(
    parameters: int, trained: int, layers: int, hidden_size: int, row_tokens: float
) -> float:
    """Return the FLOPs that a token of training costs.

    Args:
        parameters: Parameters of the model, without the input embeddings.
        trained: Trained parameters.
        layers: Number of layers.
        hidden_size: Width of its attention.
        row_tokens: Tokens per row.

    >>> f"{flops_per_token(100, 100, 0, 0, 0):.0f}"
    '600'
    """
    return 4 * parameters + 2 * trained + 12 * layers * hidden_size * row_tokens


class Throughput:
    """Part of a trainer: adds token statistics and MFU of forward and backward pass to each log."""

    nbft_config: Config
    nbft_peak_flops: float | None

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        """Count a batch and its time if a setting asks for it."""
        ours = self.nbft_config.logging
        if not (ours.include_performance_metrics or ours.include_mfu):
            return super().training_step(model, inputs, *args, **kwargs)  # type: ignore[misc]
        self._count(inputs)
        began = time.monotonic()
        loss = super().training_step(model, inputs, *args, **kwargs)  # type: ignore[misc]
        loss.item()  # waits for the GPU
        self._seen["seconds"] += time.monotonic() - began
        return loss

    def _count(self, inputs: Any) -> None:
        if not hasattr(self, "_seen"):
            self._seen = dict.fromkeys(("rows", "tokens", "padded", "trained", "seconds"), 0.0)
        ids, seen = inputs["input_ids"], self._seen
        mask, positions = inputs.get("attention_mask"), inputs.get("position_ids")
        seen["rows"] += int((positions == 0).sum()) if positions is not None else len(ids)
        seen["padded"] += ids.numel()
        seen["tokens"] += int(mask.sum()) if mask is not None else ids.numel()
        seen["trained"] += int((inputs["labels"] != IGNORE_INDEX).sum())

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add the numbers since the last log."""
        seen = getattr(self, "_seen", None)
        if "loss" in logs and seen and seen["tokens"]:
            logs |= self._numbers(seen)
            self._seen = dict.fromkeys(seen, 0.0)
        super().log(logs, *args, **kwargs)  # type: ignore[misc]

    def _numbers(self, seen: dict[str, float]) -> dict[str, float]:
        numbers: dict[str, float] = {}
        seconds = max(seen["seconds"], 1e-9)
        if self.nbft_config.logging.include_performance_metrics:
            numbers |= {
                "rows_per_second": seen["rows"] / seconds,
                "compute_tokens_per_second": seen["tokens"] / seconds,
                "tokens_per_row": seen["tokens"] / seen["rows"],
                "trained_share": seen["trained"] / seen["tokens"],
                "padding_share": 1 - seen["tokens"] / seen["padded"],
            }
        if self.nbft_config.logging.include_mfu and self.nbft_peak_flops:
            model: Any = self.model  # type: ignore[attr-defined]
            shape = model.config.get_text_config()
            a_token = flops_per_token(
                model.num_parameters(exclude_embeddings=True)
                + model.get_output_embeddings().weight.numel(),
                sum(p.numel() for p in model.parameters() if p.requires_grad),
                shape.num_hidden_layers,
                shape.hidden_size,
                seen["tokens"] / seen["rows"],
            )
            numbers["model_flops_per_second"] = a_token * seen["tokens"] / seconds
            numbers["mfu"] = numbers["model_flops_per_second"] / self.nbft_peak_flops
        return numbers
