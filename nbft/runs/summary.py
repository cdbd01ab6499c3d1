"""A run as a list of runs shows it, read cheaply enough for a thousand of them.

Only what was appended since the last call is read, and only as many points of the loss are kept as
a small curve needs.
"""

from __future__ import annotations

import re
import threading
from pathlib import Path, PurePath
from typing import Any

from nbft.formatting import size
from nbft.reading import read_bytes, why_not
from nbft.redaction import redact_text
from nbft.runs.folder import ALLOWED, Run
from nbft.runs.state import StateReader, file_stamp

CURVE_POINTS = 60

_CACHED_RUNS = 20_000
_READING_SECONDS = 0.5
_CONFIG_BYTES = 1_000_000


def summary(run: Run, seconds: float = _READING_SECONDS) -> dict[str, Any]:
    """Return a run as JSON values.

    Args:
        run: The run.
        seconds: About how long its events may be read, if they are many. What is left is read by
            the next calls.

    Returns:
        id, path, status, host (the other machine that has the run, if any) and heard (its last sign
        of life, in epoch seconds), name, model, method, data, rows, step, total_steps, loss,
        eval_loss, stage (what it does besides steps), seconds_left, started and ended (epoch seconds), curve ([step, loss], at most 60),
        problems and allowed. Unknown values are None.
    """
    with _lock:
        if run.path not in _digests:
            if len(_digests) >= _CACHED_RUNS:
                _digests.clear()
            _digests[run.path] = _Digest(run.path)
        digest = _digests[run.path]
        digest.refresh(seconds)
        state = digest.reader.state
        if state.cluster and run.status != "queued":  # which asks the cluster
            digest.refresh(seconds)
        status, few = state.status, state.few
        assert few is not None
        return {
            "id": run.id,
            "path": str(run.path),
            "status": status,
            "host": state.host or None,
            "heard": state.heard if state.host else None,
            "name": run.id,
            **digest.settings,
            "rows": state.prepared.get("rows"),
            "step": state.step,
            "total_steps": state.total_steps,
            "loss": few.last,
            "eval_loss": state.eval_loss,
            "stage": state.stage if status == "running" else "",
            "seconds_left": state.seconds_left if status == "running" else None,
            "started": state.began if state.began is not None else digest.config_time,
            "ended": state.end.get("time") if state.end else None,
            "curve": few.points(),
            "problems": [*state.problems, *digest.problems()],
            "allowed": ALLOWED[status],
        }


class _Digest:
    """The contents of the files of one run, kept up to date by reading what is new.

    Attributes:
        settings: Names of the model, the method and the data.
        config_time: When the config was written, in seconds since the epoch.
        reader: Reader of the events.
    """

    def __init__(self, path: Path) -> None:
        self.settings: dict[str, str | None] = {}
        self.config_time = 0.0
        self.reader = StateReader(path / "events.jsonl", most_points=CURVE_POINTS)
        self._config = path / "config.yaml"
        self._config_stamp: tuple[int, ...] = ()
        self._config_problem = ""

    def refresh(self, seconds: float) -> None:
        """Read what was written since the last call, for about so long."""
        stamp = file_stamp(self._config)
        if stamp != self._config_stamp:
            self._config_stamp = stamp
            self.config_time = stamp[2] / 1e9 if stamp else 0.0
            self._config_problem, text = "", b""
            try:
                text = read_bytes(self._config, _CONFIG_BYTES)
            except OSError as error:
                self._config_problem = f"config.yaml cannot be read: {why_not(error)}."
            self.settings = _settings(text.decode("utf-8", errors="replace"))
        self.reader.read(seconds)

    def problems(self) -> list[str]:
        """Return what could not be read, in sentences."""
        behind = ""
        if self.reader.is_behind:
            bytes_there = size(self.reader.path.stat().st_size)
            behind = f"events.jsonl holds {bytes_there}; its end has not been read yet."
        return list(filter(None, (self._config_problem, self.reader.problem, behind)))


_digests: dict[Path, _Digest] = {}
_lock = threading.Lock()  # a server asks from several threads


def _settings(text: str) -> dict[str, str | None]:
    """Return the names of model, method and data in a config written by nbft."""
    names = [
        PurePath(used["path"]).name if "path" in used else used["dataset_name"]
        for used in named_data(text)
        if "path" in used or "dataset_name" in used
    ]
    data = names[0] if names else None
    if len(names) > 1:
        data = f"{data} and {len(names) - 1} more"
    method = next(iter(_values(_sections(text).get("peft", ""), "method")), None)
    return {"model": named_model(text), "method": method, "data": data}


def named_model(text: str) -> str | None:
    """Return the base model that a config written by nbft names.

    The text is searched, not parsed: parsing a thousand configs takes 10 s.
    """
    return next(iter(_values(_sections(text).get("model", ""), "model_name")), None)


def named_data(text: str) -> tuple[dict[str, str], ...]:
    """Return path, dataset_name, subset and split of each training dataset, where they are set.

    Args:
        text: A config written by nbft; searched like in `named_model`.
    """
    splits = re.split(r"^  (?=\w)", _sections(text).get("data", ""), flags=re.MULTILINE)
    train = next((part for part in splits if part.startswith("train:")), "")
    blocks = re.split(r"^ {6}- (?=\w)", train, flags=re.MULTILINE)[1:]
    keys = ("path", "dataset_name", "subset", "split")
    found = ({key: v[0] for key in keys if (v := _values(b, key, " {8}"))} for b in blocks)
    return tuple(filter(None, found))


def _sections(text: str) -> dict[str, str]:
    blocks = re.split(r"^(?=\w)", text, flags=re.MULTILINE)
    return {block.partition(":")[0]: block for block in blocks}


def _values(block: str, key: str, indent: str = " +") -> list[str]:
    values = re.findall(rf"^(?:{indent})?{key}: (.*)$", block, flags=re.MULTILINE)
    return [redact_text(value.strip("'\"")) for value in values if value != "null"]
