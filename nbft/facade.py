"""Where a lower layer hands over to a higher one: what people call on a config, a run or a value.

`config.export("oumi")`, `run.resume()` and the HTML of a comparison belong to their objects for who
calls them, but what they do stands above those.
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


def write_report(*arguments: Any) -> Any:
    """See `nbft.pages.report.write_report`."""
    from nbft.pages.report import write_report

    return write_report(*arguments)


def draw_histograms(*arguments: Any) -> Any:
    """See `nbft.pages.histograms.draw`."""
    from nbft.pages.histograms import draw

    return draw(*arguments)


def html(value: Any) -> str:
    """See `nbft.pages.html`."""
    from nbft import pages

    return pages.html(value)


def text(value: Any) -> str:
    """See `nbft.pages.text`."""
    from nbft import pages

    return pages.text(value)
