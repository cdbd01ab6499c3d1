"""The mask lens as a person meets it: in JupyterLab, with mouse and keyboard, light and dark."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from nbft.data.tiny_model import make_tiny_model

from .conftest import App, Notebook, Server

LOADED_MS = 60_000  # transformers is imported first

LENS = """
import nbft
model = {{"model_name": {model!r}}}
lens = nbft.inspect(nbft.Config(model=model, data={{
    "dataset_name": "alpaca", "max_length": {max_length}, "packing": True, "split_ratio": 0.9}}))
lens
"""

CHAT = """
rows = [{{"messages": [
    {{"role": "system", "content": "<b>Answer</b> briefly."}},
    {{"role": "user", "content": "Wie hei\\u00dft \\u65e5\\u672c?"}},
    {{"role": "assistant", "content": "Japan."}},
]}}] * 5 + [{{"prompt": None, "messages": [
    {{"role": "user", "content": "Tell me a long story. " * 200}},
    {{"role": "assistant", "content": "Once upon a time. " * 1000}},
]}}]
lens = nbft.inspect(nbft.Config(model=model, data={{
    "rows": rows, "max_length": 4000, "split_ratio": 1.0}}))
lens
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_tiny_model(tmp_path_factory.mktemp("tiny")))


@pytest.fixture
def lens(notebook: Notebook, model: str) -> Locator:
    notebook.open([LENS.format(model=model, max_length=400)])
    notebook.run_cell(0)
    lens = notebook.output(0).locator(".nbft-lens")
    expect(tokens(lens).first).to_be_visible(timeout=LOADED_MS)
    return lens


def tokens(lens: Locator) -> Locator:
    return lens.get_by_role("listbox", name="Tokens").get_by_role("option")


def title(lens: Locator) -> Locator:
    return lens.get_by_role("status").first


def test_the_lens_is_good_to_look_at_and_to_use_without_eyes(
    notebook: Notebook,
    model: str,
    looks: Callable[[str, Locator], None],
    console_errors: list[str],
) -> None:
    cell = LENS.format(model=model, max_length=120)
    notebook.open([cell, CHAT.format()])
    notebook.page.set_viewport_size({"width": 1200, "height": 1100})
    notebook.run_cell(0)
    lens = notebook.output(0).locator(".nbft-lens")
    expect(tokens(lens).first).to_be_visible(timeout=LOADED_MS)
    for view in ("Row", "Text", "Packed", "Tokens"):
        lens.get_by_role("radio", name=view, exact=True).check()
        if view == "Packed":
            expect(lens.get_by_role("img", name=re.compile("Sequence of"))).to_be_visible()
        expect(lens.get_by_role("region")).to_be_visible()
        looks(f"lens-{view.lower()}", lens)
    lens.get_by_label("Show spaces").check()
    lens.get_by_label("Token boundaries").check()
    lens.get_by_label("Order").select_option("most cut first")
    expect(lens.get_by_text("Most cut first, of all 911 rows.")).to_be_visible()
    tokens(lens).nth(20).hover()
    looks("lens-worst", lens)

    notebook.run_cell(1)
    chat = notebook.output(1).locator(".nbft-lens")
    expect(tokens(chat).first).to_be_visible(timeout=LOADED_MS)
    for role in ("system (not trained)", "user (not trained)", "assistant (trained)"):
        expect(chat.get_by_role("group", name=role)).to_be_visible()
    expect(chat.get_by_role("group", name="system")).to_contain_text("<b>Answer</b> briefly.")
    expect(chat.get_by_role("group", name="user")).to_contain_text("Wie heißt 日本?")
    looks("lens-chat", chat)
    assert console_errors == []


