"""What text the code of a script makes of a row: templates of columns, and conversations.

Pure functions of values. Called by `rows` and `sources`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from nbft.interop.scripts.values import (
    MISSING,
    Attribute,
    Call,
    Code,
    Column,
    Each,
    Item,
    Text,
    brief,
    found_in,
)


def one_row(value: Any) -> Any:
    """Return what a list with one text for each row holds for one row."""
    each = value[0] if isinstance(value, list) and len(value) == 1 else value
    if isinstance(each, Each):
        return each.value if each.source is None else Code(brief(each), parts=(each,))
    return each


def one_of_batch(value: Any) -> Any:
    """Return what a list for a batch holds for one row; code where that is not certain."""
    each = value[0] if isinstance(value, list) and len(value) == 1 else value
    is_certain = isinstance(each, Each) and each.source is None
    return each.value if is_certain else Code(brief(value), parts=(value,))


def tokenized(call: Call) -> Any:
    """Return the text that a call of the tokenizer is given."""
    if call.name == "__call__" and (call.arguments or "text" in call.keywords):
        return call.get("text", 0)
    return MISSING


def is_copy(value: Any) -> bool:
    """Whether labels are a copy of the token ids."""
    inside = found_in(value, lambda v: isinstance(v, Item) and v.key == "input_ids")
    return bool(inside)


_SPECIAL = {"eos_token", "bos_token"}
_STARTS = ("<bos>", "<s>", "<|begin_of_text|>", "<|startoftext|>")
_ENDS = ("</s>", "<|endoftext|>", "<|end_of_text|>", "<eos>")


def _is_special(piece: Any, *names: str) -> bool:
    """Whether a piece of text is a special token of the tokenizer."""
    return isinstance(piece, Attribute) and piece.name in (names or _SPECIAL)


def _pieces(value: Any) -> tuple[Any, ...]:
    return value.pieces if isinstance(value, Text) else (value,)


def has_end(value: Any) -> bool:
    """Whether a text ends in an end-of-sequence token of its own."""
    last = _pieces(value)[-1]
    return _is_special(last, "eos_token") or (isinstance(last, str) and last.endswith(_ENDS))


def without_ends(value: Any) -> tuple[Any, ...]:
    """Return the pieces of a text without the tokens that nbft adds at its start and end."""
    pieces = list(_pieces(value))
    if pieces and _is_special(pieces[0], "bos_token"):
        pieces = pieces[1:]
    if pieces and _is_special(pieces[-1], "eos_token"):
        return tuple(pieces[:-1])
    if pieces and isinstance(pieces[-1], str):
        end = next((end for end in _ENDS if pieces[-1].endswith(end)), "")
        pieces[-1] = pieces[-1].removesuffix(end)
    return tuple(piece for piece in pieces if piece != "")


def template_of(value: Any) -> str | None:
    """Return a text of columns as a template of ours; None where it holds anything else."""
    made = ""
    for piece in without_ends(value) if isinstance(value, Text) else (value,):
        if isinstance(piece, str):
            made += piece.replace("{", "{{").replace("}", "}}")
        elif isinstance(piece, Column) and not re.search(r"[{}:!]", piece.text):
            made += f"{{{piece.text}}}"
        else:
            return None
    return made


def split_text(pieces: list[Any], part: str | None) -> tuple[list[Any], list[Any] | None]:
    """Return a text as prompt and completion: at the answer's mark, or before its last column."""
    if part is None:
        last = max((n for n, piece in enumerate(pieces) if isinstance(piece, Column)), default=0)
        return pieces[:last], pieces[last:]
    for number, piece in enumerate(pieces):
        if isinstance(piece, str) and part.strip() and part.strip() in piece:
            before, mark, after = piece.partition(part if part in piece else part.strip())
            return [*pieces[:number], before + mark], [after, *pieces[number + 1 :]]
    return pieces, None


def template_call(value: Any) -> Call | None:
    """Return the call of a chat template that makes a text, if nothing else does."""
    pieces = [piece for piece in _pieces(value) if not _is_special(piece)]
    value = pieces[0] if len(pieces) == 1 else value
    while isinstance(value, Call) and _removes_the_start(value):
        value = value.receiver
    is_call = isinstance(value, Call) and value.name == "apply_chat_template"
    return value if is_call and value.receiver is not None else None


def _removes_the_start(call: Call) -> bool:
    """Whether a method takes away the token at the start of a text, which nbft does not double."""
    if call.name not in ("removeprefix", "replace") or call.get(1, default="") != "":
        return False
    return _is_special(call.get(0), "bos_token") or call.get(0) in _STARTS


def conversation_of(value: Any) -> Any:
    """Return the turns that a text is rendered of by a chat template, or MISSING."""
    if call := template_call(value):
        turns = call.get("conversation", 0)
        is_whole = call.get("add_generation_prompt") is not True
        is_plain = is_whole and isinstance(turns, (Column, list))
        return turns if is_plain else Code(brief(turns), call.line)
    is_turns = isinstance(value, list) and value and all(isinstance(v, dict) for v in value)
    return value if is_turns else MISSING


def is_understood(value: Any) -> bool:
    """Whether a text is a template of columns, or a conversation."""
    return (
        isinstance(value, (str, Column))
        or conversation_of(value) is not MISSING
        or (isinstance(value, Text) and template_of(value) is not None)
    )


def chat_settings(turns: Sequence[Any]) -> dict[str, Any] | None:
    """Return settings for a question and its answer made of columns, after a system message.

    None for any other conversation.
    """
    names = {"system": "system_template", "user": "prompt_template"}
    names["assistant"] = "completion_template"
    roles = [turn.get("role") if isinstance(turn, dict) else None for turn in turns]
    if roles not in (["user", "assistant"], ["system", "user", "assistant"]):
        return None
    settings: dict[str, Any] = {"dataset_type": "chat_completion"}
    for role, turn in zip(roles, turns, strict=True):
        template = template_of(_said(turn.get("content")))
        if {*turn} != {"role", "content"} or template is None:
            return None
        if role != "system" and "{" not in template.replace("{{", ""):
            return None
        settings[names[str(role)]] = template
    return settings


def _said(content: Any) -> Any:
    """Return the text of a message, which may be a list with one text."""
    if isinstance(content, list) and len(content) == 1 and isinstance(content[0], dict):
        return content[0].get("text", content)
    return content
