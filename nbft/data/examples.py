"""From rows to examples: what is the prompt and what is trained on.

An `Example` is a prompt and a completion, or chat messages. It comes from templates or functions,
from a bundled sample's own template, or from the format of the rows (`formats`). Nothing here loads a
model. Called by `tokens`, `nbft.plan`, the lens, the doctor and the form.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import hashlib
import importlib
import importlib.util
import itertools
import string
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np

from nbft import registry
from nbft.config import Config
from nbft.config.data import Dataset, Split
from nbft.data import adapters, formats
from nbft.data.formats import Example, RowError, to_text
from nbft.data.ready import READY
from nbft.data.sources import Rows, file_errors, load_rows, resolve, spread, stream_rows
from nbft.errors import DataError, Problem
from nbft.formatting import count
from nbft.methods import Method, method_of
from nbft.methods.method import Kind

__all__ = ["Example", "Examples", "load_examples", "preview", "stream_examples"]

Render = Callable[[Mapping[str, Any]], str]
Make = Callable[[Mapping[str, Any]], Example]

ROWS_CHECKED = 10_000
"""Rows of a dataset that are checked before training; of more, this many spread over all."""

STREAM_ROWS = 2_000
"""Rows at the start of a stream that are checked before training."""


@dataclass
class Part:
    """One dataset: its rows, and how each becomes an example.

    Attributes:
        rows: All rows that were read.
        numbers: Numbers of the rows that are trained on, in order.
        make: Makes the example of a row.
        field: Dotted name of the dataset.
        format: Name of the format of its rows.
        kind: What the first row holds.
        made: All examples, where they are few.
        keeps: Whether a row is trained on at all; None when every row is.
    """

    rows: Rows
    numbers: np.ndarray
    make: Make
    field: str
    format: str
    kind: Kind
    made: list[Example] | None = None
    keeps: Callable[[Mapping[str, Any]], bool] | None = None

    def example(self, number: int) -> Example:
        """Return one of the examples."""
        if self.made is not None:
            return self.made[number]
        row = int(self.numbers[number])
        return _made(self.make, self.rows[row], row + 1, self.field)


class Examples(Sequence[Example]):
    """The examples of a split. Those of a large file are made when they are needed.

    Attributes:
        formats: Format of each dataset's rows: "template", "ShareGPT conversations", …
        recognised: Sentences on how rows were recognised.
        is_stream: Whether these are only the first rows of a stream.
        parts: The datasets that they come from.
    """

    def __init__(
        self,
        parts: list[Part],
        order: np.ndarray,
        recognised: Sequence[str] = (),
        *,
        is_stream: bool = False,
    ) -> None:
        self.parts, self._order = parts, order
        self._begins = np.cumsum([0, *(len(part.numbers) for part in parts)])
        self.formats = [part.format for part in parts]
        self.recognised = list(recognised)
        self.is_stream = is_stream

    def __len__(self) -> int:
        return len(self._order)

    @overload
    def __getitem__(self, number: int) -> Example: ...
    @overload
    def __getitem__(self, number: slice) -> list[Example]: ...
    def __getitem__(self, number: int | slice) -> Example | list[Example]:
        if isinstance(number, slice):
            return [self[n] for n in range(*number.indices(len(self)))]
        part, place = self._place(number)
        return self.parts[part].example(place)

    def __iter__(self) -> Iterator[Example]:
        parts = np.searchsorted(self._begins, self._order, side="right") - 1
        places = self._order - self._begins[parts]
        for part, place in zip(parts.tolist(), places.tolist(), strict=True):
            yield self.parts[part].example(place)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def row(self, number: int) -> Mapping[str, Any]:
        """Return the row that an example is made of, with its columns renamed."""
        part, place = self._place(number)
        return self.parts[part].rows[int(self.parts[part].numbers[place])]

    def origin(self, number: int) -> tuple[int, int]:
        """Return the dataset of an example, from 0, and its row in the file or list, from 1."""
        part, place = self._place(number)
        row = int(self.parts[part].numbers[place])
        taken = getattr(self.parts[part].rows, "numbers", None)
        return part, (row if taken is None else int(taken[row])) + 1

    def _place(self, number: int) -> tuple[int, int]:
        """Return the part that holds an example, and its number there."""
        place = int(self._order[number])
        part = int(np.searchsorted(self._begins, place, side="right")) - 1
        return part, place - int(self._begins[part])


def load_examples(
    config: Config, split: str, *, folder: Path | None = None
) -> tuple[Examples, list[str]]:
    """Read a split and make its examples.

    Without validation datasets, rows drawn by `training.seed` are held out of the training rows, so
    that the two never share a row; both keep the order of the file. Datasets with a
    mixture_proportion are mixed after that.

    Args:
        config: The config.
        split: train, validation or test.
        folder: Folder of the config file, for relative paths.

    Returns:
        The examples, and sentences on what a person should know (empty completions, …).

    Raises:
        DataError: Every problem found in the files and templates of the split.
    """
    splits = config.data.splits()
    if split == "test" and "test" not in splits:
        return Examples([], np.arange(0)), []
    section = split if split in splits else "train"
    block, field = splits[section], f"data.{section}.datasets"
    if not block.datasets:
        fix = f"Give a path or a dataset_name, for example {field}[0].dataset_name=alpaca."
        raise DataError(Problem(field, None, "names no rows.", fix))
    method = method_of(config)
    parts: list[Part] = []
    problems: list[str | Problem] = []
    remarks: list[str] = []
    for number, dataset in enumerate(block.datasets):
        name = f"{field}[{number}]"
        try:
            rows = _rows(config, section, dataset, name, folder)
            if not block.stream and dataset.sample_count and len(rows) < dataset.sample_count:
                remarks.append(
                    f"{name}.sample_count={dataset.sample_count}: there are only {len(rows):,} "
                    "rows; all are taken."
                )
            parts.append(_part(rows, method, dataset, name, folder, remarks))
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(problems)
    recognised = [
        f"{part.field}: recognised as {known.name} ({count(len(part.numbers), 'row')}); "
        f"{method.trained_on(known.name) or known.trained_on}."
        for part in parts
        for known in formats.FORMATS
        if part.format == known.name
    ]
    is_stream = block.stream and section == "train"
    order = _order(config, parts, split, section, is_stream=is_stream)
    return Examples(parts, order, recognised, is_stream=is_stream), remarks


def held_out(config: Config, train: Examples) -> Examples:
    """Return what `load_examples` returns for validation, without reading the rows again.

    Args:
        config: A config without validation datasets.
        train: Its training examples.
    """
    order = _order(config, train.parts, "validation", "train", is_stream=train.is_stream)
    return Examples(train.parts, order, train.recognised, is_stream=train.is_stream)


def _rows(config: Config, section: str, dataset: Dataset, field: str, folder: Path | None) -> Rows:
    seed = config.training.seed
    if not config.data.splits()[section].stream:
        return load_rows(dataset, section, field, seed=seed, folder=folder)
    most = STREAM_ROWS if section == "train" else dataset.sample_count
    where = (f"{field}.path", dataset.path)
    try:
        with file_errors(*where):
            stream = stream_rows(dataset, section, field, folder=folder)
            rows = list(itertools.islice(stream, most))
    except ValueError as error:
        raise DataError(Problem(*where, str(error), "Fix it.")) from None
    if not rows:
        raise DataError(Problem(*where, "holds no rows.", "Name another."))
    return rows


def _order(
    config: Config, parts: list[Part], split: str, section: str, *, is_stream: bool
) -> np.ndarray:
    """Return which examples of all parts belong to a split, in order."""
    lengths = [len(part.numbers) for part in parts]
    order = np.arange(sum(lengths))
    if section == "train" and config.data.validation is None and not is_stream:
        order = _share(len(order), config, split)
    elif is_stream and split == "validation":
        return order[:0]
    block: Split = config.data.splits()[section]
    if split == "train" and block.datasets[0].mixture_proportion is not None:
        import datasets

        begins = np.cumsum([0, *lengths])
        sets = [order[(order >= a) & (order < b)] for a, b in itertools.pairwise(begins)]
        numbered = [datasets.Dataset.from_dict({"number": numbers}) for numbers in sets]
        mixture = _interleaved(numbered, block, config).with_format("numpy")
        order = np.asarray(mixture["number"][:])
    return order


def _share(total: int, config: Config, split: str) -> np.ndarray:
    """Return the examples of one split where validation is held out of the training rows."""
    numbers = np.random.default_rng(config.training.seed).permutation(total)
    validation_rows = round(total * (1 - config.data.split_ratio))
    if config.data.split_ratio < 1 and total > 1:
        validation_rows = min(max(validation_rows, 1), total - 1)
    cut = total - validation_rows
    return np.sort(numbers[:cut] if split == "train" else numbers[cut:])


def _interleaved(sets: list[Any], block: Split, config: Config) -> Any:
    """Draw from several sets by their proportions until one, or each, has run out."""
    import datasets

    return datasets.interleave_datasets(
        sets,
        probabilities=[float(d.mixture_proportion or 0) for d in block.datasets],
        seed=_seed(block, config),
        stopping_strategy=block.mixture_strategy,
    )


def _seed(block: Split, config: Config) -> int:
    return config.training.seed if block.seed is None else block.seed


def stream_examples(config: Config, *, folder: Path | None = None) -> Iterator[Example]:
    """Yield the training examples of a stream without end, mixed and shuffled.

    A stream that ends starts again, so that `training.max_steps` alone limits the training.

    Raises:
        DataError: An example cannot be made of a row.
    """
    import datasets

    block = config.data.train
    makers, sources = [], []
    for number, dataset in enumerate(block.datasets):
        field = f"data.train.datasets[{number}]"
        first = _rows(config, "train", dataset, field, folder)
        part = _part(first, method_of(config), dataset, field, folder, [])
        makers.append((part.make, field))
        rows = stream_rows(dataset, "train", field, folder=folder)
        numbered = functools.partial(_numbered, rows, number, dataset.sample_count, part.keeps)
        sources.append(datasets.IterableDataset.from_generator(numbered))
    if len(sources) > 1 and block.datasets[0].mixture_proportion is not None:
        stream = _interleaved(sources, block, config)
    else:
        stream = datasets.concatenate_datasets(sources) if len(sources) > 1 else sources[0]
    if config.data.shuffle:
        stream = stream.shuffle(seed=_seed(block, config), buffer_size=block.shuffle_buffer_size)
    for epoch in itertools.count():
        stream.set_epoch(epoch)
        for item in stream:
            make, field = makers[item["set"]]
            yield _made(make, item["row"], item["number"], field)


def _numbered(
    rows: Iterable[Mapping[str, Any]],
    dataset: int,
    most: int | None,
    keeps: Callable[[Mapping[str, Any]], bool] | None,
) -> Iterator[dict[str, Any]]:
    """Yield rows with the number of their dataset and their own."""
    for number, row in enumerate(itertools.islice(rows, most), start=1):
        if keeps is None or keeps(row):
            yield {"set": dataset, "number": number, "row": row}


def preview(config: Config, rows: int = 3, *, folder: Path | None = None) -> list[dict[str, str]]:
    """Return the first training rows as {"prompt", "completion"}, as they will be trained on.

    Raises:
        DataError: As `load_examples`.
    """
    examples, _ = load_examples(config, "train", folder=folder)
    shown = []
    for example in examples[:rows]:
        if example.messages:
            turns = [f"{m['role']}: {m['content']}" for m in example.messages]
            shown.append({"prompt": "\n".join(turns[:-1]), "completion": turns[-1]})
        else:
            shown.append({"prompt": example.prompt, "completion": example.completion})
    return shown


def _part(
    rows: Rows,
    method: Method,
    dataset: Dataset,
    field: str,
    folder: Path | None,
    remarks: list[str],
) -> Part:
    """Determine the format of a dataset's rows, and check a sample of them."""
    checked = spread(len(rows), ROWS_CHECKED).tolist()
    contents = _contents(rows, checked)
    columns = list(getattr(rows, "column_names", contents))
    numbers, keeps = np.arange(len(rows)), None
    if way := _configured(dataset, columns, field, folder):
        name, make, texts = way
    elif known := formats.recognise(columns, rows[0]):
        texts, name, make = {*known.texts} & {*columns}, known.name, known.make
        keeps = None if method.uses_labels else known.label
        if keeps is not None:
            numbers = np.flatnonzero([keeps(row) for row in rows])
            if dropped := len(rows) - len(numbers):
                remarks.append(
                    f"{field}: {dropped:,} of {len(rows):,} rows are left out: they are "
                    "labelled as bad answers."
                )
            checked = numbers[spread(len(numbers), ROWS_CHECKED)].tolist()
    else:
        raise DataError(_unknown(columns, field))
    _check_types({name: contents[name] for name in sorted(texts) if name in contents}, field)
    made: list[Example] | None = [] if len(checked) == len(numbers) else None
    empty, kind = 0, None
    for n in checked:
        example = _made(make, rows[n], n + 1, field)
        kind = kind or example.kind
        empty += not example.messages and not example.completion.strip()
        if made is not None:  # of a large file no examples are held
            made.append(example)
    if kind is not None and kind not in method.accepts:
        raise DataError(Problem(field, None, *method.refusal(kind)))
    if empty == len(checked):
        why = f"gives nothing to train on in any of the {empty:,} rows."
        fix = "Name the column that holds the answer."
        setting = f"{field}.completion_template"
        raise DataError(Problem(setting, dataset.completion_template, why, fix))
    if empty:
        remarks.append(
            f"{field}: {empty:,} of {len(checked):,} rows have an empty completion; they teach the "
            "model to say nothing."
        )
    return Part(rows, numbers, make, field, name, kind or "pair", made, keeps)


