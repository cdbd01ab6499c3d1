"""A person's first minutes: the quickstart in JupyterLab, a slip in the form, a run, its end."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import Locator, expect

from nbft.data.tiny_model import make_tiny_model

from .conftest import OPEN_MS, PAGES, READY, ROOT, Notebook, Server

QUICKSTART = ROOT / "notebooks" / "quickstart.ipynb"
CELL_MS = 180_000  # loading the model and asking it, on a busy CPU
TRAIN_MS = 300_000

DONE = """i => {
    const cell = document.querySelectorAll('.jp-Notebook .jp-CodeCell')[i];
    return /\\[\\d+\\]/.test(cell.querySelector('.jp-InputPrompt').innerText);
}"""

TINY = """
import nbft
form = nbft.Form(nbft.Config.preset("two-minute-try").apply({
    "model.model_name": "tiny", "model.dtype": "float32", "training.max_steps": 5000,
    "evaluation.sample_max_new_tokens": 4}))
form
"""


@pytest.fixture
def whole_page(jupyter_lab: Server) -> Iterator[None]:
    """Have JupyterLab draw every cell, not only those in view, so that cells can be counted."""
    settings = jupyter_lab.root.parent / "settings" / "@jupyterlab" / "notebook-extension"
    settings.mkdir(parents=True, exist_ok=True)
    file = settings / "tracker.jupyterlab-settings"
    file.write_text(json.dumps({"windowingMode": "none"}))
    yield
    file.unlink()


def open_quickstart(notebook: Notebook) -> list[str]:
    """Open a copy without outputs; return the source of its code cells."""
    quickstart = nbformat.read(QUICKSTART, as_version=4)
    cells = [cell for cell in quickstart.cells if cell.cell_type == "code"]
    for cell in cells:
        cell.outputs, cell.execution_count = [], None
    name = f"{notebook.name}-1.ipynb"
    nbformat.write(quickstart, notebook.server.root / name)
    url = notebook.server.url + PAGES["lab"].format(name=name)
    notebook.page.goto(f"{url}&token={notebook.server.token}")
    notebook.page.locator(".jp-Notebook").first.wait_for(timeout=OPEN_MS)
    notebook.page.wait_for_function(READY, timeout=OPEN_MS)
    notebook.page.evaluate("() => window.jupyterapp.shell.collapseLeft()")
    return [cell.source for cell in cells]


def own_queue(notebook: Notebook, folder: Path, steps: int) -> None:
    """Wait for no run of anybody else's, and train a few steps only."""
    values = {"NBFT_QUEUE": str(folder), "NBFT_MAX_STEPS": str(steps)}
    notebook.kernel_eval(f"__import__('os').environ.update({values!r})")


def slip_and_mend(form: Locator) -> None:
    """Type a wrong learning rate, see what is wrong with it, and take the fix."""
    rate = form.get_by_label("Learning rate", exact=True)
    rate.fill("-3")
    rate.press("Tab")
    expect(form.get_by_role("alert")).to_contain_text("-3: must be above 0.")
    expect(form.get_by_role("button", name="Train here")).to_be_disabled()
    form.get_by_role("button", name="Use 2e-4").click()
    expect(rate).to_have_value("2e-4")
    expect(form.get_by_role("alert")).to_have_count(0)
    expect(form.get_by_role("button", name="Train here")).to_be_enabled()


def train_and_stop(notebook: Notebook, output: Locator, form: Locator) -> None:
    """Press Train here, see points arrive, press Stop and save, see what stays."""
    form.get_by_role("button", name="Train here").click()
    state = form.locator(".nbft-state").get_by_role("status")
    expect(state).to_contain_text("Running: run")
    loss = output.get_by_role("img", name=re.compile("held-out loss: "))
    points = re.compile(r"loss: ([3-9]|\d\d+) points")
    expect(loss).to_have_attribute("aria-label", points, timeout=TRAIN_MS)
    notebook.screenshot(f"{notebook.name}-live")
    output.get_by_role("button", name="Stop and save").click()
    picture = output.locator("img")
    expect(picture).to_be_visible(timeout=TRAIN_MS)
    expect(output.last).to_contain_text(re.compile(r"stopped after step \d+"))
    expect(output.last).to_contain_text("before training")
    expect(state).to_contain_text("Finished: run")
    notebook.expect_value("form.run.status", "stopped")
    notebook.expect_value("form.run.adapter.name", "adapter")
    notebook.save()
    notebook.reload()
    expect(picture).to_be_visible(timeout=OPEN_MS)
    expect(output.last).to_contain_text("run.generate(")


@pytest.mark.timeout(1200)  # the default model on a busy CPU; 2 minutes on a free one
def test_the_quickstart_as_far_as_a_stopped_run(
    notebook: Notebook, whole_page: None, tmp_path: Path
) -> None:
    sources = open_quickstart(notebook)
    own_queue(notebook, tmp_path, steps=60)
    last = next(i for i, source in enumerate(sources) if "nbft.Form(" in source)
    for i in range(last + 1):
        notebook.run_cell(i, wait=False)
        notebook.page.wait_for_function(DONE, arg=i, timeout=CELL_MS)
        expect(notebook.output(i).get_by_text("Traceback")).to_have_count(0)
    form = notebook.output(last).locator(".nbft-form")
    expect(form.get_by_label("Learning rate", exact=True)).to_have_value("3e-4")
    slip_and_mend(form)
    train_and_stop(notebook, notebook.output(last), form)


def test_a_tiny_model_by_the_form_alone(notebook: Notebook, tmp_path: Path) -> None:
    make_tiny_model(notebook.server.root / "tiny")
    notebook.open(["import nbft.widgets.form", TINY])
    own_queue(notebook, tmp_path, steps=0)
    notebook.run_cell(0)
    notebook.run_cell(1)
    form = notebook.output(1).locator(".nbft-form")
    slip_and_mend(form)
    train_and_stop(notebook, notebook.output(1), form)
