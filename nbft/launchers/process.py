"""Background runs: a supervisor starts the worker as a process, and both outlive this one."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from nbft import events
from nbft.decisions import sees_all_gpus
from nbft.errors import RunError
from nbft.launchers import spare
from nbft.launchers.detached import has_begun, start_detached
from nbft.launchers.interpreter import python_for, remember
from nbft.launchers.launcher import Launcher
from nbft.launchers.supervisor import worker_command

if TYPE_CHECKING:
    from nbft.runs.folder import Run


class Process(Launcher):
    """A process of its own on this machine."""

    title = "the background"

    def prepare(self) -> None:
        """Start a spare supervisor, which imports its libraries while the config is checked."""
        spare.prepare()

    def start(self, run: Run, python: str | None = None) -> None:
        """Start the supervisor of a run and wait for its first event.

        Args:
            run: The run.
            python: As in `Launcher.start`; used only if this user has started runs with it.

        Raises:
            RunError: This system is not POSIX, or the supervisor did not start.
        """
        if not hasattr(os, "killpg"):
            raise RunError(
                "Background runs need Linux or macOS. Train in this kernel: nbft.train(config), or "
                'nbft.train(config, resume="auto") to continue.'
            )
        remember()
        chosen, remark = python_for(python)
        if remark:
            events.append(run.events_path, "warning", text=remark)
        self._start_supervisor(run, chosen)

    def worker_command(self, run: Path) -> list[str]:
        """Return the command that starts the worker; by default the worker itself, in this Python.

        A launcher by an engine puts the engine's command before it.
        """
        return worker_command(run)

    def _start_supervisor(self, run: Run, python: str) -> None:
        reader = events.EventReader(run.events_path)
        reader.read()
        command = [
            python if part == sys.executable else part for part in self.worker_command(run.path)
        ]
        is_usual = command == worker_command(run.path) and not sees_all_gpus(run.config)
        waiting = spare.take(run.path) if is_usual else None
        process = waiting or start_detached(
            [python, "-m", "nbft.launchers.supervisor", str(run.path), *command],
            run.path / "log.txt",
        )
        if not has_begun(process, reader.read):
            raise RunError(f"{run.id}: the supervisor did not start. {run.log_tail(3)}")


LAUNCHER = Process()
