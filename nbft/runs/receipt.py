"""The receipt of a run: what it took, beside what its plan expected.

Read from the events and plan.json of the run. Called by `Run.receipt` and the report.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nbft.config import Config
from nbft.events import number as as_number
from nbft.formatting import count, duration, size
from nbft.hardware import available_devices
from nbft.plan.ranges import energy_in_words, energy_kwh, power_watts
from nbft.plan.training_checks import cost_usd
from nbft.runs.files import read_plan
from nbft.runs.state import RunState


@dataclass(frozen=True)
class Receipt:
    """What a run took. What is not known is None; what was planned is by the same names.

    Attributes:
        steps: Optimiser steps.
        tokens: Tokens that it was trained on.
        seconds: Time of the last attempt, from its start to its end or to now.
        memory_bytes: Most memory of its process on the device.
        energy_kwh: Lowest and highest energy, from the power of the device; not measured.
        cost_usd: Lowest and highest cost, from the price of the machine.
        planned: The plan's estimate of each.
    """

    steps: int
    tokens: int | None
    seconds: float | None
    memory_bytes: int | None
    energy_kwh: tuple[float, float] | None
    cost_usd: tuple[float, float] | None
    planned: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)

    @property
    def rows(self) -> list[tuple[str, str, str]]:
        """What, how much, and how much was planned; in words."""
        return list(self._rows())

    def __str__(self) -> str:
        """Return a line for each thing."""
        lines = [
            (what, took, f" (planned: {plan})" if plan else "") for what, took, plan in self.rows
        ]
        width = max(len(what) for what, *_ in lines)
        return "\n".join(f"{what:<{width}}  {took}{plan}" for what, took, plan in lines)

    def _rows(self) -> Iterator[tuple[str, str, str]]:
        def planned(name: str, say: Any) -> str:
            known = as_number(self.planned.get(name))
            return "" if known is None else say(known)

        yield "Steps", count(self.steps), planned("total_steps", count)
        if self.tokens is not None:
            yield "Tokens", count(self.tokens), planned("tokens", count)
        if self.seconds is not None:
            yield "Time", duration(self.seconds), planned("seconds", duration)
        if self.memory_bytes is not None:
            yield "Peak memory", size(self.memory_bytes), planned("memory_bytes", size)
        if self.energy_kwh is not None:
            yield "Energy (estimated)", energy_in_words(self.energy_kwh), ""
        if self.cost_usd is not None and self.cost_usd[1]:
            lowest, highest = (f"{end:.2f}" for end in self.cost_usd)
            yield "Cost", lowest if lowest == highest else f"{lowest} to {highest}", ""


def receipt(run: Path, config: Config, state: RunState) -> Receipt:
    """Return the receipt of a run.

    Args:
        run: Its folder.
        config: Its config.
        state: Its state, also before its end.
    """
    end = state.end or {}
    try:
        planned = read_plan(run)
    except (OSError, ValueError):
        planned = {}
    seconds = as_number(end.get("seconds"))
    watts = power_watts(state.device, available_devices().get(state.device, ""))
    energy = None
    if seconds is not None and watts is not None:
        energy = energy_kwh((seconds, seconds), watts)
    peak = as_number(end.get("peak_bytes"))
    return Receipt(
        steps=int(end.get("step") or state.step or 0),
        tokens=end.get("tokens"),
        seconds=seconds,
        memory_bytes=None if peak is None else int(peak),
        energy_kwh=energy,
        cost_usd=cost_usd(config, seconds),
        planned=planned if isinstance(planned, dict) else {},
    )
