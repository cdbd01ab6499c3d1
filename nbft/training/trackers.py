"""Finishing the experiment trackers of a run, once, after everything is saved.

transformers ends some trackers with the training, before the last evaluation, others never, and none
when the training fails. Called by `nbft.training.worker`.
"""

from __future__ import annotations

import contextlib
import contextvars
import functools
import queue
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from transformers.integrations.integration_utils import (
    INTEGRATION_TO_CALLBACK,
    CometCallback,
    MLflowCallback,
    WandbCallback,
)

from nbft.formatting import duration
from nbft.models.subclass import extend
from nbft.training.callbacks.phoenix import PhoenixCallback

FINISH_SECONDS = 20.0
"""How long a run waits for its trackers; one without a network may never finish."""


class Trackers:
    """Context of a training; leaving it finishes the trackers of `take`.

    A run of W&B or an experiment of Comet that was open before, which somebody else began, stays open.

    Args:
        say: Reports what is being done.
        warn: Reports a tracker that did not finish.
    """

    def __init__(self, say: Callable[[str], None], warn: Callable[[str], None]) -> None:
        self._say, self._warn = say, warn
        self._trainer: Any = None
        self._found: list[Any] = []
        self._open_before = [_wandb_run(), _comet_experiment()]

    def take(self, trainer: Any) -> list[Callable[[Any], None]]:
        """Finish the trackers of a trainer later, and not with its training.

        Returns:
            What takes the generations of the model; see `PhoenixCallback.take_generations`.
        """
        kinds: tuple[type, ...] = (*INTEGRATION_TO_CALLBACK.values(), PhoenixCallback)
        self._trainer = trainer
        self._found = [c for c in trainer.callback_handler.callbacks if isinstance(c, kinds)]
        for callback in self._found:
            extend(callback, _EndsLater)
        return [c.take_generations for c in self._found if isinstance(c, PhoenixCallback)]

    def __enter__(self) -> Trackers:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        begun = [callback for callback in self._found if vars(callback).get("begun")]
        if begun:
            with contextlib.suppress(OSError):  # the disk is full, as the last event will say
                self._say("Finishing the trackers …")
                self._finish(begun, failed=kind is not None)

    def _finish(self, callbacks: list[Any], *, failed: bool) -> None:
        """Finish all at the same time, and wait for them so long."""
        done: queue.SimpleQueue[tuple[str, Exception | None]] = queue.SimpleQueue()
        waiting = []
        for callback in callbacks:
            name = type(callback).__name__.removesuffix("Callback")
            waiting.append(name)
            finish = self._finisher(callback, failed)
            # Trackio looks for its run in the context.
            run = functools.partial(contextvars.copy_context().run, _report, name, finish, done)
            threading.Thread(target=run, name=f"finish {name}", daemon=True).start()
        until = time.monotonic() + FINISH_SECONDS
        try:
            while waiting:
                name, error = done.get(timeout=max(0.0, until - time.monotonic()))
                waiting.remove(name)
                if error is not None:
                    self._warn(f"{name} could not be finished ({error}). {_MISSING}")
        except (queue.Empty, KeyboardInterrupt):
            took = "" if time.monotonic() < until else f" within {duration(FINISH_SECONDS)}"
            for name in waiting:
                self._warn(f"{name} did not finish{took}. {_MISSING}")

    def _finisher(self, callback: Any, failed: bool) -> Callable[[], None]:
        """Return what finishes a tracker, to be called in another thread."""
        trainer = self._trainer
        end = functools.partial(
            callback.end,
            trainer.args,
            trainer.state,
            trainer.control,
            model=trainer.model,
            processing_class=trainer.processing_class,
        )
        if isinstance(callback, MLflowCallback):
            return _mlflow(callback, "FAILED" if failed else "FINISHED")
        if isinstance(callback, PhoenixCallback):
            callback.failed = failed
        run: Any = None
        if isinstance(callback, WandbCallback):
            run = _wandb_run()
        elif isinstance(callback, CometCallback):
            run = callback._experiment
        is_ours = run is not None and not any(run is one for one in self._open_before)

        def finish() -> None:
            if not (failed and isinstance(callback, WandbCallback)):  # it logs the model as final
                end()
            if is_ours and isinstance(callback, WandbCallback):
                run.finish(exit_code=int(failed))
            elif is_ours:
                run.end()

        return finish


_MISSING = "Its last numbers may be missing there; events.jsonl has them all."


class _EndsLater:
    """Part of a tracker's class: the end of the training is not the end of the run."""

    begun = False

    def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
        """Begin, and remember it."""
        self.begun = True
        super().on_train_begin(*args, **kwargs)  # type: ignore[misc]

    def on_log(self, *args: Any, **kwargs: Any) -> None:
        """Log, which begins a run that only evaluates."""
        self.begun = True
        super().on_log(*args, **kwargs)  # type: ignore[misc]

    def on_train_end(self, *_: Any, **__: Any) -> None:
        """Do nothing yet."""

    def end(self, *args: Any, **kwargs: Any) -> None:
        """End as the tracker does with the training."""
        super().on_train_end(*args, **kwargs)  # type: ignore[misc]


def _report(
    name: str,
    finish: Callable[[], None],
    done: queue.SimpleQueue[tuple[str, Exception | None]],
) -> None:
    try:
        finish()
    except Exception as error:
        done.put((name, error))
    else:
        done.put((name, None))


def _mlflow(callback: Any, status: str) -> Callable[[], None]:
    """Return what ends the callback's run; MLflow itself knows it in this thread only."""
    run = callback._ml_flow.active_run() if callback._auto_end_run else None
    callback._auto_end_run = False  # else it ends the run again when it is collected

    def finish() -> None:
        callback._ml_flow.flush_async_logging()
        if run is not None:
            callback._ml_flow.MlflowClient().set_terminated(run.info.run_id, status)

    return finish


def _wandb_run() -> Any:
    """Return the open run of W&B, if any."""
    wandb: Any = sys.modules.get("wandb")
    return wandb and getattr(wandb, "run", None)


def _comet_experiment() -> Any:
    """Return the open experiment of Comet, if any."""
    comet: Any = sys.modules.get("comet_ml")
    return comet and comet.get_running_experiment()
