"""Importing the libraries of every run. Called by `nbft.training.worker` and a spare worker."""

from __future__ import annotations

import contextlib
import gc
import importlib
import sys
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


def import_libraries(*, owns_process: bool = False, is_quantised: bool = True) -> None:
    """Import what every run needs; takes seconds the first time.

    Args:
        owns_process: As in `uncollected`.
        is_quantised: Whether weights in 4 or 8 bits may be needed. PEFT imports bitsandbytes wherever
            it is installed, which takes a fifth of the time; a process that does nothing else may go
            without.
    """
    with IMPORTING, uncollected(owns_process=owns_process):
        if owns_process and not is_quantised:
            with _without("bitsandbytes"):
                importlib.import_module("peft")
        for name in _LIBRARIES:
            importlib.import_module(name)


@contextlib.contextmanager
def _without(package: str) -> Iterator[None]:
    """Let a package that is not imported yet look as if it were not installed."""
    if package in sys.modules:
        yield
        return
    sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[package]


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
