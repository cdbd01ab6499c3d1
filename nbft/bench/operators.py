"""Counts the operators of a training step, by part of the model.

An operator is a call of torch that computes or copies: on a GPU each is one launch or a few. Views
and empty tensors are none. One that belongs to the backward pass counts for the part whose forward
pass made its node.

No GPU is needed. Two kernels that only a GPU has are stood in for by what they compute, counted as
one operator forward and one backward. Called by `nbft.bench.clock` and `nbft.bench.sides`.
"""

from __future__ import annotations

import bisect
import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.nn.modules import module as hooks
from torch.optim import optimizer as optimizers
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes

_PARTS = {
    "Norm": "norms",
    "Linear": "projections",
    "Linear4bit": "projections",
    "Attention": "attention",
    "RotaryEmbedding": "attention",
    "MLP": "activations of the MLP",
    "DecoderLayer": "residuals and embeddings",
    "Model": "residuals and embeddings",
    "ForCausalLM": "head and loss",
}
"""Part by the end of a module's class name."""

_REST = "clipping and counts"

_ALLOCATIONS = ("empty", "new_empty", "empty_like", "new_empty_strided", "empty_strided")


@contextlib.contextmanager
def counted_by_part(counts: dict[str, int]) -> Iterator[None]:
    """Add the number of operators of a block to those of each part of the model."""
    mode = _Counting(counts)
    handles = [
        hooks.register_module_forward_pre_hook(lambda module, _: mode.enter(_part_of(module))),
        hooks.register_module_forward_hook(lambda *_: mode.leave(), always_call=True),
        optimizers.register_optimizer_step_pre_hook(lambda *_: mode.enter("optimiser")),
        optimizers.register_optimizer_step_post_hook(lambda *_: mode.leave()),
    ]
    try:
        with mode:
            yield
    finally:
        for handle in handles:
            handle.remove()


class _Counting(TorchDispatchMode):
    def __init__(self, counts: dict[str, int]) -> None:
        super().__init__()
        self._counts = counts
        self._within = [_REST]
        self._begins, self._parts = [0], [_REST]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if not (
            func.is_view
            or func.namespace == "profiler"
            or func.overloadpacket.__name__ in _ALLOCATIONS
        ):
            part = self._part()
            self._counts[part] = self._counts.get(part, 0) + 1
        return func(*args, **(kwargs or {}))

    def _part(self) -> str:
        node: Any = torch._C._current_autograd_node()
        if node is None:
            return self._within[-1]
        # Nodes are numbered in the order in which the forward pass makes them.
        return self._parts[bisect.bisect(self._begins, node._sequence_nr()) - 1]

    def enter(self, part: str | None) -> None:
        """Count for a part from here on; None goes on with the current one."""
        self._within.append(part or self._within[-1])
        self._note()

    def leave(self) -> None:
        """Count for the part before again."""
        self._within.pop()
        self._note()

    def _note(self) -> None:
        self._begins.append(torch._C._autograd._get_sequence_nr())
        self._parts.append(self._within[-1])


def _part_of(module: torch.nn.Module) -> str | None:
    for kind in type(module).__mro__:
        for end, part in _PARTS.items():
            if kind.__name__.endswith(end):
                return part
    return None


class _OneKernel(torch.autograd.Function):
    """A function of tensors as one operator forward and one backward."""

    @staticmethod
    def forward(ctx: Any, function: Callable[..., torch.Tensor], *inputs: torch.Tensor) -> Any:
        with _disable_current_modes(), torch.enable_grad():
            ctx.inputs = [one.detach().requires_grad_(one.requires_grad) for one in inputs]
            ctx.output = function(*ctx.inputs)
        return ctx.output.detach().clone()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        wanted = [one for one in ctx.inputs if one.requires_grad]
        with _disable_current_modes():
            found = iter(torch.autograd.grad(ctx.output, wanted, gradients[0]))
        results = [next(found) if one.requires_grad else None for one in ctx.inputs]
        counted = next(n for n, one in enumerate(results) if one is not None)
        results[counted] = results[counted].clone()  # type: ignore[union-attr]
        return None, *results


def stand_in_for_gpu_kernels() -> None:
    """Let the rest of this process take nbft's way on a GPU, with what its kernels compute."""
    from nbft.training.fast import attention, norm

    def attend(rows: Any, scaling: float, window: int | None, begins: Any, longest: int) -> Any:
        lengths = begins.diff().tolist()
        return _OneKernel.apply(
            lambda *parts: attention._row_by_row(parts, scaling, window, lengths), *rows
        )

    def lean(x: torch.Tensor, weight: torch.Tensor, eps: float) -> Any:
        return _OneKernel.apply(
            lambda *parts: torch.nn.functional.rms_norm(parts[0], weight.shape, parts[1], eps),
            *(x, weight),
        )

    attention._takes_varlen = lambda *_: True
    attention._by_varlen = attend
    norm._lean = lean