_Way = tuple[str, Make, set[str]]  # name, how an example is made, columns that it needs


def _configured(
    dataset: Dataset, columns: list[str], field: str, folder: Path | None
) -> _Way | None:
    """Return how examples are made where the config determines it, or None."""
    if way := _named_way(dataset, columns, field):
        return way
    prompt, completion = _renderers(dataset, columns, field, folder)
    if not prompt or not completion:
        return None

    def make(row: Mapping[str, Any]) -> Example:
        return Example(_called(prompt[0], row), _called(completion[0], row))

    return "template", make, prompt[1] | completion[1]


def _named_way(dataset: Dataset, columns: list[str], field: str) -> _Way | None:
    """Return how examples are made where dataset_type or input_columns determine it."""
    target = dataset.target_column
    if dataset.input_columns:
        wanted = [*dataset.input_columns, *([target] if target else [])]
        if missing := [name for name in wanted if name not in columns]:
            which = "target_column" if missing[0] == target else "input_columns"
            why = f"{missing[0]} is not a column; found {', '.join(columns)}."
            fix = "Name columns of the rows."
            raise DataError(Problem(f"{field}.{which}", getattr(dataset, which), why, fix))
        return "columns", adapters.of_columns(dataset.input_columns, target), set(wanted)
    if target:
        why = "is set without input_columns, so there is no prompt."
        fix = "Name them, or write a completion_template."
        raise DataError(Problem(f"{field}.target_column", target, why, fix))
    if dataset.dataset_type in ("auto", "seq_completion"):
        return None
    function = registry.datasets.get(dataset.dataset_type)
    return dataset.dataset_type, adapters.of_function(function), set()


