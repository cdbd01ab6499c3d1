"""Every notebook: its form is as agreed, and it runs from the first cell to the last."""

from __future__ import annotations

import ast
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from nbclient import NotebookClient

import nbft
from nbft.models import find_model

NOTEBOOKS = sorted((Path(__file__).parents[2] / "notebooks").glob("*.ipynb"))
STEPS = "3"
MACHINE_PATH = re.compile(r"(?<![\w.<])(/(home|root|work|tmp|usr|opt|content|Users)/|[A-Z]:\\\\)")
MARKUP = re.compile(r"!?\[([^\]]*)\]\([^)]*\)|<[^>]+>")
FOLDED = re.compile(r"<details><summary>(\w+)</summary>\n\n.+?\n\n</details>", re.DOTALL)
UNFILLED = "No prediction yet"
SOLUTIONS: dict[str, dict[str, Any]] = {
    "quickstart": {"trained_tokens": 9, "steps": 250, "parameters": 2_442_240},
    "alpaca": {"trained_tokens": 7, "steps": 125},
    "samsum": {"cut_part": "completion", "f1": 0.67, "higher": "false"},
    "gsm8k": {"calculated": 7, "counted_right": 2, "needed": 4},
    "preferences": {"first_loss": 0.69},
    "rewards": {"full_marks": 2, "best_advantage": 1.5},
}
"""The folded solutions; the other predictions are about what a full run does."""

pytestmark = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


_LAYERS = 3
"""Of the 30 of the default model, for the notebooks that say nothing of its size."""


@pytest.fixture(scope="session")
def shallow_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache whose default model is the first layers of the real one."""
    from safetensors.torch import load_file, save_file

    real = find_model("smollm2-135m").path
    cache = tmp_path_factory.mktemp("shallow")
    folder = Path(shutil.copytree(real, cache / "models" / "smollm2-135m"))
    shape = json.loads((real / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(shape | {"num_hidden_layers": _LAYERS}))
    weights = load_file(real / "model.safetensors")
    numbers = {name: re.search(r"layers\.(\d+)\.", name) for name in weights}
    kept = {
        name: w for name, w in weights.items() if not (n := numbers[name]) or int(n[1]) < _LAYERS
    }
    save_file(kept, folder / "model.safetensors", {"format": "pt"})
    return cache


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def lines(cell: Any) -> int:
    return sum(bool(line.strip()) for line in cell.source.splitlines())


def tree(cell: Any) -> ast.Module:
    """Return the code of a cell; its magics become calls."""
    return ast.parse(TransformerManager().transform_cell(cell.source))


def blanks(cell: Any) -> list[str]:
    """Return the names that a reader fills in a cell: those that are set to dots."""
    return [
        target.id
        for node in ast.walk(tree(cell))
        if isinstance(node, ast.Assign)
        and isinstance(node.value, ast.Constant)
        and node.value.value is ...
        for target in node.targets
        if isinstance(target, ast.Name)
    ]


def checked(cell: Any) -> list[str]:
    """Return the names whose value a cell checks as a prediction."""
    return [
        ast.unparse(node.args[0])
        for node in ast.walk(tree(cell))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "nbft.check_prediction"
    ]


def is_blank_only(cell: Any) -> bool:
    """Whether a cell only holds predictions, which a later cell checks."""
    return len(tree(cell).body) == len(blanks(cell)) > 0


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
    read = [FOLDED.sub("", text) for text in prose]  # what is folded is read when it is needed
    words = sum(len(MARKUP.sub(r"\1", text).split()) for text in read)
    assert 25 <= len(notebook.cells) <= 45
    assert 700 <= words <= 1200
    assert sum(map(lines, code_cells(notebook))) <= 130
    assert max(map(lines, code_cells(notebook))) <= 25


def test_begins_with_a_title_and_says_what_each_code_cell_is_for(path: Path) -> None:
    cells = nbformat.read(path, as_version=4).cells
    assert cells[0].source.startswith("# ")
    before = [cells[i - 1] for i, cell in enumerate(cells) if cell.cell_type == "code"]
    assert [cell.cell_type for cell in before] == ["markdown"] * len(before)


def test_uses_public_names_only(path: Path) -> None:
    for cell in code_cells(nbformat.read(path, as_version=4)):
        for node in ast.walk(tree(cell)):
            if isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] != "nbft", cell.source
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names if alias.name.startswith("nbft")]
                assert names in ([], ["nbft"]), cell.source
            if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "nbft":
                assert node.attr in nbft.__all__, cell.source


def test_every_prediction_is_checked_and_has_a_folded_solution(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    cells, made = notebook.cells, list[str]()
    for before, cell, after in zip(cells, cells[1:], cells[2:], strict=False):
        if cell.cell_type != "code":
            continue
        if blanks(cell):
            assert "**Predict" in before.source, cell.source
            made += blanks(cell)
        if checked(cell):
            assert set(checked(cell)) <= set(made), cell.source
            assert FOLDED.findall(after.source)[:1] == ["Solution"], cell.source
    assert sorted(made) == sorted(name for cell in code_cells(notebook) for name in checked(cell))
    assert len(made) == len(set(made)) >= 3


def test_the_questions_at_the_end_have_folded_answers(path: Path) -> None:
    last = nbformat.read(path, as_version=4).cells[-1].source
    questions = last.partition("## Three questions\n")[2]
    assert len(re.findall(r"^\d\. .+\?", questions, re.MULTILINE)) == 3
    assert FOLDED.findall(questions) == ["Answer"] * 3


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
        assert cell.outputs or is_blank_only(cell), cell.source
    for text in texts(outputs):
        assert not MACHINE_PATH.search(text), text
    said = sum(text.count(UNFILLED) for text in texts(outputs))
    assert said == sum(len(blanks(cell)) for cell in cells)


@pytest.mark.timeout(1200)  # the default model on a busy CPU; 2 minutes on a free one
def test_runs_from_the_first_cell_to_the_last(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shallow_cache: Path
) -> None:
    if path.stem != "quickstart":  # which runs on the model that people get
        monkeypatch.setenv("NBFT_CACHE", str(shallow_cache))
    monkeypatch.setenv("NBFT_MAX_STEPS", STEPS)
    monkeypatch.setenv("NBFT_QUEUE", str(tmp_path / "queue"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    copy = Path(shutil.copy(path, tmp_path))
    notebook = nbformat.read(copy, as_version=4)
    for cell in code_cells(notebook):
        for name in set(blanks(cell)) & SOLUTIONS[path.stem].keys():
            cell.source = cell.source.replace(
                f"{name} = ...", f"{name} = {SOLUTIONS[path.stem][name]!r}"
            )
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
    for cell in code_cells(notebook):
        said = "".join(texts(cell.outputs))
        is_filled = [name in SOLUTIONS[path.stem] for name in checked(cell)]
        assert said.count("Right.") + said.count("Right: ") == sum(is_filled), cell.source
        assert said.count(UNFILLED) == is_filled.count(False), cell.source
    (run,) = (tmp_path / "runs").iterdir()
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    assert events[-1]["event"] == "completed"
    assert events[-1]["step"] == int(STEPS)
