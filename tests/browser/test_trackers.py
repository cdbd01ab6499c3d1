"""Trackers as a person chooses them: the list, a tick, and what a missing one says."""

from __future__ import annotations

from collections.abc import Callable

from playwright.sync_api import Locator, expect

from .conftest import Notebook

FORM = """
import nbft, nbft.plan.checks
from nbft import tracking
there = {"tensorboard": "2.21", "wandb": "0.31"}
tracking.version_of = nbft.plan.checks.version_of = there.get
form = nbft.Form(nbft.Config(data={"dataset_name": "alpaca"}))
form
"""


def test_trackers_are_listed_with_their_state(
    notebook: Notebook, axe: Callable[[Locator], list[str]]
) -> None:
    notebook.open([FORM], theme="dark", width=800)
    notebook.run_cell(0)
    form = notebook.page.locator(".nbft-form")
    form.get_by_label("Find a setting").fill("report_to")
    field = form.locator(".nbft-at-tracking-report_to")
    expect(field.get_by_role("checkbox")).to_have_count(6)
    expect(field).to_contain_text("Installed 0.31, offline: no login was found")
    field.get_by_label("TensorBoard").check()
    notebook.expect_value("form.config.tracking.report_to", ["tensorboard"])
    expect(form.locator(".nbft-side")).to_contain_text("TensorBoard")
    expect(form.locator(".nbft-side")).to_contain_text("written to the folder of the run")
    expect(field).to_contain_text("Not installed: pip install comet-ml")
    field.get_by_label("Comet").check()
    expect(field).to_contain_text("pip install comet-ml, or remove what is not installed")
    assert axe(form) == []
    notebook.screenshot("trackers", form)
    field.get_by_role("button", name="Use tensorboard").click()
    notebook.expect_value("form.config.tracking.report_to", ["tensorboard"])
