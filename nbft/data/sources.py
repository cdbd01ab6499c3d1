"""Rows from files, the hub, memory and the bundled samples.

Reads and checks rows; knows nothing of prompts or tokens. Called by `examples`, `nbft.plan` and
`nbft.runs`. Files are read without loading `datasets`.
"""

from __future__ import annotations

import contextlib
import csv
import json
import os
import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from nbft.config.data import Dataset
from nbft.data.ready import READY
from nbft.data.samples import sample_path
from nbft.errors import DataError, Problem

FORMATS = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")
HUB_SECONDS = 3.0
"""How long the hub may take to say that it has a dataset."""

_PROBLEMS_SHOWN = 5


class Rows(Protocol):
    """Rows that can be counted and taken by number: a list of dicts or a `datasets.Dataset`."""

    def __len__(self) -> int: ...
    def __getitem__(self, number: int, /) -> Mapping[str, Any]: ...
    def __iter__(self) -> Iterator[Mapping[str, Any]]: ...


def resolve(path: str, folder: Path | None) -> Path:
    """Return where a path of a config leads: from the config's folder, else from here.

    A file that is in neither is said to be missing from the config's folder.

    Args:
        path: As written, absolute or not; ~ is understood.
        folder: The folder of the config file, or None for a config made in Python.
    """
    given = Path(path).expanduser()
    beside = (folder or Path()) / given
    return (given if is_there(given) and not is_there(beside) else beside).absolute()


def is_there(path: Path) -> bool:
    """Whether there is such a file or folder, as far as this person may know."""
    try:
        return path.exists()
    except OSError:  # no rights, or a name that is too long
        return False


def load_rows(
    dataset: Dataset, split: str, field: str, *, seed: int = 42, folder: Path | None = None
) -> Rows:
    """Read the rows of one dataset, with columns renamed, shuffled and limited as it says.

    Args:
        dataset: Where the rows are.
        split: "train" or "validation": what to take where the dataset has several splits.
        field: Dotted name of the dataset in the config, for messages.
        seed: Seed of the shuffle where the dataset has none of its own.
        folder: Folder of the config file.

    Raises:
        DataError: Naming the file, the line, what is wrong and what to do.
    """
    if dataset.rows is not None:
        rows = _from_memory(dataset.rows, f"{field}.rows")
    elif dataset.path is not None:
        rows = _from_file(resolve(dataset.path, folder), f"{field}.path", dataset.path)
    elif dataset.dataset_name in READY and not dataset.subset:
        own_split = "train" if (dataset.split or split) == "train" else "test"
        rows = _from_file(sample_path(dataset.dataset_name, own_split), field, "")
    elif dataset.dataset_name is not None:
        rows = _from_hub(dataset, split, field)
    else:
        raise DataError(
            Problem(
                field,
                None,
                "names no rows.",
                "Give path, dataset_name, or rows from Python.",
            )
        )
    if len(rows) == 0:
        name, value = _named(dataset)
        raise DataError(Problem(f"{field}.{name}", value, "holds no rows.", "Name another."))
    if dataset.columns:
        rows = _renamed(rows, dataset.columns, field)
    return _taken(rows, dataset, seed)


def _named(dataset: Dataset) -> tuple[str, str | None]:
    """Return the setting that says where the rows are, and its value."""
    if dataset.rows is not None:
        return "rows", None
    name = "path" if dataset.path is not None else "dataset_name"
    return name, getattr(dataset, name)


def columns_of(rows: Rows) -> list[str]:
    """Return the names of the columns, in the order of the first row that has them."""
    if hasattr(rows, "column_names"):
        return list(rows.column_names)
    return list(dict.fromkeys(name for row in rows for name in row))


def _from_memory(rows: Any, field: str) -> Rows:
    if hasattr(rows, "column_names") and hasattr(rows, "select"):
        return rows  # type: ignore[no-any-return]
    if isinstance(rows, Mapping):
        raise DataError(
            Problem(
                field,
                None,
                f"is a mapping with the keys {', '.join(map(str, rows))}.",
                "Give a list of dicts or one split of it.",
            )
        )
    if not isinstance(rows, Sequence) or isinstance(rows, str):
        raise DataError(
            Problem(
                field,
                None,
                f"is of the type {type(rows).__name__}, not a list of rows.",
                "Give a list of dicts or a datasets.Dataset.",
            )
        )
    return _checked(list(rows), field, None, "item")


