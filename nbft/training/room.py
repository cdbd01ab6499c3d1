"""Room on the disk of a run: whatever writes waits for it, says so, and goes on by itself.

Called by the worker, its trainer and its callbacks.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nbft import events
from nbft.formatting import size
from nbft.runs.requests import Requests, StopRequested
from nbft.training.failure import is_disk_full

_POLL_SECONDS = 0.1

EVENTS_BYTES = 1024 * 1024
"""Free space below which a run pauses: enough for the events of thousands of steps."""


class Room:
    """Waits for free space.

    Args:
        run: The run's folder.
        requests: While it waits, a run can be cancelled, and the system can end it.
    """

    def __init__(self, run: Path, requests: Requests) -> None:
        self.requests = requests
        self._run = run
        self._events = run / "events.jsonl"

    def wait(
        self, step: int, needed_bytes: int = EVENTS_BYTES, *, has_failed: bool = False
    ) -> events.Event | None:
        """Pause while there is not enough room; return the request that ended the pause, if any.

        Args:
            step: The current step.
            needed_bytes: What is about to be written.
            has_failed: Whether that did not fit just now, whatever room there is again.
        """
        if self.has(needed_bytes) and not has_failed:
            return None
        free = shutil.disk_usage(self._run).free
        with contextlib.suppress(OSError):
            events.append(
                self._events,
                "paused",
                step=step,
                released=False,
                text=f"The disk with {self._run} is full: {size(free)} are free, "
                f"{size(needed_bytes)} are needed. Free some space, and the run continues by "
                "itself.",
            )
        while has_failed or not self.has(needed_bytes):
            has_failed = False
            time.sleep(_POLL_SECONDS)
            waiting = self.requests.read()
            for request in list(waiting):
                if request["event"] == "cancel" or request.get("why"):
                    waiting.remove(request)
                    return request
        self.say("continued", step=step)
        return None

    def write(self, write: Callable[[], Any], step: int, needed_bytes: int) -> None:
        """Write something, again whenever the disk fills up meanwhile.

        Args:
            write: Leaves nothing incomplete behind.
            step: The current step.
            needed_bytes: The free space to wait for.

        Raises:
            StopRequested: The run was ended while it waited.
        """
        while True:
            try:
                write()
                return
            except Exception as error:
                if not is_disk_full(error, self._run):
                    raise
            request = self.wait(step, needed_bytes, has_failed=True)
            if request is not None:
                raise StopRequested(request)

    def say(self, event: str, **fields: Any) -> None:
        """Write an event, waiting while the disk is full: no event may be lost."""
        while True:
            try:
                events.append(self._events, event, **fields)
                return
            except OSError as error:
                if not events.is_disk_full(error):
                    raise
                time.sleep(_POLL_SECONDS)

    def has(self, needed_bytes: int) -> bool:
        """Whether there is so much room, and a reserve for events besides."""
        free = shutil.disk_usage(self._run).free
        return free >= needed_bytes and events.keep_reserve(self._run)
