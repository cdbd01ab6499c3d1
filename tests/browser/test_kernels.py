"""Is a click on Stop heard while a cell is busy? Each line of ipykernel answers differently."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import sysconfig
import time
import venv
from pathlib import Path

import pytest
from playwright.sync_api import expect

from .conftest import OPEN_MS, READY, Notebook, Server
from .test_monitor import Worker, worker  # noqa: F401

CHANGE_KERNEL = """name => window.jupyterapp.shell.currentWidget
    .context.sessionContext.changeKernel({ name })"""


def install_kernel(server: Server, version: str, folder: Path) -> str:
    """Make a kernel of one ipykernel over the packages of this environment; return its name."""
    name = f"ipykernel-{version}"
    spec = server.root.parent / "data" / "kernels" / name / "kernel.json"
    python = folder / "bin" / "python"
    venv.create(folder, with_pip=False)
    site = next(folder.glob("lib/python*/site-packages"))
    # As a .pth file, so that what is installed there in editable form is found as well.
    purelib = sysconfig.get_path("purelib")
    (site / "outer.pth").write_text(f"import site; site.addsitedir({purelib!r})\n")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    subprocess.run([*pip, f"ipykernel=={version}.*"], check=True, timeout=240)
    spec.parent.mkdir(parents=True)
    argv = [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec.write_text(json.dumps({"argv": argv, "display_name": name, "language": "python"}))
    return name


@pytest.mark.parametrize(
    ("version", "heard_while_busy"),
    [
        pytest.param("6.31", False, marks=pytest.mark.network),
        pytest.param("7.3", True, marks=pytest.mark.network),
        pytest.param(None, True, id="installed"),
    ],
)
def test_stop(
    notebook: Notebook,
    worker: Worker,  # noqa: F811
    jupyter_lab: Server,
    tmp_path: Path,
    version: str | None,
    heard_while_busy: bool,
) -> None:
    name = version and install_kernel(jupyter_lab, version, tmp_path / "venv")
    free = tmp_path / "free"
    busy = f"import os, time\nwhile not os.path.exists({str(free)!r}): time.sleep(0.1)"
    notebook.open([worker.setup, "monitor", busy])
    if name:
        notebook.page.evaluate(CHANGE_KERNEL, name)
        notebook.page.wait_for_function(READY, timeout=OPEN_MS)
        found = notebook.kernel_eval("__import__('ipykernel').__version__")
        assert found.startswith(f"{version}.")
    notebook.run_cell(0)
    output = notebook.run_cell(1)
    worker.start(steps=4000)
    worker.go()
    expect(output.first).to_contain_text(re.compile(r"running, step \d\d+"))

    prompt = notebook.cell(2).locator(".jp-InputPrompt")
    notebook.run_cell(2, wait=False)
    expect(prompt).to_have_text("[*]:")
    output.get_by_role("button", name="Stop and save").click()
    if heard_while_busy:
        until = time.monotonic() + 60
        while not worker.commands() and time.monotonic() < until:
            notebook.page.wait_for_timeout(50)
        assert worker.commands() == ["stop"]
        assert prompt.inner_text() == "[*]:"
    free.touch()
    expect(prompt).to_have_text("[3]:", timeout=30_000)
    expect(output.locator("img")).to_be_visible(timeout=30_000)
    expect(output.last).to_contain_text("run.generate(")
    assert worker.commands() == ["stop"]
