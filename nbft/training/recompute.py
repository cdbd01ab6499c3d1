"""What gradient checkpointing computes again: whole layers, their attention, or only its core.

full is transformers' own. full_attn keeps what the MLP needs and computes each attention module
again; core_attn computes again only softmax(q k' / √d) v, whose memory grows fastest.
Source: Reducing Activation Recomputation, arXiv:2205.05198, section 5. Called by
`nbft.training.trainer`.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from nbft.errors import ModelError, Problem

_ATTENTION = ("self_attn", "attn", "attention", "self_attention")
_NAME = "nbft_again_"


def use_granularity(model: torch.nn.Module, granularity: str, arguments: dict[str, Any]) -> None:
    """Make a model compute its attention again in the backward pass.

    Args:
        model: The model, with its adapter; changed in place.
        granularity: "full_attn" or "core_attn".
        arguments: Those of torch.utils.checkpoint.

    Raises:
        ModelError: The model has no attention that could be found.
    """
    arguments = {"use_reentrant": False, **arguments}
    if granularity == "core_attn":
        _core(model, arguments)
        return
    modules = [m for name, m in model.named_modules() if name.rpartition(".")[2] in _ATTENTION]
    if not modules:
        raise ModelError(_none_found(granularity))
    for module in modules:
        module.forward = _again(module, module.forward, arguments)


def _again(module: torch.nn.Module, forward: Any, arguments: dict[str, Any]) -> Any:
    @functools.wraps(forward)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if not (module.training and torch.is_grad_enabled()):
            return forward(*args, **kwargs)
        if arguments["use_reentrant"]:  # it takes no keywords, and looks at no tensor in them
            names = [name for name, value in kwargs.items() if isinstance(value, torch.Tensor)]
            rest = {name: value for name, value in kwargs.items() if name not in names}
            tensors = [kwargs[name] for name in names]
            call = functools.partial(_positional, forward, names, rest)
            return checkpoint(call, *tensors, *args, **arguments)
        return checkpoint(forward, *args, **kwargs, **arguments)

    return wrapped


def _positional(forward: Any, names: list[str], rest: dict[str, Any], *given: Any) -> Any:
    tensors, args = given[: len(names)], given[len(names) :]
    return forward(*args, **dict(zip(names, tensors, strict=True)), **rest)


def _core(model: Any, arguments: dict[str, Any]) -> None:
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    usual = inner.config._attn_implementation
    core = ALL_ATTENTION_FUNCTIONS.get(usual)
    if core is None:
        raise ModelError(_none_found("core_attn"))

    def attend(module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        return _again(module, functools.partial(core, module), arguments)(*args, **kwargs)

    AttentionInterface.register(_NAME + usual, attend)
    AttentionMaskInterface.register(_NAME + usual, ALL_MASK_ATTENTION_FUNCTIONS[usual])
    inner.set_attn_implementation(_NAME + usual)


def _none_found(granularity: str) -> Problem:
    return Problem(
        "memory.recompute_granularity",
        granularity,
        "finds no attention in this model that it could compute again.",
        "Use full.",
        {"memory.recompute_granularity": "full"},
    )
