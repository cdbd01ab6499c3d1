"""Widgets are closed when others take their place: their number does not grow with use."""

from __future__ import annotations

import gc
import json
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ipywidgets.widgets import widget as ipywidgets_widget

from nbft.config import Config
from nbft.data.doctor import Report, doctor
from nbft.widgets import kernel
from nbft.widgets.doctor import Findings
from nbft.widgets.form import Form
from nbft.widgets.lens import Lens
from nbft.widgets.views import TABS

TIMES = 50
RATE = "training.learning_rate"
VIEWS = ("basic", "advanced", "yaml", "python", "guided")


@pytest.fixture(autouse=True)
def no_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a script: what would be done in a thread is done at once."""
    monkeypatch.setattr(kernel, "_loop", None)


def live() -> int:
    """The number of widgets that the kernel and the front end hold."""
    return len(ipywidgets_widget._instances)


def stays_constant(action: Callable[[int], None], times: int = TIMES) -> None:
    """Do something many times: after the first rounds no more widgets may live than before."""
    for turn in range(2):  # what is made lazily is made once, and belongs to its owner
        action(turn)
    before = live()
    for turn in range(times):
        action(turn)
    assert live() == before


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    found = [
        {"prompt": f"What is {n} + {n}?\n", "completion": f"It is {2 * n}."} for n in range(20)
    ]
    return [*found, found[3]]


@pytest.fixture
def config(tiny_model: Any, rows: Any) -> Config:
    return Config(
        model={"model_name": str(tiny_model)},
        data={"rows": rows, "split_ratio": 1.0},
        evaluation={"eval_strategy": "no"},
    )


@pytest.fixture
def report(config: Config) -> Report:
    return doctor(config, say=lambda _: None)


def test_edits_of_a_form(config: Config) -> None:
    form = Form(config)
    values = ("fast", "1e-4", "-1", "2e-4")  # wrong and right in turn

    def edit(turn: int) -> None:
        form._fields[RATE].control.value = values[turn % len(values)]

    for turn in range(4):
        edit(turn)
    stays_constant(edit)


def test_checks_of_a_form(config: Config) -> None:
    form = Form(config.apply({"peft.lora_alpha": 4096, RATE: 0.5}))
    stays_constant(lambda _: form._check_button.click())
    form._tree.take({RATE: "fast"})  # then every check lists another kind of problem
    stays_constant(lambda _: form._check_button.click())


def test_checks_of_a_form_that_look_at_the_rows(config: Config) -> None:
    form = Form(config)

    def check(_turn: int) -> None:
        form._check_button.click()
        form._checking.findings.check(form.config)

    stays_constant(check)


def test_views_tabs_and_searches_of_a_form(config: Config) -> None:
    form = Form(config)

    def look_around(turn: int) -> None:
        for view in VIEWS:
            form._views.mode.value = view
        form._views.mode.value = "advanced"
        for tab in range(len(TABS)):
            form._views.tabs.selected_index = tab
        form._views.search.value = "no such setting"
        form._views.search.value = "warm"
        form._views.search.value = ""
        form._views.changed_button.click()
        form._views.changed_button.click()

    stays_constant(look_around, times=10)


def test_steps_of_the_guided_mode(config: Config) -> None:
    form = Form(config, guided=True)

    def walk(_turn: int) -> None:
        for number in (*range(1, 8), 1):
            form._guided.go_to(number)

    stays_constant(walk, times=10)


def test_the_data_is_looked_at_again_and_again(config: Config) -> None:
    form = Form(config)
    stays_constant(lambda _: form._look_button.click())
    before = live()
    form._check_button.click()  # takes the place of the lens
    form._look_button.click()
    form._check_button.click()
    assert live() <= before + 20


def test_files_of_other_systems_are_opened(config: Config, tmp_path: Path) -> None:
    form = Form(config)
    theirs = tmp_path / "theirs.json"
    theirs.write_text(json.dumps({"base_model": "a/b", "algorithm": "dora", "rank": 16}))

    def open_theirs(_turn: int) -> None:
        form._opening.control.value = "open"
        path, button = form._opening.file
        path.value = str(theirs)
        button.click()

    stays_constant(open_theirs)


def test_findings_are_shown_again_and_rows_unfolded(report: Report) -> None:
    findings = Findings(report)

    def unfold(_turn: int) -> None:
        findings.show(report)
        for finding in findings._list.children[: len(report.findings)]:
            for button in finding.children[1].children:
                if button.description == "Show the rows":
                    button.click()

    stays_constant(unfold)


def test_a_lens_leafs_through_its_rows(config: Config) -> None:
    lens = Lens(config)

    def leaf(turn: int) -> None:
        lens.go_to(1 + turn % 20)
        lens.view = ("tokens", "text", "row", "tokens")[turn % 4]

    stays_constant(leaf)
    before = live()
    for _ in range(3):
        Lens(config).close()
    assert live() == before


def test_uploads_are_shown(config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    form = Form(Config(training={"output_dir": "runs"}))
    upload = form._fields.make("data.train.datasets[0].path")._note
    content = b'{"prompt": "a", "completion": "b"}\n' * 5

    def bring(turn: int) -> None:
        about = {"type": "begin", "upload": str(turn), "files": 1, "size": len(content)}
        upload._hear(None, about | {"name": "rows.jsonl"}, [])
        piece = {"type": "piece", "upload": str(turn), "start": 0, "crc32": zlib.crc32(content)}
        upload._hear(None, piece, [content])
        assert "Kept as" in upload.said

    stays_constant(bring)


def test_a_form_that_is_closed_leaves_none_of_its_own(config: Config, tmp_path: Path) -> None:
    before = live()
    for close in (lambda form: form.close(), lambda form: form.widget.close()):
        form = Form(config.apply({RATE: 0.5}))
        for view in VIEWS:
            form._views.mode.value = view
        form._views.mode.value = "advanced"
        for tab in range(len(TABS)):
            form._views.tabs.selected_index = tab
        form._fields.make(RATE).control.value = "fast"
        form._fields.make(RATE).control.value = "1e-4"
        form._check_button.click()
        form._checking.findings.check(form.config)
        form._look_button.click()
        assert live() > before + 100
        close(form)
        assert live() == before
        form.close()  # twice does no harm


def test_findings_that_are_closed_leave_none_of_their_own(report: Report) -> None:
    before = live()
    findings = Findings(report)
    assert live() > before
    findings.close()
    gc.collect()
    assert live() == before
