"""Gradient checkpointing of less than whole layers: of attention modules, or of their core.

full is transformers' own. full_attn keeps the activations of the MLP and recomputes each attention
module in the backward pass; core_attn recomputes only softmax(q k' / √d) v, whose memory grows
fastest. Source: Reducing Activation Recomputation, arXiv:2205.05198, section 5. Called by
`nbft.training.trainer`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from nbft.errors import ModelError, Problem
from nbft.models.dropout import ATTENTION
from nbft.models.subclass import extend

_NAME = "nbft_again_"


def use_granularity(model: torch.nn.Module, granularity: str, arguments: dict[str, Any]) -> None:
    """Make a model recompute its attention in the backward pass.

    Args:
        model: The model, with its adapter; changed in place.
        granularity: "full_attn" or "core_attn".
        arguments: Those of torch.utils.checkpoint.

    Raises:
        ModelError: No attention was found in the model.
    """
    arguments = {"use_reentrant": False, **arguments}
    if granularity == "core_attn":
        _recompute_core(model, arguments)
        return
    modules = [m for name, m in model.named_modules() if name.rpartition(".")[2] in ATTENTION]
    if not modules:
        raise ModelError(_none_found(granularity))
    for module in modules:
        extend(module, _Recomputed)
        module.checkpoint_arguments = arguments


class _Recomputed:
    """Comes before the class of an attention module and recomputes the module."""

    checkpoint_arguments: dict[str, Any]
    training: bool

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        usual: Callable[..., Any] = super().__call__  # type: ignore[misc]
        return _recomputed(usual, self.training, self.checkpoint_arguments, *args, **kwargs)


def _recomputed(
    function: Callable[..., Any],
    is_training: bool,
    arguments: dict[str, Any],
    /,
    *args: Any,
    **kwargs: Any,
) -> Any:
    """Call a function so that the backward pass recomputes its activations."""
    if not (is_training and torch.is_grad_enabled()):
        return function(*args, **kwargs)
    if arguments["use_reentrant"]:  # takes no keywords, and no gradients flow through them
        names = [name for name, value in kwargs.items() if isinstance(value, torch.Tensor)]
        rest = {name: value for name, value in kwargs.items() if name not in names}
        tensors = [kwargs[name] for name in names]
        call = functools.partial(_positional, function, names, rest)
        return checkpoint(call, *tensors, *args, **arguments)
    return checkpoint(function, *args, **kwargs, **arguments)


def _positional(
    function: Callable[..., Any], names: list[str], rest: dict[str, Any], *given: Any
) -> Any:
    tensors, args = given[: len(names)], given[len(names) :]
    return function(*args, **dict(zip(names, tensors, strict=True)), **rest)


def _recompute_core(model: Any, arguments: dict[str, Any]) -> None:
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    usual = inner.config._attn_implementation
    core = ALL_ATTENTION_FUNCTIONS.get(usual)
    if core is None:
        raise ModelError(_none_found("core_attn"))

    def attend(module: torch.nn.Module, *args: Any, **kwargs: Any) -> Any:
        call = functools.partial(core, module)
        return _recomputed(call, module.training, arguments, *args, **kwargs)

    # Registered for the whole process: runs with other arguments need another name.
    name = f"{_NAME}{usual}_{'_'.join(f'{key}={arguments[key]}' for key in sorted(arguments))}"
    AttentionInterface.register(name, attend)
    AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS[usual])
    inner.set_attn_implementation(name)


def _none_found(granularity: str) -> Problem:
    return Problem(
        "memory.recompute_granularity",
        granularity,
        "finds no attention in this model that it could recompute.",
        "Use full.",
        {"memory.recompute_granularity": "full"},
    )
