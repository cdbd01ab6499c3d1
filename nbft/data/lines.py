"""Rows of a large file, read one at a time, so that the file is never held in memory.

JSON Lines files are indexed; other large files are converted once to JSON Lines in nbft's cache.
Called by `sources` for files above `LARGE_BYTES`.
"""

from __future__ import annotations

import bz2
import contextlib
import functools
import gzip
import hashlib
import itertools
import json
import lzma
import os
import shutil
import threading
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from nbft.access import private_folder
from nbft.atomic import providing
from nbft.data import tables
from nbft.data.cells import TOO_DEEP, is_too_deep
from nbft.data.fingerprint import code_key
from nbft.data.holdout import content_key
from nbft.errors import DataError, Problem
from nbft.models.find import cache_folder
from nbft.progress import open_told
from nbft.reading import cached_by_stamp, stamp
from nbft.syntax import invalid, json_problem

LARGE_BYTES = 32 * 2**20
"""Files above this are not held in memory: parsed JSON takes about ten times the file."""

PACKED: dict[str, Callable[[BinaryIO], Any]] = {
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zip": zipfile.ZipFile,
}
"""Endings of packed files, and what opens them."""

_BLOCK_BYTES = 16 * 2**20
_SPACES = np.frombuffer(b" \t\n\r\x0b\x0c", np.uint8)  # what bytes.strip takes away
_BOM = b"\xef\xbb\xbf"


class LineRows:
    """The objects of a JSON Lines file, by number.

    Args:
        path: The file.
        field: Setting that names it, for messages.
        written: The path as written in the setting.
        is_table: Whether the lines were made of a table by `as_lines`.

    Attributes:
        numbers_in_file: Number of each row in its table, from 1, [n]; None for other rows.

    Raises:
        DataError: From `[]` and iteration: a line is not a JSON object.
    """

    def __init__(self, path: Path, field: str, written: str, *, is_table: bool = False) -> None:
        self.path, self._field, self._written, self._is_table = path, field, written, is_table
        self._file = path.open("rb")
        self._lock = threading.Lock()
        self._begins, self._ends, numbers = _spans(path)
        self.numbers_in_file = numbers if is_table else None

    def __len__(self) -> int:
        return len(self._begins)

    def __getitem__(self, number: int) -> Mapping[str, Any]:
        begin, end = int(self._begins[number]), int(self._ends[number])
        line = self._read(begin, end)
        named = number if self.numbers_in_file is None else int(self.numbers_in_file[number]) - 1
        where = f"row {named + 1:,}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            why = json_problem(error, where)
            raise self._wrong(why, "Fix or remove the line.") from None
        if self._is_table and isinstance(row, str):
            raise self._wrong(f"{where}: {row}", tables.FIX_ROW)
        if not isinstance(row, Mapping):
            why = f"{where}: is {type(row).__name__}, not an object with columns."
            raise self._wrong(why, 'Write {"column": "text"}.')
        if is_too_deep(row):
            raise self._wrong(f"{where}: {TOO_DEEP}", "Flatten it.")
        return row

    def _read(self, begin: int, end: int) -> bytes:
        """Return the bytes of the file from `begin` to `end`, from any thread."""
        if hasattr(os, "pread"):  # processes that were forked share the position in the file
            return os.pread(self._file.fileno(), end - begin, begin)
        with self._lock:
            self._file.seek(begin)
            return self._file.read(end - begin)

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return (self[number] for number in range(len(self)))

    def __reduce__(self) -> Any:
        """Open the file again in another process."""
        arguments = (self.path, self._field, self._written)
        return functools.partial(LineRows, is_table=self._is_table), arguments

    @property
    def remarks(self) -> list[str]:
        """Sentences on how the table was read that the lines were made of."""
        return _remarks(self.path) if self._is_table else []

    def _wrong(self, why: str, fix: str) -> DataError:
        return DataError(Problem(self._field, self._written, why, fix))


