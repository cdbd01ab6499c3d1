"""What the watching callback says, fed with numbers by hand."""

from types import SimpleNamespace

import pytest

from nbft import events
from nbft.training.callbacks.watching import NotANumberError, WatchingCallback

ARGUMENTS = SimpleNamespace(learning_rate=1e-3, max_grad_norm=1.0)


def notes(tmp_path, losses, *, rates=None, stop_on_nan=True, max_steps=1000, held_out=()):
    callback = WatchingCallback(tmp_path, stop_on_nan=stop_on_nan)
    state = SimpleNamespace(global_step=0, max_steps=max_steps, log_history=[])
    for step, loss in enumerate(losses, start=1):
        rate = rates[step - 1] if rates else 1e-3
        state.global_step = step
        logs = {"loss": loss, "learning_rate": rate, "grad_norm": 1.0}
        state.log_history.append(logs)
        callback.on_log(ARGUMENTS, state, None, logs=logs)
    for step, loss in enumerate(held_out, start=len(losses) + 1):
        state.global_step = step
        callback.on_evaluate(ARGUMENTS, state, None, metrics={"eval_loss": loss})
    callback.on_train_end(ARGUMENTS, state, None)
    return events.read(tmp_path / "events.jsonl")


def test_a_good_run_is_silent(tmp_path):
    assert notes(tmp_path, [2.0, 1.9, 2.3, 1.7, 1.2, 1.3]) == []


def test_a_loss_of_nan_is_said_and_ends_the_run(tmp_path):
    with pytest.raises(NotANumberError, match="The loss is nan at step 3"):
        notes(tmp_path, [2.0, 1.9, float("nan")])
    said = events.read(tmp_path / "events.jsonl")
    assert [(e["step"], e["kind"]) for e in said] == [(3, "nan")]
    assert "Try training.learning_rate=0.0001, a longer scheduler.warmup" in said[0]["text"]


def test_clipping_is_advised_against_nan_where_there_is_none(tmp_path, monkeypatch):
    monkeypatch.setattr(ARGUMENTS, "max_grad_norm", 0.0)
    (said,) = notes(tmp_path, [2.0, float("inf")], stop_on_nan=False)
    assert "Try training.learning_rate=0.0001, training.max_grad_norm=1, a longer" in said["text"]


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


def test_a_held_out_loss_that_rises_again_is_said_once_with_where_it_was_lowest(tmp_path):
    said = notes(tmp_path, [2.0], held_out=[2.1, 1.8, 1.9, 2.0, 2.2])
    assert [(e["step"], e["kind"]) for e in said] == [(5, "overfit")]
    assert "was lowest at step 3 (1.8) and is 2" in said[0]["text"]
    assert "early_stopping_patience" in said[0]["text"]


@pytest.mark.parametrize("held_out", [[2.1, 1.8, 1.9, 1.8, 1.9], [2.0, 2.01, 2.02, 2.03], [1.0]])
def test_a_held_out_loss_that_wavers_is_not(tmp_path, held_out):
    assert notes(tmp_path, [2.0], held_out=held_out) == []


def test_a_loss_that_never_fell_is_said_at_the_end(tmp_path):
    said = notes(tmp_path, [2.0, 2.1] * 10)
    assert [(e["step"], e["kind"]) for e in said] == [(20, "flat")]
    assert "2.04 over the first quarter of the steps, 2.06 over the last" in said[0]["text"]
    assert "Try a learning_rate above 0.001" in said[0]["text"]


def test_a_loss_that_fell_by_a_hundredth_did_fall(tmp_path):
    assert notes(tmp_path, [2.0] * 10 + [1.98] * 10) == []


def test_flat_is_not_said_of_a_short_run_nor_beside_its_opposite(tmp_path):
    assert notes(tmp_path, [2.0] * 19) == []
    said = notes(tmp_path, [2.0] * 10 + [7.0, 8.0, 9.0, 12.0, 15.0, 20.0, 30.0, 30.0, 30.0, 30.0])
    assert [e["kind"] for e in said] == ["exploded"]
