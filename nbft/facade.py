"""Where a lower layer hands over to a higher one: methods that people call on a config or a run.

`config.export("oumi")` and `run.resume()` read well, but what they do stands above configs and runs.
Nothing else in nbft imports upwards; `tests/unit/test_layers.py` holds that.
"""

from __future__ import annotations

from typing import Any


def import_file(*arguments: Any) -> Any:
    """See `nbft.interop.importer.import_file`."""
    from nbft.interop.importer import import_file

    return import_file(*arguments)


def export(*arguments: Any) -> Any:
    """See `nbft.interop.exporter.export`."""
    from nbft.interop.exporter import export

    return export(*arguments)


def to_python(*arguments: Any) -> Any:
    """See `nbft.interop.python.to_python`."""
    from nbft.interop.python import to_python

    return to_python(*arguments)


def start(*arguments: Any) -> Any:
    """See `nbft.launchers.launch.start`."""
    from nbft.launchers.launch import start

    return start(*arguments)


def submit(*arguments: Any) -> Any:
    """See `nbft.launchers.launch.submit`."""
    from nbft.launchers.launch import submit

    return submit(*arguments)


def resume(*arguments: Any) -> Any:
    """See `nbft.launchers.launch.resume`."""
    from nbft.launchers.launch import resume

    return resume(*arguments)


def monitor(run: Any, *, interactive: bool = False) -> Any:
    """Return what shows a run live; see `nbft.widgets.Monitor`."""
    from nbft.widgets import Monitor

    return Monitor(run, interactive=interactive)
