"""Rows from files, the hub, memory and the bundled samples.

Reads and checks rows; knows nothing of prompts or tokens. Called by `examples`, `nbft.plan` and
`nbft.runs`. Files are read without loading `datasets`; large ones stay on disk (`lines`).
"""

from __future__ import annotations

import contextlib
import json
import os
import weakref
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from nbft.config.data import Dataset
from nbft.config.io import resolve
from nbft.data import lines, tables
from nbft.data.cells import TOO_DEEP, is_too_deep
from nbft.data.holdout import content_key
from nbft.data.ready import READY
from nbft.data.samples import sample_path
from nbft.errors import DataError, Problem
from nbft.formatting import listed
from nbft.reading import stamp
from nbft.syntax import goes_on_after_json, json_problem

FORMATS = (".json", ".jsonl", ".ndjson", *tables.FORMATS, ".parquet")
HUB_SECONDS = 3.0
"""How long the hub may take to answer whether it has a dataset."""

_PROBLEMS_SHOWN = 5
_ROWS_LOOKED_AT = 10_000
"""Rows that are read to find all columns."""


class Rows(Protocol):
    """Rows that can be counted and taken by number: a list of dicts or a `datasets.Dataset`."""

    def __len__(self) -> int: ...
    def __getitem__(self, number: int, /) -> Mapping[str, Any]: ...
    def __iter__(self) -> Iterator[Mapping[str, Any]]: ...


def load_rows(
    dataset: Dataset,
    split: str,
    field: str,
    *,
    seed: int = 42,
    folder: Path | None = None,
    is_strict: bool = True,
) -> Rows:
    """Read the rows of one dataset, with columns renamed, shuffled and limited by its settings.

    Args:
        dataset: The dataset's settings.
        split: train, validation or test: what to take where the dataset has several splits.
        field: Dotted name of the dataset in the config, for messages.
        seed: Seed of the shuffle where the dataset has none of its own.
        folder: Folder of the config file.
        is_strict: Raise at once at a line of JSON Lines that cannot be read; otherwise when that row
            is asked for.

    Raises:
        DataError: The rows cannot be read; names the file, the line, the problem and a fix.
    """
    if dataset.rows is not None:
        rows = _from_memory(dataset.rows, f"{field}.rows")
    elif dataset.path is not None:
        path = resolve(dataset.path, folder)
        if _is_folder(path):
            rows = _from_folder(path, dataset, split, f"{field}.path")
        else:
            rows = _from_file(
                path, f"{field}.path", dataset.path, dataset.subset, is_strict=is_strict
            )
    elif dataset.dataset_name in READY and not dataset.subset:
        rows = _from_file(bundled_file(dataset, split), field, "")
    elif dataset.dataset_name is not None:
        rows = _from_hub(dataset, split, field)
    else:
        fix = "Give path, dataset_name, or rows from Python."
        raise DataError(Problem(field, None, "names no rows.", fix))
    if len(rows) == 0:
        name = next(n for n in ("rows", "path", "dataset_name") if getattr(dataset, n) is not None)
        value = None if name == "rows" else getattr(dataset, name)
        raise DataError(Problem(f"{field}.{name}", value, "holds no rows.", "Name another."))
    if dataset.columns:
        rows = _Renamed(rows, dataset.columns, field)
    numbers = _taken(len(rows), dataset, seed)
    return rows if numbers is None else _Taken(rows, numbers)


def bundled_file(dataset: Dataset, split: str) -> Path:
    """Return the file of a bundled sample; every split but train is its test file."""
    wanted = "train" if (dataset.split or split) == "train" else "test"
    return sample_path(str(dataset.dataset_name), wanted)


