"""The turns of conversations, as people write them, in one form.

A `Turn` has a `role` (system, user, assistant or tool) and a `content`, a text. An answer may have
`reasoning_content`, a text; `tool_calls`, [{"type": "function", "function": {"name", "arguments"}}];
and `trained`, False where it is only read. A tool's turn may have `name` and `tool_call_id`. This is
what chat templates take. Called by `formats` and `adapters`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from nbft.data.cells import is_missing, to_text

Turn = Mapping[str, Any]
Tool = Mapping[str, Any]


class RowError(Exception):
    """A row cannot be used; says why and what to do, in two sentences."""

    def __init__(self, why: str, fix: str) -> None:
        super().__init__(why, fix)
        self.why, self.fix = why, fix


_SPEAKERS = {
    "user": ("user", "human", "prompter", "instruction", "question"),
    "assistant": ("assistant", "gpt", "chatgpt", "bing", "bard", "model", "bot", "ai", "answer"),
    "system": ("system", "developer"),
    "tool": (
        *("tool", "function", "ipython", "environment", "observation"),
        *("function_response", "tool_response", "tool_result", "tool_results"),
    ),
}
"""Names of the speakers, by their roles. Source: OpenAI, ShareGPT exports, LLaMA-Factory, Llama 3."""

_CALLERS = ("function_call", "tool_call", "tool_calls")
"""Speakers whose text is a call of a tool, in ShareGPT's spelling."""

ROLES = {speaker: role for role, speakers in _SPEAKERS.items() for speaker in speakers}
"""The role of each known speaker."""

_REASONING = ("reasoning_content", "reasoning", "thinking")
_UNTRAINED = {"trained": False, "train": False, "training": False, "weight": 0}
"""Keys of an answer, and the value by which it is only read. Source: OpenAI (weight), Axolotl."""


def turns(value: Any, column: str) -> tuple[Turn, ...]:
    """Return the turns of a conversation.

    Args:
        value: A list of turns with role and content (OpenAI, Hugging Face), or from and value
            (ShareGPT); also as JSON text, or as the lists of each key that tables hold.
        column: Name of the column, for messages.

    Raises:
        RowError: It is not such a list, a speaker is unknown, or a turn holds more than text.
    """
    if isinstance(value, str) and value.lstrip()[:1] == "[":
        value = _parsed(value, value)
    if isinstance(value, Mapping):
        keys = [key for key in value if isinstance(value[key], list)]
        is_table = {"role", "from"} & {*keys}
        value = (
            [
                dict(zip(keys, one, strict=False))
                for one in zip(*(value[key] for key in keys), strict=False)
            ]
            if is_table
            else [value]
        )
    given = value if isinstance(value, (list, tuple)) else [None]
    conversation = [_turn(turn, n, column) for n, turn in enumerate(given, start=1)]
    return tuple(_with_names(conversation))


def _turn(given: Any, number: int, column: str) -> dict[str, Any]:
    speaker = (given.get("role") or given.get("from")) if isinstance(given, Mapping) else None
    if not isinstance(speaker, str):
        raise RowError(
            f'"{column}" is not a list of turns with role and content.',
            'Write [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}].',
        )
    where = f'turn {number} of "{column}" ({speaker})'
    content = given.get("content", given.get("value"))
    if speaker.lower() in _CALLERS:
        calls, text = _calls(content, where), ""
        role = "assistant"
        if not calls:  # text around a call, or a call in a spelling of its own
            text = to_text(content)
    else:
        if (known := ROLES.get(speaker.strip().lower())) is None:
            raise RowError(
                f'"{column}" has a turn from {speaker!r}, which is not a known speaker.',
                "Use system, user, assistant or tool."
                if given.get("role")
                else "Use human, gpt, system or tool.",
            )
        role, text = known, _text(content, where, role=known)
        calls = _calls(given.get("tool_calls") or given.get("function_call"), where)
    turn: dict[str, Any] = {"role": role, "content": text}
    if role == "assistant":
        reasoning = next((given[key] for key in _REASONING if given.get(key)), None)
        if reasoning is not None:
            turn["reasoning_content"] = _text(reasoning, where, role=role)
        if calls:
            turn["tool_calls"] = calls
        if any(given.get(key) == value for key, value in _UNTRAINED.items()):
            turn["trained"] = False
    for key in ("name", "tool_call_id"):
        if isinstance(given.get(key), str):
            turn[key] = given[key]
    if is_missing(content) and not (calls or "reasoning_content" in turn):
        raise RowError(f"{where} has no content.", "Write its text, or leave the turn out.")
    return turn


def _text(content: Any, where: str, *, role: str) -> str:
    """Return the text of a turn, given as text, as parts, or as any value of JSON."""
    if is_missing(content):
        return ""
    if isinstance(content, str):
        return content
    is_parts = isinstance(content, list) and all(
        isinstance(part, str) or (isinstance(part, Mapping) and "type" in part) for part in content
    )
    if is_parts and content:
        return "".join(_part(part, where) for part in content)
    if isinstance(content, (Mapping, list)):
        if role == "tool":  # what a tool returned
            return json.dumps(content, ensure_ascii=False)
        raise RowError(
            f"{where} has {'an object' if isinstance(content, Mapping) else 'a list'} as content.",
            "Write a text.",
        )
    return str(content)


