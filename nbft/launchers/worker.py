"""A worker as a process: `python -m nbft.launchers.worker RUN`.

Without a run it imports the libraries and waits for one. Started by the supervisor.
"""

from __future__ import annotations

import logging
import os
import sys
from pathlib import Path

from nbft.launchers.spare import log_to, wait_for_run
from nbft.training.libraries import import_libraries
from nbft.training.worker import work


def _spare() -> Path:
    """Import the libraries, wait for a run and return it; exit if none will come."""
    import_libraries(owns_process=True)
    run = wait_for_run()
    if run is None:
        os._exit(0)  # at once: a later run must find the pipe closed
    log_to(run)
    return run


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING)
    work(Path(sys.argv[1]) if sys.argv[1:] else _spare(), owns_process=True)
    logging.shutdown()
    os._exit(0)  # everything is written; the libraries' cleanup would hold the device for seconds
