"""Operations on values as far as they are known: formats, sums, loops, built-in functions.

Everything is bounded, so that no text or list of a file grows without end. Called by `expressions`.
"""

from __future__ import annotations

import ast
import builtins
import inspect
import re
import string
import textwrap
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

from nbft.interop.scripts.values import (
    LARGEST,
    MISSING,
    SCALARS,
    Call,
    Class,
    Code,
    Column,
    Each,
    Either,
    Filled,
    Function,
    Instance,
    Item,
    Number,
    Row,
    Text,
    brief,
    either,
    joined,
    same,
)

MOST_ROUNDS = 20
"""Rounds of a loop that are followed one by one; of longer loops, one stands for all."""

NUMBER_TYPE = re.compile(r"torch\.(b?float\d*(_e\w+)?|half|double|u?int\d+)")


def source_of(node: ast.AST) -> str:
    """Return the source of an expression."""
    return ast.unparse(node)


def merged(ends: list[dict[str, Any]], line: int) -> dict[str, Any]:
    """Return names after several ways of a statement."""
    merged: dict[str, Any] = {}
    for names in ends:
        for name in names:
            if name not in merged:
                values = [end[name] for end in ends if name in end]
                first = values[0]
                alike = all(value is first or same(first, value) for value in values)
                merged[name] = first if alike else either(values, line=line)
    return merged


def truth_of(value: Any) -> bool | None:
    """Return whether a value is true; None if that is unknown."""
    if isinstance(value, Either):
        truths = {truth_of(one) for one in value.options}
        return truths.pop() if len(truths) == 1 else None
    if isinstance(value, (Function, Class, Instance)):
        return True
    if isinstance(value, Text):
        return True if any(isinstance(piece, str) for piece in value.pieces) else None
    if isinstance(value, Code):
        return True if isinstance(measured(value), Filled) else None
    return bool(value)


def measured(value: Any) -> Any:
    """Return the text of which a value is the length, or a copy without spaces at its ends."""
    while isinstance(value, Call) and (value.function == "len" or value.name == "strip"):
        value = value.get(0) if value.function == "len" else value.receiver
    return value


def compared(kind: type[ast.cmpop], left: Any, right: Any) -> bool | None:
    """Return the result of a comparison that the assumed columns of a row decide."""
    if isinstance(right, Row) and isinstance(left, str) and left in right.columns:
        return {ast.In: True, ast.NotIn: False}.get(kind)
    if isinstance(measured(left), Filled) and right in ("", 0, None):
        return _FILLED_OR_NOTHING.get(kind)
    return None


_FILLED_OR_NOTHING = {
    **dict.fromkeys((ast.NotEq, ast.IsNot, ast.Gt), True),
    **dict.fromkeys((ast.Eq, ast.Is, ast.LtE), False),
}


def rounds_of(source: Any) -> list[Any] | None:
    """Return the items of a loop if they are known and few; None otherwise."""
    if isinstance(source, (list, tuple, range, set, dict, str)):
        items = list(source) if len(source) <= LARGEST else []
        if len(items) <= MOST_ROUNDS and not any(isinstance(item, Each) for item in items):
            return items
    return None


def element_of(source: Any) -> tuple[Any, Any]:
    """Return what stands for an item of a loop over unknown items, and what the items are of."""
    if isinstance(each := each_of(source), Each):
        return each.value, each.source
    if isinstance(source, Row):  # the names of its columns
        return Code("a column"), source
    if isinstance(source, Column):
        return Item(f"each {source}", value=source, key=Number("a number")), source
    return Row(f"an item of {brief(source)}"), source


def each_of(value: Any) -> Any:
    """Return a list that was filled once for every item as `Each`."""
    if isinstance(value, list) and len(value) == 1 and isinstance(value[0], Each):
        return value[0]
    return value


def of_one_row(value: Any) -> Any:
    """Return what a list for a batch holds for one row."""
    each = each_of(value)
    return each.value if isinstance(each, Each) else Code(brief(value), parts=(value,))


def fixed(value: Any) -> Any:
    """Return a function with its names as they are now."""
    if not isinstance(value, Function):
        return value
    return Function(
        value.text,
        value.line,
        node=value.node,
        scope=value.scope.copy(),
        defaults=value.defaults,
        receiver=value.receiver,
    )


def parser_of(value: Any) -> Call | None:
    """Return the parser of a command line that a value is, or is a group of."""
    while isinstance(value, Call) and value.receiver is not None:
        value = value.receiver
    return value if isinstance(value, Call) and value.name == "ArgumentParser" else None


def extends_a_library(kind: Class) -> bool:
    """Whether a class of the file changes a trainer or its arguments, not only holds values."""
    base = kind.imported_base
    return base is not None and base.name.endswith(("Trainer", "Config", "Arguments", "Callback"))


def is_hashable(value: Any) -> bool:
    """Whether a value can be a key."""
    try:
        hash(value)
    except TypeError:
        return False
    return True


def is_text(value: Any) -> bool:
    """Whether a value is surely text."""
    return isinstance(value, (str, Text, Column))


