"""Templates of prompts and completions: their pieces, and the columns that they name."""

from __future__ import annotations

import re
from collections.abc import Iterator

_BRACES = re.compile(r"\{\{|\}\}|\{([^{}]*)\}|[{}]")


def parsed_template(template: str) -> Iterator[tuple[str, str | None]]:
    """Yield the pieces of a template: a text, and what is in the braces after it, if any.

    Unlike `string.Formatter`, takes any name of a column, such as "Question:".

    Raises:
        ValueError: A brace is not closed, or not opened.

    >>> list(parsed_template("Say {it: now}, {{x}}!"))
    [('Say ', 'it: now'), (', {', None), ('x}', None), ('!', None)]
    """
    begin = 0
    for match in _BRACES.finditer(template):
        text, begin = template[begin : match.start()], match.end()
        if match[0] in "{}":
            raise ValueError(template)
        name = match[1]
        yield (text, name) if name is not None else (text + match[0][0], None)
    yield template[begin:], None


def column_of(name: str) -> str:
    """Return the column that stands in braces, plain or quoted.

    >>> column_of(" 'question' ")
    'question'
    """
    return name.strip().strip("'\"")


def columns_named(template: str | None) -> list[str]:
    """Return the columns that a template names; [] for one with a brace too many or too few.

    >>> columns_named("{a} and {'b'}"), columns_named("{a"), columns_named(None)
    (['a', 'b'], [], [])
    """
    try:
        return [column_of(name) for _, name in parsed_template(template or "") if name is not None]
    except ValueError:
        return []
