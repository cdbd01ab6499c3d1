"""Mixed precision beyond what accelerate does: lists of operators, O2, the first loss scale.

O1 is accelerate's autocast: float32 weights, 16-bit products. Under O2 the weights themselves are
16-bit and the optimiser holds a float32 master copy of each (`optim.OffloadedOptimizer`). An
operator on the black list gets its inputs in float32, one on the white list in 16 bits, whatever
autocast would do.

Source: Mixed Precision Training, arXiv:1710.03740, sections 3.1 and 3.2. Called by
`nbft.training.trainer`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from nbft.config import Config
from nbft.config.precision import OPERATORS
from nbft.decisions import Decisions
from nbft.errors import ConfigError, Problem

_FIRST_LOSS_SCALE = 65536.0
"""torch's own."""

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class OperatorLists(TorchFunctionMode):
    """Casts the inputs of listed operators.

    Args:
        white: Operators that compute in the low type.
        black: Operators that compute in float32; a name in both lists is black.
        low: The low type.
    """

    def __init__(self, white: Iterable[str], black: Iterable[str], low: torch.dtype) -> None:
        super().__init__()
        self._type_of = {OPERATORS[name]: low for name in white}
        self._type_of |= {OPERATORS[name]: torch.float32 for name in black}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run one operator."""
        kwargs = kwargs or {}
        dtype = self._type_of.get(_name(func))
        if dtype is None or "out" in kwargs:  # a result goes where it was asked for
            return func(*args, **kwargs)
        args, kwargs = _cast(args, dtype), _cast(kwargs, dtype)
        device = next((t.device.type for t in _tensors(args, kwargs)), "cpu")
        with torch.autocast(device, enabled=False):  # or autocast would cast them back
            return func(*args, **kwargs)


def _name(func: Callable[..., Any]) -> str:
    """Return the operator behind a function or a sign: div of `torch.Tensor.__truediv__`.

    In-place operators (`mul_`) keep their names, which are on no list: a copy would take the result.
    """
    name = getattr(func, "__name__", "")
    if name.startswith("__") and name.endswith("__"):
        name = name[2:-2]
        reflected = ("radd", "rmul", "rmatmul", "rtruediv", "rpow", "rsub")
        name = name[1:] if name in reflected else name
    return {"truediv": "div", "mm": "matmul", "bmm": "matmul"}.get(name, name)


def _cast(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, torch.Tensor):
        return value.to(dtype) if value.is_floating_point() else value
    if isinstance(value, (tuple, list)):
        return type(value)(_cast(part, dtype) for part in value)
    if isinstance(value, dict):
        return {key: _cast(part, dtype) for key, part in value.items()}
    return value


def _tensors(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterable[torch.Tensor]:
    parts = [*args, *kwargs.values()]
    parts += [inner for part in parts if isinstance(part, (tuple, list)) for inner in part]
    return (part for part in parts if isinstance(part, torch.Tensor))


def low_weights(model: torch.nn.Module, low: str, *, master_grad: bool) -> None:
    """Convert the weights to 16 bits for O2.

    Args:
        model: The model; changed in place.
        low: "bf16" or "fp16".
        master_grad: Accumulate gradients in float32.

    Raises:
        ConfigError: This torch cannot keep gradients of another type than the weights.
    """
    if master_grad and not hasattr(torch.Tensor, "grad_dtype"):
        why = f"needs torch 2.10, and this is {torch.__version__}."
        fix = "Turn it off, or upgrade torch."
        raise ConfigError(Problem("precision.amp_master_grad", True, why, fix))
    for p in model.parameters():
        if p.dtype == torch.float32:
            p.data = p.data.to(_DTYPES[low])
        if p.requires_grad and master_grad:
            p.grad_dtype = torch.float32


def train_in_float32(model: torch.nn.Module) -> None:
    """Convert what is trained of float16 weights to float32: torch unscales no float16 gradients."""
    for p in model.parameters():
        if p.requires_grad and p.dtype == torch.float16:
            p.data = p.data.float()


class OwnPrecision:
    """Part of a trainer: operator lists inside accelerate's autocast, and fp16's first loss scale."""

    nbft_config: Config
    nbft_decisions: Decisions

    def compute_loss_context_manager(self) -> contextlib.ExitStack:
        """Return what the loss is computed in."""
        stack: contextlib.ExitStack = super().compute_loss_context_manager()  # type: ignore[misc]
        ours = self.nbft_config.precision
        is_mixed = self.nbft_decisions.mixed_precision.value != "no"
        if not is_mixed or not (ours.amp_custom_white_list or ours.amp_custom_black_list):
            return stack
        low = torch.float16 if self.args.fp16 else torch.bfloat16  # type: ignore[attr-defined]
        stack.enter_context(
            OperatorLists(ours.amp_custom_white_list, ours.amp_custom_black_list, low)
        )
        return stack

    def _build_accelerator_args(self, **kwargs: Any) -> dict[str, Any]:
        from accelerate.utils import GradScalerKwargs

        arguments: dict[str, Any] = super()._build_accelerator_args(**kwargs)  # type: ignore[misc]
        scale = self.nbft_config.precision.loss_scale
        if self.nbft_decisions.mixed_precision.value != "fp16" or scale == _FIRST_LOSS_SCALE:
            return arguments
        scaler = GradScalerKwargs(init_scale=scale)
        return {**arguments, "kwargs_handlers": [*arguments["kwargs_handlers"], scaler]}
