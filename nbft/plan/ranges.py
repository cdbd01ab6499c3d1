"""How far the plan's numbers may be off, and what they assume. Loads no library.

Called by `nbft.plan.plan`. What was measured on a CPU is compared with real runs by
`python -m benchmarks forecast`; what is said of a GPU is assumed from data sheets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

from nbft.config import Config
from nbft.decisions import Decisions
from nbft.devices import GPU_WATTS, peak_flops
from nbft.formatting import count, duration, number, size
from nbft.hardware import available_devices
from nbft.limits import usable_cores
from nbft.matmul_rate import kept_rate, product_dtype
from nbft.plan.memory import PART_NAMES, Shape, margin_bytes
from nbft.plan.step_time import assumed_rate

if TYPE_CHECKING:
    from nbft.plan.plan import Plan

Range = tuple[float, float]
"""Lowest and highest value that is expected."""

TIME_MARGIN = 0.4
"""How far the time on a CPU may be off, relative to it."""

PROBED_MEMORY = 0.05
PROBED_TIME = 0.1
"""The same of what real steps took."""

_GPU_SHARES = (0.1, 0.3, 0.5)
"""Shares of a GPU's matmul rate that training reaches: lowest, usual, highest. Assumed."""

_CORE_WATTS = (4.0, 15.0)
"""Power of a busy core with its share of the rest of a machine: lowest and highest. Assumed."""


def gpu_seconds(
    config: Config, shape: Shape, tokens: int, decisions: Decisions
) -> tuple[float, Range] | None:
    """Return the time of the training steps on a GPU and its range; None for an unlisted one.

    A token costs 6 operations for each parameter (PaLM, arXiv:2204.02311, appendix B).
    """
    device = decisions.device.value
    name = available_devices().get(device, "")
    asked = config.compute.peak_tflops
    peak = (
        None if asked else kept_rate(decisions.device.value, product_dtype(decisions))
    ) or peak_flops(device, asked, name)
    if device == "cpu" or not peak:
        return None
    at_peak = 6 * shape.parameters * tokens / (peak * config.distributed.processes)
    lowest, usual, highest = _GPU_SHARES
    return at_peak / usual, (at_peak / highest, at_peak / lowest)


def power_watts(device: str, name: str) -> Range | None:
    """Return the lowest and highest power of a device that trains; None for an unlisted one.

    Args:
        device: "cpu", "cuda" or another.
        name: Product name of a GPU.

    >>> power_watts("cuda", "Tesla T4 was found")
    (35.0, 70.0)
    """
    if device == "cpu":
        lowest, highest = _CORE_WATTS
        return lowest * usable_cores(), highest * usable_cores()
    known = sorted(GPU_WATTS, key=len, reverse=True)
    watts = next((GPU_WATTS[key] for key in known if key in name), None)
    return (watts / 2, float(watts)) if watts else None


def energy_kwh(seconds: Range, watts: Range) -> Range:
    """Return the lowest and highest energy of a run.

    >>> energy_kwh((3600, 7200), (50, 100))
    (0.05, 0.2)
    """
    lowest, highest = (time * power / 3.6e6 for time, power in zip(seconds, watts, strict=True))
    return lowest, highest


def taken(config: Config, seconds: float, tokens: int, watts: Range | None) -> dict[str, float]:
    """Return what a run has taken, by the names of the budgets in section training.

    Energy counts with the highest power of the device. What cannot be known is left out.

    >>> taken(Config(), 1800, 5000, (35.0, 70.0))
    {'seconds': 1800, 'tokens': 5000, 'energy_kwh': 0.035}
    """
    found: dict[str, float] = {"seconds": seconds, "tokens": tokens}
    if watts is not None:
        found["energy_kwh"] = seconds * watts[1] / 3.6e6
    if (price := config.compute.price_usd_per_hour) is not None:
        found["cost_usd"] = seconds / 3600 * price
    return found


def budget_remarks(
    config: Config, seconds: float | None, tokens: int, total_steps: int, watts: Range | None
) -> Iterator[str]:
    """Yield a sentence for each budget that ends the run before its last step.

    Args:
        config: The config.
        seconds: Time of the whole run; None if it is not known.
        tokens: Tokens in all steps together.
        total_steps: Optimiser steps of the whole run.
        watts: Power of the device.
    """
    spent = taken(config, seconds or 0.0, tokens, watts)
    for name, amount in spent.items():
        limit = getattr(config.training, f"max_{name}")
        if limit is not None and amount > limit:
            step = max(1, int(total_steps * limit / amount))
            yield (
                f"training.max_{name}={number(limit)} ends the run at about step {step:,} of "
                f"{total_steps:,}."
            )