def stream_rows(
    dataset: Dataset, split: str, field: str, *, folder: Path | None = None
) -> Iterable[Mapping[str, Any]]:
    """Return the rows of one dataset, which each loop over them reads from the start.

    Arguments and errors as in `load_rows`; the rows are not counted, shuffled or limited.
    """
    if dataset.rows is not None:
        return load_rows(dataset.model_copy(update={"sample_count": None}), split, field)
    if dataset.path is not None:
        path = resolve(dataset.path, folder)
        if _is_folder(path):
            rows = _from_folder(path, dataset, split, f"{field}.path")
            return _Renamed(rows, dataset.columns, field) if dataset.columns else rows
        file = _unpacked(path, f"{field}.path", dataset.path)
        return _Streamed(file, dataset.subset, dataset.columns)
    if dataset.dataset_name is not None and dataset.dataset_name not in READY:
        rows = _from_hub(dataset, split, field, stream=True)
        return rows.rename_columns({old: new for new, old in dataset.columns.items()})  # type: ignore[attr-defined, no-any-return]
    return load_rows(dataset.model_copy(update={"sample_count": None}), split, field, folder=folder)


class _Streamed:
    """Rows of a file, read again by every loop over them."""

    def __init__(self, path: Path, sheet: str | None, columns: Mapping[str, str]) -> None:
        self._path, self._sheet, self._columns = path, sheet, columns

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        for row in lines.stream(self._path, self._sheet):
            yield rename(row, self._columns)


def columns_of(rows: Rows) -> list[str]:
    """Return the names of the columns, in the order of the first row that has them."""
    if hasattr(rows, "column_names"):
        return list(rows.column_names)
    names: dict[str, None] = {}
    for number in spread(len(rows), _ROWS_LOOKED_AT).tolist():
        with contextlib.suppress(DataError):  # said where the row is used
            names |= dict.fromkeys(rows[number])
    return list(names)


def spread(total: int, most: int) -> np.ndarray:
    """Return the numbers of at most `most` rows, spread evenly over all, the first included.

    >>> spread(10, 4)
    array([0, 2, 5, 7])
    """
    return np.arange(total) if total <= most else np.arange(most) * total // most


def number_in_file(rows: Rows, place: int) -> int:
    """Return the number of a row in its file or list, from 1, as other programs show it.

    A spreadsheet program also counts the names of the columns and empty rows.

    Args:
        rows: The rows.
        place: The row's place among them, from 0.
    """
    while isinstance(rows, (_Taken, _Renamed)):
        if isinstance(rows, _Taken):
            place = int(rows.numbers[place])
        rows = rows.rows
    numbers = getattr(rows, "numbers_in_file", None)
    return place + 1 if numbers is None else int(numbers[place])


def remarks_of(rows: Rows) -> Sequence[str]:
    """Return sentences on how a file was read."""
    while isinstance(rows, (_Taken, _Renamed)):
        rows = rows.rows
    return getattr(rows, "remarks", ())


def content_keys(rows: Rows, numbers: np.ndarray) -> np.ndarray:
    """Return the content keys of some rows, uint64 [n].

    A row has the same key in a list, in a table and in a JSON Lines file that nbft writes of it.
    """
    while isinstance(rows, (_Taken, _Renamed)):
        if isinstance(rows, _Taken):
            numbers = rows.numbers[numbers]
        rows = rows.rows
    if (path := getattr(rows, "path", None)) is not None:
        of_lines: np.ndarray = lines.line_keys(path)
        if len(of_lines) == len(rows):
            return of_lines[numbers]  # type: ignore[no-any-return]
    is_most = len(numbers) > len(rows) / 2
    some = np.arange(len(rows)) if is_most else numbers
    of_all = is_most and not isinstance(rows, _PartlyRead)
    contents = rows if of_all else (_content(rows, int(number)) for number in some)
    keys = np.fromiter(map(content_key, contents), np.uint64)
    return keys[numbers] if is_most else keys


def _content(rows: Rows, number: int) -> Mapping[str, Any]:
    """Return a row; for one that cannot be read, why."""
    try:
        return rows[number]
    except DataError as error:
        return {"": str(error)}


def lines_of(rows: Rows) -> Iterator[bytes]:
    """Yield the lines of rows that were read from JSON Lines; nothing for others."""
    if (path := getattr(rows, "path", None)) is not None:
        yield from lines.filled(path)


def _from_memory(rows: Any, field: str) -> Rows:
    if hasattr(rows, "column_names") and hasattr(rows, "select"):
        return rows  # type: ignore[no-any-return]
    if isinstance(rows, Mapping):
        why = f"is a mapping with the keys {', '.join(map(str, rows))}."
        raise DataError(Problem(field, None, why, "Give a list of dicts or one split of it."))
    if not isinstance(rows, Sequence) or isinstance(rows, str):
        why = f"is of the type {type(rows).__name__}, not a list of rows."
        raise DataError(Problem(field, None, why, "Give a list of dicts or a datasets.Dataset."))
    return _named_by_text(_checked(list(rows), field, None, "item"), field)


