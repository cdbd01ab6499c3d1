"""Values of a Python program, as far as they are known without running it.

What is known is itself: text, numbers, lists, dicts. All else is `Code`; its kinds keep what a value
was made of, so that a reader can follow it back. Built by `evaluation`, read by `training_script`.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, repr=False)
class Code:
    """An expression whose value is unknown without running it.

    Attributes:
        text: Its source.
        line: Its line, counted through all cells.
        parts: Values that it was made of.
    """

    text: str
    line: int = field(default=0, compare=False)
    parts: tuple[Any, ...] = field(default=(), compare=False)

    def __repr__(self) -> str:
        return self.text


@dataclass(frozen=True, repr=False, eq=False)
class Imported(Code):
    """A name from another module; `text` is its dotted path."""

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.text.rpartition(".")[2]


@dataclass(frozen=True, repr=False, eq=False)
class Call(Code):
    """A call of a function that is not defined in the file.

    Attributes:
        function: Dotted path of the function, or ".name" for a method of a value.
        receiver: The value whose method it is; None for a function.
        arguments: Positional arguments.
        keywords: Named arguments.
        names: Names that were visible to the call, where a function is among its arguments.
        own_class: Name of a class of the file through which it was called, "" otherwise.
        changed: Attributes that were assigned to its result later.
    """

    function: str = ""
    receiver: Any = None
    arguments: tuple[Any, ...] = ()
    keywords: dict[str, Any] = field(default_factory=dict)
    lines: dict[str, int] = field(default_factory=dict)
    own_class: str = ""
    changed: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The function's name, without its module."""
        return self.function.rpartition(".")[2]

    @property
    def owner(self) -> str:
        """The part of the path before the name: a class or a module."""
        return self.function.rpartition(".")[0].rpartition(".")[2]

    def get(self, *names: str | int, default: Any = None) -> Any:
        """Return the first argument that is given, by its name or place."""
        for name in names:
            if isinstance(name, int):
                if name < len(self.arguments):
                    return self.arguments[name]
            elif name in self.keywords:
                return self.keywords[name]
        return default


@dataclass(frozen=True, repr=False, eq=False)
class Attribute(Code):
    """An attribute of a value."""

    value: Any = None
    name: str = ""


@dataclass(frozen=True, repr=False, eq=False)
class Item(Code):
    """An item of a value, by key or number."""

    value: Any = None
    key: Any = None


@dataclass(frozen=True, repr=False, eq=False)
class Either(Code):
    """One of several values; which one is decided while running."""

    options: tuple[Any, ...] = ()


@dataclass(frozen=True, repr=False, eq=False)
class Text(Code):
    """Text with unknown values in it.

    Attributes:
        pieces: Text and values, by turns.
    """

    pieces: tuple[Any, ...] = ()


@dataclass(frozen=True, repr=False, eq=False)
class Function(Code):
    """A function of the file.

    Attributes:
        node: Its definition.
        scope: Where it was defined.
        defaults: Values of its parameters' defaults.
        receiver: The object whose method it is.
    """

    node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda = None  # type: ignore[assignment]
    scope: Scope = None  # type: ignore[assignment]
    defaults: dict[str, Any] = field(default_factory=dict)
    receiver: Any = None


@dataclass(frozen=True, repr=False, eq=False)
class Class(Code):
    """A class of the file.

    Attributes:
        bases: Its bases.
        names: What its body defines.
        fields: Annotated names, in order.
    """

    bases: tuple[Any, ...] = ()
    names: dict[str, Any] = field(default_factory=dict)
    fields: tuple[str, ...] = ()

    def find(self, name: str) -> Any:
        """Return what the class or a base of the file defines, or `MISSING`."""
        if name in self.names:
            return self.names[name]
        found = (base.find(name) for base in self.bases if isinstance(base, Class))
        return next((value for value in found if value is not MISSING), MISSING)

    @property
    def imported_base(self) -> Imported | None:
        """The nearest base that the file does not define."""
        for base in self.bases:
            if isinstance(base, Imported):
                return base
            if isinstance(base, Class) and (found := base.imported_base):
                return found
        return None


@dataclass(frozen=True, repr=False, eq=False)
class Instance(Code):
    """An object of a class of the file, or of the options of a command line."""

    kind: Class | None = None
    attributes: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, repr=False, eq=False)
class Column(Code):
    """A column of the row that a function is given; `text` is its name."""


@dataclass(frozen=True, repr=False, eq=False)
class Filled(Column):
    """A column that is assumed not to be empty."""


@dataclass(frozen=True, repr=False, eq=False)
class Row(Code):
    """A row of a dataset, or a batch of rows.

    Attributes:
        columns: What is known of its columns; others are those of the dataset.
        is_batch: Whether a column is a list with one value for each row.
    """

    columns: dict[str, Any] = field(default_factory=dict)
    is_batch: bool = False

    def column(self, name: str) -> Any:
        """Return a column."""
        value = self.columns.get(name, MISSING)
        value = Column(name) if value is MISSING else value
        return Each(f"{name} of each row", value=value) if self.is_batch else value


@dataclass(frozen=True, repr=False, eq=False)
class Each(Code):
    """A list with one value for each item of something, such as the rows of a dataset.

    Attributes:
        value: The value, written for one item.
        source: What the items are of, if that is known.
    """

    value: Any = None
    source: Any = None


@dataclass(frozen=True, repr=False, eq=False)
class Number(Code):
    """A length of an `Each`, or a number that counts its items."""


