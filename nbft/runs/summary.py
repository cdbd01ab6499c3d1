"""A run in a few lines: what a list of runs shows, read cheaply enough for a thousand of them.

Only what was appended since the last look is read, and of the loss no more points are kept than a
small curve needs. Called by `nbft.server` and by the command line.
"""

from __future__ import annotations

import re
import threading
from pathlib import Path, PurePath
from typing import Any

from nbft.runs.folder import ALLOWED, Run
from nbft.runs.state import StateReader

CURVE_POINTS = 60

_CACHED_RUNS = 20_000


def summary(run: Run) -> dict[str, Any]:
    """Return what a list shows of a run.

    Returns:
        id, path, status, name, model, method, data, rows, step, total_steps, loss, eval_loss,
        seconds_left, started and ended (epoch seconds), curve ([step, loss], at most 60), problems
        and allowed. What is not known yet is None.
    """
    with _lock:
        return _summary(run, _digest(run.path))


def _summary(run: Run, digest: _Digest) -> dict[str, Any]:
    state = digest.reader.state
    status, few = state.status, state.few
    assert few is not None
    return {
        "id": run.id,
        "path": str(run.path),
        "status": status,
        "name": run.id,
        **digest.settings,
        "rows": state.prepared.get("rows"),
        "step": state.step,
        "total_steps": state.total_steps,
        "loss": few.last,
        "eval_loss": state.eval_loss,
        "seconds_left": state.log.get("seconds_left") if status == "running" else None,
        "started": state.began if state.began is not None else digest.config_time,
        "ended": state.end.get("time") if state.end else None,
        "curve": few.points(),
        "problems": state.problems,
        "allowed": ALLOWED[status],
    }


class _Digest:
    """What the files of one run say, kept up to date by reading what is new.

    Attributes:
        settings: Names of the model, the method and the data.
        config_time: When the config was written, in seconds since the epoch.
        reader: Of the events.
    """

    def __init__(self, path: Path) -> None:
        self.settings: dict[str, str | None] = {}
        self.config_time = 0.0
        self.reader = StateReader(path / "events.jsonl", most_points=CURVE_POINTS)
        self._config = path / "config.yaml"
        self._config_stamp: tuple[int, ...] = ()

    def refresh(self) -> None:
        """Read what was written since the last call."""
        stamp = _stamp(self._config)
        if stamp != self._config_stamp:
            self._config_stamp = stamp
            self.config_time = stamp[2] / 1e9 if stamp else 0.0
            self.settings = _settings(self._config.read_text(encoding="utf-8", errors="replace"))
        self.reader.read()


_digests: dict[Path, _Digest] = {}
_lock = threading.Lock()  # a server asks from several threads


def _digest(path: Path) -> _Digest:
    digest = _digests.get(path)
    if digest is None:
        if len(_digests) >= _CACHED_RUNS:
            _digests.clear()
        digest = _digests[path] = _Digest(path)
    digest.refresh()
    return digest


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        found = path.stat()
    except OSError:
        return ()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _settings(text: str) -> dict[str, str | None]:
    """Find model, method and data in a config as nbft writes it.

    The text is searched, not parsed: reading a thousand configs whole takes 10 s.
    """
    sections = re.split(r"^(?=\w)", text, flags=re.MULTILINE)
    block = {part.partition(":")[0]: part for part in sections}
    train = re.split(r"^  (?=\w)", block.get("data", ""), flags=re.MULTILINE)
    rows = next((part for part in train if part.startswith("train:")), "")
    names = _values(rows, "path") or _values(rows, "dataset_name")
    data = PurePath(names[0]).name if names else None
    if len(names) > 1:
        data = f"{data} and {len(names) - 1} more"
    return {
        "model": next(iter(_values(block.get("model", ""), "model_name")), None),
        "method": next(iter(_values(block.get("peft", ""), "method")), None),
        "data": data,
    }


def _values(block: str, key: str) -> list[str]:
    found = re.findall(rf"^[ -]+{key}: (.*)$", block, flags=re.MULTILINE)
    return [value.strip("'\"") for value in found if value != "null"]
