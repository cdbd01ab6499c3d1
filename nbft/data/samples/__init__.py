"""Small data sets that come with nbft, so that a first training needs no network.

| name | a row | task |
|---|---|---|
| alpaca | instruction, input, output | follow an instruction, in short sentences |
| samsum | dialogue, summary | sum up a chat |
| gsm8k | question, answer | solve a school sum, step by step |
| grammar | input, target | correct a sentence |
| larger_number | numbers, larger | write the larger of two numbers between tags |

The first four are named after the kind of data set that they stand in for, and have the same fields;
the last is a task for training with rewards. Every row was written for nbft. `generate.py` says how. This module only finds the files; reading
them is the work of `nbft.data`.
"""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path

SAMPLES = ("alpaca", "samsum", "gsm8k", "grammar", "larger_number")
SPLITS = ("train", "test")


class UnknownSampleError(KeyError):
    """No sample, or no split, has this name."""

    def __str__(self) -> str:
        """Return the sentence itself; KeyError would put it in quotation marks."""
        return str(self.args[0])


def sample_path(name: str, split: str) -> Path:
    """Return where a bundled sample lies.

    Args:
        name: One of `SAMPLES`.
        split: One of `SPLITS`.

    Returns:
        The path of a JSON Lines file.

    Raises:
        UnknownSampleError: There is no such sample or split.

    >>> sample_path("gsm8k", "test").name
    'test.jsonl'
    """
    _require("name", name, SAMPLES)
    _require("split", split, SPLITS)
    return Path(__file__).parent / name / f"{split}.jsonl"


def _require(field: str, value: str, known: tuple[str, ...]) -> None:
    """Raise unless the value is a known one, naming the nearest."""
    if value in known:
        return
    nearest = get_close_matches(str(value), known, n=1)
    fix = f'Did you mean "{nearest[0]}"?' if nearest else f"Use one of {', '.join(known)}."
    raise UnknownSampleError(f"{field}={value!r}: no bundled sample has it. {fix}")
