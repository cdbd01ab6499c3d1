"""Config trees as YAML text, files, dotted paths and presets, without validation of settings.

YAML is read as version 1.2 by ruamel.yaml: `5e-5` is a number and `no` is text.
"""

from __future__ import annotations

import contextlib
import copy
import difflib
import functools
import io
import itertools
import math
import re
from collections.abc import Container, Iterable, Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from nbft.atomic import replacing
from nbft.config.data import path_written_out, written_out
from nbft.config.numbers import read_number
from nbft.errors import ConfigError, Problem
from nbft.formatting import count, one_line
from nbft.reading import read_bytes
from nbft.syntax import position, yaml_problem

_PATH_PART = re.compile(r"\[(\d+)\]|([^.\[\]]+)")
_LARGEST_FILE_BYTES = 1_000_000
_MOST_VALUES = 100_000
_MOST_BRACKETS = 400
_BRACKET = re.compile(r"[\[\]{}]")
_CONFIGS = (".yaml", ".yml", ".json")

Tree = dict[str, Any]


def read(path: Path) -> Tree:
    """Read a YAML or JSON file into a tree.

    Raises:
        ConfigError: The file is missing, unreadable, larger than 1 MB, or not a YAML mapping.
    """
    with explained(path):
        size_bytes = path.stat().st_size
        if size_bytes > _LARGEST_FILE_BYTES:
            size_mb = size_bytes / 1e6
            raise ConfigError(f"{path}: {size_mb:,.1f} MB is too large for a config. Is it data?")
        text = read_bytes(path, _LARGEST_FILE_BYTES).decode("utf-8")
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    return parse_yaml(text, str(path))


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn an error in reading a config file into a ConfigError with one sentence."""
    try:
        yield
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such file. {_beside(path)}") from None
    except IsADirectoryError:
        raise ConfigError(f"{path}: is a folder. Name the file in it.") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text (byte {error.start}).") from None
    except OSError as error:
        reason = (error.strerror or type(error).__name__).lower()
        raise ConfigError(f"{path}: cannot be read: {reason}.") from None
    except ValueError:
        raise ConfigError(f"{str(path)!r}: is not a valid file name.") from None


def _beside(path: Path) -> str:
    """Return a hint about the folder of a missing config."""
    folder = path.absolute().parent
    if not folder.is_dir():
        return f"Nor does its folder {folder} exist."
    names = [f.name for f in folder.iterdir() if f.suffix == path.suffix or f.suffix in _CONFIGS]
    close = difflib.get_close_matches(path.name, names, n=1)
    return f"Did you mean {close[0]}?" if close else f"Looked in {folder}."


def resolve(path: str, folder: Path | None) -> Path:
    """Return the absolute path of a config's path: in the config's folder, else in the working one.

    A file that is in neither is reported missing from the config's folder.

    Args:
        path: Absolute or relative; ~ is expanded.
        folder: The folder of the config file, or None for a config made in Python.
    """
    given = Path(path).expanduser()
    beside = (folder or Path()) / given
    return (given if is_there(given) and not is_there(beside) else beside).absolute()


def is_there(path: Path) -> bool:
    """Whether there is such a file or folder, as far as this user may see."""
    try:
        return path.exists()
    except OSError:  # no permission, or a name that is too long
        return False


def parse_yaml(text: str, source: str) -> Tree:
    """Read YAML text into a tree.

    Args:
        text: The YAML.
        source: Name of the text in messages.

    Raises:
        ConfigError: Invalid YAML or a duplicate key (with line and column), or not a mapping.
    """
    if _brackets(text) > _MOST_BRACKETS:  # the parser's time grows with their square
        raise ConfigError(f"{source}: is nested too deeply.")
    from ruamel.yaml import YAML
    from ruamel.yaml.constructor import ConstructorError, DuplicateKeyError, SafeConstructor
    from ruamel.yaml.error import YAMLError

    class Constructor(SafeConstructor):
        def construct_object(self, node: Any, deep: bool = False) -> Any:
            try:
                return super().construct_object(node, deep)
            except ValueError as error:  # without a line number
                raise ConstructorError(None, None, str(error), node.start_mark) from None

    yaml = YAML(typ="safe", pure=True)
    yaml.Constructor = Constructor
    try:
        tree = yaml.load(text)
    except DuplicateKeyError as error:
        mark = error.problem_mark
        rest = text.split("\n")[mark.line][mark.column :]
        key = re.match(r"""["']?([^"':,\]}]+)""", rest)
        name = key[1].strip() if key else "a key"
        place = f"{source} {position(mark.line + 1, mark.column + 1)}"
        raise ConfigError(f"{place}: {name} appears twice. Keep one.") from None
    except (YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(yaml_problem(error, text, source)) from None
    if tree is None:
        return {}
    if _values_of(tree, {}) > _MOST_VALUES:
        why = f"its aliases (*name) stand for more than {_MOST_VALUES:,} values, or for themselves."
        raise ConfigError(f"{source}: {why} Write out what you mean.")
    if not isinstance(tree, dict):
        raise ConfigError(f"{source}: holds no sections. Begin with, for example, 'model:'.")
    if strange := [key for key in tree if not isinstance(key, str)]:
        raise ConfigError(f"{source}: the section {strange[0]!r} is not text. Write it in quotes.")
    return tree


def _brackets(text: str) -> int:
    """Count the brackets that are open at once, those in texts as well."""
    depth = deepest = 0
    for bracket in _BRACKET.findall(text):
        depth = depth + 1 if bracket in "[{" else max(0, depth - 1)
        deepest = max(deepest, depth)
    return deepest


def _values_of(tree: Any, known: dict[int, float]) -> float:
    """Count the values of a tree with every alias written out; infinite if one holds itself."""
    if not isinstance(tree, (dict, list)):
        return 1
    if id(tree) not in known:
        known[id(tree)] = math.inf
        items = tree.values() if isinstance(tree, dict) else tree
        known[id(tree)] = 1 + sum(_values_of(item, known) for item in items)
    return known[id(tree)]


def dump_yaml(tree: Tree, comments: Mapping[str, str] = {}) -> str:
    """Write a tree as YAML.

    Args:
        tree: Sections and settings.
        comments: Comment for each setting, by dotted path with `[]` for any item.
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.comments import CommentedMap
    from ruamel.yaml.scalarstring import DoubleQuotedScalarString, LiteralScalarString

    def styled(value: Any, path: str) -> Any:
        if isinstance(value, dict):
            block = CommentedMap()
            for key, item in value.items():
                inner = f"{path}.{key}".lstrip(".")
                block[key] = styled(item, inner)
                if inner in comments and "\n" not in str(item):
                    block.yaml_add_eol_comment(one_line(comments[inner], 1000), key)
            return block
        if isinstance(value, list):
            return [styled(item, f"{path}[]") for item in value]
        if not isinstance(value, str):
            return value
        if not value.replace("\n", "").isprintable():  # control characters need quotes
            return DoubleQuotedScalarString(value)
        if "\n" in value and not value[0].isspace():  # a block cannot start with a space
            return LiteralScalarString(value)
        return value

    yaml = YAML()
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.width = 4096
    yaml.representer.add_representer(
        type(None), lambda dumper, _: dumper.represent_scalar("tag:yaml.org,2002:null", "null")
    )
    out = io.StringIO()
    yaml.dump(styled(tree, ""), out)
    return "" if out.getvalue().strip() == "{}" else out.getvalue()


def write(path: Path, text: str) -> Path:
    """Write a text file atomically, and return its path.

    Raises:
        ConfigError: The folder is not writable.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as partial:
            partial.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be written: {error.strerror}.") from None
    return path


def overridden(tree: Tree, overrides: Iterable[str]) -> Tree:
    """Apply "a.b[0].c=value" overrides to a tree, and return it.

    The value of a setting that is text is taken as it is, unless it stands in quotes; null and nothing
    leave it empty. Other values are read as YAML, numbers with a decimal comma too.

    The settings of a dataset may be written directly under `data`, in the tree and in overrides.

    Raises:
        ConfigError: Overrides without "=", or with a path that does not exist.
    """
    problems: list[str | Problem] = []
    for override in overrides:
        path, equals, text = (part.strip() for part in override.lstrip("-").partition("="))
        if not equals or not parts(path):
            problems.append(f"{override}: is not an override. Write training.max_steps=60.")
            continue
        try:
            path = path_written_out(path)
            value = _value(path, text, override)
            if path.startswith("data.") and isinstance(tree.get("data"), dict):
                tree["data"] = written_out(tree["data"])
            put(tree, path, value)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return tree


def _value(path: str, text: str, override: str) -> Any:
    """Return the value of an override."""
    if text in ("", "null", "~"):
        return None
    kind = _types().get(without_indices(path))
    if kind is str and not (len(text) > 1 and text[0] == text[-1] and text[0] in "\"'"):
        return text
    if kind in (int, float) and (number := read_number(text)) is not None:
        return number
    return parse_yaml(f"value: {text}", override)["value"]


@functools.cache
def _types() -> dict[str, type]:
    """Return the type of each setting, by its path."""
    from nbft.config.config import settings  # which reads files with this module

    return {setting.path: setting.type for setting in settings()}


def parts(path: str) -> list[str | int]:
    """Split a dotted path.

    >>> parts("data.train.datasets[0].path")
    ['data', 'train', 'datasets', 0, 'path']
    """
    return [int(m[1]) if m[1] else m[2] for m in _PATH_PART.finditer(path)]


def without_indices(path: str) -> str:
    """Return a dotted path in the form of `Setting.path`.

    >>> without_indices("data.train.datasets[0].path")
    'data.train.datasets[].path'
    """
    return re.sub(r"\[\d+\]", "[]", path)


def put(tree: Tree, path: str, value: Any) -> None:
    """Set the value at a dotted path, creating blocks as needed; a list may grow by one item.

    Raises:
        ConfigError: The path leads through something that is not a block, or past a list's end.
    """
    *way, last = parts(path)
    place: Any = tree
    for here, after in itertools.pairwise([*way, last]):
        fresh: Any = [] if isinstance(after, int) else {}
        _fits(place, here, path)
        if isinstance(place, list):
            if here == len(place):
                place.append(fresh)
        elif place.get(here) is None:
            place[here] = fresh
        place = place[here]
    _fits(place, last, path)
    if isinstance(place, list) and last == len(place):
        place.append(value)
    else:
        place[last] = value


def _fits(place: Any, part: str | int, path: str) -> None:
    if isinstance(place, list) and isinstance(part, int):
        if part <= len(place):
            return
        why = f"the list has {count(len(place), 'item')}, so the next is [{len(place)}]."
    elif isinstance(place, dict) and isinstance(part, str):
        return
    else:
        shown = f"[{part}]" if isinstance(part, int) else part
        kind = "a list" if isinstance(place, list) else f"the value {place!r}"
        kind = "a block of keys" if isinstance(place, dict) else kind
        why = f"{shown} does not fit: its parent is {kind}."
    raise ConfigError(Problem(path, None, why))


def without(tree: Tree, path: str) -> Tree:
    """Return a copy of a tree without a dotted path, or without its nearest existing block."""
    tree = copy.deepcopy(tree)
    place: Any = tree
    way = parts(path)
    for number, part in enumerate(way):
        is_key = isinstance(place, dict) and part in place
        is_item = isinstance(place, list) and isinstance(part, int) and part < len(place)
        if not (is_key or is_item):
            # A dataset written directly under `data` is reported where it belongs.
            name = way[-1]
            if isinstance(place, dict) and name in place:
                del place[name]
            elif way[:3] == ["data", "train", "datasets"] and name in (tree.get("data") or {}):
                del tree["data"][name]
            else:
                _drop_block(tree, way[:number])
            return tree
        if number == len(way) - 1:
            del place[part]
            return tree
        place = place[part]
    return tree


def _drop_block(tree: Tree, way: list[str | int]) -> None:
    if not way:
        tree.clear()
        return
    place: Any = tree
    for part in way[:-1]:
        place = place[part]
    del place[way[-1]]


def flatten(tree: Any, whole: Container[str] = ()) -> dict[str, Any]:
    """Return {dotted path: value} of a tree; lists of plain values are single values.

    Args:
        tree: Sections and settings.
        whole: Paths of blocks to keep as single values, as in `Setting.path`.

    >>> flatten({"a": {"b": 1}, "c": [{"d": 2}], "e": [3], "f": {"g": 4}}, whole=["f"])
    {'a.b': 1, 'c[0].d': 2, 'e': [3], 'f': {'g': 4}}
    """
    return dict(_leaves(tree, "", whole))


def _leaves(tree: Any, prefix: str, whole: Container[str]) -> Iterator[tuple[str, Any]]:
    if isinstance(tree, dict) and tree and without_indices(prefix) not in whole:
        for key, item in tree.items():
            yield from _leaves(item, f"{prefix}.{key}".lstrip("."), whole)
    elif isinstance(tree, list) and tree and all(isinstance(item, dict) for item in tree):
        for number, item in enumerate(tree):
            yield from _leaves(item, f"{prefix}[{number}]", whole)
    else:
        yield prefix, tree


def presets() -> dict[str, str]:
    """Return the presets as {name: title}, in display order."""
    return {name: title for name, (title, _) in about_presets().items()}


def about_presets() -> dict[str, tuple[str, str]]:
    """Return the title and purpose of each preset, from the first lines of its file."""
    about = {}
    for name, text in _preset_texts().items():
        title, purpose = text.splitlines()[:2]
        about[name] = (title.lstrip("# "), purpose.lstrip("# "))
    return about


def _preset_texts() -> dict[str, str]:
    folder = resources.files("nbft.config") / "presets"
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".yaml")), key=lambda f: f.name)
    return {
        file.name.removesuffix(".yaml").split("-", 1)[1]: file.read_text(encoding="utf-8")
        for file in files
    }


def preset(name: str) -> Tree:
    """Return the tree of a preset.

    Raises:
        ConfigError: There is no such preset.
    """
    texts = _preset_texts()
    if name not in texts:
        raise ConfigError(f"preset={name!r}: is not one of {', '.join(texts)}.")
    return parse_yaml(texts[name], f"{name}.yaml")
