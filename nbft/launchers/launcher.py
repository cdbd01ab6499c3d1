"""`Launcher`: one way to start the worker of a run. Loads nothing heavy at import."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from nbft.config import Config
    from nbft.runs.folder import Run


class Launcher:
    """One way to start the worker of a run; a subclass in its own file overrides what differs.

    Every launcher starts the same worker with the same folder, so whoever follows the events of a
    run need not know it.

    Attributes:
        title: Where the run trains, for people.
    """

    title: ClassVar[str]

    def check(self, config: Config) -> None:
        """Check whether a run can be started from here, before there is one.

        Raises:
            RunError: It cannot.
        """

    def prepare(self) -> None:
        """Get ready while a config is checked."""

    def start(self, run: Run, python: str | None = None) -> None:
        """Start the worker of a run, and return once its first event is written.

        Args:
            run: The run.
            python: The Python of the run that this one continues or repeats; a launcher of
                processes starts the worker with it.

        Raises:
            RunError: It did not start.
        """
        raise NotImplementedError

    def look(self, run: Run) -> None:
        """Find out whether a run that waits in the queue of a cluster still does."""

    def withdraw(self, run: Run) -> None:
        """Take a run out of the queue of a cluster."""
