"""Row formats, recognised by their columns.

Each `Format` makes an `Example` of a row; the first that fits is used. Templates, functions and
bundled samples take precedence (`examples`). To support another format, add it to `FORMATS`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nbft.data.ready import alpaca_prompt
from nbft.methods.method import Kind

Row = Mapping[str, Any]
Turn = Mapping[str, str]


@dataclass(frozen=True)
class Example:
    """A row as a method trains on it.

    Attributes:
        prompt: Text that the model is given; "" for plain text.
        completion: Text that it is trained to answer with.
        messages: Chat turns instead of both, for the model's chat template; () otherwise.
        rejected: A worse completion, or the turns of a worse conversation; None without one.
        label: Whether the answer is a good one; None without a label.
    """

    prompt: str = ""
    completion: str = ""
    messages: tuple[Turn, ...] = ()
    rejected: str | tuple[Turn, ...] | None = None
    label: bool | None = None

    @property
    def kind(self) -> Kind:
        """What it holds; each method accepts some kinds."""
        if self.rejected is not None:
            return "preference"
        if self.label is not None:
            return "feedback"
        if self.messages:
            return "conversation"
        return "pair" if self.prompt else "text"


class RowError(Exception):
    """A row cannot be used; says why and what to do, in two sentences."""

    def __init__(self, why: str, fix: str) -> None:
        super().__init__(why, fix)
        self.why, self.fix = why, fix


@dataclass(frozen=True)
class Format:
    """A row format.

    Attributes:
        name: Its name, in words.
        columns: Columns that a row needs; "a|b" stands for either of the two.
        make: Makes the example of a row; raises RowError.
        trained_on: What of a row is trained on, in words.
        texts: The columns that must be text; empty when `make` checks them.
        when: Whether a row has the format, where the columns alone do not tell.
        label: Whether a row's answer is a good one; None where the rows have no label.
    """

    name: str
    columns: tuple[str, ...]
    make: Callable[[Row], Example]
    trained_on: str
    texts: frozenset[str] = field(default_factory=frozenset)
    when: Callable[[Row], bool] | None = None
    label: Callable[[Row], bool] | None = None

    def fits(self, columns: Sequence[str], row: Row) -> bool:
        """Whether rows with these columns, such as this one, have this format."""
        return (self.when is None or self.when(row)) and all(
            any(name in columns for name in group.split("|")) for group in self.columns
        )


def recognise(columns: Sequence[str], row: Row) -> Format | None:
    """Return the format of rows with these columns, or None.

    Args:
        columns: The names of the columns.
        row: One of the rows, for formats that differ in what a column holds.

    >>> recognise(["conversations"], {"conversations": []}).name
    'ShareGPT conversations'
    """
    return next((known for known in FORMATS if known.fits(columns, row)), None)


def to_text(value: Any) -> str:
    """Return a value of a column as text; "" where it is missing."""
    return "" if value is None else str(value)


def _first(row: Row, names: str) -> str:
    """Return the text of the first of some columns that a row has."""
    return next((to_text(row[name]) for name in names.split("|") if row.get(name)), "")


_SPEAKERS = {
    "user": ("human", "user", "prompter"),
    "assistant": ("gpt", "chatgpt", "bing", "bard", "model", "assistant", "function_call"),
    "system": ("system",),
    "tool": ("observation", "function_response", "tool"),
}
"""Names of the speakers, by their roles. Source: ShareGPT exports; LLaMA-Factory."""

_ROLES = {speaker: role for role, speakers in _SPEAKERS.items() for speaker in speakers}


def turns(value: Any, column: str) -> tuple[Turn, ...]:
    """Return the turns of a conversation as {"role", "content"}.

    Args:
        value: A list of turns with role and content (OpenAI), or from and value (ShareGPT).
        column: Name of the column, for messages.

    Raises:
        RowError: It is not such a list, or a speaker is unknown.
    """
    if isinstance(value, Mapping):
        value = [value]
    conversation: list[Turn] = []
    for turn in value if isinstance(value, list) else [None]:
        role, text = None, None
        if isinstance(turn, Mapping):
            role = turn.get("role") or _ROLES.get(str(turn.get("from")).lower())
            text = turn.get("content", turn.get("value"))
            if role is None and turn.get("from"):
                raise RowError(
                    f'"{column}" has a turn from {turn["from"]!r}, which is not a known speaker.',
                    "Use human, gpt, system or tool.",
                )
        if not role or not isinstance(text, str):
            raise RowError(
                f'"{column}" is not a list of turns with role and content.',
                'Write [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}].',
            )
        conversation.append({"role": str(role), "content": text})
    return tuple(conversation)


def chat(conversation: tuple[Turn, ...]) -> Example:
    """Return the example of a conversation.

    Raises:
        RowError: Nobody answers in it.
    """
    if not any(turn["role"] == "assistant" for turn in conversation):
        raise RowError(
            'no message has the role "assistant", so there would be nothing to train on.',
            "Add the answer.",
        )
    return Example(messages=conversation)


def _messages(row: Row) -> Example:
    return chat(turns(row.get("messages"), "messages"))


def _labelled(row: Row) -> bool:
    return bool(row.get("label"))


def _feedback(row: Row) -> Example:
    return dataclasses.replace(_messages(row), label=_labelled(row))


def sharegpt(row: Row) -> Example:
    """Return the example of a conversation as ShareGPT exports it."""
    conversation = turns(row.get("conversations"), "conversations")
    if row.get("system") and conversation[0]["role"] != "system":
        conversation = ({"role": "system", "content": str(row["system"])}, *conversation)
    return chat(conversation)


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


def _preference(row: Row) -> Example:
    """Return two answers: to a prompt, to a conversation, or as two whole conversations."""
    chosen, rejected = row.get("chosen"), row.get("rejected")
    given = row.get("conversations") or row.get("messages") or row.get("prompt") or ()
    if isinstance(given, str) and isinstance(chosen, str):
        return Example(given, chosen, rejected=rejected if isinstance(rejected, str) else None)
    if isinstance(given, str):
        given = [{"role": "user", "content": given}]
    before = turns(given, "prompt") if given else ()

    def answered(value: Any, column: str) -> tuple[Turn, ...]:
        answer = _answer(value, column)
        if before and answer[: len(before)] == before:  # the conversation repeats the prompt
            return answer
        return (*before, *answer)

    example = chat(answered(chosen, "chosen"))
    with contextlib.suppress(RowError):  # methods that need it refuse rows without it
        if rejected:
            return dataclasses.replace(example, rejected=answered(rejected, "rejected"))
    return example


def instruction(row: Row) -> Example:
    """Return the example of an instruction, with the prompt of Stanford Alpaca."""
    given = {"instruction": to_text(row["instruction"]), "input": _first(row, "input|context")}
    return Example(alpaca_prompt(given), _first(row, "output|response"))


def templates(format_name: str, columns: Sequence[str]) -> tuple[str, str] | None:
    """Return the prompt and completion templates of a format, for rows with these columns.

    None for a format that no template expresses.

    >>> templates("inputs and outputs", ["input", "target"])[1]
    '{target}'
    """
    if format_name not in _PAIRS:
        return None
    prompt, completion = _PAIRS[format_name]

    def chosen(group: re.Match[str]) -> str:
        return "{" + next(name for name in group[1].split("|") if name in columns) + "}"

    return re.sub(r"{(.+?)}", chosen, prompt), re.sub(r"{(.+?)}", chosen, completion)


def _pair(name: str, trained_on: str) -> Format:
    prompt, completion = _PAIRS[name]
    groups = [re.findall(r"{(.+?)}", template)[0] for template in (prompt, completion)]
    before, after = re.split(r"{.+?}", prompt)

    def make(row: Row) -> Example:
        return Example(before + _first(row, groups[0]) + after, _first(row, groups[1]))

    texts = frozenset(column for group in groups for column in group.split("|"))
    return Format(name, tuple(groups), make, trained_on, texts)


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
"""Formats that are a template each; of a group of columns, the first that exists is used."""

FORMATS = (
    Format(
        "prompt and completion in messages",
        ("prompt", "completion"),
        _message_pair,
        "the completion is trained on",
        when=lambda row: any(isinstance(row.get(n), list) for n in ("prompt", "completion")),
    ),
    Format(
        "prompt and completion",
        ("prompt", "completion"),
        lambda row: Example(to_text(row.get("prompt")), to_text(row.get("completion"))),
        "the completion is trained on",
        frozenset({"prompt", "completion"}),
    ),
    Format("preference pairs", ("chosen", "rejected"), _preference, "both answers are trained on"),
    Format(
        "feedback on messages",
        ("messages", "label"),
        _feedback,
        "the assistant's turns are trained on",
        label=_labelled,
    ),
    Format("messages", ("messages",), _messages, "the assistant's turns are trained on"),
    Format("ShareGPT conversations", ("conversations",), sharegpt, "gpt's turns are trained on"),
    Format(
        "ERNIEKit conversations",
        ("src", "tgt"),
        _erniekit,
        "the answers are trained on",
        when=lambda row: isinstance(row.get("src"), (str, list)),
    ),
    Format(
        "instructions",
        ("instruction", "output|response"),
        instruction,
        "the output is trained on",
        frozenset({"instruction", "input", "context", "output", "response"}),
    ),
    _pair("questions and answers", "the answer is trained on"),
    _pair("dialogues and summaries", "the summary is trained on"),
    _pair("texts and summaries", "the summary is trained on"),
    _pair("inputs and outputs", "the output is trained on"),
    Format(
        "plain text",
        ("text",),
        lambda row: Example(completion=to_text(row.get("text"))),
        "all of it is trained on",
        frozenset({"text"}),
    ),
)
"""The known formats, the most specific first."""