@cached_by_stamp(maxsize=4)
def _spans(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Return where the lines begin and end, in bytes, [n] each; blank lines are left out.

    The third value has their numbers, from 1, [n], unless no line is blank.

    Both splits of a file share the result.
    """
    found: list[np.ndarray] = []
    may_be_blank = [np.array([0, len(_BOM)])]
    size, first = 0, b""
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            first = first or block[: len(_BOM)]
            content = np.frombuffer(block, dtype=np.uint8)
            begins = np.flatnonzero(content == ord("\n")) + 1
            found.append(begins + size)
            begins = begins[begins < len(block)]
            may_be_blank.append(begins[np.isin(content[begins], _SPACES)] + size)
            size += len(block)
            may_be_blank.append(np.array([size]))  # of the next block
        ends = np.concatenate([*found, [size]])
        begins = np.concatenate([[len(_BOM) if first == _BOM else 0], ends[:-1]])
        is_filled = begins < ends
        begins, ends = begins[is_filled], ends[is_filled]
        is_filled = np.ones(len(begins), bool)
        for n in np.flatnonzero(np.isin(begins, np.concatenate(may_be_blank))):
            file.seek(begins[n])
            is_filled[n] = bool(file.read(ends[n] - begins[n]).strip())
    numbers = None if is_filled.all() else np.flatnonzero(is_filled) + 1
    return begins[is_filled], ends[is_filled], numbers


@cached_by_stamp(maxsize=4)
def line_keys(path: Path) -> np.ndarray:
    """Return the content key of each line of a JSON Lines file that is not blank, uint64 [n]."""
    return np.fromiter(map(content_key, filled(path)), np.uint64)


def filled(path: Path) -> Iterator[bytes]:
    """Yield the lines of a file that are not blank, without their line breaks."""
    with path.open("rb") as file:
        first = file.readline().removeprefix(_BOM)
        for line in itertools.chain([first], file):
            if line.strip():
                yield line.removesuffix(b"\n")


def as_lines(path: Path, sheet: str | None = None) -> Path:
    """Return a JSON Lines file with the rows of a JSON array, a table or a Parquet file.

    Each row of a table has the line of its number: blank for one that holds no data, a sentence as
    JSON text for one that cannot be used.

    Args:
        path: The file.
        sheet: Name of a workbook's sheet; the first one with rows if None.

    Raises:
        ValueError: The file is truncated, or of another format than its ending.
    """
    target = _cached(path, ".jsonl", sheet)

    def write(file: BinaryIO) -> None:
        is_table = path.suffix.lower() in tables.FORMATS
        rows: Iterable[Any] = tables.read_table(path, sheet) if is_table else stream(path)
        for row in rows:
            line = "" if row is None else json.dumps(row, ensure_ascii=False, default=str)
            file.write(f"{line}\n".encode("utf-8", "surrogatepass"))
        if isinstance(rows, tables.Table):
            target.with_suffix(_REMARKS).write_text(json.dumps(rows.remarks), encoding="utf-8")

    return _written_once(target, write)


_REMARKS = ".remarks"


def _remarks(lines_file: Path) -> list[str]:
    with contextlib.suppress(OSError, ValueError):  # removed from the cache: nothing depends on it
        return list(json.loads(lines_file.with_suffix(_REMARKS).read_text(encoding="utf-8")))
    return []


def kind_of(path: Path) -> str:
    """Return the ending that tells the format of a file, also of a packed one.

    >>> kind_of(Path("rows.JSONL.gz")), kind_of(Path("rows.csv"))
    ('.jsonl', '.csv')
    """
    inner = path.with_suffix("") if path.suffix.lower() in PACKED else path
    return inner.suffix.lower()


def unpacked(path: Path) -> Path:
    """Return a file as it is, or what is in a packed one.

    Raises:
        ValueError: It cannot be unpacked, or a zip holds more than one file.
    """
    packing = path.suffix.lower()
    if packing not in PACKED:
        return path
    kind = kind_of(path)
    if packing == ".zip":
        try:
            with zipfile.ZipFile(path) as archive:
                names = [one.filename for one in archive.infolist() if not one.is_dir()]
        except zipfile.BadZipFile as error:
            raise ValueError(f"cannot be unpacked ({error}).") from None
        names = [name for name in names if not name.startswith("__MACOSX/")]
        if len(names) != 1:
            raise ValueError(f"holds {len(names)} files, not one.")
        kind = Path(names[0]).suffix.lower()

    def write(file: BinaryIO) -> None:
        try:
            with contextlib.ExitStack() as stack:
                packed = stack.enter_context(open_told(path))
                source = stack.enter_context(PACKED[packing](packed))
                if packing == ".zip":
                    source = stack.enter_context(source.open(names[0]))
                shutil.copyfileobj(source, file, _BLOCK_BYTES)
        except (EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile) as error:
            raise ValueError(f"cannot be unpacked ({error}).") from None
        except OSError as error:
            if error.errno is not None:  # of the disk; those of the libraries have none
                raise
            raise ValueError(f"cannot be unpacked ({error}).") from None

    return _written_once(_cached(path, kind), write)


def _cached(path: Path, kind: str, part: str | None = None) -> Path:
    """Return where a file is kept that is made of another, or of a part of it.

    It is named after the other's path and stamp, and after the code that makes it.
    """
    key = f"{code_key()} {path.resolve()} {stamp(path)} {part or ''}"
    return cache_folder() / "rows" / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}{kind}"


def _written_once(target: Path, write: Callable[[BinaryIO], None]) -> Path:
    """Return a file in nbft's cache, which is written if it is not there."""
    if not target.is_file():
        private_folder(target.parent)
        with providing(target) as partial, partial.open("wb") as file:
            write(file)
    return target


def stream(path: Path, sheet: str | None = None) -> Iterator[Any]:
    """Yield the rows of a file from its start, one part in memory at a time.

    Args:
        path: The file.
        sheet: Name of a workbook's sheet; the first one with rows if None.

    Raises:
        ValueError: As a sentence: the file is truncated, or of another format than its ending.
        UnicodeDecodeError: The file is not UTF-8 text.
    """
    kind = path.suffix.lower()
    if kind == ".parquet":
        import pyarrow.lib
        import pyarrow.parquet

        try:
            with pyarrow.parquet.ParquetFile(path) as table:
                for batch in table.iter_batches():
                    yield from batch.to_pylist()
        except pyarrow.lib.ArrowInvalid as error:
            raise ValueError(invalid("Parquet", error)) from None
    elif kind in tables.FORMATS:
        for number, item in enumerate(tables.read_table(path, sheet), start=1):
            if isinstance(item, str):
                raise tables.TableError(f"row {number:,}: {item}", tables.FIX_ROW)
            if item is not None:
                yield item
    elif kind == ".json" and _first_byte(path) == b"[":
        import ijson

        with open_told(path) as file:
            try:
                yield from ijson.items(file, "item", use_float=True)
            except ijson.JSONError as error:
                raise ValueError(f"is truncated, or {invalid('JSON', error)}") from None
    else:
        with path.open(encoding="utf-8-sig") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    try:
                        row = json.loads(line)
                    except (ValueError, RecursionError) as error:
                        raise ValueError(json_problem(error, f"line {number}")) from None
                    if is_too_deep(row):
                        raise ValueError(f"line {number}: {TOO_DEEP}")
                    yield row


def is_lines(path: Path) -> bool:
    """Whether a file holds JSON Lines, by its ending or, for .json, by its first character."""
    kind = path.suffix.lower()
    return kind in (".jsonl", ".ndjson") or (kind == ".json" and _first_byte(path) == b"{")


def _first_byte(path: Path) -> bytes:
    with path.open("rb") as file, contextlib.suppress(IndexError):
        return file.read(64).removeprefix(_BOM).lstrip()[:1]
    return b""