def _unknown(columns: list[str], field: str) -> Problem:
    found = ", ".join(f'"{name}"' for name in columns)
    pair = f'{{"prompt": "{columns[0]}", "completion": "{columns[-1]}"}}' if columns else "{…}"
    why = f'no "prompt" and "completion", no "messages" and no "text"; found {found}.'
    fix = f"Write prompt_template and completion_template, or map columns: columns={pair}."
    return Problem(field, None, why, fix)


def _made(make: Make, row: Mapping[str, Any], number: int, field: str) -> Example:
    """Make the example of a row; number it in errors."""
    try:
        return make(row)
    except RowError as error:
        raise DataError(Problem(field, None, f"row {number:,}: {error.why}", error.fix)) from None


_Renderer = tuple[Render, set[str]]  # the function, and the columns that it is known to use


def _renderers(
    dataset: Dataset, columns: list[str], field: str, folder: Path | None
) -> tuple[_Renderer | None, _Renderer | None]:
    """Return what makes prompt and completion where the config names it; else (None, None)."""
    ready = READY.get(dataset.dataset_name or "") if dataset.path is None else None
    names = [f"{part}_{kind}" for part in ("prompt", "completion") for kind in ("template", "func")]
    if not ready and all(getattr(dataset, name) is None for name in names):
        return None, None
    made: dict[str, _Renderer | None] = dict.fromkeys(("prompt", "completion"))
    problems: list[str | Problem] = []
    for part in made:
        template = getattr(dataset, f"{part}_template")
        function = getattr(dataset, f"{part}_func")
        if template is not None and function is not None:
            why = f"is set beside {part}_func={function!r}."
            setting, changes = f"{field}.{part}_template", {f"{field}.{part}_func": None}
            problems.append(Problem(setting, template, why, "Keep one of the two.", changes))
            continue
        if ready and template is None and function is None:
            template = getattr(ready, f"{part}_template", "") or None
            function = getattr(ready, f"{part}_func", "") or None
        try:
            if template is not None:
                made[part] = template_renderer(template, columns, f"{field}.{part}_template")
            elif function is not None:
                made[part] = (load_function(function, f"{field}.{part}_func", folder), set())
            elif part in columns:
                made[part] = (lambda row, part=part: to_text(row[part]), {part})  # type: ignore[misc]
        except DataError as error:
            problems += error.problems
    if not problems and (made["prompt"] is None) != (made["completion"] is None):
        have, lack = ("prompt", "completion") if made["prompt"] else ("completion", "prompt")
        why = f"is missing, while {have}_template or {have}_func is given."
        fix = f"Write one; the columns are {', '.join(columns)}."
        problems.append(Problem(f"{field}.{lack}_template", None, why, fix))
    if problems:
        raise DataError(problems)
    return made["prompt"], made["completion"]


