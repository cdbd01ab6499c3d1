"""Datasets to choose from: bundled, nearby, used before, well known, or searched for on the hub.

Shows the first rows of those on this machine. Called by the form.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import yaml

from nbft.catalogue import hub
from nbft.catalogue.folders import Entry, data_files
from nbft.catalogue.recent import earlier_runs
from nbft.config import Config
from nbft.config.data import Dataset
from nbft.data.lines import LARGE_BYTES, PACKED
from nbft.data.samples import SAMPLES, sample_path
from nbft.data.sources import columns_of, file_errors, load_rows, stream_rows
from nbft.errors import DataError, Problem
from nbft.formatting import size
from nbft.models.find import is_hub_name
from nbft.reading import is_file, open_file

Source = Literal["sample", "file", "upload", "recent", "known", "hub"]

_FIELD = "data.train"
_READ_BYTES = 4 * 2**20
"""Files up to this size are read as a whole, so that their rows are counted: 0.1 s."""

_COLUMNS_ROWS = 50
_LINE_BYTES = 16 * 2**20
_BY_LINE = (".jsonl", ".ndjson", ".csv", ".tsv")
_Key = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class DatasetChoice:
    """A dataset to choose.

    Attributes:
        name: Value of path for a file, of dataset_name otherwise.
        title: Name to show.
        source: Why it is listed: a bundled sample, a file nearby, a file that was uploaded, used by
            a run, well known, or found by a search of the hub.
        path: Its file on this machine; None for one on the hub.
        subset: Its subset on the hub.
        split: The split to train on; None where it is train.
        about: What its rows are, in words; "" if unknown.
        columns: Its columns; () where they have not been looked at.
        rows: Number of rows; None if unknown.
        size_bytes: Size of a file.
        modified: When a file was last changed, in seconds since the epoch.
        license: Its licence, as on the hub; None if unknown.
        is_gated: Whether its terms have to be accepted on the hub first; None if unknown.
        last_used: When a run was last started with it, in seconds since the epoch; None if never.
        downloads: Downloads in the last 30 days, for one that was searched for.
    """

    name: str
    title: str
    source: Source
    path: Path | None = None
    subset: str | None = None
    split: str | None = None
    about: str = ""
    columns: tuple[str, ...] = ()
    rows: int | None = None
    size_bytes: int | None = None
    modified: float | None = None
    license: str | None = None
    is_gated: bool | None = None
    last_used: float | None = None
    downloads: int | None = None

    @property
    def settings(self) -> dict[str, str]:
        """The settings of `data.train.datasets[]` that choose it."""
        if self.path is not None and self.source != "sample":
            return {"path": self.name}
        chosen = {"dataset_name": self.name, "subset": self.subset, "split": self.split}
        return {key: value for key, value in chosen.items() if value is not None}


@dataclass(frozen=True)
class Preview:
    """The first rows of a dataset.

    Attributes:
        columns: The names of the columns.
        rows: The rows, as JSON values by column.
        total_rows: Number of all rows; None where the file was not read to its end.
    """

    columns: tuple[str, ...]
    rows: tuple[Mapping[str, Any], ...]
    total_rows: int | None


def datasets(config: Config, *, folder: Path | None = None) -> list[DatasetChoice]:
    """Return the datasets to choose from. Asks no network.

    Files that were uploaded or lie nearby come first, the newest first, then what earlier runs
    used, the bundled samples and well-known datasets on the hub.

    Args:
        config: training.output_dir has the earlier runs and the uploaded files.
        folder: Where to look for files; the working folder when None.
    """
    output = Path(config.training.output_dir).expanduser()
    near = (folder or Path.cwd()).absolute()
    runs = earlier_runs(output)
    used: dict[_Key, float] = {}
    for run in runs:
        for dataset in run.datasets:
            used.setdefault(_key(dataset), run.started)
    files = {file.path: _of_file(file, "upload", near) for file in data_files(output / "data")}
    for file in data_files(near, levels=1):
        files.setdefault(file.path, _of_file(file, "file", near))
    listed = [
        *sorted(files.values(), key=lambda choice: -(choice.modified or 0)),
        *_used(used, near),
        *(_sample(name) for name in SAMPLES),
        *_known(),
    ]
    choices: dict[_Key, DatasetChoice] = {}
    for choice in listed:
        key = _key(choice.settings)
        choices.setdefault(key, replace(choice, last_used=used.get(key)))
    return list(choices.values())


def search_datasets(text: str) -> list[DatasetChoice]:
    """Ask the hub for datasets, the most downloaded first.

    Waits a few seconds at most: call it only when a person asked for it.

    Args:
        text: Words to search for.

    Raises:
        NbftError: The hub cannot be asked, with the reason.
    """
    known = {choice.name: choice for choice in _known()}
    return [
        replace(
            known.get(about.name, DatasetChoice(about.name, about.name, "hub")),
            source="hub",
            license=about.license,
            is_gated=about.is_gated,
            downloads=about.downloads,
        )
        for about in hub.search("datasets", text)
    ]


def look(choice: DatasetChoice, rows: int = 3) -> Preview:
    """Return the first rows of a dataset on this machine, without reading a large file to its end.

    Args:
        choice: The dataset.
        rows: How many rows.

    Raises:
        DataError: It cannot be read, or is not on this machine.
    """
    if choice.path is None:
        why = "is on the hub: its rows can be shown once it has been downloaded."
        fix = f"See https://huggingface.co/datasets/{choice.name}."
        raise DataError(Problem(_FIELD, choice.name, why, fix))
    dataset = Dataset.model_validate(choice.settings)
    field = _FIELD if choice.source == "sample" else f"{_FIELD}.path"
    with file_errors(field, choice.name):
        size_bytes = choice.path.stat().st_size if is_file(choice.path) else 0
    if size_bytes > _READ_BYTES:
        return _start(dataset, choice, rows)
    every = load_rows(dataset, "train", _FIELD, is_strict=False)
    first = tuple(every[number] for number in range(min(rows, len(every))))
    return Preview(tuple(columns_of(every)), first, len(every))


def _start(dataset: Dataset, choice: DatasetChoice, rows: int) -> Preview:
    """Return the first rows of a large file."""
    path = choice.path
    assert path is not None
    field = f"{_FIELD}.path"
    if path.suffix.lower() in PACKED and path.stat().st_size > LARGE_BYTES:
        why = f"is packed and large ({size(path.stat().st_size)}), too large to be shown."
        raise DataError(Problem(field, choice.name, why, "It can be trained on all the same."))
    try:
        with file_errors(field, choice.name):
            if path.suffix.lower() in _BY_LINE and not _has_line(path):
                why = f"has a first line of more than {size(_LINE_BYTES)}, too long to be shown."
                raise DataError(Problem(field, choice.name, why, "Write one row on each line."))
            stream = stream_rows(dataset, "train", _FIELD)
            some = list(itertools.islice(stream, max(rows, _COLUMNS_ROWS)))
    except ValueError as error:
        raise DataError(Problem(field, choice.name, str(error), "Fix the file.")) from None
    if wrong := next((n for n, row in enumerate(some, 1) if not isinstance(row, Mapping)), None):
        why = f"row {wrong}: is no object with columns."
        raise DataError(Problem(field, choice.name, why, 'Write {"column": "text"}.'))
    columns = dict.fromkeys(name for row in some for name in row)
    return Preview(tuple(columns), tuple(some[:rows]), None)


def _has_line(path: Path) -> bool:
    """Whether the first line of a file ends soon; what reads lines holds a whole one in memory."""
    with open_file(path) as file:
        start = file.read(_LINE_BYTES)
    return len(start) < _LINE_BYTES or b"\n" in start


def _key(settings: Mapping[str, str]) -> _Key:
    return tuple(sorted(settings.items()))


def _of_file(file: Entry, source: Source, near: Path) -> DatasetChoice:
    is_near = file.path.is_relative_to(near)
    title = str(file.path.relative_to(near)) if is_near and source == "file" else file.name
    return DatasetChoice(
        str(file.path),
        title,
        source,
        file.path,
        size_bytes=file.size_bytes,
        modified=file.modified,
    )


def _used(used: Iterable[_Key], near: Path) -> Iterator[DatasetChoice]:
    """Yield what earlier runs trained on and is still there, the most recent first."""
    for key in used:
        settings = dict(key)
        if (path := Path(settings.get("path", ""))).is_absolute():
            with contextlib.suppress(OSError):
                about = path.stat()
                file = Entry(path.name, path, False, about.st_size, about.st_mtime)
                yield _of_file(file, "recent", near)
        elif is_hub_name(name := settings.get("dataset_name", "")):
            yield DatasetChoice(
                name, name, "recent", subset=settings.get("subset"), split=settings.get("split")
            )


@functools.cache
def _sample(name: str) -> DatasetChoice:
    path = sample_path(name, "train")
    lines = path.read_text(encoding="utf-8").splitlines()
    return DatasetChoice(
        name,
        name,
        "sample",
        path,
        about=_facts()["samples"][name],
        columns=tuple(json.loads(lines[0])),
        rows=len(lines),
        size_bytes=path.stat().st_size,
        license="apache-2.0",
        is_gated=False,
    )


@functools.cache
def _known() -> tuple[DatasetChoice, ...]:
    """Return well-known datasets on the hub."""
    return tuple(
        DatasetChoice(
            title=fact["name"], source="known", **{**fact, "columns": tuple(fact["columns"])}
        )
        for fact in _facts()["hub"]
    )


@functools.cache
def _facts() -> dict[str, Any]:
    facts: dict[str, Any] = yaml.safe_load(
        Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8")
    )
    return facts
