"""Where a run could train, each place with its time, memory and cost. Loads no torch."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

from nbft.config import Config
from nbft.errors import Problem
from nbft.hardware import available_devices, gpu_count
from nbft.plan.plan import Plan, make_plan
from nbft.presented import Presented

_PROCESSES = "distributed.num_processes"
_OF_PLACES = ("compute.", "distributed.")


@dataclass(frozen=True)
class Place:
    """A place to train, and what the run would be there.

    Attributes:
        title: What people call it.
        settings: What chooses it, as for `Config.apply`.
        plan: The run there; an estimate.
        missing: What keeps the run from it, and what to do; "" if nothing does.
        is_chosen: Whether the config chooses it.
    """

    title: str
    settings: dict[str, Any]
    plan: Plan
    missing: str = ""
    is_chosen: bool = False


class Places(Presented, Sequence[Place]):
    """Places to train, shown as a table."""

    def __init__(self, places: Iterable[Place]) -> None:
        self._places = list(places)

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, number: int) -> Place: ...
    @overload
    def __getitem__(self, number: slice) -> list[Place]: ...
    def __getitem__(self, number: int | slice) -> Place | list[Place]:
        return self._places[number]


def places(config: Config, *, folder: Path | None = None) -> Places:
    """Return where a run could train: on each device here, and on a cluster.

    Each place has its own plan, which is an estimate. Nothing is started and nothing is asked over
    the network.

    Args:
        config: The config.
        folder: Folder of the config file, for relative paths.
    """
    return Places([*_here(config, folder), _cluster(config, folder)])


def _here(config: Config, folder: Path | None) -> Iterator[Place]:
    local = {"compute.launcher": "process", "compute.provider": "local"}
    for device, name in reversed(available_devices().items()):
        number = gpu_count(device)
        for processes in sorted({1, number or 1}):
            many = f"{processes} of them: " if processes > 1 else ""
            choice = {**local, "compute.device": device, _PROCESSES: processes}
            yield _planned(f"{many}{name}", config, choice, folder)


def _cluster(config: Config, folder: Path | None) -> Place:
    choice = {"compute.launcher": "slurm", "compute.provider": "local"}
    place = _planned("Slurm cluster", config, choice, folder)
    if place.missing or shutil.which("sbatch"):
        return place
    missing = "sbatch was not found. Start nbft on a machine of the cluster."
    return Place(place.title, choice, place.plan, missing, place.is_chosen)


def _planned(title: str, config: Config, choice: dict[str, Any], folder: Path | None) -> Place:
    there = config.apply(choice)
    plan = make_plan(there, folder=folder)
    stops = [problem for problem in plan.errors if _is_of_place(problem)]
    missing = " ".join(map(str, stops[:1]))
    return Place(title, choice, plan, missing, config.diff() == there.diff())


def _is_of_place(problem: Problem) -> bool:
    return str(problem.field).startswith(_OF_PLACES)