def template_renderer(template: str, columns: list[str], field: str) -> _Renderer:
    """Return the function that fills a template from a row, and the columns it uses.

    Args:
        template: Text with columns in braces, plain or quoted: {question}, {'question'}; {{ and }}
            for braces.
        columns: The columns there are.
        field: Name of the setting, for messages.

    Raises:
        DataError: A placeholder is not a column, or a brace is not closed.
    """
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError:
        why = "has a brace that is not closed, or not opened."
        raise DataError(Problem(field, template, why, _LITERAL_BRACES)) from None
    pieces: list[tuple[str, str | None]] = []
    problems: list[str | Problem] = []
    for text, name, spec, conversion in parsed:
        column = None
        if name is not None:
            column = name.strip().strip("'\"")
            if spec or conversion:
                written = f"{{{name}{'!' + conversion if conversion else ':' + (spec or '')}}}"
                fix = f"Write {{{column}}} alone, or {{{{ and }}}} for literal braces."
                problems.append(Problem(field, template, f"{written} is not a column.", fix))
            elif column not in columns:
                problems.append(_no_column(name, column, template, columns, field))
        pieces.append((text, column))
    if problems:
        raise DataError(problems)
    if not any(column for _, column in pieces):
        why = "names no column, so every row would be the same."
        fix = f"Put a column in braces: {', '.join(f'{{{c}}}' for c in columns)}."
        raise DataError(Problem(field, template, why, fix))

    def render(row: Mapping[str, Any]) -> str:
        return "".join(text + (to_text(row.get(col)) if col else "") for text, col in pieces)

    return render, {column for _, column in pieces if column}


