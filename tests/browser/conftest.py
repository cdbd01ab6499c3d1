"""A real JupyterLab, Notebook or Voila in a real Chromium.

One server serves the whole session, one browser each file; each test gets a page and, by
`notebook.open`, a notebook file of its own and so a kernel of its own. Nothing sleeps: what
is not ready yet is waited for.
"""

from __future__ import annotations

import ast
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import nbformat
import pytest
from playwright.sync_api import Browser, Error, Locator, Page, expect, sync_playwright

ROOT = Path(__file__).parents[2]
ARTIFACTS = ROOT / ".artifacts"
AXE = ROOT / "extension" / "node_modules" / "axe-core" / "axe.min.js"

App = Literal["lab", "notebook", "voila"]
Theme = Literal["light", "dark"]

PAGES = {
    "lab": "/lab/tree/{name}?reset",
    "notebook": "/notebooks/{name}?",
    "voila": "/voila/render/{name}?",
}
LOOKS: tuple[tuple[Theme, int], ...] = (("light", 1400), ("dark", 700))
THEMES = {"light": "JupyterLab Light", "dark": "JupyterLab Dark"}
SETTINGS = {
    "apputils-extension/notification": {
        "fetchNews": "false",
        "checkForUpdates": False,
        "doNotDisturbMode": True,
    },
    "docmanager-extension/plugin": {"autosave": False},
}
CHROMIUM_ARGS = [
    "--no-sandbox",  # in a container there is no user namespace to make one
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
]
expect.set_options(timeout=15_000)  # a busy machine answers late, and is right all the same
OPEN_MS = 60_000
RUN_MS = 60_000

# The page shows "idle" before the session is connected, and Shift+Enter does nothing then.
READY = """async () => {
    const panel = window.jupyterapp?.shell.currentWidget;
    if (!panel?.context) return false;
    await panel.context.ready;
    const session = panel.context.sessionContext;
    await session.ready;
    const kernel = session.session?.kernel;
    if (!kernel) return false;
    await kernel.info;
    return kernel.status === 'idle';
}"""
EVAL = """async code => {
    // A reply is lost when the connection to a kernel that has just started is made anew, and one
    // that was replaced never replies: then the kernel of now is asked again.
    const ask = () => window.jupyterapp.shell.currentWidget.context.sessionContext.session.kernel
        .requestExecute({code: '', silent: true, user_expressions: {value: code}}).done
        .catch(() => new Promise(() => {}));
    const late = () => new Promise(resolve => setTimeout(resolve, 20_000));
    const asked = [];
    while (asked.length < 6) {
        asked.push(ask());
        const reply = await Promise.race([...asked, late()]);
        if (reply) return reply.content.user_expressions.value;
    }
    throw new Error(`no kernel has replied to ${code}`);
}"""


@dataclass
class Server:
    """A Jupyter server on loopback, with nothing of the person's own configuration."""

    url: str
    token: str
    root: Path

    def request(self, path: str, method: str = "GET", token: str | None = None) -> Any:
        """Call the server's API and return what it answers, decoded."""
        request = urllib.request.Request(
            self.url + path,
            method=method,
            headers={"Authorization": f"token {self.token if token is None else token}"},
        )
        with urllib.request.urlopen(request, timeout=10) as answer:
            return json.loads(answer.read() or b"null")

    def shut_kernels_down(self) -> None:
        for kernel in self.request("/api/kernels"):
            self.request(f"/api/kernels/{kernel['id']}", "DELETE")


