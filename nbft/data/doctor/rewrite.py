"""Data files in which a finding is fixed: written beside the old ones, which stay as they are."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nbft.config import Config
from nbft.config.data import Dataset, Split
from nbft.data.doctor.finding import Rewrite
from nbft.data.examples import load_examples
from nbft.data.ready import READY
from nbft.data.sources import load_rows, resolve
from nbft.errors import DataError, Problem

_TEMPLATES = ("prompt_template", "completion_template", "prompt_func", "completion_func")


def rewritten(
    config: Config, rewrite: Rewrite, *, folder: Path | None = None, into: Path | None = None
) -> Config:
    """Write the files that fix a finding, and return the config that names them.

    Rows in memory are replaced by rows in memory.

    Args:
        config: The config whose rows they are.
        rewrite: What to leave out and to fix.
        folder: Folder of the config file, for relative paths.
        into: Where to write; beside each old file when None, or into the working folder where that
            cannot be written to.

    Raises:
        DataError: A file cannot be written.
    """
    changes: dict[str, Any] = {}
    in_memory: dict[str, list[Mapping[str, Any]]] = {}
    for field, dataset in config.data.named_datasets():
        if field not in rewrite.drops and field not in rewrite.fields:
            continue
        rows = _rows(config, field, dataset, rewrite, folder)
        if dataset.rows is not None:
            in_memory[field] = list(rows)
        else:
            target, written = _target(dataset, rewrite.suffix, folder, into)
            _write(target, rows, field)
            changes[f"{field}.path"] = written
            changes |= _templates_of_ready(dataset, field)
        if rewrite.as_messages:
            changes |= {f"{field}.{name}": None for name in _TEMPLATES}
            changes[f"{field}.columns"] = {}
    changed = config.apply(changes)
    for field, dataset in changed.data.named_datasets():
        if field in in_memory:
            dataset.rows = in_memory[field]
    return changed


def _rows(
    config: Config, field: str, dataset: Dataset, rewrite: Rewrite, folder: Path | None
) -> Iterator[Mapping[str, Any]]:
    """Yield the rows of the new file: those of the old, in its order, fixed."""
    section = field.split(".")[1]
    whole = dataset.model_copy(update={"sample_count": None, "shuffle": False})
    if rewrite.as_messages:
        yield from _conversations(config, section, whole, rewrite, folder)
        return
    raw = whole.model_copy(update={"columns": {}})
    dropped = {*np.asarray(rewrite.drops.get(field, ())).tolist()}
    for number, row in enumerate(load_rows(raw, section, field, folder=folder), start=1):
        if number not in dropped:
            yield _fixed(row, rewrite.clean) if rewrite.clean else row


def _conversations(
    config: Config, section: str, dataset: Dataset, rewrite: Rewrite, folder: Path | None
) -> Iterator[Mapping[str, Any]]:
    """Yield the rows as messages, made of the prompts and completions that the templates give."""
    assert rewrite.as_messages is not None
    if dataset.dataset_name in READY and dataset.split is None:
        dataset = dataset.model_copy(update={"split": "train" if section == "train" else "test"})
    only = config.data.model_copy(
        update={
            "train": Split(datasets=[dataset.model_copy(update={"mixture_proportion": None})]),
            "validation": None,
            "test": None,
            "split_ratio": 1.0,
        }
    )
    examples, _ = load_examples(config.model_copy(update={"data": only}), "train", folder=folder)
    for example in examples:
        messages = [dict(turn) for turn in example.messages]
        yield {"messages": messages or rewrite.as_messages(example.prompt, example.completion)}


def _fixed(value: Any, fix: Callable[[str], str]) -> Any:
    """Return a value with every text in it fixed."""
    if isinstance(value, str):
        return fix(value)
    if isinstance(value, Mapping):
        return {name: _fixed(item, fix) for name, item in value.items()}
    return [_fixed(item, fix) for item in value] if isinstance(value, list) else value


def _templates_of_ready(dataset: Dataset, field: str) -> dict[str, str]:
    """Return the templates that a ready name stood for: a file has none of its own."""
    ready = READY.get(dataset.dataset_name or "") if dataset.path is None else None
    if ready is None:
        return {}
    changes: dict[str, str] = {}
    for part in ("prompt", "completion"):
        names = (f"{part}_template", f"{part}_func")
        if any(getattr(dataset, name) is not None for name in names):
            continue
        changes |= {f"{field}.{n}": v for n in names if (v := getattr(ready, n, ""))}
    return changes


def _target(
    dataset: Dataset, suffix: str, folder: Path | None, into: Path | None
) -> tuple[Path, str]:
    """Return where to write, and how the config names it."""
    old = resolve(dataset.path, folder) if dataset.path else None
    name = old.stem if old else str(dataset.dataset_name).replace("/", "--")
    parent = into or (old.parent if old else Path.cwd())
    if into is None and not os.access(parent, os.W_OK):
        parent = Path.cwd()
    target = parent / f"{name}.{suffix}.jsonl"
    number = 2
    while target.exists():
        target = parent / f"{name}.{suffix}-{number}.jsonl"
        number += 1
    if old and parent == old.parent:
        return target, Path(str(dataset.path)).with_name(target.name).as_posix()
    return target, target.absolute().as_posix()


def _write(target: Path, rows: Iterator[Mapping[str, Any]], field: str) -> None:
    """Write rows as JSON Lines, whole or not at all."""
    partial = target.with_name(f"{target.name}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("w", encoding="utf-8") as file:
            for row in rows:
                text = json.dumps(dict(row), ensure_ascii=False, default=str)
                try:
                    text.encode()
                except UnicodeEncodeError:  # half a character: only an escape can write it
                    text = json.dumps(dict(row), default=str)
                file.write(text + "\n")
        partial.replace(target)
    except OSError as error:
        why = f"{target} cannot be written: {(error.strerror or str(error)).lower()}."
        raise DataError(Problem(field, None, why, "Name another folder.")) from None
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
