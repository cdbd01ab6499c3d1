"""Rows of a large file, read one at a time, so that the file is never held in memory.

JSON Lines files are indexed; other large files are converted once to JSON Lines in nbft's cache.
Called by `sources` for files above `LARGE_BYTES`.
"""

from __future__ import annotations

import contextlib
import csv
import functools
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nbft.errors import DataError, Problem
from nbft.models.find import cache_folder
from nbft.syntax import invalid, json_problem

LARGE_BYTES = 32 * 2**20
"""Files above this are not held in memory: parsed JSON takes about ten times the file."""

_BLOCK_BYTES = 16 * 2**20
_BLANK_BYTES = 2  # a line of at most this many bytes, its end included, holds no object
_BOM = b"\xef\xbb\xbf"


class LineRows:
    """The objects of a JSON Lines file, by number.

    Args:
        path: The file.
        field: Setting that names it, for messages.
        written: The path as written in the setting.

    Raises:
        DataError: From `[]` and iteration: a line is not a JSON object.
    """

    def __init__(self, path: Path, field: str, written: str) -> None:
        self._path, self._field, self._written = path, field, written
        self._file = path.open("rb")
        stat = path.stat()
        self._begins, self._ends = _spans(path, stat.st_size, stat.st_mtime_ns)

    def __len__(self) -> int:
        return len(self._begins)

    def __getitem__(self, number: int) -> Mapping[str, Any]:
        begin, end = int(self._begins[number]), int(self._ends[number])
        line = os.pread(self._file.fileno(), end - begin, begin)
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            why = json_problem(error, f"row {number + 1:,}")
            raise self._wrong(why, "Fix or remove the line.") from None
        if not isinstance(row, Mapping):
            why = f"row {number + 1:,}: is {type(row).__name__}, not an object with columns."
            raise self._wrong(why, 'Write {"column": "text"}.')
        return row

    def __iter__(self) -> Iterator[Mapping[str, Any]]:
        return (self[number] for number in range(len(self)))

    def __reduce__(self) -> Any:
        """Open the file again in another process."""
        return LineRows, (self._path, self._field, self._written)

    def _wrong(self, why: str, fix: str) -> DataError:
        return DataError(Problem(self._field, self._written, why, fix))


@functools.lru_cache(maxsize=4)
def _spans(path: Path, size_bytes: int, changed_at: int) -> tuple[np.ndarray, np.ndarray]:
    """Return where the lines begin and end, in bytes, [n] each; blank lines are left out.

    A file is searched again only when its size or time changes; both splits share the result.
    """
    line_ends: list[np.ndarray] = []
    size = 0
    first = b""
    with path.open("rb") as file:
        while block := file.read(_BLOCK_BYTES):
            first = first or block[: len(_BOM)]
            newlines = np.flatnonzero(np.frombuffer(block, dtype=np.uint8) == ord("\n"))
            line_ends.append(newlines + size + 1)
            size += len(block)
    ends = np.concatenate([*line_ends, [size]])
    begins = np.concatenate([[len(_BOM) if first == _BOM else 0], ends[:-1]])
    is_filled = ends - begins > _BLANK_BYTES
    return begins[is_filled], ends[is_filled]


def as_lines(path: Path) -> Path:
    """Return a JSON Lines file with the rows of a JSON array, CSV, TSV or Parquet file.

    It is in nbft's cache, named after the file's path, size and time, and is written only once.

    Raises:
        ValueError: The file is truncated, or of another format than its ending.
    """
    stat = path.stat()
    key = f"{path.resolve()} {stat.st_size} {stat.st_mtime_ns}"
    target = cache_folder() / "rows" / f"{hashlib.sha256(key.encode()).hexdigest()[:24]}.jsonl"
    if target.is_file():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.stem}.{os.getpid()}.part")
    try:
        with partial.open("w", encoding="utf-8") as file:
            for row in stream(path):
                file.write(json.dumps(row, ensure_ascii=False, default=str) + "\n")
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)
    return target


def stream(path: Path) -> Iterator[Any]:
    """Yield the rows of a file from its start, one part in memory at a time.

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
    elif kind in (".csv", ".tsv"):
        csv.field_size_limit(2**31 - 1)
        with path.open(encoding="utf-8-sig", newline="") as file:
            try:
                yield from csv.DictReader(file, delimiter="\t" if kind == ".tsv" else ",")
            except csv.Error as error:
                raise ValueError(invalid(kind[1:].upper(), error)) from None
    elif kind == ".json" and _first_byte(path) == b"[":
        import ijson

        with path.open("rb") as file:
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
                    yield row


def is_lines(path: Path) -> bool:
    """Whether a file holds JSON Lines, by its ending or, for .json, by its first character."""
    kind = path.suffix.lower()
    return kind in (".jsonl", ".ndjson") or (kind == ".json" and _first_byte(path) == b"{")


def _first_byte(path: Path) -> bytes:
    with path.open("rb") as file, contextlib.suppress(IndexError):
        return file.read(64).removeprefix(_BOM).lstrip()[:1]
    return b""
