"""Checks predictions in lessons: `nbft.check_prediction`. Loads no library; called by notebooks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any


@dataclass(frozen=True, repr=False)
class Feedback:
    """What is said about a prediction.

    Attributes:
        text: One or two sentences.
        is_right: Whether the prediction is right; None if there is none yet.
    """

    text: str
    is_right: bool | None

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return self.text


def check_prediction(
    prediction: Any,
    right: Any,
    hint: str = "",
    *,
    tolerance: float = 0.0,
    choices: Sequence[str] = (),
) -> Feedback:
    """Compare a reader's prediction with the right answer, without giving the answer away.

    A prediction that is missing or wrong raises nothing, so a notebook runs to its end.

    Args:
        prediction: What the reader wrote; `...`, None or an empty text if nothing yet.
        right: The right answer: a number, or a text, which is compared ignoring case and spaces.
        hint: Shown when the prediction is wrong.
        tolerance: How far a number may be off, in its own unit.
        choices: The texts to choose from, if there are only these.

    Raises:
        ValueError: The right answer is not one of the choices.

    >>> check_prediction(125, 250, "Each row is used twice.")
    Not quite: 125 is too low. Each row is used twice.
    >>> check_prediction("The end token", "the end token")
    Right.
    >>> check_prediction(0.4, 4 / 9, tolerance=0.05)
    Right: it is 0.444.
    """
    if choices and _folded(right) not in map(_folded, choices):
        raise ValueError(f"{right!r} is not one of the choices: {_listed(choices)}")
    if prediction is None or prediction is ... or not str(prediction).strip():
        return Feedback(
            "No prediction yet: replace the dots with your answer and run this again.", None
        )
    if choices and _folded(prediction) not in map(_folded, choices):
        return Feedback(f"{prediction!r} is not one of the choices: {_listed(choices)}.", False)
    if not _is_number(right):
        if _folded(prediction) == _folded(right):
            return Feedback("Right.", True)
        return Feedback(f"Not quite: {prediction!r} is not it. {hint}".strip(), False)
    number = _number(prediction)
    if number is None:
        why = "Write digits only, such as 1200; a comma separates two values in Python."
        return Feedback(f"{prediction!r} is not a number. {why}", False)
    if math.isclose(number, right):
        return Feedback("Right.", True)
    if abs(number - right) <= tolerance:
        return Feedback(f"Right: it is {_shown(right)}.", True)
    side = "low" if number < right else "high"
    return Feedback(f"Not quite: {_shown(number)} is too {side}. {hint}".strip(), False)


def _folded(text: Any) -> str:
    return "".join(str(text).casefold().split())


def _listed(choices: Sequence[str]) -> str:
    return ", ".join(map(repr, choices))


def _is_number(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _number(prediction: Any) -> float | None:
    """Return a prediction as a number; None if it is none."""
    if isinstance(prediction, str):
        try:
            return float(prediction.replace(",", ""))
        except ValueError:
            return None
    return float(prediction) if _is_number(prediction) else None


def _shown(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.3g}"