def _from_file(path: Path, field: str, written: str) -> list[Any]:
    def fail(why: str, fix: str) -> DataError:
        return DataError(Problem(field, written or path.name, why, fix))

    try:
        if path.is_dir():
            raise fail("is a folder.", f"Name a file in it ({', '.join(FORMATS)}).")
        if not path.exists():
            raise fail(*_missing(path))
        if path.suffix.lower() not in FORMATS:
            raise fail(
                f"has the ending {path.suffix or 'none'}.", f"Known are {', '.join(FORMATS)}."
            )
        if path.stat().st_size == 0:
            raise fail("is empty (0 bytes).", "Name a file with rows.")
        rows, places = _read(path, field, written or path.name)
    except PermissionError:
        raise fail(
            "may not be read by you.", "Change its rights, or those of its folder."
        ) from None
    except UnicodeDecodeError:
        raise fail("is not UTF-8 text.", "Save it as UTF-8.") from None
    except OSError as error:
        raise fail(f"cannot be read: {error.strerror or error}.", "") from None
    return _checked(rows, field, written or path.name, places)


def _missing(path: Path) -> tuple[str, str]:
    import difflib

    folder = path.parent
    if not folder.is_dir():
        return "does not exist, nor does its folder.", f"Looked in {folder}."
    if not os.access(folder, os.R_OK):
        raise PermissionError
    names = [f.name for f in folder.iterdir() if f.suffix.lower() in FORMATS]
    close = difflib.get_close_matches(path.name, names, n=1)
    beside = f"Did you mean {close[0]}?" if close else f"Looked in {folder}."
    return "does not exist.", beside


def _read(path: Path, field: str, written: str) -> tuple[list[Any], str]:
    """Return the rows of a file, and what its rows are called ("line", "row", "item")."""
    kind = path.suffix.lower()
    if kind == ".parquet":
        import pyarrow.lib
        import pyarrow.parquet

        try:
            return pyarrow.parquet.read_table(path).to_pylist(), "row"
        except pyarrow.lib.ArrowInvalid as error:
            why = f"is no Parquet file ({str(error).splitlines()[0]})."
            raise DataError(Problem(field, written, why, "Write it again.")) from None
    with path.open(encoding="utf-8-sig", newline="") as file:
        if kind in (".csv", ".tsv"):
            return _read_csv(file, field, written, "\t" if kind == ".tsv" else ","), "row"
        if kind == ".json":
            text = file.read()
            try:
                content = json.loads(text)
            except ValueError as error:
                # A complete object and then more text: JSON Lines under another ending.
                if text.lstrip().startswith("{") and getattr(error, "msg", "") == "Extra data":
                    return _read_lines(text.split("\n"), field, written), "line"
                line = getattr(error, "lineno", "?")
                why = f"line {line}: is not JSON: {getattr(error, 'msg', error)}."
                raise DataError(Problem(field, written, why, "Mend that line.")) from None
            if not isinstance(content, list):
                why = f"holds {_kind(content)}, not an array of rows."
                raise DataError(Problem(field, written, why, "Write [{…}, {…}]."))
            return content, "item"
        return _read_lines(file, field, written), "line"


_BLANK = object()


def _read_lines(lines: Any, field: str, written: str) -> list[Any]:
    rows, problems = [], []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            rows.append(_BLANK)  # keeps the line numbers; taken out by _checked
            continue
        try:
            rows.append(json.loads(line))
        except ValueError as error:
            why = f"line {number}: is not JSON: {getattr(error, 'msg', error)}."
            problems.append(Problem(field, written, why, "Mend or remove the line."))
    _raise_some(problems)
    return rows


