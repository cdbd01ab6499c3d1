"""The folders in which a server finds runs, and the ids of runs in routes. Knows no HTTP."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from traitlets import Int, List, Unicode, default
from traitlets.config import Configurable

from nbft.errors import RunError
from nbft.runs import Run

_FILES = ("config.yaml", "events.jsonl", "commands.jsonl", "log.txt", "plan.json")
_SKIPPED = frozenset({"node_modules", "__pycache__", "checkpoints", "site-packages"})
_SEARCHED_FOLDERS = 2_000
_SEARCH_SECONDS = 30.0


class UnknownRunError(RunError):
    """No run has that id."""


class Nbft(Configurable):
    """The folders whose runs the panel shows.

    They are `runs` in the server's root folder; the folders configured as `c.Nbft.roots`; and each
    folder named `runs` at most `c.Nbft.search_depth` levels below the root folder, where notebooks
    put their runs. Hidden folders and links are not searched.
    """

    roots = List(
        Unicode(),
        help="More folders of runs, absolute or relative to the server's root folder.",
    ).tag(config=True)
    search_depth = Int(
        3, min=0, help="Levels below the root folder that are searched for `runs`; 0 for none."
    ).tag(config=True)
    root_dir = Unicode(help="The server's root folder.")

    @default("root_dir")
    def _here(self) -> str:
        return str(Path.cwd())

    def __init__(self, **given: Any) -> None:
        super().__init__(**given)
        self.top = Path(self.root_dir).expanduser().resolve()
        self._found: list[Path] = []
        self._searched = -_SEARCH_SECONDS

    def folders(self) -> dict[str, Path]:
        """Return the folders of runs by their key, a short digest of the path."""
        named = [self.top / "runs", *(self.top / Path(root).expanduser() for root in self.roots)]
        if time.monotonic() - self._searched > _SEARCH_SECONDS:
            self._found = list(_search(self.top, self.search_depth))
            self._searched = time.monotonic()
        return {_key(folder): folder for folder in map(Path.resolve, [*named, *self._found])}

    def runs(self) -> dict[str, Run]:
        """Return every run by its id."""
        found = {}
        for key, folder in self.folders().items():
            try:
                entries = list(os.scandir(folder))
            except OSError:  # not there yet, or not ours to read
                continue
            for entry in entries:
                if entry.is_dir(follow_symlinks=False) and _is_run(Path(entry.path)):
                    with contextlib.suppress(RunError):  # deleted meanwhile
                        found[f"{entry.name}~{key}"] = Run(entry.path)
        return found

    def find(self, run_id: str) -> Run:
        """Return the run of an id.

        Raises:
            UnknownRunError: No folder of runs holds it, or it is a path, a link, or a folder with
                a link among its files.
        """
        name, _, key = run_id.rpartition("~")
        folder = self.folders().get(key)
        if folder is None or not name or name in (".", "..") or {"/", "\\", "\0"} & set(name):
            raise UnknownRunError("There is no run with this id.")
        path = folder / name
        if path.is_symlink() or not _is_run(path):
            raise UnknownRunError(f"{name}: there is no such run; it may have been deleted.")
        return Run(path)


def _is_run(path: Path) -> bool:
    """Whether a folder holds a run without links among its files."""
    try:
        with os.scandir(path) as entries:
            files = {e.name: e.is_file(follow_symlinks=False) for e in entries if e.name in _FILES}
    except OSError:
        return False
    return "config.yaml" in files and all(files.values())


def _key(folder: Path) -> str:
    return hashlib.sha256(os.fsencode(folder)).hexdigest()[:8]


def _search(top: Path, depth: int) -> Iterator[Path]:
    """Yield the folders named `runs` below a folder, level by level."""
    waiting = deque([(top, 0)])
    for _ in range(_SEARCHED_FOLDERS):
        if not waiting:
            return
        folder, level = waiting.popleft()
        try:
            entries = [entry for entry in os.scandir(folder) if entry.is_dir(follow_symlinks=False)]
        except OSError:
            continue
        for entry in entries:
            if entry.name == "runs":
                yield Path(entry.path)
            elif (
                level + 1 < depth and not entry.name.startswith(".") and entry.name not in _SKIPPED
            ):
                waiting.append((Path(entry.path), level + 1))
