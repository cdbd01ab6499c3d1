"""What people see in a notebook: forms, charts and buttons.

Names are imported on first use. The first import, in a cell, notes the kernel's main loop; see
`kernel`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

import nbft.widgets.kernel  # noqa: F401

if TYPE_CHECKING:
    from nbft.evaluate.compare import Comparison
    from nbft.widgets.chart import Chart, Series
    from nbft.widgets.chat import Chat
    from nbft.widgets.doctor import Findings
    from nbft.widgets.form import Form
    from nbft.widgets.lens import Lens, inspect
    from nbft.widgets.monitor import Monitor
    from nbft.widgets.race import RaceView

_MODULE_OF = {
    "Chart": "nbft.widgets.chart",
    "Chat": "nbft.widgets.chat",
    "Comparison": "nbft.evaluate.compare",
    "Findings": "nbft.widgets.doctor",
    "Form": "nbft.widgets.form",
    "Lens": "nbft.widgets.lens",
    "Monitor": "nbft.widgets.monitor",
    "RaceView": "nbft.widgets.race",
    "Series": "nbft.widgets.chart",
    "inspect": "nbft.widgets.lens",
}

__all__ = [
    "Chart",
    "Chat",
    "Comparison",
    "Findings",
    "Form",
    "Lens",
    "Monitor",
    "RaceView",
    "Series",
    "inspect",
]


def __getattr__(name: str) -> Any:
    if name in _MODULE_OF:
        return getattr(importlib.import_module(_MODULE_OF[name]), name)
    raise AttributeError(f"module 'nbft.widgets' has no attribute {name!r}")
