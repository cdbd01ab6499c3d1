"""The errors that nbft raises, and `Problem`, the sentence they are made of.

    NbftError
    ├── ConfigError    a setting is wrong; holds every problem found, not only the first
    ├── DataError      the rows cannot be read, or would train nothing
    ├── ModelError     no source could give the model
    └── RunError       a run cannot do what was asked of it

A person's mistake is shown in a notebook as its sentences, without a traceback.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from nbft.redaction import redact, redact_text

_SHOWN_VALUE_CHARS = 80


@dataclass(frozen=True, repr=False)
class Problem:
    """One thing that is wrong, or doubtful, and what to do about it. No text of it holds a secret.

    Attributes:
        field: Dotted path of the setting, or the name of what is wrong.
        value: What stands there now; None when nothing does.
        why: What is wrong, with the numbers. A sentence.
        fix: What to do. A sentence.
        changes: Settings that mend it, by dotted path; empty when nothing can be proposed.
        level: An "error" stops a run, a "warning" does not.

    >>> print(Problem("training.max_steps", -5, "must be at least 1.", "Use 60."))
    training.max_steps=-5: must be at least 1. Use 60.
    """

    field: str
    value: Any
    why: str
    fix: str = ""
    changes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    level: Literal["error", "warning"] = "error"

    @property
    def sentence(self) -> str:
        """What is wrong and what to do, without the name of the field."""
        return redact_text(f"{self.why} {self.fix}".strip())

    def __str__(self) -> str:
        """Return `field=value: why fix`."""
        if self.value is None:
            return redact_text(f"{self.field}: {self.sentence}")
        value = redact(self.value, self.field)
        shown = repr(value)
        if len(shown) > _SHOWN_VALUE_CHARS and "/" in shown and "\n" not in str(value):
            shown = f"{shown[0]}…{shown[2 - _SHOWN_VALUE_CHARS :]}"  # a path's end is its name
        elif len(shown) > _SHOWN_VALUE_CHARS:
            shown = shown[: _SHOWN_VALUE_CHARS - 1] + "…"
        return f"{self.field}={shown}: {self.sentence}"

    def __repr__(self) -> str:
        return f"Problem({str(self)!r}, level={self.level!r})"


class NbftError(Exception):
    """Base of every error that nbft raises on purpose.

    Args:
        problems: What is wrong: sentences, `Problem`s, or one of either.
    """

    def __init__(self, problems: str | Problem | Iterable[str | Problem]) -> None:
        if isinstance(problems, (str, Problem)):
            problems = [problems]
        self.problems: list[str | Problem] = [
            redact_text(problem) if isinstance(problem, str) else problem for problem in problems
        ]
        super().__init__("\n".join(str(problem) for problem in self.problems))

    def _render_traceback_(self) -> list[str]:
        """Tell IPython to show the sentences alone: a mistake is not a crash of ours."""
        return [f"{type(self).__name__}: {self}"]


class ConfigError(NbftError):
    """One or more settings are wrong."""


class DataError(NbftError):
    """The data cannot be read, or would train nothing."""


class ModelError(NbftError):
    """A model or tokenizer could not be found or loaded."""


class RunError(NbftError):
    """A run cannot do what was asked of it."""
