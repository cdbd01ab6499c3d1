"""Opens files that somebody else may have put there: bounded, and only if they are files.

To open a named pipe waits for a writer, and a device has no end. Reads as much as asked for, since a
file can be larger than the memory.
"""

from __future__ import annotations

import errno
import functools
import itertools
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

_OTHERS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}
_FLAGS = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


def open_file(path: Path) -> BinaryIO:
    """Open a file for reading bytes, unbuffered.

    Raises:
        OSError: There is none, it may not be read, or it is something else than a file.
    """
    _check(path, path.stat().st_mode)  # before it is opened: a device may act on that
    descriptor = os.open(path, _FLAGS)
    try:
        _check(path, os.fstat(descriptor).st_mode)
        return os.fdopen(descriptor, "rb", buffering=0)
    except BaseException:
        os.close(descriptor)
        raise


def is_file(path: Path) -> bool:
    """Whether there is such a file, as far as this user may see."""
    try:
        return path.is_file()
    except OSError:  # no permission, or a name that is too long
        return False


def _check(path: Path, mode: int) -> None:
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "a folder, not a file", str(path))
    if not stat.S_ISREG(mode):
        kind = _OTHERS.get(stat.S_IFMT(mode), "something else")
        raise OSError(errno.EINVAL, f"{kind}, not a file", str(path))


_STAMPED_ENTRIES = 1000


def stamp(path: Path, depth: int = 2) -> tuple[Any, ...]:
    """Return values that change whenever a file does, or what is in a folder and its folders.

    A program that copies a file may set its time back, but not the time of its entry.

    Args:
        path: The file or folder.
        depth: Levels of folders to look into, at 1,000 entries of each.

    Raises:
        OSError: There is none, or it may not be seen.
    """
    found = path.stat()
    own = found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
    if not depth or not stat.S_ISDIR(found.st_mode):
        return own
    entries = sorted(itertools.islice(path.iterdir(), _STAMPED_ENTRIES))
    return own, *((entry.name, stamp(entry, depth - 1)) for entry in entries)


_Value = TypeVar("_Value")


def cached_by_stamp(maxsize: int) -> Callable[[Callable[[Path], _Value]], Callable[[Path], _Value]]:
    """Cache a function of a file or folder until its stamp changes.

    Args:
        maxsize: Results that are kept.
    """

    def decorate(function: Callable[[Path], _Value]) -> Callable[[Path], _Value]:
        @functools.lru_cache(maxsize)
        def cached(path: Path, _stamp: tuple[Any, ...]) -> _Value:
            return function(path)

        @functools.wraps(function)
        def current(path: Path) -> _Value:
            try:
                now = stamp(path)
            except (OSError, ValueError):  # the function says what is wrong
                return function(path)
            return cached(path, now)

        vars(current)["cache_clear"] = cached.cache_clear
        return current

    return decorate


def read_bytes(path: Path, most_bytes: int) -> bytes:
    """Return the contents of a file.

    Raises:
        OSError: As `open_file`, or the file is larger than `most_bytes`.
    """
    with open_file(path) as file:
        pieces, left = [], most_bytes + 1
        while left and (piece := file.read(left)):
            pieces.append(piece)
            left -= len(piece)
    if not left:
        raise OSError(errno.EFBIG, f"more than {most_bytes:,} bytes", str(path))
    return b"".join(pieces)


def read_end(path: Path, most_bytes: int) -> tuple[bytes, bool]:
    """Return the end of a file, and whether that is all of it.

    Raises:
        OSError: As `open_file`.
    """
    with open_file(path) as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - most_bytes))
        return file.read(most_bytes), size <= most_bytes


def why_not(error: OSError) -> str:
    """Return why a file cannot be read, without its path.

    >>> why_not(PermissionError(13, "Permission denied", "/a/b"))
    'permission denied'
    """
    reason = error.strerror or type(error).__name__
    return reason[:1].lower() + reason[1:]
