"""The answers of the base model and of the tuned one, paired by their prompts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from nbft.presented import Presented


class Answer(NamedTuple):
    """One prompt, answered by the base model and by the tuned one."""

    prompt: str
    base: str
    tuned: str


class Comparison(Presented):
    """Answers of the base model and of the tuned one, shown side by side.

    Args:
        rows: Prompt, base answer and tuned answer of each.
        tuned: Heading of the tuned answers.

    >>> print(Comparison([("Say hi.", "No no.", "Hi.")]))
    prompt      Say hi.
    base model  No no.
    tuned       Hi.
    """

    def __init__(self, rows: Iterable[tuple[str, str, str]], tuned: str = "tuned") -> None:
        self.rows = [Answer(*row) for row in rows]
        self.tuned = tuned

    @classmethod
    def of_samples(
        cls,
        base: Sequence[Mapping[str, str]],
        latest: Sequence[Mapping[str, str]],
        tuned: str = "tuned",
    ) -> Comparison:
        """Pair two lists of {prompt, text}, as `sample` events hold them, by their prompts."""
        before = {sample["prompt"]: sample["text"] for sample in base}
        after = {sample["prompt"]: sample["text"] for sample in latest}
        return cls(
            [(prompt, before.get(prompt, ""), text) for prompt, text in after.items()]
            + [(prompt, text, "") for prompt, text in before.items() if prompt not in after],
            tuned,
        )

    def __len__(self) -> int:
        return len(self.rows)
