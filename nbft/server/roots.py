"""The folders in which a server finds runs, and the ids of runs in routes. Knows no HTTP."""

from __future__ import annotations

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
from nbft.formatting import one_line
from nbft.reading import why_not
from nbft.runs import Run
from nbft.runs.mark import MARK

_FILES = (
    *(MARK, "config.yaml", "events.jsonl", "commands.jsonl", "log.txt", "plan.json"),
    *("exports.jsonl", "exporting.jsonl", "export.log"),
)
_SKIPPED = frozenset({"node_modules", "__pycache__", "checkpoints", "site-packages"})
_SEARCHED_FOLDERS = 2_000
_SEARCH_SECONDS = 30.0


class UnknownRunError(RunError):
    """No run has that id."""


class RefusedRunError(UnknownRunError):
    """A run whose folder has a link, a pipe or a folder in the place of a file.

    Attributes:
        path: The folder.
    """

    def __init__(self, path: Path, file: str) -> None:
        super().__init__(
            f"{one_line(path.name)}: {file} is not a plain file, so this run is not opened."
        )
        self.path = path


class SharedRun(Run):
    """A run that may only be looked at."""


class NbftServer(Configurable):
    """The folders whose runs the panel shows.

    They are `runs` in the server's root folder; the folders configured as `c.NbftServer.roots`; and
    each folder named `runs` at most `c.NbftServer.search_depth` levels below the root folder, where
    notebooks put their runs. Hidden folders and links are not searched. The runs in the folders of
    `c.NbftServer.shared_roots` are shown, and take no commands.
    """

    roots = List(
        Unicode(),
        help="More folders of runs, absolute or relative to the server's root folder.",
    ).tag(config=True)
    shared_roots = List(
        Unicode(),
        help="Folders of runs that may only be looked at, such as those of a class; absolute or "
        "relative to the server's root folder.",
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
        self._shared = [(self.top / Path(r).expanduser()).resolve() for r in self.shared_roots]
        self._found: list[Path] = []
        self._searched = -_SEARCH_SECONDS

    def folders(self) -> dict[str, Path]:
        """Return the folders of runs by their key, a short digest of the path."""
        roots = (self.top / Path(root).expanduser() for root in (*self.roots, *self.shared_roots))
        named = [self.top / "runs", *roots]
        if time.monotonic() - self._searched > _SEARCH_SECONDS:
            self._found = list(_search(self.top, self.search_depth))
            self._searched = time.monotonic()
        return {_key(folder): folder for folder in map(Path.resolve, [*named, *self._found])}

    def _run(self, path: Path) -> Run:
        _check_files(path)
        return (SharedRun if any(map(path.is_relative_to, self._shared)) else Run)(path)

    def runs(self) -> dict[str, Run]:
        """Return every run by its id."""
        return self.look()[0]

    def look(self) -> tuple[dict[str, Run], dict[str, RefusedRunError]]:
        """Return every run by its id, and by theirs why some are not opened."""
        found: dict[str, Run] = {}
        refused: dict[str, RefusedRunError] = {}
        for key, folder in self.folders().items():
            try:
                entries = list(os.scandir(folder))
            except OSError:  # not there yet, or not ours to read
                continue
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    run_id = f"{entry.name}~{key}"
                    try:
                        found[run_id] = self._run(Path(entry.path))
                    except RefusedRunError as error:
                        refused[run_id] = error
                    except RunError:  # no run, or deleted meanwhile
                        continue
        return found, refused

    def find(self, run_id: str) -> Run:
        """Return the run of an id.

        Raises:
            UnknownRunError: No folder of runs holds it, or it is a path or a link.
            RefusedRunError: Something else is in the place of one of its files.
        """
        name, _, key = run_id.rpartition("~")
        folder = self.folders().get(key)
        if folder is None or not name or name in (".", "..") or {"/", "\\", "\0"} & set(name):
            raise UnknownRunError("There is no run with this id.")
        path = folder / name
        try:
            if not path.is_symlink():
                return self._run(path)
        except RefusedRunError:
            raise
        except RunError:
            pass
        raise UnknownRunError(f"{name}: there is no such run; it may have been deleted.")


class Nbft(NbftServer):
    """The same; settings of `c.Nbft` apply as well."""


def _check_files(path: Path) -> None:
    """Raise if a run's folder may not be read, or has no plain file where nbft writes one."""
    try:
        with os.scandir(path) as entries:
            files = {e.name: e.is_file(follow_symlinks=False) for e in entries if e.name in _FILES}
    except OSError as error:
        raise RunError(f"{one_line(path.name)}: cannot be read: {why_not(error)}.") from None
    odd = [name for name, is_plain in files.items() if not is_plain]
    if odd and not {MARK, "config.yaml"}.isdisjoint(files):
        raise RefusedRunError(path, min(odd))


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
