"""Comparing sides: in turn, in processes of their own, medians of the ratios of the rounds.

A machine that slows down slows all sides. A side whose losses are not ours has no speed. Called by
`nbft bench` and the repository's benchmarks.
"""

from __future__ import annotations

import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import nbft
from nbft.bench.sides import SIDES
from nbft.bench.task import Task
from nbft.errors import NbftError
from nbft.formatting import size
from nbft.limits import usable_cores
from nbft.plan.hardware import available_devices

DROPPED_STEPS = 2
"""In the first ones memory is allocated and kernels are chosen."""

_FLOAT32_LOSS = 1e-4
_OTHER_LOSS = 1e-2


def in_turn(sides: Sequence[Callable[[], Any]], rounds: int) -> list[list[Any]]:
    """Call the sides in turn and return what each returned, round by round."""
    found: list[list[Any]] = [[] for _ in sides]
    for _ in range(rounds):
        for side, results in zip(sides, found, strict=True):
            results.append(side())
    return found


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the median of the ratios of the rounds."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


@dataclass(frozen=True)
class Trained:
    """What one side did in one round.

    Attributes:
        tokens_per_second: Real tokens, padding not counted, without the first two steps.
        tokens_per_cpu_second: The same by the seconds of all cores.
        peak_bytes: Most memory that it held.
        tokens: Tokens of each step.
        losses: Loss of each step.
        is_float32: Whether it computed in float32: all weights, and no autocast.
    """

    tokens_per_second: float
    tokens_per_cpu_second: float
    peak_bytes: int
    tokens: tuple[int, ...]
    losses: tuple[float, ...]
    is_float32: bool


@dataclass(frozen=True)
class Comparison:
    """nbft beside one other side.

    Attributes:
        what: What was trained.
        peer: The other side.
        ratio: Our speed by theirs, median of the rounds; None when the losses do not agree.
        spread: The least and the most of the rounds.
        cpu_ratio: The same by CPU seconds.
        memory_ratio: Our most memory by theirs.
        losses_agree: Whether the losses of the first step agree, and all are numbers.
        ours: The last round of ours.
        theirs: The last round of theirs.
        machine: What it ran on.
    """

    what: str
    peer: str
    ratio: float | None
    spread: tuple[float, float] | None
    cpu_ratio: float | None
    memory_ratio: float
    losses_agree: bool
    ours: Trained
    theirs: Trained
    machine: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return asdict(self)


@dataclass(frozen=True)
class Comparisons:
    """All comparisons of one task, what could not be compared, in sentences, and ours alone."""

    found: list[Comparison]
    said: list[str]
    alone: Trained

    def __str__(self) -> str:
        """Return a table with one line a side, and the sentences."""
        lines = [
            f"{'':<20}{'tokens/s':>10}{'by CPU-s':>10}{'memory':>11}{'loss 1':>9}   nbft is",
            _line("nbft", self.alone, ""),
        ]
        for one in self.found:
            if one.ratio is None or one.spread is None:
                verdict = "losses differ: no speed"
            else:
                low, high = one.spread
                verdict = f"{one.ratio:.2f} × ({low:.2f} to {high:.2f})"
            lines.append(_line(one.peer, one.theirs, verdict))
        return "\n".join([*lines, *self.said])


def _line(name: str, of: Trained, verdict: str) -> str:
    return (
        f"{name:<20}{of.tokens_per_second:>10,.0f}{of.tokens_per_cpu_second:>10,.0f}"
        f"{size(of.peak_bytes):>11}{of.losses[0]:>9.4f}   {verdict}"
    ).rstrip()


