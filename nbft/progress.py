"""Tells whoever waits how much of a file has been read.

The command line and the worker say how (`telling`); `nbft.data` opens large files with `open_told`.
What takes less than a second is not told.
"""

from __future__ import annotations

import contextlib
import io
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

_SECONDS_BETWEEN = 1.0
_BUFFER_BYTES = 2**20

_SAY: ContextVar[Callable[[str], None] | None] = ContextVar("say", default=None)


@contextlib.contextmanager
def telling(say: Callable[[str], None]) -> Iterator[None]:
    """Have progress told by a function, in this thread.

    Args:
        say: Called at most once a second; what it raises ends the reading.
    """
    token = _SAY.set(say)
    try:
        yield
    finally:
        _SAY.reset(token)


def open_told(path: Path) -> io.BufferedReader:
    """Open a file for reading bytes, and tell how much of it has been read."""
    return io.BufferedReader(_Told(path), _BUFFER_BYTES)


class _Told(io.FileIO):
    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._name, self._size = path.name, path.stat().st_size
        self._last = time.monotonic()

    def readinto(self, buffer: Any) -> int | None:
        read = super().readinto(buffer)
        say, now = _SAY.get(), time.monotonic()
        if say is not None and now - self._last >= _SECONDS_BETWEEN:
            self._last = now
            say(f"Reading {self._name}: {min(1, self.tell() / max(self._size, 1)):.0%}")
        return read
