"""The form as a person meets it: in JupyterLab, with mouse and keyboard, light and dark."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from nbft.data.tiny_model import make_tiny_model

from .conftest import App, Notebook, Theme

FORM = """
import json, pathlib, time
from ipywidgets import Widget
opened = []
open_comm = Widget.open
def count_comm(self):
    opened.append(type(self).__name__)
    open_comm(self)
Widget.open = count_comm
pathlib.Path("rows.jsonl").write_text("".join(
    json.dumps({"prompt": f"Name {i}:", "completion": f"number {i}"}) + "\\n" for i in range(300)))
import nbft
form = nbft.Form(nbft.Config(
    data={"path": "rows.jsonl", "max_length": 256},
    training={"num_train_epochs": 2.0, "learning_rate": 3e-4},
))
form
"""


# Notes when the cell is run, and the first frame in which the last basic field is there.
WATCH = """() => {
    const look = () => {
        const field = document.querySelector('.nbft-at-compute-device select');
        if (field?.getClientRects().length) window.paintedAt = performance.now();
        else requestAnimationFrame(look);
    };
    addEventListener('keydown', event => {
        if (event.key === 'Enter') { window.startedAt = performance.now(); look(); }
    }, {capture: true});
}"""


@pytest.fixture
def form(notebook: Notebook) -> Locator:
    notebook.open([FORM])
    notebook.run_cell(0)
    form = notebook.output(0).locator(".nbft-form")
    expect(form.get_by_role("img", name=re.compile("Learning rate: "))).to_be_visible()
    return form


def test_the_form_is_good_to_look_at_and_to_use_without_eyes(
    notebook: Notebook, axe: Callable[[Locator], list[str]], console_errors: list[str]
) -> None:
    for theme, width in (("light", 1200), ("dark", 700)):
        look(notebook, axe, theme, width)  # type: ignore[arg-type]
    assert not [line for line in console_errors if "nbft" in line.lower()]


def look(notebook: Notebook, axe: Callable[[Locator], list[str]], theme: Theme, width: int) -> None:
    notebook.open(["import nbft.widgets.form", FORM], theme=theme, width=width)
    notebook.run_cell(0)
    notebook.page.evaluate(WATCH)
    notebook.run_cell(1)
    form = notebook.output(1).locator(".nbft-form")
    notebook.page.wait_for_function("() => window.paintedAt")
    painted_ms = notebook.page.evaluate("window.paintedAt - window.startedAt")
    print(f"first section painted after {painted_ms:.0f} ms")
    assert painted_ms < 3000  # 1000 on a machine with nothing else to do
    curve = form.get_by_role("img", name=re.compile("Learning rate: "))
    expect(curve).to_be_visible()
    assert notebook.kernel_eval("len(opened)") <= 80  # 15 of them are the columns of the file
    notebook.page.set_viewport_size({"width": width, "height": 1400})
    notebook.screenshot(f"form-{theme}-{width}")
    side, page = (
        form.locator(".nbft-side").bounding_box(),
        form.locator(".nbft-page").bounding_box(),
    )
    assert side
    assert page
    if width == 1200:
        assert side["x"] >= page["x"] + page["width"]
    else:
        assert side["y"] >= page["y"] + page["height"]
    assert form.evaluate("node => node.scrollWidth <= node.clientWidth")
    assert axe(form) == []
    rate = form.get_by_label("Learning rate", exact=True)
    rate.fill("fast")
    rate.press("Tab")
    expect(form.get_by_role("alert")).to_contain_text("not a number")
    form.get_by_role("button", name="Check").click()
    form.get_by_role("button", name="training.learning_rate").wait_for()
    assert axe(form) == []
    notebook.screenshot(f"form-{theme}-{width}-wrong")
    notebook.screenshot(f"form-{theme}-{width}-checked", form)
    form.get_by_label("Advanced", exact=True).check()
    form.get_by_role("tab", name="Review").click()
    expect(form.get_by_label("Settings as YAML")).to_have_value(re.compile("max_length: 256"))
    expect(form.get_by_role("region", name="Settings as Python")).to_contain_text("import")
    notebook.screenshot(f"form-{theme}-{width}-review", form)
    assert axe(form) == []
    form.get_by_role("button", name="Use 2e-4").first.click()
    expect(form.get_by_role("row", name="passed Rows 267 rows read")).to_be_visible()
    notebook.screenshot(f"form-{theme}-{width}-checklist", form)
    assert axe(form) == []
    assert form.evaluate("node => node.scrollWidth <= node.clientWidth")
    form.get_by_label("YAML", exact=True).check()
    expect(form.get_by_label("Settings as YAML")).to_be_visible()
    expect(form.get_by_role("tab")).to_have_count(0)
    notebook.screenshot(f"form-{theme}-{width}-yaml", form)
    assert axe(form) == []


def test_a_problem_stands_under_its_field_and_one_click_mends_it(
    form: Locator, notebook: Notebook, page: Page
) -> None:
    rate = form.get_by_label("Learning rate", exact=True)
    rate.fill("-7")
    expect(form.get_by_role("alert")).to_have_count(0)  # the field is not left yet
    rate.press("Tab")
    expect(form.get_by_role("alert")).to_contain_text("-7: must be above 0.")
    expect(form.get_by_role("button", name="Train here")).to_be_disabled()
    assert page.evaluate("document.activeElement.tagName") != "BODY"
    assert rate.input_value() == "-7"
    form.get_by_role("button", name="Use 2e-4").press("Enter")
    expect(rate).to_have_value("2e-4")
    expect(rate).to_be_focused()
    expect(form.get_by_role("button", name="Train here")).to_be_enabled()
    notebook.expect_value("form.config.training.learning_rate", 2e-4)
    curve = form.get_by_role("img", name=re.compile("2e-4 at step"))
    expect(curve).to_be_visible()
    # The time from leaving the field to the words under it, as the page sees it.
    milliseconds = page.evaluate(
        """() => new Promise(resolve => {
            const field = document.querySelector('.nbft-at-training-learning_rate');
            const input = field.querySelector('input');
            input.value = 'fast';
            input.dispatchEvent(new Event('input', {bubbles: true}));
            const start = performance.now();
            const look = () => field.querySelector('[role=alert]')
                ? resolve(performance.now() - start) : requestAnimationFrame(look);
            input.dispatchEvent(new Event('change', {bubbles: true}));
            look();
        })"""
    )
    print(f"problem shown after {milliseconds:.0f} ms")
    assert milliseconds < 1000  # 100 on a machine with nothing else to do


THEIRS = '''
import pathlib
pathlib.Path("prompts.py").write_text("""
open("ran", "w")
def prompt(row):
    return "A long line that does not fit on a narrow screen, so it has to be scrolled there: " + row["prompt"]
