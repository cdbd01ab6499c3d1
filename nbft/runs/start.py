"""Starting a run in this kernel: the worker is a thread, and the kernel stays free.

`train` waits for the end, `train_async` waits without blocking, `start` does not wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from pathlib import Path
from typing import Any

from nbft.config import Config
from nbft.errors import RunError
from nbft.runs.folder import Run

_POLL_SECONDS = 0.2

_threads: dict[Path, threading.Thread] = {}


def start(config: Config | str | Path, **overrides: Any) -> Run:
    """Start a run in this kernel and return it at once.

    Args:
        config: The config, or a path of one.
        **overrides: Not taken; a misspelt argument is a TypeError.

    Raises:
        ConfigError: Every problem that would stop the run.
        RunError: Another run trains in this kernel already.
    """
    if overrides:
        raise TypeError(f"start() takes a config; {', '.join(overrides)} is no argument of it.")
    for path, thread in list(_threads.items()):
        if thread.is_alive():
            raise RunError(
                f"{path.name} trains in this kernel already. Wait for its end, or stop it: "
                f"nbft.attach({str(path)!r}).stop()."
            )
        del _threads[path]
    folder = None
    if not isinstance(config, Config):
        folder, config = Path(config).expanduser().absolute().parent, Config.load(config)
    run = Run.create(config, folder)
    from nbft.train.worker import work

    thread = threading.Thread(target=work, args=(run.path,), name=run.id, daemon=True)
    _threads[run.path] = thread
    thread.start()
    return run


def train(config: Config | str | Path, *, show: bool | None = None) -> Run:
    """Train here and wait for the end; an interrupt stops gracefully, with everything saved.

    In a notebook the cell shows the run live. Elsewhere nothing is printed.

    Args:
        config: The config, or a path of one.
        show: Show the run live; in notebooks when None.

    Returns:
        The run, over: its status says how.

    Raises:
        ConfigError: Every problem that would stop the run; nothing was started.
    """
    run = start(config)
    monitor = _monitor(run) if (show if show is not None else _in_notebook()) else None
    wait(run, monitor)
    return run


def wait(run: Run, monitor: Any = None) -> None:
    """Wait for the end of a run in this kernel, updating a monitor from this thread.

    The first interrupt asks the run to stop and save; the second leaves it alone and returns.
    """
    thread = _threads.get(run.path)
    asked = False
    while thread is not None and thread.is_alive():
        try:
            if monitor is not None:
                monitor.update()
            thread.join(_POLL_SECONDS)
        except KeyboardInterrupt:
            if asked:
                return
            asked = True
            with contextlib.suppress(RunError):
                run.stop()
    if monitor is not None:
        monitor.update()


async def train_async(config: Config | str | Path, *, show: bool | None = None) -> Run:
    """Train here; `await` it, and the kernel and the buttons stay free.

    Arguments, result and errors as in `train`.
    """
    run = start(config)
    monitor = None
    if show if show is not None else _in_notebook():
        monitor = _monitor(run, interactive=True)
    try:
        while not run.is_over:
            if monitor is not None:
                monitor.update()
            await asyncio.sleep(_POLL_SECONDS)
    except (KeyboardInterrupt, asyncio.CancelledError):
        with contextlib.suppress(RunError):
            run.stop()
        wait(run, monitor)
    if monitor is not None:
        monitor.update()
    return run


def _monitor(run: Run, *, interactive: bool = False) -> Any:
    from nbft.widgets import Monitor

    monitor = Monitor(run, interactive=interactive)
    monitor.show()
    return monitor


def _in_notebook() -> bool:
    """Whether this runs in a kernel with a front end."""
    import sys

    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return shell is not None and hasattr(shell, "kernel")


def join(run: Run, timeout_seconds: float = 600) -> None:
    """Wait until the thread of a run has ended, with its memory given back.

    Raises:
        RunError: It has not after that time.
    """
    until = time.monotonic() + timeout_seconds
    thread = _threads.get(run.path)
    while thread is not None and thread.is_alive():
        if time.monotonic() > until:
            raise RunError(f"{run.id}: has not ended within {timeout_seconds:g} seconds.")
        thread.join(_POLL_SECONDS)
