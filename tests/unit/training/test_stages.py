"""The time left counts every stage, by what was measured once."""

from __future__ import annotations

import pytest

from nbft.training import stages
from nbft.training.stages import StageClock

MOMENTS = {"loading": [0], "evaluating": [0, 5, 10], "scoring": [0, 10], "saving": [10]}
PLANNED = {"loading": 6.0, "evaluating": 9.0, "scoring": 8.0, "saving": 1.0, "training": 20.0}


class Time:
    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    clock = Time()
    monkeypatch.setattr(stages, "time", clock)
    return clock


@pytest.fixture
def clock(time: Time) -> StageClock:
    clock = StageClock()
    clock.expect(MOMENTS, 10, PLANNED)
    return clock


def stage(clock: StageClock, time: Time, name: str, step: int, seconds: float) -> None:
    clock.begin(name)
    time.now += seconds
    clock.end(step)


def test_nothing_is_known_without_a_plan_before_the_first_step() -> None:
    clock = StageClock()
    assert clock.seconds_left(0) is None
    clock.expect(MOMENTS, 10)
    assert clock.seconds_left(0) is None
    clock.seconds_a_step = 2.0
    assert clock.seconds_left(1) == 18.0


def test_the_plan_counts_down_while_it_loads(time: Time, clock: StageClock) -> None:
    assert clock.seconds_left(0) == 44
    time.now += 4
    assert clock.seconds_left(0) == 40
    time.now += 30  # it takes longer than planned; the other stages are still to come
    assert clock.seconds_left(0) == 38
    stage(clock, time, "tokenizing", 0, 1)
    assert clock.stage == "loading"  # which goes on: its time was used up
    assert clock.seconds_left(0) == 38
    clock.end(0)
    assert clock.seconds_left(0) == 38


def test_what_was_measured_once_is_used_for_those_to_come(time: Time, clock: StageClock) -> None:
    clock.end(0)
    clock.between = "training"
    stage(clock, time, "scoring", 0, 20)
    stage(clock, time, "evaluating", 0, 7)
    clock.seconds_a_step = 1.0
    assert clock.seconds_left(0) == 10 + 2 * 7 + 20 + 1
    assert clock.seconds_left(5) == 5 + 2 * 7 + 20 + 1  # that of step 5 is still to come
    stage(clock, time, "evaluating", 5, 6)
    assert clock.seconds_left(5) == 5 + 6 + 20 + 1
    stage(clock, time, "evaluating", 10, 6)
    clock.begin("scoring")
    time.now += 5
    assert clock.seconds_left(10) == 15 + 1


def test_a_run_that_is_stopped_ends_with_what_comes_last(time: Time, clock: StageClock) -> None:
    clock.end(0)
    stage(clock, time, "evaluating", 0, 3)
    stage(clock, time, "scoring", 0, 4)
    clock.end_at(3)
    assert clock.seconds_left(3) == 3 + 4 + 1


def test_a_resumed_run_does_not_repeat_its_beginning(clock: StageClock) -> None:
    clock.resume_from(5)
    assert clock.seconds_left(5) == 5 * 2 + 3 + 4 + 1


def test_every_moment_belongs_to_one_stage(time: Time, clock: StageClock) -> None:
    time.now += 3
    clock.end(0)
    clock.between = "training"
    clock.begin("training")
    time.now += 10
    clock.begin("evaluating")
    time.now += 2
    clock.begin("scoring")  # the evaluation was cut short
    time.now += 4
    clock.end(5)
    time.now += 1
    assert clock.seconds() == {"loading": 3, "training": 11, "evaluating": 2, "scoring": 4}


def test_a_long_run_with_many_evaluations_is_counted_at_once(cpu_seconds) -> None:
    clock = StageClock()
    clock.expect({"evaluating": range(100_000)}, 100_000, {"training": 1.0, "evaluating": 1.0})
    assert cpu_seconds(lambda: [clock.seconds_left(step) for step in range(1000)]) < 0.5
