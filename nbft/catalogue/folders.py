"""Folders and the data files in them, for a small file browser. Never goes through a whole disk."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from nbft.data.lines import PACKED
from nbft.data.sources import FORMATS
from nbft.errors import DataError, Problem
from nbft.reading import open_file, why_not

ENDINGS = tuple(kind + packing for kind in FORMATS for packing in ("", *PACKED))
_SECONDS = 0.2
"""How long a folder is looked at: about 100,000 entries."""

_SHOWN = 1000
_NEWEST = 50
_OPENED = 200
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
        found, is_complete = _scan(here, time.monotonic() + _SECONDS)
    except (OSError, ValueError) as error:
        why = why_not(error) if isinstance(error, OSError) else "no path of a folder"
        fix = "Choose another folder."
        raise DataError(Problem("folder", str(path), f"cannot be read: {why}.", fix)) from None
    found.sort(key=lambda entry: (not entry.is_dir(), entry.name.casefold(), entry.name))
    entries = tuple(filter(None, map(_entry, found[:_SHOWN])))
    parent = here.parent if here.parent != here else None
    return Folder(here, parent, entries, is_complete and len(found) <= _SHOWN)


def data_files(path: Path, levels: int = 0) -> list[Entry]:
    """Return data files in a folder and the folders below it, the newest first, at most 50.

    Looks for about 0.2 seconds at most. Folders that may not be read, runs and models are left out,
    and files that hold no rows.

    Args:
        path: The folder.
        levels: Levels of folders below it to look into.
    """
    began = time.monotonic()
    files: list[Entry] = []
    level = [path.absolute()]
    for depth in range(levels + 1):
        below: list[Path] = []
        for each in level:
            if time.monotonic() > began + _SECONDS:
                break
            with contextlib.suppress(OSError):
                found, _ = _scan(each, began + _SECONDS / 2)  # the rest is for their times
                if depth and any(entry.name in _NOT_DATA for entry in found):
                    continue
                below += [Path(entry.path) for entry in found if entry.is_dir()]
                files += _files(found, began + _SECONDS)
        level = below
    newest = sorted(files, key=lambda entry: (-entry.modified, entry.name))
    return list(
        itertools.islice((file for file in newest[:_OPENED] if _may_hold_rows(file)), _NEWEST)
    )


def _files(found: Iterable[os.DirEntry[str]], deadline: float) -> Iterator[Entry]:
    for entry in found:
        if not entry.is_dir() and (file := _entry(entry)):
            yield file
            if time.monotonic() > deadline:
                return


def _scan(path: Path, deadline: float) -> tuple[list[os.DirEntry[str]], bool]:
    """Return the visible folders and data files in a folder, and whether that is all.

    Raises:
        OSError: It may not be read.
    """
    found: list[os.DirEntry[str]] = []
    with os.scandir(path) as entries:
        for number, entry in enumerate(entries, start=1):
            if number % 100 == 0 and time.monotonic() > deadline:
                return found, False
            is_data = entry.name.lower().endswith(ENDINGS)
            if entry.name.startswith(".") or not _is_text(entry.name):
                continue
            with contextlib.suppress(OSError):  # gone meanwhile, or a link to itself
                if entry.is_dir() or (is_data and entry.is_file()):
                    found.append(entry)
    return found, True


def _entry(found: os.DirEntry[str]) -> Entry | None:
    try:
        about, is_folder = found.stat(), found.is_dir()
    except OSError:
        return None
    size_bytes = None if is_folder else about.st_size
    return Entry(found.name, Path(found.path), is_folder, size_bytes, about.st_mtime)


def _is_text(name: str) -> bool:
    """Whether a file's name is text; another one cannot be written into a config."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def _may_hold_rows(file: Entry) -> bool:
    """Whether a file is not empty and, for .json, holds rows: an array, or an object a line."""
    if file.path.suffix.lower() != ".json":
        return bool(file.size_bytes)
    try:
        with open_file(file.path) as stream:
            start = stream.read(_START_BYTES)
    except OSError:
        return False
    first, *_ = start.removeprefix(b"\xef\xbb\xbf").lstrip().partition(b"\n")
    return first.startswith(b"[") or (first.startswith(b"{") and first.rstrip().endswith(b"}"))
