"""Read other systems' files (YAML, JSON, Python, notebooks) as plain trees without running them.

YAML is read as version 1.1, as in their loaders: `5e-5` is text and `no` is false. Nothing in a
file is executed: Python is only parsed, and tags that construct objects are rejected. Called by `importer`.
"""

from __future__ import annotations

import ast
import json
import shlex
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nbft.config.io import explained
from nbft.data.sources import is_of_rows
from nbft.errors import ConfigError
from nbft.interop.scripts.cells import Statements, read_notebook, read_script
from nbft.interop.scripts.evaluation import Program, block_of, blocks
from nbft.interop.scripts.values import Code, Items, plain
from nbft.syntax import goes_on_after_json, json_problem, position, yaml_problem

__all__ = ["LARGEST_BYTES", "Code", "Document", "read_document"]

LARGEST_BYTES = 1_000_000
"""Size limit for configs. The longest examples have 10 kB."""

_DEEPEST = 40
_MOST_VALUES = 20_000
_PLAIN_TAGS = ("null", "bool", "int", "float", "str", "timestamp", "value")


@dataclass
class Document:
    """The content of a file.

    Attributes:
        path: The file.
        language: yaml, json, python, shell or rows.
        tree: Its keys; for Python the keyword arguments of each call, by the name of the function.
        lines: Line of a key, by dotted path.
        remarks: Notes for the reader, such as a duplicate key.
        text: The content as text.
        statements: The statements of a script or notebook.
        program: The same, followed.
        training: What it trains, once that is found.
    """

    path: Path
    language: str
    tree: dict[str, Any]
    lines: dict[str, int] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    text: str = ""
    statements: Statements | None = None
    program: Program | None = None
    training: Any = None

    def place(self, line: int | None) -> tuple[int | None, int | None]:
        """Return a line, and its cell in a notebook, of a line counted through all cells."""
        if not line or self.statements is None:
            return line or None, None
        place = self.statements.place(line)
        return place.line, place.cell or None


def read_document(path: Path) -> Document:
    """Read a file of another system.

    Raises:
        ConfigError: It is missing, too large, invalid, or contains more than plain data.
    """
    if is_of_rows(path) and path.suffix.lower() != ".json":  # which may be a config
        with explained(path):
            path.stat()
        return Document(path, "rows", {"path": str(path)})
    text = _text(path)
    language = _LANGUAGE.get(path.suffix.lower()) or _guess(text)
    try:
        document = _READERS[language](path, text)
    except RecursionError:
        raise ConfigError(f"{path}: is nested too deeply to be a config.") from None
    document.text = text
    return document


def _text(path: Path) -> str:
    with explained(path):
        size = path.stat().st_size
        if size > LARGEST_BYTES and path.suffix.lower() != ".ipynb":
            raise ConfigError(
                f"{path}: {size / 1e6:,.1f} MB is too large for a config (at most "
                f"{LARGEST_BYTES / 1e6:g} MB). Is it data?"
            )
        if size > 40 * LARGEST_BYTES:
            raise ConfigError(f"{path}: {size / 1e6:,.1f} MB is too large for a notebook to read.")
        return path.read_text(encoding="utf-8-sig")


def _guess(text: str) -> str:
    return "json" if text.lstrip()[:1] in ("{", "[") else "yaml"


# YAML


def _yaml(path: Path, text: str) -> Document:
    reader = _Yaml(path, text)
    tree = reader.read()
    return Document(path, "yaml", _block(tree, path), reader.lines, reader.remarks)


def _block(tree: Any, path: Path) -> dict[str, Any]:
    if tree is None:
        raise ConfigError(f"{path}: is empty.")
    if not isinstance(tree, dict):
        raise ConfigError(f"{path}: has no keys, so it is not a config.")
    return tree


