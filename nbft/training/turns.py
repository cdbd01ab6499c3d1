"""Several trainings of one process that take turns: exactly one of them computes at a time.

Each has a thread. What a process has only once (random numbers, environment variables, loggers, the
state of accelerate) is exchanged at each hand-over, so every training goes as it would alone. Called
by `nbft.training.racing`.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import random
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate.state import AcceleratorState, GradientState, PartialState

from nbft.runs.requests import Requests
from nbft.training.environment import LIBRARIES
from nbft.training.stages import StageClock

_POLL_SECONDS = 0.1
_SINGLETONS = (PartialState, AcceleratorState, GradientState)
_LOGGERS = ("nbft", *LIBRARIES, "py.warnings")


class World:
    """What this process has only once, as it is when this is made.

    Args:
        device: The device that trains, whose random numbers count too.
    """

    def __init__(self, device: str) -> None:
        self._generator = _generator_of(device)
        self._python, self._numpy = random.getstate(), np.random.get_state()  # noqa: NPY002
        self._torch = torch.get_rng_state()
        self._of_device = self._generator.get_rng_state() if self._generator else None
        self._environment = dict(os.environ)
        self._is_deterministic = torch.are_deterministic_algorithms_enabled()
        cudnn: Any = torch.backends.cudnn
        self._cudnn = cudnn.deterministic, cudnn.benchmark
        self._singletons = [dict(kind._shared_state) for kind in _SINGLETONS]
        self._loggers = [
            (logger.level, logger.propagate, list(logger.handlers))
            for logger in map(logging.getLogger, _LOGGERS)
        ]
        self._show_warning = warnings.showwarning

    def restore(self) -> None:
        """Make everything as it was."""
        random.setstate(self._python)
        np.random.set_state(self._numpy)  # noqa: NPY002
        torch.set_rng_state(self._torch)
        if self._generator:
            self._generator.set_rng_state(self._of_device)
        for name in os.environ.keys() - self._environment.keys():
            del os.environ[name]
        for name, value in self._environment.items():
            if os.environ.get(name) != value:
                os.environ[name] = value
        if torch.are_deterministic_algorithms_enabled() != self._is_deterministic:
            torch.use_deterministic_algorithms(self._is_deterministic)
        cudnn: Any = torch.backends.cudnn
        cudnn.deterministic, cudnn.benchmark = self._cudnn
        for kind, state in zip(_SINGLETONS, self._singletons, strict=True):
            kind._shared_state.clear()  # the dict is the __dict__ of each of their objects
            kind._shared_state.update(state)
        for name, (level, propagates, handlers) in zip(_LOGGERS, self._loggers, strict=True):
            logger = logging.getLogger(name)
            logger.setLevel(level)
            logger.propagate, logger.handlers = propagates, list(handlers)
        warnings.showwarning = self._show_warning


def _generator_of(device: str) -> Any:
    """Return the module of torch with a device's random numbers; None for the CPU."""
    return None if device == "cpu" else getattr(torch, device, None)


class Turn:
    """The place of one training among those that take turns.

    Args:
        turns: The others.
        run: The run's folder.

    Attributes:
        requests: The requests to the run; one that has any is let train next.
        stages: The clock of its stages.
        share: Returns its base model; the run loads one of its own if None.
        verdict: Why the run is to end; "" while it goes on.
    """

    def __init__(self, turns: Turns, run: Path) -> None:
        self.run = run
        self.requests: Requests | None = None
        self.stages: StageClock | None = None
        self.share: Callable[..., Any] | None = None
        self.is_over = self.is_paused = self.waits_at_rung = False
        self.verdict = ""
        self._turns = turns
        self._since_step = 0

    def after_step(self, step: int, total_steps: int, last_eval_step: int) -> str:
        """Let others train if it is their turn; return why this one is to end, "" to go on.

        Args:
            step: Optimiser steps done.
            total_steps: Optimiser steps of the run.
            last_eval_step: The last step after which the held-out rows were measured.
        """
        turns = self._turns
        rung_step, is_measured = turns.rung_step(self, total_steps)
        is_reached = rung_step <= step < total_steps
        self.waits_at_rung = is_reached and (not is_measured or last_eval_step >= rung_step)
        if self.waits_at_rung or step - self._since_step >= turns.steps_per_turn:
            with self._waiting():
                turns.pass_on(self)
            self._since_step = step
        return self.verdict

    def rest(self) -> None:
        """Let others train while the run is paused."""
        self.is_paused = True
        self._turns.pass_on(self)
        if self._turns.is_alone(self):
            time.sleep(_POLL_SECONDS)

    def go_on(self) -> None:
        """Take part again after a pause."""
        self.is_paused = False

    @property
    def has_requests(self) -> bool:
        """Whether somebody has asked the run for something."""
        return self.requests is not None and bool(self.requests.read())

    @contextlib.contextmanager
    def _waiting(self) -> Iterator[None]:
        """Leave the time of the others out of the run's own."""
        if self.stages is not None:
            self.stages.begin("waiting")
        yield
        if self.stages is not None:
            self.stages.begin(self.stages.between)


