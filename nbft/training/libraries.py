"""Importing what every run needs. Called by `nbft.training.worker` and a spare worker."""

from __future__ import annotations

import contextlib
import gc
import importlib
from collections.abc import Iterator

from nbft.models.load import IMPORTING

_LIBRARIES = (
    "nbft.training.trainer",
    "nbft.training.rows",
    "nbft.training.callbacks.scoring",
    "nbft.training.callbacks.watching",
    "nbft.evaluate.scoring",
    "nbft.pages.report",
)
"""They import torch, transformers, TRL and PEFT."""


def import_libraries(*, owns_process: bool = False) -> None:
    """Import what every run needs; seconds, the first time.

    Args:
        owns_process: Whether this process does nothing else, so that the garbage collector need
            never go through them.
    """
    with IMPORTING, uncollected(owns_process=owns_process):
        for name in _LIBRARIES:
            importlib.import_module(name)


@contextlib.contextmanager
def uncollected(*, owns_process: bool = False) -> Iterator[None]:
    """Import without collecting garbage: half a million objects are made, and all of them stay.

    To go through them again and again takes a fifth of the time of the imports. In a process of its
    own they are never looked through again, which makes the first step quicker too; in a kernel
    somebody's garbage may be among them.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if owns_process:
            gc.freeze()
        if was_enabled:
            gc.enable()
