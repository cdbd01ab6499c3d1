"""The form in a real JupyterLab in Chromium: until it is painted, and until a problem is shown."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from .measurement import ROOT, Measurement

_OUTPUT = "NBFT_BENCHMARK_OUTPUT"

_COUNT = """
import ipykernel.comm.comm as kernel_comm
sent = []
publish = kernel_comm.BaseComm.publish_msg
def count(self, msg_type, *args, **keys):
    sent.append(msg_type)
    publish(self, msg_type, *args, **keys)
kernel_comm.BaseComm.publish_msg = count
import nbft.widgets.form
"""

_WATCH = """() => {
    const look = () => {
        const field = document.querySelector('.nbft-form input, .nbft-form select');
        if (field?.getClientRects().length)
            requestAnimationFrame(() => { window.paintedAt = performance.now(); });
        else requestAnimationFrame(look);
    };
    addEventListener('keydown', event => {
        if (event.key === 'Enter') { window.startedAt = performance.now(); look(); }
    }, {capture: true});
}"""

_LEAVE_A_FIELD = """() => new Promise(resolve => {
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


def measure(quick: bool) -> list[Measurement]:
    """Drive the browser with the fixtures of the browser tests."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "form.json"
        command = [sys.executable, "-m", "pytest", "-p", "tests.browser.conftest", "-q", "-x"]
        done = subprocess.run(
            [*command, "-p", "no:cacheprovider", __file__],
            cwd=ROOT,
            env=os.environ | {_OUTPUT: str(output)},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(done.stdout[-2000:])
        found = json.loads(output.read_text())
    return [
        Measurement(
            "running nbft.Form() to the first section painted", found["painted"], "s", 1, True
        ),
        Measurement("comms opened by then", found["opened"], goal=60),
        Measurement("messages of comms by then", found["messages"]),
        Measurement("leaving a field to its problem", found["problem"], "ms", 100, True),
    ]


def test_form(notebook: Any) -> None:
    """Measure on a page; run by `measure`, through pytest for its fixtures."""
    notebook.open([_COUNT, "import nbft\nform = nbft.Form()\nform"])
    notebook.run_cell(0)
    page = notebook.page
    page.evaluate(_WATCH)
    notebook.run_cell(1)
    page.wait_for_function("() => window.paintedAt")
    painted = page.evaluate("window.paintedAt - window.startedAt") / 1000
    sent = notebook.kernel_eval("sent")
    page.locator(".nbft-at-training-learning_rate").wait_for()
    notebook.kernel_eval("1")  # nothing is under way any more
    problem = page.evaluate(_LEAVE_A_FIELD)
    found = {"painted": painted, "messages": len(sent), "opened": sent.count("comm_open")}
    Path(os.environ[_OUTPUT]).write_text(json.dumps(found | {"problem": problem}))
