"""Work on a thread, with the result handed to the main one, which alone may touch widgets."""

from __future__ import annotations

import contextvars
import threading
from collections.abc import Callable
from typing import Any

from nbft.launchers.openmp import give_up_threads
from nbft.widgets.kernel import call_soon, main_loop


class Task:
    """Work that starts when the cell is done, so that the output of the cell is painted first.

    Where no loop runs, as in a script, it is done at once.

    Args:
        work: Called on the thread.
        then: Called on the main thread with the result.
        fail: Called on the main thread with the exception.
    """

    def __init__(
        self,
        work: Callable[[], Any],
        then: Callable[[Any], object],
        fail: Callable[[Exception], object],
    ) -> None:
        self._work, self._then, self._fail = work, then, fail
        self._result: tuple[Callable[[Any], object], Any] | None = None
        self._context = contextvars.copy_context()  # of the cell, for its displays
        self._thread: threading.Thread | None = None
        loop = main_loop()
        self._is_begun = loop is None
        if loop is not None:
            loop.call_soon(self._begin)
        else:
            self._do()
            self._hand_over()

    def wait(self) -> None:
        """Wait for the result and hand it over; only on the main thread."""
        self._begin()
        if self._thread is not None:
            self._thread.join()
        self._hand_over()

    def _begin(self) -> None:
        if not self._is_begun:
            self._is_begun = True
            give_up_threads()
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()

    def _run(self) -> None:
        self._do()
        call_soon(self._context.run, self._hand_over)

    def _do(self) -> None:
        try:
            self._result = self._then, self._work()
        except Exception as error:  # a thread's exception would be lost
            self._result = self._fail, error

    def _hand_over(self) -> None:
        """Hand the result over, once."""
        result, self._result = self._result, None
        if result is not None:
            take, value = result
            take(value)