def _named_by_text(rows: list[Any], field: str) -> list[Any]:
    """Return rows in memory with every column's name as text, such as the numbers pandas gives.

    Raises:
        DataError: Two columns of a row would get the same name.
    """
    if {type(name) for row in rows for name in row} <= {str}:
        return rows
    named = [{str(name): value for name, value in row.items()} for row in rows]
    for number, (row, old) in enumerate(zip(named, rows, strict=True), start=1):
        if len(row) < len(old):
            (name, _), *_ = Counter(map(str, old)).most_common(1)
            why = f"item {number}: has two columns with the name {name}, one of them not as text."
            raise DataError(Problem(field, None, why, "Rename one."))
    return named


class _FileRows(list[Any]):
    """The rows of a file; unlike a list, it can be referenced weakly.

    Attributes:
        path: The file, if it holds one row on each line.
        numbers_in_file: Number of each row in its table, from 1, [n]; None for other rows.
        remarks: Sentences on how the file was read.
    """

    path: Path | None = None
    numbers_in_file: np.ndarray | None = None
    remarks: Sequence[str] = ()


_IN_USE: weakref.WeakValueDictionary[tuple[Any, ...], _FileRows] = weakref.WeakValueDictionary()
"""Rows of files in use, by path, stamp and sheet: both splits of a file, its plan and its scores share
what was read once, and nothing stays in memory longer than it is used."""


def _from_file(
    path: Path, field: str, written: str, sheet: str | None = None, *, is_strict: bool = True
) -> Rows:
    name = written or path.name
    with file_errors(field, name):
        _check_file(path, field, name)
        if path.suffix.lower() in lines.PACKED:
            file = _unpacked(path, field, name)
            return _from_file(file, field, name, sheet, is_strict=is_strict)
        if path.stat().st_size > lines.LARGE_BYTES:
            return _large(path, field, written, sheet)
        key = (path, stamp(path), sheet)
        if (in_use := _IN_USE.get(key)) is not None:
            return in_use
        try:
            content = _read(path, field, name, sheet)
            rows = _FileRows(_checked(content.items, field, name, content.unit))
        except DataError:
            if is_strict:
                raise
            content = _read(path, field, name, sheet, is_strict=False)
            return _PartlyRead(content, path, field, name)
    rows.path = path if content.unit == "line" else None
    rows.numbers_in_file, rows.remarks = content.numbers, content.remarks
    _IN_USE[key] = rows
    return rows


@dataclass(frozen=True)
class _Content:
    """What was read from a file.

    Attributes:
        items: The rows; `_BLANK` in place of one that holds nothing, a problem in place of one that
            cannot be read.
        unit: What to call one in messages ("line", "row", "item").
        remarks: Sentences on how the file was read.
    """

    items: list[Any]
    unit: str
    remarks: Sequence[str] = ()

    @property
    def numbers(self) -> np.ndarray | None:
        """Number of each row in its table, from 1, [n]; None for other rows."""
        if self.unit != "row":
            return None
        is_row = np.array([item is not _BLANK for item in self.items], bool)
        return np.flatnonzero(is_row) + 1


class _PartlyRead:
    """The rows of a file of which some cannot be read; these raise when they are asked for.

    Attributes:
        path: The file, if it holds one row on each line.
        numbers_in_file: As of other rows.
        remarks: Sentences on how the file was read.
    """

    def __init__(self, content: _Content, path: Path, field: str, written: str) -> None:
        self.path = path if content.unit == "line" else None
        self.numbers_in_file, self.remarks = content.numbers, content.remarks
        self._rows: list[Any] = []
        for number, item in enumerate(content.items, start=1):
            if item is not _BLANK:
                wrong = (
                    []
                    if isinstance(item, Problem)
                    else _wrong(item, number, field, written, content.unit)
                )
                self._rows += wrong or [item]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> Mapping[str, Any]:
        row = self._rows[number]
        if isinstance(row, Problem):
            raise DataError([row])
        return row  # type: ignore[no-any-return]

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return (self[number] for number in range(len(self)))