_LITERAL_BRACES = "Write {{ and }} for literal braces."


def _no_column(written: str, name: str, template: str, columns: list[str], field: str) -> Problem:
    why = f"{{{name}}} is not a column."
    if close := difflib.get_close_matches(name, columns, n=1, cutoff=0.5):
        fixed = template.replace(f"{{{written}}}", f"{{{close[0]}}}")
        return Problem(field, template, why, f"Did you mean {{{close[0]}}}?", {field: fixed})
    is_prose = "\n" in name or " " in name
    fix = _LITERAL_BRACES if is_prose else f"The columns are {', '.join(columns)}."
    return Problem(field, template, why, fix)


def load_function(written: str, field: str, folder: Path | None) -> Render:
    """Import a function written as path/to/file:function or package.module:function.

    Args:
        written: Value of the setting.
        field: Name of the setting, for messages.
        folder: Folder of the config, where a file is looked for first; then the working folder.

    Raises:
        DataError: There is no such file, module or function, or importing it fails.
    """
    where, colon, name = written.rpartition(":")
    if not colon or not where or not name:
        fix = "Write path/to/file:function."
        raise DataError(Problem(field, written, "names no function.", fix))
    file = resolve(where if where.endswith(".py") else f"{where}.py", folder)
    try:
        if file.is_file():
            key = hashlib.sha256(str(file).encode()).hexdigest()[:12]
            module_name = f"nbft_user_{file.stem}_{key}"
            spec = importlib.util.spec_from_file_location(module_name, file)
            assert spec is not None
            assert spec.loader is not None
            module = importlib.util.module_from_spec(spec)
            sys.modules[module_name] = module
            spec.loader.exec_module(module)
        elif "/" in where or where.endswith(".py"):
            why = f"there is no file {file}."
            raise DataError(Problem(field, written, why, "Name it from the config's folder."))
        else:
            module = importlib.import_module(where)
    except DataError:
        raise
    except (Exception, SystemExit) as error:
        why = f"{where} could not be imported ({type(error).__name__}: {error})."
        fix = "Write path/to/file:function or package.module:function."
        raise DataError(Problem(field, written, why, fix)) from None
    function = getattr(module, name, None)
    if not callable(function):
        known = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
        close = difflib.get_close_matches(name, known, n=1)
        fix = f"Did you mean {close[0]}?" if close else f"It has {', '.join(known) or 'none'}."
        raise DataError(Problem(field, written, f"{where} has no function {name}.", fix))
    return function  # type: ignore[no-any-return]


