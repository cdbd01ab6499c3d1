"""What the watching callback says, fed with numbers by hand."""

from types import SimpleNamespace

import pytest

from nbft import events
from nbft.training.callbacks.watching import NotANumberError, WatchingCallback


def notes(tmp_path, losses, *, rates=None, stop_on_nan=True, max_steps=1000):
    callback = WatchingCallback(tmp_path, stop_on_nan=stop_on_nan)
    arguments = SimpleNamespace(learning_rate=1e-3)
    for step, loss in enumerate(losses, start=1):
        rate = rates[step - 1] if rates else 1e-3
        state = SimpleNamespace(global_step=step, max_steps=max_steps)
        logs = {"loss": loss, "learning_rate": rate, "grad_norm": 1.0}
        callback.on_log(arguments, state, None, logs=logs)
    return events.read(tmp_path / "events.jsonl")


def test_a_good_run_is_silent(tmp_path):
    assert notes(tmp_path, [2.0, 1.9, 2.3, 1.7, 1.2, 1.3]) == []


def test_a_loss_of_nan_is_said_and_ends_the_run(tmp_path):
    with pytest.raises(NotANumberError, match="The loss is nan at step 3"):
        notes(tmp_path, [2.0, 1.9, float("nan")])
    said = events.read(tmp_path / "events.jsonl")
    assert [(e["step"], e["kind"]) for e in said] == [(3, "nan")]
    assert "Try training.learning_rate=0.0001" in said[0]["text"]


def test_it_is_said_once_where_the_run_goes_on(tmp_path):
    said = notes(tmp_path, [2.0, float("inf"), float("inf")], stop_on_nan=False)
    assert len(said) == 1


def test_an_exploding_loss_is_said_within_ten_steps(tmp_path):
    said = notes(tmp_path, [2.0] * 10 + [7.0, 8.0, 9.0, 12.0, 15.0, 20.0, 30.0])
    assert [(e["step"], e["kind"]) for e in said] == [(15, "exploded")]
    assert "above 3 times its lowest (2)" in said[0]["text"]


def test_one_high_step_is_no_explosion(tmp_path):
    assert notes(tmp_path, [2.0] * 5 + [9.0] + [2.0] * 5) == []


def test_a_loss_of_exactly_zero_is_said_within_ten_steps(tmp_path):
    said = notes(tmp_path, [0.0] * 10)
    assert [(e["step"], e["kind"]) for e in said] == [(5, "zero")]
    assert "every label may be masked" in said[0]["text"]


def test_a_rate_stuck_at_zero_is_said_within_ten_steps(tmp_path):
    said = notes(tmp_path, [2.0] * 10, rates=[0.0] * 10)
    assert [(e["step"], e["kind"]) for e in said] == [(5, "still")]


def test_a_rate_of_zero_at_the_first_and_the_last_step_is_no_mistake(tmp_path):
    assert notes(tmp_path, [2.0] * 6, rates=[0.0, 1e-3, 1e-3, 1e-3, 1e-3, 0.0], max_steps=6) == []