class Turns:
    """Trainings that take turns.

    Args:
        device: The device that trains.
        steps_per_turn: Optimiser steps of a turn.
        rungs: After which shares of their steps they are judged, ascending.
        by_held_out: Whether they are judged by what is measured on the held-out rows; a rung is then
            at the first such measurement from there on.
        judge: Called with those that go on when all of them wait to be judged; sets the `verdict`
            of those that are to end.
        let_go: Called in the thread of a training before another one computes.
    """

    def __init__(
        self,
        device: str,
        steps_per_turn: int,
        rungs: Sequence[float],
        judge: Callable[[Sequence[Turn]], None],
        *,
        by_held_out: bool,
        let_go: Callable[[], None],
    ) -> None:
        self.steps_per_turn = steps_per_turn
        self._device, self._rungs, self._by_held_out = device, list(rungs), by_held_out
        self._judge, self._let_go = judge, let_go
        self._changed = threading.Condition()
        self._places: list[Turn] = []
        self._holder: Turn | None = None
        self._first = World(device)

    def join(self, run: Path) -> Turn:
        """Return a place for a run, after those that there are."""
        with self._changed:
            self._places.append(Turn(self, run))
            return self._places[-1]

    def rung_step(self, turn: Turn, total_steps: int) -> tuple[float, bool]:
        """Return after which step a run is judged next, and whether it is measured there."""
        if not self._rungs:
            return math.inf, False
        step = math.ceil(self._rungs[0] * total_steps)
        due = turn.stages.due("evaluating") if self._by_held_out and turn.stages else ()
        measured = next((each for each in due if step <= each < total_steps), None)
        return (step, False) if measured is None else (measured, True)

    @contextlib.contextmanager
    def taking_part(self, turn: Turn) -> Iterator[None]:
        """Wait for the first turn, and give the last one back after the block."""
        with self._changed:
            if self._holder is None:
                self._holder = turn
            self._changed.wait_for(lambda: self._holder is turn)
        self._first.restore()
        try:
            yield
        finally:
            self._let_go()
            with self._changed:
                turn.is_over, self._holder = True, None
                self._holder = self._next(turn)
                self._changed.notify_all()

    def pass_on(self, turn: Turn) -> None:
        """Let the next one train, and return when it is this one's turn again."""
        with self._changed:
            following = self._next(turn)
            if following is turn or following is None:
                return
            own = World(self._device)
            self._let_go()
            self._holder = following
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._holder is turn)
        own.restore()

    def is_alone(self, turn: Turn) -> bool:
        """Whether nobody else can train now."""
        with self._changed:
            return self._next(turn) in (turn, None)

    def _next(self, turn: Turn) -> Turn | None:
        """Return whose turn it is after one: first those with requests, then in order."""
        self._settle()
        at = self._places.index(turn) + 1
        ahead = [one for one in (*self._places[at:], *self._places[:at]) if not one.is_over]
        asked = [one for one in ahead if one is not turn and one.has_requests]
        ready = [one for one in ahead if not (one.waits_at_rung or one.is_paused)]
        otherwise = ahead if turn.is_over else [turn]
        return next(iter((*asked, *ready, *otherwise)), None)

    def _settle(self) -> None:
        """Judge those that go on once all of them wait for it; one that is paused is not waited for."""
        going = [one for one in self._places if not (one.is_over or one.is_paused)]
        if going and all(one.waits_at_rung for one in going):
            self._judge(going)
            del self._rungs[:1]
            for one in going:
                one.waits_at_rung = False
