"""The callback that scores held-out rows and answers the fixed prompts before, during and after.

Called by transformers' Trainer between steps, and by the worker before the first and after the
last. Random numbers, mode and measured speed of the training stay as if it had not been called.
"""

from __future__ import annotations

import contextlib
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
from nbft.hardware import release_memory
from nbft.runs.requests import Unfinished
from nbft.training.callbacks.generations import Generation
from nbft.training.callbacks.reporting import ReportingCallback

Answers = list[dict[str, str]]


class ScoringCallback(TrainerCallback):
    """Writes `scores` and `sample` events.

    Args:
        config: Its evaluation section says when.
        scorers: What to measure; the first during training too, the others before and after only.
        sample: Answers the fixed prompts with the current model; None without prompts.
        reporting: Writes the events.
    """

    def __init__(
        self,
        config: Config,
        scorers: Sequence[Scorer],
        sample: Callable[[Any], Answers] | None,
        reporting: ReportingCallback,
    ) -> None:
        self._scorers = [scorer for scorer in scorers if len(scorer)]
        self._sample = sample
        self._reporting = reporting
        self._every = config.evaluation.score_every_n_steps
        self._decides = best_by_score(config)
        self._base: dict[str, Event] = {}
        self._latest: dict[str, Event] = {}
        self._sampled_at = -1

    def before(self, model: Any, earlier: Sequence[Event] = ()) -> None:
        """Score the base model, unless an earlier attempt of the run has.

        Args:
            model: The base model, on its device.
            earlier: Events of earlier attempts.

        Raises:
            ConfigError: The user's own metric function failed.
            StopRequested: The run is to end.
        """
        of_base = [e for e in earlier if e.get("step") == 0]
        with self._reporting.together(model), self._reporting.checked(model, 0):
            if not any(e["event"] == "sample" for e in of_base):
                self._answer(model, 0)
            for scorer in self._scorers:
                done = [e for e in of_base if e["event"] == "scores" and e.get("scores")]
                if same := [e for e in done if scorer.asked.items() <= e.items()]:
                    self._base[scorer.split] = same[-1]
                else:
                    self._score(scorer, model, 0)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Forget earlier scores: a smaller batch after an out-of-memory error starts again."""
        self._latest.clear()
        self._sampled_at = -1

    def on_step_end(
        self, args: Any, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> None:
        """Score every evaluation.score_every_n_steps."""
        if not self._every or state.global_step % self._every:
            return
        with self._reporting.together(model), contextlib.suppress(Unfinished):
            if not self._reporting.ending:
                self._during_training(model, state.global_step, control)

    def on_evaluate(
        self,
        args: Any,
        state: TrainerState,
        control: TrainerControl,
        model: Any = None,
        metrics: Any = None,
        **_: Any,
    ) -> None:
        """Score with the held-out loss, and let the scores decide which checkpoint is best."""
        step = state.global_step
        with self._reporting.together(model):
            if step and self._scorers and (self._every is None or self._decides):
                self._during_training(model, step, control)
        if metrics is not None and self._scorers:
            split = self._scorers[0].split
            known = self._latest.get(split) or self._base.get(split) or {"step": -1, "scores": {}}
            for name, value in known["scores"].items():
                metrics[f"eval_{name}"] = value if known["step"] == step else math.nan

    def after(self, model: Any, step: int) -> None:
        """Score the trained model.

        Args:
            model: The model as it is saved.
            step: Step of that model; earlier than the last for the best checkpoint.

        Raises:
            Unfinished: The system ends the process.
        """
        with self._reporting.together(model), self._reporting.checked(model, step):
            for scorer in self._scorers:
                self._score(scorer, model, step)
            self._answer(model, step)

    def _during_training(self, model: Any, step: int, control: TrainerControl) -> None:
        with self._reporting.clock.stopped(), self._reporting.checked(model, step, control):
            for scorer in self._scorers[:1]:
                self._score(scorer, model, step)
            self._answer(model, step)

    def _answer(self, model: Any, step: int) -> None:
        if self._sample is None or self._sampled_at == step:
            return
        model_name = "" if step else " with the base model"
        self._reporting.begin("sampling", step, f"Answering the prompts{model_name} …")
        samples = self._sample(model)
        self._reporting.stages.end(step)
        self._reporting.say_samples(step, samples)
        self._sampled_at = step

    def _score(self, scorer: Scorer, model: Any, step: int) -> None:
        """Score and report it, at most once per step."""
        latest = self._latest.get(scorer.split)
        if latest and latest["step"] == step:
            return
        rows = count(len(scorer), "test row" if scorer.split == "test" else "held-out row")
        model_name = "" if step else " with the base model"
        self._reporting.begin("scoring", step, f"Scoring {rows}{model_name} …")
        try:
            scores: Event = {"step": step, **scorer.score(model)}
        except Exception as error:
            if step == 0 and isinstance(error, NbftError):
                raise
            logging.getLogger("nbft").exception("Scoring at step %s failed", step)
            reason = str(error)
            if not isinstance(error, NbftError):
                reason = f"{type(error).__name__}: {next(iter(reason.splitlines()), '')}"
            self._reporting.say("warning", text=f"Not scored at step {step:,}. {reason}")
            return
        finally:
            release_memory()
        self._reporting.stages.end(step)
        if step == 0:
            self._base[scorer.split] = scores
        else:
            self._latest[scorer.split] = scores
            scores["verdicts"] = verdicts(self._base.get(scorer.split, {}), scores)
        self._reporting.say("scores", **scores)
        self._reporting.tell(
            lambda: [
                Generation(scorer.split, step, one.prompt, one.answer, one.wanted, one.scores)
                for one in scorer.answered()
            ]
        )
