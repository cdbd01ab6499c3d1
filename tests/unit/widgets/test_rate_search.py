"""The search for a learning rate in the form, without a browser and without its process."""

from __future__ import annotations

from typing import Any

import pytest

from nbft.config import Config
from nbft.errors import NbftError
from nbft.runs import rate_search
from nbft.runs.range_test import RangeTest, rising_rates
from nbft.widgets import kernel
from nbft.widgets.form import Form
from nbft.widgets.rate_search import RATE, RateField

RATES = rising_rates(2e-6, 0.2, 60)
FALLING = tuple(2.5 - 1 / (1 + (1e-3 / rate) ** 2) + rate * 20 for rate in RATES)


@pytest.fixture(autouse=True)
def no_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a script: what would be done in a thread is done at once."""
    monkeypatch.setattr(kernel, "_loop", None)


@pytest.fixture
def form() -> Form:
    return Form(Config(data={"dataset_name": "grammar"}))


@pytest.fixture
def field(form: Form) -> RateField:
    field = form._fields[RATE]
    assert isinstance(field, RateField)
    return field


def finding(monkeypatch: pytest.MonkeyPatch, losses: tuple[float, ...]) -> RangeTest:
    found = RangeTest(Config(), tuple(RATES), losses, 60, 16, "done", 9.0)

    def find(config: Config, **asked: Any) -> RangeTest:
        asked["say"]("Step 1 of 60.")
        asked["watch"](found)
        assert not asked["give_up"]()
        return found

    monkeypatch.setattr(rate_search, "find_learning_rate", find)
    return found


def buttons(field: RateField) -> dict[str, Any]:
    rows = field.search._buttons.children
    return {button.description: button for row in rows for button in row.children}


def test_a_click_finds_a_rate_and_another_uses_it(
    form: Form, field: RateField, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = finding(monkeypatch, FALLING)
    assert field.search.widget not in field.widget.children
    field._find.click()
    assert field.search.widget in field.widget.children
    assert f'<p role="status">{found.sentence}</p>' == field.search._state.value
    assert "<svg" in field.search._curve.value
    assert found.caveat in field.search._curve.value
    assert found.sentence not in field.search._curve.value, "it is said once"
    (use,) = [name for name in buttons(field) if name.startswith("Use ")]
    form._lock(True)
    assert buttons(field)[use].disabled
    assert field._find.disabled
    form._lock(False)
    buttons(field)[use].click()
    assert form.config.training.learning_rate == found.suggested
    assert field.control.value == use.removeprefix("Use ")
    assert "nbft-changed" in field.widget._dom_classes
    assert field.search.widget not in field.widget.children


def test_without_a_suggestion_there_is_nothing_to_use(
    field: RateField, monkeypatch: pytest.MonkeyPatch
) -> None:
    finding(monkeypatch, (2.5,) * 60)
    field._find.click()
    assert "No learning rate is suggested" in field.search._state.value
    assert [*buttons(field)] == ["Close"]
    buttons(field)["Close"].click()
    assert field.search.widget not in field.widget.children


def test_what_fails_is_said(form: Form, field: RateField, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(config: Config, **_: Any) -> RangeTest:
        raise NbftError("Memory <b> ran out.")

    monkeypatch.setattr(rate_search, "find_learning_rate", fails)
    field._find.click()
    alert = '<p role="alert">Memory &lt;b&gt; ran out.</p>'
    assert field.search._state.value == alert
    form._take("training.num_train_epochs", "many")
    field._find.click()
    assert "training.num_train_epochs" in field.search._state.value


def test_a_search_is_given_up_when_the_form_is_closed_or_another_begins(
    form: Form, field: RateField, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def find(config: Config, **options: Any) -> RangeTest:
        asked.append(options["give_up"])
        return RangeTest(config, tuple(RATES), FALLING, 60)

    monkeypatch.setattr(rate_search, "find_learning_rate", find)
    field._find.click()
    assert not asked[0]()
    field._find.click()
    assert asked[0]()
    assert not asked[1]()
    form.close()
    assert asked[1]()