def compare(
    task: Task,
    peers: Sequence[str] = ("trl", "trl-tuned"),
    *,
    rounds: int = 3,
    what: str = "",
    pythons: Mapping[str, str] = MappingProxyType({}),
    say: Callable[[str], None] = lambda text: None,
) -> Comparisons:
    """Train a task with nbft and with each peer, in turn.

    Args:
        task: What to train.
        peers: Names of `SIDES`.
        rounds: How often each trains.
        what: Name of the task.
        pythons: By name of a side, the Python of another environment, for systems that need other
            versions of the libraries than we do.
        say: Told each training that begins.

    Raises:
        NbftError: nbft's own side failed, or a peer is unknown.
    """
    if unknown := set(peers) - set(SIDES):
        raise NbftError(f"against={', '.join(sorted(unknown))}: known are {', '.join(SIDES)}.")
    hindrances = {name: SIDES[name].hindrance(task, elsewhere=name in pythons) for name in peers}
    said = [text for text in hindrances.values() if text]
    there = ["nbft", *(name for name, text in hindrances.items() if not text)]
    found: dict[str, list[Trained]] = {name: [] for name in there}
    for number in range(rounds):
        for name in list(found):
            say(f"Round {number + 1} of {rounds}: {SIDES[name].name} …")
            try:
                found[name].append(train_side(name, task, pythons.get(name)))
            except NbftError as error:
                if name == "nbft":
                    raise
                said.append(f"{SIDES[name].name} failed: {error}")
                del found[name]
    ours = found.pop("nbft")
    machine = about_machine(task.device)
    pairs = [_compared(what, SIDES[n].name, ours, t, machine) for n, t in found.items()]
    return Comparisons(pairs, said, ours[-1])


def train_side(name: str, task: Task, python: str | None = None) -> Trained:
    """Train in a process of its own.

    Args:
        name: Of the side.
        task: What to train.
        python: Of another environment, which has this package's modules by their folder alone;
            this one when None.

    Raises:
        NbftError: It failed; holds the last line that it said.
    """
    environment = os.environ | {"TOKENIZERS_PARALLELISM": "false"}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "task.json"
        task.save(path)
        if python is not None:
            shutil.copytree(Path(nbft.__file__).parent, Path(folder) / "nbft")
            environment["PYTHONPATH"] = folder
        try:
            done = subprocess.run(
                [python or sys.executable, "-m", "nbft.bench.sides", name, str(path)],
                capture_output=True,
                text=True,
                env=environment,
                check=False,
            )
        except OSError as error:
            raise NbftError(f"{python}: cannot be started ({error.strerror}).") from None
    if done.returncode:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise NbftError(lines[-1])
    return _read(json.loads(done.stdout.splitlines()[-1]))


def _read(clock: dict[str, Any]) -> Trained:
    tokens = sum(clock["tokens"][DROPPED_STEPS:])
    return Trained(
        tokens / sum(clock["seconds"][DROPPED_STEPS:]),
        tokens / max(sum(clock["cpu_seconds"][DROPPED_STEPS:]), 1e-9),
        clock["peak_bytes"],
        tuple(clock["tokens"]),
        tuple(clock["losses"]),
        clock["is_float32"],
    )


def _compared(
    what: str,
    peer: str,
    ours: list[Trained],
    theirs: list[Trained],
    machine: dict[str, Any],
) -> Comparison:
    agree = all(losses_agree(a, b) for a, b in zip(ours, theirs, strict=True))
    ratios = [a.tokens_per_second / b.tokens_per_second for a, b in zip(ours, theirs, strict=True)]
    return Comparison(
        what=what,
        peer=peer,
        ratio=statistics.median(ratios) if agree else None,
        spread=(min(ratios), max(ratios)) if agree else None,
        cpu_ratio=median_ratio(
            [a.tokens_per_cpu_second for a in ours], [b.tokens_per_cpu_second for b in theirs]
        )
        if agree
        else None,
        memory_ratio=median_ratio([a.peak_bytes for a in ours], [b.peak_bytes for b in theirs]),
        losses_agree=agree,
        ours=ours[-1],
        theirs=theirs[-1],
        machine=machine,
    )


def losses_agree(ours: Trained, theirs: Trained) -> bool:
    """Whether two sides saw the same tokens, began at the same loss, and stayed finite.

    The first step is compared: 0.01% where both compute in float32, 1% where one computes in 16
    bits, as autocast does on float32 weights too. Later steps differ by the adapters' random
    beginnings.
    """
    within = _FLOAT32_LOSS if ours.is_float32 and theirs.is_float32 else _OTHER_LOSS
    first, other = ours.losses[0], theirs.losses[0]
    finite = all(map(math.isfinite, (*ours.losses, *theirs.losses)))
    return finite and ours.tokens == theirs.tokens and abs(first - other) <= within * abs(other)


def about_machine(device: str) -> dict[str, Any]:
    """Return what a comparison ran on."""
    import importlib.metadata

    packages = ("torch", "transformers", "trl", "peft")
    return {
        "device": device,
        "name": available_devices().get(device, ""),
        "cores": usable_cores(),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
    }
