"""The table of another system, read from the .yaml file beside the system's module.

The file has two documents: what tells the system's files from others, and its tables, which are read
only when they are needed. A key of a table is a key of the other system. Its value is our setting,
or the fields of `Entry` by their names. `convert` and `back` name a function of the system's module,
of `conversions` or of `preferences`; a list holds the name of one that returns the conversion, and its arguments.
Besides these, `words` is a conversion by a list of values, `on_gpu` one for what needs a GPU, and
`back` may be a mapping of our values to theirs, `same`, or `never`. Each key of a table with `blocks`
may also stand in one of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nbft.interop import conversions, preferences
from nbft.interop.table import UNSET, Back, Entry, System

_TYPES = {kind.__name__: kind for kind in (bool, int, float, str, list, dict, object)}


def load_system(name: str, namespace: Mapping[str, Any], **functions: Any) -> System:
    """Return a system from its .yaml file.

    Args:
        name: Its name, which is also that of the file.
        namespace: The names of its module, in which its conversions are looked up.
        **functions: Its prepare, rules, settle and write.
    """
    text = Path(__file__).with_name(f"{name}.yaml").read_text(encoding="utf-8")
    head, _, tables = text.partition("\n---\n")

    def read_table() -> tuple[Entry, ...]:
        known = {**vars(conversions), **vars(preferences), **namespace}
        return tuple(
            _entry(path, {"setting": fields} if isinstance(fields, str) else fields, section, known)
            for section in _parsed(tables)
            for path, fields in section["keys"].items()
        )

    return System(name, read_table=read_table, **_parsed(head), **functions)


def _parsed(text: str) -> Any:
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load(text, Loader=loader)  # noqa: S506 - a safe loader


def _entry(
    path: str, fields: Mapping[str, Any], section: Mapping[str, Any], known: Mapping[str, Any]
) -> Entry:
    given = dict(fields)
    blocks = given.pop("blocks", section.get("blocks", ()))
    also = tuple(given.pop("also", ()))
    given["also"] = (*also, *(f"{block}.{name}" for block in blocks for name in (path, *also)))
    if "words" in given:
        given["convert"] = conversions.words(given.pop("words"), given.pop("note", ""))
    elif "on_gpu" in given:
        given["convert"] = conversions.on_gpu(given.pop("on_gpu"))
    elif "convert" in given:
        given["convert"] = _function(given["convert"], known)
    if isinstance(back := given.get("back"), dict):
        given["back"] = _written_as(back)
    elif back:
        given["back"] = _function(back, known)
    if "type" in given:
        given["type"] = _TYPES[given["type"]]
    given["choices"] = tuple(given.get("choices", ()))
    return Entry(path, is_documented=section["is_documented"], **given)


def _function(name: str | list[Any], known: Mapping[str, Any]) -> Any:
    return known[name] if isinstance(name, str) else known[name[0]](*name[1:])


def _written_as(pairs: Mapping[Any, Any]) -> Back:
    return lambda value, _: next((theirs for ours, theirs in pairs.items() if ours == value), UNSET)