def _read_csv(file: Any, field: str, written: str, delimiter: str) -> list[Any]:
    csv.field_size_limit(2**31 - 1)
    reader = csv.DictReader(file, delimiter=delimiter)
    names = list(reader.fieldnames or ())
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        why = f"names the column {', '.join(twice)} more than once in its first line."
        raise DataError(Problem(field, written, why, "Give every column a name of its own."))
    rows, problems = [], []
    for number, row in enumerate(reader, start=1):
        if None in row or None in row.values():  # more cells than names, or fewer
            why = f"row {number}: has more or fewer cells than the {len(names)} of the first line."
            problems.append(Problem(field, written, why, "Quote cells that hold the separator."))
        rows.append(row)
    _raise_some(problems)
    return rows


def _raise_some(problems: list[Problem]) -> None:
    if len(problems) > _PROBLEMS_SHOWN:
        more = len(problems) - _PROBLEMS_SHOWN
        raise DataError([*problems[:_PROBLEMS_SHOWN], f"… and {more:,} more like these."])
    if problems:
        raise DataError(problems)


def _checked(rows: list[Any], field: str, written: str | None, place: str) -> list[Any]:
    """Return the rows, all of them objects, or say which are not."""
    problems = [
        Problem(
            field,
            written,
            f"{place} {number}: is {_kind(row)}, not an object with columns.",
            'Write {"column": "text"}.',
        )
        for number, row in enumerate(rows, start=1)
        if not isinstance(row, Mapping) and row is not _BLANK
    ]
    _raise_some(problems)
    return [row for row in rows if row is not _BLANK]


def _kind(value: Any) -> str:
    names = {str: "text", bool: "a boolean", int: "a number", float: "a number", list: "a list"}
    return names.get(type(value), "an object" if isinstance(value, Mapping) else "null")


def _from_hub(dataset: Dataset, split: str, field: str) -> Rows:
    import datasets

    wanted = [dataset.split] if dataset.split else _SPLITS[split]
    try:
        with _no_waiting(str(dataset.dataset_name)):
            known = datasets.get_dataset_split_names(dataset.dataset_name, dataset.subset)
            for name in wanted:
                if name.partition("[")[0] in known:
                    return datasets.load_dataset(dataset.dataset_name, dataset.subset, split=name)  # type: ignore[no-any-return]
        why = f"has no split {' or '.join(wanted)}; it has {', '.join(known)}."
        fix = f"Write split: {known[0]}."
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        why = f"could not be read from the hub ({reason})."
        fix = f"Name a file in path, or a bundled sample: {', '.join(READY)}."
    raise DataError(Problem(f"{field}.dataset_name", dataset.dataset_name, why, fix)) from None


@contextlib.contextmanager
def _no_waiting(name: str) -> Iterator[None]:
    """Ask the hub once; while it does not answer, let `datasets` look in its cache only.

    Without this a machine without a network waits for six tries of each file, 45 seconds in all.
    """
    import huggingface_hub
    from huggingface_hub import constants, errors

    before = constants.HF_HUB_OFFLINE
    try:
        if not before:
            huggingface_hub.HfApi().dataset_info(name, timeout=HUB_SECONDS)
    except errors.HfHubHTTPError:
        pass  # it answers, and `datasets` says what is wrong
    except Exception:
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


_SPLITS = {"train": ["train"], "validation": ["validation", "valid", "dev", "test"]}


def _renamed(rows: Rows, columns: Mapping[str, str], field: str) -> Rows:
    """Give columns the names {new: old}."""
    found = columns_of(rows)
    missing = [old for old in columns.values() if old not in found]
    if missing:
        raise DataError(
            Problem(
                f"{field}.columns",
                dict(columns),
                f"no column {', '.join(missing)}; found {', '.join(found)}.",
                "Write {new name: name in the file}.",
            )
        )
    gone = {*columns, *columns.values()}  # a column that had a name now given to another goes too
    return [
        {new: row[old] for new, old in columns.items() if old in row}
        | {name: value for name, value in row.items() if name not in gone}
        for row in rows
    ]


def _taken(rows: Rows, dataset: Dataset, seed: int) -> Rows:
    numbers = list(range(len(rows)))
    if dataset.shuffle:
        random.Random(dataset.seed if dataset.seed is not None else seed).shuffle(numbers)
    if dataset.sample_count is not None:
        numbers = numbers[: dataset.sample_count]
    if numbers == list(range(len(rows))):
        return rows
    return [rows[number] for number in numbers]
