"""Launchers start a worker in this kernel or in the background.

Names are imported on first use, so that the supervisor stays small.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nbft.launchers.launch import start, submit, train, train_async

__all__ = ["start", "submit", "train", "train_async"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("nbft.launchers.launch"), name)
    raise AttributeError(f"module 'nbft.launchers' has no attribute {name!r}")
