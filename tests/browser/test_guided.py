"""The guided mode in JupyterLab: seven steps by keyboard, and what Python has at the end."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from playwright.sync_api import Locator, Page, expect

from .conftest import Notebook, Theme

FORM = """
import json, pathlib
pathlib.Path("mine.jsonl").write_text("".join(
    json.dumps({"prompt": f"Name {i}:", "completion": f"number {i}"}) + "\\n" for i in range(300)))
import nbft
form = nbft.Form(guided=True)
form
"""
STEPS = [
    *("Model", "Data", "Algorithm", "Hyperparameters", "Compute", "Tracking"),
    "Review and launch",
]
READ = "form.config.to_dict()"


def opened(notebook: Notebook, theme: Theme = "light", width: int = 1200) -> Locator:
    notebook.open([FORM], theme=theme, width=width)
    notebook.run_cell(0)
    form = notebook.output(0).locator(".nbft-form")
    expect(heading(form, 1)).to_be_visible()
    return form


def heading(form: Locator, number: int) -> Locator:
    return form.get_by_role("heading", name=f"Step {number} of 7: {STEPS[number - 1]}")


def turn(form: Locator, to: int, way: str = "Next") -> None:
    form.get_by_role("button", name=f"{way}: {STEPS[to - 1]}").press("Enter")
    expect(heading(form, to)).to_be_focused()


def put(form: Locator, name: str, value: str) -> None:
    field = form.get_by_label(name, exact=True)
    field.fill(value)
    field.press("Tab")


def test_seven_steps_lead_to_a_config(
    notebook: Notebook, page: Page, console_errors: list[str]
) -> None:
    form = opened(notebook)
    expect(form.get_by_text("Recommended: smollm2-135m.")).to_be_visible()
    turn(form, 2)
    page.keyboard.press("Tab")  # from the heading to the first field
    expect(form.get_by_label("Data file", exact=True)).to_be_focused()
    put(form, "Data file", "mine.jsonl")
    expect(form.get_by_text("You chose mine.jsonl.")).to_be_visible()
    turn(form, 3)
    expect(form.get_by_text(re.compile("Recommended: lora. .* Oumi's guide"))).to_be_visible()
    turn(form, 4)
    expect(form.get_by_text("267 rows to train on: a small dataset needs 2 to 5")).to_be_visible()
    put(form, "Batch size per device", "2")
    expect(form.get_by_role("status").filter(has_text="Updated to match")).to_contain_text(
        "Gradient accumulation steps is now 8."
    )
    expect(form.get_by_label("Gradient accumulation steps", exact=True)).to_have_value("8")
    assert page.evaluate("document.activeElement.tagName") != "BODY"
    put(form, "Learning rate", "5e-5")
    expect(form.get_by_text("You chose 5e-5. Small models need a higher rate")).to_be_visible()
    put(form, "LoRA rank", "8")
    expect(form.get_by_label("LoRA alpha", exact=True)).to_have_value("16")
    put(form, "Maximum length", "64")
    turn(form, 5)
    turn(form, 4, "Back")
    expect(form.get_by_label("Learning rate", exact=True)).to_have_value("5e-5")
    form.get_by_role("button", name="Use 3e-4 as recommended").press("Enter")
    expect(form.get_by_label("Learning rate", exact=True)).to_have_value("3e-4")
    expect(form.get_by_label("Learning rate", exact=True)).to_be_focused()
    turn(form, 5)
    form.get_by_label("Device", exact=True).select_option("cpu")
    turn(form, 6)
    expect(form.get_by_text("Recommended: none. nbft keeps a log")).to_be_visible()

    # To the full form and back: what was answered stays, and so does the place.
    answered = notebook.kernel_eval(READ)
    form.get_by_label("Advanced", exact=True).check()
    expect(form.get_by_role("tab", name="Training")).to_be_visible()
    form.get_by_label("Guided", exact=True).check()
    expect(heading(form, 6)).to_be_visible()
    notebook.expect_value(READ, answered)

    turn(form, 7)
    expect(form.get_by_role("row", name="passed Rows 267 rows read, 33 held out")).to_be_visible()
    expect(form.get_by_role("button", name="Train here")).to_be_enabled()
    expect(form.get_by_role("button", name=re.compile("^Next"))).to_have_count(0)
    assert notebook.kernel_eval("form.config.apply({'training.output_dir': 'x'}).to_dict()") == {
        "compute": {"device": "cpu"},
        "data": {"train": {"datasets": [{"path": "mine.jsonl"}]}, "max_length": 64},
        "evaluation": {"metrics": ["exact_match"]},
        "peft": {"r": 8, "lora_alpha": 16},
        "training": {
            "output_dir": "x",
            "num_train_epochs": 3.0,
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 8,
            "learning_rate": 3e-4,
        },
    } | answered_by_machine(answered)
    assert not [line for line in console_errors if "nbft" in line.lower()]


def answered_by_machine(answered: dict[str, Any]) -> dict[str, Any]:
    """Return what goes by the memory that is free here."""
    return {name: answered[name] for name in ("memory",) if name in answered}


ODD = """
import pathlib
pathlib.Path("odd.csv").write_text("german word,remark,gloss\\n" + "".join(
    f"Wort {i},from a book,meaning {i}\\n" for i in range(60)))