def test_the_keyboard_goes_from_token_to_token_and_from_row_to_row(
    lens: Locator, notebook: Notebook, page: Page
) -> None:
    tokens(lens).first.focus()
    page.keyboard.press("ArrowRight")
    second = tokens(lens).nth(1)
    expect(second).to_be_focused()
    (ids, text, _kind, label) = notebook.kernel_eval("[list(t) for t in lens.shown.tokens][1]")
    assert label == -100
    shown = text.replace(" ", "·").replace("\n", "↵")
    name = f"“{shown}”, id {ids[0]} · label -100, not trained: the model reads it"
    expect(second).to_have_attribute("aria-label", name)
    tip = lens.locator(".nbft-lens-tip")
    expect(tip).to_contain_text(f"id {ids[0]} · label -100")
    page.keyboard.press("Escape")
    expect(tip).to_be_hidden()
    page.keyboard.press("ArrowDown")
    below = page.evaluate("document.activeElement.getBoundingClientRect().top")
    assert below > second.bounding_box()["y"] + 5  # type: ignore[index]
    page.keyboard.press("End")
    expect(tokens(lens).last).to_be_focused()
    end = notebook.kernel_eval("lens.shown.tokens[-1].label")
    expect(tip).to_contain_text(f"label {end}")
    expect(tip).to_contain_text("trained")

    page.keyboard.press("n")
    expect(title(lens)).to_contain_text("row 2 of 911")
    expect(tokens(lens).first).to_be_focused()
    notebook.expect_value("lens.number", 2)
    page.keyboard.press("p")
    expect(title(lens)).to_contain_text("row 1 of 911")
    page.keyboard.press("p")  # there is none before
    lens.get_by_role("button", name="Next").press("Enter")
    expect(title(lens)).to_contain_text("row 2 of 911")
    expect(lens.get_by_role("button", name="Next")).to_be_focused()
    assert page.locator(".jp-Notebook .jp-CodeCell").count() == 2  # no shortcut of JupyterLab's


def test_views_splits_orders_and_jumps_are_heard_by_python(
    lens: Locator, notebook: Notebook
) -> None:
    row = lens.get_by_role("spinbutton", name="Row")
    row.fill("99999")
    row.press("Enter")
    expect(title(lens)).to_contain_text("row 911 of 911")
    expect(row).to_have_value("911")
    lens.get_by_role("combobox", name="Rows").select_option("held-out rows")
    expect(title(lens)).to_contain_text("row 1 of 89")
    lens.get_by_label("Order").select_option("longest first")
    expect(lens.get_by_text("Longest first, of all 89 rows.")).to_be_visible()
    expect(lens.get_by_text("place 1 of 89")).to_be_visible()
    longest = notebook.kernel_eval("lens.shown.measure.length")
    assert longest == notebook.kernel_eval("max(m.length for m in lens._measures.values())")
    lens.get_by_role("radio", name="Row", exact=True).check()
    number = notebook.kernel_eval("lens.number")
    answer = notebook.kernel_eval(f"lens._examples.row({number - 1})['output']")
    expect(lens.get_by_role("row", name="output").get_by_role("cell")).to_have_text(answer)
    lens.get_by_role("radio", name="Text").check()
    region = lens.get_by_role("region", name=re.compile("as text"))
    expect(region).to_contain_text("<|end|>")
    dots = lens.get_by_label("Show spaces")
    dots.check()
    expect(region).to_contain_text(re.compile("###·\u200b?Instruction:↵"))
    notebook.expect_value("lens.shows_spaces", True)
    lens.get_by_role("combobox", name="Rows").select_option("training rows")
    lens.get_by_role("radio", name="Packed").check()
    strip = lens.get_by_role("img", name=re.compile("Sequence of .* tokens"))
    expect(strip).to_have_attribute("aria-label", re.compile("row 1: "))
    lens.get_by_role("button", name=re.compile(r"^row \d+$")).first.click()
    expect(title(lens)).not_to_contain_text("row 1 of")


def test_a_long_row_is_drawn_quickly_and_whole_on_request(
    notebook: Notebook, model: str, page: Page
) -> None:
    notebook.open([LENS.format(model=model, max_length=400), CHAT.format()])
    notebook.run_cell(0)
    notebook.run_cell(1)
    lens = notebook.output(1).locator(".nbft-lens")
    expect(tokens(lens).first).to_be_visible(timeout=LOADED_MS)
    row = lens.get_by_role("spinbutton", name="Row")
    row.fill("6")
    row.press("Enter")
    expect(title(lens)).to_contain_text("row 6 of 6")
    expect(title(lens)).to_contain_text("cut off after 4,000")
    total = notebook.kernel_eval("len(lens.shown.tokens)")
    assert total > 4000
    expect(tokens(lens)).to_have_count(2000)
    lens.get_by_role("button", name=f"Show all {total:,} tokens").click()
    expect(tokens(lens)).to_have_count(total)
    lens.get_by_role("radio", name="Text").check()
    expect(lens.locator(".nbft-lens-text .nbft-lens-token")).not_to_have_count(total)
    assert lens.locator(".nbft-lens-text .nbft-lens-token").count() < 20


