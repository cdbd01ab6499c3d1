"""Dropout on the attention weights and on the hidden states of a loaded model.

Attention: the probability that the model's own layers read at each forward pass. Hidden states:
dropout on the outputs of attention and feed-forward before they are added to the residual stream,
h + dropout(f(h)) (Attention Is All You Need, arXiv:1706.03762, section 5.4); models such as Llama
have none, so theirs is added by a hook. With a warm-up, in step t of T and layer n of N, counted from
0, each probability is p * min(1, t / T) * n / N, as in ERNIEKit's LayerwiseDropoutCallback.
"""

from __future__ import annotations

from typing import Any

import torch
import transformers

ATTENTION = ("self_attn", "attn", "attention", "self_attention")
_FEED_FORWARD = ("mlp", "feed_forward", "ffn", "block_sparse_moe")
_OF_ATTENTION = ("attn_dropout", "attention_dropout")
_OF_RESULTS = ("resid_dropout", "residual_dropout", "hidden_dropout", "resid_attn_dropout")


def decoder_layers(model: torch.nn.Module) -> list[torch.nn.Module]:
    """Return the stacked layers: those of the longest list whose items have attention."""
    lists = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList)]
    stacks = [list(m) for m in lists if len(m) and _child(m[0], ATTENTION) is not None]
    return max(stacks, key=len, default=[])


def set_dropout(model: torch.nn.Module, attention: float | None, hidden: float | None) -> None:
    """Set both probabilities in every layer; None leaves those of the model.

    Args:
        model: A model of transformers.
        attention: Share of the attention weights that is dropped.
        hidden: Share of each block's output that is dropped.

    Raises:
        ValueError: The model's layers, or the dropout of its attention, cannot be found.
    """
    layers = decoder_layers(model)
    is_set = [_set_in_layer(layer, attention, hidden, 1.0) for layer in layers]
    if not layers or (attention is not None and not all(is_set)):
        raise ValueError("its layers have no dropout that could be set")


def set_warming_dropout(
    model: torch.nn.Module, attention: float | None, hidden: float | None, step: int, steps: int
) -> None:
    """Set the probabilities of one step of the warm-up, higher in later layers.

    Args:
        model: A model of transformers.
        attention: As in `set_dropout`, at the end.
        hidden: As in `set_dropout`, at the end.
        step: Optimiser steps done.
        steps: Steps of the warm-up; 0 skips it.
    """
    layers = decoder_layers(model)
    rise = min(1.0, step / steps) if steps else 1.0
    for number, layer in enumerate(layers):
        _set_in_layer(layer, attention, hidden, rise * number / len(layers))


class DropoutWarmup(transformers.TrainerCallback):
    """Sets the probabilities before each step."""

    def __init__(self, attention: float | None, hidden: float | None, steps: int) -> None:
        self._how = attention, hidden
        self._steps = steps

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Set the probabilities for the coming step."""
        set_warming_dropout(kwargs["model"], *self._how, state.global_step, self._steps)


def _set_in_layer(
    layer: torch.nn.Module, attention: float | None, hidden: float | None, rise: float
) -> bool:
    """Set the probabilities in one layer, and return whether its attention has one to set."""
    block, forward = _child(layer, ATTENTION), _child(layer, _FEED_FORWARD)
    has_own = False
    if attention is not None and block is not None:
        for module in block.modules():
            for name in _OF_ATTENTION:
                has_own |= _set_share(module, name, attention * rise)
    for part in (block, forward):
        if part is None or hidden is None:
            continue
        names = (*_OF_RESULTS, "dropout") if part is forward else _OF_RESULTS
        owns = [_set_share(part, name, hidden * rise) for name in names]
        if not any(owns):
            if not hasattr(part, "result_dropout"):
                part.register_forward_hook(_drop_result)
            part.result_dropout = hidden * rise  # type: ignore[assignment]
    return has_own


def _set_share(module: torch.nn.Module, name: str, share: float) -> bool:
    """Set a probability that a module has under a name, as a number or as a dropout layer."""
    own = getattr(module, name, None)
    if isinstance(own, torch.nn.Dropout):
        own.p = share
    elif isinstance(own, (int, float)):
        setattr(module, name, share)
    return isinstance(own, (torch.nn.Dropout, int, float))


def _drop_result(module: torch.nn.Module, given: Any, result: Any) -> Any:
    """Apply dropout to a block's output; attention returns its weights too."""
    if isinstance(result, tuple):
        return (_drop_result(module, given, result[0]), *result[1:])
    share = float(module.result_dropout)  # type: ignore[arg-type]
    return torch.nn.functional.dropout(result, share, module.training)


def _child(layer: torch.nn.Module, names: tuple[str, ...]) -> torch.nn.Module | None:
    children = (getattr(layer, name, None) for name in names)
    return next((m for m in children if isinstance(m, torch.nn.Module)), None)
