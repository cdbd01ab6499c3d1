"""What a run will take, found by its training step: simulated without contents, or run for real.

Each in a process of its own; loads no torch here. Called by `Plan.simulate` and `Plan.probe`; the
steps themselves are in `nbft.training.simulation` and `nbft.training.probing`.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nbft.config import Config
from nbft.errors import NbftError
from nbft.methods import method_of
from nbft.plan.memory import HOLES, LIBRARIES_BYTES

_LONGEST_SECONDS = 600


@dataclass(frozen=True)
class Simulation:
    """The memory of a simulated training step.

    Attributes:
        peak_bytes: All tensors at the fullest moment.
        parts: Bytes of weights, adapter and optimizer among them.
        layers: How many layers were run, twice.
        total_layers: Layers of the model.
    """

    peak_bytes: int
    parts: dict[str, int]
    layers: list[int]
    total_layers: int

    @property
    def assumption(self) -> str:
        """What it assumes, as a sentence."""
        few, more = self.layers
        if few == more:
            return "The memory is that of a simulated step."
        return (
            f"The memory is that of simulated steps of {few} and {more} layers, continued to "
            f"{self.total_layers}."
        )


@dataclass(frozen=True)
class Probe:
    """What real steps took.

    Attributes:
        peak_bytes: Most memory of the process on the device.
        batch_seconds: Forward and backward pass of a typical batch.
        update_seconds: The rest of a step.
    """

    peak_bytes: int
    batch_seconds: float
    update_seconds: float

    def step_seconds(self, batches: int) -> float:
        """Return the time of a step of some batches."""
        return batches * self.batch_seconds + self.update_seconds


def simulate(config: Config, lengths: Sequence[int]) -> Simulation:
    """Run a training step with tensors that have shapes and no contents.

    Args:
        config: The config; its model needs a config.json on this machine.
        lengths: Tokens of the rows of the fullest batch.

    Raises:
        NbftError: The step cannot be simulated; says why.
    """
    return Simulation(**_answer("simulation", "simulated", config, lengths=list(lengths)))


def probe(config: Config, fullest: Sequence[int], typical: Sequence[int]) -> Probe:
    """Train a few steps for real and keep nothing.

    Args:
        config: The config.
        fullest: Tokens of the rows of the fullest batch.
        typical: The same of another batch with as many rows.

    Raises:
        NbftError: The step fails, for example because memory runs out; says why.
    """
    answer = _answer("probing", "run", config, fullest=list(fullest), typical=list(typical))
    return Probe(**answer)


def _answer(module: str, done: str, config: Config, **asked: Any) -> dict[str, Any]:
    """Return what a module of nbft.training answers."""
    if method_of(config).generates:
        raise NbftError(
            f"A step that writes answers cannot be {done}. The plan keeps its estimate."
        )
    values: dict[str, Any] = config.to_dict()
    for split in ("train", "validation", "test"):  # no rows are read
        values.get("data", {}).pop(split, None)
    try:
        process = subprocess.run(
            [sys.executable, "-m", f"nbft.training.{module}"],
            input=json.dumps({"config": values, **asked}),
            capture_output=True,
            text=True,
            timeout=_LONGEST_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        why = f"it took longer than {_LONGEST_SECONDS} seconds"
    else:
        if process.returncode == 0:
            answer: dict[str, Any] = json.loads(process.stdout.splitlines()[-1])
            return answer
        why = (process.stderr.strip().splitlines() or ["it was ended by the system"])[-1]
    raise NbftError(f"This step cannot be {done} ({why}). The plan keeps its estimate.")


def simulated_parts(
    planned: Mapping[str, int], found: Simulation, *, is_quantised: bool
) -> dict[str, int]:
    """Return the parts of the memory with those that were simulated.

    Args:
        planned: The parts by the plan's formula.
        found: The simulation.
        is_quantised: Whether the weights have fewer bits; these are counted, not simulated.
    """
    parts = dict(found.parts)
    parts["step"] = found.peak_bytes - sum(parts.values())
    if is_quantised:
        parts["weights"] = planned["weights"]
    kept = ("reference", "cache", "libraries", "fragmentation")
    parts |= {name: planned[name] for name in kept if name in planned}
    if not planned:  # the formula does not know these layers
        parts |= {"libraries": LIBRARIES_BYTES, "fragmentation": round(HOLES * parts["step"])}
    return {name: size for name, size in parts.items() if size > 0}


def probed_parts(planned: Mapping[str, int], found: Probe) -> dict[str, int]:
    """Return the parts of the memory that are certain, and the rest of what was measured."""
    certain = ("weights", "adapter", "optimizer", "reference", "libraries")
    parts = {name: planned[name] for name in certain if name in planned}
    parts["step"] = max(0, found.peak_bytes - sum(parts.values()))
    return parts
