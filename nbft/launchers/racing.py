"""Starting a race: several runs that take turns on one device, in the background."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from nbft import events
from nbft.access import inherit, make_folder
from nbft.config import Config
from nbft.errors import ConfigError, Problem, RunError
from nbft.launchers.detached import has_begun, start_detached
from nbft.launchers.interpreter import remember
from nbft.launchers.launch import read_config
from nbft.plan.cluster import trained_here
from nbft.runs.files import log_tail
from nbft.runs.folder import Run
from nbft.runs.names import new_name
from nbft.runs.race import (
    Entrant,
    Race,
    as_plain,
    check_entrants,
    entrants,
    memory_bytes,
    sharing,
)
from nbft.runs.race_record import write_record

STEPS_PER_TURN = 10


def race(
    config: Config | str | Path | Sequence[Config],
    grid: Mapping[str, Sequence[Any]] | None = None,
    *,
    keep: Literal["all", "half"] | int = "all",
    by: str | None = None,
    steps_per_turn: int = STEPS_PER_TURN,
    allow_code: bool = False,
) -> Race:
    """Train several configs in turns on one device, in the background, and compare them meanwhile.

    Each contestant is a run as `nbft.submit` makes it, and its curve is that of the same config
    trained alone. Adapters share one copy of the base model's weights.

    Args:
        config: The config, or its path; or several configs, without a grid.
        grid: {setting: values to try}; every combination is a contestant.
        keep: Whom to train to the end: "all"; or halve the contestants again and again until so
            many are left, or one with "half". Those that drop out are stopped, with everything saved.
        by: What they are compared by, as it is named in the events; eval_loss when None, or loss
            where nothing is measured on held-out rows.
        steps_per_turn: Optimiser steps that a contestant trains before the next one does.
        allow_code: Consent to the code that the config names; see `Config.load`.

    Raises:
        ConfigError: Every problem that would stop one of the runs; nothing was made.
        RunError: This system is not POSIX, or the race did not start.
    """
    if not hasattr(os, "killpg"):
        raise RunError("A race needs Linux or macOS, as background runs do.")
    folder = None
    if isinstance(config, (Config, str, Path)):
        folder, config = read_config(config, allow_code)
    contestants = entrants(config, grid)
    kept = _kept(keep, len(contestants))
    if type(steps_per_turn) is not int or steps_per_turn < 1:
        raise ConfigError(Problem("steps_per_turn", steps_per_turn, "must be at least 1."))
    plans = check_entrants(contestants, folder)
    if by is None:
        is_measured = all(
            plan.eval_rows and one.config.evaluation.eval_strategy != "no"
            for one, plan in zip(contestants, plans, strict=True)
        )
        by = "eval_loss" if is_measured else "loss"
    record = {
        "by": by,
        "keep": kept,
        "steps_per_turn": steps_per_turn,
        "device": plans[0].device.value,
        "shared": sharing(contestants),
        "memory_bytes": memory_bytes(contestants, plans),
    }
    made = _make(contestants, record, folder)
    _start(made)
    return made


def _kept(keep: Any, contestants: int) -> int:
    """Return how many are kept by halving; 0 for all."""
    if keep in ("all", "half"):
        return 0 if keep == "all" else 1
    if type(keep) is int and 1 <= keep < contestants:
        return keep
    fix = f'Use "all", "half", or a number from 1 to {contestants - 1}.'
    raise ConfigError(Problem("keep", keep, "is none of what may be kept.", fix))


def _make(contestants: Sequence[Entrant], record: Mapping[str, Any], folder: Path | None) -> Race:
    """Make the runs of a race and its folder; where one fails, nothing is left."""
    first = contestants[0].config.training
    parent = Path(first.output_dir).expanduser().absolute()
    name = first.run_name or new_name(parent)
    path = parent / f"{name}-race"
    runs: dict[str, Any] = {}
    try:
        for number, one in enumerate(contestants, start=1):
            named = trained_here(one.config).apply({"training.run_name": f"{name}-{number}"})
            run = Run.create(named, folder)
            runs[run.id] = {"changes": as_plain(one.changes)}
        make_folder(path, is_shared=first.share_with_group)
        write_record(path, {**record, "runs": runs})
        inherit(path)
    except BaseException as error:
        for each in runs:
            shutil.rmtree(parent / each, ignore_errors=True)
        if isinstance(error, FileExistsError):
            problem = Problem("training.run_name", name, f"{path} is there already.")
            raise ConfigError(problem) from None
        raise
    return Race(path)


def _start(made: Race) -> None:
    """Start the supervisor of a race, and wait for its first event.

    Raises:
        RunError: It did not start.
    """
    remember()
    command = [sys.executable, "-m", "nbft.launchers.race_supervisor", str(made.path)]
    process = start_detached(command, made.path / "log.txt")
    last = made.runs[-1].events_path
    if not has_begun(process, lambda: events.read(last)):
        raise RunError(f"{made.id}: the supervisor did not start. {log_tail(made.path, 3)[0]}")
