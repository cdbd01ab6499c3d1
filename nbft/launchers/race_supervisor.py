"""The supervisor of a race: as `nbft.launchers.supervisor`, of several runs with one worker.

Started by `nbft.launchers.racing` as `python -m nbft.launchers.race_supervisor RACE`. The race takes
one ticket for its device.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from nbft import events
from nbft.access import own_process
from nbft.devices import names_to_take
from nbft.errors import RunError
from nbft.launchers.signals import Signals, heard
from nbft.launchers.supervisor import (
    leave_queue,
    memory_kills,
    report_end,
    report_failure,
    report_queued,
    start_worker,
)
from nbft.processes import identity, set_title
from nbft.queue import Ticket, say_queued, turn
from nbft.runs.race_record import changed_record, read_record
from nbft.runs.requests import stop_by

_POLL_SECONDS = 0.2
_BEAT_SECONDS = 20.0


class _Contestants:
    """The runs of a race, also those that join later.

    Args:
        folder: The race's folder.
        device: The device of the race.
    """

    def __init__(self, folder: Path, device: str) -> None:
        self._folder, self._device = folder, device
        self._commands: dict[Path, events.EventReader] = {}
        self._ends: dict[Path, events.Event] = {}
        self._worker: int | None = None
        self._beaten_at = time.monotonic()

    @property
    def runs(self) -> list[Path]:
        """The folders of the runs that are supervised."""
        return list(self._commands)

    def welcome(self) -> None:
        """Take in those that are new, and show other machines that all of them live."""
        for name in read_record(self._folder)["runs"]:
            run = self._folder.parent / name
            if run not in self._commands:
                self._commands[run] = say_queued(run, self._device)
                self._say_starting(run)
        if time.monotonic() - self._beaten_at > _BEAT_SECONDS:
            self._beaten_at = time.monotonic()
            for run in self.runs:
                with contextlib.suppress(OSError):
                    os.utime(run / "events.jsonl")

    def say_starting(self, worker: int) -> None:
        """Say that a worker trains the runs."""
        self._worker = worker
        for run in self.runs:
            self._say_starting(run)

    def _say_starting(self, run: Path) -> None:
        if self._worker is None:
            return
        with contextlib.suppress(OSError):  # on a full disk the worker waits and reports it
            text, process = "Waiting for its turn in the race …", identity(self._worker)
            events.append(run / "events.jsonl", "stage", stage="starting", text=text, **process)

    def say(self, text: str) -> None:
        """Say what the race waits for."""
        for run in self.runs:
            report_queued(run / "events.jsonl", text)

    def ends(self) -> dict[Path, events.Event]:
        """Return the first request to end of each run that has one."""
        for run, commands in self._commands.items():
            for command in commands.read():
                if command["event"] in ("stop", "cancel"):
                    self._ends.setdefault(run, command)
        return self._ends


def supervise(folder: Path, command: list[str]) -> None:
    """Supervise a race from the queue to the last event of each run.

    Args:
        folder: The race's folder.
        command: What starts its worker.
    """
    device = str(read_record(folder)["device"])
    set_title(f"supervising {folder.name}")
    contestants = _Contestants(folder, device)
    contestants.welcome()
    with heard() as signals:
        ends: dict[Path, events.Event] = {}

        def is_to_end() -> bool:
            contestants.welcome()
            ends.update(contestants.ends())
            if signals.first is not None:
                ends.update(dict.fromkeys(contestants.runs, stop_by(signals.first.name)))
            return ends.keys() >= {*contestants.runs}

        try:
            among = functools.partial(names_to_take, device)
            with turn(device, folder, contestants.say, is_to_end, among=among) as ticket:
                if ticket is None:
                    for run in contestants.runs:
                        leave_queue(run / "events.jsonl", ends[run])
                else:
                    _watch(contestants, ticket, command, signals)
        except Exception as error:
            for run in contestants.runs:
                report_failure(run / "events.jsonl", error)
        finally:
            with changed_record(folder) as record:
                record["is_over"] = True


def _watch(contestants: _Contestants, ticket: Ticket, command: list[str], signals: Signals) -> None:
    began, kills_before = time.monotonic(), memory_kills()
    worker = start_worker(command, ticket.uses)
    # If this process is killed, the worker keeps the device, and the status stays correct.
    with contextlib.suppress(RunError):
        ticket.hand_to(worker.pid)
    contestants.say_starting(worker.pid)
    while worker.poll() is None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            worker.wait(_POLL_SECONDS)
        contestants.welcome()
        if signals.first is not None and not signals.is_passed_on:
            signals.is_passed_on = True
            for run in contestants.runs:
                request = stop_by(signals.first.name)
                with contextlib.suppress(OSError):
                    events.append(run / "commands.jsonl", request.pop("event"), **request)
        if signals.is_second:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(worker.pid, signal.SIGKILL)
    for run in contestants.runs:
        report_end(
            run,
            worker,
            seconds=round(time.monotonic() - began, 1),
            second=signals.first.name if signals.is_second and signals.first else "",
            has_killed=memory_kills() > kills_before,
        )


if __name__ == "__main__":
    race = Path(sys.argv[1])
    own_process(race)
    supervise(race, [sys.executable, "-m", "nbft.launchers.race_worker", str(race)])
