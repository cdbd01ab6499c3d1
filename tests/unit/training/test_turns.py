"""Turns of several trainings in one process, with threads that only draw numbers."""

from __future__ import annotations

import logging
import os
import random
import threading
from pathlib import Path

import numpy as np
import pytest
import torch

from nbft.training.shared_weights import with_same_weights
from nbft.training.stages import StageClock
from nbft.training.turns import Turns


def drawn(number: int, step: int) -> tuple[object, ...]:
    if not step:
        random.seed(number)
        np.random.seed(number)  # noqa: NPY002
        torch.manual_seed(number)
        os.environ["NBFT_TEST_TURN"] = str(number)
        logging.getLogger("nbft").setLevel(number)
    numbers = random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002
    return *numbers, os.environ["NBFT_TEST_TURN"], logging.getLogger("nbft").level


@pytest.fixture
def train(monkeypatch):
    monkeypatch.setenv("NBFT_TEST_TURN", "")
    level = logging.getLogger("nbft").level
    yield _train
    logging.getLogger("nbft").setLevel(level)


def _train(number, steps, **options):
    """Train in turns; return what each has drawn, the order of all steps, and the verdicts."""
    order: list[tuple[int, int]] = []
    ended: dict[int, str] = {}
    judged: list[list[str]] = []

    def judge(going):
        judged.append([turn.run.name for turn in going])
        going[-1].verdict = "the last"

    settings = {"rungs": [], "by_held_out": False, **options}
    turns = Turns("cpu", 2, settings.pop("rungs"), judge, let_go=lambda: None, **settings)
    seen: dict[int, list[object]] = {n: [] for n in range(number)}

    def work(n, turn):
        with turns.taking_part(turn):
            turn.stages = StageClock()
            for step in range(steps):
                order.append((n, step + 1))
                seen[n].append(drawn(n + 1, step))
                if why := turn.after_step(step + 1, steps, 0):
                    ended[n] = why
                    return

    threads = [
        threading.Thread(target=work, args=(n, turns.join(Path(str(n))))) for n in range(number)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    return seen, order, ended, judged


def test_each_draws_what_it_would_alone(train):
    seen, order, ended, _ = train(3, 5)
    for n in range(3):
        assert seen[n] == [drawn(n + 1, step) for step in range(5)]
    by_first = [n for n, step in order if step in (1, 3)]
    assert by_first[3:] == by_first[:3]
    assert all(order[i + 1] == (n, step + 1) for i, (n, step) in enumerate(order) if step in (1, 3))
    assert ended == {}


def test_all_wait_at_a_rung_until_they_are_judged(train):
    _, order, ended, judged = train(3, 8, rungs=[0.25, 0.5])
    assert sorted(judged[0]) == ["0", "1", "2"]
    assert len(judged[1]) == 2
    assert set(ended.values()) == {"the last"}
    before = order.index(next(pair for pair in order if pair[1] == 3))
    assert {pair for pair in order if pair[1] <= 2} == set(order[:before])
    assert sum(step == 8 for _, step in order) == 1


def test_a_copy_shares_the_weights_and_nothing_else():
    layer = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.BatchNorm1d(3))
    copy = with_same_weights(layer)
    assert copy[0].weight.data_ptr() == layer[0].weight.data_ptr()
    assert copy[0].weight is not layer[0].weight
    copy.requires_grad_(False)
    assert layer[0].weight.requires_grad
    assert copy[1].running_mean.data_ptr() != layer[1].running_mean.data_ptr()
