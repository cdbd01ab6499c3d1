"""The node of a cluster that a run is planned for, which the machine that submits cannot ask.

Called by `make_plan`, for runs whose `compute.launcher` is slurm.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import replace

from nbft.config import Config
from nbft.errors import Problem
from nbft.hardware import Hardware, is_this_machine, planning_for
from nbft.plan.problems import error

_FIELD = "compute.slurm"
_ASSUMED = "a100"
_CPU_GIB = 64
_MEGABYTES = {"k": 1e-3, "m": 1.0, "g": 1e3, "t": 1e6}


@contextlib.contextmanager
def planning_for_node(config: Config) -> Iterator[list[str]]:
    """Plan in the block for the node that a run asks a cluster for; yield what is to be said of it."""
    if config.compute.launcher != "slurm" or not is_this_machine():
        yield []
        return
    node, is_known = _node(config)
    what = node.title if node.gpus else f"a node with {node.free_bytes / 2**30:.0f} GiB of memory"
    if is_known:
        why = f"as {_FIELD} asks for it"
    else:
        why = f"which is assumed: {_FIELD} does not say. The node may have less, and then the run fails"
    decides = "Device, number types and fast path are decided on the node"
    with planning_for(node):
        yield [f"Planned for {what}, {why}.", f"{decides}, and a note of the run says so."]


def cluster_problems(config: Config) -> Iterator[Problem]:
    """Yield what a job cannot do."""
    options = config.compute.slurm
    if config.compute.launcher != "slurm":
        return
    for name, usual in (("nodes", 1), ("ntasks_per_node", 1), ("array_parallelism", None)):
        if options.get(name, usual) != usual:
            left = {other: value for other, value in options.items() if other != name}
            why = f"has {name}={options[name]}, but a run trains in one task on one node."
            yield error(_FIELD, why, "Leave it out.", {_FIELD: left})


def gpus_asked(config: Config) -> int:
    """Return how many GPUs the options of a job ask for."""
    options = config.compute.slurm
    given = [options.get(name) for name in ("gpus_per_node", "gpus_per_task", "num_gpus", "gres")]
    asked = [str(value) for value in given if value]
    if not asked or (options.get("gres") and "gpu" not in asked[0] and len(asked) == 1):
        return 0
    number = re.search(r"(\d+)$", asked[0].split("(")[0])
    return int(number[1]) if number else 1


def _node(config: Config) -> tuple[Hardware, bool]:
    """Return the node, and whether the options say enough of it."""
    from nbft.plan.machines import MACHINES

    options = config.compute.slurm
    number = gpus_asked(config)
    if not number:
        bytes_asked = _bytes(str(options.get("mem") or ""))
        free_bytes = bytes_asked or _CPU_GIB * 2**30
        return Hardware("a node without a GPU", free_bytes), bool(bytes_asked)
    words = re.findall(r"[a-z0-9]+", " ".join(map(str, options.values())).lower())
    cards = {m.title.partition(",")[0].split()[-1].lower(): m for m in reversed(MACHINES) if m.gpus}
    asked = next((word for word in words if word in cards), None)
    machine = cards[asked or _ASSUMED]
    many = f"{number} × " if number > 1 else ""
    return replace(
        machine, title=f"{many}{machine.title.partition(' (')[0]}", gpus=machine.gpus[:1] * number
    ), bool(asked)


def _bytes(memory: str) -> int:
    """Return an amount of memory as sbatch takes it; 0 without one.

    >>> _bytes("16GB"), _bytes("2000"), _bytes("")
    (16000000000, 2000000000, 0)
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)b?", memory.strip().lower())
    return round(float(found[1]) * _MEGABYTES[found[2] or "m"] * 1e6) if found else 0