class Items(list[Any]):
    """A list, with the loops and branches that it was made in.

    What is appended in an inner loop or branch is not certain to be there once.
    """

    def __init__(self, items: Any = (), loops: int = 0, branches: int = 0) -> None:
        super().__init__(items)
        self.loops, self.branches = loops, branches


class Scope:
    """Names of a function or of the file.

    Attributes:
        names: Their values.
        outer: The scope around it; None for the file's own.
        returned: What the function returns on some ways.
    """

    def __init__(self, outer: Scope | None = None) -> None:
        self.names: dict[str, Any] = {}
        self.outer = outer
        self.returned: list[Any] = []
        self.global_names: set[str] = set()

    def find(self, name: str) -> Any:
        """Return the value of a name, or `MISSING`."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.names:
                return scope.names[name]
            scope = scope.outer
        return MISSING

    def bind(self, name: str, value: Any) -> None:
        """Assign a name."""
        scope = self
        while name in self.global_names and scope.outer is not None:
            scope = scope.outer
        scope.names[name] = value

    def copy(self) -> Scope:
        """Return the scope as it is now."""
        copied = Scope(self.outer.copy() if self.outer else None)
        copied.names = dict(self.names)
        return copied


MISSING: Any = type("Missing", (), {"__repr__": lambda _: "missing"})()
"""Marks the absence of a value, because None is a value."""

DEEPEST = 40
MOST_VALUES = 20_000
"""Most values of one argument; lists that hold each other expand without end."""

LARGEST = 1_000_000
"""Most characters of a text, and most items of a list, that are put together."""


def joined(pieces: Any, line: int = 0) -> Any:
    """Return pieces of text as one: as text if all are known, otherwise as `Text`."""
    flat: list[Any] = []
    size = 0
    for piece in pieces:
        for part in piece.pieces if isinstance(piece, Text) else (piece,):
            if isinstance(part, (int, float)) or part is None:
                part = str(part)
            elif not isinstance(part, (str, Code)):
                part = Code(brief(part), line, (part,))
            size += len(part) if isinstance(part, str) else 1
            if size > LARGEST:
                return Code("a very long text", line)
            if isinstance(part, str) and flat and isinstance(flat[-1], str):
                flat[-1] += part
            elif part != "":
                flat.append(part)
    if not flat:
        return ""
    if len(flat) == 1 and isinstance(flat[0], (str, Column)):
        return flat[0]
    shown = "".join(part if isinstance(part, str) else f"{{{brief(part)}}}" for part in flat)
    return Text(shown, line, (), tuple(flat))


def either(options: Any, text: str = "", line: int = 0) -> Any:
    """Return one of several values; the value itself if they are all the same."""
    distinct: list[Any] = []
    for option in options:
        for one in option.options if isinstance(option, Either) else (option,):
            if not any(same(one, other) for other in distinct):
                distinct.append(one)
    if len(distinct) == 1:
        return distinct[0]
    return Either(text or " or ".join(map(brief, distinct)), line, (), tuple(distinct))


SCALARS = (bool, int, float, str, type(None))


def brief(value: Any) -> str:
    """Write a value in a few words, however large it is."""
    if isinstance(value, Code):
        return value.text[:80]
    return repr(value)[:80] if isinstance(value, SCALARS) else f"a {type(value).__name__}"


def same(one: Any, other: Any) -> bool:
    """Whether two values are surely the same."""
    if one is other:
        return True
    return isinstance(one, SCALARS) and type(one) is type(other) and one == other


def is_known(value: Any) -> bool:
    """Whether a value and all in it is known."""
    return not found_in(value, lambda one: isinstance(one, Code))


def plain(value: Any) -> Any:
    """Return a value with lists for tuples and plain `Code` for what is unknown."""
    left = [MOST_VALUES]

    def copied(one: Any, depth: int = 0) -> Any:
        left[0] -= 1
        if left[0] < 0 or depth > DEEPEST:
            return Code("too many values")
        if isinstance(one, dict):
            pairs = ((brief(k) if isinstance(k, Code) else str(k), v) for k, v in one.items())
            return {key: copied(item, depth + 1) for key, item in pairs}
        if isinstance(one, (list, tuple, set, frozenset)):
            if len(one) > left[0]:
                return Code("a long list")
            return [copied(item, depth + 1) for item in one]
        if isinstance(one, Code):
            return Code(one.text[:200], one.line)
        return one if isinstance(one, SCALARS) else brief(one)

    return copied(value)


def inner(value: Any) -> Iterator[Any]:
    """Yield the values that a value was made of."""
    if isinstance(value, dict):
        yield from value.values()
    elif isinstance(value, (list, tuple, set)):
        yield from value
    elif isinstance(value, Call):
        yield from (value.receiver, *value.arguments, *value.keywords.values())
    elif isinstance(value, Either):
        yield from value.options
    elif isinstance(value, (Attribute, Item)):
        yield value.value
    elif isinstance(value, Text):
        yield from value.pieces
    elif isinstance(value, Each):
        yield from (value.source, value.value)
    elif isinstance(value, Instance):
        yield from value.attributes.values()
    elif type(value) is Code:
        yield from value.parts


def found_in(value: Any, wanted: Callable[[Any], bool]) -> list[Any]:
    """Return the nearest values of a kind that a value was made of, in order."""
    results: list[Any] = []
    seen: set[int] = set()
    todo = [value]
    while todo:
        one = todo.pop()
        if isinstance(one, SCALARS) or id(one) in seen:
            continue
        seen.add(id(one))
        if wanted(one):
            results.append(one)
        else:
            todo += reversed([*inner(one)])
    return results
