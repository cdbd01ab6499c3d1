"""Every tracker is finished once, when nothing more is logged, and never holds a run up for long."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
import types
from typing import Any

import pytest
from transformers import TrainerCallback
from transformers.integrations import WandbCallback, integration_utils

from nbft.training import trackers
from nbft.training.trackers import Trackers


class Tracker(TrainerCallback):
    """Notes what happens to it."""

    def __init__(self) -> None:
        self.calls: list[str] = []

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self.calls.append("begin")

    def on_log(self, *_: Any, **__: Any) -> None:
        self.calls.append("log")

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self.calls.append("end")


class HangingCallback(Tracker):
    """Never ends, like one without a network."""

    def on_train_end(self, *_: Any, **__: Any) -> None:
        threading.Event().wait()


class RefusingCallback(Tracker):
    def on_train_end(self, *_: Any, **__: Any) -> None:
        raise ConnectionError("no route to host")


class Other(TrainerCallback):
    """No tracker: its training ends as ever."""

    ended = 0

    def on_train_end(self, *_: Any, **__: Any) -> None:
        self.ended += 1


class Trainer:
    """As much of a trainer as trackers see."""

    args = state = control = model = processing_class = None

    def __init__(self, *callbacks: TrainerCallback) -> None:
        self.callback_handler = types.SimpleNamespace(callbacks=list(callbacks))

    def train(self) -> None:
        for event in ("on_train_begin", "on_log", "on_train_end", "on_log"):  # the last evaluation
            for callback in self.callback_handler.callbacks:
                getattr(callback, event)(self.args, self.state, self.control)


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "test", Tracker)
    monkeypatch.setattr(trackers, "FINISH_SECONDS", 0.3)


def run(
    *callbacks: TrainerCallback, error: Exception | None = None, tell: Any = None
) -> tuple[list[str], list[str]]:
    """Train with callbacks, and return what was said and warned of."""
    said: list[str] = []
    warned: list[str] = []
    trainer = Trainer(*callbacks)
    with Trackers(tell or said.append, tell or warned.append) as context:
        context.take(trainer)
        trainer.train()
        if error is not None:
            raise error
    return said, warned


def test_a_tracker_is_ended_once_and_after_the_last_evaluation() -> None:
    tracker, other = Tracker(), Other()
    assert run(tracker, other) == (["Finishing the trackers …"], [])
    assert tracker.calls == ["begin", "log", "log", "end"]
    assert other.ended == 1


def test_a_tracker_is_ended_when_the_training_fails() -> None:
    tracker = Tracker()
    with pytest.raises(ValueError, match="broken"):
        run(tracker, error=ValueError("broken"))
    assert tracker.calls[-1] == "end"


def test_a_tracker_that_never_began_is_not_ended() -> None:
    tracker = Tracker()
    said: list[str] = []
    with Trackers(said.append, said.append) as context:
        context.take(Trainer(tracker))
    assert (tracker.calls, said) == ([], [])
    with pytest.raises(ValueError, match="early"), Trackers(said.append, said.append):
        raise ValueError("early")  # before there was a trainer


@pytest.mark.parametrize("error", [None, ValueError("broken")])
def test_a_tracker_that_hangs_is_left_after_a_while_and_said(error: Exception | None) -> None:
    tracker, warned = Tracker(), []
    trainer = Trainer(HangingCallback(), tracker)
    began = time.monotonic()
    with contextlib.suppress(ValueError), Trackers(lambda _: None, warned.append) as context:
        context.take(trainer)
        trainer.train()
        if error is not None:
            raise error
    assert time.monotonic() - began < 2
    assert tracker.calls[-1] == "end", "another tracker does not wait for it"
    (warning,) = warned
    assert warning.startswith(
        "Hanging did not finish within 0.3 s. Its last numbers may be missing"
    )


def test_a_tracker_that_raises_is_said() -> None:
    (warning,) = run(RefusingCallback())[1]
    assert warning.startswith("Refusing could not be finished (no route to host).")


def test_a_full_disk_keeps_the_reason_of_a_failed_training() -> None:
    def full(_: str) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(ValueError, match="broken"):
        run(Tracker(), error=ValueError("broken"), tell=full)


def test_an_interrupt_stops_the_waiting_and_not_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted:
        def __init__(self) -> None: ...

        def put(self, _: Any) -> None: ...

        def get(self, timeout: float) -> None:
            raise KeyboardInterrupt

    monkeypatch.setattr(trackers.queue, "SimpleQueue", Interrupted)
    (warning,) = run(Tracker())[1]
    assert "did not finish." in warning


@pytest.mark.parametrize("failed", [False, True])
def test_only_a_run_of_our_own_is_finished_in_wandb(
    monkeypatch: pytest.MonkeyPatch, failed: bool
) -> None:
    class Wandb(WandbCallback):
        def __init__(self) -> None: ...

        def on_train_begin(self, *_: Any, **__: Any) -> None:
            fake.run = fake.run or types.SimpleNamespace(finish=finish)

        def on_log(self, *_: Any, **__: Any) -> None: ...
        def on_train_end(self, *_: Any, **__: Any) -> None: ...

    def finish(exit_code: int) -> None:
        codes.append(exit_code)

    codes: list[int] = []
    fake: Any = types.ModuleType("wandb")
    fake.run = None
    monkeypatch.setitem(sys.modules, "wandb", fake)
    if failed:
        with pytest.raises(ValueError, match="broken"):
            run(Wandb(), error=ValueError("broken"))
    else:
        run(Wandb())
    assert codes == [int(failed)]
    # Somebody called wandb.init before: the run is theirs, and they may log more to it.
    run(Wandb())
    assert codes == [int(failed)]
