"""Checks a device's operators one by one: each is run again on a reference device and compared.

Over a range of steps every operator of the forward and backward pass is intercepted, its inputs are
copied to the reference device before it runs (it may write into them), and the two results are
compared: the error is max |a - b| / (1 + max |b|). The first difference is reported in the run's
events with the operator, its inputs' shapes and the error; all go into verifier.json. Operators that
draw random numbers or leave memory uninitialised are skipped. Registered as `op_by_op_verifier`.
"""

from __future__ import annotations

import contextlib
import json
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map
from transformers import TrainerCallback, TrainerState, TrainingArguments

from nbft import events
from nbft.training.callbacks.profiling import check_range
from nbft.training.callbacks.writing import run_folder

_NOT_COMPARED = ("empty", "new_empty", "rand", "bernoulli", "dropout")
"""Beginnings of the names of operators that are skipped."""

_TOLERANCE = {torch.float16: 1e-2, torch.bfloat16: 5e-2, torch.float64: 1e-9}
_USUAL_TOLERANCE = 1e-4


class OpByOp(TorchDispatchMode):
    """Runs each operator twice and records where the results differ.

    Args:
        reference: Device of the second run.
        dtype: Number type there; that of the inputs when None.
        tolerance: Largest error; chosen by the type of the result when None.
        operators: Only these, such as ["mm", "softmax"]; all when empty.
    """

    def __init__(
        self,
        reference: str = "cpu",
        dtype: torch.dtype | None = None,
        tolerance: float | None = None,
        operators: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        self._reference, self._dtype, self._tolerance = reference, dtype, tolerance
        self._operators = operators
        self.compared = 0
        self.differences: list[dict[str, Any]] = []

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run one operator."""
        kwargs = kwargs or {}
        name = func.overloadpacket.__name__
        is_skipped = name.strip("_").startswith(_NOT_COMPARED)
        if is_skipped or (self._operators and name not in self._operators) or func.is_view:
            return func(*args, **kwargs)
        copies = tree_map(self._copy, (args, {**kwargs}))
        result = func(*args, **kwargs)
        self._compare(name, func, copies, (args, kwargs), result)
        return result

    def _copy(self, value: Any) -> Any:
        if isinstance(value, torch.device):
            return torch.device(self._reference)
        if not isinstance(value, torch.Tensor):
            return self._dtype if self._dtype and _is_float(value) else value
        copy = value.detach().to(self._reference, copy=True)
        return copy.to(self._dtype) if self._dtype and copy.is_floating_point() else copy

    def _compare(self, name: str, func: Any, copies: Any, given: Any, result: Any) -> None:
        try:
            expected = self._again(func, *copies)
        except (RuntimeError, NotImplementedError):  # not available on the reference device
            return
        outputs = zip(_tensors(result), _tensors(expected), strict=False)
        for number, (ours, theirs) in enumerate(outputs):
            self.compared += 1
            error = _error(ours, theirs)
            limit = self._tolerance or _TOLERANCE.get(ours.dtype, _USUAL_TOLERANCE)
            if not error <= limit:
                self.differences.append(
                    {
                        "operator": name,
                        "output": number,
                        "shapes": [list(t.shape) for t in _tensors(given)],
                        "dtypes": [str(t.dtype).removeprefix("torch.") for t in _tensors(given)],
                        "error": error,
                        "tolerance": limit,
                    }
                )

    def _again(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run an operator on the reference device; a test replaces it to inject a fault."""
        return func(*args, **kwargs)


def _is_float(value: Any) -> bool:
    return isinstance(value, torch.dtype) and value.is_floating_point


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [tensor for part in value for tensor in _tensors(part)]
    return []


def _error(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    """Return max |a - b| / (1 + max |b|); infinity if the shapes differ."""
    if ours.shape != theirs.shape:
        return float("inf")
    if ours.numel() == 0:
        return 0.0
    a, b = (t.detach().to("cpu", torch.float64) for t in (ours, theirs))
    same = (a == b) | (a.isnan() & b.isnan())
    apart = (a - b).abs().masked_fill(same, 0.0).amax()
    largest = b.abs().masked_fill(~b.isfinite(), 0.0).amax()
    return float(apart / (1 + largest))


class OpByOpVerifierCallback(TrainerCallback):
    """Verifies the operators of some steps, which then take several times as long.

    Args:
        first_step: First step that is verified, counted from 1.
        last_step: Last step that is verified.
        reference_device: Where each operator runs again.
        reference_dtype: Number type there, such as float64; that of the run when None.
        tolerance: Largest error; chosen by the number type when None.
        operators: Only these; all when empty.
        stop_at_first: Verify no more after the first difference.
    """

    def __init__(
        self,
        first_step: int = 1,
        last_step: int = 1,
        *,
        reference_device: str = "cpu",
        reference_dtype: str | None = None,
        tolerance: float | None = None,
        operators: list[str] | None = None,
        stop_at_first: bool = False,
    ) -> None:
        check_range("op_by_op_verifier", first_step, last_step)
        self._first, self._last = first_step, last_step
        dtype = getattr(torch, reference_dtype) if reference_dtype else None
        self._mode = OpByOp(reference_device, dtype, tolerance, tuple(operators or ()))
        self._stack: contextlib.ExitStack | None = None
        self._stop_at_first = stop_at_first
        self._steps: list[int] = []
        self._is_reported = False

    def on_step_begin(self, args: Any, state: TrainerState, *_: Any, **__: Any) -> None:
        """Start to intercept operators."""
        step = state.global_step + 1
        done = self._stop_at_first and self._mode.differences
        if self._stack is None and not done and self._first <= step <= self._last:
            self._stack = contextlib.ExitStack()
            self._stack.enter_context(self._mode)
            self._steps.append(step)

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any
    ) -> None:
        """Stop before the optimiser, which writes in place, and report the differences."""
        if self._stack is None:
            return
        self._stack.close()
        self._stack = None
        folder, mode = run_folder(args), self._mode
        report = {
            "steps": self._steps,
            "compared": mode.compared,
            "differences": len(mode.differences),
            "first": next(iter(mode.differences), None),
            "all": mode.differences[:1000],
        }
        (folder / "verifier.json").write_text(json.dumps(report, indent=1), encoding="utf-8")
        if mode.differences and not self._is_reported:
            self._is_reported = True
            first = mode.differences[0]
            shapes = ", ".join(str(shape) for shape in first["shapes"])
            text = (
                f"The operator {first['operator']} on inputs {shapes} differs from the reference by "
                f"{first['error']:.3g} (at most {first['tolerance']:g} is allowed) in step "
                f"{self._steps[-1]}. All differences are in {folder / 'verifier.json'}."
            )
            events.append(
                folder / "events.jsonl", "note", step=state.global_step, text=text, kind="operator"
            )