class _Yaml:
    """Builds a tree from the events of a YAML parser, so that every value is checked first."""

    def __init__(self, path: Path, text: str) -> None:
        import yaml
        import yaml.constructor
        import yaml.resolver

        self.lines: dict[str, int] = {}
        self.remarks: list[str] = []
        self._path, self._text, self._yaml = path, text, yaml
        self._values = 0
        self._anchors: dict[str, tuple[Any, int]] = {}
        self._resolver = yaml.resolver.Resolver()
        self._constructor = yaml.constructor.SafeConstructor()
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        self._events: Iterator[Any] = yaml.parse(text, Loader=loader)

    def read(self) -> Any:
        try:
            for event in self._events:
                kind = type(event).__name__
                if kind == "DocumentStartEvent":
                    tree = self._value(next(self._events), "", 0)
                    next(self._events)
                    if type(next(self._events)).__name__ != "StreamEndEvent":
                        raise ConfigError(f"{self._path}: contains several documents. Keep one.")
                    return tree
            return None
        except self._yaml.YAMLError as error:
            mark = getattr(error, "problem_mark", None)
            # The parser looks ahead and may fail before the brackets are counted here.
            if mark is not None and _open_brackets(self._text[: mark.index]) > _DEEPEST:
                place = f"{self._path} {position(mark.line + 1, mark.column + 1)}"
                why = f"is nested deeper than {_DEEPEST} levels."
                raise ConfigError(f"{place}: {why}") from None
            raise ConfigError(yaml_problem(error, self._text, str(self._path))) from None

    def _refuse(self, event: Any, why: str) -> ConfigError:
        place = position(event.start_mark.line + 1, event.start_mark.column + 1)
        return ConfigError(f"{self._path} {place}: {why}")

    def _count(self, event: Any, more: int = 1) -> None:
        self._values += more
        if self._values > _MOST_VALUES:
            why = f"expands to more than {_MOST_VALUES:,} values, too many for a config."
            raise self._refuse(event, why)

    def _value(self, event: Any, place: str, depth: int) -> Any:
        kind = type(event).__name__
        if kind == "AliasEvent":
            return self._alias(event)
        if depth > _DEEPEST:
            raise self._refuse(event, f"is nested deeper than {_DEEPEST} levels.")
        before = self._values
        self._count(event)
        if event.anchor:
            self._anchors[event.anchor] = (None, -1)  # being read
        if kind == "ScalarEvent":
            value = self._scalar(event)
        else:
            if event.tag is not None and event.tag not in (
                "tag:yaml.org,2002:map",
                "tag:yaml.org,2002:seq",
            ):
                raise self._tagged(event)
            read = self._mapping if kind == "MappingStartEvent" else self._sequence
            value = read(place, depth)
        if event.anchor:
            self._anchors[event.anchor] = (value, self._values - before)
        return value

    def _alias(self, event: Any) -> Any:
        if event.anchor not in self._anchors:
            raise self._refuse(event, f"the alias *{event.anchor} has no anchor.")
        value, size = self._anchors[event.anchor]
        if size < 0:
            raise self._refuse(event, f"*{event.anchor} contains itself.")
        self._count(event, size)
        return value

    def _tagged(self, event: Any) -> ConfigError:
        shown = str(event.tag).replace("tag:yaml.org,2002:", "!!")
        return self._refuse(
            event, f"the tag {shown} constructs objects; only plain data is allowed."
        )

    def _scalar(self, event: Any) -> Any:
        yaml, tag = self._yaml, event.tag
        if tag is None or tag == "!":
            implicit = event.implicit if tag is None else (False, True)
            tag = self._resolver.resolve(yaml.ScalarNode, event.value, implicit)
        name = tag.removeprefix("tag:yaml.org,2002:")
        if name == "merge":
            name, tag = "str", "tag:yaml.org,2002:str"
        if name not in _PLAIN_TAGS:
            raise self._tagged(event)
        if name in ("timestamp", "value", "str"):
            return event.value
        try:
            node = yaml.ScalarNode(tag, event.value, event.start_mark, event.end_mark)
            return self._constructor.construct_object(node)
        except (ValueError, KeyError, AttributeError):
            raise self._refuse(event, f"{event.value[:40]!r} is not a valid {name}.") from None

    def _mapping(self, place: str, depth: int) -> dict[str, Any]:
        result: dict[str, Any] = {}
        merged: dict[str, Any] = {}
        while type(event := next(self._events)).__name__ != "MappingEndEvent":
            if type(event).__name__ != "ScalarEvent":
                raise self._refuse(event, "a key is not text.")
            key, inner = event.value, f"{place}.{event.value}".lstrip(".")
            if key in result:
                line = event.start_mark.line + 1
                self.remarks.append(
                    f"{inner} appears twice (lines {self.lines.get(inner, '?')} and {line}); the "
                    "last one counts, as in their loader."
                )
            self.lines[inner] = event.start_mark.line + 1
            value = self._value(next(self._events), inner, depth + 1)
            if key == "<<" and event.implicit[0]:
                for block in value if isinstance(value, list) else [value]:
                    if not isinstance(block, dict):
                        raise self._refuse(event, "<< needs a block of keys.")
                    merged |= {name: item for name, item in block.items() if name not in merged}
            else:
                result[key] = value
        return result | {name: item for name, item in merged.items() if name not in result}

    def _sequence(self, place: str, depth: int) -> list[Any]:
        result: list[Any] = []
        while type(event := next(self._events)).__name__ != "SequenceEndEvent":
            inner = f"{place}[{len(result)}]"
            self.lines[inner] = event.start_mark.line + 1
            result.append(self._value(event, inner, depth + 1))
        return result


