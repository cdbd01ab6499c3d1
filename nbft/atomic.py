"""Writing files and folders that are whole or absent, whenever the process or the machine dies.

What is being written has a name of its own beside its target, which no other thread, process or
machine can have. Whatever writes a file or a folder for later, a cache or a run, does it here.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from nbft.access import inherit, inherit_all

_PREVIOUS = ".previous"
_PARTIAL = re.compile(r"(.+?)(\.[0-9a-f]{16})?\.partial")
_ABANDONED_SECONDS = 24 * 3600
"""Nobody writes any more where nothing has changed for so long."""


@contextlib.contextmanager
def replacing(target: Path, *, is_alone: bool = False) -> Iterator[Path]:
    """Yield a path beside the target to write a file or a folder to, which then takes its place.

    An error leaves the target as it was. Between two renames of a folder only `previous` of it
    exists, which readers accept.

    Args:
        target: The file or folder.
        is_alone: Whether nobody else can be writing it, so that what a killed process left beside it
            is removed first.
    """
    for torn in filter(is_partial, beside(target)) if is_alone else ():
        _remove(torn)
    with _partial(target) as partial:
        yield partial
        _finish(partial)
        old = previous(target)
        if target.is_dir():
            _remove(old)
            target.rename(old)
        partial.replace(target)
        _sync_one(target.parent)
        _remove(old)


@contextlib.contextmanager
def providing(target: Path) -> Iterator[Path]:
    """Yield a path as `replacing` does; where somebody else has provided the target by then, it stays.

    For what everybody would write alike, such as an entry of a cache that is named after its content.
    """
    remove_abandoned(target.parent)
    with _partial(target) as partial:
        yield partial
        _finish(partial)
        try:
            if not target.exists():
                partial.rename(target)
        except OSError:  # provided at this moment
            if not target.exists():
                raise
        _sync_one(target.parent)


@contextlib.contextmanager
def scratch(target: Path) -> Iterator[Path]:
    """Yield a new folder beside the target for what its making needs; it is removed afterwards."""
    with _partial(target) as folder:
        folder.mkdir()
        yield folder


@contextlib.contextmanager
def _partial(target: Path) -> Iterator[Path]:
    partial = target.with_name(f"{target.name}.{secrets.token_hex(8)}.partial")
    try:
        yield partial
    finally:
        _remove(partial)


def _finish(partial: Path) -> None:
    inherit(partial)
    inherit_all(partial)
    sync(partial)


def remove(target: Path) -> None:
    """Remove a file or a folder; nobody sees half of it."""
    with _partial(target) as gone, contextlib.suppress(OSError):
        target.rename(gone)


def remove_abandoned(folder: Path) -> None:
    """Remove what killed processes were writing in a folder that is nbft's own."""
    oldest = time.time() - _ABANDONED_SECONDS
    for path in folder.iterdir():
        found = _PARTIAL.fullmatch(path.name)
        if found and found[2] and _changed_at(path) < oldest:
            _remove(path)


def is_partial(path: Path) -> bool:
    """Whether a path is one that something is, or was, being written to."""
    return _PARTIAL.fullmatch(path.name) is not None


def _changed_at(path: Path) -> float:
    """Return when anything in a file or a folder changed last, in seconds since the epoch."""
    times = [0.0]
    # Unlike Path.rglob, os.walk passes over a folder that is finished or removed meanwhile.
    inside = (Path(top, name) for top, folders, files in os.walk(path) for name in folders + files)
    for each in (path, *inside):
        with contextlib.suppress(OSError):
            times.append(each.stat().st_mtime)
    return max(times)


def previous(target: Path) -> Path:
    """Return where the earlier folder is while another takes its place."""
    return target.with_name(target.name + _PREVIOUS)


def beside(target: Path) -> list[Path]:
    """Return what saves that were cut short may have left beside their target."""
    left = [previous(target)]
    if target.parent.is_dir():
        for path in target.parent.iterdir():
            found = _PARTIAL.fullmatch(path.name)
            if found and found[1] == target.name:
                left.append(path)
    return left


def sync(path: Path) -> None:
    """Wait until a file, or a folder with everything in it, is on the disk."""
    for each in path.rglob("*") if path.is_dir() else ():
        _sync_one(each)
    _sync_one(path)


def _sync_one(path: Path) -> None:
    """Wait for one file or the entries of one folder, where the system can."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        return
    try:
        with contextlib.suppress(OSError):  # some file systems of networks do not sync folders
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