def _part(part: Any, where: str) -> str:
    if isinstance(part, str):
        return part
    if part["type"] in ("text", "input_text", "output_text") and isinstance(part.get("text"), str):
        return str(part["text"])
    raise RowError(
        f"{where} has a part of the type {part['type']!r}; only text can be trained on.",
        "Leave such rows out.",
    )


def _calls(given: Any, where: str) -> list[dict[str, Any]]:
    """Return the calls of tools, given as one or a list of them or as JSON text."""
    if isinstance(given, str):
        given = _parsed(given, None)
    if given is None:
        return []
    return [_call(one, where) for one in (given if isinstance(given, list) else [given])]


def _call(given: Any, where: str) -> dict[str, Any]:
    function = given.get("function", given) if isinstance(given, Mapping) else None
    name = function.get("name") if isinstance(function, Mapping) else None
    if not isinstance(function, Mapping) or not isinstance(name, str) or not name:
        raise RowError(
            f"{where} has a tool call without a name.",
            'Write {"function": {"name": "…", "arguments": {…}}}.',
        )
    arguments = function.get("arguments", function.get("parameters"))
    if isinstance(arguments, str):  # OpenAI writes JSON text; templates write what they are given
        parsed = _parsed(arguments or "{}", None)
        arguments = parsed if isinstance(parsed, dict) else arguments
    call: dict[str, Any] = {"type": "function"}
    if isinstance(given.get("id"), str):
        call["id"] = given["id"]
    return call | {"function": {"name": name, "arguments": {} if arguments is None else arguments}}


def _with_names(conversation: Sequence[dict[str, Any]]) -> Sequence[dict[str, Any]]:
    """Name the tool of each answer of a tool, which some templates write, by its call."""
    names: dict[str, str] = {}
    waiting: list[str] = []
    for turn in conversation:
        for call in turn.get("tool_calls", ()):
            waiting.append(call["function"]["name"])
            if "id" in call:
                names[call["id"]] = waiting[-1]
        if turn["role"] == "tool":
            by_order = waiting.pop(0) if waiting else None
            name = names.get(turn.get("tool_call_id", ""), by_order)
            if name and "name" not in turn:
                turn["name"] = name
    return conversation


def tools(value: Any, column: str) -> tuple[Tool, ...]:
    """Return the tools that a row declares, as chat templates take them.

    Args:
        value: A list of tools (OpenAI) or of functions, also as JSON text; missing for none.
        column: Name of the column, for messages.

    Raises:
        RowError: It is something else.
    """
    if is_missing(value) or value in ("", [], {}):
        return ()
    given = _parsed(value, None) if isinstance(value, str) else value
    given = [given] if isinstance(given, Mapping) else given
    if not isinstance(given, (list, tuple)):
        raise RowError(
            f'"{column}" is no list of tools.',
            'Write [{"type": "function", "function": {"name": "…", "parameters": {…}}}], as a list '
            "or as JSON text, or rename the column.",
        )
    declared = []
    for tool in given:
        one = _parsed(tool, None) if isinstance(tool, str) else tool
        function = one.get("function", one) if isinstance(one, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise RowError(
                f'"{column}" has a tool without a name.',
                'Write {"type": "function", "function": {"name": "…", "parameters": {…}}}.',
            )
        if not isinstance(function.get("parameters") or {}, Mapping):
            raise RowError(
                f'"{column}" has the tool {function["name"]}, whose parameters are no object.',
                'Write {"type": "object", "properties": {…}}.',
            )
        declared.append({"type": "function", "function": _without_gaps(function)})
    return tuple(declared)


def _without_gaps(value: Any) -> Any:
    """Leave out the nulls that a table puts where another row's tool has a key."""
    if isinstance(value, Mapping):
        return {key: _without_gaps(one) for key, one in value.items() if one is not None}
    return [_without_gaps(one) for one in value] if isinstance(value, list) else value


def called(conversation: Sequence[Turn]) -> list[str]:
    """Return the names of the tools that a conversation calls, in order."""
    calls = (call for turn in conversation for call in turn.get("tool_calls", ()))
    return [call["function"]["name"] for call in calls]


def text_of(turn: Turn) -> str:
    """Return what a turn says, its calls of tools included, without a chat template.

    >>> text_of({"role": "assistant", "content": "", "tool_calls": [
    ...     {"type": "function", "function": {"name": "add", "arguments": {"a": 1}}}]})
    'add({"a": 1})'
    """
    parts = [turn.get("reasoning_content", ""), turn["content"]]
    for call in turn.get("tool_calls", ()):
        function = call["function"]
        arguments = function["arguments"]
        if not isinstance(arguments, str):
            arguments = json.dumps(arguments, ensure_ascii=False)
        parts.append(f"{function['name']}({arguments})")
    return "\n".join(filter(None, parts))


def visible(content: str) -> str:
    """Return a text without the reasoning before it.

    >>> visible("<think>One and one.</think>2")
    '2'
    """
    return content.rpartition("</think>")[2]


def reasoning_in(content: str) -> str:
    """Return the reasoning before a text; "" without one."""
    return content.rpartition("</think>")[0].removeprefix("<think>").strip()


def _parsed(text: str, otherwise: Any) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return otherwise
