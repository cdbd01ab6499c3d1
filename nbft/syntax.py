"""Describes syntax errors in YAML, JSON and Python with their position.

The parser's own message, in parentheses, varies with its version, so nothing depends on it.
"""

from __future__ import annotations

import json
from typing import Any


def position(line: int, column: int) -> str:
    """Describe a position in a text, both numbers from 1.

    >>> position(3, 5)
    'line 3, column 5'
    """
    return f"line {line}, column {column}"


def invalid(language: str, message: object) -> str:
    """Return that a text is not valid, with the parser's message.

    >>> invalid("YAML", "expected a key")
    'is not valid YAML (expected a key).'
    """
    reason = str(message or "").strip().split("\n")[0].rstrip(".: ")
    return f"is not valid {language} ({reason})." if reason else f"is not valid {language}."


def yaml_problem(error: Exception, text: str, source: str) -> str:
    """Describe an error of ruamel.yaml or PyYAML.

    Args:
        error: The parser's error.
        text: The parsed text.
        source: Name of the text.
    """
    if isinstance(error, RecursionError):
        return f"{source}: is nested too deeply."
    mark: Any = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    offset = getattr(error, "position", None)
    if isinstance(offset, int) and offset < len(text):
        where = position(text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset))
        return f"{source} {where}: YAML allows no character U+{ord(text[offset]):04X}. Remove it."
    if mark is not None:
        lines = text.split("\n")
        is_inside = mark.line < len(lines)  # PyYAML reports the end of a text one line below it
        line, column = (mark.line, mark.column) if is_inside else (len(lines) - 1, len(lines[-1]))
        source += f" {position(line + 1, column + 1)}"
    return f"{source}: {invalid('YAML', getattr(error, 'problem', None) or error)}"


def json_problem(error: Exception, place: str = "", source: str = "") -> str:
    """Describe an error of `json.loads`.

    Args:
        error: Its error.
        place: Position of the text if it is a single line, such as "row 3".
        source: Name of the file, if the message names it.
    """
    why = invalid("JSON", getattr(error, "msg", error))
    if isinstance(error, json.JSONDecodeError):
        if place:
            place += f", column {min(error.pos, len(error.doc.rstrip())) + 1}"
        else:
            place = position(error.lineno, error.colno)
    elif isinstance(error, RecursionError):
        why = "is nested too deeply."
    elif isinstance(error, UnicodeDecodeError):
        why = "is not UTF-8 text."
    return ": ".join(part for part in (f"{source} {place}".strip(), why) if part)


def goes_on_after_json(text: str) -> bool:
    """Whether a complete JSON value is followed by more text, as in JSON Lines.

    >>> [goes_on_after_json(text) for text in ('{"a": 1} {"a": 2}', '{"a": 1', "{} ")]
    [True, False, False]
    """
    text = text.strip()
    try:
        _, end = json.JSONDecoder().raw_decode(text)
    except (ValueError, RecursionError):
        return False
    return end < len(text)
