"""No command installs nbft by its name: on the package index nobody holds it yet.

Whoever registered it there could run code on the machine of everyone who follows our instructions.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NOT_OURS = {"node_modules", "labextension", "static", "runs", "dist", "lib"}
SUFFIXES = {".md", ".ipynb", ".py", ".ts", ".tsx", ".yml", ".yaml", ".txt", ".toml", ".sh", ".json"}
COMMAND = re.compile(
    r"(?:\b(?:pip3?|uv|poetry|pdm)\s(?:[\w=/.{}-]+\s)*?(?:install|add|download|wheel)"
    r"|\b(?:pipx|conda|mamba)\s(?:[\w=/.{}-]+\s)*?(?:install|run)|\buvx)\s+(?P<arguments>[^\n]*)"
)
NAME = re.compile(r"nbft(?:\[[\w,\s-]*\])?(?:\s*[=<>!~].*)?", re.IGNORECASE)
END = re.compile(r"\s#|&&|;|\||`")
LISTED = re.compile(r"^\s*-?\s*nbft(?:\[[\w, -]*\])?\s*(?:[=<>!~][^:]*)?$", re.MULTILINE)


def installs_by_name(text: str) -> list[str]:
    """Return the commands in a text that install nbft by its name."""
    found = []
    for command in COMMAND.finditer(text):
        arguments = END.split(command["arguments"])[0].replace("\\n", " ").replace("\\", "")
        words = [word.strip("\"'()`,.:") for word in arguments.split()]
        if any(map(NAME.fullmatch, words)):
            found.append(command[0])
    return found


@pytest.mark.parametrize(
    "command",
    [
        "pip install nbft",
        "%pip install --quiet nbft",
        "!pip3 install -U 'nbft[lab]'",
        'python -m pip install "nbft[lab,quant]>=0.1" wandb',
        "uv pip install torch nbft",
        "uv pip install --system nbft==0.1.0",
        "uv add nbft",
        "pipx install nbft",
        "conda install -c conda-forge nbft",
        "uvx nbft demo",
        "'(pip install nbft), then check'",
        "Run `pip install nbft` first.",
    ],
)
def test_a_command_is_recognised(command: str) -> None:
    assert installs_by_name(command)


@pytest.mark.parametrize(
    "command",
    [
        'pip install ".[lab]"     # installs nbft with JupyterLab',
        "pip install git+https://github.com/nbft/nbft@v0.1.0",
        "pip install comet-ml; nbft demo",
        "pip install nbft-plugin",
    ],
)
def test_other_commands_are_not(command: str) -> None:
    assert not installs_by_name(command)


def texts() -> Iterator[tuple[Path, str]]:
    for folder in (
        "notebooks",
        "docs",
        "binder",
        "extension",
        "nbft",
        "benchmarks",
        "requirements",
    ):
        for path in sorted((ROOT / folder).rglob("*")):
            is_ours = not NOT_OURS & {*path.relative_to(ROOT).parts}
            if is_ours and path.is_file() and (path.suffix in SUFFIXES or folder == "binder"):
                yield path, path.read_text(encoding="utf-8")
    for path in (*ROOT.glob("*.md"), ROOT / "Makefile"):
        yield path, path.read_text(encoding="utf-8")


def test_nothing_installs_nbft_by_its_name() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {one}" for path, t in texts() for one in installs_by_name(t)
    ]
    assert not found


def test_no_list_of_packages_names_nbft() -> None:
    lists = [*(ROOT / "requirements").glob("*.txt"), ROOT / "binder" / "environment.yml"]
    for path in lists:
        text = path.read_text(encoding="utf-8").replace("name: nbft", "")  # of the environment
        assert not LISTED.search(text), path
    assert LISTED.search("  - nbft\n")
    assert LISTED.search("torch\nnbft[lab]==0.1.0\n")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_installs_from_the_repository(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Run the set-up of a notebook where nbft is missing, with a stand-in for pip."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    (source,) = [source for source in sources if "pip install" in source]
    setup, found, _ = source.partition("import nbft  #")
    assert found
    code = re.sub(r"^(\s*)[%!]pip (.*)$", r'\1installed.append(f"\2")', setup, flags=re.MULTILINE)
    code = re.sub(r"^%matplotlib.*$", "", code, flags=re.MULTILINE)
    installed: list[str] = []
    monkeypatch.setattr(
        "importlib.util.find_spec", lambda name: None if name == "nbft" else find_spec(name)
    )
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    scope: dict[str, Any] = {"installed": installed}
    (tmp_path / "content").mkdir()  # as on Colab: a folder without the repository around it
    monkeypatch.chdir(tmp_path / "content")
    exec(compile(code, path.name, "exec"), scope)
    repository = f"git+{project['urls']['Repository']}"
    assert installed == [f"install --quiet {repository}"]
    (tmp_path / "pyproject.toml").touch()  # in a copy of the repository
    exec(compile(code, path.name, "exec"), scope)
    assert installed[1:] == ["install --quiet .."]
