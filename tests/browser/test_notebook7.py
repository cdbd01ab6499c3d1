"""The panel of runs in Jupyter Notebook 7, whose pages show one document each, by mouse alone."""

from __future__ import annotations

from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import Page, expect

from .conftest import ARTIFACTS, READY, Server
from .test_panel import make_run

NOTEBOOK = "panel.ipynb"
PAGES = {
    "files": "tree",
    "notebook": f"notebooks/{NOTEBOOK}",
    "text": "edit/panel.txt",
    "terminal": "terminals/1",
}


# The command of the extension, and the entry that Jupyter Notebook makes for each side panel.
OPENERS = {"command": "nbft:show-runs", "sidebar": "application:toggle-panel"}


def open_page(page: Page, server: Server, path: str) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 + 1")])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(notebook, server.root / NOTEBOOK)
    (server.root / "panel.txt").write_text("A text.\n")
    if path.startswith("terminals"):
        path = f"terminals/{server.request('/api/terminals', 'POST')['name']}"
    page.goto(f"{server.url}/{path}?token={server.token}")
    page.get_by_role("menuitem", name="View").wait_for(timeout=60_000)
    if NOTEBOOK in path:
        page.wait_for_function(READY, timeout=60_000)  # else it takes the focus later


def open_panel(page: Page, command: str) -> None:
    page.get_by_role("menuitem", name="View").click()
    page.get_by_role("menuitem", name="Activate Command Palette").click()
    page.locator(".lm-CommandPalette-input:visible").fill("fine-tuning runs")
    page.locator(f".lm-CommandPalette-item[data-command='{command}']").click()


@pytest.mark.parametrize("opener", OPENERS.values(), ids=OPENERS.keys())
@pytest.mark.parametrize("path", PAGES.values(), ids=PAGES.keys())
def test_a_click_on_a_run_opens_it(
    page: Page, jupyter_lab: Server, root: Path, path: str, opener: str
) -> None:
    runs = [make_run(root, name, "completed") for name in ("calm-crane-7", "brave-fox-3")]
    open_page(page, jupyter_lab, path)
    open_panel(page, opener)
    panel = page.get_by_role("region", name="Fine-tuning runs")
    for run in (*runs, runs[0]):
        panel.get_by_role("listitem").filter(has_text=run.id).get_by_role("button").click()
        details = page.get_by_role("region", name=f"Run {run.id}")
        expect(details.get_by_role("heading", name=run.id)).to_be_visible()
        assert (details.bounding_box() or {"height": 0})["height"] > 200
    page.screenshot(path=ARTIFACTS / f"panel-notebook7-{path.partition('/')[0]}.png")


def test_a_run_opens_again_after_its_tab_was_closed(
    page: Page, jupyter_lab: Server, root: Path
) -> None:
    run = make_run(root, "calm-crane-7", "completed")
    open_page(page, jupyter_lab, PAGES["notebook"])
    open_panel(page, OPENERS["command"])
    row = page.get_by_role("listitem").filter(has_text=run.id).get_by_role("button")
    heading = page.get_by_role("region", name=f"Run {run.id}").get_by_role("heading", name=run.id)
    row.click()
    expect(heading).to_be_visible()
    page.get_by_role("tab", name=run.id).locator(".lm-TabBar-tabCloseIcon").click()
    expect(heading).to_have_count(0)
    row.click()
    expect(heading).to_be_visible()


def test_a_run_opens_beside_the_notebook_before_version_7_4(
    page: Page, jupyter_lab: Server, root: Path
) -> None:
    """Those versions have no area below the notebook, and drop what is added there."""
    runs = [make_run(root, name, "completed") for name in ("calm-crane-7", "brave-fox-3")]
    open_page(page, jupyter_lab, PAGES["notebook"])
    page.evaluate(
        """() => {
            const shell = window.jupyterapp.shell, add = shell.add.bind(shell);
            shell.add = (tab, area, options) => area === 'down' ? null : add(tab, area, options);
        }"""
    )
    open_panel(page, OPENERS["command"])
    for run in (*runs, runs[0]):
        page.get_by_role("listitem").filter(has_text=run.id).get_by_role("button").click()
        details = page.get_by_role("region", name=f"Run {run.id}")
        expect(details.get_by_role("heading", name=run.id)).to_be_visible()
