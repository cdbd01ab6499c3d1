"""Write a config as the file of another system, with a list of the settings left out.

The tables of the systems are used in reverse. The file is imported again and compared with the
config, so that every setting that is lost is listed. Called by `Config.export`.
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
from nbft.interop.conversions import for_any_machine
from nbft.interop.importer import filled, import_document, system, tree_of
from nbft.interop.read import Document
from nbft.interop.report import Exported, shown
from nbft.interop.table import UNSET, Entry, System
from nbft.redaction import redact

FORMATS = {"qefficient": "yaml", "oumi": "yaml", "erniekit": "yaml", "peft_studio": "json"}
"""Systems to export to, and the language of their files."""

_ONLY_OURS = ("speed.", "training.stop_on_nan")


def export(config: Config, name: str) -> Exported:
    """Write a config as the file of another system.

    Args:
        config: The config.
        name: qefficient, oumi, erniekit or peft_studio.

    Raises:
        ConfigError: That system's files can only be imported.
    """
    target = system(name)
    if target.name not in FORMATS:
        known = ", ".join([*FORMATS, "python"])
        raise ConfigError(f"system={name!r}: its files can be imported only. Export to {known}.")
    tree = _tree(config, target)
    left_out = _left_out(config, tree, target)
    if left_out:  # some of their defaults apply only with other keys
        tree = _tree(config, target, also=left_out)
        left_out = _left_out(config, tree, target)
    tree, left_out = redact(tree), redact(left_out)
    text = Exported(_text(tree, target, left_out))
    text.system, text.left_out = target.name, left_out
    return text


def _tree(config: Config, target: System, also: Container[str] = ()) -> dict[str, Any]:
    mine, base = _values(config), _values(_imported({}, target))
    written: dict[str, Any] = {}
    for setting, value in mine.items():
        if value == base.get(setting, _default(setting)) and setting not in also:
            continue
        for entry, parts in _entries(target, setting):
            theirs = value
            if entry.back is not None:
                theirs = entry.back(value, config)
            elif entry.convert is not None:
                continue
            if theirs is not UNSET:
                written.setdefault(filled(entry.path, parts), theirs)
    tree = tree_of(written) if target.name != "peft_studio" else written
    if target.write:
        target.write(config, tree)
    return tree


def _entries(target: System, setting: str) -> Iterator[tuple[Entry, list[str]]]:
    """Yield the entries for a setting of ours, and the parts for the placeholders in their path."""
    numbers = [f"[{part}]" for part in io.parts(setting) if isinstance(part, int)]
    split = io.parts(setting)[1] if setting.startswith("data.") else "train"
    split = split if split in SPLITS else "train"
    plain = io.without_indices(setting)
    for entry in target.table:
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
    """Return the values of all settings by dotted path."""
    whole = _defaults()
    flat = io.flatten(config.to_dict(full=True), whole)
    values: dict[str, Any] = {}
    for path, value in flat.items():
        block = whole.get(io.without_indices(path))
        if isinstance(value, dict) and isinstance(block, dict):
            values |= {f"{path}.{key}": item for key, item in value.items()}
        values[path] = value
    return values


def _imported(tree: dict[str, Any], target: System) -> Config:
    document = Document(Path(f"config.{FORMATS[target.name]}"), FORMATS[target.name], tree)
    with for_any_machine():
        return import_document(document, target)[0]


def _left_out(config: Config, tree: dict[str, Any], target: System) -> dict[str, Any]:
    """Return our settings that importing the file would not restore."""
    again = _imported(json.loads(json.dumps(tree)), target)
    return {
        path: mine
        for path, (theirs, mine) in config.diff(again).items()
        if not path.startswith(_ONLY_OURS)
        and not _alike(path, mine, theirs)
        and (config.data.packing or path != "data.packing_strategy")
    }


def _alike(path: str, mine: Any, theirs: Any) -> bool:
    """Whether two values have the same effect."""
    if path.endswith(".dataset_type"):
        return {mine, theirs} <= {None, "auto", "seq_completion", "erniekit"}
    if path == "evaluation.eval_steps" and mine is None:
        return True  # then logging_steps are written
    return path == "optimizer.optim" and {mine, theirs} == {"adamw_torch", "adamw_torch_fused"}


def _text(tree: dict[str, Any], target: System, left_out: dict[str, Any]) -> str:
    if FORMATS[target.name] == "json":
        return json.dumps(tree, indent=2, ensure_ascii=False) + "\n"
    import yaml

    head = [f"# Written by nbft for {target.title}."]
    head += [
        f"# Not supported by this format: {path}={shown(value)}"
        for path, value in sorted(left_out.items())
    ]
    body = yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=100)
    return "\n".join([*head, body])
