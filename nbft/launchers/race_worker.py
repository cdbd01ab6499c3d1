"""The worker of a race as a process: `python -m nbft.launchers.race_worker RACE`.

Started by the race's supervisor.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import sys
from pathlib import Path

from nbft import events
from nbft.access import own_process
from nbft.devices import see_one_gpu
from nbft.launchers.openmp import give_up_threads
from nbft.launchers.signals import Signals, listen
from nbft.processes import identity, set_title
from nbft.runs.folder import Run
from nbft.runs.race import Race
from nbft.runs.requests import ask_to_stop, stopped_at_once
from nbft.training.environment import redact_output
from nbft.training.failure import last_step
from nbft.training.libraries import import_libraries


def _obey(folder: Path, signals: Signals) -> None:
    """Stop all contestants after their steps at the first signal, and at once at the second."""
    assert signals.first is not None
    going = [run for run in Race(folder).runs if not run.is_over]
    for run in going:
        if signals.is_second:
            _end(run, signals.first.name)
        else:
            ask_to_stop(run.path, signals.first.name)
    if signals.is_second:
        os._exit(128 + signals.first)


def _end(run: Run, signal: str) -> None:
    ending = stopped_at_once(run.path, signal)
    with contextlib.suppress(OSError):
        step = last_step(run.events_path)
        events.append(run.events_path, ending.pop("event"), step=step, **ending, **identity())


if __name__ == "__main__":
    redact_output()
    logging.basicConfig(level=logging.WARNING)
    race = Path(sys.argv[1])
    own_process(race)
    set_title(f"training {race.name}")
    listen(functools.partial(_obey, race))
    see_one_gpu()
    import_libraries(owns_process=True)
    from nbft.training.racing import race as train

    train(race, give_up_threads)
    logging.shutdown()
    os._exit(0)  # everything is written; the libraries' cleanup would hold the device for seconds
