"""What a config leads to on another machine."""

from __future__ import annotations

from nbft.config import Config
from nbft.decisions import Decisions, decide


def on(config: Config, device: str = "cpu", dtype: str | None = None) -> Decisions:
    """Return what a config leads to on a device, with weights of a type."""
    changes = {"compute.device": device, **({"model.dtype": dtype} if dtype else {})}
    return decide(config.apply(changes))
