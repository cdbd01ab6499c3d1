"""The exports of a run, as `exports.jsonl` in its folder lists them.

`nbft.export.exporting` adds a line for each; the report, the end of a run and the server read them.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nbft.reading import read_bytes

FILE = "exports.jsonl"
PROOF = "proof.json"
"""File in an export's folder that holds its proof; it marks the folder as an export."""

_MOST_BYTES = 10_000_000


class ExportRecord(NamedTuple):
    """An export that was written.

    Attributes:
        to: Its format, a key of `nbft.registry.exports`.
        path: Its folder, which may have been moved or deleted since.
        time: When it was written, in seconds since the epoch.
        passed: Whether its proof passed.
        sentence: What its proof found.
        commands: What loads, serves or asks it; none in the records of older versions.
    """

    to: str
    path: Path
    time: float
    passed: bool
    sentence: str
    commands: list[str]


def add_export(
    run: Path,
    to: str,
    path: Path,
    proof: dict[str, Any],
    sentence: str,
    commands: Sequence[str] = (),
) -> None:
    """Note an export.

    Args:
        run: The run's folder.
        to: Its format.
        path: Its folder.
        proof: Its proof.
        sentence: The proof in a sentence.
        commands: What loads, serves or asks it.
    """
    about = {"to": to, "path": str(path), "time": time.time(), "proof": proof}
    line = json.dumps(about | {"sentence": sentence, "commands": list(commands)})
    with (run / FILE).open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def read_exports(run: Path) -> list[ExportRecord]:
    """Return the exports of a run, the oldest first; of several into one folder, the last.

    A line that cannot be read is passed over.
    """
    found: dict[Path, ExportRecord] = {}
    text = b""
    with contextlib.suppress(OSError):  # there is none yet, or it may not be read
        text = read_bytes(run / FILE, _MOST_BYTES)
    for line in text.decode("utf-8", "replace").splitlines():
        with contextlib.suppress(ValueError, KeyError, TypeError, RecursionError):
            about = json.loads(line)
            path, passed = Path(about["path"]), about["proof"]["passed"] is True
            when = about.get("time")
            when = float(when) if isinstance(when, (int, float)) and math.isfinite(when) else 0.0
            sentence, commands = str(about["sentence"]), list(map(str, about.get("commands", [])))
            record = ExportRecord(str(about["to"]), path, when, passed, sentence, commands)
            found.pop(path, None)
            found[path] = record
    return list(found.values())


def left_by_stopped(run: Path, path: Path, began: float) -> str:
    """Say what is left of an export that a person has stopped: nothing, unless it was only uploaded.

    Args:
        run: The run's folder.
        path: The folder of the export.
        began: When it was started, in seconds since the epoch.
    """
    if any(one.path == path and one.time >= began for one in read_exports(run)):
        return f"Stopped before it was uploaded. The export is in {path}."
    return "The export was stopped. Nothing of it is left."
