"""Callbacks that end a run early, say why, and keep what was trained: a score, or a budget.

`EarlyStoppingCallback` is registered as `early_stopping`, and used by
callbacks.early_stopping_patience.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import transformers
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from nbft.config import Config
from nbft.formatting import count, number
from nbft.hardware import available_devices
from nbft.plan.ranges import power_watts, taken


class EarlyStoppingCallback(transformers.EarlyStoppingCallback):
    """Ends a run whose score does not improve.

    Attributes:
        reason: Why it ended the run, in a sentence; "" if it did not.
    """

    reason = ""

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: Any = None,
        **kwargs: Any,
    ) -> None:
        """Count an evaluation; at the last one, save a checkpoint to go on from."""
        was_stopping = control.should_training_stop
        super().on_evaluate(args, state, control, metrics=metrics, **kwargs)
        if control.should_training_stop and not was_stopping:
            self.reason = self._reason(args, state)
            control.should_save = control.should_save or args.save_strategy != "no"

    def _reason(self, args: TrainingArguments, state: TrainerState) -> str:
        name, best = str(args.metric_for_best_model), state.best_metric
        full = name if name.startswith("eval_") else f"eval_{name}"
        steps = [log["step"] for log in state.log_history if log.get(full) == best]
        at = f" after step {steps[-1]:,}" if steps else ""
        least = self.early_stopping_threshold
        by = f" by more than {number(least)}" if least else ""
        return (
            f"Early stopping after step {state.global_step:,} of {state.max_steps:,}: {name} has not "
            f"improved{by} on {number(best or 0.0)}{at} in "
            f"{count(self.early_stopping_patience_counter, 'measurement')}."
        )


class BudgetCallback(TrainerCallback):
    """Ends a run with a checkpoint when a budget of section training is used up.

    Args:
        config: The config.
        device: The device of the run, whose power counts.
        seconds: Returns the time of the run so far.

    Attributes:
        reason: Why it ended the run, in a sentence; "" if it did not.
    """

    reason = ""

    def __init__(self, config: Config, device: str, seconds: Callable[[], float]) -> None:
        self._config, self._seconds = config, seconds
        self._watts = power_watts(device, available_devices().get(device, ""))

    def on_step_end(
        self, args: Any, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Stop and save if what the run has taken reaches a budget."""
        spent = taken(self._config, self._seconds(), state.num_input_tokens_seen, self._watts)
        training = self._config.training
        for name, amount in spent.items():
            limit = getattr(training, f"max_{name}")
            if limit is None or amount < limit or self.reason:
                continue
            control.should_training_stop = control.should_save = True
            self.reason = (
                f"Stopped after step {state.global_step:,} of {state.max_steps:,}: "
                f"training.max_{name}={number(limit)} is used up. The checkpoint is whole; "
                "raise the budget to resume it."
            )


def reason_of_end(trainer: Any) -> str:
    """Return why a training ended before its last step, in a sentence; "" if it did not."""
    state = trainer.state
    if state.global_step >= state.max_steps:
        return ""
    reasons = (getattr(each, "reason", "") for each in trainer.callback_handler.callbacks)
    if found := next((text for text in reasons if isinstance(text, str) and text), ""):
        return found
    after = f"Ended after step {state.global_step:,} of {state.max_steps:,}"
    return f"{after}: a callback ended the training, or its rows were used up."
