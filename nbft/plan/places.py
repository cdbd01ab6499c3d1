"""Where a run could train, each place with its time, memory and cost. Loads no torch."""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, overload

from nbft import devices
from nbft.config import Config
from nbft.formatting import count
from nbft.hardware import (
    available_devices,
    free_memory_bytes,
    gpu_count,
    gpu_users,
    is_this_machine,
    other_use,
)
from nbft.plan.cluster import planning_for_node
from nbft.plan.offers import Offer, Offers, offers
from nbft.plan.plan import Plan, make_plan
from nbft.plan.prices import PROVIDERS, RENTED
from nbft.plan.problems import is_installed
from nbft.presented import Presented
from nbft.queue import held

_PROCESSES = "distributed.num_processes"
_BATCH = "training.per_device_train_batch_size"
_ACCUMULATION = "training.gradient_accumulation_steps"
_OF_PLACES = ("compute.", "distributed.")


class DeviceHere(NamedTuple):
    """A device of this machine.

    Attributes:
        title: What people call it.
        free_bytes: Memory that is free now.
        users: Who uses it now: runs, and other processes with what they hold.
    """

    title: str
    free_bytes: int
    users: tuple[str, ...] = ()


@dataclass(frozen=True)
class Place:
    """A place to train, and what the run would be there.

    Attributes:
        title: What people call it.
        settings: What chooses it, as for `Config.apply`; {} where nbft cannot start a run.
        plan: The run there; an estimate.
        missing: What keeps the run from it, and what to do; "" if nothing does.
        remark: What would differ in the training itself, and what node is assumed; or "".
        is_chosen: Whether the config leads there.
        offer: The machine to rent; None for a place that nbft can start the run on.
    """

    title: str
    settings: dict[str, Any]
    plan: Plan
    missing: str = ""
    remark: str = ""
    is_chosen: bool = False
    offer: Offer | None = None


class Places(Presented, Sequence[Place]):
    """Places to train, shown as a table.

    Args:
        places: The places.
        here: The devices of this machine.
        remarks: Where prices are from, in sentences.
    """

    def __init__(
        self,
        places: Iterable[Place],
        here: Sequence[DeviceHere] = (),
        remarks: Sequence[str] = (),
    ) -> None:
        self._places, self.here, self.remarks = list(places), here, remarks

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, number: int) -> Place: ...
    @overload
    def __getitem__(self, number: slice) -> list[Place]: ...
    def __getitem__(self, number: int | slice) -> Place | list[Place]:
        return self._places[number]

    def to_dict(self) -> dict[str, Any]:
        """Return devices and places as JSON values."""
        return {
            "devices": [device._asdict() for device in self.here],
            "places": [
                {
                    "title": place.title,
                    "settings": place.settings,
                    "plan": place.plan.to_dict(),
                    "missing": place.missing,
                    "remark": place.remark,
                    "is_chosen": place.is_chosen,
                    "usd_per_hour": place.offer and place.offer.usd_per_hour(),
                    "cost_usd": place.offer.cost_usd() if place.offer else place.plan.cost_usd,
                }
                for place in self
            ],
            "remarks": list(self.remarks),
        }


def places(config: Config, *, folder: Path | None = None) -> Places:
    """Return where a run could train: on each device here, on a cluster, and on rented GPUs.

    Of each provider whose price list is on this machine, the cheapest GPU that fits.

    Each place has its own plan, which is an estimate. Where several processes train, each has fewer
    or smaller batches, so that a step learns from as many rows as before, if their number can be
    divided. Nothing is started, and neither a cluster nor a provider is asked.

    Args:
        config: The config.
        folder: Folder of the config file, for relative paths.
    """
    now = make_plan(config, folder=folder)
    choices = [*_choices_here(now), ("Slurm cluster", {"compute.launcher": "slurm"})]
    found = [_place(title, now, choice, folder) for title, choice in choices]
    rented = offers(now.config, folder=folder)
    found += _rented(rented)
    listed = [prices.source for prices in rented.lists if prices.date]
    return Places(found, [*devices_here()], listed or [_NO_PRICES])


_NO_PRICES = "Rented GPUs: no price list is on this machine. Get the lists: nbft cloud prices."
_RENT = "nbft starts no machine at a provider: rent it there, and run this config on it."


