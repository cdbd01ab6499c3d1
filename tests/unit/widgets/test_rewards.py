"""The reward editor without a browser: what is typed reaches the config, and what fails is said."""

from __future__ import annotations

from typing import Any

import pytest

from nbft.config import Config
from nbft.errors import ModelError
from nbft.rewards.table import Rewarded, RewardTable
from nbft.widgets import kernel
from nbft.widgets import rewards as module
from nbft.widgets.form import Form
from nbft.widgets.rewards import RewardEditor


@pytest.fixture(autouse=True)
def no_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a script: what would be done in a thread is done at once."""
    monkeypatch.setattr(kernel, "_loop", None)


@pytest.fixture
def form() -> Form:
    return Form(Config(data={"dataset_name": "larger_number"}, training={"method": "grpo"}))


@pytest.fixture
def editor(form: Form) -> RewardEditor:
    form._open_rewards()
    return form._rewards


def controls(editor: RewardEditor, number: int) -> list[Any]:
    return list(editor._list.children[number].children)


def rewards(form: Form) -> list[tuple[Any, ...]]:
    return [(r.function, r.weight, r.options) for r in form.config.grpo.rewards]


def test_the_button_is_there_for_methods_with_rewards_only(form: Form) -> None:
    assert form._rewards_button in form._more_buttons.children
    form._take("training.method", "sft")
    assert form._rewards_button not in form._more_buttons.children


def test_rewards_are_added_edited_and_removed(form: Form, editor: RewardEditor) -> None:
    editor._add()
    first = editor._list.children[0]
    assert rewards(form) == [("exact_number", 1.0, {})]
    function, weight, options, _ = controls(editor, 0)
    function.value = "format"
    options.value = '{pattern: "a+"}'
    weight.value = "0,5"
    assert rewards(form) == [("format", 0.5, {"pattern": "a+"})]
    assert editor._list.children[0] is first, "a person who types keeps the field"
    editor._add()
    assert rewards(form)[1] == ("exact_number", 1.0, {})
    editor._remove(0)
    assert rewards(form) == [("exact_number", 1.0, {})]
    names = [control.description for control in controls(editor, 0)]
    assert names == ["Reward 1", "Weight 1", "Options 1", "Remove"]


def test_a_wrong_weight_is_a_problem_and_stays_to_be_mended(
    form: Form, editor: RewardEditor
) -> None:
    editor._add()
    weight = controls(editor, 0)[1]
    weight.value = "much"
    assert any("weight" in problem.field for problem in form.problems)
    assert controls(editor, 0)[1].value == "much"
    weight.value = "2"
    assert rewards(form) == [("exact_number", 2.0, {})]


def test_another_config_is_shown(form: Form, editor: RewardEditor) -> None:
    form._apply_fix("", {"grpo.rewards": [{"function": "length", "weight": 0.25}]})
    function, weight, *_ = controls(editor, 0)
    assert (function.value, weight.value) == ("length", "0.25")


def test_a_trial_shows_a_table_and_a_failure_a_sentence(
    editor: RewardEditor, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [Rewarded("p", text, "", {"length": v}, v) for text, v in (("<b>", 1.0), ("b", 0.0))]
    monkeypatch.setattr(module, "try_rewards", lambda config, say: RewardTable(rows))
    editor.try_them()
    assert 'role="status"' in editor._state.value
    assert "2 answers to 1 row; mean of each reward: length 0.50." in editor._state.value
    assert "<table" in editor._shown.value
    assert "<b>" not in editor._shown.value

    def fails(config: Config, say: Any) -> RewardTable:
        raise ModelError("there is no such model.")

    monkeypatch.setattr(module, "try_rewards", fails)
    editor.try_them()
    assert editor._state.value == '<p role="alert">there is no such model.</p>'
    assert editor._shown.value == ""
    assert not editor._try.disabled


def test_locked_settings_stay(form: Form, editor: RewardEditor) -> None:
    editor._add()
    form._lock(True)
    controls(editor, 0)[1].value = "3"
    assert rewards(form) == [("exact_number", 1.0, {})]
    assert controls(editor, 0)[1].value == "1"


def test_what_comes_and_goes_leaves_the_editor_in_its_place(
    form: Form, editor: RewardEditor
) -> None:
    """A front end makes a view anew, without what is being typed, after one that comes or goes."""
    before = form.widget.children
    place = before.index(form._results)
    for changes in (
        {"training.max_steps": "many"},
        {"training.max_steps": 3},
        {"training.method": "sft"},
        {"training.method": "grpo"},
    ):
        form._take_all(changes)
        assert form.widget.children[: place + 1] == before[: place + 1]
    for is_locked in (True, False):
        form._launching.is_locked = is_locked
        form._lay_out()
        assert form.widget.children[: place + 1] == before[: place + 1]
