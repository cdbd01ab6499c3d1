"""A worker as a process: `python -m nbft.launchers.worker RUN`.

Without a run it imports the libraries and waits for one. Started by the supervisor.
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
from nbft.launchers.ranks import work_or_spread
from nbft.launchers.signals import Signals, listen
from nbft.launchers.spare import log_to, wait_for_run
from nbft.processes import identity, set_title
from nbft.runs.requests import ask_to_stop, stopped_at_once
from nbft.training.environment import redact_output
from nbft.training.failure import last_step
from nbft.training.libraries import import_libraries


def _spare() -> Path:
    """Import the libraries, wait for a run and return it; exit if none will come."""
    own_process()
    set_title("spare worker")
    see_one_gpu()
    import_libraries(owns_process=True)
    run = wait_for_run()
    if run is None:
        os._exit(0)  # at once: a later run must find the pipe closed
    log_to(run)
    return run


def _obey(run: Path, signals: Signals) -> None:
    """Stop after the step at the first signal, and at once at the second."""
    assert signals.first is not None
    if not signals.is_second:
        ask_to_stop(run, signals.first.name)
        return
    ending = stopped_at_once(run, signals.first.name)
    with contextlib.suppress(OSError):
        path = run / "events.jsonl"
        events.append(path, ending.pop("event"), step=last_step(path), **ending, **identity())
    os._exit(128 + signals.first)


if __name__ == "__main__":
    redact_output()
    logging.basicConfig(level=logging.WARNING)
    run = Path(sys.argv[1]) if sys.argv[1:] else _spare()
    own_process(run)
    set_title(f"training {run.name}")
    listen(functools.partial(_obey, run))
    work_or_spread(run, owns_process=True)
    logging.shutdown()
    os._exit(0)  # everything is written; the libraries' cleanup would hold the device for seconds
