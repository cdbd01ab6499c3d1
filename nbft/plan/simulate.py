"""The plan's memory by a simulated training step, in a process of its own. Loads no torch here.

Called by `Plan.simulate`, the form and `nbft plan --simulate`; the step itself is in
`nbft.training.simulation`.
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
from nbft.plan.memory import HOLES, LIBRARIES_BYTES

_MODULE = "nbft.training.simulation"
_LONGEST_SECONDS = 300


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


def simulate(config: Config, lengths: Sequence[int]) -> Simulation:
    """Run a training step with tensors that have shapes and no contents.

    Args:
        config: The config; its model needs a config.json on this machine.
        lengths: Tokens of the rows of the fullest batch.

    Raises:
        NbftError: The step cannot be simulated; says why.
    """
    values: dict[str, Any] = config.to_dict()
    for split in ("train", "validation", "test"):  # no rows are read
        values.get("data", {}).pop(split, None)
    command = [sys.executable, "-m", _MODULE]
    asked = json.dumps({"config": values, "lengths": list(lengths)})
    try:
        done = subprocess.run(
            command,
            input=asked,
            capture_output=True,
            text=True,
            timeout=_LONGEST_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise NbftError(f"The simulation took longer than {_LONGEST_SECONDS} seconds.") from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]
        raise NbftError(f"This step cannot be simulated ({last}). The plan keeps its estimate.")
    return Simulation(**json.loads(done.stdout))


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
