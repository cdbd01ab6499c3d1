"""Signals that ask a process to end: they are counted, and whoever trains decides what they mean.

The first stops a run after its step, with a checkpoint; the second at once. A signal that was
ignored, as under nohup, stays ignored.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType

from nbft.runs.requests import GOES_ON, is_training_thread

HEARD = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)

_ONE_REQUEST_SECONDS = 1.0
"""A closed terminal sends SIGHUP twice, and a logout SIGTERM and SIGHUP, within milliseconds."""


class Signals:
    """The signals of one process.

    Attributes:
        first: The first; None before it.
        is_second: Whether another has come, which means at once.
        is_passed_on: Whether the run was asked to stop.
    """

    def __init__(self) -> None:
        self.first: signal.Signals | None = None
        self.is_second = self.is_passed_on = False
        self._at = 0.0

    def take(self, number: int, _frame: FrameType | None = None) -> None:
        """Count a signal."""
        now = time.monotonic()
        if self.first is None:
            self.first, self._at = signal.Signals(number), now
            return
        if GOES_ON in os.environ:
            return  # a cluster repeats itself, and kills when it cannot wait any longer
        is_repeated = number == self.first and self.first.name != "SIGHUP"
        self.is_second |= is_repeated or now - self._at > _ONE_REQUEST_SECONDS

    def pass_on(self) -> None:
        """Send a signal of the system to this process again, for those who heard it before."""
        if self.first is not None and self.first != signal.SIGINT:
            signal.raise_signal(self.first)


@contextlib.contextmanager
def heard() -> Iterator[Signals]:
    """Count signals for the block instead of being interrupted by them.

    Outside the main thread none arrive. The earlier handlers are restored.
    """
    signals = Signals()
    before = {}
    try:
        if threading.current_thread() is threading.main_thread():
            for number in HEARD:
                if signal.getsignal(number) not in (None, signal.SIG_IGN):
                    before[number] = signal.signal(number, signals.take)
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def end_by_exit() -> None:
    """Let a signal that would kill this process end it as `sys.exit` does, from now on.

    Whatever is saved when Python ends is then saved: a run that trains while nobody waits for it.
    """
    if threading.current_thread() is threading.main_thread():
        for number in HEARD:
            if signal.getsignal(number) == signal.SIG_DFL:
                signal.signal(number, _exit)


def _exit(number: int, _frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


def listen(act: Callable[[Signals], None]) -> None:
    """Call a function in a thread of its own after each signal, from now on.

    The main thread trains and hears nothing in the middle of a long operation.
    """
    signals = Signals()
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    heard_here = [n for n in HEARD if signal.getsignal(n) not in (None, signal.SIG_IGN)]
    for number in heard_here:
        signal.signal(number, lambda *_: None)

    def wait() -> None:
        while number := os.read(reading, 1):
            if number[0] in heard_here:
                signals.take(number[0])
                act(signals)

    threading.Thread(target=wait, name="signals", daemon=True).start()


def _end_like_others() -> None:
    """Hear nothing in a process forked by a training, such as a loader of rows.

    An interrupt of a terminal or a kernel reaches it too, but the step still needs it.
    """
    if not is_training_thread():
        return
    with contextlib.suppress(ValueError):
        signal.set_wakeup_fd(-1)
        for number in HEARD:
            is_interrupt = number == signal.SIGINT
            signal.signal(number, signal.SIG_IGN if is_interrupt else signal.SIG_DFL)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_end_like_others)
