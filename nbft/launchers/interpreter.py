"""The Python that a run was started with, so that it is resumed with the same packages.

A run's folder may come from anybody, so the program that it names is started only if this user has
started runs with it before.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

from nbft.models.find import cache_folder


def remember() -> None:
    """Note that this user starts runs with this Python."""
    with contextlib.suppress(OSError):
        if sys.executable not in _known():
            path = _list()
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8") as file:
                file.write(f"{sys.executable}\n")


def python_for(started_with: str | None) -> tuple[str, str]:
    """Return the Python to continue or repeat a run with, and a sentence if it is another.

    Args:
        started_with: The Python that the run names, if any.
    """
    if not started_with or started_with == sys.executable:
        return sys.executable, ""
    if started_with not in _known():
        why = "with which you have not started a run before"
    elif not os.access(started_with, os.X_OK):
        why = "which is gone"
    else:
        return started_with, ""
    return sys.executable, (
        f"The earlier training used the Python {started_with}, {why}. This one uses "
        f"{sys.executable}, which may have other versions of the packages."
    )


def _list() -> Path:
    return cache_folder() / "interpreters"


def _known() -> list[str]:
    try:
        path = _list()
        if hasattr(os, "getuid") and path.stat().st_uid != os.getuid():
            return []
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return []
