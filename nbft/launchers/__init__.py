"""Launchers start a worker in this kernel or in the background.

Names are imported on first use, so that the supervisor stays small.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nbft.launchers.launch import start, submit, train, train_async
    from nbft.launchers.racing import race

_MODULE_OF = {
    "race": "racing",
    **dict.fromkeys(("start", "submit", "train", "train_async"), "launch"),
}

__all__ = ["race", "start", "submit", "train", "train_async"]


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"nbft.launchers.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module 'nbft.launchers' has no attribute {name!r}")
