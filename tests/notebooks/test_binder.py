"""The Binder files, by doing what they say in an environment that holds nothing else."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from ruamel.yaml import YAML

ROOT = Path(__file__).parents[2]
BINDER = ROOT / "binder"
OF_CONDA = {"pytorch-cpu": "torch"}  # packages that have another name on the package index
NOT_OF_PIP = {"python", "nodejs", "pip"}


def environment() -> dict[str, str]:
    """Return the packages that Binder's environment asks for, with their versions."""
    asked = YAML(typ="safe").load(BINDER / "environment.yml")["dependencies"]
    pairs = (str(one).replace(">=", " >=").replace("=", " ==", 1) for one in asked)
    return {name: version for name, _, version in (pair.partition(" ") for pair in pairs)}


def run(*command: str, cwd: Path = ROOT, **environ: str) -> str:
    done = subprocess.run(
        command, cwd=cwd, env=os.environ | environ, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def canonical(requirement: str) -> str:
    """Return the name in a requirement, as the package index writes it."""
    return re.sub(r"[-_.]+", "-", re.split(r"[\s<>=;\[]", requirement)[0]).lower()


def needed(*extras: str) -> set[str]:
    """Return the packages that nbft asks for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    asked = [*project["dependencies"]]
    for extra in extras:
        asked += project["optional-dependencies"][extra]
    return {canonical(requirement) for requirement in asked}


def locked_versions(lock: Path) -> dict[str, set[str]]:
    """Return the versions of each package in a lock; they may differ between Pythons."""
    versions: dict[str, set[str]] = {}
    for line in lock.read_text(encoding="utf-8").splitlines():
        if pinned := re.match(r"([\w.-]+)==([^\s;]+)", line):
            versions.setdefault(canonical(pinned[1]), set()).add(pinned[2])
    return versions


def test_the_locks_agree_and_name_no_build_and_no_host() -> None:
    development, workshop = (
        locked_versions(ROOT / "requirements" / f"{name}.txt") for name in ("dev", "workshop")
    )
    for name, versions in workshop.items():
        assert versions <= development[name], name
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    dev = set(map(canonical, extras["optional-dependencies"]["dev"])) - {"nbft"}
    assert needed("lab", "quant") - {"torch"} <= workshop.keys()
    assert needed("lab", "quant") | dev <= development.keys() | {"torch"}
    assert not {name for name in development if re.match("torch|nvidia|cuda|triton", name)}
    for lock in (ROOT / "requirements").iterdir():
        text = lock.read_text(encoding="utf-8")
        assert "://" not in text
        assert "+" not in text


@pytest.mark.parametrize(
    ("limit", "threads"), [("200000 100000", "2"), ("150000 100000", "2"), ("max 100000", "none")]
)
def test_torch_gets_as_many_threads_as_the_container_has_cores(
    tmp_path: Path, limit: str, threads: str
) -> None:
    (tmp_path / "cpu.max").write_text(limit + "\n")
    clean = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    said = subprocess.run(
        [str(BINDER / "start"), "bash", "-c", "echo ${OMP_NUM_THREADS:-none}"],
        env=clean | {"CPU_LIMIT_FILE": str(tmp_path / "cpu.max")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout.strip() == threads


def test_every_notebook_has_badges_that_lead_to_the_repository() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    name = project["urls"]["Repository"].removeprefix("https://github.com/")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for notebook in (ROOT / "notebooks").glob("*.ipynb"):
        path = f"notebooks/{notebook.name}"
        assert f"(https://colab.research.google.com/github/{name}/blob/main/{path})" in readme
        assert f"(https://mybinder.org/v2/gh/{name}/main?urlpath=lab/tree/{path})" in readme


@pytest.mark.timeout(1200)
def test_the_image_builds_and_the_first_notebook_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = environment()
    assert sys.version_info[:2] >= tuple(map(int, asked["python"].strip("= ").split(".")))
    repository = tmp_path / "repository"
    files = run("git", "ls-files", "--cached", "--others", "--exclude-standard").splitlines()
    for name in files:
        if (ROOT / name).is_file():
            (repository / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, repository / name)
    run(sys.executable, "-m", "venv", str(tmp_path / "venv"))
    bin_folder = tmp_path / "venv" / "bin"
    monkeypatch.setenv("PIP_NO_COMPILE", "1")  # most of what is installed is never imported
    for name in asked.keys() - NOT_OF_PIP:
        # The version that these tests run with: another build of torch may not be at hand.
        package = OF_CONDA.get(name, name)
        version = run(sys.executable, "-c", f"import {package}; print({package}.__version__)")
        public = version.strip().partition("+")[0]
        run(str(bin_folder / "pip"), "install", "--quiet", f"{package}=={public}")
    inside = {
        "PATH": f"{bin_folder}:{os.environ['PATH']}",
        "NBFT_CACHE": str(tmp_path / "cache"),
        "VIRTUAL_ENV": str(tmp_path / "venv"),
    }
    run("bash", "binder/postBuild", cwd=repository, **inside)
    assert (tmp_path / "cache" / "models").is_dir()
    listed = run(str(bin_folder / "pip"), "list", "--format=json")
    installed = {canonical(one["name"]): one["version"] for one in json.loads(listed)}
    locked = locked_versions(ROOT / "requirements" / "workshop.txt")
    assert needed("lab", "quant") - {"torch"} <= installed.keys() & locked.keys()
    for name in installed.keys() & locked.keys():
        assert installed[name] in locked[name], name
    for what in ("labextension", "server extension"):
        listed = subprocess.run(
            [str(repository / "binder" / "start"), "jupyter", *what.split(), "list"],
            cwd=repository,
            env=os.environ | inside,
            capture_output=True,
            text=True,
            check=True,
        )
        said = listed.stdout + listed.stderr
        assert "nbft" in said
        assert "OK" in said
    notebook = json.loads((repository / "notebooks" / "quickstart.ipynb").read_text())
    first = next(c for c in notebook["cells"] if c["cell_type"] == "code")
    lines = [line for line in "".join(first["source"]).splitlines() if not line.startswith("%")]
    code = "\n".join(lines).replace("    %pip", "    assert False  # ")
    run(str(bin_folder / "python"), "-c", code, cwd=repository / "notebooks", **inside)
