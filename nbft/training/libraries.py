"""Importing the libraries of every run. Called by `nbft.training.worker` and a spare worker."""

from __future__ import annotations

import contextlib
import gc
import importlib
from collections.abc import Iterator

from nbft.models.load import IMPORTING

_LIBRARIES = (
    "nbft.training.trainer",
    "nbft.training.trackers",
    "nbft.training.rows",
    "nbft.training.callbacks.scoring",
    "nbft.training.callbacks.watching",
    "nbft.evaluate.scoring",
    "nbft.pages.report",
)
"""They import torch, transformers, TRL and PEFT."""


def import_libraries(*, owns_process: bool = False) -> None:
    """Import what every run needs; takes seconds the first time.

    Args:
        owns_process: As in `uncollected`.
    """
    with IMPORTING, uncollected(owns_process=owns_process):
        for name in _LIBRARIES:
            importlib.import_module(name)


@contextlib.contextmanager
def uncollected(*, owns_process: bool = False) -> Iterator[None]:
    """Import without collecting garbage.

    Half a million permanent objects are created; traversing them again and again takes a fifth of
    the time of the imports.

    Args:
        owns_process: Whether this process does nothing else. The objects are then never traversed
            again, which speeds up the first step too; in a kernel, user's garbage may be among
            them.
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
