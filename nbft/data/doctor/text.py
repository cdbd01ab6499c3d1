"""Chat markers of other models, special tokens and excerpts of texts.

Called by `measure` and `checks`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import yaml


@dataclass(frozen=True)
class Family:
    """The markers of a chat template; `families.yaml` says what each field means."""

    name: str
    marks: list[str]
    turn: re.Pattern[str]
    is_special: bool = True


FAMILIES = tuple(
    Family(**{**family, "turn": re.compile(family["turn"], re.DOTALL)})
    for family in yaml.safe_load(Path(__file__).with_name("families.yaml").read_text("utf-8"))
)

_ANY_MARK = re.compile("|".join(re.escape(mark) for one in FAMILIES for mark in one.marks))
_ROLES = {"model": "assistant", "human": "user", "gpt": "assistant"}


_LONGEST = 50_000
"""Longer texts, in characters, are not taken apart: that takes time with the square of it."""


def families_in(text: str) -> dict[str, int]:
    """Return the families whose markers a text contains, with the place of the first.

    >>> families_in("Hi <|im_start|>user and [INST]")
    {'ChatML': 3, 'Llama 2 and Mistral': 24}
    """
    found: dict[str, int] = {}
    for match in _ANY_MARK.finditer(text):
        family = next(one for one in FAMILIES if match[0] in one.marks)
        found.setdefault(family.name, match.start())
    return found


def whole_turns(text: str, family: Family) -> list[dict[str, str]]:
    r"""Return the turns that a text consists of in the markers of a family; empty for any other text.

    Nothing but spaces may stand outside of them, so that nothing is lost.

    >>> whole_turns("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYo<|im_end|>", FAMILIES[0])
    [{'role': 'user', 'content': 'Hi'}, {'role': 'assistant', 'content': 'Yo'}]
    >>> whole_turns("Note. <|im_start|>user\nHi<|im_end|>", FAMILIES[0])
    []
    """
    if len(text) > _LONGEST or family.turn.sub("", text).strip():
        return []
    return turns_in(text, family)


def without_marks(text: str, family: Family) -> str | None:
    r"""Return what a text says without the markers around it; None where that is not certain.

    It may be one turn, a turn and the start of the answer, or an answer and its end.

    >>> chatml = FAMILIES[0]
    >>> without_marks("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", chatml)
    'Hi'
    >>> without_marks("Yo<|im_end|>", chatml), without_marks("The mark <|im_end|> ends it.", chatml)
    ('Yo', None)
    """
    if len(text) > _LONGEST:
        return None
    found = [match.groupdict() for match in family.turn.finditer(text)]
    said = [
        value
        for groups in found
        for name, value in groups.items()
        if name != "role" and value is not None and value.strip()
    ]
    rest = family.turn.sub("", text).strip() if found else text
    if found and not rest and len(said) == 1:
        return said[0].strip()
    bare = text.strip() if text.strip().startswith(tuple(family.marks)) else text.rstrip()
    begin = next((mark for mark in family.marks if bare.startswith(mark)), "")
    end = next((mark for mark in family.marks if bare.endswith(mark)), "")
    bare = bare.removeprefix(begin).removesuffix(end)
    bare = (bare.lstrip() if begin else bare).rstrip()
    is_certain = (begin or end) and not found and not any(mark in bare for mark in family.marks)
    return bare if is_certain else None


def turns_in(text: str, family: Family) -> list[dict[str, str]]:
    r"""Return the turns that a text holds in the markers of a family; empty where it has no answer.

    >>> turns_in("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\nYo<|im_end|>", FAMILIES[0])
    [{'role': 'user', 'content': 'Hi'}, {'role': 'assistant', 'content': 'Yo'}]
    """
    turns = []
    for match in family.turn.finditer(text):
        found = {name: value for name, value in match.groupdict().items() if value is not None}
        if "role" in found:
            role = found["role"].lower()
            turns.append({"role": _ROLES.get(role, role), "content": found["content"].strip()})
        else:
            turns += [{"role": role, "content": text.strip()} for role, text in found.items()]
    is_answered = any(turn["role"] == "assistant" and turn["content"] for turn in turns)
    return turns if is_answered else []


def special_tokens(tokens: Iterable[str]) -> re.Pattern[str] | None:
    """Return what finds a model's special tokens in a text; None for a model without any."""
    written = sorted({token for token in tokens if token.strip()}, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, written))) if written else None


def excerpt(text: str, around: int = 0, width: int = 90) -> str:
    r"""Return the part of a text around a place on one line, what cannot be seen written out.

    >>> excerpt("One\ntwo \u200b three", 8)
    'One two \\u200b three'
    """
    start = max(0, min(around - width // 3, len(text) - width))
    piece = re.sub("[ \t\r\n]+", " ", text[start : start + width].strip())
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in piece)
    return f"{'…' if start else ''}{shown}{'…' if start + width < len(text) else ''}"
