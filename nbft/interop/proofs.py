"""Which test proves the effect of a setting, from `proofs.yaml`."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

from nbft.interop.table import Status


@dataclass(frozen=True)
class Proof:
    """A test, and what it covers.

    Attributes:
        test: As pytest takes it.
        status: effect, hardware or refused.
        reason: What the setting needs, or why it is refused.
    """

    test: str
    status: Status = "effect"
    reason: str = ""


@functools.cache
def proofs() -> dict[str, Proof]:
    """Return the proof of every name."""
    import yaml

    text = Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8")
    table = yaml.safe_load(text)
    notes = table["notes"]
    return {
        name: Proof(f"{file}::{test}", *notes.get(name, ()))
        for file, tests in table["tests"].items()
        for test, names in tests.items()
        for name in names
    }
