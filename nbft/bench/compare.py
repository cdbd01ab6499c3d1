"""Compares systems: they take turns, each in its own process, and the median ratio counts.

Taking turns means that a machine that slows down slows every side. A side whose losses differ from
nbft's gets no speed. Called by `nbft bench` and by the repository's benchmarks.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

import nbft
from nbft.bench.sides import SIDES
from nbft.bench.task import Task
from nbft.errors import NbftError
from nbft.formatting import count, duration, size
from nbft.hardware import available_devices
from nbft.limits import usable_cores

DROPPED_STEPS = 2
"""The first steps allocate memory and choose kernels."""

_FLOAT32_LOSS = 1e-4
_OTHER_LOSS = 1e-2


def in_turn(sides: Sequence[Callable[[], Any]], rounds: int) -> list[list[Any]]:
    """Call the sides in turn and return the results of each side, one per round."""
    results: list[list[Any]] = [[] for _ in sides]
    for _ in range(rounds):
        for side, of_side in zip(sides, results, strict=True):
            of_side.append(side())
    return results


def median_ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Return the median of the per-round ratios."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


@dataclass(frozen=True)
class Trained:
    """The result of one side in one round.

    Attributes:
        tokens_per_second: Without padding and without the first two steps.
        tokens_per_cpu_second: The same per second of CPU time, all cores added up.
        peak_bytes: Peak memory of the process.
        tokens: Tokens of each step.
        losses: Loss of each step.
        is_float32: Whether everything was computed in float32, without autocast.
        operators: Operators of the last step by part, if the task asks for them.
    """

    tokens_per_second: float
    tokens_per_cpu_second: float
    peak_bytes: int
    tokens: tuple[int, ...]
    losses: tuple[float, ...]
    is_float32: bool
    operators: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Comparison:
    """nbft compared with one other system.

    Attributes:
        what: Name of the task.
        peer: The other system.
        ratio: nbft's speed over the peer's, median of the rounds; None when the losses differ.
        spread: Lowest and highest ratio of the rounds.
        cpu_ratio: The same ratio per second of CPU time.
        memory_ratio: nbft's peak memory over the peer's.
        losses_agree: Whether the first losses agree and all losses are finite.
        ours: nbft's last round.
        theirs: The peer's last round.
        machine: Hardware and versions.
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


@dataclass(frozen=True)
class Comparisons:
    """All comparisons of one task.

    Attributes:
        pairs: nbft compared with each peer that could be measured.
        notes: Why the other peers could not be measured.
        ours: nbft's last round.
    """

    pairs: list[Comparison]
    notes: list[str]
    ours: Trained

    def __str__(self) -> str:
        """Return a table with one line per side, followed by the notes."""
        lines = [
            f"{'':<20}{'tokens/s':>10}{'per CPU-s':>11}{'memory':>11}{'loss 1':>9}   nbft is",
            _line("nbft", self.ours, ""),
        ]
        for pair in self.pairs:
            if pair.ratio is None or pair.spread is None:
                verdict = "losses differ: no speed"
            else:
                low, high = pair.spread
                memory = f"{pair.memory_ratio:.2f} of its memory"
                verdict = f"{pair.ratio:.2f} × ({low:.2f} to {high:.2f}), {memory}"
            lines.append(_line(pair.peer, pair.theirs, verdict))
        return "\n".join([*lines, *self.notes])


def _line(name: str, result: Trained, verdict: str) -> str:
    return (
        f"{name:<20}{result.tokens_per_second:>10,.0f}{result.tokens_per_cpu_second:>11,.0f}"
        f"{size(result.peak_bytes):>11}{result.losses[0]:>9.4f}   {verdict}"
    ).rstrip()


