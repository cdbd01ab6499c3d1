"""The queue of a device: one run at a time, the others wait in order of submission.

A ticket is a small file in the device's folder: `0-…` holds the device, `1-…` waits. It names its
process, so the device is free again when that process dies. The queue is for one person on one
machine. Loads nothing heavy.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from nbft import events
from nbft.models.find import cache_folder
from nbft.runs.processes import identity, lives

_POLL_SECONDS = 0.2


class Ticket:
    """A place in the queue of a device.

    Args:
        device: Name of the device, such as cpu or cuda.
        run: Folder of the run that waits.
    """

    def __init__(self, device: str, run: Path) -> None:
        self._run = run
        self._folder = queue_folder() / device
        self._folder.mkdir(parents=True, exist_ok=True)
        with _locked(self._folder):
            last = max((int(path.name[2:12]) for path in self._folder.glob("?-*.json")), default=0)
            # The number changes when others move up, so the ticket is found by the rest of its name.
            self._key = f"{run.name}-{os.getpid()}-{time.monotonic_ns()}"
            path = self._folder / f"1-{last + 1:010}-{self._key}.json"
            path.write_text(json.dumps({**identity(), "run": str(run)}), encoding="utf-8")

    def take(self) -> str | None:
        """Take the device if it is this ticket's turn; else return the run to wait for."""
        with _locked(self._folder):
            for path in _living(self._folder):
                if path.name.endswith(f"{self._key}.json"):
                    path.rename(path.with_name(f"0{path.name[1:]}"))
                    return None
                return Path(_about(path).get("run", "")).name
        return "a queue that lost this ticket"

    def hand_to(self, pid: int) -> None:
        """Hand the place to another process; it is kept while that process lives."""
        about = {**identity(pid), "run": str(self._run)}
        with _locked(self._folder):
            for path in self._folder.glob(f"?-*-{self._key}.json"):
                partial = path.with_suffix(".partial")
                partial.write_text(json.dumps(about), encoding="utf-8")
                partial.replace(path)

    def release(self) -> None:
        """Give back the device, or the place in the queue."""
        for path in self._folder.glob(f"?-*-{self._key}.json"):
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def turn(
    device: str, run: Path, waiting: Callable[[str], None], give_up: Callable[[], bool]
) -> Iterator[Ticket | None]:
    """Wait for a device, hold it for the block, and give it back.

    Args:
        device: Name of the device.
        run: Folder of the run.
        waiting: Called with the name of the run ahead whenever it changes.
        give_up: Called between checks; returns whether to leave the queue.

    Yields:
        The ticket that holds the device; None after giving up.
    """
    ticket = Ticket(device, run)
    reported: str | None = None
    try:
        while (ahead := ticket.take()) is not None:
            if ahead != reported:
                waiting(ahead)
                reported = ahead
            if give_up():
                yield None
                return
            time.sleep(_POLL_SECONDS)
        yield ticket
    finally:
        ticket.release()


def say_queued(run: Path, device: str) -> events.EventReader:
    """Record that this process supervises a run, and return the reader of its commands.

    Commands for an earlier attempt are skipped. Those written from now on are read, even while
    the worker is still loading.
    """
    commands = run / "commands.jsonl"
    begin = commands.stat().st_size if commands.exists() else 0
    events.keep_reserve(run)
    about = {**identity(), "device": device, "commands_bytes": begin}
    events.append(run / "events.jsonl", "queued", **about)
    return events.EventReader(commands, begin)


def move_up(run: Path) -> bool:
    """Move a waiting run up by one; return whether there was a place to move to."""
    for folder in queue_folder().glob("*/"):
        with _locked(folder):
            waiting = [path for path in _living(folder) if path.name.startswith("1-")]
            for before, path in zip(waiting, waiting[1:], strict=False):
                if _about(path).get("run") == str(run):
                    before.rename(before.with_name(f"{path.name[:12]}{before.name[12:]}"))
                    path.rename(path.with_name(f"{before.name[:12]}{path.name[12:]}"))
                    return True
    return False


def queue_folder() -> Path:
    """Return the folder of the queues: $NBFT_QUEUE, else queue in nbft's cache."""
    return Path(os.environ.get("NBFT_QUEUE") or cache_folder() / "queue")


def _living(folder: Path) -> list[Path]:
    """Return the tickets whose process is alive, the holder first; remove the others."""
    living = []
    for path in sorted(folder.glob("?-*.json")):
        about = _about(path)
        if about and lives(about["pid"], about["process_start_time"]):
            living.append(path)
        else:
            path.unlink(missing_ok=True)
    return living


def _about(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))  # type: ignore[no-any-return]
    except (OSError, ValueError):
        return {}


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, which the system releases when a process dies."""
    with (folder / "lock").open("w") as file:
        try:
            import fcntl
        except ImportError:  # on Windows the rename decides who is first
            yield
            return
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
