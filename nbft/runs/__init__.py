"""Runs: a training is a folder, and everything about it is read from there.

Names are imported on first use, so that the supervisor stays small.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nbft.runs.folder import Run, attach, list_runs

__all__ = ["Run", "attach", "list_runs"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("nbft.runs.folder"), name)
    raise AttributeError(f"module 'nbft.runs' has no attribute {name!r}")
