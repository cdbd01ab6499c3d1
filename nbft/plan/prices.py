"""What rented GPUs cost: the price lists of SkyPilot that are on this machine, or published ranges.

Reads files and uses no network; SkyPilot, which keeps the lists, is not imported. Called by
`nbft.plan.offers`.
"""

from __future__ import annotations

import ast
import csv
import datetime
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from nbft.reading import why_not

OLD_DAYS = 30
"""A price list of more days is said to be old."""


class Provider(NamedTuple):
    """Where machines are rented.

    Attributes:
        title: Its name, for people.
        sky: SkyPilot's name for it.
        lowest, highest: Price range in USD an hour. Source: PEFT Studio's table of providers, which
            has no date.
    """

    title: str
    sky: str
    lowest: float
    highest: float


PROVIDERS = {
    "local": Provider("Local GPU", "", 0.0, 0.0),
    "runpod": Provider("RunPod", "runpod", 0.39, 2.89),
    "lambda_labs": Provider("Lambda Labs", "lambda", 1.10, 2.49),
    "vast_ai": Provider("Vast.ai", "vast", 0.20, 1.50),
}
"""Value of compute.provider → the provider."""

RENTED = {provider.sky: key for key, provider in PROVIDERS.items() if provider.sky}
"""SkyPilot's name → value of compute.provider, for those who rent by the hour."""


@dataclass(frozen=True)
class Price:
    """What a machine with one kind of GPU costs at a provider.

    Attributes:
        gpu: Name of the GPU in the provider's list.
        count: How many of them the machine has.
        memory_bytes: Memory of one; None where the list does not say.
        usd_per_hour: Lowest price of the machine; None if it is rented as spot only.
        spot_usd_per_hour: The same as spot; None if it is not.
    """

    gpu: str
    count: int
    memory_bytes: int | None
    usd_per_hour: float | None
    spot_usd_per_hour: float | None


@dataclass(frozen=True)
class PriceList:
    """The prices of a provider.

    Attributes:
        provider: Key in `PROVIDERS`.
        prices: Every machine with GPUs, once for each GPU and count.
        date: Day of the download, in UTC; None without a list, and then there are no prices.
        problem: Why the file cannot be read; "" if it can, or is not there.
        skipped: Lines that could not be read.
    """

    provider: str
    prices: tuple[Price, ...] = ()
    date: datetime.date | None = None
    problem: str = ""
    skipped: int = 0

    @property
    def age_days(self) -> int | None:
        """How old the list is; None without one."""
        return None if self.date is None else (_day(time.time()) - self.date).days

    @property
    def source(self) -> str:
        """Where the prices are from, in a sentence."""
        title, _, lowest, highest = PROVIDERS[self.provider]
        if self.date is None:
            why = f" ({self.problem})" if self.problem else ""
            return (
                f"There is no price list of {title} on this machine{why}; PEFT Studio's undated table "
                f"has {lowest:.2f} to {highest:.2f} USD an hour. Get the list: nbft cloud prices."
            )
        days = self.age_days or 0
        said = f"Prices of {title}: SkyPilot's list of {self.date.isoformat()}"
        if days > OLD_DAYS:
            return (
                f"{said}, which is {days} days old; prices may have changed. Update it: nbft cloud "
                "prices."
            )
        return f"{said}."


def price_list(provider: str) -> PriceList:
    """Return the prices of a provider, from the file that SkyPilot keeps on this machine.

    Args:
        provider: Key in `PROVIDERS`.
    """
    path = catalogue_folder() / PROVIDERS[provider].sky / "vms.csv"
    try:
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        date = _day(listed_at(provider))
    except FileNotFoundError:
        return PriceList(provider)
    except (OSError, ValueError, csv.Error) as error:
        why = why_not(error) if isinstance(error, OSError) else "is no table"
        return PriceList(provider, problem=f"{path}: {why}")
    found: dict[tuple[str, int], Price] = {}
    skipped = 0
    for row in rows:
        try:
            price = _price(row)
        except (KeyError, TypeError, ValueError):
            skipped += 1
            continue
        if price is not None:
            kind = price.gpu, price.count
            found[kind] = _cheaper(found.get(kind, price), price)
    if not found:
        return PriceList(provider, problem=f"{path}: has no prices of GPUs", skipped=skipped)
    return PriceList(provider, tuple(found.values()), date, skipped=skipped)


def listed_at(provider: str) -> float:
    """Return when a provider's list was downloaded, in seconds since the epoch; -1 without one.

    SkyPilot writes a checksum beside each download. The file itself it also touches when an update
    has failed, so its time says nothing where there is a checksum.

    Args:
        provider: Key in `PROVIDERS`.
    """
    folder, name = catalogue_folder(), f"{PROVIDERS[provider].sky}/vms.csv"
    for path in (folder / ".meta" / f"{name}.md5", folder / name):
        try:
            return path.stat().st_mtime
        except OSError:
            continue
    return -1.0


def catalogue_folder() -> Path:
    """Return the folder of SkyPilot's price lists: under $SKY_RUNTIME_DIR, else the home folder."""
    return Path(os.environ.get("SKY_RUNTIME_DIR", "~")).expanduser() / ".sky/catalogs/v8"


def _day(seconds: float) -> datetime.date:
    """Return the day of a time in UTC, given in seconds since the epoch."""
    return datetime.datetime.fromtimestamp(seconds, tz=datetime.UTC).date()


def _price(row: dict[str, str]) -> Price | None:
    """Read a line of a list; None for a machine without GPUs or without a price.

    Raises:
        KeyError, TypeError, ValueError: It cannot be read.
    """
    name = (row["AcceleratorName"] or "").strip()
    ours, spot = _usd(row["Price"]), _usd(row.get("SpotPrice"))
    if not name or (ours is None and spot is None):
        return None
    number = float(row["AcceleratorCount"])
    if number < 1 or number != int(number):  # a slice of a GPU
        return None
    return Price(name, int(number), _memory_bytes(row.get("GpuInfo")), ours, spot)


def _usd(text: str | None) -> float | None:
    if not (text or "").strip():
        return None
    price = float(text or "")
    if not 0 <= price < 10_000:
        raise ValueError(text)
    return price or None  # providers write 0 for what they do not rent so


def _memory_bytes(about: str | None) -> int | None:
    """Read the memory of one GPU from the column GpuInfo, a dict as Python or JSON writes it.

    >>> _memory_bytes("{'Gpus': [{'Name': 'L4', 'MemoryInfo': {'SizeInMiB': 24576}}]}") == 24 * 2**30
    True
    """
    try:
        gpu = ast.literal_eval(about or "")["Gpus"][0]
        mebibytes = float(gpu["MemoryInfo"]["SizeInMiB"])
    except (KeyError, IndexError, TypeError, ValueError, SyntaxError, MemoryError):
        return None
    return int(mebibytes * 2**20) if mebibytes > 0 else None


def _cheaper(one: Price, other: Price) -> Price:
    """Return one price for two lines of the same machine, in two regions."""

    def least(name: str) -> float | None:
        known = [p for p in (getattr(one, name), getattr(other, name)) if p is not None]
        return min(known, default=None)

    return Price(
        one.gpu,
        one.count,
        one.memory_bytes or other.memory_bytes,
        least("usd_per_hour"),
        least("spot_usd_per_hour"),
    )
