"""Every notebook: its form is as agreed, and it runs from the first cell to the last."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
STEPS = "3"
MACHINE_PATH = re.compile(r"(?<![\w.<])(/(home|root|work|tmp|usr|opt|content|Users)/|[A-Z]:\\\\)")
MARKUP = re.compile(r"!?\[([^\]]*)\]\([^)]*\)|<[^>]+>")

pytestmark = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def lines(cell: Any) -> int:
    return sum(bool(line.strip()) for line in cell.source.splitlines())


def texts(outputs: list[Any]) -> Iterator[str]:
    """Yield what outputs say; pictures say nothing."""
    for output in outputs:
        yield output.get("text", "")
        yield "\n".join(output.get("traceback", []))
        yield from (
            str(value)
            for kind, value in output.get("data", {}).items()
            if not kind.startswith("image/")
        )


def test_is_of_a_size_to_be_read(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    prose = [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]
    words = sum(len(MARKUP.sub(r"\1", text).split()) for text in prose)
    assert 25 <= len(notebook.cells) <= 45
    assert 700 <= words <= 1200
    assert sum(map(lines, code_cells(notebook))) <= 130
    assert max(map(lines, code_cells(notebook))) <= 25


def test_begins_with_a_title_and_says_what_each_code_cell_is_for(path: Path) -> None:
    cells = nbformat.read(path, as_version=4).cells
    assert cells[0].source.startswith("# ")
    before = [cells[i - 1] for i, cell in enumerate(cells) if cell.cell_type == "code"]
    assert [cell.cell_type for cell in before] == ["markdown"] * len(before)


def test_is_saved_with_its_outputs_and_nothing_of_this_machine(path: Path) -> None:
    assert path.stat().st_size <= 300_000
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert "widgets" not in notebook.metadata
    cells = code_cells(notebook)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    for cell in cells:
        assert cell.outputs, cell.source
    for text in texts(outputs):
        assert not MACHINE_PATH.search(text), text


@pytest.mark.timeout(1200)  # the default model on a busy CPU; 2 minutes on a free one
def test_runs_from_the_first_cell_to_the_last(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NBFT_MAX_STEPS", STEPS)
    monkeypatch.setenv("NBFT_QUEUE", str(tmp_path / "queue"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    copy = Path(shutil.copy(path, tmp_path))
    notebook = nbformat.read(copy, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=900,
        kernel_name="python3",
        store_widget_state=False,
        resources={"metadata": {"path": str(tmp_path)}},
    )
    client.execute()  # raises at the first error, with the cell
    outputs = [output for cell in code_cells(notebook) for output in cell.outputs]
    for text in texts(outputs):
        assert not MACHINE_PATH.search(text), text
    (run,) = (tmp_path / "runs").iterdir()
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    assert events[-1]["event"] == "completed"
    assert events[-1]["step"] == int(STEPS)
