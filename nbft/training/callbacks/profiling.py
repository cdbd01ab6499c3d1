"""The profiler over a range of steps: torch's on CPU and CUDA, the plugin's on other devices.

Writes profile/steps-<first>-<last>.json, a trace for chrome://tracing or Perfetto, and next to it a
table of the operators that took longest. Registered as `profiler`.
"""

from __future__ import annotations

from typing import Any

import torch
from transformers import TrainerCallback, TrainerState, TrainingArguments

from nbft.errors import ConfigError, Problem
from nbft.hardware import device_of
from nbft.training.callbacks.writing import run_folder


def check_range(key: str, first_step: int, last_step: int) -> None:
    """Check a range of steps.

    Raises:
        ConfigError: It begins before step 1 or ends before it begins.
    """
    if not 1 <= first_step <= last_step:
        why = "is not a range of steps: first_step must be at least 1 and at most last_step."
        fix = "Use first_step: 2, last_step: 4."
        raise ConfigError(Problem(f"callbacks.callbacks.{key}", [first_step, last_step], why, fix))


class ProfilerCallback(TrainerCallback):
    """Profiles some steps.

    Args:
        first_step: First step that is profiled, counted from 1; step 1 is slower than the others.
        last_step: Last step that is profiled.
        record_shapes: Record the shapes of the inputs.
        profile_memory: Record memory use.
        rows: Operators in the table.
    """

    def __init__(
        self,
        first_step: int = 2,
        last_step: int = 4,
        *,
        record_shapes: bool = True,
        profile_memory: bool = False,
        rows: int = 30,
    ) -> None:
        check_range("profiler", first_step, last_step)
        self._first, self._last = first_step, last_step
        self._asked = {"record_shapes": record_shapes, "profile_memory": profile_memory}
        self._rows = rows
        self._running: Any = None

    def on_step_begin(
        self, args: Any, state: TrainerState, *_: Any, model: Any = None, **__: Any
    ) -> None:
        """Start before the first of the steps."""
        if self._running is None and self._first <= state.global_step + 1 <= self._last:
            kind = next(model.parameters()).device.type
            arguments: dict[str, Any] = dict(self._asked)
            if kind in ("cpu", "cuda"):
                activities = {torch.profiler.ProfilerActivity.CPU}
                activities |= {torch.profiler.ProfilerActivity.CUDA} if kind == "cuda" else set()
                arguments["activities"] = list(activities)
            self._running = device_of(kind).profile(**arguments)
            self._running.__enter__()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        """Stop after the last of the steps."""
        if self._running is not None and state.global_step >= self._last:
            self._stop(args, state)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any
    ) -> None:
        """Stop if the run ends earlier."""
        if self._running is not None:
            self._stop(args, state)

    def _stop(self, args: TrainingArguments, state: TrainerState) -> None:
        profiler, self._running = self._running, None
        profiler.__exit__(None, None, None)
        folder = run_folder(args) / "profile"
        folder.mkdir(exist_ok=True)
        name = f"steps-{self._first}-{state.global_step}"
        profiler.export_chrome_trace(str(folder / f"{name}.json"))
        table = profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=self._rows)
        (folder / f"{name}.txt").write_text(str(table), encoding="utf-8")