def _unpacked(path: Path, field: str, written: str) -> Path:
    _check_file(path, field, written)
    try:
        file = lines.unpacked(path)
    except ValueError as error:
        raise DataError(Problem(field, written, str(error), "Unpack it by hand.")) from None
    if file is not path:
        _check_file(file, field, written)
    return file


def _is_folder(path: Path) -> bool:
    with contextlib.suppress(OSError):  # such as a name that is too long, said where it is read
        return path.is_dir()
    return False


def _is_saved(path: Path) -> bool:
    """Whether a folder was written by save_to_disk."""
    return any((path / name).is_file() for name in ("state.json", "dataset_dict.json"))


def _from_folder(path: Path, dataset: Dataset, split: str, field: str) -> Rows:
    """Return the rows of a folder that was written by save_to_disk."""
    _check_file(path, field, str(dataset.path))
    import datasets

    try:
        saved = datasets.load_from_disk(str(path))
    except Exception as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        why = f"cannot be read as a saved dataset ({reason})."
        raise DataError(Problem(field, dataset.path, why, "Save it again.")) from None
    if not isinstance(saved, datasets.DatasetDict):
        return saved  # type: ignore[no-any-return]
    wanted = [dataset.split] if dataset.split else _SPLITS[split]
    if found := next((name for name in wanted if name in saved), None):
        return saved[found]  # type: ignore[no-any-return]
    why = f"has no split {' or '.join(wanted)}; it has {', '.join(saved)}."
    raise DataError(Problem(field, dataset.path, why, f"Write split: {next(iter(saved), '')}."))


def _large(path: Path, field: str, written: str, sheet: str | None) -> Rows:
    with _as_sentence(field, written):
        file = path if lines.is_lines(path) else lines.as_lines(path, sheet)
    return lines.LineRows(file, field, written, is_table=path.suffix.lower() in tables.FORMATS)


@contextlib.contextmanager
def _as_sentence(field: str, written: str) -> Iterator[None]:
    """Say with its setting why a file cannot be read."""
    try:
        yield
    except UnicodeDecodeError:
        raise
    except ValueError as error:
        fix = getattr(error, "fix", "Write it again.")
        raise DataError(Problem(field, written, str(error), fix)) from None


def is_of_rows(path: Path) -> bool:
    """Whether the ending of a file is that of rows, packed or not.

    >>> [is_of_rows(Path(name)) for name in ("a.csv", "a.jsonl.gz", "a.zip", "a.yaml")]
    [True, True, True, False]
    """
    return lines.kind_of(path) in FORMATS or path.suffix.lower() == ".zip"


def _check_file(path: Path, field: str, written: str) -> None:
    """Raise unless a path is a file of a known format."""
    with file_errors(field, written):
        if path.is_dir():
            if _is_saved(path):
                return
            files = sorted(f.name for f in path.iterdir() if lines.kind_of(f) in FORMATS)
            named = ", ".join(files[:_PROBLEMS_SHOWN]) or ", ".join(FORMATS)
            why = "is a folder without a saved dataset."
            fix = f"Name a file in it ({named}), or a folder written by datasets' save_to_disk."
        elif not path.exists():
            why, fix = _missing(path)
        elif not is_of_rows(path):
            why = f"has the ending {path.suffix or 'none'}."
            fix = f"Use one of {', '.join(FORMATS)}, or such a file packed as .gz or .zip."
            if path.suffix.lower() == ".txt":  # such as Excel's "Unicode Text"
                fix = f"If it is a table, rename it to .csv. {fix}"
        elif path.stat().st_size == 0:
            why, fix = "is empty (0 bytes).", "Name a file with rows."
        else:
            return
        raise DataError(Problem(field, written, why, fix))


@contextlib.contextmanager
def file_errors(field: str, written: str | None) -> Iterator[None]:
    """Turn the errors of reading a file into sentences."""
    try:
        yield
        return
    except PermissionError:
        why, fix = "may not be read by you.", "Change its permissions, or those of its folder."
    except UnicodeDecodeError:
        why, fix = "is not UTF-8 text.", "Save it as UTF-8."
    except OSError as error:
        why, fix = f"cannot be read: {error.strerror or error}.", ""
    raise DataError(Problem(field, written, why, fix)) from None


