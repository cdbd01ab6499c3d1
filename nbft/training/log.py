"""The log of a run: what nbft and the libraries say while it trains."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def run_log(path: Path) -> Iterator[logging.Logger]:
    """Send what nbft and the libraries log, and Python's warnings, to a file."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(name)s %(levelname)s %(message)s"))
    names = (
        "nbft",
        "bitsandbytes",
        "transformers",
        "trl",
        "peft",
        "accelerate",
        "datasets",
        "py.warnings",
    )
    loggers = [logging.getLogger(name) for name in names]
    shown = warnings.showwarning
    logging.captureWarnings(True)
    for logger in loggers:
        logger.addHandler(handler)
    logging.getLogger("nbft").setLevel(logging.INFO)
    propagated = [logger.propagate for logger in loggers]
    for logger in loggers:
        logger.propagate = False
    try:
        yield logging.getLogger("nbft")
    finally:
        for logger, before in zip(loggers, propagated, strict=True):
            logger.removeHandler(handler)
            logger.propagate = before
        logging.captureWarnings(False)
        warnings.showwarning = shown
        handler.close()
