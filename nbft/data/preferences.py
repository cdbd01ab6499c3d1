"""Rows with a better and a worse answer: pairs, ranked lists and scored answers.

Called by `formats` and `adapters`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

from nbft.data import formats
from nbft.data.cells import is_missing, to_text
from nbft.data.continuation import shared_length
from nbft.data.formats import ANSWERS, Example, Row
from nbft.data.ready import alpaca_prompt
from nbft.data.turns import RowError, Turn, turns

_RANKS = "scores|ratings|rewards|ranks|rankings|rank"
"""Columns that hold a number for each answer; of those named rank, a small one is better."""

_TEXTS = ("text", "response", "content", "completion", "answer", "value")
_NUMBERS = ("overall_score", "score", "rating", "reward", "rank")
_MARGINS = (
    *(("score_chosen", "score_rejected"), ("chosen_score", "rejected_score")),
    *(("chosen_rating", "rejected_rating"), ("chosen-rating", "rejected-rating")),
    *(("chosen_reward", "rejected_reward"), ("chosen-score", "rejected-score")),
)
_LAST_SPEAKER = "\n\nAssistant:"
"""Comes before each answer in the texts of Anthropic's hh-rlhf."""


def pair(row: Row) -> Example:
    """Return two answers: to a prompt, to a conversation, or as two whole conversations or texts.

    Raises:
        RowError: There is no chosen answer.
    """
    chosen, rejected = row.get("chosen"), row.get("rejected")
    given = _given(row)
    if isinstance(chosen, str) and (isinstance(given, str) or not given):
        return _texts(row, given or "", chosen, rejected if isinstance(rejected, str) else None)
    before = turns(_asked(given), "prompt") if given else ()
    example = formats.chat(_answered(before, chosen, "chosen"), row)
    found = None
    with contextlib.suppress(RowError):  # methods that need it refuse rows without it
        if rejected:
            found = formats.with_system(_answered(before, rejected, "rejected"), row)
    return dataclasses.replace(
        example, rejected=found, margin=_margin(row), asked_margin=_asked_margin(row)
    )


def ranked(row: Row) -> Example:
    """Return the best and the worst of several answers to a prompt.

    Raises:
        RowError: There are fewer than two answers, or not a number for each.
    """
    column = _first(row, ANSWERS)
    answers = row[column]
    if not isinstance(answers, list) or len(answers) < 2:
        raise RowError(f'"{column}" is no list of two or more answers.', "Give at least two.")
    numbers = _numbers(row, column, answers)
    best, worst = extremes(numbers)
    texts = [_text(answer, column) for answer in (answers[best], answers[worst])]
    given = _given(row)
    plain = {**row, "chosen": texts[0], "rejected": texts[1]}
    example = pair({**plain, "prompt": given} if given else plain)
    return dataclasses.replace(example, margin=numbers[best] - numbers[worst])


def is_ranked(row: Row) -> bool:
    """Whether a row has several answers, with a number for each."""
    column = _first(row, ANSWERS)
    answers = row.get(column)
    if not isinstance(answers, list) or not answers:
        return False
    holds_numbers = isinstance(answers[0], Mapping) and _key(answers[0], _NUMBERS) is not None
    return holds_numbers or isinstance(row.get(_first(row, _RANKS)), list)


def _given(row: Row) -> Any:
    """Return the prompt of a pair: turns, a text, or nothing."""
    for name in ("prompt", "conversations", "messages"):
        if row.get(name):
            return row[name]
    if row.get("instruction"):
        parts = {name: to_text(row.get(name)) for name in ("instruction", "input")}
        return alpaca_prompt(parts)
    asked = to_text(row.get("question")) or to_text(row.get("query"))
    return f"Question: {asked}\n\nAnswer:\n" if asked else ""


def _texts(row: Row, prompt: str, chosen: str, rejected: str | None) -> Example:
    """Return a pair of texts; without a prompt, what both begin with is the prompt."""
    if not prompt and rejected is not None:
        prompt = _common_prompt(chosen, rejected)
        chosen, rejected = chosen[len(prompt) :], rejected[len(prompt) :]
    if system := to_text(row.get("system")) or to_text(row.get("system_prompt")):
        prompt = f"{system}\n\n{prompt}"
    return Example(
        prompt, chosen, rejected=rejected, margin=_margin(row), asked_margin=_asked_margin(row)
    )


def _common_prompt(chosen: str, rejected: str) -> str:
    """Return what two texts begin with, up to the last speaker or the last whole word.

    >>> _common_prompt("Why? Because it is.", "Why? Because I say so.")
    'Why? Because '
    """
    shared = chosen[: shared_length(chosen, rejected)]
    if (speaker := shared.rfind(_LAST_SPEAKER)) >= 0:
        return shared[: speaker + len(_LAST_SPEAKER)]
    if shared in (chosen, rejected):  # the shorter one has to have an answer
        shared = shared[:-1]
    return shared[: max(map(shared.rfind, " \n")) + 1]


def _asked(prompt: Any) -> Any:
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt


def _answered(before: tuple[Turn, ...], value: Any, column: str) -> tuple[Turn, ...]:
    """Return a conversation with its answer, which may repeat the turns before it."""
    answer = formats.answer(value, column)
    if before and answer[: len(before)] == before:
        return answer
    return (*before, *answer)


def _margin(row: Row) -> float | None:
    """Return how much higher the chosen answer is scored; None without scores."""
    for chosen, rejected in _MARGINS:
        if not is_missing(row.get(chosen)) and not is_missing(row.get(rejected)):
            return _number(row[chosen], chosen) - _number(row[rejected], rejected)
    return _asked_margin(row)


def _asked_margin(row: Row) -> float | None:
    return None if is_missing(row.get("margin")) else _number(row["margin"], "margin")


def _number(value: Any, column: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise RowError(f'has {value!r} in "{column}", which is no number.', "Write a score.")
    return number


def _numbers(row: Row, column: str, answers: Sequence[Any]) -> list[float]:
    """Return a number for each answer, higher for better ones."""
    if isinstance(answers[0], Mapping) and (key := _key(answers[0], _NUMBERS)):
        values = [answer.get(key) if isinstance(answer, Mapping) else None for answer in answers]
        name = key
    else:
        name = _first(row, _RANKS)
        values = row[name] if isinstance(row[name], list) else []
    if len(values) != len(answers):
        raise RowError(
            f'has {len(answers)} answers in "{column}" and {len(values)} numbers in "{name}".',
            "Give one number for each answer.",
        )
    sign = -1 if name.startswith("rank") else 1
    return [sign * _number(value, name) for value in values]


def extremes(numbers: Sequence[float]) -> tuple[int, int]:
    """Return the places of the best and the worst; of equal ones the first and the last."""
    places = range(len(numbers))
    return max(places, key=lambda n: numbers[n]), min(reversed(places), key=lambda n: numbers[n])


def _text(answer: Any, column: str) -> str:
    if isinstance(answer, Mapping):
        if (key := _key(answer, _TEXTS)) is None:
            raise RowError(f'has an answer without a text in "{column}".', 'Write {"text": "…"}.')
        answer = answer[key]
    return to_text(answer)


def _key(answer: Mapping[str, Any], names: Sequence[str]) -> str | None:
    return next((name for name in names if not is_missing(answer.get(name))), None)


def _first(row: Row, names: str) -> str:
    """Return the first of some columns that a row has; "" if it has none."""
    return next((name for name in names.split("|") if row.get(name)), "")
