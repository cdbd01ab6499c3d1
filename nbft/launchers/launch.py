"""Starting a run: in this kernel, where the worker is a thread, or in the background.

`train` waits for the end, `train_async` waits without blocking, `start` does not wait; `submit`
starts a process that outlives this one, and `resume` continues an old run.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from nbft import events, facade
from nbft.config import Config
from nbft.errors import ConfigError, RunError
from nbft.launchers import spare
from nbft.launchers.supervisor import report_waiting
from nbft.runs.folder import Run, list_runs
from nbft.runs.queue import say_queued, turn

_POLL_SECONDS = 0.2

_threads: dict[Path, threading.Thread] = {}


def start(config: Config | str | Path) -> Run:
    """Start a run in this kernel and return it at once; it waits for its device if necessary.

    Args:
        config: The config, or its path.

    Raises:
        ConfigError: Every problem that would stop the run.
    """
    folder, config = _read(config)
    run = Run.create(config, folder)
    _start_thread(run)
    return run


def submit(config: Config | str | Path) -> Run:
    """Start a run in the background and return it at once.

    It survives this kernel, the page and the Jupyter server; `nbft.attach` shows it from anywhere.

    Args:
        config: The config, or its path.

    Raises:
        ConfigError: Every problem that would stop the run.
    """
    folder, config = _read(config)
    if config.speed.spare_worker:
        spare.prepare()  # it imports its libraries while the config is checked
    run = Run.create(config, folder)
    _supervise(run)
    return run


def resume(run: Run, changes: Mapping[str, Any] | None = None) -> Run:
    """Continue a run in the background; see `Run.resume`."""
    if not (run.is_over or run.status == "paused"):
        raise RunError(f"{run.id}: is {run.status}; there is nothing to resume.")
    from nbft.runs.checkpoints import last_whole

    if run.status == "completed" and not changes:
        raise RunError(
            f"{run.id}: is completed. To train longer, change its length: "
            'run.resume({"training.max_steps": …}).'
        )
    if last_whole(run.path) is None and run.step:
        raise RunError(f"{run.id}: has no complete checkpoint to resume from. Start a new run.")
    _change(run, dict(changes or {}))
    _supervise(run)
    return run


CHANGEABLE = ("logging.", "checkpoint.", "evaluation.", "tracking.", "callbacks.")
_LENGTH = ("training.max_steps", "training.num_train_epochs", "training.stop_on_nan")


def _change(run: Run, changes: Mapping[str, Any]) -> None:
    """Change settings of a resumed run that do not affect its earlier steps."""
    refused = [path for path in changes if not (path.startswith(CHANGEABLE) or path in _LENGTH)]
    if refused:
        raise RunError(
            [
                f"{path}={changes[path]!r}: may not change on resume, because the steps before "
                "were trained without it. Start a new run, or change only "
                f"{', '.join(_LENGTH)} and what begins with {', '.join(CHANGEABLE)}"
                for path in refused
            ]
        )
    if changes:
        run.config.apply(changes).save(run.path / "config.yaml", full=True)


def _read(config: Config | str | Path) -> tuple[Path | None, Config]:
    """Return a config and the folder of its file, if it has one."""
    if isinstance(config, Config):
        return None, config
    return Path(config).expanduser().absolute().parent, Config.load(config)


def _supervise(run: Run) -> None:
    """Start the supervisor of a run and wait for its first event.

    A lock keeps two processes from starting the same run.

    Raises:
        RunError: Another process is starting the run, or the supervisor did not start.
    """
    lock = run.path / "starting"
    try:
        os.close(os.open(lock, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        if time.time() - lock.stat().st_mtime < _STARTING_SECONDS:
            raise RunError(f"{run.id}: is being started by another process.") from None
        lock.touch()
    try:
        reader = events.EventReader(run.events_path)
        reader.read()
        with (run.path / "log.txt").open("ab") as log:
            process = spare.take(run.path) or subprocess.Popen(
                [sys.executable, "-m", "nbft.launchers.supervisor", str(run.path)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        until = time.monotonic() + _STARTING_SECONDS
        while time.monotonic() < until:
            if reader.read():
                threading.Thread(target=process.wait, daemon=True).start()  # leaves no zombie
                return
            if process.poll() is not None:
                break
            time.sleep(0.01)
        raise RunError(f"{run.id}: the supervisor did not start. {run.log_tail(3)}")
    finally:
        lock.unlink(missing_ok=True)


_STARTING_SECONDS = 20.0


def _start_thread(run: Run) -> None:
    device = str(run.plan.get("device", {}).get("value", "cpu"))
    commands = say_queued(run.path, device)

    def work_in_turn() -> None:
        from nbft.training.worker import work

        def give_up() -> bool:
            return any(command["event"] in ("stop", "cancel") for command in commands.read())

        waiting = functools.partial(report_waiting, run.events_path, device)
        with turn(device, run.path, waiting, give_up) as ticket:
            if ticket is None:
                events.append(run.events_path, "cancelled", step=0, text="Left the queue.")
            else:
                work(run.path)

    thread = threading.Thread(target=work_in_turn, name=run.id, daemon=True)
    _threads[run.path] = thread
    thread.start()


def train(
    config: Config | str | Path, *, show: bool | None = None, resume: Literal["auto"] | None = None
) -> Run:
    """Train here and wait for the end; an interrupt stops gracefully, with everything saved.

    In a notebook the cell shows the run live. Elsewhere nothing is printed.

    Args:
        config: The config, or its path.
        show: Show the run live; in notebooks when None.
        resume: "auto" continues the newest run of the same settings that did not complete.

    Returns:
        The finished run.

    Raises:
        ConfigError: Every problem that would stop the run; nothing was started.
    """
    run = _interrupted(config) if resume == "auto" else None
    if run is None:
        run = start(config)
    else:
        _start_thread(run)
    monitor = _monitor(run) if (show if show is not None else _in_notebook()) else None
    wait(run, monitor)
    return run


def _interrupted(config: Config | str | Path) -> Run | None:
    """Return the newest run of the same settings that ended early and can be resumed."""
    from nbft.runs.checkpoints import last_whole
    from nbft.runs.folder import self_contained

    folder, config = _read(config)
    wanted = self_contained(config, None, folder).to_dict(full=True)
    for run in list_runs(config.training.output_dir):
        with contextlib.suppress(ConfigError):
            settings = run.config.to_dict(full=True)
            settings["training"]["run_name"] = wanted["training"]["run_name"]
            if (
                settings == wanted
                and run.status in ("stopped", "failed", "lost")
                and last_whole(run.path)
            ):
                return run
    return None


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
    monitor = facade.monitor(run, interactive=interactive)
    monitor.show()
    run._is_shown = True  # as the value of the same cell it is not shown again
    return monitor


def _in_notebook() -> bool:
    """Whether this runs in a kernel with a front end."""
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
