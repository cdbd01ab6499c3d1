"""What marks a folder as a run, and which files in it are nbft's.

Other tools have folders with a config.yaml too. They are not listed, and never deleted.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import shutil
from importlib.metadata import version
from pathlib import Path

from nbft.atomic import beside
from nbft.config import Config
from nbft.errors import NbftError
from nbft.reading import is_file, open_file

MARK = "run.json"
"""The file that marks a run; written first and deleted last."""

_CONFIG = "config.yaml"
_SECTION = re.compile(rb"^([\w\"'-]+) *:", re.MULTILINE)
_READ_BYTES = 64 * 1024

_WRITTEN = (
    *(_CONFIG, "plan.json", "events.jsonl", "commands.jsonl", "log.txt", "report.html"),
    *("data", "checkpoints", "adapter", "model", "merged", "profile", "curves.png", "model.txt"),
    *("progress.txt", "printer.txt", "metrics.jsonl", "verifier.json", "starting", ".reserve"),
    *("exports.jsonl", "exporting.jsonl", "export.log"),
    MARK,
)
"""What nbft writes into a run's folder, in the order in which it is deleted."""


def mark(folder: Path) -> None:
    """Mark a new folder as a run."""
    (folder / MARK).write_text(json.dumps({"nbft": version("nbft")}) + "\n", encoding="utf-8")


def is_marked(folder: Path) -> bool:
    """Whether nbft made a folder."""
    try:
        about = json.loads(_read(folder / MARK))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(about, dict) and "nbft" in about


def is_run(folder: Path) -> bool:
    """Whether a folder is a run: marked, or with a config that can only be nbft's.

    Without the mark, a config with nbft's sections needs events beside it or has to be valid.
    """
    if not _is_file(folder / _CONFIG):
        return False
    if is_marked(folder):
        return True
    return _has_our_sections(folder) and (_is_file(folder / "events.jsonl") or _is_valid(folder))


def delete(folder: Path) -> list[str]:
    """Delete what nbft wrote into a run, and the folder if nothing else is in it.

    Returns:
        The names of what was left, because it is not nbft's.
    """
    targets = [folder / name for name in _WRITTEN]
    for path in (*itertools.chain(*map(beside, targets)), *targets):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    left = sorted(entry.name for entry in os.scandir(folder))
    if not left:
        folder.rmdir()
    return left


def _has_our_sections(folder: Path) -> bool:
    try:
        text = _read(folder / _CONFIG)
    except OSError:
        return False
    names = {name.strip(b"\"'").decode() for name in _SECTION.findall(text)}
    return bool(names) and names <= {*Config.model_fields}


def _is_valid(folder: Path) -> bool:
    with contextlib.suppress(NbftError):
        Config.load(folder / _CONFIG)
        return True
    return False


def _is_file(path: Path) -> bool:
    """Whether there is a plain file: no link, folder, pipe or device."""
    return is_file(path) and not path.is_symlink()


def _read(path: Path) -> bytes:
    """Return the beginning of a plain file.

    Raises:
        OSError: It is none, or it cannot be read.
    """
    if not _is_file(path):
        raise FileNotFoundError(str(path))
    with open_file(path) as file:
        return file.read(_READ_BYTES)