def _open_brackets(text: str) -> int:
    """Count the brackets left open at the end of a text.

    >>> _open_brackets("a: [1, {b: [2]")
    2
    """
    return sum(map(text.count, "[{")) - sum(map(text.count, "]}"))


# JSON


def _json(path: Path, text: str) -> Document:
    remarks: list[str] = []

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in items]
        for name in dict.fromkeys(n for n in names if names.count(n) > 1):
            remarks.append(f"{name} appears twice; the last one counts, as in their loader.")
        return dict(items)

    try:
        tree = json.loads(text, object_pairs_hook=pairs)
    except ValueError as error:
        if text.lstrip()[:1] == "{" and goes_on_after_json(text):
            return Document(path, "rows", {"path": str(path)})
        raise ConfigError(json_problem(error, source=str(path))) from None
    if isinstance(tree, list) and tree and all(isinstance(row, dict) for row in tree):
        return Document(path, "rows", {"path": str(path)})
    if _depth(tree) > _DEEPEST:
        raise ConfigError(f"{path}: is nested deeper than {_DEEPEST} levels.")
    tree = _block(tree, path)
    lines: dict[str, int] = {}
    for name in _keys(tree):
        number = text.find(f'"{name}"')
        if number >= 0:
            lines[name] = text.count("\n", 0, number) + 1
    return Document(path, "json", tree, lines, remarks)


def _keys(tree: Mapping[str, Any]) -> Iterator[str]:
    for name, value in tree.items():
        yield name
        if isinstance(value, dict):
            yield from _keys(value)


def _depth(tree: Any) -> int:
    deepest, todo = 0, [(tree, 0)]
    while todo:
        value, depth = todo.pop()
        deepest = max(deepest, depth)
        items = value.values() if isinstance(value, dict) else value
        if isinstance(value, (dict, list)):
            todo += [(item, depth + 1) for item in items]
    return deepest


# Python


def _notebook(path: Path, text: str) -> Document:
    return _code(path, read_notebook(path, text, LARGEST_BYTES))


def _python(path: Path, text: str) -> Document:
    return _code(path, read_script(path, text))


def _code(path: Path, statements: Statements) -> Document:
    """Return the calls of a program by their names; the last call of a function counts."""
    program = Program(statements.body)
    document = Document(path, "python", {}, statements=statements, program=program)
    for called, call in blocks(program):
        document.tree.setdefault(called, {}).update(block_of(call))
        document.lines |= call.lines
    document.tree = {name: block for name, block in document.tree.items() if block}
    document.tree[""] = {
        name: plain(value)
        for name, value in program.scope.names.items()
        if type(value) in (bool, int, float, str, Items, tuple, dict) and name != "__name__"
    }
    for node in statements.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            document.lines.setdefault(node.targets[0].id, node.lineno)
    document.remarks += statements.remarks
    for text, line in program.remarks.items():
        document.remarks.append(f"{str(statements.place(line)).capitalize()}: {text}")
    return document


# Shell


def _shell(path: Path, text: str) -> Document:
    """Read `oumi train -c FILE --section.key value` and the like."""
    tree: dict[str, Any] = {}
    joined = text.replace("\\\n", " ")
    for number, line in enumerate(joined.split("\n"), start=1):
        try:
            words = shlex.split(line, comments=True)
        except ValueError:
            why = "has an unclosed quotation mark, or ends in a backslash."
            raise ConfigError(f"{path} line {number}: {why}") from None
        if not words:
            continue
        plain = [word for word in words[:4] if not word.startswith("-") and "=" not in word]
        command = " ".join(plain[: 4 if plain[1:3] == ["config", "create"] else 2])
        block = tree.setdefault(command, {})
        rest = iter(words)
        for word in rest:
            name, equals, value = word.partition("=")
            if word.startswith("-"):
                block[name.lstrip("-")] = value if equals else next(rest, "")
            elif equals and name.replace(".", "").replace("_", "").isalnum():
                block[name] = value
            elif word.endswith((".yaml", ".yml", ".json")):
                block.setdefault("config", word)
    return Document(path, "shell", {name: block for name, block in tree.items() if block})


_READERS: dict[str, Callable[[Path, str], Document]] = {
    "yaml": _yaml,
    "json": _json,
    "python": _python,
    "notebook": _notebook,
    "shell": _shell,
}
_LANGUAGE = {
    ".yaml": "yaml",
    ".yml": "yaml",
    ".json": "json",
    ".py": "python",
    ".ipynb": "notebook",
    ".sh": "shell",
}
