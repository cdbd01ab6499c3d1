"""The shapes that rows come in, recognised by their columns.

Each `Format` says in words what it is and makes an `Example` of a row; the first that fits is
taken. Templates, functions and ready names come before all of them (`examples`). To know another
shape, add it to `FORMATS`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nbft.data.ready import alpaca_prompt

Row = Mapping[str, Any]
Turn = Mapping[str, str]


@dataclass(frozen=True)
class Example:
    """What one row gives.

    Attributes:
        prompt: Text that the model is given; "" for plain text.
        completion: Text that it learns to answer with.
        messages: Chat turns instead of both, for the model's chat template; () otherwise.
    """

    prompt: str = ""
    completion: str = ""
    messages: tuple[Turn, ...] = ()


class RowError(Exception):
    """What is wrong with a row, and what to do, in two sentences."""

    def __init__(self, why: str, fix: str) -> None:
        super().__init__(why, fix)
        self.why, self.fix = why, fix


@dataclass(frozen=True)
class Format:
    """A shape of rows.

    Attributes:
        name: What it is called, in words.
        columns: Columns that a row needs; of a group written "a|b", one.
        make: Makes the example of a row; raises RowError.
        learnt: What is learnt of a row, in words.
        texts: The columns that must be text, or empty when `make` sees to it.
        when: Whether a row has it, where the columns alone do not tell; None when they do.
        keeps: Whether a row is trained on at all; None when every row is.
        left_out: Why the others are not, in words.
    """

    name: str
    columns: tuple[str, ...]
    make: Callable[[Row], Example]
    learnt: str
    texts: frozenset[str] = field(default_factory=frozenset)
    when: Callable[[Row], bool] | None = None
    keeps: Callable[[Row], bool] | None = None
    left_out: str = ""

    def fits(self, columns: Sequence[str], row: Row) -> bool:
        """Whether rows with these columns, such as this one, have this shape."""
        return (self.when is None or self.when(row)) and all(
            any(one in columns for one in group.split("|")) for group in self.columns
        )


def recognise(columns: Sequence[str], row: Row) -> Format | None:
    """Return the format of rows with these columns, or None.

    Args:
        columns: The names of the columns.
        row: One of the rows, for shapes that differ in what a column holds.

    >>> recognise(["conversations"], {"conversations": []}).name
    'ShareGPT conversations'
    """
    return next((known for known in FORMATS if known.fits(columns, row)), None)


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _first(row: Row, names: str) -> str:
    """Return the text of the first of some columns that a row has."""
    return next((_text(row[name]) for name in names.split("|") if row.get(name)), "")


_ROLES = {
    "human": "user",
    "user": "user",
    "prompter": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bing": "assistant",
    "bard": "assistant",
    "model": "assistant",
    "assistant": "assistant",
    "function_call": "assistant",
    "system": "system",
    "observation": "tool",
    "function_response": "tool",
    "tool": "tool",
}
"""Names of the speakers, by their names in messages. Source: ShareGPT exports; LLaMA-Factory."""


def turns(value: Any, column: str) -> tuple[Turn, ...]:
    """Return the turns of a conversation as {"role", "content"}.

    Args:
        value: A list of turns with role and content (OpenAI), or from and value (ShareGPT).
        column: Where it stands, for messages.

    Raises:
        RowError: It is no such list, a speaker is unknown, or nobody answers.
    """
    if isinstance(value, Mapping):
        value = [value]
    found: list[Turn] = []
    for turn in value if isinstance(value, list) else [None]:
        role, text = None, None
        if isinstance(turn, Mapping):
            role = turn.get("role") or _ROLES.get(str(turn.get("from")).lower())
            text = turn.get("content", turn.get("value"))
            if role is None and turn.get("from"):
                raise RowError(
                    f'"{column}" has a turn from {turn["from"]!r}, which is no known speaker.',
                    "Known are human, gpt, system and tool.",
                )
        if not role or not isinstance(text, str):
            raise RowError(
                f'"{column}" is not a list of turns with role and content.',
                'Write [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}].',
            )
        found.append({"role": str(role), "content": text})
    return tuple(found)


def chat(found: tuple[Turn, ...]) -> Example:
    """Return the example of a conversation.

    Raises:
        RowError: Nobody answers in it.
    """
    if not any(turn["role"] == "assistant" for turn in found):
        raise RowError(
            'no message has the role "assistant", so nothing would be learnt.',
            "Add the answer.",
        )
    return Example(messages=found)


def _messages(row: Row) -> Example:
    return chat(turns(row.get("messages"), "messages"))


def sharegpt(row: Row) -> Example:
    """Return the example of a conversation as ShareGPT exports it."""
    found = turns(row.get("conversations"), "conversations")
    if row.get("system") and found[0]["role"] != "system":
        found = ({"role": "system", "content": str(row["system"])}, *found)
    return chat(found)


def _message_pair(row: Row) -> Example:
    prompt = turns(row.get("prompt"), "prompt") if row.get("prompt") else ()
    return chat((*prompt, *_answer(row.get("completion"), "completion")))


def _erniekit(row: Row) -> Example:
    from nbft.data.adapters import erniekit

    return erniekit(row)


def _answer(value: Any, column: str) -> tuple[Turn, ...]:
    if isinstance(value, str):
        return ({"role": "assistant", "content": value},)
    return turns(value, column)


def _chosen(row: Row) -> Example:
    """Return the better answer of a pair: to a prompt, to a conversation, or a whole one."""
    chosen = row.get("chosen")
    given = row.get("conversations") or row.get("messages") or row.get("prompt") or ()
    if isinstance(given, str) and isinstance(chosen, str):
        return Example(given, chosen)
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    before = turns(given, "prompt") if given else ()
    answer = _answer(chosen, "chosen")
    if before and answer[: len(before)] == before:  # the chosen conversation repeats the prompt
        before = ()
    return chat((*before, *answer))


def instruction(row: Row) -> Example:
    """Return the example of an instruction, in the words of Stanford Alpaca."""
    given = {"instruction": _text(row["instruction"]), "input": _first(row, "input|context")}
    return Example(alpaca_prompt(given), _first(row, "output|response"))


def templates(format_name: str, columns: Sequence[str]) -> tuple[str, str] | None:
    """Return the prompt and completion templates of a format, for rows with these columns.

    None for a format that no template can say.

    >>> templates("inputs and outputs", ["input", "target"])[1]
    '{target}'
    """
    if format_name not in _PAIRS:
        return None
    prompt, completion = _PAIRS[format_name]

    def chosen(group: re.Match[str]) -> str:
        return "{" + next(name for name in group[1].split("|") if name in columns) + "}"

    return re.sub(r"{(.+?)}", chosen, prompt), re.sub(r"{(.+?)}", chosen, completion)


def _pair(name: str, learnt: str) -> Format:
    prompt, completion = _PAIRS[name]
    groups = [re.findall(r"{(.+?)}", template)[0] for template in (prompt, completion)]
    before, after = re.split(r"{.+?}", prompt)

    def make(row: Row) -> Example:
        return Example(before + _first(row, groups[0]) + after, _first(row, groups[1]))

    texts = frozenset(column for group in groups for column in group.split("|"))
    return Format(name, tuple(groups), make, learnt, texts)


_PAIRS = {
    "questions and answers": (
        "Question: {question|query}\n\nAnswer:\n",
        "{answer|response}",
    ),
    "dialogues and summaries": (
        "Summarise this conversation.\n\n{dialogue}\n\nSummary:\n",
        "{summary}",
    ),
    "texts and summaries": (
        "Summarise.\n\n{document|article|text}\n\nSummary:\n",
        "{summary|highlights}",
    ),
    "inputs and outputs": ("{input}\n", "{output|target}"),
}
"""Formats that are a template each, the column being the first of a group that there is."""

FORMATS = (
    Format(
        "prompt and completion in messages",
        ("prompt", "completion"),
        _message_pair,
        "the completion is learnt",
        when=lambda row: any(isinstance(row.get(n), list) for n in ("prompt", "completion")),
    ),
    Format(
        "prompt and completion",
        ("prompt", "completion"),
        lambda row: Example(_text(row.get("prompt")), _text(row.get("completion"))),
        "the completion is learnt",
        frozenset({"prompt", "completion"}),
    ),
    Format(
        "preference pairs",
        ("chosen", "rejected"),
        _chosen,
        "only the chosen answers are learnt; the rejected ones are for preference training",
    ),
    Format(
        "feedback on messages",
        ("messages", "label"),
        _messages,
        "the assistant's turns are learnt",
        keeps=lambda row: bool(row.get("label")),
        left_out="labelled as bad answers",
    ),
    Format("messages", ("messages",), _messages, "the assistant's turns are learnt"),
    Format("ShareGPT conversations", ("conversations",), sharegpt, "gpt's turns are learnt"),
    Format(
        "ERNIEKit conversations",
        ("src", "tgt"),
        _erniekit,
        "the answers are learnt",
        when=lambda row: isinstance(row.get("src"), (str, list)),
    ),
    Format(
        "instructions",
        ("instruction", "output|response"),
        instruction,
        "the output is learnt",
        frozenset({"instruction", "input", "context", "output", "response"}),
    ),
    _pair("questions and answers", "the answer is learnt"),
    _pair("dialogues and summaries", "the summary is learnt"),
    _pair("texts and summaries", "the summary is learnt"),
    _pair("inputs and outputs", "the output is learnt"),
    Format(
        "plain text",
        ("text",),
        lambda row: Example(completion=_text(row.get("text"))),
        "all of it is learnt",
        frozenset({"text"}),
    ),
)
"""The shapes that are known, the most telling first."""