""")
pathlib.Path("theirs.yaml").write_text("""
data: {path: rows.jsonl, prompt_func: "prompts.py:prompt", completion_template: "{completion}"}
""")
'''


def test_code_of_an_opened_file_waits_for_a_click(
    notebook: Notebook, looks: Callable[[str, Locator], None]
) -> None:
    notebook.open([FORM, THEIRS])
    notebook.run_cell(0)
    form = notebook.output(0).locator(".nbft-form")
    notebook.run_cell(1)
    form.get_by_label("Preset").select_option("Open a file…")
    form.get_by_label("File", exact=True).fill("theirs.yaml")
    form.get_by_label("File", exact=True).press("Tab")
    form.get_by_role("button", name="Open", exact=True).click()
    code = form.get_by_role("group", name="Code that waits for your consent")
    expect(code).to_contain_text("def prompt(row):")
    expect(form.get_by_role("button", name="Train here")).to_be_disabled()
    looks("consent", form)
    assert not notebook.kernel_eval("pathlib.Path('ran').exists()")
    form.get_by_role("button", name="Allow prompts.py:prompt").click()
    expect(form.get_by_role("button", name="Train here")).to_be_enabled()
    expect(code).to_have_count(0)
    notebook.expect_value("pathlib.Path('ran').exists()", True)
    notebook.kernel_eval("pathlib.Path('ran').unlink()")


def test_a_learning_rate_is_found_and_used_by_keyboard(
    notebook: Notebook, axe: Callable[[Locator], list[str]], tmp_path: Path
) -> None:
    model = make_tiny_model(tmp_path)
    cell = FORM.replace("data={", f'model={{"model_name": {str(model)!r}}}, data={{')
    cell = cell.replace("training={", 'training={"gradient_accumulation_steps": 1, ')
    notebook.open([cell], theme="dark")
    notebook.run_cell(0)
    form = notebook.output(0).locator(".nbft-form")
    search = form.locator(".nbft-rate-search")
    form.get_by_role("button", name="Find…").press("Enter")
    expect(search.get_by_role("status")).to_contain_text("Loading")
    form.get_by_label("Epochs", exact=True).fill("3")  # the form is free meanwhile
    form.get_by_label("Epochs", exact=True).press("Tab")
    notebook.expect_value("form.config.training.num_train_epochs", 3.0)
    expect(search.get_by_role("status")).to_contain_text("Suggested", timeout=90_000)
    expect(search.get_by_role("img", name=re.compile("Smoothed loss"))).to_be_visible()
    notebook.screenshot("form-learning-rate", search)
    assert axe(search) == []
    use = search.get_by_role("button", name=re.compile("^Use "))
    rate = use.inner_text().removeprefix("Use ")
    use.press("Enter")
    expect(form.get_by_label("Learning rate", exact=True)).to_have_value(rate)
    expect(form.get_by_label("Learning rate", exact=True)).to_be_focused()
    expect(form.get_by_role("button", name="Reset to 2e-4")).to_be_visible()
    notebook.expect_value("form.config.training.learning_rate", float(rate))
    form.get_by_role("button", name="Find…").click()
    search.get_by_role("button", name="Cancel").click()
    expect(search).to_have_count(0)


@pytest.mark.parametrize("button", ["Use 2e-4", re.compile("^Learning rate: ")])
def test_a_late_answer_takes_the_focus_from_nobody_who_types(
    notebook: Notebook, button: str | re.Pattern[str]
) -> None:
    notebook.open([FORM, "import time; time.sleep(3)"])
    notebook.run_cell(0)
    form = notebook.output(0).locator(".nbft-form")
    form.get_by_label("Learning rate", exact=True).fill("-7")
    form.get_by_label("Learning rate", exact=True).press("Tab")
    expect(form.get_by_role("alert")).to_contain_text("must be above 0")
    notebook.run_cell(1, wait=False)
    form.get_by_role("button", name=button).first.click()
    epochs = form.get_by_label("Epochs", exact=True)
    epochs.fill("4")
    expect(notebook.cell(1).locator(".jp-InputPrompt")).to_contain_text("[2]")
    notebook.kernel_eval("0")  # by now the click is answered
    notebook.page.keyboard.type("2")
    expect(epochs).to_have_value("42")


def test_search_check_and_yaml_lead_to_the_field(
    form: Locator, notebook: Notebook, page: Page
) -> None:
    search = form.get_by_label("Find a setting")
    search.press_sequentially("war")
    search.fill("warm")
    warmup = form.get_by_label("Warmup steps", exact=True)
    expect(warmup).to_be_visible()
    notebook.kernel_eval("0")  # then the fields of the last letter have taken their place
    warmup.fill("-1")
    warmup.press("Enter")
    expect(form.get_by_role("alert")).to_contain_text("must be at least 0")
    search.fill("")
    expect(warmup).to_have_count(0)
    form.get_by_role("button", name="Check").press("Enter")
    form.get_by_role("button", name="scheduler.warmup_steps").press("Enter")
    expect(warmup).to_be_focused()
    warmup.fill("3")
    warmup.press("Enter")
    expect(form.get_by_role("img", name=re.compile("3e-4 at step 3,"))).to_be_visible()

    form.get_by_label("YAML", exact=True).check()
    text = form.get_by_label("Settings as YAML")
    expect(text).to_have_value(re.compile("warmup_steps: 3"))
    right = text.input_value()
    text.fill(right + "lora:\n  r: 8\n")
    form.get_by_role("button", name="Apply to the fields").click()
    expect(form.get_by_role("alert").first).to_contain_text("lora")
    text.fill(right.replace("256", "512"))
    form.get_by_role("button", name="Apply to the fields").click()
    form.get_by_label("Basic", exact=True).check()
    expect(form.get_by_label("Maximum length", exact=True)).to_have_value("512")

    form.get_by_label("Python", exact=True).check()
    form.get_by_role("button", name="Copy the Python").click()
    expect(form.get_by_text("Copied.")).to_be_visible()
    assert "import" in page.evaluate("navigator.clipboard.readText()")
    form.get_by_role("button", name="Look at the data").click()
    expect(form.get_by_role("region", name="Mask lens")).to_contain_text("completion (trained)")


RUN = """
import os, sys
from nbft.processes import process_start_time
from nbft import events
from nbft.runs import Run

