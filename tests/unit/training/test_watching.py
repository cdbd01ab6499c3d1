"""When the watching callback writes a note, and when it strikes one. `test_notes` has the notes."""

from types import SimpleNamespace

import pytest

from nbft import events
from nbft.config import Config
from nbft.runs.state import read_state
from nbft.training.callbacks.watching import NotANumberError, WatchingCallback

NAN, INF = float("nan"), float("inf")


class Training:
    """A training that logs given numbers, as the reporting callback does before this one."""

    def __init__(self, folder, *, total=1000, changes=None):
        self.path = folder / "events.jsonl"
        self.callback = WatchingCallback(folder, Config().apply(changes or {}))
        self.step = 0
        events.append(self.path, "prepared", total_steps=total, warmup_steps=0, rows=100)

    def log(self, *losses, norm=1.0):
        for loss in losses:
            self.step += 1
            logs = {"loss": loss, "learning_rate": 1e-3, "grad_norm": norm, "epoch": 1.0}
            events.append(self.path, "log", step=self.step, **logs)
            state = SimpleNamespace(global_step=self.step)
            self.callback.on_log(None, state, None, logs=logs)

    def evaluate(self, loss):
        events.append(self.path, "eval", step=self.step, eval_loss=loss)
        self.callback.on_evaluate(None, None, None)

    def end(self):
        self.callback.on_train_end(None, None, None)

    @property
    def notes(self):
        return [(n.kind, n.step, n.answered_step) for n in read_state(self.path).notes]


@pytest.fixture
def training(tmp_path):
    return Training(tmp_path)


def test_a_good_run_is_silent(training):
    training.log(2.0, 1.9, 2.3, 1.7, 1.2, 1.3)
    training.evaluate(1.4)
    training.end()
    assert training.notes == []


def test_a_loss_of_nan_is_said_with_a_setting_and_ends_the_run(training):
    with pytest.raises(
        NotANumberError, match=r"The loss is nan at step 3\. Try training\.learning_ra"
    ):
        training.log(2.0, 1.9, NAN)
    (note,) = read_state(training.path).notes
    assert (note.kind, note.step, dict(note.changes)) == (
        "nan",
        3,
        {"training.learning_rate": 2e-5},
    )


def test_a_loss_of_nan_before_any_update_is_no_matter_of_the_rate(training):
    with pytest.raises(NotANumberError, match="the cause is in the rows or in the model") as error:
        training.log(NAN)
    assert "learning_rate" not in str(error.value)
    assert "nbft.doctor" in str(error.value)


def test_it_is_said_once_where_the_run_goes_on(tmp_path):
    training = Training(tmp_path, changes={"training.stop_on_nan": False})
    training.log(2.0, INF, INF, INF)
    assert training.notes == [("nan", 2, None)]


def test_a_gradient_and_then_the_loss_are_two_notes(tmp_path):
    training = Training(tmp_path, changes={"training.stop_on_nan": False})
    training.log(2.0, norm=1.0)
    training.log(2.0, norm=INF)
    training.log(NAN, norm=NAN)
    assert [kind for kind, *_ in training.notes] == ["nan_gradient", "nan"]


def test_an_explosion_is_said_within_ten_steps(training):
    training.log(*[2.0] * 10, 7.0, 8.0, 9.0, 12.0, 15.0, 20.0)
    assert training.notes == [("exploded", 14, None)]


def test_a_note_that_is_answered_is_struck(training):
    training.log(*[2.0] * 10, 7.0, 8.0, 9.0, 12.0, 15.0)
    training.log(*[2.0] * 12)
    ((kind, step, answered),) = training.notes
    assert (kind, step) == ("exploded", 14)
    assert 16 < answered < 27
    training.end()
    assert len(training.notes) == 1


def test_the_last_look_strikes_at_once(training):
    training.log(0.0, 0.0, 0.0, 0.0, 0.0)
    assert training.notes == [("zero", 5, None)]
    training.log(0.5)
    assert training.notes == [("zero", 5, None)]
    training.end()
    assert training.notes == [("zero", 5, 6)]


def test_a_note_comes_back_twice_at_most(training):
    for _ in range(6):
        training.log(*[0.0] * 5, *[2.0] * 5)
    assert [kind for kind, *_ in training.notes].count("zero") == 3


def test_a_spike_stays_true(training):
    training.log(*[2.0, 2.1] * 15, 12.0, *[2.0, 2.1] * 30)
    training.end()
    ((kind, _, answered),) = training.notes
    assert (kind, answered) == ("spike", None)


def test_a_held_out_loss_is_looked_at_when_it_is_measured(training):
    training.log(*[2.0] * 3)
    training.evaluate(2.0)
    training.evaluate(NAN)
    assert training.notes == [("held_out_nan", 3, None)]


def test_a_resumed_run_knows_what_it_has_said(training, tmp_path):
    training.log(0.0, 0.0, 0.0, 0.0, 0.0)
    events.append(training.path, "prepared", total_steps=1000, rows=100, resumed_step=5)
    again = WatchingCallback(tmp_path, Config())
    training.callback = again
    training.log(0.0, 0.0)
    assert training.notes == [("zero", 5, None)]


def test_a_long_run_is_looked_at_rarely(training, monkeypatch):
    looks = []
    look = training.callback._look
    monkeypatch.setattr(training.callback, "_look", lambda **_: looks.append(training.step))
    training.log(*[2.0] * 400)
    assert len(looks) < 200
    assert looks[:50] == list(range(1, 51))
    monkeypatch.setattr(training.callback, "_look", look)
    with pytest.raises(NotANumberError):
        training.log(NAN)
