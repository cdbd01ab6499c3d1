"""Processes that outlive the one that starts them."""

from __future__ import annotations

import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nbft.access import inherit

STARTING_SECONDS = 20.0
"""Longest time from the start of a process to its first event."""

_POLL_SECONDS = 0.01


def start_detached(
    command: Sequence[str],
    log: Path,
    *,
    appends: bool = True,
    environment: Mapping[str, str] | None = None,
) -> subprocess.Popen[bytes]:
    """Start a process in a session of its own, so that no signal to this one reaches it.

    Args:
        command: The command.
        log: File for what it prints.
        appends: Whether what is in the file stays.
        environment: Its environment variables; those of this process if None.

    Raises:
        OSError: It cannot be started, or the file cannot be written.
    """
    with log.open("ab" if appends else "wb") as stream:
        inherit(log)
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
            env=environment,
        )


def reap(process: subprocess.Popen[bytes]) -> None:
    """Wait for a process on a thread, so that it leaves no zombie."""
    threading.Thread(target=process.wait, daemon=True).start()


def has_begun(process: subprocess.Popen[bytes], hears: Callable[[], Any]) -> bool:
    """Wait until a process is heard of, and reap it in the end; return whether it was.

    Args:
        process: A process that has just been started.
        hears: Returns something true once it has said something.
    """
    until = time.monotonic() + STARTING_SECONDS
    while time.monotonic() < until:
        if hears():
            reap(process)
            return True
        if process.poll() is not None:
            break
        time.sleep(_POLL_SECONDS)
    return False
