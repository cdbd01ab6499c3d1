"""The callback that scores held-out rows and answers the fixed prompts: before, on the way, after.

Called by transformers' Trainer between steps, and by the worker before the first and after the
last. The training goes on as if nothing had been asked: random numbers, mode and speed are its own.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from nbft.config import Config
from nbft.errors import NbftError
from nbft.evaluate.forecast import best_by_score
from nbft.evaluate.scores import verdicts
from nbft.evaluate.scoring import Scorer
from nbft.events import Event
from nbft.formatting import count
from nbft.training.callbacks.reporting import ReportingCallback

Answers = list[dict[str, str]]


class ScoringCallback(TrainerCallback):
    """Writes `scores` and `sample` events.

    Args:
        config: Its evaluation section says when.
        scorers: What to measure; the first on the way too, the others before and after only.
        sample: Answers the fixed prompts with the model as it is now; None where there are none.
        reporting: Writes the events.
        give_memory_back: Frees what the scoring held.
    """

    def __init__(
        self,
        config: Config,
        scorers: Sequence[Scorer],
        sample: Callable[[Any], Answers] | None,
        reporting: ReportingCallback,
        give_memory_back: Callable[[], None],
    ) -> None:
        self._scorers = [scorer for scorer in scorers if len(scorer)]
        self._sample = sample
        self._reporting = reporting
        self._give_memory_back = give_memory_back
        self._every = config.evaluation.score_every_n_steps
        self._decides = best_by_score(config)
        self._base: dict[str, Event] = {}
        self._latest: dict[str, Event] = {}
        self._sampled_at = -1

    def before(self, model: Any, earlier: Sequence[Event] = ()) -> None:
        """Ask the base model, unless an earlier attempt of the run has.

        Args:
            model: The base model, on its device.
            earlier: Events of earlier attempts.

        Raises:
            ConfigError: A person's own function failed: better now than after an hour.
        """
        if not any(e["event"] == "sample" and e["step"] == 0 for e in earlier):
            self._answer(model, 0)
        for scorer in self._scorers:
            done = [e for e in earlier if e["event"] == "scores" and e["step"] == 0]
            same = [e for e in done if scorer.asked.items() <= e.items()]
            if same:
                self._base[scorer.split] = same[-1]
            else:
                self._score(scorer, model, 0)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Forget what was measured: a smaller batch after an out-of-memory error begins anew."""
        self._latest.clear()
        self._sampled_at = -1

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        **_: Any,
    ) -> None:
        """Score every so many steps, where that is asked for."""
        if self._every and state.global_step % self._every == 0 and not self._reporting.ending:
            self._on_the_way(model, state.global_step)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        metrics: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Score with the held-out loss, and let the scores decide which checkpoint is best."""
        step = state.global_step
        if step and self._scorers and (self._every is None or self._decides):
            self._on_the_way(model, step)
        if metrics is not None and self._scorers:
            split = self._scorers[0].split
            known = self._latest.get(split) or self._base.get(split) or {"step": -1, "scores": {}}
            for name, value in known["scores"].items():
                metrics[f"eval_{name}"] = value if known["step"] == step else math.nan

    def after(self, model: Any, step: int) -> None:
        """Ask the model that was trained.

        Args:
            model: The model as it is saved.
            step: The step that it was trained to; earlier than the last for the best checkpoint.
        """
        for scorer in self._scorers:
            self._score(scorer, model, step)
        if self._sampled_at != step:
            self._answer(model, step)

    def _on_the_way(self, model: Any, step: int) -> None:
        for scorer in self._scorers[:1]:
            self._score(scorer, model, step)
        if self._sampled_at != step:
            self._answer(model, step)
        self._reporting.restart_clock()

    def _answer(self, model: Any, step: int) -> None:
        if self._sample is None:
            return
        if step == 0:
            self._say("Asking the base model …")
        self._reporting.say("sample", step=step, samples=self._sample(model))
        self._sampled_at = step

    def _score(self, scorer: Scorer, model: Any, step: int) -> None:
        """Score and say so; what was just measured at this step is not measured again."""
        latest = self._latest.get(scorer.split)
        if latest and latest["step"] == step:
            return
        rows = count(len(scorer), "test row" if scorer.split == "test" else "held-out row")
        self._say(f"Scoring {rows}{'' if step else ' with the base model'} …")
        try:
            found: Event = {"step": step, **scorer.score(model)}
        except Exception as error:
            if step == 0 and isinstance(error, NbftError):
                raise
            logging.getLogger("nbft").exception("Scoring at step %s failed", step)
            said = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
            text = str(error) if isinstance(error, NbftError) else said
            self._reporting.say("warning", text=f"Not scored at step {step:,}. {text}")
            return
        finally:
            self._give_memory_back()
        if step == 0:
            self._base[scorer.split] = found
        else:
            self._latest[scorer.split] = found
            found["verdicts"] = verdicts(self._base.get(scorer.split, {}), found)
        self._reporting.say("scores", **found)

    def _say(self, text: str) -> None:
        self._reporting.say("stage", stage="scoring", text=text)
        logging.getLogger("nbft").info(text)
