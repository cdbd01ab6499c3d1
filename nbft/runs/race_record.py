"""What the folder of a race says: its runs, how they are compared, and whether it is over.

Loads nothing heavy, so that the supervisor of a race stays small.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from nbft.atomic import replacing
from nbft.errors import RunError

RECORD = "race.json"

_LOCK_SECONDS = 60.0  # it is held for milliseconds


def read_record(folder: Path) -> dict[str, Any]:
    """Return the record of a race.

    runs: {name: changes, and from and from_step of a clone}; by: the measure; keep: how many of them
    stay, 0 for all; steps_per_turn; device; shared: how many use one copy of the weights; memory_bytes:
    an estimate; is_over.

    Raises:
        RunError: It cannot be read.
    """
    try:
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        record = None
    if not isinstance(record, dict) or not isinstance(record.get("runs"), dict):
        raise RunError(f"{folder}: its {RECORD} cannot be read.")
    return record


@contextlib.contextmanager
def changed_record(folder: Path) -> Iterator[dict[str, Any]]:
    """Change the record of a race in the block, while no other process does."""
    from filelock import SoftFileLock

    with SoftFileLock(folder / "changing", timeout=_LOCK_SECONDS):
        record = read_record(folder)
        yield record
        write_record(folder, record)


def write_record(folder: Path, record: Mapping[str, Any]) -> None:
    """Write the record of a race, which is whole whenever it is read."""
    with replacing(folder / RECORD) as path:
        path.write_text(json.dumps(record, indent=2), encoding="utf-8")
