"""Giving one object a class of its own, as torch's `fully_shard` does with a module.

A function set on an instance stays bound to it: a `deepcopy` of the module would compute with the
weights of the original. A subclass is copied with it.
"""

from __future__ import annotations

import functools
from typing import Any


def extend(module: Any, part: type) -> None:
    """Let a module, or a callback, override methods of its class.

    Args:
        module: Its class becomes a subclass, of the same name.
        part: Holds the methods; they reach the module's own through `super()`.
    """
    base: Any = type(module)
    module.__class__ = _extended(base, part)


@functools.cache
def _extended(base: Any, part: type) -> type:
    members: dict[str, Any] = {"__module__": base.__module__}
    if "forward" in vars(part):
        members["forward"] = _with_signature(vars(part)["forward"], base.forward)
    return type(base.__name__, (part, base), members)


def _with_signature(function: Any, like: Any) -> Any:
    """Return a method that shows the signature of another: `generate` asks which arguments there are."""

    @functools.wraps(like)
    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        return function(self, *args, **kwargs)

    return forward
