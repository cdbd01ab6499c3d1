"""How checks and advice report a problem with a setting."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from nbft.config import Config
from nbft.errors import Problem


def error(
    field: str,
    why: str,
    fix: str = "",
    changes: Mapping[str, Any] | None = None,
    *,
    use: Any = ...,
    value: Any = None,
    level: Literal["error", "warning"] = "error",
) -> Problem:
    """Return a problem with a setting that stops a run.

    Args:
        field: Path of the setting.
        why: What is wrong with its value. A sentence that continues after it.
        fix: What to do; made from `use` when empty.
        changes: Settings that fix it, by path.
        use: A better value, instead of changes.
        value: The current value; that of the config when None (`with_values`).
        level: "error", or "warning" to let the run start.
    """
    if use is not ...:
        changes = {field: use}
        fix = fix or _advice(use)
    return Problem(field, value, why, fix, changes or {}, level)


warning = functools.partial(error, level="warning")
"""Return a problem that does not stop a run; arguments as in `error`."""


def _advice(use: Any) -> str:
    if use is None:
        return "Leave it empty."
    if isinstance(use, bool):
        return f"Set it to {str(use).lower()}."
    return f"Use {use:g}." if isinstance(use, float) else f"Use {use}."


def with_values(problems: Iterable[Problem], config: Config) -> Iterator[Problem]:
    """Add the current value of each setting to the problems found with it."""
    for problem in problems:
        if problem.value is not None:
            yield problem
            continue
        value: Any = config
        for name in problem.field.split("."):
            value = getattr(value, name, None)
        yield replace(problem, value=None if value == {} else value)


def without_contradictions(problems: Sequence[Problem]) -> Iterator[Problem]:
    """Leave out warnings that propose another value for a setting than a problem that weighs more.

    Errors weigh more than warnings, and a change of several settings more than one of a single.
    """
    proposed: dict[str, Any] = {}
    kept = []
    for problem in sorted(problems, key=lambda each: (each.level != "error", -len(each.changes))):
        is_opposed = any(proposed.get(path, new) != new for path, new in problem.changes.items())
        if problem.level == "error" or not is_opposed:
            proposed = {**problem.changes, **proposed}
            kept.append(problem)
    return (problem for problem in problems if problem in kept)


def is_installed(package: str) -> bool:
    """Whether a package can be imported."""
    return importlib.util.find_spec(package) is not None