def start(config):
    global run
    run = Run.create(config)
    events.append(run.events_path, "started", pid=os.getpid(), device="cpu", dtype="bfloat16",
        process_start_time=process_start_time(os.getpid()), total_steps=2, model="m", rows=270,
        seed=42, versions={}, trainable_parameters=1, total_parameters=2)
    events.append(run.events_path, "log", step=1, epoch=0.5, loss=2.0, learning_rate=1e-4)
    return run

import nbft.launchers
nbft.launchers.start = start  # a run without a model
"""


def test_train_here_shows_the_run_beneath_and_gives_the_fields_back(
    form: Locator, notebook: Notebook, page: Page
) -> None:
    notebook.kernel_eval(f"exec({RUN!r}, globals())")
    form.get_by_role("button", name="Train here").click()
    state = form.locator(".nbft-state").get_by_role("status")
    expect(state).to_contain_text("Running: run")
    expect(form.get_by_label("Learning rate", exact=True)).to_be_disabled()
    stop = page.get_by_role("button", name="Stop and save")
    expect(stop).to_be_visible()
    assert stop.bounding_box()["y"] > form.bounding_box()["y"]  # type: ignore[index]
    notebook.kernel_eval("events.append(run.events_path, 'stopped', step=1, seconds=2.0) and 1")
    expect(state).to_contain_text("Finished: run")
    expect(form.get_by_role("button", name="Run again")).to_be_enabled()
    expect(form.get_by_label("Learning rate", exact=True)).to_be_enabled()
    expect(form.get_by_role("button", name="Compare")).to_be_disabled()


@pytest.mark.parametrize("app", ["notebook", "voila"])
def test_the_form_works_in_other_front_ends(
    notebook: Notebook, app: App, axe: Callable[[Locator], list[str]]
) -> None:
    notebook.open(["import nbft\nnbft.Form()"], app=app)
    if app != "voila":
        notebook.run_cell(0)
    form = notebook.page.locator(".nbft-form")
    expect(form.get_by_label("Learning rate", exact=True)).to_be_visible(timeout=30_000)
    rate = form.get_by_label("Learning rate", exact=True)
    rate.fill("-3")
    rate.press("Tab")
    expect(form.get_by_role("alert")).to_contain_text("must be above 0.")
    form.get_by_role("button", name="Use 2e-4").click()
    expect(rate).to_have_value("2e-4")
    assert axe(form) == []
    notebook.screenshot(f"form-{app}")


def test_the_layers_are_listed_with_what_the_adapter_adds(
    form: Locator, notebook: Notebook, axe: Callable[[Locator], list[str]]
) -> None:
    form.get_by_label("Advanced", exact=True).check()
    form.get_by_role("tab", name="Method").click()
    table = form.get_by_role("table").filter(has_text="added to each")
    query = table.get_by_role("row", name="self_attn.q_proj")
    expect(query).to_contain_text("576 × 576")
    rank = form.get_by_label("LoRA rank", exact=True)
    before = int(rank.input_value())
    expect(query).to_contain_text(f"{before * (576 + 576):,}")
    rank.fill(str(2 * before))
    rank.press("Tab")
    expect(query).to_contain_text(f"{2 * before * (576 + 576):,}")
    notebook.screenshot("form-layers", form)
    assert axe(form) == []


def test_the_places_to_train_are_compared(
    form: Locator, looks: Callable[[str, Locator], None]
) -> None:
    form.get_by_label("Advanced", exact=True).check()
    form.get_by_role("tab", name="Compute").click()
    places = form.get_by_role("table", name="Places to train")
    expect(places.get_by_role("row").nth(1)).to_contain_text("Chosen now.")
    form.get_by_label("Train on").select_option("Slurm cluster")
    form.get_by_role("button", name="Use", exact=True).click()
    expect(places.get_by_role("row").nth(2)).to_contain_text("Chosen now.")
    looks("form-places", form)
