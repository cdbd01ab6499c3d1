"""One of several processes of a run: `python -m nbft.launchers.rank RUN`.

Started by `nbft.launchers.ranks`. What the system asks of a run, it asks of the process that started
this one; when that has ended, this one ends too.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path

from nbft import events
from nbft.access import own_process
from nbft.launchers.signals import HEARD
from nbft.processes import set_title
from nbft.training.environment import redact_output
from nbft.training.ranks import Ranks
from nbft.training.worker import work

_POLL_SECONDS = 0.2


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(_POLL_SECONDS)
    os._exit(1)


if __name__ == "__main__":
    redact_output()
    logging.basicConfig(level=logging.WARNING)
    run, ranks, parent = Path(sys.argv[1]), Ranks.here(), int(sys.argv[2])
    for number in HEARD:
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=_end_with, args=[parent], daemon=True).start()
    own_process(run)
    set_title(f"training {run.name}, process {ranks.number + 1} of {ranks.count}")
    folder = ranks.folder(run)
    work(folder, owns_process=True, ranks=ranks)
    logging.shutdown()
    has_failed = events.read(folder / "events.jsonl")[-1]["event"] == "failed"
    os._exit(1 if has_failed and not ranks.is_first else 0)
