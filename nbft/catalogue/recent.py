"""What earlier runs used, read from the configs of the newest ones."""

from __future__ import annotations

import contextlib
import heapq
import os
from dataclasses import dataclass
from pathlib import Path

from nbft.reading import cached_by_stamp, read_bytes
from nbft.runs.mark import is_run
from nbft.runs.summary import named_data, named_model

_RUNS = 50
_CONFIG_BYTES = 1_000_000


@dataclass(frozen=True)
class EarlierRun:
    """What a run was started with.

    Attributes:
        path: Its folder.
        started: When its config was written, in seconds since the epoch.
        model: Base model; None where the config names none.
        datasets: The training datasets: values of path, dataset_name, subset and split, by name.
    """

    path: Path
    started: float
    model: str | None
    datasets: tuple[dict[str, str], ...]


def earlier_runs(folder: str | Path) -> list[EarlierRun]:
    """Return the newest runs in a folder, at most 50, the newest first."""
    configs: list[tuple[float, str]] = []
    with contextlib.suppress(OSError), os.scandir(Path(folder).expanduser()) as entries:
        for entry in entries:
            path = os.path.join(entry.path, "config.yaml")  # noqa: PTH118 - thousands of them
            with contextlib.suppress(OSError):
                configs.append((os.stat(path).st_mtime, path))  # noqa: PTH116
    newest = heapq.nlargest(_RUNS, configs)
    return [run for time, path in newest if (run := _read(Path(path), time))]


def _read(config: Path, started: float) -> EarlierRun | None:
    if not is_run(config.parent):
        return None
    try:
        model, datasets = _named(config)
    except OSError:
        return None
    return EarlierRun(config.parent.absolute(), started, model, datasets)


@cached_by_stamp(maxsize=4 * _RUNS)
def _named(config: Path) -> tuple[str | None, tuple[dict[str, str], ...]]:
    text = read_bytes(config, _CONFIG_BYTES).decode("utf-8", errors="replace")
    return named_model(text), named_data(text)
