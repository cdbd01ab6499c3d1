"""Folders and the data files in them, for a small file browser. Never goes through a whole disk."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from dataclasses import dataclass
from pathlib import Path

from nbft.data.lines import kind_of
from nbft.data.sources import FORMATS
from nbft.errors import DataError, Problem
from nbft.reading import open_file, why_not

_ENTRIES = 20_000
"""Entries of a folder that are looked at."""

_SECONDS = 0.2
_SHOWN = 1000
_NEWEST = 50
_START_BYTES = 64 * 1024
_NOT_DATA = ("config.json", "run.json", "package.json", "adapter_config.json")
"""Files of folders whose other JSON files are not rows either."""


@dataclass(frozen=True)
class Entry:
    """A folder, or a file that may hold rows.

    Attributes:
        name: Its name.
        path: Its absolute path.
        is_folder: Whether it is a folder.
        size_bytes: Size of a file; None for a folder.
        modified: When it was last changed, in seconds since the epoch.
    """

    name: str
    path: Path
    is_folder: bool
    size_bytes: int | None
    modified: float


@dataclass(frozen=True)
class Folder:
    """What a file browser shows of a folder.

    Attributes:
        path: Its absolute path.
        parent: The folder that it is in; None for the root.
        entries: Folders by name, then data files by name; at most 1,000.
        is_complete: Whether that is all; otherwise the folder holds too much to be looked at.
    """

    path: Path
    parent: Path | None
    entries: tuple[Entry, ...]
    is_complete: bool


def folder(path: str | Path = ".") -> Folder:
    """Return the folders and data files in a folder; hidden ones are left out.

    Raises:
        DataError: There is no such folder, or it may not be read.
    """
    here = Path(os.path.abspath(Path(path).expanduser()))  # noqa: PTH100 - links stay as they are
    try:
        entries, is_complete = _scan(here, time.monotonic() + _SECONDS)
    except (OSError, ValueError) as error:
        why = why_not(error) if isinstance(error, OSError) else "no path of a folder"
        fix = "Choose another folder."
        raise DataError(Problem("folder", str(path), f"cannot be read: {why}.", fix)) from None
    entries.sort(key=lambda entry: (not entry.is_folder, entry.name.casefold(), entry.name))
    parent = here.parent if here.parent != here else None
    return Folder(here, parent, tuple(entries[:_SHOWN]), is_complete and len(entries) <= _SHOWN)


def data_files(path: Path, levels: int = 0) -> list[Entry]:
    """Return data files in a folder and the folders below it, the newest first, at most 50.

    Looks for 0.2 seconds at most; folders that may not be read, runs, models and installed packages
    are left out.

    Args:
        path: The folder.
        levels: Levels of folders below it to look into.
    """
    deadline = time.monotonic() + _SECONDS
    files: list[Entry] = []
    level = [path]
    for depth in range(levels + 1):
        below: list[Path] = []
        for each in level:
            with contextlib.suppress(OSError):
                entries, _ = _scan(each, deadline)
                if depth and any(entry.name in _NOT_DATA for entry in entries):
                    continue
                files += [entry for entry in entries if not entry.is_folder]
                below += [entry.path for entry in entries if entry.is_folder]
        level = below
    newest = sorted(files, key=lambda entry: (-entry.modified, entry.name))
    return list(itertools.islice((file for file in newest if _may_hold_rows(file.path)), _NEWEST))


def _scan(path: Path, deadline: float) -> tuple[list[Entry], bool]:
    """Return the visible folders and data files in a folder, and whether that is all.

    Raises:
        OSError: It may not be read.
    """
    found: list[Entry] = []
    with os.scandir(path) as entries:
        for number, entry in enumerate(entries):
            if number >= _ENTRIES or (number % 100 == 99 and time.monotonic() > deadline):
                return found, False
            if entry.name.startswith(".") or not _is_text(entry.name):
                continue
            with contextlib.suppress(OSError):  # gone meanwhile, or a link to itself
                is_folder = entry.is_dir()
                is_data = kind_of(Path(entry.name)) in FORMATS
                if is_folder or (is_data and entry.is_file()):
                    about = entry.stat()
                    size_bytes = None if is_folder else about.st_size
                    path = Path(os.path.abspath(entry.path))  # noqa: PTH100
                    found.append(Entry(entry.name, path, is_folder, size_bytes, about.st_mtime))
    return found, True


def _is_text(name: str) -> bool:
    """Whether a file's name is text; another one cannot be written into a config."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _may_hold_rows(path: Path) -> bool:
    """Whether a file is not empty and, for .json, holds rows: an array, or an object a line."""
    try:
        with open_file(path) as file:
            start = file.read(_START_BYTES)
    except OSError:
        return False
    if path.suffix.lower() != ".json":
        return bool(start)
    first, *_ = start.removeprefix(b"\xef\xbb\xbf").lstrip().partition(b"\n")
    return first.startswith(b"[") or (first.startswith(b"{") and first.rstrip().endswith(b"}"))
