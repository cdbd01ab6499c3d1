"""Where the rows of a trainer come from, and what a script does to them on the way.

Followed back through the methods of `datasets`. Functions of the file that make columns are followed
with a row whose columns are unknown. Called by `rows`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

from nbft.data.sources import FORMATS
from nbft.interop.report import Kind
from nbft.interop.scripts.evaluation import Program
from nbft.interop.scripts.notes import Note
from nbft.interop.scripts.text import is_copy, one_of_batch, tokenized
from nbft.interop.scripts.values import (
    MISSING,
    Call,
    Code,
    Column,
    Each,
    Either,
    Function,
    Item,
    Number,
    Row,
    Text,
    brief,
    found_in,
    joined,
    plain,
)


@dataclass
class Rows:
    """A dataset on its way to the trainer.

    Attributes:
        call: What loads it.
        settings: Of one of our datasets.
        columns: What the columns hold that the file makes.
        notes: What was done to it that our settings cannot express, or not exactly.
        files: Files by split, where they are named so.
        share: Share of a split into two, until one of them is taken.
        side: The part that was taken: train or test.
        unclear: Code that does something unknown to the rows' text.
        function: Name of the function that makes their text.
        line: Its line.
    """

    call: Call
    settings: dict[str, Any]
    columns: dict[str, Any] = field(default_factory=dict)
    notes: list[Note] = field(default_factory=list)
    files: dict[str, Any] = field(default_factory=dict)
    share: Any = None
    side: str = ""
    unclear: Code | None = None
    function: str | None = None
    line: int = 0
    mixture: float | None = None
    strategy: str = ""
    is_stream: bool = False

    def copy(self) -> Rows:
        """Return rows that can be changed apart."""
        return replace(
            self,
            settings=dict(self.settings),
            columns=dict(self.columns),
            notes=list(self.notes),
            files=dict(self.files),
        )

    def note(self, key: str, kind: Kind, text: str, line: int, value: Any = None) -> None:
        """Note what was done to the rows."""
        self.notes.append(Note(key, kind, text, line, plain(value)))

    def column(self, name: str) -> Any:
        """Return what a column holds."""
        return self.columns.get(name, Column(name))


_SOURCES = {
    *("load_dataset", "load_from_disk", "from_list", "from_dict", "from_pandas", "from_json"),
    *("from_csv", "from_parquet", "from_generator", "from_text", "read_csv", "read_json"),
    *("read_parquet", "read_excel", "snapshot_download", "load_data"),
}
_FILE_READERS = ("from_json", "from_csv", "from_parquet", "read_csv", "read_json", "read_parquet")
_SAME_ROWS = {
    *("with_format", "set_format", "cast", "cast_column", "flatten_indices", "with_transform"),
    *("remove_columns", "select_columns", "to_iterable_dataset", "repeat", "reset_format"),
    *("class_encode_column", "ensure_features_dtype"),
}
_STANDARD = {"standardize_sharegpt", "standardize_data_formats", "DatasetDict", "Dataset"}


def _is_source(value: Any) -> bool:
    return isinstance(value, Call) and value.name in _SOURCES


class SourceReader:
    """Follows rows back to what loads them.

    Args:
        program: The program.
        line: Line of the trainer, for what has none of its own.
        assumed: What some columns are assumed to hold.
    """

    def __init__(
        self, program: Program, line: int, assumed: Mapping[str, Any] | None = None
    ) -> None:
        self.program, self._line, self._assumed = program, line, assumed or {}

    def follow(self, value: Any) -> list[Rows]:
        """Return the rows that a value holds; those that it was made of where that is unclear."""
        if isinstance(path := _file_of(value), str):
            call = value if isinstance(value, Call) else Call(path, self._line)
            return [Rows(call, {"path": path}, dict(self._assumed))]
        if isinstance(value, Call):
            is_table = value.name in ("from_list", "from_dict", "from_pandas", "DataFrame")
            if is_table and (found := self.follow(value.get("mapping", "data", "df", 0))):
                return found
            if value.name in _SOURCES and not self._is_table(value):
                return [self.source(value)]
            step = getattr(self, f"_step_{value.name.strip('_')}", None)
            if value.receiver is not None:
                if value.name in _SAME_ROWS:
                    return self.follow(value.receiver)
                if step is not None:
                    return [step(rows.copy(), value) for rows in self.follow(value.receiver)]
            elif value.name in ("concatenate_datasets", "interleave_datasets"):
                return self._joined(value)
            elif value.name in _STANDARD and not isinstance(value.get(0), (list, dict)):
                return self.follow(value.get("dataset", 0))
            elif step is not None:
                return [step(rows.copy(), value) for rows in self.follow(value.get("dataset", 0))]
        if isinstance(value, Item):
            return self._item(value)
        if isinstance(value, Either):
            return self._first_of(value)
        each = value[0] if isinstance(value, list) and len(value) == 1 else value
        if isinstance(each, Each):
            found = [rows.copy() for rows in self.follow(each.source)]
            for rows in found:
                self._take_columns(rows, each.value, Code("the loop", self._line))
            return found
        return self._unclear(value)

    def _is_table(self, call: Any) -> bool:
        """Whether a call turns rows that another call loads into a dataset."""
        if not isinstance(call, Call):
            return False
        inside = found_in([*call.arguments, *call.keywords.values()], _is_source)
        return call.name in ("from_pandas", "from_list", "from_dict") and bool(inside)

    def _unclear(self, value: Any) -> list[Rows]:
        """Return the rows of all sources in a value, which does something unknown with them."""
        inside = [*value.arguments, *value.keywords.values()] if self._is_table(value) else value
        sources = found_in(inside, _is_source)
        if len(sources) == 1 and self._is_table(value) and _holds_plainly(inside):
            return [self.source(sources[0])]
        found = [self.source(call) for call in sources]
        for rows in found:
            rows.unclear = value if isinstance(value, Code) else Code(brief(value))
        return found

    def _first_of(self, value: Either) -> list[Rows]:
        ways = [rows for option in value.options if (rows := self.follow(option))]
        if not ways:
            return []
        names = {brief(_name_of(rows[0])) for rows in ways}
        if len(names) > 1:
            for first in ways[0]:
                why = (
                    f"one of {', '.join(sorted(names))}, decided while running; the first is taken"
                )
                first.note("load_dataset", "deviates", why, first.call.line)
        return ways[0]

    def source(self, call: Call) -> Rows:
        """Return the rows that a call loads."""
        rows = Rows(call, {}, dict(self._assumed))
        settings = rows.settings
        if call.name in _FILE_READERS or call.name == "from_text":
            path = call.get("path_or_paths", "filepath_or_buffer", "path_or_buf", "path", 0)
            if isinstance(path, str):
                settings["path"] = path
            else:
                rows.note("path", "impossible", "is code; write the file's path", call.line, path)
            return rows
        if call.name != "load_dataset":
            why = "holds rows that only running the file would give. Save them as JSON Lines"
            rows.note(call.name, "impossible", why, call.line, call.text)
            return rows
        path, files = call.get("path", 0), call.get("data_files", 3)
        subset = call.get("name", 1)
        if isinstance(path, Either):
            path = next((one for one in path.options if isinstance(one, str)), path)
            why = "decided while running; the first is taken"
            rows.note("load_dataset", "deviates", why, call.line, call.text)
        for name, value in (("dataset_name", path), ("subset", subset)):
            if isinstance(value, str):
                settings[name] = value
            elif value is not None:
                rows.note(name, "impossible", "is code; write its value", call.line, value)
        more = {
            name: value
            for name, value in call.keywords.items()
            if name not in ("path", "name", "split", "data_files", "streaming", *_NOT_OF_ROWS)
            and not name.startswith("**")
        }
        rows.is_stream = call.get("streaming") is True
        if isinstance(files, dict):
            rows.files, files = files, files.get("train")
        if files is not None or rows.files:
            self._take_files(rows, files)
        if more:
            settings.setdefault("dataset_kwargs", {}).update(plain(more))
        split = call.get("split", 5 if len(call.arguments) > 5 else "split")
        if isinstance(split, str):
            self._take_split(rows, split, call.line)
        elif split is not None:
            rows.note("split", "impossible", "is code; write its value", call.line, split)
        return rows

    def _take_files(self, rows: Rows, files: Any) -> None:
        """Use a single local file by its path; several, and addresses, through `datasets`."""
        if isinstance(files, list) and len(files) == 1:
            files = files[0]
        settings, line = rows.settings, rows.call.line
        if isinstance(files, Code) or (files is None and not rows.files):
            rows.note("data_files", "impossible", "is code; write the file's path", line, files)
            return
        is_local = isinstance(files, str) and "://" not in files and "*" not in files
        kind = settings.get("dataset_name")
        others = {"path", "name", "split", "data_files", "streaming", *_NOT_OF_ROWS}
        plainly = not {*rows.call.keywords} - others
        is_rows = is_local and PurePosixPath(files).suffix.lower() in FORMATS
        if is_rows and plainly and kind in ("json", "csv", "parquet"):
            settings.pop("dataset_name")
            settings["path"] = files
            return
        settings["dataset_kwargs"] = {"data_files": plain(rows.files or files)}

    def _take_split(self, rows: Rows, split: str, line: int) -> None:
        settings = rows.settings
        if "path" not in settings:
            settings["split"] = split
            return
        if split in rows.files:
            settings["path"] = rows.files[split]
            return
        first = re.fullmatch(r"(\w+)\[:(\d+)\]", split)
        if first:
            settings["sample_count"] = int(first[2])
        elif "[" in split:
            path = settings.pop("path")
            kind = PurePosixPath(path).suffix.lower().lstrip(".").replace("jsonl", "json")
            settings.update(dataset_name=kind, dataset_kwargs={"data_files": path}, split=split)

    def _item(self, value: Item) -> list[Rows]:
        """Return a split of a dataset, or what a value was made of."""
        owner = value.value
        if isinstance(owner, Call) and owner.name == "values":  # train, test = ….values()
            key: Any = ("train", "test")[value.key] if value.key in (0, 1) else value.key
            return self._item(Item(value.text, value.line, value=owner.receiver, key=key))
        if (of_dict := self._of_dict(owner, value.key)) is not None:
            return of_dict
        found = self.follow(owner)
        splits = owner.get("split") if isinstance(owner, Call) else None
        if isinstance(splits, list) and isinstance(value.key, int) and value.key < len(splits):
            for rows in found:
                rows.notes.clear()
                self._take_split(rows, str(splits[value.key]), value.line)
            return found
        if not isinstance(value.key, str):
            if isinstance(value.key, slice) and value.key.start in (None, 0):
                for rows in found:
                    self._first_rows(rows, value.key.stop, "slice", value.line)
            return found
        result = []
        for rows in (one.copy() for one in found):
            if rows.share is not None and not rows.side and value.key in ("train", "test"):
                rows.side = value.key
            elif rows.files and value.key in rows.files:
                rows.settings["path" if "path" in rows.settings else "split"] = (
                    rows.files[value.key] if "path" in rows.settings else value.key
                )
            elif rows.call.name == "load_dataset" and "split" not in rows.settings:
                if "path" not in rows.settings:
                    rows.settings["split"] = value.key
            else:
                rows.columns = {"text": rows.column(value.key)}  # dataset["column"]
            result.append(rows)
        return result

    def _of_dict(self, value: Any, key: Any) -> list[Rows] | None:
        """Return a split of a DatasetDict made of datasets, after what is done to all of them."""
        steps: list[Call] = []
        while isinstance(value, Call) and value.receiver is not None:
            steps.append(value)
            value = value.receiver
        if not isinstance(value, Call) or value.name != "DatasetDict":
            return None
        splits = value.get(0, default=dict(value.keywords))
        if not isinstance(splits, dict) or key not in splits:
            return None
        found = self.follow(splits[key])
        for call in reversed(steps):
            step = getattr(self, f"_step_{call.name}", None)
            if step is not None:
                found = [step(rows.copy(), call) for rows in found]
            elif call.name not in _SAME_ROWS:
                return None
        return found

    def _joined(self, value: Call) -> list[Rows]:
        """Return the rows of concatenated or interleaved datasets."""
        sets = value.get("dsets", "datasets", 0)
        if not isinstance(sets, (list, tuple)):
            return self._unclear(value)
        found = [self.follow(one) for one in sets]
        if not all(found):
            return self._unclear(value)
        if value.name == "interleave_datasets":
            shares = value.get("probabilities", 1)
            if not isinstance(shares, (list, tuple)):
                shares = [1 / len(sets)] * len(sets)
                why = "rows are drawn at random in equal shares here, and by turns there"
                found[0][0].note("interleave_datasets", "deviates", why, value.line)
            for rows, share in zip(found, shares, strict=False):
                for one in rows:
                    if isinstance(share, (int, float)):
                        one.mixture = share / len(rows)
                    one.strategy = str(value.get("stopping_strategy", default="first_exhausted"))
        return [rows for of_one in found for rows in of_one]

    # What is done to the rows

    def _step_select(self, rows: Rows, call: Call) -> Rows:
        self._first_rows(rows, call.get("indices", 0), "select", call.line)
        return rows

    def _step_take(self, rows: Rows, call: Call) -> Rows:
        self._first_rows(rows, call.get("n", 0), "take", call.line)
        return rows

    _step_head = _step_take

    def _first_rows(self, rows: Rows, count: Any, name: str, line: int) -> None:
        """Limit the rows to the first ones, if it is certain how many."""
        number = _rows_taken(count)
        if isinstance(number, int) and number > 0:
            before = rows.settings.get("sample_count", number)
            rows.settings["sample_count"] = min(before, number)
            if rows.side:
                why = "taken before the rows are divided; there it is taken of one part"
                rows.note(name, "deviates", why, line, number)
            else:
                rows.note(name, "converted", "the first rows", line, number)
        elif isinstance(count, range) and count.step == 1 and "split" in rows.settings:
            split = rows.settings["split"]
            if "[" not in split and not rows.settings.keys() & {"shuffle", "sample_count"}:
                rows.settings["split"] = f"{split}[{count.start}:{count.stop}]"
                rows.note(name, "converted", "a part of the split", line, f"{count}")
                return
            rows.note(name, "impossible", "nbft takes the first rows only", line, f"{count}")
        else:
            why = "which rows is code that would have to be run; nbft takes all. Set sample_count"
            rows.note(name, "impossible", why, line, count)

    def _step_shuffle(self, rows: Rows, call: Call) -> Rows:
        seed = call.get("seed", 0)
        if "sample_count" in rows.settings:
            rows.note("shuffle", "converted", "the training shuffles its rows", call.line, seed)
            return rows
        rows.settings["shuffle"] = True
        if isinstance(seed, int):
            rows.settings["seed"] = seed
        why = "the same order, by the same seed" if isinstance(seed, int) else "by training.seed"
        rows.note("shuffle", "converted", why, call.line, seed)
        return rows

    def _step_skip(self, rows: Rows, call: Call) -> Rows:
        rows.note("skip", "impossible", "nbft takes these rows too", call.line, call.get("n", 0))
        return rows

    def _step_filter(self, rows: Rows, call: Call) -> Rows:
        why = "which rows stay is code that would have to be run; nbft takes all of them"
        rows.note("filter", "impossible", why, call.line, call.get("function", 0))
        return rows

    def _step_sort(self, rows: Rows, call: Call) -> Rows:
        rows.note("sort", "converted", "the training shuffles its rows", call.line)
        return rows

    def _step_shard(self, rows: Rows, call: Call) -> Rows:
        rows.note("shard", "impossible", "nbft takes all rows", call.line)
        return rows

    def _step_add_column(self, rows: Rows, call: Call) -> Rows:
        if isinstance(name := call.get("name", 0), str):
            rows.columns[name] = Code(f"the column {name}", call.line)
        return rows

    def _step_rename_column(self, rows: Rows, call: Call) -> Rows:
        names = {call.get("original_column_name", 0): call.get("new_column_name", 1)}
        return self._renamed(rows, names)

    def _step_rename_columns(self, rows: Rows, call: Call) -> Rows:
        names = call.get("column_mapping", 0)
        return self._renamed(rows, names if isinstance(names, dict) else {})

    def _renamed(self, rows: Rows, names: Mapping[Any, Any]) -> Rows:
        new = {new: rows.column(old) for old, new in names.items() if isinstance(new, str)}
        rows.columns.update(new)
        return rows

    def _step_train_test_split(self, rows: Rows, call: Call) -> Rows:
        test, train = call.get("test_size", 0), call.get("train_size", 1)
        share: Any = None
        if isinstance(train, float):
            share = train
        elif isinstance(test, float):
            share = 1 - test
        elif test is None and train is None:
            share = 0.75
        rows.share = share if share is not None else Code(brief(test if train is None else train))
        return rows

    def _step_map(self, rows: Rows, call: Call) -> Rows:
        function, fixed = unwrapped(call.get("function", 0))
        function = self.program.callable_of(function)
        keywords = call.get("fn_kwargs")
        fixed = fixed | (keywords if isinstance(keywords, dict) else {})
        is_batch = call.get("batched", default=False) is True
        more = (Number("a number"),) if call.get("with_indices") is True else ()
        if not isinstance(function, Function):
            rows.unclear = Code(brief(function), call.line)
            return rows
        row = Row("the row", call.line, columns=dict(rows.columns), is_batch=is_batch)
        skips = self.program.skips
        rows.function, rows.line = function.text, function.line
        result = self.program.result(function, row, *more, **fixed)
        if self.program.skips != skips:
            rows.unclear = Code(f"{function.text}, which depends on the row", function.line)
        self._take_columns(rows, result, function, is_batch=is_batch, row=row)
        return rows

    def _take_columns(
        self,
        rows: Rows,
        result: Any,
        function: Code,
        *,
        is_batch: bool = False,
        row: Row | None = None,
    ) -> None:
        """Take the columns that a function makes of a row."""
        if isinstance(result, Row):
            rows.columns.update(result.columns)
        elif isinstance(result, dict):
            for name, value in result.items():
                if isinstance(name, str):
                    rows.columns[name] = one_of_batch(value) if is_batch else _filled(value, rows)
                else:
                    rows.columns.update(row.columns if row else {})
        elif isinstance(result, Call) and (text := tokenized(result)) is not MISSING:
            rows.columns["text"] = one_of_batch(text) if is_batch else text
            rows.columns["input_ids"] = rows.columns["text"]
            if "[labels]" in result.changed and not is_copy(result.changed["[labels]"]):
                rows.unclear = Code(f"{function.text}, which sets the labels", function.line)
        elif isinstance(result, (str, Text, Column)):
            rows.columns["text"] = _filled(result, rows)
        else:
            rows.unclear = Code(brief(function), function.line)

    def _step_to_sharegpt(self, rows: Rows, call: Call) -> Rows:
        rows.unclear = Code("to_sharegpt", call.line)
        return rows

    def _step_apply_chat_template(self, rows: Rows, call: Call) -> Rows:
        rows.unclear = rows.unclear or Code("apply_chat_template", call.line)
        return rows


_NOT_OF_ROWS = {
    *("token", "use_auth_token", "trust_remote_code", "cache_dir", "num_proc", "keep_in_memory"),
    *("download_mode", "verification_mode", "save_infos", "ignore_verifications"),
}


def _file_of(value: Any) -> str | None:
    """Return the file whose rows a value holds, all of them and unchanged."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, Each):  # a row for each line of a file
        is_row = (
            isinstance(value.value, Row) or getattr(value.value, "function", "") == "json.loads"
        )
        return _opened(value.source) if is_row else None
    if isinstance(value, Call) and value.function in ("json.load", "list") and value.arguments:
        return _opened(value.arguments[0])
    return None


