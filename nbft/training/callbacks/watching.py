"""The callback that detects a training gone wrong, and reports it with the evidence.

Called by transformers' Trainer after each log and each evaluation, and at the end. The advice is
that of PEFT Studio's troubleshooting, if it has any.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerState, TrainingArguments

from nbft import events
from nbft.errors import RunError

_STUCK_LOGS = 5
"""Consecutive logs before a loss of 0.0 or a learning rate of 0 counts as a mistake."""

_EXPLODED = 3.0
"""A loss this many times the lowest so far rarely recovers."""

_RISEN_TIMES = 2
_RISEN = 1.02
"""Consecutive evaluations with a held-out loss this many times its lowest that mean overfitting."""

_JUDGED_LOGS = 20
"""Logs needed to compare the first quarter of the losses with the last."""

_FLAT = 0.995
"""A last quarter above this share of the first counts as flat."""


class NotANumberError(RunError):
    """The loss is not a number, and training.stop_on_nan is on."""


class WatchingCallback(TrainerCallback):
    """Writes `note` events: what went wrong, with the numbers and what to try.

    A loss that is NaN, explodes, is exactly 0, never falls, or rises again on the held-out rows;
    a learning rate that stays 0.

    Args:
        run: Folder of the run.
        stop_on_nan: Whether to end the run when the loss is not a number.
    """

    def __init__(self, run: Path, *, stop_on_nan: bool) -> None:
        self._events = run / "events.jsonl"
        self._stop_on_nan = stop_on_nan
        self._lowest = self._lowest_held_out = math.inf
        self._lowest_step = self._risen = 0
        self._high = self._zero = self._still = 0
        self._said: set[str] = set()

    def on_log(
        self, args: TrainingArguments, state: TrainerState, *_: Any, logs: Any = None, **__: Any
    ) -> None:
        """Check the numbers of one log.

        Raises:
            NotANumberError: The loss is not a number and training.stop_on_nan is on.
        """
        if not logs or "loss" not in logs:
            return
        step, loss = state.global_step, float(logs["loss"])
        rate, norm = float(logs.get("learning_rate", 1)), float(logs.get("grad_norm") or 0)
        if not math.isfinite(loss) or not math.isfinite(norm):
            what = f"The loss is {loss}" if not math.isfinite(loss) else f"The gradient is {norm}"
            lower = f"Try training.learning_rate={args.learning_rate / 10:g}"
            clip = "" if args.max_grad_norm else " training.max_grad_norm=1,"
            others = f"{lower},{clip} a longer scheduler.warmup_steps, or precision."
            self._note("nan", step, f"{what} at step {step}.", others)
            if self._stop_on_nan and not math.isfinite(loss):
                raise NotANumberError(
                    f"{what} at step {step}, so training is useless from here on. {lower} (it is "
                    f"{args.learning_rate:g}), and resume from an earlier checkpoint or start a new "
                    "run. training.stop_on_nan=false continues regardless."
                )
            return
        self._high = self._high + 1 if loss > _EXPLODED * max(self._lowest, 0.1) else 0
        self._zero = self._zero + 1 if loss == 0.0 else 0
        self._still = self._still + 1 if rate == 0.0 and step < state.max_steps else 0
        if self._high == _STUCK_LOGS:
            self._note(
                "exploded",
                step,
                f"The loss has stayed above {_EXPLODED:g} times its lowest ({self._lowest:.3g}) "
                f"for {_STUCK_LOGS} logs and is {loss:.3g}.",
                f"Try training.learning_rate={args.learning_rate / 10:g}.",
            )
        if self._zero == _STUCK_LOGS:
            self._note(
                "zero",
                step,
                f"The loss has been exactly 0.0 for {_STUCK_LOGS} logs: no token is trained on.",
                "Check the data: every label may be masked. Raise data.max_length or fix the "
                "completion template.",
            )
        if self._still == _STUCK_LOGS:
            self._note(
                "still",
                step,
                f"The learning rate has been 0 for {_STUCK_LOGS} logs.",
                "Check scheduler.warmup_steps and scheduler.lr_scheduler_type.",
            )
        self._lowest = min(self._lowest, loss)

    def on_evaluate(
        self, args: Any, state: TrainerState, *_: Any, metrics: Any = None, **__: Any
    ) -> None:
        """Check whether the held-out loss rises again."""
        loss = float((metrics or {}).get("eval_loss", math.nan))
        if not math.isfinite(loss):
            return
        if loss < self._lowest_held_out:
            self._lowest_held_out, self._lowest_step = loss, state.global_step
        self._risen = self._risen + 1 if loss > _RISEN * self._lowest_held_out else 0
        if self._risen == _RISEN_TIMES:
            self._note(
                "overfit",
                state.global_step,
                f"The held-out loss was lowest at step {self._lowest_step} "
                f"({self._lowest_held_out:.3g}) and is {loss:.3g}: the model is overfitting.",
                "Use fewer epochs, more rows, callbacks.early_stopping_patience=3, or "
                "checkpoint.load_best_model_at_end.",
            )

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any
    ) -> None:
        """Check whether the loss fell at all, unless an earlier note explains it."""
        losses = [float(log["loss"]) for log in state.log_history if "loss" in log]
        if self._said or len(losses) < _JUDGED_LOGS:
            return
        part = len(losses) // 4
        first, last = math.fsum(losses[:part]) / part, math.fsum(losses[-part:]) / part
        if last >= _FLAT * first:
            self._note(
                "flat",
                state.global_step,
                f"The loss has hardly fallen: {first:.3g} over the first quarter of the steps, "
                f"{last:.3g} over the last.",
                f"Try a learning_rate above {args.learning_rate:g}, a shorter warm-up, "
                "checking the rows (nbft.doctor), or another method.",
            )

    def _note(self, kind: str, step: int, text: str, setting: str) -> None:
        if kind not in self._said:
            self._said.add(kind)
            events.append(self._events, "note", step=step, text=f"{text} {setting}", kind=kind)
