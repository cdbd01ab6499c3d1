"""Row formats, recognised by their columns.

Each `Format` makes an `Example` of a row; the first that fits is used. Templates, functions and
bundled samples take precedence (`examples`). To support another format, add it to `FORMATS`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nbft.data.cells import is_missing, to_text
from nbft.data.ready import alpaca_prompt
from nbft.data.turns import RowError, Tool, Turn, tools, turns
from nbft.methods.method import Kind

Row = Mapping[str, Any]

_LAST_OF_TEXT = re.compile(r"[^\W_]|[.,;?!)\"'’”]")
_FIRST_OF_TEXT = re.compile(r"[^\W_]|[(\"'“]")


PROMPTS = "prompt|conversations|messages|question|query|instruction"
ANSWERS = "answers|responses|completions|candidates|outputs"
"""Columns that hold several answers to one prompt."""


@dataclass(frozen=True)
class Example:
    """A row as a method trains on it.

    Attributes:
        prompt: Text that the model is given; "" for plain text.
        completion: Text that it is trained to answer with.
        messages: Chat turns instead of both, for the model's chat template; () otherwise.
        tools: The tools that the chat template is given with them.
        rejected: A worse completion, or the turns of a worse conversation; None without one.
        label: Whether the answer is a good one; None without a label.
        margin: How much higher the completion is scored than the rejected one; None without scores.
        asked_margin: The value of the row's column margin: by how much a reward model should score
            the completion higher. Scores have a scale of their own and are no such margin.
        is_answered: Whether the row has an answer; without one, messages end in an empty turn.
    """

    prompt: str = ""
    completion: str = ""
    messages: tuple[Turn, ...] = ()
    tools: tuple[Tool, ...] = ()
    rejected: str | tuple[Turn, ...] | None = None
    label: bool | None = None
    margin: float | None = None
    asked_margin: float | None = None
    is_answered: bool = True

    @property
    def kind(self) -> Kind:
        """What it holds; each method accepts some kinds."""
        if not self.is_answered:
            return "prompt"
        if self.rejected is not None:
            return "preference"
        if self.label is not None:
            return "feedback"
        if self.messages:
            return "conversation"
        return "pair" if self.prompt else "text"

    @property
    def has_same_answers(self) -> bool:
        """Whether both answers of a pair are the same, but for spaces around them."""
        if isinstance(self.rejected, str):
            return self.rejected.strip() == self.completion.strip()
        return self.rejected is not None and self.rejected == self.messages

    @property
    def is_glued(self) -> bool:
        """Whether the completion follows the prompt without a space or a line break."""
        ends = _LAST_OF_TEXT.search(self.prompt[-1:]) and _FIRST_OF_TEXT.search(self.completion[:1])
        return not self.messages and bool(ends)


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


def _first(row: Row, names: str) -> str:
    """Return the text of the first of some columns that is filled."""
    texts = (to_text(row.get(name)) for name in names.split("|"))
    return next(filter(None, texts), "")


def chat(conversation: tuple[Turn, ...], row: Row | None = None) -> Example:
    """Return the example of a conversation.

    Args:
        conversation: Its turns.
        row: The row that they come from, for its system turn and its tools.

    Raises:
        RowError: Nobody answers in it, or its tools cannot be read.
    """
    if not any(turn["role"] == "assistant" for turn in conversation):
        raise RowError(
            'no message has the role "assistant", so there would be nothing to train on.',
            "Add the answer.",
        )
    conversation = with_system(conversation, row or {})
    declared = _tools(row) if row else ()
    return Example(messages=_without_gaps(conversation, declared), tools=declared)


def with_system(conversation: tuple[Turn, ...], row: Row) -> tuple[Turn, ...]:
    """Return a conversation that begins with the system turn of its row, if there is one."""
    system = _first(row, "system|system_prompt")
    if system and conversation[0]["role"] != "system":
        return ({"role": "system", "content": system}, *conversation)
    return conversation


def _tools(row: Row) -> tuple[Tool, ...]:
    column = next((name for name in ("tools", "functions") if row.get(name)), None)
    return tools(row[column], column) if column else ()


def _without_gaps(conversation: tuple[Turn, ...], declared: tuple[Tool, ...]) -> tuple[Turn, ...]:
    """Leave out the nulls that a table puts where another row's call has an argument."""
    known = {
        tool["function"]["name"]: tool["function"].get("parameters", {}).get("properties", {})
        for tool in declared
    }

    def filled(call: Mapping[str, Any]) -> Mapping[str, Any]:
        function = call["function"]
        given, name = function["arguments"], function["name"]
        if name not in known or not isinstance(given, Mapping):
            return call
        kept = {k: v for k, v in given.items() if v is not None or k in known[name]}
        return {**call, "function": {**function, "arguments": kept}}

    return tuple(
        {**turn, "tool_calls": [filled(call) for call in turn["tool_calls"]]}
        if known and "tool_calls" in turn
        else turn
        for turn in conversation
    )


def messages(row: Row) -> Example:
    """Return the example of the turns with role and content in messages."""
    return chat(turns(row.get("messages"), "messages"), row)


_TRUTHS = {"true": True, "false": False}