@pytest.fixture(scope="session")
def jupyter_lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server for JupyterLab, Notebook 7 and Voila: each is an extension of it."""
    home = tmp_path_factory.mktemp("jupyter")
    root = home / "notebooks"
    root.mkdir()
    for plugin, values in SETTINGS.items():
        path = home / "settings" / "@jupyterlab" / f"{plugin}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    directories = {
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "JUPYTERLAB_SETTINGS_DIR": "settings",
        "JUPYTERLAB_WORKSPACES_DIR": "workspaces",
        "IPYTHONDIR": "ipython",
        "NBFT_QUEUE": "queue",  # waits for no run of anybody else's
    }
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = Server(f"http://127.0.0.1:{port}", secrets.token_hex(16), root)
    log_path = home / "server.log"
    command = [
        *(sys.executable, "-m", "jupyterlab", "--no-browser"),
        "--ServerApp.ip=127.0.0.1",
        f"--ServerApp.port={port}",
        "--ServerApp.port_retries=0",
        f"--ServerApp.root_dir={root}",
        "--ServerApp.allow_root=True",
        f"--IdentityProvider.token={server.token}",
        "--LabApp.expose_app_in_browser=True",
        "--JupyterNotebookApp.expose_app_in_browser=True",
        "--LabApp.extension_manager=readonly",
        "--LabApp.news_url=",
    ]
    with log_path.open("w") as log:
        process = subprocess.Popen(
            command,
            cwd=root,
            env=os.environ | {name: str(home / path) for name, path in directories.items()},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        wait_for(lambda: server.request("/api/status"), 180, lambda: process.poll() is not None)
    except TimeoutError:
        process.kill()
        pytest.fail(f"The Jupyter server did not start:\n{log_path.read_text()}")
    yield server
    server.shut_kernels_down()
    process.terminate()
    process.wait(15)


def wait_for(answers: Callable[[], Any], seconds: float, failed: Callable[[], bool]) -> None:
    """Ask until there is an answer; raise TimeoutError when there never will be."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            answers()
            return
        except OSError:
            if failed() or time.monotonic() > deadline:
                raise TimeoutError from None
            time.sleep(0.1)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A browser for one file: its library leaves an event loop running that other tests would meet."""
    executable = shutil.which("chromium")
    if executable is None:
        pytest.fail("The browser tests need Chromium: install the package chromium.")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=executable, args=CHROMIUM_ARGS)
        yield browser
        browser.close()


@pytest.fixture
def console_errors() -> list[str]:
    """What the page complained of; a test that expects nothing asserts that it is empty."""
    return []


@pytest.fixture
def page(browser: Browser, console_errors: list[str]) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1200, "height": 800})
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.on("pageerror", lambda error: console_errors.append(str(error)))
    page.on(
        "console",
        lambda line: console_errors.append(line.text) if line.type == "error" else None,
    )
    yield page
    context.close()


class Notebook:
    """A notebook on a page, driven as a reader would."""

    def __init__(self, page: Page, server: Server, name: str) -> None:
        self.page = page
        self.server = server
        self.name = name
        self.app: App = "lab"
        self._opened = 0

    def open(
        self,
        cells: list[str],
        app: App = "lab",
        theme: Theme = "light",
        width: int = 1200,
    ) -> Notebook:
        """Write a notebook of these code cells and open it; Voila also runs it.

        Args:
            cells: The source of each cell.
            app: The front end.
            theme: Its theme.
            width: Of the viewport, in CSS pixels.
        """
        self.app = app
        self._opened += 1
        name = f"{self.name}-{self._opened}.ipynb"  # one path is one kernel
        notebook = nbformat.v4.new_notebook(
            cells=[nbformat.v4.new_code_cell(cell) for cell in cells],
            metadata={
                "kernelspec": {
                    "name": "python3",
                    "display_name": "Python 3",
                    "language": "python",
                }
            },
        )
        nbformat.write(notebook, self.server.root / name)
        self.page.set_viewport_size({"width": width, "height": 800})
        url = self.server.url + PAGES[app].format(name=name) + f"&token={self.server.token}"
        if app == "voila":
            self.page.goto(f"{url}&voila-theme={theme}", timeout=OPEN_MS)
            self.page.locator(".jp-OutputArea-output").first.wait_for(timeout=OPEN_MS)
            return self
        self.page.goto(url)
        try:
            self._wait_until_ready()
        except Error:  # seen once in sixty: a session that never connects
            self.screenshot(f"{self.name}-not-ready")
            self.page.reload()
            self._wait_until_ready()
        self.set_theme(theme)
        self.page.evaluate("() => window.jupyterapp.shell.collapseLeft?.()")
        return self

    def _wait_until_ready(self) -> None:
        self.page.locator(".jp-Notebook").first.wait_for(timeout=OPEN_MS)
        self.page.wait_for_function(READY, timeout=OPEN_MS)

    def set_theme(self, theme: Theme) -> None:
        """Change the theme of JupyterLab or Notebook, live."""
        self.page.evaluate(
            "theme => window.jupyterapp.commands.execute('apputils:change-theme', {theme})",
            THEMES[theme],
        )
        self.page.wait_for_function(
            "light => document.body.dataset.jpThemeLight === light",
            arg=str(theme == "light").lower(),
        )

    def cell(self, i: int) -> Locator:
        return self.page.locator(".jp-Notebook .jp-CodeCell").nth(i)

    def output(self, i: int) -> Locator:
        """The outputs of a cell, never its code. In Voila, the i-th output of the page."""
        if self.app == "voila":
            return self.page.locator(".jp-OutputArea-output").nth(i)
        return self.cell(i).locator(".jp-OutputArea-output")

    def run_cell(self, i: int, wait: bool = True) -> Locator:
        """Run a cell by Shift+Enter and return its outputs.

        Args:
            i: Which code cell, from 0.
            wait: Until it has finished.
        """
        cell = self.cell(i)
        cell.locator(".cm-content").first.click()
        before = cell.locator(".jp-InputPrompt").inner_text()
        self.page.keyboard.press("Shift+Enter")
        if wait:
            self.page.wait_for_function(
                """([i, before]) => {
                    const cell = document.querySelectorAll('.jp-Notebook .jp-CodeCell')[i];
                    const prompt = cell.querySelector('.jp-InputPrompt').innerText;
                    return /\\[\\d+\\]/.test(prompt) && prompt !== before;
                }""",
                arg=[i, before],
                timeout=RUN_MS,
            )
        return self.output(i)

    def run_all(self) -> None:
        for i in range(self.page.locator(".jp-Notebook .jp-CodeCell").count()):
            self.run_cell(i)

    def kernel_eval(self, expression: str) -> Any:
        """Evaluate an expression in the kernel and return its value, by way of JSON.

        Raises:
            RuntimeError: The expression failed in the kernel.
        """
        value = self.page.evaluate(EVAL, f"__import__('json').dumps({expression})")
        if value["status"] != "ok":
            raise RuntimeError(f"{expression}: {value['ename']}: {value['evalue']}")
        text = value["data"]["text/plain"]  # the repr of a JSON string
        return json.loads(ast.literal_eval(text))

    def expect_value(self, expression: str, expected: Any) -> None:
        """Wait until an expression has a value in the kernel.

        A view changes before the kernel hears of it, so one look can be too early.
        """
        end = time.monotonic() + 30
        while (value := self.kernel_eval(expression)) != expected and time.monotonic() < end:
            time.sleep(0.1)
        assert value == expected

    def save(self) -> None:
        self.page.evaluate("() => window.jupyterapp.shell.currentWidget.context.save()")

    def reload(self) -> None:
        """Reload the page; the kernel lives on, and what was saved comes back."""
        self.page.reload()
        self._wait_until_ready()

    def restart(self) -> None:
        """Restart the kernel."""
        self.page.evaluate(
            """() => window.jupyterapp.shell.currentWidget
                .context.sessionContext.session.kernel.restart()"""
        )
        self.page.wait_for_function(READY, timeout=OPEN_MS)

    def screenshot(self, name: str, locator: Locator | None = None) -> Path:
        """Save the page, or a part of it, as `.artifacts/NAME.png`."""
        path = ARTIFACTS / f"{name}.png"
        (locator or self.page).screenshot(path=path)
        return path


@pytest.fixture
def notebook(page: Page, jupyter_lab: Server, request: pytest.FixtureRequest) -> Iterator[Notebook]:
    """A notebook named after the test; every kernel is shut down when the test ends."""
    name = re.sub(r"\W+", "-", request.node.name).strip("-")
    yield Notebook(page, jupyter_lab, name)
    jupyter_lab.shut_kernels_down()


@pytest.fixture
def root(jupyter_lab: Server) -> Iterator[Path]:
    """The server's root folder, without any run before and after."""
    runs = jupyter_lab.root / "runs"
    shutil.rmtree(runs, ignore_errors=True)  # of other tests on the same server
    yield jupyter_lab.root
    shutil.rmtree(runs, ignore_errors=True)


