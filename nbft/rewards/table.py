"""Answers with their rewards: of a trial before the training, or of one of its steps.

Loads no library. Made by `nbft.try_rewards` and from the events of a run; shown by
`nbft.pages.rewarded`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, overload

from nbft.formatting import count
from nbft.presented import Presented


class Rewarded(NamedTuple):
    """An answer with its rewards.

    Attributes:
        prompt, completion: What was asked and answered, of messages the last.
        wanted: The wanted answer; "" if unknown.
        rewards: The value of each reward, by its name.
        reward: All of them, weighted.
        tokens: Tokens of the answer; 0 if unknown.
        is_cut: Whether it was cut at grpo.max_completion_length.
        advantage: What its tokens are trained with; None where nothing is trained.
    """

    prompt: str
    completion: str
    wanted: str
    rewards: Mapping[str, float]
    reward: float
    tokens: int = 0
    is_cut: bool = False
    advantage: float | None = None


class RewardTable(Presented, Sequence[Rewarded]):
    """Answers with their rewards, those to one prompt together.

    Args:
        rows: The answers.
        remarks: What to know about them; sentences.

    >>> rows = [Rewarded("2 + 2 =", text, "4", {"exact": value}, value)
    ...         for text, value in (("4", 1.0), ("5", 0.0))]
    >>> table = RewardTable(rows)
    >>> len(table), table.names, table.without_signal
    (2, ['exact'], 0)
    >>> table.means
    {'exact': 0.5}
    """

    def __init__(self, rows: Iterable[Rewarded], remarks: Sequence[str] = ()) -> None:
        self.rows, self._remarks = list(rows), list(remarks)

    @classmethod
    def of_event(cls, event: Mapping[str, Any]) -> RewardTable:
        """Return the answers of an event of the kind "completions"."""
        known = Rewarded._fields
        return cls(
            Rewarded(**{name: value for name, value in one.items() if name in known})
            for one in event["completions"]
        )

    @property
    def names(self) -> list[str]:
        """The names of the rewards."""
        return list(self.rows[0].rewards) if self.rows else []

    @property
    def groups(self) -> list[list[Rewarded]]:
        """The answers to each prompt."""
        return [list(group) for _, group in itertools.groupby(self.rows, lambda row: row.prompt)]

    @property
    def means(self) -> dict[str, float]:
        """The mean of each reward over all answers."""
        return {
            name: sum(row.rewards[name] for row in self.rows) / len(self.rows)
            for name in self.names
        }

    @property
    def without_signal(self) -> int:
        """Prompts whose answers have the same reward each, so that nothing is learned from them."""
        return sum(
            max(row.reward for row in group) - min(row.reward for row in group) < _EQUAL
            for group in self.groups
        )

    @property
    def remarks(self) -> list[str]:
        """Sentences on the rewards: no signal, one that never differs, answers that were cut."""
        return [*self._remarks, *self._seen()] if self.rows else self._remarks

    def _seen(self) -> Iterator[str]:
        groups, none = len(self.groups), self.without_signal
        if none:
            yield (
                f"No signal in {none:,} of {count(groups, 'prompt')}: all of its answers have the "
                "same reward, so nothing would be learned from them."
                if groups == 1
                else f"No signal in {none:,} of {count(groups, 'prompt')}: all answers to each of "
                "them have the same reward, so nothing would be learned from them."
            )
        for name in self.names:
            values = {round(row.rewards[name], 6) for row in self.rows}
            if len(values) == 1 and len(self.rows) > 1:
                yield f"{name} gives {values.pop():g} to every answer."
        if cut := sum(row.is_cut for row in self.rows):
            yield (
                f"{cut:,} of {count(len(self.rows), 'answer')} are cut at "
                "grpo.max_completion_length."
            )

    def to_dict(self) -> dict[str, Any]:
        """Return the answers, the mean of each reward, and the remarks, as JSON can hold them."""
        return {
            "answers": [{**row._asdict(), "rewards": dict(row.rewards)} for row in self.rows],
            "means": self.means,
            "prompts": len(self.groups),
            "prompts_without_signal": self.without_signal,
            "remarks": self.remarks,
        }

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, number: int) -> Rewarded: ...
    @overload
    def __getitem__(self, number: slice) -> RewardTable: ...
    def __getitem__(self, number: int | slice) -> Rewarded | RewardTable:
        if isinstance(number, slice):
            return RewardTable(self.rows[number])
        return self.rows[number]


_EQUAL = 1e-6
"""Rewards that differ by less are the same."""
