"""Pairs of answers that a person has rated, kept in the folder of a run. Called by `chat`.

`preferences.jsonl` has a row for each pair, the better answer as chosen, which `training.method=dpo`
reads without a hint. `ties.jsonl` has the pairs of which neither is better: there is nothing to learn
from them. Both are a person's work, so deleting the run leaves them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from nbft.access import inherit
from nbft.atomic import replacing

PREFERENCES = "preferences.jsonl"
TIES = "ties.jsonl"


class Kept(NamedTuple):
    """A rating that is kept: the file, and the line in it."""

    file: Path
    line: str


class Rated(NamedTuple):
    """An answer that is rated.

    Attributes:
        title: What the model is called.
        text: The answer.
        prompt: What the model read, as text.
        turns: The same as turns of a conversation, if a chat template wrote it; [] otherwise.
    """

    title: str
    text: str
    prompt: str
    turns: list[dict[str, str]]


def keep_pair(run: Path, chosen: Rated, rejected: Rated) -> Kept:
    """Keep a pair, with what the better side read as its prompt.

    Raises:
        OSError: The file cannot be written.
    """
    about = {"chosen_model": chosen.title, "rejected_model": rejected.title}
    answers: dict[str, Any] = {"chosen": chosen.text, "rejected": rejected.text}
    if chosen.turns:
        answers = {name: [{"role": "assistant", "content": text}] for name, text in answers.items()}
    return _append(run / PREFERENCES, {"prompt": chosen.turns or chosen.prompt, **answers, **about})


def keep_tie(run: Path, left: Rated, right: Rated) -> Kept:
    """Keep two answers of which neither is better.

    Raises:
        OSError: The file cannot be written.
    """
    texts, models = [left.text, right.text], [left.title, right.title]
    row = {"prompt": left.turns or left.prompt, "texts": texts, "models": models}
    return _append(run / TIES, row)


def take_back(kept: Kept) -> None:
    """Remove a rating, unless a person has edited its line.

    Raises:
        OSError: The file cannot be written.
    """
    lines = _lines(kept.file)
    if kept.line not in lines:
        return
    del lines[len(lines) - 1 - lines[::-1].index(kept.line)]
    with replacing(kept.file) as new:
        new.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def counts(run: Path) -> tuple[int, int]:
    """Return how many pairs and how many ties the folder of a run holds."""
    return len(_lines(run / PREFERENCES)), len(_lines(run / TIES))


def _append(file: Path, row: Mapping[str, Any]) -> Kept:
    line = json.dumps(row, ensure_ascii=False)
    is_new = not file.exists()
    is_open = not is_new and file.read_bytes()[-1:] not in (b"", b"\n")  # a person has edited it
    with file.open("a", encoding="utf-8") as stream:
        stream.write(f"\n{line}\n" if is_open else f"{line}\n")
    if is_new:
        inherit(file)
    return Kept(file, line)


def _lines(file: Path) -> list[str]:
    try:
        text = file.read_text(encoding="utf-8")
    except OSError:
        return []
    return [line for line in text.split("\n") if line]
