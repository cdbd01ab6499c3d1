"""Measures each step of any Trainer in this process.

Every side of a comparison derives from transformers' Trainer, so one clock measures them all.
Called by `nbft.bench.sides`.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any

from nbft.hardware import peak_memory_bytes


class Clock:
    """Records seconds, CPU seconds and tokens of each step.

    Args:
        counts_operators: Whether to count the operators of the last step instead of its time.
    """

    def __init__(self, *, counts_operators: bool = False) -> None:
        self.counts_operators = counts_operators
        self.operators: dict[str, int] = {}
        self.counting = contextlib.ExitStack()
        self.began: list[tuple[float, float]] = []
        self.ended = 0.0, 0.0
        self.tokens: list[int] = []
        self.first_step_at = 0.0
        self.losses: list[float] = []
        self.is_float32 = False

    def install(self) -> None:
        """Add the clock to every Trainer in this process, ahead of its own callbacks."""
        import torch
        import transformers

        from nbft.bench.operators import counted_by_part

        clock = self
        train, step = transformers.Trainer.train, transformers.Trainer.training_step

        class Callback(transformers.TrainerCallback):
            def on_step_begin(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
                # Work between two steps counts towards the earlier one.
                clock.began.append((time.perf_counter(), time.process_time()))
                clock.tokens.append(0)
                if clock.counts_operators and state.global_step == args.max_steps - 1:
                    clock.counting.enter_context(counted_by_part(clock.operators))

            def on_step_end(self, *_: Any, **__: Any) -> None:
                clock.counting.close()
                clock.first_step_at = clock.first_step_at or time.time()
                clock.ended = time.perf_counter(), time.process_time()

            def on_train_end(self, args: Any, state: Any, *_: Any, **__: Any) -> None:
                clock.began.append(clock.ended)  # work after the last step is not a step
                clock.losses = [log["loss"] for log in state.log_history if "loss" in log]

        def timed(trainer: Any, *args: Any, **keys: Any) -> Any:
            trainer.add_callback(Callback)
            clock.is_float32 = trainer.accelerator.mixed_precision == "no" and all(
                weight.dtype == torch.float32 for weight in trainer.model.parameters()
            )
            return train(trainer, *args, **keys)

        def counted(trainer: Any, model: Any, inputs: Any, *args: Any, **keys: Any) -> Any:
            mask = inputs.get("attention_mask")
            ids = inputs["input_ids"]
            clock.tokens[-1] += int(mask.sum()) if mask is not None else ids.numel()
            return step(trainer, model, inputs, *args, **keys)

        transformers.Trainer.train = timed  # type: ignore[method-assign, assignment]
        transformers.Trainer.training_step = counted  # type: ignore[method-assign, assignment]

    def record(self, device: str) -> dict[str, Any]:
        """Return what was recorded; seconds, CPU seconds and tokens are lists with one item a step.

        Args:
            device: Device whose peak memory is reported.
        """
        pairs = list(zip(self.began, self.began[1:], strict=False))
        return {
            "seconds": [b[0] - a[0] for a, b in pairs],
            "cpu_seconds": [b[1] - a[1] for a, b in pairs],
            "tokens": self.tokens,
            "losses": self.losses,
            "operators": self.operators,
            "is_float32": self.is_float32,
            "first_step_at": self.first_step_at,
            "peak_bytes": peak_memory_bytes(device),
        }