def may_be_text(value: Any) -> bool:
    """Whether a value is text or unknown."""
    return isinstance(value, (str, Code)) and not isinstance(value, (Function, Class, Each, Row))


def is_of_row(value: Any) -> bool:
    """Whether a value is a column, or a part of one."""
    while isinstance(value, (Item, Each)):
        value = value.value
    return isinstance(value, Column)


MUTATORS = {
    *("append", "extend", "insert", "pop", "remove", "clear", "reverse", "sort", "update"),
    "setdefault",
}
"""Methods that change a list or a dict."""

TEXTS: dict[str, Callable[[str], str]] = {
    "textwrap.dedent": textwrap.dedent,
    "inspect.cleandoc": inspect.cleandoc,
}
"""Functions of one text."""

TEXT_METHODS = {
    *("strip", "lstrip", "rstrip", "lower", "upper", "title", "capitalize", "split", "rsplit"),
    *("splitlines", "removeprefix", "removesuffix", "startswith", "endswith", "replace", "count"),
}


def formatted(text: str, arguments: tuple[Any, ...], mapping: Any, node: ast.Call) -> Any:
    """Return a text with its fields filled, as str.format does."""
    pieces: list[Any] = []
    numbers = iter(range(len(arguments)))
    rows = (
        [row for row in mapping.values() if isinstance(row, Row)]
        if isinstance(mapping, dict)
        else [mapping]
    )
    try:
        parsed = list(string.Formatter().parse(text))
    except ValueError:
        return MISSING
    for literal, name, spec, conversion in parsed:
        pieces.append(literal)
        if name is None:
            continue
        if spec or conversion not in (None, "s"):
            return MISSING
        if name == "" or name.isdigit():
            number = next(numbers, len(arguments)) if name == "" else int(name)
            if number >= len(arguments):
                return MISSING
            pieces.append(arguments[number])
        elif isinstance(mapping, dict) and name in mapping:
            pieces.append(mapping[name])
        elif rows and isinstance(rows[0], Row) and not rows[0].is_batch:
            pieces.append(rows[0].column(name))
        else:
            return MISSING
    if any(isinstance(piece, (list, dict, tuple, Each, Row)) for piece in pieces):
        return MISSING
    return joined(pieces, node.lineno)


def percent(text: str, values: Any, line: int) -> Any:
    """Return text % values, where every field is a plain %s or %d."""
    fields = re.findall(r"%(.)", text)
    items = values if isinstance(values, tuple) else (values,)
    if any(one not in "sd%" for one in fields) or len(items) != sum(f != "%" for f in fields):
        return Code(f"{text!r} % …", line, (values,))
    pieces: list[Any] = []
    rest = iter(items)
    for literal, kind in re.findall(r"([^%]*)(%.|$)", text):
        pieces += [literal, "%" if kind == "%%" else next(rest) if kind else ""]
    return joined(pieces, line)


SUMS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Add: lambda a, b: a + b,
    ast.Sub: lambda a, b: a - b,
    ast.Mult: lambda a, b: a * b,
    ast.Div: lambda a, b: a / b,
    ast.FloorDiv: lambda a, b: a // b,
    ast.Mod: lambda a, b: a % b,
    ast.Pow: lambda a, b: a**b if abs(b) <= 64 else 1 // 0,
}

COMPARISONS: dict[type, Callable[[Any, Any], Any]] = {
    ast.Eq: lambda a, b: a == b,
    ast.NotEq: lambda a, b: a != b,
    ast.Lt: lambda a, b: a < b,
    ast.LtE: lambda a, b: a <= b,
    ast.Gt: lambda a, b: a > b,
    ast.GtE: lambda a, b: a >= b,
    ast.In: lambda a, b: a in b,
    ast.NotIn: lambda a, b: a not in b,
    ast.Is: lambda a, b: a is b,
    ast.IsNot: lambda a, b: a is not b,
}

OF_NUMBERS = {
    *("int", "float", "bool", "abs", "min", "max", "round", "sum", "sorted", "str", "any", "all"),
    "range",
}


def of_numbers(name: str, arguments: tuple[Any, ...]) -> Any:
    """Return a built-in function of known values."""
    items = [
        item for one in arguments for item in (one if isinstance(one, (list, tuple)) else [one])
    ]
    if not all(isinstance(item, SCALARS) for item in items) or (
        name == "str" and items != list(arguments)
    ):
        return MISSING
    try:
        return getattr(builtins, name)(*arguments)
    except (TypeError, ValueError, OverflowError):
        return MISSING


PATHS: dict[str, Callable[[tuple[Any, ...]], Any]] = {
    "os.path.join": lambda parts: str(PurePosixPath(*parts)),
    "pathlib.Path": lambda parts: str(PurePosixPath(*parts)),
    "Path": lambda parts: str(PurePosixPath(*parts)),
    "os.path.expanduser": lambda parts: parts[0],
    "os.path.abspath": lambda parts: parts[0],
    "os.path.normpath": lambda parts: str(PurePosixPath(parts[0])),
    "os.path.basename": lambda parts: PurePosixPath(parts[0]).name,
    "os.path.dirname": lambda parts: str(PurePosixPath(parts[0]).parent),
    "os.fspath": lambda parts: parts[0],
}