def test_a_saved_notebook_shows_the_rows_without_a_kernel(
    lens: Locator, notebook: Notebook, page: Page, jupyter_lab: Server
) -> None:
    still = page.locator(".nbft-lens-still")
    expect(still).to_be_hidden()
    expect(still.get_by_text("<|end|>").first).to_be_attached()  # it got the tokens
    notebook.save()
    jupyter_lab.shut_kernels_down()
    notebook.reload()
    expect(still).to_be_visible()
    expect(still).to_contain_text(re.compile(r"row 3 of 911 · \d+ tokens · \d+ trained"))
    expect(still.get_by_text("prompt (not trained)").first).to_be_visible()
    expect(page.get_by_text(re.compile("Error displaying|Loading widget"))).to_be_hidden()
    notebook.screenshot("lens-saved")


def test_without_the_model_there_is_text_and_a_button(
    notebook: Notebook, tmp_path: Path, axe: Callable[[Locator], list[str]]
) -> None:
    places = "".join(
        f"os.environ[{name!r}] = {str(tmp_path)!r}\n"
        for name in ("NBFT_CACHE", "HF_HOME", "HF_HUB_CACHE")
    )
    code = "nbft.inspect(nbft.Config(data={'dataset_name': 'gsm8k'}))"
    notebook.open([f"import os\n{places}\nimport nbft\n{code}"])
    notebook.run_cell(0)
    lens = notebook.output(0).locator(".nbft-lens")
    expect(lens.get_by_text("is not on this machine yet")).to_be_visible()
    expect(lens.get_by_role("button", name="Get the model")).to_be_visible()
    expect(lens.get_by_text("completion (trained)")).to_be_visible()
    lens.get_by_role("button", name="Next").click()
    expect(title(lens)).to_contain_text("row 2 of")
    assert axe(lens) == []


def test_data_that_cannot_be_read_is_a_sentence(notebook: Notebook) -> None:
    notebook.open(["import nbft\nnbft.inspect(nbft.Config(data={'path': 'none.jsonl'}))"])
    notebook.run_cell(0)
    output = notebook.output(0)
    expect(output.get_by_role("alert")).to_contain_text("'none.jsonl': does not exist.")
    expect(output.get_by_text("Traceback")).to_have_count(0)


def test_the_form_looks_at_the_data_through_the_lens(notebook: Notebook, model: str) -> None:
    code = (
        f"import nbft\nform = nbft.Form(nbft.Config(model={{'model_name': {model!r}}}, "
        "data={'dataset_name': 'grammar'}))\nform"
    )
    notebook.open([code])
    notebook.run_cell(0)
    form = notebook.output(0).locator(".nbft-form")
    form.get_by_role("button", name="Look at the data").click()
    expect(tokens(form).first).to_be_visible(timeout=LOADED_MS)
    notebook.page.set_viewport_size({"width": 1200, "height": 2000})
    notebook.screenshot("lens-form", form)
    form.get_by_role("button", name="Look at the data").click()
    expect(form.locator(".nbft-lens")).to_have_count(1)


@pytest.mark.parametrize("app", ["notebook", "voila"])
def test_the_lens_works_in_other_front_ends(notebook: Notebook, app: App, model: str) -> None:
    notebook.open([LENS.format(model=model, max_length=400)], app=app)
    if app != "voila":
        notebook.run_cell(0)
    lens = notebook.page.locator(".nbft-lens")
    expect(tokens(lens).first).to_be_visible(timeout=LOADED_MS)
    lens.get_by_role("button", name="Next").click()
    expect(title(lens)).to_contain_text("row 2 of 911")
    expect(notebook.page.locator(".nbft-lens-still")).to_be_hidden()
