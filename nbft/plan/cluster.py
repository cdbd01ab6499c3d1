"""The node of a cluster that a run is planned for, which the machine that submits cannot ask.

Called by `make_plan`, for runs whose `compute.launcher` is slurm.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from nbft.config import Config
from nbft.errors import Problem
from nbft.hardware import Hardware, is_this_machine, planning_for
from nbft.plan.problems import error

TIME_MINUTES = 60
"""The time of a job whose options give none."""

_FIELD, _PROCESSES = "compute.slurm", "distributed.num_processes"
_SIGNAL_SECONDS = 90  # submitit's signal_delay_s
_ONE_TASK = {
    "ntasks_per_node": 1,
    "use_srun": True,
    **dict.fromkeys(("array", "array_parallelism", "signal")),
}
"""Options that give a node several tasks, or none that hears Slurm, and their only value."""
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
    memory = f"{node.free_bytes / 2**30:.0f} GiB of memory"
    what = node.title if node.gpus else f"a node with {memory}"
    if (number := nodes_asked(config)) > 1:
        what = f"{number} nodes, each with {node.title if node.gpus else memory}"
        node = replace(node, free_bytes=node.free_bytes * number, gpus=node.gpus * number)
    if is_known:
        why = f"as {_FIELD} asks for it"
    else:
        why = f"which is assumed: {_FIELD} does not say. The node may have less, and then the run fails"
    decides = "Device, number types and fast path are decided on the node"
    with planning_for(node):
        yield [f"Planned for {what}, {why}.", f"{decides}, and a note of the run says so."]


def trained_here(config: Config) -> Config:
    """Return a config that is planned for this machine, whatever starts its background runs."""
    is_here = config.compute.launcher != "slurm"
    return config if is_here else config.apply({"compute.launcher": "process"})


def cluster_problems(config: Config) -> Iterator[Problem]:
    """Yield what a job cannot do."""
    if config.compute.launcher != "slurm":
        return
    options = _options(config)
    nodes = options.get("nodes", 1)
    if type(nodes) is not int or nodes < 1:
        why = f"has nodes={nodes!r}; it is a whole number of nodes, at least 1."
        yield error(_FIELD, why, "Leave it out for one.", {_FIELD: _without(config, "nodes")})
        nodes = 1
    if options.get("ntasks", nodes) != nodes:
        why = f"has ntasks={options['ntasks']}, but there is one task of srun for each node."
        yield error(_FIELD, why, "Leave it out.", {_FIELD: _without(config, "ntasks")})
    asked = config.distributed.num_processes
    if asked is not None and asked % nodes:
        why = (
            f"has to be a multiple of the nodes that {_FIELD} asks for, {nodes}: each has as many."
        )
        yield error(_PROCESSES, why, use=-(-asked // nodes) * nodes)
    for name, usual in _ONE_TASK.items():
        if options.get(name, usual) not in (usual, None):
            why = f"has {name}={options[name]}, but a run has one task of srun on each node."
            yield error(_FIELD, why, "Leave it out.", {_FIELD: _without(config, name)})
    more_time = {**_without(config, "time"), "time": TIME_MINUTES}
    minutes = options.get("time", TIME_MINUTES)
    delay = options.get("signal_delay_s", _SIGNAL_SECONDS)
    if type(minutes) is not int or minutes < 1:
        why = f"has time={minutes!r}; it is a whole number of minutes, at least 1."
        yield error(_FIELD, why, f"Give time: {TIME_MINUTES}.", {_FIELD: more_time})
    elif type(delay) is not int or not 0 < delay < minutes * 60:
        why = (
            f"has signal_delay_s={delay!r} and time={minutes}; the run is stopped so many seconds "
            f"before the end, which must lie between 0 and {minutes * 60}."
        )
        yield error(_FIELD, why, "Give time more minutes.", {_FIELD: more_time})
    for name, value in config.compute.slurm.items():
        if name not in ("setup", "teardown") and re.search(r"[\x00-\x1f\x7f]", _text(value)):
            why = f"has a line break or another control character in {name}."
            yield error(_FIELD, why, "Remove it; commands belong into setup.")


def _without(config: Config, name: str) -> dict[str, Any]:
    """Return the options without one of them."""
    left = {other: value for other, value in config.compute.slurm.items() if other != name}
    if more := left.get("additional_parameters"):
        kept = {k: value for k, value in more.items() if str(k).replace("-", "_") != name}
        left["additional_parameters"] = kept
    return left


def _text(value: Any) -> str:
    """Return all text in an option."""
    if isinstance(value, dict):
        return " ".join(f"{name} {_text(inner)}" for name, inner in value.items())
    return " ".join(map(_text, value)) if isinstance(value, list) else str(value)


def nodes_asked(config: Config) -> int:
    """Return how many nodes the options of a job ask for."""
    nodes = _options(config).get("nodes", 1)
    return nodes if type(nodes) is int and nodes > 0 else 1


def gpus_asked(config: Config) -> int:
    """Return how many GPUs the options of a job ask for on each node."""
    for asked in _asked_gpus(config):
        number = re.search(r"(?:^|:)(\d+)$", asked)
        return int(number[1]) if number else 1
    return 0


def _asked_gpus(config: Config) -> Iterator[str]:
    """Yield what the options ask for: a number, a name, or NAME:NUMBER."""
    options = _options(config)
    for name in ("gpus_per_node", "gpus_per_task", "gpus", "num_gpus"):
        if options.get(name):
            yield str(options[name])
    for entry in str(options.get("gres") or "").split(","):
        kind, _, asked = entry.partition("(")[0].strip().partition(":")
        if kind == "gpu":
            yield asked or "1"


def _options(config: Config) -> dict[str, Any]:
    """Return all options, those too that submitit has no name for."""
    given = config.compute.slurm
    more = given.get("additional_parameters") or {}
    return given | {str(name).replace("-", "_"): value for name, value in more.items()}


def _node(config: Config) -> tuple[Hardware, bool]:
    """Return the node, and whether the options say enough of it."""
    from nbft.plan.machines import MACHINES

    options = _options(config)
    number = gpus_asked(config)
    if not number:
        bytes_asked = _bytes(str(options.get("mem") or ""))
        free_bytes = bytes_asked or _CPU_GIB * 2**30
        return Hardware("a node without a GPU", free_bytes), bool(bytes_asked)
    named = [*_asked_gpus(config), options.get("constraint"), options.get("partition")]
    words = re.findall(r"[a-z0-9]+", " ".join(map(str, named)).lower())
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