def _missing(path: Path) -> tuple[str, str]:
    import difflib

    folder = path.parent
    if not folder.is_dir():
        return "does not exist, nor does its folder.", f"Looked in {folder}."
    if not os.access(folder, os.R_OK):
        raise PermissionError
    names = [f.name for f in folder.iterdir() if lines.kind_of(f) in FORMATS]
    close = difflib.get_close_matches(path.name, names, n=1)
    return "does not exist.", f"Did you mean {close[0]}?" if close else f"Looked in {folder}."


def _read(
    path: Path, field: str, written: str, sheet: str | None, *, is_strict: bool = True
) -> _Content:
    """Return the rows of a file.

    Where it is not strict, the problem stands in place of a row that cannot be read.
    """
    kind = path.suffix.lower()
    if kind == ".parquet":
        with _as_sentence(field, written):
            return _Content(list(lines.stream(path)), "row")
    if kind in tables.FORMATS:
        with _as_sentence(field, written):
            return _read_table(tables.read_table(path, sheet), field, written, is_strict=is_strict)
    with path.open(encoding="utf-8-sig", newline="\n") as file:
        if kind == ".json":
            text = file.read()
            try:
                content = json.loads(text)
            except (ValueError, RecursionError) as error:
                if text.lstrip().startswith("{") and goes_on_after_json(text):
                    lines_ = text.split("\n")
                    return _Content(
                        _read_lines(lines_, field, written, is_strict=is_strict), "line"
                    )
                why = json_problem(error)
                raise DataError(Problem(field, written, why, "Fix that line.")) from None
            if not isinstance(content, list):
                why = f"holds {_kind(content)}, not an array of rows."
                raise DataError(Problem(field, written, why, "Write [{…}, {…}]."))
            return _Content(content, "item")
        return _Content(_read_lines(file, field, written, is_strict=is_strict), "line")


_SPACES = " \t\n\r\x0b\x0c"  # as in `lines`
_BLANK = object()


def _read_lines(file: Any, field: str, written: str, *, is_strict: bool = True) -> list[Any]:
    rows: list[Any] = []
    problems = []
    for number, line in enumerate(file, start=1):
        if not line.strip(_SPACES):
            rows.append(_BLANK)  # keeps the line numbers; removed by _checked
            continue
        try:
            rows.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            why = json_problem(error, f"line {number}")
            problems.append(Problem(field, written, why, "Fix or remove the line."))
            rows.append(problems[-1])
    if is_strict:
        _raise_some(problems)
    return rows


def _read_table(table: tables.Table, field: str, written: str, *, is_strict: bool) -> _Content:
    items: list[Any] = []
    problems = []
    for number, item in enumerate(table, start=1):
        if isinstance(item, str):
            problems.append(Problem(field, written, f"row {number:,}: {item}", tables.FIX_ROW))
        items.append(_BLANK if item is None else problems[-1] if isinstance(item, str) else item)
    if is_strict:
        _raise_some(problems)
    return _Content(items, "row", table.remarks)


def _raise_some(problems: list[Problem]) -> None:
    if len(problems) > _PROBLEMS_SHOWN:
        hidden = len(problems) - _PROBLEMS_SHOWN
        raise DataError([*problems[:_PROBLEMS_SHOWN], f"… and {hidden:,} more like these."])
    if problems:
        raise DataError(problems)


def _checked(rows: list[Any], field: str, written: str | None, unit: str) -> list[Any]:
    """Return the rows without blank lines; raise where some are not objects."""
    numbered = [(number, row) for number, row in enumerate(rows, start=1) if row is not _BLANK]
    _raise_some([p for n, row in numbered for p in _wrong(row, n, field, written, unit)])
    return [row for _, row in numbered]


def _wrong(row: Any, number: int, field: str, written: str | None, unit: str) -> list[Problem]:
    """Return what is wrong with a value that should be a row."""
    if not isinstance(row, Mapping):
        why = f"{unit} {number}: is {_kind(row)}, not an object with columns."
        return [Problem(field, written, why, 'Write {"column": "text"}.')]
    if isinstance(row, dict) and is_too_deep(row):
        return [Problem(field, written, f"{unit} {number}: {TOO_DEEP}", "Flatten it.")]
    return []


