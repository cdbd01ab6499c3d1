"""What a run would take and cost on each GPU that can be rented.

`offers` reads the price lists on this machine and plans the run for each GPU that nbft knows. Nobody
is asked for a price. Called by `nbft cloud offers`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from nbft.config import Config
from nbft.devices import Gpu
from nbft.formatting import aligned, count, duration, size
from nbft.hardware import Hardware, planning_for
from nbft.plan.plan import Plan, is_about_size, make_plan
from nbft.plan.prices import PROVIDERS, RENTED, Price, PriceList, price_list
from nbft.plan.ranges import Range

SETUP_SECONDS: Range = (300.0, 900.0)
"""From the order of a machine to the start of the training: assumed, not measured."""

_MOST_PLANS = 20
"""A plan takes a fraction of a second; of more kinds of GPU the cheapest are planned for."""


class Card(NamedTuple):
    """A GPU that nbft knows.

    Attributes:
        name: Product name, by which `nbft.devices` finds its peak.
        capability: Compute capability.
        memory_gib: Usual memory.
        free_gib: What of it is free before a training; assumed, as in `nbft.plan.machines`.
    """

    name: str
    capability: tuple[int, int]
    memory_gib: int
    free_gib: float


CARDS = {
    "H200": Card("NVIDIA H200", (9, 0), 141, 139.0),
    "H100": Card("NVIDIA H100 80GB HBM3", (9, 0), 80, 78.7),
    "A100-80GB": Card("NVIDIA A100-SXM4-80GB", (8, 0), 80, 78.7),
    "A100": Card("NVIDIA A100-SXM4-40GB", (8, 0), 40, 39.2),
    "L40S": Card("NVIDIA L40S", (8, 9), 48, 44.0),
    "A10G": Card("NVIDIA A10G", (8, 6), 24, 22.0),
    "A10": Card("NVIDIA A10", (8, 6), 24, 22.0),
    "L4": Card("NVIDIA L4", (8, 9), 24, 22.0),
    "V100": Card("Tesla V100-SXM2-16GB", (7, 0), 16, 15.8),
    "T4": Card("Tesla T4", (7, 5), 16, 14.6),
    "RTX4090": Card("NVIDIA GeForce RTX 4090", (8, 9), 24, 23.5),
    "RTX3090": Card("NVIDIA GeForce RTX 3090", (8, 6), 24, 23.5),
}
"""SkyPilot's name → the GPU, for those whose peak throughput is in `nbft.devices`."""


def card_of(gpu: str) -> Card | None:
    """Return the GPU of a name in a price list, or None.

    >>> card_of("A100-80GB-SXM").memory_gib, card_of("RTX4090").capability, card_of("GH200")
    (80, (8, 9), None)
    """
    name = gpu.upper()
    known = (key for key in CARDS if name == key or name.startswith(f"{key}-"))
    found = next(known, None)
    return CARDS[found] if found else None


def machine_of(gpu: str, number: int = 1, memory_bytes: int | None = None) -> Hardware | None:
    """Return the machine to plan for; None for a GPU that nbft does not know.

    Args:
        gpu: Its name in a price list.
        number: How many of them.
        memory_bytes: Memory of one; the usual if None.
    """
    card = card_of(gpu)
    if card is None:
        return None
    size_bytes = memory_bytes or card.memory_gib * 2**30
    free = round(size_bytes * card.free_gib / card.memory_gib)
    many = f"{number} × " if number > 1 else ""
    title = f"{many}{gpu}, {size(size_bytes)}"
    return Hardware(title, 48 * 2**30, "cuda", (Gpu(card.name, free, card.capability),) * number)


