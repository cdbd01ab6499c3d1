"""The findings without a browser: buttons are clicked, and threads wait where a test says so."""

from __future__ import annotations

import asyncio
import json
import threading
from typing import Any

import pytest

from nbft.config import Config
from nbft.data.doctor import Report, doctor, measure
from nbft.data.samples import sample_path
from nbft.errors import ModelError
from nbft.widgets import doctor as module
from nbft.widgets import kernel
from nbft.widgets.doctor import Findings
from nbft.widgets.form import Form


@pytest.fixture(autouse=True)
def no_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a script: what would be done in a thread is done at once."""
    monkeypatch.setattr(kernel, "_loop", None)


@pytest.fixture
def rows() -> list[dict[str, Any]]:
    lines = sample_path("gsm8k", "train").read_text(encoding="utf-8").splitlines()[:30]
    found = [json.loads(line) for line in lines]
    return [{"prompt": row["question"] + "\n", "completion": row["answer"]} for row in found]


@pytest.fixture
def config(tiny_model: Any, rows: Any) -> Config:
    """Rows of which one repeats another, and some that are cut."""
    return Config(
        model={"model_name": str(tiny_model)},
        data={"rows": [*rows, rows[4]], "split_ratio": 1.0, "max_length": 100},
        evaluation={"eval_strategy": "no"},
    )


def report_of(config: Config, **keywords: Any) -> Report:
    return doctor(config, say=lambda _: None, **keywords)


def widgets_in(widget: Any, kind: str) -> list[Any]:
    found = [widget] if type(widget).__name__ == kind else []
    for child in getattr(widget, "children", ()):
        found += widgets_in(child, kind)
    return found


def text_of(findings: Findings) -> str:
    return "".join(html.value for html in widgets_in(findings.widget, "HTML"))


def button(findings: Findings, words: str) -> Any:
    return next(b for b in widgets_in(findings.widget, "Button") if b.description.startswith(words))


def test_each_finding_is_shown_with_its_buttons(config: Config) -> None:
    report = report_of(config)
    findings = Findings(report)
    text = text_of(findings)
    assert report.headline in text
    for one in report.findings:
        assert f"<b>{one.level}: {one.name}</b>" in text
    assert 'role="img"' in text
    buttons = [b.description for b in widgets_in(findings.widget, "Button")]
    assert buttons.count("Show the fix") == sum(bool(one.rewrite) for one in report.findings) > 0
    assert f"Use {report['cut'].changes['data.max_length']}" in buttons
    assert buttons.count("Show the rows") == sum(bool(one.places) for one in report.findings)
    assert not any(b.startswith("Check all") for b in buttons)
    for one in widgets_in(findings.widget, "Button"):
        assert one.tooltip, "says which finding it is about"


def test_what_a_row_holds_is_escaped(config: Config, rows: Any) -> None:
    rows[2]["completion"] = "<script>alert(1)</script>\x00"
    text = text_of(Findings(report_of(Config(data={"rows": rows}, model=config.model))))
    assert "<script>" not in text
    assert "&lt;script&gt;" in text


def test_a_fix_is_applied_and_the_rows_are_looked_at_again(config: Config) -> None:
    findings = Findings(report_of(config))
    button(findings, "Use ").click()
    assert findings.report is not None
    assert "cut" not in findings.report
    assert findings.config.data.max_length > 100
    assert "duplicates" in findings.report
    show(findings, "duplicates")
    assert "Row 31, left out" in text_of(findings), "what will change is shown first"
    assert len(findings.config.data.train.datasets[0].rows) == 31
    button(findings, "Leave out 1 row in a new file").click()
    assert "duplicates" not in findings.report
    assert len(findings.config.data.train.datasets[0].rows) == 30
    assert findings.config.data.max_length > 100, "both are mended"
    button(findings, "Undo duplicates").click()
    assert "duplicates" in findings.report
    assert len(findings.config.data.train.datasets[0].rows) == 31
    assert findings.config.data.max_length > 100, "the other fix stays"


def show(findings: Findings, name: str) -> None:
    """Click "Show the fix" of a finding."""
    next(
        b for b in widgets_in(findings.widget, "Button")
        if b.description == "Show the fix" and b.tooltip.startswith(f"{name}: ")
    ).click()  # fmt: skip


def test_a_fix_is_shown_before_and_after_and_folds(config: Config, rows: Any) -> None:
    rows[4]["prompt"] = "Salt &amp; pepper: " + rows[4]["prompt"]
    findings = Findings(report_of(Config(data={"rows": rows}, model=config.model)))
    show(findings, "html_entities")
    text = text_of(findings)
    assert '<th scope="col"' in text
    assert "Salt &amp;amp; pepper" in text
    assert "Salt &amp; pepper" in text
    button(findings, "Change 1 row in a new file")
    show(findings, "html_entities")
    assert not [
        b for b in widgets_in(findings.widget, "Button") if b.description.startswith("Change")
    ]


def test_what_is_a_judgement_is_chosen(config: Config, rows: Any) -> None:
    for n in (2, 5):
        rows[n]["completion"] = "I'm sorry, but I cannot help with that."
    findings = Findings(report_of(Config(data={"rows": rows}, model=config.model)))
    before = len(rows)
    show(findings, "refusals")
    boxes = widgets_in(findings.widget, "Checkbox")
    assert [box.description.partition(":")[0] for box in boxes] == ["Row 3", "Row 6"]
    assert not any(box.value for box in boxes)
    button(findings, "Leave out the chosen rows").click()
    assert "refusals: choose at least one row." in text_of(findings)
    boxes[1].value = True
    button(findings, "Leave out the chosen rows").click()
    left = findings.config.data.train.datasets[0].rows
    assert len(left) == before - 1
    assert rows[2] in left
    assert rows[5] not in left


def test_who_embeds_it_decides_what_follows(config: Config) -> None:
    told = []
    findings = Findings(report_of(config), on_fixed=lambda *what: told.append(what))
    button(findings, "Use ").click()
    ((mended, sentence),) = told
    length = mended.data.max_length
    assert sentence == f"cut: fixed. Now data.max_length={length}."


def test_a_sample_offers_all_rows(config: Config) -> None:
    findings = Findings()
    findings.check(config, sample=10)
    assert findings.report is not None
    assert findings.report.looked_at == 10
    button(findings, "Check all 31 rows").click()
    assert findings.report.looked_at == 31


def test_rows_are_shown_in_the_lens(config: Config) -> None:
    findings = Findings(report_of(config))
    show = next(
        b for b in widgets_in(findings.widget, "Button")
        if b.description == "Show the rows" and b.tooltip.startswith("cut: ")
    )  # fmt: skip
    show.click()
    (lens,) = widgets_in(findings.widget, "Lens")
    assert findings.report is not None
    places = findings.report["cut"].places
    assert (lens.number, lens.split) == (places[0].number + 1, "train")
    button(findings, f"Row {places[2].row}").click()
    assert lens.number == places[2].number + 1
    show.click()
    assert widgets_in(findings.widget, "Lens") == [], "a second click folds it"


def test_a_mistake_is_said(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ModelError("the model is not to be had")

    monkeypatch.setattr(module, "doctor", fail)
    findings = Findings(config)
    assert '<p role="alert">the model is not to be had</p>' in text_of(findings)

    def break_(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(module, "doctor", break_)
    findings.check(config)
    assert "This failed (ZeroDivisionError: by zero)." in text_of(findings)


def test_the_work_is_done_in_a_thread_and_shown_from_the_main_one(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    report, threads, goes_on = report_of(config), [], threading.Event()

    def slow(config: Config, *, sample: int | None, say: Any) -> Report:
        threads.append(threading.current_thread())
        say("Checked 10 of 31 rows")
        goes_on.wait(10)
        return report

    monkeypatch.setattr(module, "doctor", slow)

    async def cell() -> None:
        findings = Findings(config)
        while "Checked 10 of 31 rows" not in text_of(findings):
            await asyncio.sleep(0.01)
        assert findings.report is None, "the kernel is free meanwhile"
        shown = []
        findings._state.observe(lambda _: shown.append(threading.current_thread()), "value")
        goes_on.set()
        while findings.report is None:
            await asyncio.sleep(0.01)
        assert report.headline in text_of(findings)
        assert {*shown} == {threading.main_thread()}
        assert threads[0] is not threading.main_thread()

    asyncio.run(asyncio.wait_for(cell(), 10))


def test_an_earlier_check_is_given_up(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    report, began, goes_on, left = report_of(config), [], threading.Event(), threading.Event()

    def slow(config: Config, *, sample: int | None, say: Any) -> Report:
        began.append(sample)
        if sample == 1:
            goes_on.wait(10)
            try:
                say("Checked one row")
            finally:
                left.set()
        return report

    monkeypatch.setattr(module, "doctor", slow)

    async def cell() -> None:
        findings = Findings()
        findings.check(config, sample=1)
        while not began:
            await asyncio.sleep(0.01)
        findings.check(config, sample=2)
        while findings.report is None:
            await asyncio.sleep(0.01)
        goes_on.set()
        while not left.is_set():
            await asyncio.sleep(0.01)
        await asyncio.sleep(0)
        assert "Checked one row" not in text_of(findings)

    asyncio.run(asyncio.wait_for(cell(), 10))


def test_a_check_of_all_rows_can_be_stopped(
    config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on = threading.Event()
    look = module.doctor

    def slow(config: Config, *, sample: int | None, say: Any) -> Report:
        def say_and_wait(text: str) -> None:
            if text.startswith("Checked 13"):
                goes_on.wait(10)
            say(text)

        return look(config, sample=sample, say=say_and_wait)

    monkeypatch.setattr(module, "doctor", slow)
    monkeypatch.setattr(measure, "_CHUNK", 7)
    monkeypatch.setattr(measure, "_SECONDS_BETWEEN_WORDS", 0.0)

    async def cell() -> None:
        findings = Findings()
        findings.check(config, sample=None)
        while not text_of(findings).count("Checked 7 of 31 rows"):
            await asyncio.sleep(0.01)
        button(findings, "Stop here").click()
        goes_on.set()
        while findings.report is None:
            await asyncio.sleep(0.01)
        assert findings.report.is_stopped
        assert findings.report.looked_at == 13
        assert "were checked before it was stopped" in text_of(findings)
        assert button(findings, "Check all 31 rows")
        findings.check(config, sample=None)
        button(findings, "Stop here").click()
        while "stopped before a row was checked" not in text_of(findings):
            await asyncio.sleep(0.01)
        assert widgets_in(findings.widget, "Button") == []

    asyncio.run(asyncio.wait_for(cell(), 30))


# In the form


def press(form: Form, name: str) -> None:
    assert name == "Check"
    form._check_button.click()


def test_the_check_of_the_form_looks_at_the_rows(config: Config) -> None:
    form = Form(config)
    press(form, "Check")
    assert form._checking.findings.widget is form._results.children[-1]
    assert "not been checked yet" in text_of(form._checking.findings), "no loop, no thread"
    button(form._checking.findings, "Check the rows").click()
    assert form._checking.findings.report is not None
    assert "duplicates" in form._checking.findings.report


def test_a_fix_lands_in_the_fields_and_keeps_what_was_typed(config: Config) -> None:
    form = Form(config)
    press(form, "Check")
    button(form._checking.findings, "Check the rows").click()
    form._take("training.max_steps", 7)
    button(form._checking.findings, "Use ").click()
    assert form.config.data.max_length > 100
    assert form.config.training.max_steps == 7
    assert form._fields["data.max_length"].control.value == str(form.config.data.max_length)
    assert "cut: fixed." in form.line.widget.value
    button(form._checking.findings, "Check the rows").click()
    show(form._checking.findings, "duplicates")
    button(form._checking.findings, "Leave out 1 row").click()
    assert len(form.config.data.train.datasets[0].rows) == 30
    button(form._checking.findings, "Check the rows").click()
    button(form._checking.findings, "Undo duplicates").click()
    assert len(form.config.data.train.datasets[0].rows) == 31
    assert form.config.data.max_length > 100, "the other fix stays"


def test_a_locked_form_keeps_its_fields(config: Config) -> None:
    form = Form(config)
    press(form, "Check")
    button(form._checking.findings, "Check the rows").click()
    form._launching.lock(True)
    button(form._checking.findings, "Use ").click()
    assert form.config.data.max_length == 100
    assert "locked while a run is training" in form.line.widget.value
    findings = form._checking.findings
    findings.show(findings.report)
    buttons = [one.description for one in widgets_in(findings.widget, "Button")]
    assert not [words for words in buttons if words.startswith("Undo")], "nothing was fixed"
    form._launching.lock(False)
    button(findings, "Use ").click()
    assert form.config.data.max_length > 100
    form._launching.lock(True)
    button(findings, "Check the rows").click()
    button(findings, "Undo ").click()
    assert form.config.data.max_length > 100
    assert button(findings, "Undo "), "still to be had"


def test_rows_that_cannot_be_read_are_the_plans_business() -> None:
    form = Form(Config(data={"path": "gone.jsonl"}))
    press(form, "Check")
    assert "findings" not in form._checking.__dict__
