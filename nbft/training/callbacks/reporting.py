"""The callback that writes a training's events and carries out commands to it.

Called by transformers' Trainer between steps; the only place where commands are read.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections import deque
from collections.abc import Callable, Mapping
from numbers import Real
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from nbft import events
from nbft.formatting import size
from nbft.hardware import used_memory_bytes
from nbft.runs.checkpoints import mark_whole

_OF_THE_EVENT = ("event", "time", "step")
_POLL_SECONDS = 0.1
_ROOM_BYTES = 1024 * 1024
"""Free space below which a run pauses: enough for the events of thousands of steps."""

_SAVED_BYTES_A_PARAMETER = 16
"""A checkpoint has each trained parameter and AdamW's two moments, 4 bytes each; the adapter saved
at the end has each parameter once more."""

_SAVED_BYTES = 16 * 1024 * 1024
"""Tokenizer and trainer state; 4 MiB per checkpoint for SmolLM2."""

_SPEED_MEMORY = 0.9
"""Weight of the past in the moving average of seconds per step."""


class ReportingCallback(TrainerCallback):
    """Writes `log`, `eval`, `checkpoint`, `sample` and `command` events.

    Args:
        run: Folder of the run.
        device: Device whose memory is measured.
        sample: Answers the fixed prompts with the current model.
    """

    def __init__(
        self, run: Path, device: str, sample: Callable[[Any], list[dict[str, str]]]
    ) -> None:
        self.ending: str | None = None
        self.last_eval_step = -1
        self._events = run / "events.jsonl"
        self._run = run
        queued = [e for e in events.read(self._events) if e["event"] == "queued"]
        begin = queued[-1].get("commands_bytes", 0) if queued else 0
        self._commands = events.EventReader(run / "commands.jsonl", begin)
        self._pending: deque[events.Event] = deque()
        self._device = device
        self._sample = sample
        self._seconds_a_step: float | None = None
        self._step_began = time.monotonic()
        self._logged_at = time.monotonic()
        self._logged_tokens = 0.0
        events.keep_reserve(run)

    def on_step_begin(
        self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any
    ) -> None:
        """Start the clock of a step; evaluating and saving between steps do not count."""
        self._step_began = time.monotonic()

    def on_step_end(
        self, args: Any, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> None:
        """Measure the step, then carry out commands."""
        took = time.monotonic() - self._step_began
        past = self._seconds_a_step
        self._seconds_a_step = (
            took if past is None else _SPEED_MEMORY * past + (1 - _SPEED_MEMORY) * took
        )
        self._pending += self._commands.read()
        while self._pending:
            self._obey(self._pending.popleft(), state.global_step, control, model)
        self._wait_for_room(state.global_step, control, model)

    def on_epoch_end(
        self, args: Any, state: TrainerState, control: TrainerControl, model: Any = None, **_: Any
    ) -> None:
        """Make sure that there is room for the checkpoint of an epoch."""
        self._wait_for_room(state.global_step, control, model)

    def _wait_for_room(self, step: int, control: TrainerControl, model: Any) -> None:
        """Pause while the disk is too full to continue, unless the run is cancelled meanwhile.

        A save that would not fit is never started, so a full disk leaves no incomplete checkpoint.
        """
        needed = _ROOM_BYTES
        if control.should_save:
            trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
            needed += _SAVED_BYTES + _SAVED_BYTES_A_PARAMETER * trained
        if self._has_room(needed):
            return
        free = shutil.disk_usage(self._run).free
        with contextlib.suppress(OSError):
            events.append(
                self._events,
                "paused",
                step=step,
                released=False,
                text=f"The disk with {self._run} is full: {size(free)} are free, {size(needed)} "
                "are needed. Free some space, and the run continues by itself.",
            )
        while self.ending is None and not self._has_room(needed):
            time.sleep(_POLL_SECONDS)
            self._pending += self._commands.read()
            for command in [c for c in self._pending if c["event"] == "cancel"]:
                self._pending.remove(command)
                self._obey(command, step, control, model)
        self.restart_clock()
        if self.ending is None:
            self.say("continued", step=step)

    def restart_clock(self) -> None:
        """Leave the time since the last log out of the speed."""
        self._logged_at = time.monotonic()

    def _has_room(self, needed_bytes: int) -> bool:
        free = shutil.disk_usage(self._run).free
        return free >= needed_bytes and events.keep_reserve(self._run)

    def _obey(self, command: events.Event, step: int, control: TrainerControl, model: Any) -> None:
        name = command["event"]

        def answer(text: str) -> None:
            self.say("command", command=name, step=step, text=text)

        if name == "stop":
            self._end("stopped", control)
            answer(f"Stopping after step {step}.")
        elif name == "cancel":
            self._end("cancelled", control, save=False)
            answer(f"Ending after step {step}, saving nothing.")
        elif name == "save":
            control.should_save = True
            answer(f"Saving at step {step}.")
        elif name == "sample":
            answer("Answering the prompts.")
            self.say("sample", step=step, samples=self._sample(model))
        elif name == "pause" and command.get("release"):
            self._end("paused", control)
            answer(f"Saving at step {step} and freeing the device.")
        elif name == "pause":
            answer(f"Pausing after step {step}.")
            self._pause(step, control, model)
        elif name == "continue":
            answer("The run is not paused.")
        else:
            answer(f"{name}: unknown command.")

    def _end(self, ending: str, control: TrainerControl, *, save: bool = True) -> None:
        self.ending = ending
        control.should_training_stop = True
        control.should_save = save

    def _pause(self, step: int, control: TrainerControl, model: Any) -> None:
        """Wait for the next command, with everything kept in memory."""
        self.say("paused", step=step, released=False)
        while self.ending is None:
            self._pending += self._commands.read()
            if not self._pending:
                time.sleep(_POLL_SECONDS)
                continue
            command = self._pending.popleft()
            if command["event"] == "continue":
                self.say("continued", step=step)
                self.restart_clock()
                return
            if command["event"] != "pause" or command.get("release"):
                self._obey(command, step, control, model)

    def on_log(
        self, args: TrainingArguments, state: TrainerState, *_: Any, logs: Any = None, **__: Any
    ) -> None:
        """Write every number that the trainer logs for its steps."""
        if not logs or "loss" not in logs:
            return  # held-out numbers, which `on_evaluate` writes, or the totals at the end
        now = time.monotonic()
        tokens = float(logs.get("num_tokens") or state.num_input_tokens_seen or 0)
        fields: dict[str, Any] = _numbers(logs)
        if self._seconds_a_step is not None:
            steps = max(1, args.logging_steps)
            took = min(now - self._logged_at, self._seconds_a_step * steps * 2)
            fields["tokens_per_second"] = (tokens - self._logged_tokens) / max(took, 1e-9)
            fields["seconds_left"] = (state.max_steps - state.global_step) * self._seconds_a_step
        self._logged_at, self._logged_tokens = now, tokens
        fields["memory_bytes"] = used_memory_bytes(self._device)
        self.say("log", step=state.global_step, **fields)

    def on_evaluate(
        self, args: Any, state: TrainerState, *_: Any, metrics: Any = None, **__: Any
    ) -> None:
        """Write every number that the trainer measures on the held-out rows."""
        self.last_eval_step = state.global_step
        self.say("eval", step=state.global_step, **_numbers(metrics or {}))
        self.restart_clock()

    def on_save(self, args: TrainingArguments, state: TrainerState, *_: Any, **__: Any) -> None:
        """Report the path of a checkpoint."""
        path = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        mark_whole(path)
        self.say("checkpoint", step=state.global_step, path=str(path.relative_to(self._run)))
        self.restart_clock()

    def say(self, event: str, **fields: Any) -> None:
        """Write an event, waiting while the disk is full."""
        while True:
            try:
                events.append(self._events, event, **fields)
                return
            except OSError as error:
                if not events.is_disk_full(error):
                    raise
            time.sleep(_POLL_SECONDS)  # the reserve is used up, and no event may be lost


def _numbers(logged: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers among what a trainer logged."""
    return {
        name: float(value)
        for name, value in logged.items()
        if isinstance(value, Real) and name not in _OF_THE_EVENT
    }
