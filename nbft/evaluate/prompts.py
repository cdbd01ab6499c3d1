"""Prompts as people give them: texts, rows of a dataset, or examples. Called by runs and `nbft.ask`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nbft.config import Config
from nbft.data.examples import Example, load_examples, make_example
from nbft.data.tokens import encode
from nbft.errors import DataError, Problem
from nbft.evaluate.forecast import reference_of

Prompt = str | Mapping[str, Any] | Example
"""A text as the model was trained on it, a row of the dataset, or an example of `nbft.examples`."""


class Asked(NamedTuple):
    """One prompt to answer.

    Attributes:
        ids: Its token ids.
        text: Its text.
        wanted: The wanted answer; "" if unknown.
    """

    ids: list[int]
    text: str
    wanted: str = ""


def listed(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    """Return prompts as a list, one as a list of one."""
    if isinstance(prompts, (str, Mapping, Example)):
        return [prompts]
    return list(prompts)


def read_prompts(
    prompts: Sequence[Prompt],
    config: Config,
    tokenizer: Any,
    *,
    most_tokens: int | None = None,
    folder: Path | None = None,
) -> list[Asked]:
    """Return prompts as tokens; rows are rendered as those of the first training dataset.

    Args:
        prompts: Texts, rows (without an answer, too) or examples.
        config: Its data section says how a row becomes a prompt.
        tokenizer: The tokenizer.
        most_tokens: Longest prompt that leaves room for an answer; None if unknown.
        folder: Folder of the config file, for relative paths.

    Raises:
        DataError: A prompt is empty, too long, or no text, row or example; or the config names no
            rows.
    """
    asked = []
    for number, (prompt, texts) in enumerate(
        zip(prompts, _as_examples(prompts, config, folder), strict=True)
    ):
        one = _read(prompt, texts, tokenizer)
        field = f"prompts[{number}]"
        if not one.ids or not one.text.strip():
            raise DataError(
                Problem(field, None, "is empty.", "Write what the model should answer.")
            )
        if most_tokens is not None and len(one.ids) > most_tokens:
            why = f"has {len(one.ids):,} tokens; the model has room for {most_tokens:,}."
            raise DataError(
                Problem(field, None, why, "Shorten it, or use a smaller max_new_tokens.")
            )
        asked.append(one)
    return asked


def _read(prompt: Prompt, example: Example | None, tokenizer: Any) -> Asked:
    if example is None:
        return Asked(tokenizer([prompt])["input_ids"][0], str(prompt))
    (encoded,) = encode([example], tokenizer)
    ids = encoded.ids[: encoded.prompt_tokens]
    text = example.prompt or tokenizer.decode(ids, skip_special_tokens=False)
    return Asked(ids, text, reference_of(example))


def _as_examples(
    prompts: Sequence[Any], config: Config, folder: Path | None
) -> list[Example | None]:
    """Return the example of each row; None for texts."""
    part = None
    found: list[Example | None] = []
    for number, prompt in enumerate(prompts):
        if isinstance(prompt, Mapping):
            if part is None:
                part = load_examples(config, "train", folder=folder)[0].parts[0]
            found.append(make_example(part, prompt, f"prompts[{number}]"))
        elif isinstance(prompt, (str, Example)):
            found.append(None if isinstance(prompt, str) else prompt)
        else:
            why = f"is {type(prompt).__name__}, not a text, a row or an example."
            raise DataError(Problem(f"prompts[{number}]", prompt, why))
    return found