@dataclass(frozen=True)
class Offer:
    """What a run would take and cost on one kind of machine.

    Attributes:
        provider: Key in `nbft.plan.prices.PROVIDERS`.
        price: The machine and its prices.
        plan: The plan of the run for it.
    """

    provider: str
    price: Price
    plan: Plan = field(repr=False)

    @property
    def fits(self) -> bool | None:
        """Whether the run fits into its memory; None if the run's memory is not known."""
        needed = self.plan.memory_bytes
        return None if needed is None else needed <= self.plan.free_memory_bytes

    @property
    def seconds(self) -> Range | None:
        """Shortest and longest time of the training; None if it is not known."""
        return self.plan.ranges.get("seconds")

    def usd_per_hour(self, *, spot: bool = False) -> float | None:
        """Return the price of an hour; None if the machine is not rented so."""
        return self.price.spot_usd_per_hour if spot else self.price.usd_per_hour

    def cost_usd(self, *, spot: bool = False) -> Range | None:
        """Return the lowest and highest cost of the run with its setup; None if it is not known.

        As spot, without what is lost and made again.
        """
        price = self.usd_per_hour(spot=spot)
        if price is None or self.seconds is None:
            return None
        lowest, highest = (
            (training + setup) / 3600 * price
            for training, setup in zip(self.seconds, SETUP_SECONDS, strict=True)
        )
        return lowest, highest


@dataclass(frozen=True)
class Offers:
    """The machines that can be rented for a run.

    Attributes:
        offers: Those that nbft can plan for, the cheapest run first; those too small come last.
        lists: The price lists that were read.
        unknown: How many kinds of GPU in them nbft does not know.
        left_out: How many kinds that it knows were not planned for, because others are cheaper.
        spot: Whether they are sorted by what the run costs as spot.
    """

    offers: tuple[Offer, ...]
    lists: tuple[PriceList, ...]
    unknown: int = 0
    left_out: int = 0
    spot: bool = False

    @property
    def cheapest(self) -> Offer | None:
        """The cheapest that fits; None if none does, or nothing is known of the run."""
        fitting = (o for o in self.offers if o.fits and o.cost_usd(spot=self.spot))
        return next(fitting, None)

    @property
    def remarks(self) -> list[str]:
        """The cheapest, where the prices are from, and what was left out, in sentences."""
        found = [f"Fix first: {problem}" for problem in self.errors]
        found += [text] if (text := self._best_in_words) else []
        found += [prices.source for prices in self.lists]
        for prices in self.lists:
            if prices.skipped:
                title = PROVIDERS[prices.provider].title
                found.append(f"{count(prices.skipped, 'line')} of {title} could not be read.")
        if self.unknown:
            kinds = "kind" if self.unknown == 1 else "kinds"
            found.append(f"Left out: {self.unknown} {kinds} of GPU that nbft does not know.")
        if self.left_out:
            found.append(f"Left out: {self.left_out} dearer ones.")
        return found

    @property
    def errors(self) -> list[str]:
        """What would stop the run on any of these machines, whatever their memory."""
        plans = [
            [str(problem) for problem in offer.plan.errors if not is_about_size(problem)]
            for offer in self.offers
        ]
        return [text for text in plans[0] if all(text in plan for plan in plans)] if plans else []

    @property
    def _best_in_words(self) -> str:
        """The cheapest that fits, or why there is none; "" without price lists."""
        if (best := self.cheapest) and (cost := best.cost_usd(spot=self.spot)):
            setup = [f"{seconds / 60:.0f}" for seconds in SETUP_SECONDS]
            return (
                f"Cheapest that fits: {best.price.gpu} at {PROVIDERS[best.provider].title}, about "
                f"{cost[0]:.2f} to {cost[1]:.2f} USD. That counts {' to '.join(setup)} minutes to set "
                "the machine up, and a GPU that reaches 10 to 50% of its peak; nothing was measured."
            )
        if not self.offers:
            is_listed = any(prices.date for prices in self.lists)
            how = " as spot" if self.spot else ""
            return f"No machine in the lists is for this run{how}." if is_listed else ""
        largest = max(self.offers, key=lambda offer: offer.plan.free_memory_bytes)
        needed = largest.plan.memory_bytes
        if needed is None:
            model = largest.plan.config.model.model_name
            what = "The rows" if largest.plan.total_parameters else f"The model {model}"
            verb = "are" if largest.plan.total_parameters else "is"
            return f"{what} {verb} not on this machine, so memory, time and cost are not known."
        if largest.fits:
            return "The time on these GPUs is not known, so the cost is not either."
        return (
            f"None is large enough: the run needs about {size(needed)}, and {largest.price.gpu} has "
            f"{size(largest.plan.free_memory_bytes)} free."
        )

    def of(self, gpu: str) -> Offer | None:
        """Return the offer of a GPU by its name, in any case; None if there is none."""
        return next((o for o in self.offers if o.price.gpu.upper() == gpu.upper()), None)

    def __str__(self) -> str:
        """Return a table, the cheapest first, and the remarks."""
        rows: list[tuple[str, ...]] = [
            ("provider", "GPU", "memory", "USD/h", "spot", "time", "cost, USD", "")
        ]
        rows += [self._row(offer) for offer in self.offers]
        return "\n".join([*([aligned(rows)] if self.offers else ()), *self.remarks])

    def _row(self, offer: Offer) -> tuple[str, ...]:
        cost, seconds = offer.cost_usd(spot=self.spot), offer.seconds
        card = card_of(offer.price.gpu)
        memory = offer.price.memory_bytes or (card.memory_gib * 2**30 if card else 0)
        number = f"{offer.price.count} × " if offer.price.count > 1 else ""
        mark = "cheapest that fits" if offer is self.cheapest else ""
        if offer.fits is False:
            mark = f"needs {size(offer.plan.memory_bytes or 0)}"
        return (
            PROVIDERS[offer.provider].title,
            f"{number}{offer.price.gpu}",
            size(memory),
            _usd(offer.price.usd_per_hour),
            _usd(offer.price.spot_usd_per_hour),
            f"{duration(seconds[0])} to {duration(seconds[1])}" if seconds else "?",
            f"{cost[0]:.2f} to {cost[1]:.2f}" if cost else "?",
            mark,
        )