@pytest.fixture
def looks(
    notebook: Notebook, axe: Callable[[Locator], list[str]]
) -> Callable[[str, Locator], None]:
    """Look at a part of the page, wide in a light theme and narrow in a dark one.

    Each time, axe-core complains of nothing, the part is no wider than its place, and a picture is
    saved as `.artifacts/NAME-THEME-WIDTH.png`. What is done between two looks is done once.
    """
    page = notebook.page

    def look(name: str, part: Locator) -> None:
        usual = page.viewport_size or {"width": 1200, "height": 800}
        for theme, width in LOOKS:
            notebook.set_theme(theme)
            page.set_viewport_size({"width": width, "height": usual["height"]})
            assert axe(part) == [], f"{name} in a {theme} theme"
            assert part.evaluate("node => node.scrollWidth <= node.clientWidth + 1"), (
                f"{name} {width}"
            )
            notebook.screenshot(f"{name}-{theme}-{width}", part)
        page.set_viewport_size(usual)

    return look


@pytest.fixture
def axe(page: Page) -> Callable[[Locator], list[str]]:
    """Check a part of the page with axe-core; returns the violations, one a line."""

    def violations(locator: Locator) -> list[str]:
        if not AXE.exists():
            pytest.fail("axe-core is missing: run `npm ci` in extension/.")
        page.add_script_tag(path=AXE)
        found = locator.evaluate("async node => (await axe.run(node)).violations")
        return [
            f"{one['id']}: {one['help']}: {node['html']}" for one in found for node in one["nodes"]
        ]

    return violations