def _truth(value: Any) -> bool | None:
    """Return what a label says of an answer; None where it is no truth value but, say, a class."""
    if isinstance(value, bool):
        return value
    return _TRUTHS.get(value.strip().lower()) if isinstance(value, str) else None


def _is_judged(row: Row) -> bool:
    return _truth(row.get("label")) is not None


def label_of(row: Row) -> bool | None:
    """Return whether a row calls its answer a good one; None without a judgement."""
    return _truth(row.get("label"))


def _labelled(row: Row) -> bool:
    label = label_of(row)
    if label is None:
        raise RowError(
            f'"label" is {row.get("label")!r}, but true or false in other rows.',
            "Write true or false, or rename the column if it holds no judgement.",
        )
    return label


def _feedback(row: Row) -> Example:
    return dataclasses.replace(messages(row), label=_labelled(row))


def _judged_pair(row: Row) -> Example:
    return dataclasses.replace(pair(row), label=_labelled(row))


def sharegpt(row: Row) -> Example:
    """Return the example of a conversation as ShareGPT exports it."""
    return chat(turns(row.get("conversations"), "conversations"), row)


def pair(row: Row) -> Example:
    """Return the example of a prompt and a completion: two texts, or turns."""
    prompt, completion = row.get("prompt"), row.get("completion")
    if isinstance(prompt, list) or isinstance(completion, list):
        before = turns(_asked(prompt), "prompt") if prompt else ()
        return chat((*before, *answer(completion, "completion")), row)
    return Example(to_text(prompt), to_text(completion))


def _prompt(row: Row) -> Example:
    """Return a prompt without an answer: a text, or turns."""
    prompt = row.get("prompt")
    if not isinstance(prompt, list):
        return Example(to_text(prompt), is_answered=False)
    before = turns(prompt, "prompt")
    if not before or before[-1]["role"] == "assistant":
        raise RowError('"prompt" does not end in a question.', "End it with a turn of the user.")
    unanswered: Turn = {"role": "assistant", "content": ""}
    return dataclasses.replace(chat((*before, unanswered), row), is_answered=False)


def _asked(prompt: Any) -> Any:
    return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt


def _erniekit(row: Row) -> Example:
    from nbft.data.adapters import erniekit

    return erniekit(row)


def answer(value: Any, column: str) -> tuple[Turn, ...]:
    """Return an answer as turns; a text becomes the assistant's.

    Raises:
        RowError: It is neither a text nor turns.
    """
    if isinstance(value, str):
        return ({"role": "assistant", "content": value},)
    return turns(value, column)


def _preference(row: Row) -> Example:
    from nbft.data.preferences import pair as preference_pair

    return preference_pair(row)


def _ranked(row: Row) -> Example:
    from nbft.data.preferences import ranked

    return ranked(row)


def _is_ranked(row: Row) -> bool:
    from nbft.data.preferences import is_ranked

    return is_ranked(row)


def instruction(row: Row) -> Example:
    """Return the example of an instruction, with a short prompt in the manner of Alpaca.

    The columns system and history, [[instruction, answer], …], come before it.
    """
    given = {"instruction": to_text(row["instruction"]), "input": _first(row, "input|context")}
    system = _first(row, "system|system_prompt")
    before = f"{system}\n\n" if system else ""
    for asked, answered in history(row.get("history"), "history"):
        before += f"{alpaca_prompt({'instruction': asked})}{answered}\n\n"
    return Example(before + alpaca_prompt(given), _first(row, "output|response"))


def history(value: Any, column: str) -> list[tuple[str, str]]:
    """Return earlier instructions with their answers.

    Args:
        value: Pairs of them.
        column: Name of the column, for messages.

    Raises:
        RowError: It is no list of pairs.
    """
    if is_missing(value) or value in ("", []):
        return []
    if not isinstance(value, list) or not all(isinstance(v, list) and len(v) == 2 for v in value):
        raise RowError(
            f'"{column}" is no list of pairs.', 'Write [["an instruction", "its answer"], …].'
        )
    return [(to_text(asked), to_text(answered)) for asked, answered in value]


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
        "feedback on completions",
        ("prompt", "completion", "label"),
        _judged_pair,
        "the completion is trained on",
        when=_is_judged,
        label=_labelled,
    ),
    Format(
        "prompt and completion in messages",
        ("prompt", "completion"),
        pair,
        "the completion is trained on",
        when=lambda row: any(isinstance(row.get(n), list) for n in ("prompt", "completion")),
    ),
    Format(
        "prompt and completion",
        ("prompt", "completion"),
        pair,
        "the completion is trained on",
        frozenset({"prompt", "completion"}),
    ),
    Format("preference pairs", ("chosen", "rejected"), _preference, "both answers are trained on"),
    Format(
        "ranked answers",
        (PROMPTS, ANSWERS),
        _ranked,
        "the best and the worst answer are trained on",
        when=_is_ranked,
    ),
    Format(
        "feedback on messages",
        ("messages", "label"),
        _feedback,
        "the assistant's turns are trained on",
        when=_is_judged,
        label=_labelled,
    ),
    Format("messages", ("messages",), messages, "the assistant's turns are trained on"),
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

PROMPT_ROWS = Format("prompts", ("prompt",), _prompt, "no answer is needed")
"""The format of rows whose prompts the model answers itself; other methods need answers."""
