"""The clock of a run's stages: where it is, what each took, and how long the rest will take.

What was measured once is the estimate for those of its kind that are still to come; until then it is
the plan's. Called by the worker and its callbacks.
"""

from __future__ import annotations

import bisect
import logging
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nbft.training.room import Room


_AT_REST = ("paused", "waiting")
"""Stages in which a run does nothing; it waits for its turn in a race."""


class StageClock:
    """Counts each moment of a run as part of one stage of `nbft.plan.stages`.

    Attributes:
        stage: The stage that goes on.
        between: The stage that goes on when another one is over.
        seconds_a_step: Time of an optimiser step; None before it is known.
        taken: Seconds of each stage that is over, all its times together.
    """

    def __init__(self) -> None:
        self.stage = self.between = "loading"
        self.seconds_a_step: float | None = None
        self.taken: defaultdict[str, float] = defaultdict(float)
        self._since = time.monotonic()
        self._total_steps = 0
        self._moments: dict[str, list[int]] = {}
        self._once: dict[str, float] = {}
        self._done: dict[str, int] = {}
        self._spent: defaultdict[str, float] = defaultdict(float)  # on what is not over yet

    def expect(
        self,
        moments: Mapping[str, Sequence[int]],
        total_steps: int,
        planned_seconds: Mapping[str, float] | None = None,
    ) -> None:
        """Take in what the run will do.

        Args:
            moments: The steps after which each stage happens, ascending.
            total_steps: Optimiser steps of the run.
            planned_seconds: The plan's estimate for all times of each stage together.
        """
        self._moments = {stage: list(steps) for stage, steps in moments.items()}
        self._total_steps = total_steps
        for stage, seconds in (planned_seconds or {}).items():
            if stage == "training":
                self.seconds_a_step = seconds / max(1, total_steps)
            elif steps := self._moments.get(stage):
                self._once[stage] = seconds / len(steps)

    def due(self, stage: str) -> Sequence[int]:
        """Return the steps after which a stage happens, ascending."""
        return self._moments.get(stage, ())

    def begin(self, stage: str) -> None:
        """Begin a stage, or go on with it; the one until now is over or interrupted."""
        now = time.monotonic()
        self.taken[self.stage] += now - self._since
        self._spent[self.stage] += now - self._since
        self.stage, self._since = stage, now

    def end(self, step: int) -> None:
        """Note how long the stage took, and that nothing up to a step is left of its kind."""
        stage = self.stage
        self.begin(self.between)
        self._once[stage] = self._spent.pop(stage)
        self._done[stage] = step

    def resume_from(self, step: int) -> None:
        """Leave out what happened up to a step in an earlier attempt."""
        self._done |= dict.fromkeys(self._moments, step)

    def end_at(self, step: int) -> None:
        """Take in that the run ends after a step: what comes last comes then."""
        last = self._total_steps
        self._moments = {
            stage: [s for s in steps if s < step] + [step] * (last in steps)
            for stage, steps in self._moments.items()
        }
        self._total_steps = step

    def seconds_left(self, step: int) -> float | None:
        """Return the time until the run is over, after a step; None if nobody knows."""
        if self.seconds_a_step is None:
            return None
        left = max(0, self._total_steps - step) * self.seconds_a_step
        for stage, steps in self._moments.items():
            to_come = len(steps) - bisect.bisect_right(steps, self._done.get(stage, -1))
            once, spent = self._once.get(stage, 0.0), self._spent.get(stage, 0.0)
            if stage == self.stage:
                spent += time.monotonic() - self._since
            left += to_come * once - (min(once, spent) if to_come else 0.0)
        return max(0.0, left)

    def seconds_at_work(self) -> float:
        """Return the time until now, pauses and the turns of others left out."""
        return sum(taken for stage, taken in self.seconds().items() if stage not in _AT_REST)

    def seconds(self) -> dict[str, float]:
        """Return how long each stage took until now."""
        self.begin(self.stage)
        return {stage: round(taken, 2) for stage, taken in self.taken.items()}


def report_stage(room: Room, clock: StageClock, step: int, text: str) -> None:
    """Write what the run is doing now, and how long the rest will take, into its events and log.

    Args:
        room: Writes the events.
        clock: The clock of the run.
        step: The last step.
        text: What it is doing.
    """
    left = clock.seconds_left(step)
    known = {} if left is None else {"seconds_left": round(left, 1)}
    room.say("stage", stage=clock.stage, step=step, text=text, **known)
    logging.getLogger("nbft").info(text)
