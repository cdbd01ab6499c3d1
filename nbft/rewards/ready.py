"""Rewards that come with nbft. Each gives every answer a number from 0 to 1."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from nbft.errors import Problem
from nbft.evaluate.final_number import final_number
from nbft.rewards.load import RewardError, text


def exact_number(
    completions: Sequence[Any], references: Sequence[str], *, pattern: str = ""
) -> list[float]:
    r"""Return 1 for answers that end in the number that the wanted answer ends in, else 0.

    Args:
        completions: The answers.
        references: The wanted answers.
        pattern: Regular expression with one group around the part of an answer that holds the
            number; an answer without it gets 0. All of the answer when empty.

    >>> exact_number(["It is 7.0", "3 or 7", "none"], ["7", "3", "3"])
    [1.0, 0.0, 0.0]
    >>> exact_number(["<a>7</a> not 8", "7"], ["7", "7"], pattern="<a>(.*?)</a>")
    [1.0, 0.0]
    """
    if not any(reference.strip() for reference in references):
        why = "compares with the wanted answers, and the rows have none."
        raise RewardError(Problem("grpo.rewards", "exact_number", why, "Give rows with answers."))
    compiled = _compiled(pattern, "exact_number") if pattern else None
    rewards = []
    for completion, reference in zip(completions, references, strict=True):
        answer = text(completion)
        if compiled is not None:
            found = compiled.search(answer)
            answer = found[1] if found and compiled.groups else found[0] if found else ""
        number = final_number(answer)
        rewards.append(float(number is not None and number == final_number(reference)))
    return rewards


def contains(
    completions: Sequence[Any],
    references: Sequence[str],
    *,
    texts: Sequence[str] = (),
    ignore_case: bool = True,
) -> list[float]:
    """Return the share of some texts that stand in each answer.

    Args:
        completions: The answers.
        references: The wanted answers, used where no texts are given.
        texts: What is looked for.
        ignore_case: Whether capitals and small letters are alike.

    >>> contains(["Yes, Paris.", "No."], ["", ""], texts=["yes", "paris"])
    [1.0, 0.0]
    """

    def plain(words: str) -> str:
        return words.casefold() if ignore_case else words

    rewards = []
    for completion, reference in zip(completions, references, strict=True):
        wanted = [
            plain(one) for one in ([texts] if isinstance(texts, str) else texts or [reference])
        ]
        answer = plain(text(completion))
        rewards.append(sum(one in answer for one in wanted if one) / len(wanted))
    return rewards


def matches(completions: Sequence[Any], *, pattern: str) -> list[float]:
    """Return 1 for answers that a regular expression matches as a whole, else 0.

    Args:
        completions: The answers; spaces around them do not count.
        pattern: The regular expression; a dot stands for a line break, too.

    >>> matches(["<answer>7</answer>", "7"], pattern="<answer>.+</answer>")
    [1.0, 0.0]
    """
    compiled = _compiled(pattern, "format")
    return [float(compiled.fullmatch(text(one).strip()) is not None) for one in completions]


def length(
    completions: Sequence[Any],
    *,
    at_least: int = 0,
    at_most: int | None = None,
    unit: Literal["words", "characters"] = "words",
) -> list[float]:
    """Return 1 for answers of a wanted length, and less the further they are from it.

    An answer twice as long as the longest, or an empty one where a length is wanted, gets 0.

    Args:
        completions: The answers.
        at_least: Shortest length.
        at_most: Longest length; None for any.
        unit: What is counted.

    >>> length(["one two", "one two three", "one two three four"], at_most=2)
    [1.0, 0.5, 0.0]
    """
    rewards = []
    for completion in completions:
        answer = text(completion)
        size = len(answer.split()) if unit == "words" else len(answer)
        reward = 1.0
        if size < at_least:
            reward = size / at_least
        elif at_most is not None and size > at_most:
            reward = max(0.0, 1 - (size - at_most) / max(1, at_most))
        rewards.append(reward)
    return rewards


def json_schema(
    completions: Sequence[Any], *, schema: Mapping[str, Any] | None = None
) -> list[float]:
    """Return 1 for answers that are JSON and fit a schema, else 0.

    Args:
        completions: The answers; a fence of three backticks around them does not count.
        schema: A JSON schema; any JSON fits when empty. Needs the package jsonschema.

    >>> json_schema(['{"a": 1}', '{"a": "x"}', "a"], schema={"properties": {"a": {"type": "number"}}})
    [1.0, 0.0, 0.0]
    """
    is_valid = _validator(schema)
    rewards = []
    for completion in completions:
        answer = text(completion).strip()
        fenced = re.fullmatch(r"```(?:json)?\s*(.*?)\s*```", answer, re.DOTALL)
        try:
            rewards.append(float(is_valid(json.loads(fenced[1] if fenced else answer))))
        except ValueError:
            rewards.append(0.0)
    return rewards


def _validator(schema: Mapping[str, Any] | None) -> Callable[[Any], bool]:
    if not schema:
        return lambda value: True
    try:
        import jsonschema  # type: ignore[import-untyped]
    except ImportError as error:
        why, fix = "needs the package jsonschema.", "pip install jsonschema."
        raise RewardError(Problem("grpo.rewards", "json_schema", why, fix)) from error
    kind = jsonschema.validators.validator_for(schema)
    try:
        kind.check_schema(schema)
    except jsonschema.SchemaError as error:
        why = f"has a schema that is none ({error.message})."
        raise RewardError(Problem("grpo.rewards", "json_schema", why)) from error
    return kind(schema).is_valid  # type: ignore[no-any-return]


def _compiled(pattern: str, name: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern, re.DOTALL)
    except re.error as error:
        why = f"has the pattern {pattern!r}, which is no regular expression ({error})."
        raise RewardError(Problem("grpo.rewards", name, why, "Correct the pattern.")) from error
