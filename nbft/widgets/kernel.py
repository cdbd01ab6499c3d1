"""The one thread of a kernel that may touch widgets, and how clicks reach it.

ipykernel 7.0 to 7.3 calls the handlers of a click on another thread; such a handler changes the
widgets on the main loop, through `call_soon`.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

_loop: asyncio.AbstractEventLoop | None = None


def is_main_thread() -> bool:
    """Whether widgets may be touched here."""
    return threading.current_thread() is threading.main_thread()


def main_loop() -> asyncio.AbstractEventLoop | None:
    """Return the loop of the main thread; None where there is none.

    It is noted whenever this is called from a cell, first when `nbft.widgets` is imported.
    """
    global _loop
    if is_main_thread():
        with suppress(RuntimeError):
            _loop = asyncio.get_running_loop()
    return None if _loop is None or _loop.is_closed() else _loop


def call_soon(function: Callable[..., object], *args: Any) -> None:
    """Call a function on the main thread: at the loop's next turn, or now if there is no loop.

    Raises:
        RuntimeError: Called from another thread, and no main loop was ever seen.
    """
    loop = main_loop()
    if loop is not None:
        loop.call_soon_threadsafe(function, *args)
    elif is_main_thread():
        function(*args)
    else:
        raise RuntimeError("No main loop is known. Import nbft.widgets in a cell first.")


def hear_while_busy(*widgets: Any) -> None:
    """Let clicks reach these widgets while a cell is running, on kernels that can.

    ipykernel 7.4 sends a widget's messages to the shell that opened it, which is the busy one,
    instead of the subshell that the front end chose. If that private method does not exist, nothing
    is changed.

    Source: ipykernel 7.4.0, comm/comm.py, BaseComm._reply_subshell_for.
    """
    for widget in widgets:
        if hasattr(widget.comm, "_reply_subshell_for"):
            widget.comm._reply_subshell_for = lambda _data, default: default


main_loop()
