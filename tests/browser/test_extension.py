from __future__ import annotations

import json
from importlib.metadata import version
from urllib.error import HTTPError

import pytest
from playwright.sync_api import Page, expect

from .conftest import READY, Notebook, Server


def test_launcher_card_opens_a_notebook_with_the_form(
    notebook: Notebook, page: Page, jupyter_lab: Server
) -> None:
    (jupyter_lab.root / "lesson").mkdir()
    page.goto(f"{jupyter_lab.url}/lab/tree/lesson?reset&token={jupyter_lab.token}")
    card = page.locator(".jp-LauncherCard", has_text="Fine-tune a model")
    expect(card).to_be_visible(timeout=30_000)
    notebook.screenshot("launcher")
    with page.expect_response(lambda r: r.request.method == "PUT" and "/api/contents/" in r.url):
        card.click()
    page.locator(".jp-Notebook").wait_for()
    page.wait_for_function(READY, timeout=60_000)  # the kernel starts without a question
    cells = page.locator(".jp-Notebook .jp-CodeCell .cm-content")
    assert [text.split() for text in cells.all_inner_texts()] == [["import", "nbft", "nbft.Form()"]]
    (path,) = (jupyter_lab.root / "lesson").glob("*.ipynb")
    assert json.loads(path.read_text())["metadata"]["kernelspec"]["language"] == "python"


def test_server_says_its_version_to_who_is_logged_in(jupyter_lab: Server) -> None:
    assert jupyter_lab.request("/nbft/api/version") == {"version": version("nbft")}
    with pytest.raises(HTTPError, match="403"):
        jupyter_lab.request("/nbft/api/version", token="wrong")
