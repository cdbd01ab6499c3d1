"""Early stopping that says why it ended a run, and keeps what was trained.

Registered as `early_stopping`, and used by callbacks.early_stopping_patience.
"""

from __future__ import annotations

from typing import Any

import transformers
from transformers import TrainerControl, TrainerState, TrainingArguments

from nbft.formatting import count, number


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