def memory_range(parts: Mapping[str, int]) -> Range:
    """Return the lowest and highest memory, given its parts."""
    total, margin = sum(parts.values()), margin_bytes(parts)
    return total - margin, total + margin


def assumptions(
    config: Config, shape: Shape | None, decisions: Decisions, free_bytes: int
) -> Iterator[str]:
    """Yield a sentence for each thing that the plan's numbers assume."""
    device = decisions.device.value
    name = available_devices().get(device, "").removesuffix(" was found") or device
    model = config.model.model_name
    if shape is None:
        yield (
            f"{model} is not on this machine, so its memory and time are not known; train once or "
            "download it."
        )
    elif shape.is_assumed:
        yield (
            f"{model} has no weights here, so the layers of Llama with the sizes of its config.json "
            "are assumed."
        )
    is_given = device != "cpu" and config.compute.peak_tflops
    rate, dtype = (
        None if is_given else kept_rate(decisions.device.value, product_dtype(decisions)),
        product_dtype(decisions),
    )
    if shape and rate:
        yield f"The time uses the matmul rate measured on this machine: {_rate_in_words(rate, dtype)}."
    elif shape and device == "cpu":
        yield (
            f"The matmul rate of {name} is assumed: {_rate_in_words(assumed_rate(decisions), dtype)}. "
            "The first run or probe measures it."
        )
    if shape and device != "cpu":
        if rate:
            yield f"Training is assumed to reach 30% of that on {name} (10 to 50%)."
        elif peak_flops(device, config.compute.peak_tflops, name):
            yield (
                f"The time on {name} assumes 30% of its peak throughput (10 to 50%); nothing was "
                "measured on it."
            )
        else:
            yield (
                f"The peak throughput of {name} is not known, so no time is given. Set "
                "compute.peak_tflops."
            )
        yield f"What the libraries take on {name} (500 MiB) is assumed."
    if free_bytes <= 0:
        yield f"{name} reports no free memory, so nothing says whether the run fits."


def _rate_in_words(flops: float, dtype: str) -> str:
    return f"{flops / 1e12:.2g} TFLOP/s in {dtype}"


def costs_in_words(plan: Plan) -> Iterator[str]:
    """Yield what a run takes, a sentence each."""

    def between(name: str, say: Callable[[float], str], end: str = "") -> str:
        if name not in plan.ranges:
            return ""
        lowest, highest = map(say, plan.ranges[name])
        return f" ({lowest} to {highest}{end})"

    if plan.memory_bytes:
        yield (
            f"Memory: about {size(plan.memory_bytes)}{between('memory_bytes', size)} of "
            f"{size(plan.free_memory_bytes)} free."
        )
    if plan.memory_parts:
        yield f"Of it: {parts_in_words(plan.memory_parts)}."
    if plan.tokens:
        yield f"Tokens: about {count(plan.tokens)}."
    if plan.time:
        yield f"Time: {plan.time}{between('seconds', duration, ' in all')}."
    if energy := plan.ranges.get("energy_kwh"):
        yield f"Energy: {energy_in_words(energy)}."
    if plan.cost_usd and plan.cost_usd[1]:
        lowest, highest = (f"{end:.2f}" for end in plan.cost_usd)
        yield f"Cost: {lowest if lowest == highest else f'{lowest} to {highest}'} USD."


def energy_in_words(kwh: Range) -> str:
    """Say an energy, a small one in watt-hours.

    >>> energy_in_words((0.0002, 0.001)), energy_in_words((1.5, 3.0))
    ('0.2 to 1 Wh', '1.5 to 3 kWh')
    """
    factor, unit = (1000, "Wh") if kwh[1] < 1 else (1, "kWh")
    lowest, highest = (
        f"{end * factor:.2g}" if end * factor < 99.5 else f"{end * factor:,.0f}" for end in kwh
    )
    return f"{lowest} to {highest} {unit}"


def parts_in_words(parts: Mapping[str, int]) -> str:
    """Say what the memory consists of, the largest part first.

    >>> parts_in_words({"weights": 2**30, "head": 2**20, "libraries": 2**31})
    'libraries 2.0 GiB, weights 1.0 GiB, head and loss 1.0 MiB'
    """
    largest = sorted(parts.items(), key=lambda part: -part[1])
    return ", ".join(f"{PART_NAMES.get(name, name)} {size(part)}" for name, part in largest)
