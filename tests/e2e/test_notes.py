"""What a run says of itself when it goes wrong: a note at its step, and in its report."""

from __future__ import annotations

import json

import pytest

from nbft.data.samples import sample_path


@pytest.fixture
def rows():
    lines = sample_path("grammar", "train").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines[:12]]


def notes(run):
    return [(e["kind"], e["text"]) for e in run.events() if e["event"] == "note"]


def test_rows_learnt_by_heart_are_noted_and_reported(train, rows):
    run = train(
        data__split_ratio=0.5,
        training__max_steps=60,
        training__learning_rate=5e-3,
        peft__method="full",
        evaluation__eval_strategy="steps",
        evaluation__eval_steps=10,
        evaluation__sample_count=0,
    )
    assert run.status == "completed", run.problems
    ((kind, text),) = notes(run)
    assert kind == "overfit"
    held_out = {e["step"]: e["eval_loss"] for e in run.events() if e["event"] == "eval"}
    lowest = min(held_out, key=held_out.get)
    assert f"was lowest at step {lowest} ({held_out[lowest]:.3g})" in text
    assert "the model is overfitting" in (run.path / "report.html").read_text(encoding="utf-8")


def test_a_loss_that_never_fell_is_noted(train, rows):
    del rows[6:]
    run = train(
        training__max_steps=20,
        training__per_device_train_batch_size=6,
        training__learning_rate=1e-7,
        evaluation__sample_count=0,
    )
    ((kind, text),) = notes(run)
    assert kind == "flat"
    assert "The loss has hardly fallen" in text