def _kind(value: Any) -> str:
    names = {str: "text", bool: "a boolean", int: "a number", float: "a number", list: "a list"}
    return names.get(type(value), "an object" if isinstance(value, Mapping) else "null")


def _from_hub(dataset: Dataset, split: str, field: str, *, stream: bool = False) -> Rows:
    import datasets

    wanted = [dataset.split] if dataset.split else _SPLITS[split]
    try:
        with _no_waiting(str(dataset.dataset_name)):
            how = dataset.dataset_kwargs
            known = datasets.get_dataset_split_names(dataset.dataset_name, dataset.subset, **how)
            for name in wanted:
                if name.partition("[")[0] in known:
                    how = {**how, "streaming": True} if stream else how
                    return datasets.load_dataset(  # type: ignore[no-any-return]
                        dataset.dataset_name, dataset.subset, split=name, **how
                    )
        why = f"has no split {' or '.join(wanted)}; it has {', '.join(known)}."
        fix = f"Write split: {known[0]}."
    except Exception as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        why = f"could not be read from the hub ({reason})."
        fix = f"Name a file in path, or a bundled sample: {', '.join(READY)}."
    raise DataError(Problem(f"{field}.dataset_name", dataset.dataset_name, why, fix)) from None


@contextlib.contextmanager
def _no_waiting(name: str) -> Iterator[None]:
    """Ask the hub once; where it does not answer, let `datasets` use its cache only.

    Without this, a machine without a network waits 45 seconds for six attempts at each file.
    """
    import huggingface_hub
    from huggingface_hub import constants, errors

    before = constants.HF_HUB_OFFLINE
    try:
        if not before:
            huggingface_hub.HfApi().dataset_info(name, timeout=HUB_SECONDS)
    except errors.HfHubHTTPError:
        pass  # it answers, and `datasets` reports what is wrong
    except Exception:
        constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before


_SPLITS = {
    "train": ["train"],
    "validation": ["validation", "valid", "dev", "test"],
    "test": ["test", "validation", "valid", "dev"],
}


class _Renamed:
    """Rows with columns renamed: {new: old}."""

    def __init__(self, rows: Rows, columns: Mapping[str, str], field: str) -> None:
        known = columns_of(rows)
        if missing := [old for old in columns.values() if old not in known]:
            why = f"no column {', '.join(missing)}; found {listed(known)}."
            fix = "Write {new name: name in the file}."
            raise DataError(Problem(f"{field}.columns", dict(columns), why, fix))
        self.rows, self._columns = rows, columns
        self.column_names = list(rename(dict.fromkeys(known), columns))

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, number: int) -> Mapping[str, Any]:
        return rename(self.rows[number], self._columns)

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return (rename(row, self._columns) for row in self.rows)


def rename(row: Mapping[str, Any], columns: Mapping[str, str]) -> Mapping[str, Any]:
    """Return a row with columns renamed.

    >>> rename({"q": "Why?", "prompt": "old", "n": 1}, {"prompt": "q"})
    {'prompt': 'Why?', 'n': 1}
    """
    if not columns:
        return row
    renamed = {new: row[old] for new, old in columns.items() if old in row}
    gone = {*columns, *columns.values()}  # a column that had a name now given to another goes too
    return renamed | {name: value for name, value in row.items() if name not in gone}


class _Taken:
    """Some of the rows, in a given order."""

    def __init__(self, rows: Rows, numbers: np.ndarray) -> None:
        self.rows, self.numbers = rows, numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, number: int) -> Mapping[str, Any]:
        return self.rows[int(self.numbers[number])]

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return (self[number] for number in range(len(self)))


def _taken(total: int, dataset: Dataset, seed: int) -> np.ndarray | None:
    """Return the numbers of the rows to take, in order; None for all in their own order."""
    if dataset.shuffle:
        own = dataset.seed if dataset.seed is not None else seed
        return np.random.default_rng(own).permutation(total)[: dataset.sample_count]
    if dataset.sample_count is not None and dataset.sample_count < total:
        return np.arange(dataset.sample_count)
    return None
