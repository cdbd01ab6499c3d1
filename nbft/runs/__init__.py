"""Runs: a training is a folder, and everything about it is read from there.

Every name is imported when it is first used, so that the supervisor stays small.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nbft.runs.folder import Run, attach, list_runs

_MODULE_OF = {
    "Run": "nbft.runs.folder",
    "attach": "nbft.runs.folder",
    "list_runs": "nbft.runs.folder",
}

__all__ = ["Run", "attach", "list_runs"]


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(importlib.import_module(_MODULE_OF[name]), name)
    raise AttributeError(f"module 'nbft.runs' has no attribute {name!r}")
