"""Data files in which a finding is fixed: written beside the old ones, which stay as they are."""

from __future__ import annotations

import itertools
import json
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbft.atomic import replacing
from nbft.config import Config
from nbft.config.data import Dataset
from nbft.config.io import resolve
from nbft.data.doctor.finding import Rewrite, Row, left_out
from nbft.data.examples import Example, load_examples
from nbft.data.lines import line_keys
from nbft.data.ready import READY
from nbft.data.sources import Rows, lines_of, load_rows, number_in_file, rename
from nbft.data.turns import RowError
from nbft.errors import DataError, Problem

_TEMPLATES = ("prompt_template", "completion_template", "prompt_func", "completion_func")


@dataclass(frozen=True)
class Change:
    """A row before and after a fix.

    Attributes:
        field: Its dataset.
        row: Its number in the file or list, from 1.
        before: The row.
        after: The row as it will be; None if it is left out.
    """

    field: str
    row: int
    before: Row
    after: Row | None


def changes(config: Config, rewrite: Rewrite, *, folder: Path | None = None) -> Iterator[Change]:
    """Yield the rows that a fix changes, in their order.

    Args:
        config: The config whose rows they are.
        rewrite: The fix.
        folder: Folder of the config file, for relative paths.
    """
    for field, _, rows, mend in _concerned(config, rewrite, folder):
        numbers = {*rewrite.rows[field].tolist()}
        for place in range(len(rows)):
            if (number := number_in_file(rows, place)) not in numbers:
                continue
            before = _row(rows, place)
            if (after := mend(before)) != before:
                yield Change(field, number, before, after)


def rewritten(
    config: Config, rewrite: Rewrite, *, folder: Path | None = None, into: Path | None = None
) -> Config:
    """Write the files that fix a finding, and return the config that names them.

    Every other row, and of a row every column that is not at fault, stays as it is; of JSON Lines,
    byte for byte. Rows in memory are replaced by rows in memory.

    Args:
        config: The config whose rows they are.
        rewrite: The fix.
        folder: Folder of the config file, for relative paths.
        into: Where to write; beside each old file when None, or into the working folder where that
            cannot be written to.

    Raises:
        DataError: A file cannot be written.
    """
    changed: dict[str, Any] = {}
    for field, dataset, raw, mend in _concerned(config, rewrite, folder):
        rows = _mended(raw, {*rewrite.rows[field].tolist()}, mend)
        if dataset.rows is not None:
            changed[f"{field}.rows"] = [row for row, _ in rows]
        else:
            target, written = _target(dataset, folder, into)
            _write(target, rows, field)
            changed[f"{field}.path"] = written
            changed |= _templates_of_ready(dataset, field)
        if rewrite.makes_turns:
            changed |= {f"{field}.{name}": None for name in _TEMPLATES}
            changed[f"{field}.columns"] = {}
    return config.apply(changed)


def _concerned(
    config: Config, rewrite: Rewrite, folder: Path | None
) -> Iterator[tuple[str, Dataset, Rows, Callable[[Row], Row | None]]]:
    """Yield the datasets that a fix changes, each with its rows and what mends one of them."""
    for field, dataset in config.data.named_datasets():
        if field in rewrite.rows:
            rows = _raw(config, field, dataset, folder)
            yield field, dataset, rows, _mender(config, field, rewrite, folder)


def _raw(config: Config, field: str, dataset: Dataset, folder: Path | None) -> Rows:
    """Return all rows of a dataset, in their order and with their own columns."""
    plain: dict[str, Any] = {"sample_count": None, "shuffle": False, "columns": {}}
    whole, split = dataset.model_copy(update=plain), field.split(".")[1]
    return load_rows(whole, split, field, folder=folder, is_strict=False)


def _row(rows: Rows, place: int) -> Row:
    """Return a row, from 0; one that cannot be read as its line."""
    try:
        return rows[place]
    except DataError:
        line = next(itertools.islice(lines_of(rows), place, None), b"")
        return {"line": line.decode("utf-8", "replace")}


def _mender(
    config: Config, field: str, rewrite: Rewrite, folder: Path | None
) -> Callable[[Row], Row | None]:
    """Return what mends a row, but only the columns that its example is made of."""
    if rewrite.makes_turns or rewrite.mend is left_out:
        return rewrite.mend
    columns = dict(config.data.named_datasets())[field].columns
    examples, _ = load_examples(config, field.split(".")[1], folder=folder, is_strict=False)
    make = next(part.make for part in examples.parts if part.field == field)

    def mend(row: Row) -> Row | None:
        mended = rewrite.mend(row)
        if mended is None:
            return None
        different = [name for name in mended if mended[name] != row.get(name)]
        return {**row, **{n: mended[n] for n in different if _counts(n, mended[n], row)}}

    def _counts(name: str, value: Any, row: Row) -> bool:
        """Whether a column with another value makes another example."""
        try:
            before, after = (make(rename(one, columns)) for one in (row, {**row, name: value}))
        except RowError:
            return True
        is_kept = not rewrite.answers_only or _asked(before) == _asked(after)
        return before != after and is_kept

    return mend


def _asked(example: Example) -> Any:
    """Return what an example says besides its answers."""
    return example.prompt, [turn for turn in example.messages if turn["role"] != "assistant"]


def _mended(
    rows: Rows, numbers: set[int], mend: Callable[[Row], Row | None]
) -> Iterator[tuple[Row, bytes | None]]:
    """Yield the rows of the new file, with the lines of those that stay as they are."""
    lines = lines_of(rows)
    if (path := getattr(rows, "path", None)) is not None and len(line_keys(path)) != len(rows):
        lines = iter(())
    for place in range(len(rows)):
        line = next(lines, None)
        if number_in_file(rows, place) not in numbers:
            yield rows[place] if line is None else {}, line
        elif mend is not left_out and (mended := mend(rows[place])) is not None:
            yield mended, None


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


def _target(dataset: Dataset, folder: Path | None, into: Path | None) -> tuple[Path, str]:
    """Return where to write, and how the config names it."""
    old = resolve(dataset.path, folder) if dataset.path else None
    name = old.stem if old else str(dataset.dataset_name).replace("/", "--")
    name = re.sub(
        r"\.fixed(-\d+)?$", "", re.sub(r"\.(jsonl?|ndjson|csv|tsv|parquet|xlsx|ods)$", "", name)
    )
    parent = into or (old.parent if old else Path.cwd())
    if into is None and not os.access(parent, os.W_OK):
        parent = Path.cwd()
    numbered = (f"{name}.fixed{f'-{n}' if n > 1 else ''}.jsonl" for n in itertools.count(1))
    target = next(path for path in (parent / one for one in numbered) if not path.exists())
    if old and parent == old.parent:
        return target, Path(str(dataset.path)).with_name(target.name).as_posix()
    return target, target.absolute().as_posix()


def _write(target: Path, rows: Iterator[tuple[Row, bytes | None]], field: str) -> None:
    """Write rows as JSON Lines, whole or not at all."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with replacing(target) as partial, partial.open("wb") as file:
            for row, line in rows:
                file.write((_line(row) if line is None else line) + b"\n")
    except OSError as error:
        why = f"{target} cannot be written: {(error.strerror or str(error)).lower()}."
        raise DataError(Problem(field, None, why, "Name another folder.")) from None


def _line(row: Row) -> bytes:
    try:
        return json.dumps(dict(row), ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError:  # half a character: only an escape can write it
        return json.dumps(dict(row), default=str).encode()
