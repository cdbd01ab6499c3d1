"""What a config will lead to: steps, tokens, bytes, seconds, and every problem. Loads no torch.

`make_plan` reads rows and so loads numpy, when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nbft.plan.plan import Plan, make_plan, probe

__all__ = ["Plan", "make_plan", "probe"]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'nbft.plan' has no attribute {name!r}")
    return getattr(importlib.import_module("nbft.plan.plan"), name)