def _opened(value: Any) -> str | None:
    """Return the name of a file of rows that a value was opened from."""
    if not isinstance(value, Call) or value.name not in ("open", "Reader"):
        return None
    path = value.receiver if isinstance(value.receiver, str) else value.get("file", 0)
    is_rows = isinstance(path, str) and PurePosixPath(path).suffix.lower() in FORMATS
    return path if is_rows else None


def _holds_plainly(values: Sequence[Any]) -> bool:
    """Whether the first value is what a file reader returned, with nothing done to it."""
    return len(values) > 0 and _is_source(values[0]) and values[0].name in _FILE_READERS


def _name_of(rows: Rows) -> Any:
    settings = rows.settings
    return settings.get("path") or settings.get("dataset_name") or rows.call.text


def _rows_taken(count: Any) -> Any:
    """Return a number of first rows from a number, range(n), list(range(n)), or min(n, len(…))."""
    if isinstance(count, Call) and count.name in ("list", "range") and len(count.arguments) == 1:
        return _rows_taken(count.arguments[0])
    if isinstance(count, Call) and count.name == "min":
        numbers = [one for one in count.arguments if isinstance(one, int)]
        return min(numbers) if numbers else None
    if isinstance(count, range):
        return count.stop if count.start == 0 and count.step == 1 else None
    if isinstance(count, list) and count == list(range(len(count))):
        return len(count)
    return count if isinstance(count, int) and not isinstance(count, bool) else None


def unwrapped(function: Any) -> tuple[Any, dict[str, Any]]:
    """Return a function and the arguments that `functools.partial` fixes."""
    if isinstance(function, Call) and function.name == "partial" and function.arguments:
        return function.arguments[0], dict(function.keywords)
    return function, {}


def _filled(value: Any, rows: Rows) -> Any:
    """Return a value with what is known of the columns in it."""
    if isinstance(value, Column):
        return rows.column(value.text)
    if isinstance(value, Text):
        return joined([_filled(piece, rows) for piece in value.pieces], value.line)
    return value
