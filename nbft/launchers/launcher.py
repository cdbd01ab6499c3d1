"""`Launcher`: one way to start the worker of a run. Loads nothing heavy at import."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from nbft.runs.folder import Run


class Launcher:
    """One way to start the worker of a run; a subclass in its own file overrides what differs.

    Every launcher starts the same worker with the same folder, so whoever follows the events of a
    run need not know it.

    Attributes:
        title: Where the run trains, for people.
    """

    title: ClassVar[str]

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
