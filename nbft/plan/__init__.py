"""What a config will lead to: steps, tokens, bytes, seconds, and every problem. Loads no torch.

`make_plan` reads rows and so loads numpy; who only asks for the device, as an import does, waits
for neither.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nbft.hardware import Choice
    from nbft.plan.plan import Plan, make_plan

__all__ = ["Choice", "Plan", "make_plan"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'nbft.plan' has no attribute {name!r}")
    module = "hardware" if name == "Choice" else "plan"
    return getattr(importlib.import_module(f"nbft.plan.{module}"), name)
