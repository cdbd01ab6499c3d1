"""The callback that writes a training's events and carries out commands to it.

Called by transformers' Trainer between steps; the only place where commands are read.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from nbft import events
from nbft.hardware import peak_memory_bytes, used_memory_bytes
from nbft.runs.requests import Requests, Unfinished, because
from nbft.training.callbacks.generations import Generation
from nbft.training.ranks import ALONE, Ranks
from nbft.training.room import EVENTS_BYTES, Room
from nbft.training.saving import checkpoint_bytes
from nbft.training.sharding import computing_together
from nbft.training.stages import StageClock, report_stage
from nbft.training.throughput import StepClock

if TYPE_CHECKING:
    from nbft.training.turns import Turn

_OF_THE_EVENT = ("event", "time", "step")
_POLL_SECONDS = 0.1
_Listener = Callable[[Sequence[Generation]], None]
_SPEED_MEMORY = 0.9
"""Weight of the past in the moving average of seconds per step."""


class ReportingCallback(TrainerCallback):
    """Writes `log`, `eval`, `checkpoint`, `sample` and `command` events.

    Args:
        run: Folder of the run.
        device: Device whose memory is measured.
        sample: Answers the fixed prompts with the current model.
        room: Waits while the run's disk is full; has the requests to the run.
        stages: Measures the stages of the run.
        turn: Its turn among others; None if it trains alone.
        ranks: Which of several processes this is. All of them finish what takes long between steps,
            since none can leave it.
    """

    def __init__(
        self,
        run: Path,
        device: str,
        sample: Callable[[Any], list[dict[str, str]]],
        room: Room | None = None,
        stages: StageClock | None = None,
        turn: Turn | None = None,
        *,
        ranks: Ranks = ALONE,
    ) -> None:
        self._turn, self._ranks = turn, ranks
        self._text = ""
        self.ending: str | None = None
        self.last_eval_step = -1
        self._events = run / "events.jsonl"
        self._run = run
        self._room = room or Room(run, Requests(run))
        self._requests = self._room.requests
        self.stages = stages or StageClock()
        self._has_trained = False
        self._saved_at: float | None = None
        self._ended_by: events.Event = {}
        self._device = device
        self._sample = sample
        self._listeners: list[_Listener] | None = None  # not known before there is a trainer
        self._untold: list[Generation] = []
        self.clock = StepClock()
        self._seconds_a_step: float | None = None
        self._logged_step, self._logged_seconds = 0, 0.0
        events.keep_reserve(run)

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any
    ) -> None:
        """Measure from here on, which after a resume is not the first step."""
        self.stages.between = "training"
        self.stages.begin("training")
        self._logged_step, self._logged_seconds = state.global_step, self.clock.seconds

    def on_train_end(self, args: Any, state: TrainerState, *_: Any, **__: Any) -> None:
        """Take in at which step it ended, which may be earlier than planned."""
        self.stages.between = "saving"
        self.stages.end_at(state.global_step)

    def begin(self, stage: str, step: int, text: str) -> None:
        """Begin a stage and report it; its end is noted by `stages.end`."""
        self.stages.begin(stage)
        report_stage(self._room, self.stages, step, text)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any
    ) -> None:
        """Check whether to train at all.

        Raises:
            StopRequested: The run is to end before its first step.
        """
        if not self._has_trained:
            self._requests.check()
            self._has_trained = True

    def on_step_end(
        self, args: Any, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> None:
        """Carry out commands."""
        with self.clock.stopped(), self.together(model):
            waiting = self._requests.read()
            while waiting:
                self._obey(waiting.popleft(), state.global_step, control, model)
            self._wait_for_room(state.global_step, control, model)

    def on_epoch_end(
        self, args: Any, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> None:
        """Make sure that there is room for the checkpoint of an epoch."""
        if self.ending is not None:  # in the middle of an epoch, and all is saved
            control.should_evaluate = control.should_save = False
        with self.clock.stopped():
            self._wait_for_room(state.global_step, control, model)

    def on_prediction_step(
        self, args: Any, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Leave an evaluation for a request that cannot wait for its end.

        Raises:
            StopRequested: Before the first step.
            Unfinished: Later; the run stops and saves.
        """
        self.check(state.global_step, control)

    def check(self, step: int, control: TrainerControl | None = None) -> None:
        """Check whether to go on with what takes long between steps; raises like the above."""
        if not self._has_trained:
            self._requests.check()
        elif self._ranks.count == 1 and (urgent := self._requests.take_urgent()) is not None:
            self._obey(urgent, step, control or TrainerControl(), None)
            raise Unfinished

    def together(self, model: Any) -> contextlib.AbstractContextManager[None]:
        """Let several processes compute in the block what the first does with a sharded model."""
        return computing_together(model, self._ranks)

    @contextlib.contextmanager
    def checked(
        self, model: Any, step: int, control: TrainerControl | None = None
    ) -> Iterator[None]:
        """Check in each forward pass of a model in the block, which all of them begin alike."""
        begin = model.get_input_embeddings()
        hook = begin.register_forward_pre_hook(lambda *_: self.check(step, control))
        try:
            yield
        finally:
            hook.remove()

    def _wait_for_room(self, step: int, control: TrainerControl, model: Any) -> None:
        """Pause while the disk is too full to continue, unless the run is ended meanwhile.

        A save that would not fit is never started.
        """
        needed = EVENTS_BYTES
        if control.should_save:
            needed += checkpoint_bytes(model)
        if self.is_urgent:
            control.should_save = control.should_save and self._room.has(needed)
        elif (request := self._room.wait(step, needed)) is not None:
            self._obey(request, step, control, model)
            control.should_save = False

    def _obey(self, command: events.Event, step: int, control: TrainerControl, model: Any) -> None:
        name = command["event"]

        def answer(text: str) -> None:
            self.say("command", command=name, step=step, text=text)

        if name == "stop":
            self._end("stopped", step, control)
            self._ended_by = self._ended_by if self.is_urgent else command
            answer(f"Stopping after step {step}{because(command)}.")
        elif name == "cancel":
            self._end("cancelled", step, control, save=False)
            answer(f"Ending after step {step}, saving nothing.")
        elif name == "save":
            control.should_save = True
            answer(f"Saving at step {step}.")
        elif name == "sample":
            answer("Answering the prompts.")
            self.say_samples(step, self._sample(model))
        elif name == "pause" and command.get("release"):
            if self.ending is None:
                self._end("paused", step, control)
            self._ended_by = self._ended_by if self.is_urgent else command
            answer(f"Saving at step {step} and freeing the device{because(command)}.")
        elif name == "pause":
            answer(f"Pausing after step {step}.")
            self._pause(step, control, model)
        elif name == "continue":
            answer("The run is not paused.")
        else:
            answer(f"{name}: unknown command.")

    def after_step(self, trainer: Any) -> bool:
        """Give up the turn if it is over, and return whether the run is to end by a verdict."""
        assert self._turn is not None
        state = trainer.state
        step = state.global_step
        self._text = self._turn.after_step(step, state.max_steps, self.last_eval_step)
        if not self._text:
            return False
        self._end("stopped", step, trainer.control)
        trainer.control.should_log = False
        is_saved = (Path(trainer.args.output_dir) / f"checkpoint-{step}").is_dir()
        trainer.control.should_save = not is_saved
        return True

    def _end(self, ending: str, step: int, control: TrainerControl, *, save: bool = True) -> None:
        self.ending = ending
        self.stages.end_at(step)
        control.should_training_stop = True
        control.should_save = save
        control.should_evaluate = False  # the best checkpoint would decide whether to save

    @property
    def is_urgent(self) -> bool:
        """Whether the system ends the process soon."""
        return bool(self._ended_by.get("why"))

    @property
    def reason(self) -> dict[str, str]:
        """The fields of the last event that say why the run ends; {} for a person's command."""
        if not self.is_urgent:
            return {"text": self._text} if self._text else {}
        text = f"{str(self.ending).capitalize()}{because(self._ended_by)}"
        asked_at, saved_at = self._ended_by.get("monotonic"), self._saved_at
        if asked_at is not None and saved_at is not None and saved_at >= asked_at:
            text += f"; the checkpoint was whole {saved_at - asked_at:.1f} s later"
        return {"text": f"{text}."}

    def _pause(self, step: int, control: TrainerControl, model: Any) -> None:
        """Wait for the next command, with everything kept in memory."""
        self.say("paused", step=step, released=False)
        self.stages.begin("paused")
        while self.ending is None:
            waiting = self._requests.read()
            if not waiting:
                if self._turn is None:
                    time.sleep(_POLL_SECONDS)
                else:
                    self._turn.rest()
                continue
            command = waiting.popleft()
            if command["event"] == "continue":
                self.say("continued", step=step)
                self.stages.begin(self.stages.between)
                break
            if command["event"] != "pause" or command.get("release"):
                self._obey(command, step, control, model)
        if self._turn is not None:
            self._turn.go_on()

    def on_log(
        self, args: TrainingArguments, state: TrainerState, *_: Any, logs: Any = None, **__: Any
    ) -> None:
        """Write every number that the trainer logs for its steps."""
        if not logs or "loss" not in logs:
            return  # held-out numbers, which `on_evaluate` writes, or the totals at the end
        fields: dict[str, Any] = _numbers(logs)
        if (a_step := self._measured_step(state.global_step)) is not None:
            self.stages.seconds_a_step = a_step
        if (left := self.stages.seconds_left(state.global_step)) is not None:
            fields["seconds_left"] = round(left, 1)
        used, peak = memory_of(self._device, self._ranks)
        fields["memory_bytes"] = used
        if peak is not None:
            fields["peak_bytes"] = peak
        self.say("log", step=state.global_step, **fields)

    def _measured_step(self, step: int) -> float | None:
        """Return the seconds of a step, a moving average; None where none was measured."""
        seconds = self.clock.seconds
        steps, took = step - self._logged_step, seconds - self._logged_seconds
        self._logged_step, self._logged_seconds = step, seconds
        if steps > 0 and took > 0:
            past = took / steps if self._seconds_a_step is None else self._seconds_a_step
            weight = _SPEED_MEMORY**steps
            self._seconds_a_step = weight * past + (1 - weight) * took / steps
        return self._seconds_a_step

    def on_evaluate(
        self, args: Any, state: TrainerState, *_: Any, metrics: Any = None, **__: Any
    ) -> None:
        """Write every number that the trainer measures on the held-out rows."""
        self.last_eval_step = state.global_step
        self.stages.end(state.global_step)
        self.say("eval", step=state.global_step, **_numbers(metrics or {}))

    def on_save(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        """Report the path of a checkpoint."""
        self._saved_at = time.monotonic()
        self.stages.end(state.global_step)
        path = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        self.say("checkpoint", step=state.global_step, path=os.path.relpath(path, self._run))

    def say(self, event: str, /, **fields: Any) -> None:
        """Write an event, waiting while the disk is full."""
        self._room.say(event, **fields)

    def say_samples(self, step: int, samples: list[dict[str, str]]) -> None:
        """Write the answers to the prompts, and pass them on."""
        self.say("sample", step=step, samples=samples)
        self.tell(
            lambda: [
                Generation("sample", step, one["prompt"], one["text"], one.get("wanted", ""))
                for one in samples
            ]
        )

    def tell(self, generations: Callable[[], list[Generation]]) -> None:
        """Pass on what the model has written; what it wrote before there is a trainer, later.

        Args:
            generations: Called only if somebody may want them.
        """
        if self._listeners is None:
            self._untold += generations()
        elif self._listeners:
            made = generations()
            for listener in self._listeners:
                listener(made)

    def tell_to(self, listeners: Iterable[_Listener]) -> None:
        """Take who wants to know what the model writes, and tell them what it has written so far."""
        self._listeners = list(listeners)
        untold, self._untold = self._untold, []
        self.tell(lambda: untold)


def _numbers(logged: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers among what a trainer logged."""
    return {
        name: float(value)
        for name, value in logged.items()
        if isinstance(value, Real) and name not in _OF_THE_EVENT
    }


def memory_of(device: str, ranks: Ranks) -> tuple[int, int | None]:
    """Return the memory in use, and its peak if the system reports it; all processes ask together.

    On a CPU it is at most that: the sum over all of them, also of what they share. Otherwise it is
    that of this one's device.
    """
    used, peak = used_memory_bytes(device), peak_memory_bytes(device)
    if device != "cpu":
        return used, peak
    total = ranks.total([used, peak or 0])
    return int(total[0]), int(total[1]) or None
