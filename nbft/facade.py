"""Where a lower layer hands over to a higher one: what people call on a config, a run or a value.

`config.export("oumi")`, `run.resume()` and the HTML of a comparison belong to their objects for
the caller, but what they do lives in a higher layer. Nothing else in nbft imports upwards;
`tests/unit/test_layers.py` checks that.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any


def _later(module: str, name: str) -> Callable[..., Any]:
    """Return a function that imports the named one when it is called."""

    def call(*arguments: Any, **options: Any) -> Any:
        return getattr(importlib.import_module(module), name)(*arguments, **options)

    return call


import_file = _later("nbft.interop.importer", "import_file")
export = _later("nbft.interop.exporter", "export")
export_run = _later("nbft.export.exporting", "export_run")
to_python = _later("nbft.interop.python", "to_python")
start = _later("nbft.launchers.launch", "start")
submit = _later("nbft.launchers.launch", "submit")
resume = _later("nbft.launchers.launch", "resume")
retry = _later("nbft.launchers.launch", "retry")
look = _later("nbft.launchers.launch", "look")
withdraw = _later("nbft.launchers.launch", "withdraw")
monitor = _later("nbft.widgets", "Monitor")
race = _later("nbft.widgets", "RaceView")
chat = _later("nbft.widgets", "Chat")
write_report = _later("nbft.pages.report", "write_report")
draw_histograms = _later("nbft.pages.histograms", "draw")
html = _later("nbft.pages", "html")
text = _later("nbft.pages", "text")
