"""A budget ends a run with a checkpoint to go on from, and the receipt says what it took."""

from __future__ import annotations

import json
from typing import Any

import pytest

import nbft
from nbft.runs.checkpoints import last_whole, step_of

BUDGETS: dict[str, dict[str, Any]] = {
    "max_seconds": {"training__max_seconds": 0.001},
    "max_tokens": {"training__max_tokens": 1},
    "max_energy_kwh": {"training__max_energy_kwh": 1e-9},
    "max_cost_usd": {"training__max_cost_usd": 1e-9, "compute__price_usd_per_hour": 1.0},
}


@pytest.mark.parametrize("name", BUDGETS)
def test_a_budget_stops_with_a_checkpoint(train, name: str) -> None:
    run = train(training__max_steps=4, **BUDGETS[name])
    assert (run.status, run.step) == ("stopped", 1)
    assert run.state.reason.startswith(f"Stopped after step 1 of 4: training.{name}=")
    checkpoint = last_whole(run.path)
    assert checkpoint is not None
    assert step_of(checkpoint) == 1
    assert run.adapter is not None


def test_a_stopped_run_goes_on_with_a_larger_budget(train) -> None:
    run = train(training__max_steps=3, training__max_tokens=1)
    resumed = run.resume({"training.max_tokens": 10**9})
    resumed.wait()
    assert (resumed.status, resumed.step) == ("completed", 3)


def test_the_receipt_is_what_the_run_took(train) -> None:
    run = train(training__max_steps=2, compute__price_usd_per_hour=2.0)
    receipt = run.receipt()
    end = run.events()[-1]
    assert (receipt.steps, receipt.seconds) == (2, end["seconds"])
    assert receipt.tokens == end["tokens"] > 0
    assert receipt.memory_bytes == end["peak_bytes"] > 100 * 2**20
    assert receipt.cost_usd == pytest.approx((end["seconds"] / 1800,) * 2, abs=1e-4)
    assert receipt.energy_kwh is not None
    assert 0 < receipt.energy_kwh[0] < receipt.energy_kwh[1]
    assert receipt.planned["total_steps"] == 2
    assert json.loads(json.dumps(receipt.to_dict()))["steps"] == 2
    assert "Peak memory" in str(receipt)
    page = run.report().read_text(encoding="utf-8")
    assert "What it took" in page
    assert nbft.attach(run.path).receipt() == receipt
