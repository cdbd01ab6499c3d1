"""Several machines that train one run, and what they tell each other in its folder, which all see.

The first has the run. Its worker starts the processes of its own machine and says in
`ranks/start.json` how the others reach them. On each other machine a follower starts that machine's
processes, says every second that it is there, and reports the first process that ends badly. Called
by `nbft.launchers.ranks` and the launchers of clusters.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbft.reading import read_bytes
from nbft.training.ranks import LOST_SECONDS

_BEAT_SECONDS = 1.0
_POLL_SECONDS = 0.2
_MOST_BYTES = 1_000_000
_COUNT, _ATTEMPT, _ADDRESS = "NBFT_NODES", "NBFT_ATTEMPT", "NBFT_ADDRESS"

Ending = dict[str, Any]
"""The kind and the fields of a run's last event."""


@dataclass(frozen=True)
class Nodes:
    """The machines of a run.

    Attributes:
        count: How many there are.
        attempt: Tells this start of the run from others, whose files may still be there.
        address: Where the others reach the first.
    """

    count: int = 1
    attempt: str = ""
    address: str = ""

    @classmethod
    def here(cls) -> Nodes:
        """Return what the environment of a worker says."""
        environment = os.environ
        count = int(environment.get(_COUNT, "1"))
        return cls(count, environment.get(_ATTEMPT, ""), environment.get(_ADDRESS, ""))

    def variables(self) -> dict[str, str]:
        """Return the environment variables that say so to a worker."""
        return {_COUNT: str(self.count), _ATTEMPT: self.attempt, _ADDRESS: self.address}

    def rendezvous(self, ranks: Path) -> str:
        """Return the URL through which the processes find each other.

        Args:
            ranks: Folder of the processes.
        """
        if self.count == 1:
            return f"file://{ranks / 'rendezvous'}"
        with socket.socket() as probe:
            probe.bind(("", 0))
            return f"tcp://{self.address}:{probe.getsockname()[1]}"

    def say_start(self, run: Path, processes: int, rendezvous: str) -> None:
        """Let the followers start their processes; called by the first machine."""
        if self.count > 1:
            about = {"attempt": self.attempt, "processes": processes, "rendezvous": rendezvous}
            _write(run / "ranks" / "start.json", about)

    def say_over(self, run: Path) -> None:
        """Let the followers end; called by the first machine."""
        if self.count > 1:
            (run / "ranks").mkdir(exist_ok=True)
            _write(run / "ranks" / "over.json", {"attempt": self.attempt})

    def is_over(self, run: Path) -> bool:
        """Whether the first machine has said so in this attempt."""
        return _read(run / "ranks" / "over.json").get("attempt") == self.attempt

    def wait_for_start(self, run: Path) -> tuple[int, str] | None:
        """Return number of processes and rendezvous once the first has begun; None if it is over."""
        while not self.is_over(run):
            about = _read(run / "ranks" / "start.json")
            if about.get("attempt") == self.attempt:
                return int(about["processes"]), str(about["rendezvous"])
            time.sleep(_POLL_SECONDS)
        return None


class Follower:
    """What a follower says to the first machine.

    Args:
        run: The run's folder.
        number: Number of its machine, from 1.
    """

    def __init__(self, run: Path, number: int) -> None:
        self._path = run / "ranks" / f"node-{number}.json"
        self._beats, self._beat_at = 0, 0.0
        self._ending: Ending | None = None

    def beat(self) -> None:
        """Say that it is there, at most once a second."""
        if time.monotonic() - self._beat_at >= _BEAT_SECONDS:
            self._beats, self._beat_at = self._beats + 1, time.monotonic()
            with contextlib.suppress(OSError):  # the disk may be full for a while
                _write(self._path, {"beats": self._beats, "ending": self._ending})

    def report(self, ending: Ending) -> None:
        """Report how one of its processes ended."""
        self._ending = self._ending or ending
        self._beat_at = 0.0
        self.beat()


class Others:
    """What the first machine hears of the others.

    Args:
        run: The run's folder.
        nodes: The machines.
    """

    def __init__(self, run: Path, nodes: Nodes) -> None:
        self._paths = [run / "ranks" / f"node-{number}.json" for number in range(1, nodes.count)]
        self._count = nodes.count
        self._heard: dict[Path, tuple[int, float]] = {}

    def ending(self) -> Ending | None:
        """Return why the run ends, if another machine says so or says nothing any more."""
        for number, path in enumerate(self._paths, start=2):
            about, now = _read(path), time.monotonic()
            if isinstance(ending := about.get("ending"), dict):
                return ending
            beats, since = self._heard.get(path, (0, now))
            if about.get("beats", beats) != beats:
                self._heard[path] = int(about["beats"]), now
            elif beats and now - since > LOST_SECONDS:  # it may begin later than the first
                text = f"Node {number} of {self._count} does not answer any more."
                return {"event": "paused", "released": True, "text": text}
        return None


def _write(path: Path, about: dict[str, Any]) -> None:
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(about), encoding="utf-8")
    partial.replace(path)


def _read(path: Path) -> dict[str, Any]:
    """Return what a file says; {} if it is not there, or is something else."""
    try:
        about = json.loads(read_bytes(path, _MOST_BYTES))
    except (OSError, ValueError):
        return {}
    return about if isinstance(about, dict) else {}
