"""The head of the tab Compute: the places, and what a click on one changes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from nbft.config import Config
from nbft.devices import Gpu
from nbft.hardware import Hardware, planning_for
from nbft.widgets import kernel
from nbft.widgets.form import Form
from nbft.widgets.places import PlacesView
from nbft.widgets.views import TABS

T4 = Gpu("Tesla T4", 14 * 2**30, (7, 5))


@pytest.fixture(autouse=True)
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A machine with two GPUs, and no loop: what a thread would do is done at once."""
    monkeypatch.setattr(kernel, "_loop", None)
    with planning_for(Hardware("two T4", 30 * 2**30, "cuda", (T4, T4))):
        yield


@pytest.fixture
def form() -> Form:
    form = Form(Config.preset("two-minute-try"))
    form._views.show("advanced")
    form._views.tabs.selected_index = list(TABS).index("Compute")
    return form


@pytest.fixture
def view(form: Form) -> PlacesView:
    return form._places


def state(view: PlacesView) -> str:
    return str(view._state.value)


def choose(view: PlacesView, title: str) -> None:
    view._choice.value = dict(view._choice.options)[title]
    view._use_button.click()


def test_opening_the_tab_compares_the_places(view: PlacesView) -> None:
    assert [title for title, _ in view._choice.options] == [
        *("Tesla T4", "2 × Tesla T4", "the processor", "Slurm cluster")
    ]
    assert view._choice.label == "Tesla T4"
    assert view._tables.value.count("Tesla T4") == 3  # as a device, and alone and together
    assert "Chosen now." in view._tables.value
    assert state(view) == ""


def test_a_place_is_used_with_the_steps_as_they_were(form: Form, view: PlacesView) -> None:
    before = form.plan.effective_batch_size
    choose(view, "2 × Tesla T4")
    assert form.config.distributed.num_processes == 2
    assert form.config.training.per_device_train_batch_size == 4
    assert form.plan.effective_batch_size == before
    assert view._choice.label == "2 × Tesla T4"
    assert state(view) == ""


def test_other_settings_make_the_numbers_old(form: Form, view: PlacesView) -> None:
    length = form._fields.make("data.max_length").control
    length.value = "64"
    assert "Compare again" in state(view)
    view._again.click()
    assert state(view) == ""


def test_a_wrong_field_is_said_and_the_numbers_stay(form: Form, view: PlacesView) -> None:
    tables = view._tables.value
    form._fields.make("data.max_length").control.value = "many"
    view._again.click()
    assert "1 field to fix first" in state(view)
    assert view._tables.value == tables


def test_while_a_run_trains_no_place_can_be_used(form: Form, view: PlacesView) -> None:
    form._lock(True)
    assert view._use_button.disabled
    view._again.click()
    assert view._use_button.disabled
    form._lock(False)
    assert not view._use_button.disabled


def test_what_fails_is_said(view: PlacesView, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_config: Any) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr("nbft.widgets.places.places", fail)
    view._again.click()
    assert "the disk is gone" in state(view)
    assert not view._again.disabled