import nbft
form = nbft.Form(guided=True)
form
"""
MOST_ACTIONS = 9  # the name of the file, the text around its columns, and six times Next


def test_a_file_with_columns_of_its_own_comes_to_the_review(
    notebook: Notebook,
    page: Page,
    looks: Callable[[str, Locator], None],
) -> None:
    notebook.open([ODD])
    notebook.run_cell(0)
    form = notebook.output(0).locator(".nbft-form")
    page.set_viewport_size({"width": 1400, "height": 1700})
    actions = 0

    def on(to: int) -> None:
        nonlocal actions
        turn(form, to)
        actions += 1

    on(2)
    put(form, "Data file", "odd.csv")
    actions += 1
    waiting = form.locator(".nbft-turns").get_by_role(
        "button", name="Pick the columns of your file"
    )
    expect(waiting).to_be_visible()
    expect(form.get_by_role("button", name="Next: Algorithm")).to_be_disabled()
    looks("guided-odd-asks", form)
    waiting.click()  # not counted: it only shows where
    expect(form.get_by_label("Data file", exact=True)).to_be_focused()
    form.get_by_label("Text around it", exact=True).select_option("Question: … Answer:")
    form.get_by_role("button", name="Use these columns").click()
    actions += 2
    expect(form.get_by_role("button", name="Next: Algorithm")).to_be_enabled()
    expect(waiting).to_have_count(0)
    expect(form.get_by_label("Prompt template", exact=True)).to_have_value(
        "Question: {german word}\n\nAnswer:\n"
    )
    looks("guided-odd-picked", form)
    put(form, "Prompt template", "Question: {german word")  # a slip is mended by a click
    fix = form.get_by_role("button", name=re.compile("^Use Question: {german word}"))
    expect(form.get_by_role("button", name="Next: Algorithm")).to_be_disabled()
    notebook.screenshot("guided-odd-wrong", form)
    fix.click()
    expect(form.get_by_role("button", name="Next: Algorithm")).to_be_enabled()
    for number in range(3, 8):
        on(number)
    expect(form.get_by_role("row", name=re.compile("passed Rows 5. rows read"))).to_be_visible()
    expect(form.get_by_role("button", name="Train here")).to_be_enabled()
    assert actions == MOST_ACTIONS
    dataset = notebook.kernel_eval(READ)["data"]["train"]["datasets"][0]
    assert dataset["path"] == "odd.csv"
    assert dataset["completion_template"] == "{gloss}"


def test_the_guided_mode_is_good_to_look_at_and_to_use_without_eyes(
    notebook: Notebook,
    page: Page,
    looks: Callable[[str, Locator], None],
) -> None:
    form = opened(notebook)
    page.set_viewport_size({"width": 1400, "height": 1700})
    for number in range(1, 8):
        looks(f"guided-{number}", form)
        if number < 7:
            turn(form, number + 1)


def test_the_full_form_has_a_switch_to_the_guided_mode(notebook: Notebook) -> None:
    notebook.open(["import nbft\nform = nbft.Form()\nform"])
    notebook.run_cell(0)
    form = notebook.output(0).locator(".nbft-form")
    expect(form.get_by_label("Learning rate", exact=True)).to_be_visible()
    before = notebook.kernel_eval(READ)
    form.get_by_label("Guided", exact=True).check()
    expect(heading(form, 1)).to_be_visible()
    notebook.expect_value(READ, before)