def check_peers(peers: Sequence[str]) -> None:
    """Check the names of peers.

    Raises:
        NbftError: A name is not in `SIDES`.
    """
    if unknown := set(peers) - set(SIDES):
        raise NbftError(f"against={', '.join(sorted(unknown))}: choose from {', '.join(SIDES)}.")


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
        task: The task to train.
        peers: Names from `SIDES`.
        rounds: How often each side trains.
        what: Name of the task.
        pythons: Python of another environment by name of a side, for systems that need other
            versions of the libraries than nbft does.
        say: Called with a line of text after each training: its result and the time left.

    Raises:
        NbftError: nbft itself failed, or a peer is unknown.
    """
    check_peers(peers)
    reasons = {name: SIDES[name].why_unavailable(task, elsewhere=name in pythons) for name in peers}
    notes = [reason for reason in reasons.values() if reason]
    results: dict[str, list[Trained]] = {"nbft": []}
    results.update({name: [] for name, reason in reasons.items() if not reason})
    queue = list(results) * rounds
    seconds: dict[str, float] = {}
    done = 0
    say(
        f"{count(len(queue), 'training')} of {count(task.steps, 'step')} each. "
        "Each result comes with the time left."
    )
    while queue:
        name = queue.pop(0)
        began = time.monotonic()
        try:
            results[name].append(train_side(name, task, pythons.get(name)))
            line = f"{SIDES[name].name}: {_progress(name, results)}"
        except NbftError as error:
            if name == "nbft":
                raise
            notes.append(f"{SIDES[name].name} failed: {error}")
            line = notes[-1].rstrip(".") + "."
            del results[name]
            queue = [other for other in queue if other != name]
        seconds[name] = time.monotonic() - began
        done += 1
        say(f"{done} of {done + len(queue)}, {line}{_time_left(queue, seconds)}")
    ours = results.pop("nbft")
    machine = about_machine(task.device)
    pairs = [_compared(what, SIDES[n].name, ours, t, machine) for n, t in results.items()]
    return Comparisons(pairs, notes, ours[-1])


def _progress(name: str, results: Mapping[str, list[Trained]]) -> str:
    """Describe a side's last round, and how nbft compares so far."""
    last = results[name][-1]
    text = f"{count(last.tokens_per_second)} tokens/s, {size(last.peak_bytes)}"
    if name == "nbft":
        return f"{text}."
    rounds = list(zip(results["nbft"], results[name], strict=True))
    if not all(losses_agree(ours, theirs) for ours, theirs in rounds):
        return f"{text}; its losses differ from nbft's."
    ratio = statistics.median(a.tokens_per_second / b.tokens_per_second for a, b in rounds)
    return f"{text}; nbft is {ratio:.2f} × as fast."


def _time_left(queue: Sequence[str], seconds: Mapping[str, float]) -> str:
    """Estimate the time for the rest from the trainings so far.

    A side that has not trained yet counts as the mean of the others. That is often too little,
    since nbft trains first.
    """
    if not queue:
        return ""
    mean = statistics.mean(seconds.values())
    about = "About" if set(queue) <= set(seconds) else "At least"
    return f" {about} {duration(sum(seconds.get(name, mean) for name in queue))} left."


def train_side(
    name: str, task: Task, python: str | None = None, *, timeout_seconds: float | None = None
) -> Trained:
    """Train one side in its own process.

    Args:
        name: Name of the side.
        task: The task to train.
        python: Python of another environment, which gets a copy of this package; None uses this
            environment.
        timeout_seconds: Time after which the process is ended; never if None.

    Raises:
        NbftError: It failed; the message is the last line of its output.
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
                timeout=timeout_seconds,
            )
        except subprocess.TimeoutExpired:
            why = f"{SIDES[name].name} was ended after {duration(timeout_seconds or 0)}."
            raise NbftError(why) from None
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
        clock["operators"],
    )


def _compared(
    what: str, peer: str, ours: list[Trained], theirs: list[Trained], machine: dict[str, Any]
) -> Comparison:
    rounds = list(zip(ours, theirs, strict=True))
    agree = all(losses_agree(a, b) for a, b in rounds)
    ratios = [a.tokens_per_second / b.tokens_per_second for a, b in rounds]
    cpu_ratios = [a.tokens_per_cpu_second / b.tokens_per_cpu_second for a, b in rounds]
    return Comparison(
        what=what,
        peer=peer,
        ratio=statistics.median(ratios) if agree else None,
        spread=(min(ratios), max(ratios)) if agree else None,
        cpu_ratio=statistics.median(cpu_ratios) if agree else None,
        memory_ratio=statistics.median(a.peak_bytes / b.peak_bytes for a, b in rounds),
        losses_agree=agree,
        ours=ours[-1],
        theirs=theirs[-1],
        machine=machine,
    )


def losses_agree(ours: Trained, theirs: Trained) -> bool:
    """Whether two sides saw the same tokens, started at the same loss, and stayed finite.

    Only the first loss is compared: within 0.01% where both sides compute in float32, and within 1%
    where one computes in 16 bits, as autocast does on float32 weights. Later losses differ because
    the adapters start from different random weights.
    """
    within = _FLOAT32_LOSS if ours.is_float32 and theirs.is_float32 else _OTHER_LOSS
    first, other = ours.losses[0], theirs.losses[0]
    finite = all(map(math.isfinite, (*ours.losses, *theirs.losses)))
    return finite and ours.tokens == theirs.tokens and abs(first - other) <= within * abs(other)


def about_machine(device: str) -> dict[str, Any]:
    """Return the hardware and the versions that a comparison ran on."""
    packages = ("torch", "transformers", "trl", "peft")
    return {
        "device": device,
        "name": available_devices().get(device, ""),
        "cores": usable_cores(),
        "system": platform.platform(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
    }
