"""Answers of models to prompts, with the wanted answer where it is known.

Loads no library. Made by `nbft.ask` and by runs; shown by `nbft.pages.comparison`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple, overload

from nbft.evaluate.metrics import exact_match
from nbft.presented import Presented

_EMPTY = "(empty answer)"


class Answer(NamedTuple):
    """One prompt, answered by the base model and by the tuned one; `wanted` is "" if unknown."""

    prompt: str
    base: str
    tuned: str
    wanted: str = ""


class Reply(NamedTuple):
    """One prompt, answered by one model; `wanted` is "" if unknown."""

    prompt: str
    text: str
    wanted: str = ""


class Answered(NamedTuple):
    """One prompt with the answers of each model, as it is shown.

    Attributes:
        prompt: What was asked.
        wanted: The wanted answer; "" if unknown.
        texts: The answers, one for each model.
    """

    prompt: str
    wanted: str
    texts: tuple[str, ...]

    def is_right(self, text: str) -> bool:
        """Whether an answer is the wanted one, as the score "exact match" counts it."""
        return bool(self.wanted.strip()) and exact_match([text], [self.wanted])["exact_match"] == [
            1
        ]


class Comparison(Presented, Sequence[Answer]):
    """Answers of the base model and of the tuned one, shown side by side; a slice is one as well.

    Args:
        rows: Prompt, base answer, tuned answer and, where it is known, the wanted one.
        tuned: Heading of the tuned answers.
        base: Heading of the others.

    >>> print(Comparison([("Say hi.", "No no.", "Hi.", "Hi.")]))
    prompt      Say hi.
    wanted      Hi.
    base model  No no.
    tuned       Hi. (right)
    """

    def __init__(
        self,
        rows: Iterable[tuple[str, str, str] | tuple[str, str, str, str]],
        tuned: str = "tuned",
        base: str = "base model",
    ) -> None:
        self.rows = [Answer(*row) for row in rows]
        self.tuned, self.base = tuned, base

    @classmethod
    def of_samples(
        cls,
        base: Sequence[Mapping[str, str]],
        latest: Sequence[Mapping[str, str]],
        tuned: str = "tuned",
    ) -> Comparison:
        """Pair two lists of {prompt, text, wanted}, as `sample` events hold them, by their prompts.

        Equal prompts are paired in their order.
        """
        before, after = _by_prompt(base), _by_prompt(latest)
        rows = []
        for key in after | before:
            old, new = before.get(key, {}), after.get(key, {})
            wanted = (old | new).get("wanted", "")
            rows.append((key[0], old.get("text", ""), new.get("text", ""), wanted))
        return cls(rows, tuned)

    @property
    def models(self) -> tuple[str, ...]:
        """What the answers of each model are called."""
        return self.base, self.tuned

    @property
    def answered(self) -> list[Answered]:
        """The prompts with the answers of both models."""
        return [Answered(row.prompt, row.wanted, (row.base, row.tuned)) for row in self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, number: int) -> Answer: ...
    @overload
    def __getitem__(self, number: slice) -> Comparison: ...
    def __getitem__(self, number: int | slice) -> Answer | Comparison:
        if isinstance(number, slice):
            return Comparison(self.rows[number], self.tuned, self.base)
        return self.rows[number]


def _by_prompt(samples: Iterable[Mapping[str, str]]) -> dict[tuple[str, int], dict[str, str]]:
    """Return samples by their prompt and how many equal prompts stand before it."""
    seen: Counter[str] = Counter()
    by_prompt = {}
    for sample in samples:
        prompt = sample["prompt"]
        by_prompt[prompt, seen[prompt]] = dict(sample)
        seen[prompt] += 1
    return by_prompt


class Answers(Presented, Sequence[str]):
    """Answers of one model: a list of texts that shows them under their prompts.

    Args:
        rows: Prompt, answer and, where it is known, the wanted answer.
        model: What the model is called.
        remark: What to know about the prompts; a sentence, or "".

    >>> answers = Answers([("2 + 2 =", "5", "4")], "a-small-model")
    >>> print(answers)
    prompt         2 + 2 =
    wanted         4
    a-small-model  5
    >>> answers[0], answers == ["5"]
    ('5', True)
    """

    def __init__(
        self,
        rows: Iterable[tuple[str, str] | tuple[str, str, str]],
        model: str = "answer",
        remark: str = "",
    ) -> None:
        self.rows = [Reply(*row) for row in rows]
        self.model, self.remark = model, remark

    @property
    def models(self) -> tuple[str, ...]:
        """What the answers are called."""
        return (self.model,)

    @property
    def answered(self) -> list[Answered]:
        """The prompts with their answers; one that is empty says so."""
        return [
            Answered(row.prompt, row.wanted, (row.text if row.text.strip() else _EMPTY,))
            for row in self.rows
        ]

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, number: int) -> str: ...
    @overload
    def __getitem__(self, number: slice) -> Answers: ...
    def __getitem__(self, number: int | slice) -> str | Answers:
        if isinstance(number, slice):
            return Answers(self.rows[number], self.model, self.remark)
        return self.rows[number].text

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return list(self) == list(other)

    __hash__ = None  # type: ignore[assignment] # like a list
