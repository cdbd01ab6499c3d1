"""Our config as the file of another system: what can be said there, and a word on what cannot.

The tables of the systems are read backwards. What was written is imported again and compared, so
that nothing is lost without being named. Called by `Config.export`.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Container, Iterator
from pathlib import Path
from typing import Any

from nbft.config import Config, io, settings
from nbft.config.data import SPLITS
from nbft.errors import ConfigError
from nbft.interop.importer import filled, import_document, system, tree_of
from nbft.interop.read import Document
from nbft.interop.report import Exported, shown
from nbft.interop.table import UNSET, Entry, System

FORMATS = {"qefficient": "yaml", "oumi": "yaml", "erniekit": "yaml", "peft_studio": "json"}
"""Systems that can be written, and what their files are written in."""

_OURS_ALONE = ("speed.", "training.stop_on_nan")


def export(config: Config, name: str) -> Exported:
    """Write a config as the file of another system.

    Args:
        config: The config.
        name: qefficient, oumi, erniekit or peft_studio.

    Raises:
        ConfigError: That system's files are not written.
    """
    found = system(name)
    if found.name not in FORMATS:
        known = ", ".join([*FORMATS, "python"])
        raise ConfigError(f"system={name!r}: its files are read, not written. Written are {known}.")
    tree = _tree(config, found)
    left_out = _left_out(config, tree, found)
    if left_out:  # some defaults of theirs come only with other keys
        tree = _tree(config, found, also=left_out)
        left_out = _left_out(config, tree, found)
    text = Exported(_text(tree, found, left_out))
    text.system, text.left_out = found.name, left_out
    return text


def _tree(config: Config, found: System, also: Container[str] = ()) -> dict[str, Any]:
    mine, base = _values(config), _values(_imported({}, found))
    written: dict[str, Any] = {}
    for setting, value in mine.items():
        if value == base.get(setting, _default(setting)) and setting not in also:
            continue
        for entry, parts in _entries(found, setting):
            theirs = value
            if entry.back is not None:
                theirs = entry.back(value, config)
            elif entry.convert is not None:
                continue
            if theirs is not UNSET:
                written.setdefault(filled(entry.path, parts), theirs)
    tree = tree_of(written) if found.name != "peft_studio" else written
    if found.write:
        found.write(config, tree)
    return tree


def _entries(found: System, setting: str) -> Iterator[tuple[Entry, list[str]]]:
    """Yield the entries that a setting of ours can be written by, and what fills their path."""
    numbers = [f"[{part}]" for part in io.parts(setting) if isinstance(part, int)]
    split = io.parts(setting)[1] if setting.startswith("data.") else "train"
    split = split if split in SPLITS else "train"
    plain = io.without_indices(setting)
    for entry in found.table:
        if "[" in entry.path.replace("[]", "") or entry.path.startswith("cli."):
            continue
        wanted = entry.setting.replace("<split>", str(split))
        if wanted == setting:
            yield entry, [str(split)] if "<split>" in entry.path else []
        elif "[]" in wanted and wanted == plain:
            yield entry, [*([str(split)] if "<split>" in entry.path else []), *numbers]


@functools.cache
def _defaults() -> dict[str, Any]:
    return {setting.path: setting.default for setting in settings()}


def _default(setting: str) -> Any:
    return _defaults().get(io.without_indices(setting))


def _values(config: Config) -> dict[str, Any]:
    """Return every setting that has a value of its own, flat."""
    whole = _defaults()
    flat = io.flatten(config.to_dict(full=True), whole)
    values: dict[str, Any] = {}
    for path, value in flat.items():
        block = whole.get(io.without_indices(path))
        if isinstance(value, dict) and value and isinstance(block, dict):
            values |= {f"{path}.{key}": item for key, item in value.items()}
            values[path] = value
        else:
            values[path] = value
    return values


def _imported(tree: dict[str, Any], found: System) -> Config:
    document = Document(Path(f"config.{FORMATS[found.name]}"), FORMATS[found.name], tree)
    return import_document(document, found)[0]


def _left_out(config: Config, tree: dict[str, Any], found: System) -> dict[str, Any]:
    """Return our settings that the file, read again, would not give back."""
    again = _imported(json.loads(json.dumps(tree)), found)
    return {
        path: mine
        for path, (theirs, mine) in config.diff(again).items()
        if not path.startswith(_OURS_ALONE)
        and not _alike(path, mine, theirs)
        and (config.data.packing or path != "data.packing_strategy")
    }


def _alike(path: str, mine: Any, theirs: Any) -> bool:
    """Whether two values are the same in what they do."""
    if path.endswith(".dataset_type"):
        return {mine, theirs} <= {None, "auto", "seq_completion", "erniekit"}
    if path == "evaluation.eval_steps" and mine is None:
        return True  # then logging_steps are written
    return path == "optimizer.optim" and {mine, theirs} == {"adamw_torch", "adamw_torch_fused"}


def _text(tree: dict[str, Any], found: System, left_out: dict[str, Any]) -> str:
    if FORMATS[found.name] == "json":
        return json.dumps(tree, indent=2, ensure_ascii=False) + "\n"
    import yaml

    head = [f"# Written by nbft for {found.title}."]
    head += [
        f"# Cannot be said here: {path}={shown(value)}" for path, value in sorted(left_out.items())
    ]
    body = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=100)
    return "\n".join([*head, body])