def _rented(found: Offers) -> Iterator[Place]:
    """Yield the cheapest machine of each provider that fits."""
    for key in RENTED.values():
        fitting = (
            one for one in found.offers if one.provider == key and one.fits and one.cost_usd()
        )
        if (best := next(fitting, None)) is not None:
            many = f"{best.price.count} × " if best.price.count > 1 else ""
            title = f"{PROVIDERS[key].title}: {many}{best.price.gpu}"
            yield Place(title, {}, best.plan, missing=_RENT, offer=best)


def devices_here() -> Iterator[DeviceHere]:
    """Yield the devices of this machine, its GPUs first."""
    for device, name in reversed(available_devices().items()):
        runs = held(device) if is_this_machine() else []
        gpus = devices.gpus() if device == "cuda" and is_this_machine() else ()
        for gpu in gpus:
            theirs = [f"run {run}" for run, names in runs if not names or gpu.uuid in names]
            users = (*theirs, *gpu_users(gpu.uuid))
            yield DeviceHere(gpu.name, gpu.free_bytes, users)
        if not gpus:
            use = other_use(device).partition(": ")[2] if device == "cpu" else ""
            users = (*(f"run {run}" for run, _ in runs), *filter(None, [use]))
            yield DeviceHere(name.removesuffix(" was found"), free_memory_bytes(device), users)


def _choices_here(now: Plan) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield each device here, and its likes together, with what chooses them."""
    config = now.config
    before = config.distributed.processes
    for device, name in reversed(available_devices().items()):
        title = name.removesuffix(" was found")
        there = max(1, gpu_count(device))
        numbers = {1, there, *(2**n for n in range(1, there.bit_length()))}
        asked = {before} if device == now.device.value else set()
        for processes in sorted(numbers | asked):
            choice: dict[str, Any] = {"compute.launcher": "process", "compute.device": device}
            choice |= {_PROCESSES: processes} | _steps_as_before(config, processes)
            many = "processes on" if device == "cpu" else "×"
            yield (f"{processes} {many} {title}" if processes > 1 else title), choice


def _steps_as_before(config: Config, processes: int) -> dict[str, Any]:
    """Return batches and accumulation that leave the rows of a step as they are; {} if none do."""
    training, ours = config.training, config.distributed
    rows = training.per_device_train_batch_size * training.gradient_accumulation_steps
    rows *= ours.data_parallel_size
    share, rest = divmod(rows, max(1, processes // ours.tensor_parallel_size))
    if rest:
        return {}
    batch = math.gcd(training.per_device_train_batch_size, share)
    return {_BATCH: batch, _ACCUMULATION: share // batch}


def _place(title: str, now: Plan, choice: dict[str, Any], folder: Path | None) -> Place:
    there = now.config.apply({"compute.provider": "local", **choice})
    with planning_for_node(there) as said:
        plan = make_plan(there, folder=folder)
    stops = [str(p) for p in plan.errors if str(p.field).startswith(_OF_PLACES)]
    rows, before = plan.effective_batch_size, now.effective_batch_size
    differs = f"A step learns from {count(rows, 'row')} instead of {count(before)}."
    return Place(
        title,
        choice,
        plan,
        missing=_missing(choice) or " ".join(stops[:1]),
        remark=" ".join([*([differs] if rows != before else []), *said[:1]]),
        is_chosen=_where(plan) == _where(now),
    )


def _missing(choice: dict[str, Any]) -> str:
    """Say what is not set up for a launcher; "" if everything is."""
    if choice["compute.launcher"] != "slurm":
        return ""
    if not is_installed("submitit"):
        return "Needs submitit. Install it with: pip install submitit"
    found = shutil.which("sbatch") and shutil.which("srun")
    return "" if found else "sbatch was not found. Start nbft on a machine of the cluster."


def _where(plan: Plan) -> tuple[Any, ...]:
    """Return what tells places apart."""
    compute = plan.config.compute
    if _is_cluster(plan):
        return (compute.launcher,)
    return compute.provider, plan.device.value, plan.config.distributed.processes


def _is_cluster(plan: Plan) -> bool:
    return bool(plan.config.compute.launcher == "slurm")