def _called(render: Render, row: Mapping[str, Any]) -> str:
    try:
        text = render(dict(row))  # a function may change its row, which is shared
    except Exception as error:
        raise RowError(
            f"the prompt or completion function failed with {type(error).__name__}: {error}.",
            f"The row has the columns {', '.join(row)}.",
        ) from None
    if not isinstance(text, str):
        raise RowError(
            f"the prompt or completion function returned {type(text).__name__}, not text.",
            "Return a string.",
        )
    return text


@dataclass
class _Content:
    """What a column holds in the checked rows.

    Attributes:
        of: How many rows were checked.
        rows: How many have the column.
        first_without: The first that does not, counted from 1; 0 when all have it.
        kinds: By kind of value, how many there are and the first row that holds one.
    """

    of: int
    rows: int = 0
    first_without: int = 0
    kinds: dict[str, list[int]] = dataclasses.field(default_factory=dict)


def _contents(rows: Rows, numbers: Sequence[int]) -> dict[str, _Content]:
    """Return what each column holds in the given rows, in the order of the first row that has it."""
    columns: dict[str, _Content] = {}
    for place, number in enumerate(numbers):
        row = rows[number]
        for name, value in row.items():
            column = columns.get(name)
            if column is None:
                first_without = numbers[0] + 1 if place else 0
                column = columns[name] = _Content(len(numbers), first_without=first_without)
            column.rows += 1
            if value is not None:
                kind = _KINDS.get(type(value), "objects")
                column.kinds.setdefault(kind, [0, number + 1])[0] += 1
        if len(row) < len(columns):
            for name in columns.keys() - row.keys():
                columns[name].first_without = columns[name].first_without or number + 1
    return columns


def _check_types(columns: Mapping[str, _Content], field: str) -> None:
    """Raise where a column is missing in some rows, or not of one type in all."""
    problems: list[str | Problem] = []
    for name, content in columns.items():
        if content.rows < content.of:
            why = (
                f'{content.of - content.rows:,} of {content.of:,} rows have no "{name}" (the first '
                f"is row {content.first_without:,})."
            )
            problems.append(Problem(field, None, why, "Add it, or leave those rows out."))
        if len(content.kinds) > 1:
            parts = [
                f"{rows:,} {kind} (first in row {first:,})"
                for kind, (rows, first) in content.kinds.items()
            ]
            why = f'column "{name}" mixes {" and ".join(parts)}.'
            problems.append(Problem(field, None, why, "Make it one type in all rows."))
    if problems:
        raise DataError(problems)


_KINDS = {str: "texts", bool: "booleans", int: "numbers", float: "numbers", list: "lists"}
