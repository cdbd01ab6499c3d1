"""A kernel is restarted under a form, and the person goes on where they were."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from nbft.data.tiny_model import make_tiny_model

from .conftest import Notebook, Server

FORM = "import nbft\nform = nbft.Form()\nform"
IS_KEPT = "form._keeping._last.typed == form._tree.typed() and not form._keeping._is_waiting"
RUN_MS = 120_000


@pytest.fixture
def words(root: Path) -> str:
    rows = "".join(f"Wort {n},word {n}\n" for n in range(80))
    (root / "words.csv").write_text("prompt,completion\n" + rows)
    return "words.csv"


def form_of(notebook: Notebook) -> Locator:
    notebook.run_cell(0)
    form = notebook.output(0).locator(".nbft-form")
    expect(form.get_by_label("Learning rate", exact=True)).to_be_visible()
    return form


def form_again(notebook: Notebook, about: str) -> Locator:
    """Run the cell in a new kernel, which counts from 1 again, and wait for what it offers."""
    form = notebook.run_cell(0, wait=False).locator(".nbft-form")
    expect(form.get_by_text(about)).to_be_visible(timeout=60_000)
    return form


def fill(form: Locator, label: str, value: str) -> None:
    box = form.get_by_label(label, exact=True)
    box.fill(value)
    box.press("Tab")


def kept(notebook: Notebook, form: Locator) -> None:
    """Wait until everything is on the disk; the form then says so to its style sheet."""
    expect(form).to_have_class(re.compile("nbft-kept"), timeout=30_000)
    notebook.expect_value(IS_KEPT, True)


def sentence(form: Locator) -> str:
    return str(form.evaluate("node => getComputedStyle(node, '::before').content"))


def test_everything_is_back_after_a_restart(
    notebook: Notebook,
    words: str,
    looks: Callable[[str, Locator], None],
) -> None:
    notebook.open([FORM])
    page = notebook.page
    form = form_of(notebook)
    fill(form, "Data file", words)
    expect(form.locator(".nbft-side")).to_contain_text("words.csv", timeout=30_000)
    fill(form, "Learning rate", "fast")
    form.get_by_label("Advanced", exact=True).check()
    form.get_by_role("tab", name="Training").click()
    fill(form, "Warmup steps", "7")
    kept(notebook, form)

    notebook.restart()
    expect(form).to_have_class(re.compile("jupyter-widgets-disconnected"))
    assert "Run this cell again: your settings are kept." in sentence(form)
    icons = form.locator(".jupyter-widgets-disconnected").evaluate_all(
        "nodes => nodes.filter(n => getComputedStyle(n, '::before').content !== 'none').length"
    )
    assert icons == 0
    page.set_viewport_size({"width": 1400, "height": 1200})
    form.evaluate("node => node.scrollIntoView()")
    notebook.screenshot("keeping-gone")

    form = form_again(notebook, "Kept 1 min ago: words.csv")
    expect(form.get_by_label("Learning rate", exact=True)).to_have_value("3e-4")
    looks("keeping-offer", form)
    form.get_by_role("button", name="Continue where I was").click()
    expect(form.get_by_label("Learning rate", exact=True)).to_have_value("fast")
    expect(form.get_by_label("Warmup steps", exact=True)).to_have_value("7")
    expect(form.get_by_role("tab", name="Training")).to_have_attribute("aria-selected", "true")
    expect(form.get_by_role("alert").first).to_contain_text("fast: is not a number")
    expect(form.get_by_role("button", name="Continue where I was")).to_have_count(0)
    looks("keeping-back", form)
    fill(form, "Learning rate", "1e-4")
    form.get_by_label("Basic", exact=True).check()
    expect(form.get_by_label("Data file", exact=True)).to_have_value(words)
    notebook.expect_value("form.config.scheduler.warmup_steps", 7)

    notebook.save()
    notebook.reload()  # the kernel lives, and so does the form
    form = notebook.output(0).locator(".nbft-form")
    expect(form.get_by_label("Data file", exact=True)).to_have_value(words)
    assert sentence(form) == "none"


def test_a_saved_form_without_its_kernel_is_a_sentence(
    notebook: Notebook, jupyter_lab: Server, root: Path
) -> None:
    notebook.open([FORM])
    form = form_of(notebook)
    still = notebook.page.locator(".nbft-still")
    expect(still).to_be_hidden()
    notebook.save()
    jupyter_lab.shut_kernels_down()
    notebook.reload()
    expect(still).to_be_visible()
    expect(still).to_contain_text("Run this cell again: your settings are kept.")
    expect(form).to_have_count(0)
    expect(notebook.page.get_by_text(re.compile("Error displaying|Loading widget"))).to_be_hidden()
    notebook.screenshot("keeping-saved")


def test_a_run_in_the_background_is_shown_again(
    notebook: Notebook, words: str, root: Path, tmp_path: Path, page: Page
) -> None:
    make_tiny_model(root / "tiny")
    notebook.open([FORM])
    notebook.kernel_eval(f"__import__('os').environ.update(NBFT_QUEUE={str(tmp_path)!r})")
    form = form_of(notebook)
    fill(form, "Data file", words)
    fill(form, "Base model", "tiny")
    form.get_by_label("Advanced", exact=True).check()
    form.get_by_role("tab", name="Training").click()
    fill(form, "Maximum steps", "100000")
    form.get_by_role("button", name="Run in background").click()
    expect(form.get_by_text("Running: run")).to_be_visible(timeout=30_000)
    name = notebook.kernel_eval("form.run.id")
    kept(notebook, form)
    notebook.restart()
    form = form_again(notebook, f"run {name}.")
    form.get_by_role("button", name="Continue where I was").click()
    expect(form.get_by_text(f"Running: run {name}")).to_be_visible()
    expect(form.get_by_label("Learning rate", exact=True)).to_be_disabled()
    chart = notebook.output(0).get_by_role("img", name=re.compile("held-out"))
    expect(chart).to_be_visible(timeout=RUN_MS)
    notebook.screenshot("keeping-run")
    notebook.output(0).get_by_role("button", name="Stop and save").click()
    expect(form.get_by_text(f"Finished: run {name} stopped")).to_be_visible(timeout=RUN_MS)

    form.get_by_label("Preset").select_option("Earlier settings or runs…")
    expect(form.get_by_role("button", name=f"{name}: words.csv")).to_be_visible()
    notebook.screenshot("keeping-runs", form)