def offers(
    config: Config, provider: str | None = None, folder: Path | None = None, *, spot: bool = False
) -> Offers:
    """Plan a run for every GPU that can be rented, and sort them by what it costs there.

    Args:
        config: The config of the run.
        provider: Key in `nbft.plan.prices.PROVIDERS`; every one with a price list if None.
        folder: Folder of the config file, for relative paths.
        spot: Sort by the cost as spot, and leave out what is not rented so.
    """
    lists = tuple(map(price_list, [provider] if provider else RENTED.values()))
    known, unknown = _machines(lists, max(1, config.distributed.processes), spot=spot)
    kinds = {
        _kind(price): machine_of(price.gpu, price.count, price.memory_bytes) for _, price in known
    }
    planned = dict(list(kinds.items())[:_MOST_PLANS])
    here = planned_there(config)
    plans = {}
    for kind, machine in planned.items():
        assert machine is not None
        with planning_for(machine):
            plans[kind] = make_plan(here, folder=folder)
    made = [Offer(key, price, plans[_kind(price)]) for key, price in known if _kind(price) in plans]
    made.sort(key=lambda offer: _order(offer, spot=spot))
    return Offers(tuple(made), lists, unknown, len(kinds) - len(planned), spot)


def planned_there(config: Config) -> Config:
    """Return a config as the worker on a rented machine plans it: with its own device."""
    return config.apply(
        {
            "compute.launcher": "process",
            "compute.provider": "local",
            "compute.device": "auto",
            "training.max_cost_usd": None,  # it needs a price, which differs here
        }
    )


def _machines(
    lists: tuple[PriceList, ...], number: int, *, spot: bool
) -> tuple[list[tuple[str, Price]], int]:
    """Return the machines with so many GPUs that nbft knows, the cheapest first, and how many not."""

    def usd(price: Price) -> float | None:
        return price.spot_usd_per_hour if spot else price.usd_per_hour

    found = [
        (prices.provider, price)
        for prices in lists
        for price in prices.prices
        if price.count == number and usd(price) is not None
    ]
    known = [entry for entry in found if card_of(entry[1].gpu)]
    unknown = {price.gpu for _, price in found if not card_of(price.gpu)}
    return sorted(known, key=lambda entry: usd(entry[1]) or 0.0), len(unknown)


def _kind(price: Price) -> tuple[str, int, int]:
    """Return what a plan depends on."""
    card = card_of(price.gpu)
    assert card is not None
    # Lists differ by some megabytes for the same GPU.
    memory_gib = round((price.memory_bytes or card.memory_gib * 2**30) / 2**30)
    return card.name, memory_gib, price.count


def _order(offer: Offer, *, spot: bool) -> tuple[bool, float, float]:
    cost = offer.cost_usd(spot=spot)
    price = offer.usd_per_hour(spot=spot) or 0.0
    return offer.fits is False, sum(cost) if cost else float("inf"), price


def _usd(price: float | None) -> str:
    return "" if price is None else f"{price:.2f}"
