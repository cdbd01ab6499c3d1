"""Starting a run: in this kernel, where the worker is a thread, or in the background.

`train` waits for the end, `train_async` waits without blocking, `start` does not wait; `submit`
starts a process that outlives this one, and `resume` continues an old run.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from nbft import events, facade, registry
from nbft.config import Config
from nbft.config.code import allow_code as consent_to
from nbft.errors import ConfigError, RunError
from nbft.launchers.detached import STARTING_SECONDS
from nbft.launchers.kernel import POLL_SECONDS, end_now, is_working, pause_for
from nbft.launchers.signals import Signals, end_by_exit, heard
from nbft.plan.cluster import trained_here
from nbft.presented import in_notebook
from nbft.runs.checkpoints import CONSENT, last_whole, step_of
from nbft.runs.folder import Run, list_runs
from nbft.runs.progress import status_words
from nbft.runs.requests import ask_to_stop


def start(config: Config | str | Path, *, allow_code: bool = False) -> Run:
    """Start a run in this kernel and return it at once; it waits for its device if necessary.

    Args:
        config: The config, or its path.
        allow_code: Consent to the code that the config names; see `Config.load`.

    Raises:
        ConfigError: Every problem that would stop the run.
    """
    run = _created(config, allow_code)
    end_by_exit()
    registry.launchers.get("kernel").start(run)
    return run


def _created(config: Config | str | Path, allow_code: bool) -> Run:
    folder, config = read_config(config, allow_code)
    return Run.create(trained_here(config), folder)


def submit(
    config: Config | str | Path, *, launcher: str | None = None, allow_code: bool = False
) -> Run:
    """Start a run in the background and return it at once.

    It survives this kernel, the page and the Jupyter server; `nbft.attach` shows it from anywhere.

    Args:
        config: The config, or its path.
        launcher: Key of `nbft.registry.launchers`; compute.launcher if None.
        allow_code: Consent to the code that the config names; see `Config.load`.

    Raises:
        ConfigError: Every problem that would stop the run.
    """
    folder, config = read_config(config, allow_code)
    if launcher is not None:
        on_cluster = {"compute.launcher": "slurm"}
        config = config.apply(on_cluster) if launcher == "slurm" else trained_here(config)
    found = registry.launchers.get(launcher) if launcher else _background(config)
    found.check(config)
    if config.speed.spare_worker:
        found.prepare()
    run = Run.create(config, folder)
    found.start(run)
    return run


def resume(run: Run, changes: Mapping[str, Any] | None = None) -> Run:
    """Continue a run in the background; see `Run.resume`."""
    with _starting(run):
        if not (run.is_over or run.state.is_released):
            on = f" on {host}" if (host := run.state.host) else ""
            raise RunError(f"{run.id}: is {run.status}{on}; there is nothing to resume.")
        if run.status == "completed" and not changes:
            why = f" {run.state.reason}" if run.state.reason else ""
            raise RunError(
                f"{run.id}: is completed.{why} To train longer, change "
                f"{'what ended it' if why else 'its length'}: "
                'run.resume({"training.max_steps": …}).'
            )
        if last_whole(run.path) is None and run.step:
            raise RunError(f"{run.id}: has no complete checkpoint to resume from. Start a new run.")
        _change(run, dict(changes or {}))
        _take_over(run)
        _background(run.config).start(run, run.state.supervisor.get("python"))
    return run


def look(run: Run, cluster: str) -> None:
    """Find out whether a run that waits in the queue of a cluster still does."""
    registry.launchers.get(cluster).look(run)


def withdraw(run: Run, cluster: str) -> None:
    """Take a run out of the queue of a cluster."""
    registry.launchers.get(cluster).withdraw(run)


def retry(run: Run, config: Config) -> Run:
    """Start a run in the background with other settings than an earlier one; see `Run.retry`."""
    found = _background(config)
    found.check(config)
    new = Run.create(config)
    found.start(new, run.state.supervisor.get("python"))
    return new


def _background(config: Config) -> Any:
    """Return the launcher of background runs; one in the kernel would end with it."""
    name = config.compute.launcher
    return registry.launchers.get("process" if name == "kernel" else name)


@contextlib.contextmanager
def _starting(run: Run) -> Iterator[None]:
    """Keep other processes, on other machines too, from starting the same run.

    Raises:
        RunError: Another process is starting the run, or its folder cannot be written.
    """
    from filelock import SoftFileLock, Timeout

    # A file that is created: this works on every file system. After a crash another process of this
    # machine takes it over at once, others when no start can take so long.
    path = run.path / "starting"
    lock = SoftFileLock(path, timeout=0)
    try:
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > STARTING_SECONDS:
                path.unlink(missing_ok=True)
        lock.acquire()
    except Timeout:
        raise RunError(f"{run.id}: is being started by another process.") from None
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise RunError(f"{run.id}: cannot be started: {reason}.") from None
    try:
        yield
    finally:
        lock.release()


def _take_over(run: Run) -> None:
    """Say that a run of a silent machine goes on here; if it still trains there, it ends."""
    state = run.state
    if state.host and not state.is_released:
        words = status_words("lost", state.host, state.heard)
        events.append(run.path / "commands.jsonl", "cancel")
        events.append(run.events_path, "warning", text=f"Resumed here after {words}.")


CHANGEABLE = ("logging.", "checkpoint.", "evaluation.", "tracking.", "callbacks.")
_INTERRUPTED = ("stopped", "failed", "lost")
_LENGTH = (
    *("training.max_steps", "training.num_train_epochs", "training.stop_on_nan", CONSENT),
    *("training.max_seconds", "training.max_tokens"),
    *("training.max_energy_kwh", "training.max_cost_usd", "compute.price_usd_per_hour"),
)


def _change(run: Run, changes: Mapping[str, Any]) -> None:
    """Change settings of a resumed run that do not affect its earlier steps.

    Consent to changed contents is for one attempt.

    Raises:
        RunError: A setting may not change, or the run cannot go on from its checkpoint.
    """
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
    now = run.config
    config = now.apply({CONSENT: False, **changes})
    if (checkpoint := last_whole(run.path)) is not None:
        from nbft.runs.provenance import check_resume

        try:
            is_completed = run.status == "completed"
            check_resume(config, checkpoint, step_of(checkpoint), is_completed=is_completed)
        except ConfigError as error:
            raise RunError([f"{run.id}: {problem}" for problem in error.problems]) from None
    if config != now:
        config.save(run.path / "config.yaml", full=True)


def read_config(
    config: Config | str | Path, allow_code: bool = False
) -> tuple[Path | None, Config]:
    """Return a config and the folder of its file, if it has one."""
    if not isinstance(config, Config):
        folder = Path(config).expanduser().absolute().parent
        return folder, Config.load(config, allow_code=allow_code)
    if allow_code:
        consent_to(config)
    return None, config


def train(
    config: Config | str | Path,
    *,
    show: bool | None = None,
    resume: Literal["auto"] | None = None,
    allow_code: bool = False,
) -> Run:
    """Train here and wait for the end.

    An interrupt (■, Ctrl-C), SIGTERM or SIGHUP stops after the current step, with a checkpoint; a
    second one at once. After SIGTERM and SIGHUP the process ends as it would have without nbft.

    In a notebook the cell shows the run live. Elsewhere nothing is printed.

    Args:
        config: The config, or its path.
        show: Show the run live; in notebooks when None.
        resume: "auto" continues the newest run of the same settings that did not complete.
        allow_code: Consent to the code that the config names; see `Config.load`.

    Returns:
        The finished run.

    Raises:
        ConfigError: Every problem that would stop the run; nothing was started.
    """
    run = _interrupted(config) if resume == "auto" else None
    starting: contextlib.AbstractContextManager[None] | None
    if run is None:
        run, starting = _created(config, allow_code), None
    else:
        starting = _going_on(run, config)

    def begin_showing() -> Callable[[], object] | None:
        is_shown = show if show is not None else in_notebook()
        return _monitor(run).update if is_shown else None

    train_and_wait(run, begin_showing, starting).pass_on()
    return run


@contextlib.contextmanager
def _going_on(run: Run, config: Config | str | Path) -> Iterator[None]:
    """Start an interrupted run again in the block.

    Raises:
        RunError: Another process has started it, or it cannot go on.
    """
    with _starting(run):
        if run.status not in _INTERRUPTED:
            raise RunError(f"{run.id}: was resumed by another process; it is {run.status}.")
        _change(run, {CONSENT: read_config(config)[1].training.resume_despite_changes})
        _take_over(run)
        yield


def train_and_wait(
    run: Run,
    begin_showing: Callable[[], Callable[[], object] | None],
    starting: contextlib.AbstractContextManager[None] | None = None,
) -> Signals:
    """Train a run in this process, wait for its end, and return the signals that came meanwhile.

    Args:
        run: The run.
        begin_showing: Called once it has started; returns what shows its news, called repeatedly.
        starting: What is held while it starts; nothing if None.
    """
    with heard() as signals:
        with starting or contextlib.nullcontext():
            registry.launchers.get("kernel").start(run)
        show_news = begin_showing() or (lambda: None)
        while is_working(run) and not signals.is_second:
            show_news()
            pause_for(run)
            stop_at_first(run, signals)
        if is_working(run):
            end_now([run.path])
        show_news()
    return signals


def stop_at_first(run: Run, signals: Signals) -> None:
    """Ask a run in this process to stop once a signal has come, and say so."""
    if signals.first is None or signals.is_passed_on or not is_working(run):
        return
    signals.is_passed_on = True
    has_stepped = not run.state.is_before_first_step
    when = "after this step, with a checkpoint" if has_stepped else "before the first step"
    text = f"Stopping {when}. Interrupt again to end at once."
    with contextlib.suppress(OSError):
        # Said before it is asked: the thread that trains may be through all its last stages at once.
        events.append(run.events_path, "command", command="stop", step=run.step, text=text)
    ask_to_stop(run.path, signals.first.name)


def _interrupted(config: Config | str | Path) -> Run | None:
    """Return the newest run of the same settings that ended early and can be resumed."""
    from nbft.runs.folder import self_contained

    folder, config = read_config(config)
    config = trained_here(config)
    wanted = self_contained(config, None, folder).to_dict(full=True)
    for run in list_runs(config.training.output_dir):
        with contextlib.suppress(ConfigError):
            settings = run.config.to_dict(full=True)
            for name in ("run_name", "resume_despite_changes"):
                settings["training"][name] = wanted["training"][name]
            if config.distributed.num_processes is None:  # a run keeps the number that it had
                settings["distributed"]["num_processes"] = wanted["distributed"]["num_processes"]
            if settings == wanted and run.status in _INTERRUPTED and last_whole(run.path):
                return run
    return None


async def train_async(
    config: Config | str | Path, *, show: bool | None = None, allow_code: bool = False
) -> Run:
    """Train here; `await` it, and the kernel and the buttons stay free.

    Arguments, result and errors as in `train`.
    """
    run = _created(config, allow_code)
    with heard() as signals:
        registry.launchers.get("kernel").start(run)
        monitor = None
        if show if show is not None else in_notebook():
            monitor = _monitor(run, interactive=True)
        is_cancelled = False
        while is_working(run) and not signals.is_second:
            if monitor is not None:
                monitor.update()
            try:
                await asyncio.sleep(POLL_SECONDS)
            except asyncio.CancelledError:
                signals.take(signal.SIGINT)
                is_cancelled = True
            stop_at_first(run, signals)
        if is_working(run):
            end_now([run.path])
        if monitor is not None:
            monitor.update()
    signals.pass_on()
    if is_cancelled:
        raise asyncio.CancelledError
    return run


def _monitor(run: Run, *, interactive: bool = False) -> Any:
    monitor = facade.monitor(run, interactive=interactive)
    monitor.show()
    run._is_shown = True  # as the value of the same cell it is not shown again
    return monitor
