"""The mask lens over a million rows, in a real JupyterLab in Chromium with a fresh kernel."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from nbft.data.samples import sample_path

from .measurement import ROOT, Measurement

_FOLDER = "NBFT_BENCHMARK_FOLDER"

_CELL = """
import nbft
lens = nbft.inspect(nbft.Config(data={{"path": {path!r}}}))
lens
"""

# The clock runs from Shift+Enter to the first frame that shows the text of a row.
_WATCH = """() => {
    const look = () => {
        const text = document.querySelector('.nbft-lens .nbft-lens-text');
        if (text?.getClientRects().length)
            requestAnimationFrame(() => { window.paintedAt = performance.now(); });
        else requestAnimationFrame(look);
    };
    const tokens = () => {
        if (document.querySelector('.nbft-lens [role=option][data-at]'))
            window.tokensAt = performance.now();
        else requestAnimationFrame(tokens);
    };
    addEventListener('keydown', event => {
        if (event.key === 'Enter') { window.startedAt = performance.now(); look(); tokens(); }
    }, {capture: true});
}"""

_GO_ON = """() => new Promise(resolve => {
    const title = document.querySelector('.nbft-lens-title');
    const before = title.textContent;
    const start = performance.now();
    const look = () => title.textContent !== before
        ? resolve(performance.now() - start) : requestAnimationFrame(look);
    [...document.querySelectorAll('.nbft-lens button')]
        .find(button => button.textContent.startsWith('Next')).click();
    look();
})"""


def measure(quick: bool) -> list[Measurement]:
    """Write the rows and drive the browser with the fixtures of the browser tests."""
    rows = 100_000 if quick else 1_000_000
    with tempfile.TemporaryDirectory() as folder:
        write_rows(Path(folder) / "rows.jsonl", rows)
        command = [sys.executable, "-m", "pytest", "-p", "tests.browser.conftest", "-q", "-x"]
        done = subprocess.run(
            [*command, "-p", "no:cacheprovider", __file__],
            cwd=ROOT,
            env=os.environ | {_FOLDER: folder},
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(done.stdout[-2000:])
        found = json.loads((Path(folder) / "found.json").read_text())
    of = f"at {rows:,} rows"
    return [
        Measurement(f"a row painted as text {of}", found["painted"], "s", 1, True),
        Measurement(f"the same row as tokens {of}", found["tokens"], "s"),
        Measurement(f"from one row to the next {of}", found["next"], "ms", 100, True),
        Measurement(f"worst first of a sample {of}", found["worst"], "s"),
    ]


def write_rows(path: Path, count: int) -> None:
    """Write so many rows of instructions, each of them different."""
    known = [
        json.loads(line)
        for line in sample_path("alpaca", "train").read_text(encoding="utf-8").splitlines()
    ]
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            row = known[number % len(known)]
            row = row | {"instruction": f"({number}) {row['instruction']}"}
            file.write(json.dumps(row) + "\n")


def test_lens(notebook: Any) -> None:
    """Measure on a page; run by `measure`, through pytest for its fixtures."""
    folder = Path(os.environ[_FOLDER])
    notebook.open([_CELL.format(path=str(folder / "rows.jsonl"))])
    page = notebook.page
    page.evaluate(_WATCH)
    notebook.run_cell(0)
    page.wait_for_function("() => window.tokensAt", timeout=60_000)
    painted, tokens = (
        page.evaluate(f"window.{name} - window.startedAt") / 1000
        for name in ("paintedAt", "tokensAt")
    )
    steps = sorted(page.evaluate(_GO_ON) for _ in range(9))
    begun = page.evaluate("performance.now()")
    page.get_by_label("Order").select_option("longest first")
    page.get_by_text("spread evenly over").wait_for(timeout=60_000)
    worst = (page.evaluate("performance.now()") - begun) / 1000
    found = {"painted": painted, "tokens": tokens, "next": steps[4], "worst": worst}
    (folder / "found.json").write_text(json.dumps(found))
