"""From rows to examples: what is prompt and what is to be learnt.

An `Example` is a prompt and a completion, or chat messages. It comes from templates or functions,
from a ready name, or from the shape of the rows (`formats`). Nothing here loads a model; chat
messages wait for the tokenizer's template. Called by `tokens`, `nbft.plan`, the lens, the doctor
and the form.
"""

from __future__ import annotations

import dataclasses
import difflib
import hashlib
import importlib
import importlib.util
import itertools
import string
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, overload

import numpy as np

from nbft import registry
from nbft.config import Config
from nbft.config.data import Dataset, Split
from nbft.data import adapters, formats
from nbft.data.formats import Example, RowError
from nbft.data.ready import READY
from nbft.data.sources import Rows, load_rows, resolve, spread, stream_rows
from nbft.errors import DataError, Problem
from nbft.formatting import count
from nbft.methods import Method, method_of
from nbft.methods.method import Kind

__all__ = ["Example", "Examples", "load_examples", "preview", "stream_examples"]

Render = Callable[[Mapping[str, Any]], str]

ROWS_CHECKED = 10_000
"""Rows of a dataset that are read before the training; of more, so many spread over all."""

STREAM_ROWS = 2_000
"""Rows at the beginning of a stream that are looked at before the training."""


class Origin(NamedTuple):
    """Where an example comes from.

    Attributes:
        dataset: Number of the dataset in its split, from 0.
        row: Number of the row in its file or list, from 1.
    """

    dataset: int
    row: int


@dataclass
class Part:
    """One dataset: its rows, and how each becomes an example.

    Attributes:
        rows: All that were read.
        numbers: The numbers of those that are trained on, in order.
        make: Makes the example of a row.
        field: Its dotted name.
        format: How the rows were understood.
        kind: What the first of them holds.
        made: All examples, where they are few.
        keeps: Whether a row is trained on at all; None when every row is.
    """

    rows: Rows
    numbers: np.ndarray
    make: Callable[[Mapping[str, Any]], Example]
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
    """The examples of a split. Those of a large file are made when they are asked for.

    Attributes:
        formats: How the rows of each dataset were understood: "template", "ShareGPT
            conversations", …
        recognised: Sentences about those that were recognised without being told.
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
        """Return the row that an example is made of, its columns renamed as the config says."""
        part, place = self._place(number)
        return self.parts[part].rows[int(self.parts[part].numbers[place])]

    def origin(self, number: int) -> Origin:
        """Return where an example comes from."""
        part, place = self._place(number)
        row = int(self.parts[part].numbers[place])
        taken = getattr(self.parts[part].rows, "numbers", None)
        return Origin(part, (row if taken is None else int(taken[row])) + 1)

    def field(self, number: int) -> str:
        """Return the dotted name of the dataset that an example comes from."""
        return self.parts[self._place(number)[0]].field

    def _place(self, number: int) -> tuple[int, int]:
        """Return the part that holds an example, and its number there."""
        one = int(self._order[number])
        part = int(np.searchsorted(self._begins, one, side="right")) - 1
        return part, one - int(self._begins[part])


def load_examples(
    config: Config, split: str, *, folder: Path | None = None
) -> tuple[Examples, list[str]]:
    """Read a split and make its examples.

    Where no validation rows are named, rows drawn by `training.seed` are held out of the training
    rows, so that the two never share a row; both keep the order of the file. Datasets with a
    mixture_proportion are mixed after that.

    Args:
        config: The config.
        split: train, validation or test.
        folder: Folder of the config file, for relative paths.

    Returns:
        The examples, and sentences about what a person should know (empty completions, …).

    Raises:
        DataError: Every problem found in the files and templates of the split.
    """
    splits = config.data.splits()
    if split == "test" and "test" not in splits:
        return Examples([], np.arange(0)), []
    section = split if split in splits else "train"
    block = splits[section]
    if not block.datasets:
        raise DataError(
            Problem(
                f"data.{section}.datasets",
                None,
                "names no rows.",
                f"Give a path or a dataset_name, for example data.{section}.datasets[0]."
                "dataset_name=alpaca.",
            )
        )
    parts: list[Part] = []
    problems: list[str | Problem] = []
    remarks: list[str] = []
    for number, dataset in enumerate(block.datasets):
        field = f"data.{section}.datasets[{number}]"
        try:
            rows = _rows(config, section, dataset, field, folder)
            if not block.stream and dataset.sample_count and len(rows) < dataset.sample_count:
                remarks.append(
                    f"{field}.sample_count={dataset.sample_count}: there are only {len(rows):,} "
                    "rows; all are taken."
                )
            parts.append(_part(rows, method_of(config), dataset, field, folder, remarks))
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(problems)
    recognised = [
        f"{part.field}: recognised as {known.name} ({count(len(part.numbers), 'row')}); "
        f"{method_of(config).trained_on(part.kind) or known.trained_on}."
        for part in parts
        for known in formats.FORMATS
        if part.format == known.name
    ]
    is_stream = block.stream and section == "train"
    order = _order(config, parts, split, section, is_stream=is_stream)
    return Examples(parts, order, recognised, is_stream=is_stream), remarks


def held_out(config: Config, train: Examples) -> Examples:
    """Return the rows that are held out of the training rows, where no others are named.

    The same as `load_examples` gives for validation, without reading again.

    Args:
        config: The config.
        train: Its training examples.
    """
    order = _order(config, train.parts, "validation", "train", is_stream=train.is_stream)
    return Examples(train.parts, order, train.recognised, is_stream=train.is_stream)


def _rows(config: Config, section: str, dataset: Dataset, field: str, folder: Path | None) -> Rows:
    seed = config.training.seed
    if not config.data.splits()[section].stream:
        return load_rows(dataset, section, field, seed=seed, folder=folder)
    most = STREAM_ROWS if section == "train" else dataset.sample_count
    return _streamed(stream_rows(dataset, section, field, folder=folder), field, dataset, most)


def _streamed(
    stream: Iterable[Mapping[str, Any]], field: str, dataset: Dataset, most: int | None
) -> Rows:
    try:
        rows = list(itertools.islice(stream, most))
    except UnicodeDecodeError:
        why = "is not UTF-8 text."
        raise DataError(Problem(f"{field}.path", dataset.path, why, "Save it as UTF-8.")) from None
    except OSError as error:
        why = f"cannot be read: {(error.strerror or type(error).__name__).lower()}."
        raise DataError(Problem(f"{field}.path", dataset.path, why, "")) from None
    except ValueError as error:
        raise DataError(Problem(f"{field}.path", dataset.path, str(error), "Fix it.")) from None
    if not rows:
        raise DataError(Problem(f"{field}.path", dataset.path, "holds no rows.", "Name another."))
    return rows


def _order(
    config: Config, parts: list[Part], split: str, section: str, *, is_stream: bool
) -> np.ndarray:
    """Return the numbers of the examples of a split, among those of all parts, in order."""
    lengths = [len(part.numbers) for part in parts]
    order = np.arange(sum(lengths))
    if section == "train" and config.data.validation is None and not is_stream:
        order = _share(len(order), config, split)
    elif is_stream and split == "validation":
        return order[:0]
    block: Split = config.data.splits()[section]
    if split == "train" and block.datasets[0].mixture_proportion is not None:
        begins = np.cumsum([0, *lengths])
        sets = [order[(order >= a) & (order < b)] for a, b in itertools.pairwise(begins)]
        order = _mixed(sets, block, _seed(block, config))
    return order


def _share(total: int, config: Config, split: str) -> np.ndarray:
    """Return the part of all examples that a split gets when the other is cut from it."""
    numbers = np.random.default_rng(config.training.seed).permutation(total)
    held_out = round(total * (1 - config.data.split_ratio))
    if config.data.split_ratio < 1 and total > 1:
        held_out = min(max(held_out, 1), total - 1)
    cut = total - held_out
    return np.sort(numbers[:cut] if split == "train" else numbers[cut:])


def _mixed(sets: list[np.ndarray], block: Split, seed: int) -> np.ndarray:
    """Draw from several sets by their proportions until one, or each, has run out."""
    import datasets

    mixture = datasets.interleave_datasets(
        [datasets.Dataset.from_dict({"number": numbers}) for numbers in sets],
        probabilities=[float(d.mixture_proportion or 0) for d in block.datasets],
        seed=seed,
        stopping_strategy=block.mixture_strategy,
    )
    return np.asarray(mixture.with_format("numpy")["number"][:])


def _seed(block: Split, config: Config) -> int:
    return config.training.seed if block.seed is None else block.seed


def stream_examples(config: Config, *, folder: Path | None = None) -> Iterator[Example]:
    """Yield the training examples of a stream, mixed and shuffled as the config says, for ever.

    A stream that ends begins again, so that `training.max_steps` alone says how long to train.

    Raises:
        DataError: A row cannot be understood.
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
        numbered = _Numbered(rows, number, dataset.sample_count, part.keeps)
        sources.append(datasets.IterableDataset.from_generator(numbered.__iter__))
    if len(sources) > 1 and block.datasets[0].mixture_proportion is not None:
        stream = datasets.interleave_datasets(
            sources,
            probabilities=[float(d.mixture_proportion or 0) for d in block.datasets],
            seed=_seed(block, config),
            stopping_strategy=block.mixture_strategy,
        )
    else:
        stream = datasets.concatenate_datasets(sources) if len(sources) > 1 else sources[0]
    if config.data.shuffle:
        stream = stream.shuffle(seed=_seed(block, config), buffer_size=block.shuffle_buffer_size)
    for epoch in itertools.count():
        stream.set_epoch(epoch)
        for item in stream:
            make, field = makers[item["set"]]
            yield _made(make, item["row"], item["number"], field)


class _Numbered:
    """Rows with the number of their set and their own, as `datasets` wants them."""

    def __init__(
        self,
        rows: Iterable[Mapping[str, Any]],
        number: int,
        most: int | None,
        keeps: Callable[[Mapping[str, Any]], bool] | None,
    ) -> None:
        self._rows, self._number, self._most, self._keeps = rows, number, most, keeps

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for number, row in enumerate(itertools.islice(self._rows, self._most), start=1):
            if self._keeps is None or self._keeps(row):
                yield {"set": self._number, "number": number, "row": row}


def preview(config: Config, rows: int = 3, *, folder: Path | None = None) -> list[dict[str, str]]:
    """Return the first training rows as {"prompt", "completion"}, as they will be learnt.

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
    """Understand the rows of a dataset, and see that they can be understood."""
    looked_at = spread(len(rows), ROWS_CHECKED).tolist()
    held = _held(rows, looked_at)
    columns = list(getattr(rows, "column_names", held))
    numbers, keeps = np.arange(len(rows)), None
    named = _named_way(dataset, columns, field)
    prompt, completion = (None, None) if named else _renderers(dataset, columns, field, folder)
    if named:
        name, make, texts = named
    elif prompt and completion:
        texts = prompt[1] | completion[1]
        name = "template"

        def make(row: Mapping[str, Any]) -> Example:
            return Example(_called(prompt[0], row), _called(completion[0], row))
    else:
        known = formats.recognise(columns, rows[0])
        if known is None:
            raise DataError(_unknown(columns, field))
        texts, name, make = {*known.texts} & {*columns}, known.name, known.make
        keeps = None if method.uses_labels else known.label
        if keeps is not None:
            numbers = np.flatnonzero(
                np.fromiter((keeps(row) for row in rows), dtype=bool, count=len(rows))
            )
            if gone := len(rows) - len(numbers):
                remarks.append(
                    f"{field}: {gone:,} of {len(rows):,} rows are left out: they are "
                    "labelled as bad answers."
                )
            looked_at = numbers[spread(len(numbers), ROWS_CHECKED)].tolist()
    _same_types({name: held[name] for name in sorted(texts) if name in held}, field)
    made: list[Example] | None = [] if len(looked_at) == len(numbers) else None
    empty, kind = 0, None
    for n in looked_at:
        example = _made(make, rows[n], n + 1, field)
        kind = kind or example.kind
        empty += not example.messages and not example.completion.strip()
        if made is not None:
            made.append(example)
    if kind is not None and kind not in method.accepts:
        raise DataError(Problem(field, None, *method.refusal(kind)))
    if empty == len(looked_at):
        raise DataError(
            Problem(
                f"{field}.completion_template",
                dataset.completion_template,
                f"gives nothing to learn in any of the {empty:,} rows.",
                "Name the column that holds the answer.",
            )
        )
    if empty:
        remarks.append(
            f"{field}: {empty:,} of {len(looked_at):,} rows have an empty completion; they teach the "
            "model to say nothing."
        )
    return Part(rows, numbers, make, field, name, kind or "pair", made, keeps)


def _named_way(
    dataset: Dataset, columns: list[str], field: str
) -> tuple[str, Callable[[Mapping[str, Any]], Example], set[str]] | None:
    """Return how rows are read where dataset_type or input_columns say it, and what they need."""
    if dataset.input_columns:
        wanted = [
            *dataset.input_columns,
            *([dataset.target_column] if dataset.target_column else []),
        ]
        if missing := [name for name in wanted if name not in columns]:
            which = "target_column" if missing[0] == dataset.target_column else "input_columns"
            raise DataError(
                Problem(
                    f"{field}.{which}",
                    getattr(dataset, which),
                    f"{missing[0]} is no column; found {', '.join(columns)}.",
                    "Name columns of the rows.",
                )
            )
        make = adapters.of_columns(dataset.input_columns, dataset.target_column)
        return "columns", make, set(wanted)
    if dataset.target_column:
        raise DataError(
            Problem(
                f"{field}.target_column",
                dataset.target_column,
                "stands without input_columns, so there is no prompt.",
                "Name them, or write a completion_template.",
            )
        )
    if dataset.dataset_type in ("auto", "seq_completion"):
        return None
    function = registry.datasets.get(dataset.dataset_type)
    return dataset.dataset_type, adapters.of_function(function), set()


def _unknown(columns: list[str], field: str) -> Problem:
    found = ", ".join(f'"{name}"' for name in columns)
    pair = f'{{"prompt": "{columns[0]}", "completion": "{columns[-1]}"}}' if columns else "{…}"
    return Problem(
        field,
        None,
        f'no "prompt" and "completion", no "messages" and no "text"; found {found}.',
        f"Write prompt_template and completion_template, or map columns: columns={pair}.",
    )


def _made(
    make: Callable[[Mapping[str, Any]], Example],
    row: Mapping[str, Any],
    number: int,
    field: str,
) -> Example:
    """Make the example of a row, or say what is wrong with it."""
    try:
        return make(row)
    except RowError as error:
        raise DataError(Problem(field, None, f"row {number:,}: {error.why}", error.fix)) from None


_Renderer = tuple[Render, set[str]]  # the function, and the columns that it is known to use


def _renderers(
    dataset: Dataset, columns: list[str], field: str, folder: Path | None
) -> tuple[_Renderer | None, _Renderer | None]:
    """Return what makes prompt and completion where the config says it; else (None, None)."""
    ready = READY.get(dataset.dataset_name or "") if dataset.path is None else None
    names = [f"{part}_{kind}" for part in ("prompt", "completion") for kind in ("template", "func")]
    if not ready and all(getattr(dataset, name) is None for name in names):
        return None, None
    made: dict[str, _Renderer | None] = {}
    problems: list[str | Problem] = []
    for part in ("prompt", "completion"):
        template = getattr(dataset, f"{part}_template")
        function = getattr(dataset, f"{part}_func")
        if template is not None and function is not None:
            problems.append(
                Problem(
                    f"{field}.{part}_template",
                    template,
                    f"stands beside {part}_func={function!r}.",
                    "Keep one of the two.",
                    {f"{field}.{part}_func": None},
                )
            )
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
                made[part] = (lambda row, part=part: _text(row[part]), {part})  # type: ignore[misc]
            else:
                made[part] = None
        except DataError as error:
            problems += error.problems
    if not problems and (made["prompt"] is None) != (made["completion"] is None):
        have, lack = ("prompt", "completion") if made["prompt"] else ("completion", "prompt")
        problems.append(
            Problem(
                f"{field}.{lack}_template",
                None,
                f"is missing, while {have}_template or {have}_func is given.",
                f"Write one; the columns are {', '.join(columns)}.",
            )
        )
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
        DataError: A placeholder is no column, or a brace is not closed.
    """
    try:
        parsed = list(string.Formatter().parse(template))
    except ValueError:
        why = "has a brace that is not closed, or not opened."
        raise DataError(
            Problem(field, template, why, "Write {{ and }} for braces that are no column.")
        ) from None
    pieces: list[tuple[str, str | None]] = []
    problems: list[str | Problem] = []
    for text, name, spec, conversion in parsed:
        column = None
        if name is not None:
            column = name.strip().strip("'\"")
            if spec or conversion:
                more = f"{{{name}{'!' + conversion if conversion else ':' + (spec or '')}}}"
                fix = f"Write {{{column}}} alone, or {{{{ and }}}} for braces that are no column."
                problems.append(Problem(field, template, f"{more} is no column.", fix))
            elif column not in columns:
                problems.append(_no_column(name, column, template, columns, field))
        pieces.append((text, column))
    if problems:
        raise DataError(problems)
    if not any(column for _, column in pieces):
        raise DataError(
            Problem(
                field,
                template,
                "names no column, so every row would be the same.",
                f"Put a column in braces: {', '.join(f'{{{c}}}' for c in columns)}.",
            )
        )

    def render(row: Mapping[str, Any]) -> str:
        return "".join(text + (_text(row.get(col)) if col else "") for text, col in pieces)

    return render, {column for _, column in pieces if column}


def _no_column(written: str, name: str, template: str, columns: list[str], field: str) -> Problem:
    why = f"{{{name}}} is no column."
    if close := difflib.get_close_matches(name, columns, n=1, cutoff=0.5):
        mended = template.replace(f"{{{written}}}", f"{{{close[0]}}}")
        return Problem(field, template, why, f"Did you mean {{{close[0]}}}?", {field: mended})
    fix = f"The columns are {', '.join(columns)}."
    if "\n" in name or " " in name:
        fix = "Write {{ and }} for braces that are no column."
    return Problem(field, template, why, fix)


def load_function(written: str, field: str, folder: Path | None) -> Render:
    """Import a function written as path/to/file:function or package.module:function.

    Args:
        written: The text of the setting.
        field: Name of the setting, for messages.
        folder: Folder of the config; a file is looked for there first, then here.

    Raises:
        DataError: There is no such file, module or function, or importing it fails.
    """
    where, colon, name = written.rpartition(":")
    if not colon or not where or not name:
        raise DataError(
            Problem(field, written, "names no function.", "Write path/to/file:function.")
        )
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
        reason = f"{type(error).__name__}: {error}"
        why = f"{where} could not be imported ({reason})."
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
        text = render(dict(row))  # a function may change its row, which others read too
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


def _text(value: Any) -> str:
    return "" if value is None else str(value)


@dataclass
class _Held:
    """What a column holds in the rows that were looked at.

    Attributes:
        of: How many they are.
        rows: How many have it.
        first_without: The first that has not, counted from 1; 0 when all have it.
        kinds: By kind of value, how many there are and the first row that holds one.
    """

    of: int
    rows: int = 0
    first_without: int = 0
    kinds: dict[str, list[int]] = dataclasses.field(default_factory=dict)


def _held(rows: Rows, numbers: Sequence[int]) -> dict[str, _Held]:
    """Return what each column holds, in the order of the first row that has it.

    Args:
        rows: The rows, each of which is read once.
        numbers: Those to look at.
    """
    found: dict[str, _Held] = {}
    for place, number in enumerate(numbers):
        row = rows[number]
        for name, value in row.items():
            column = found.get(name)
            if column is None:
                first_without = numbers[0] + 1 if place else 0
                column = found[name] = _Held(len(numbers), first_without=first_without)
            column.rows += 1
            if value is not None:
                kind = _KINDS.get(type(value), "objects")
                column.kinds.setdefault(kind, [0, number + 1])[0] += 1
        if len(row) < len(found):
            for name in found.keys() - row.keys():
                found[name].first_without = found[name].first_without or number + 1
    return found


def _same_types(columns: Mapping[str, _Held], field: str) -> None:
    """Refuse a column that is text in some rows and something else in others.

    Args:
        columns: The columns that matter.
        field: Name of the dataset, for messages.
    """
    problems: list[str | Problem] = []
    for name, held in columns.items():
        if held.rows < held.of:
            problems.append(
                Problem(
                    field,
                    None,
                    f'{held.of - held.rows:,} of {held.of:,} rows have no "{name}" (the first is '
                    f"row {held.first_without:,}).",
                    "Add it, or leave those rows out.",
                )
            )
        if len(held.kinds) > 1:
            parts = [
                f"{rows:,} {kind} (first in row {first:,})"
                for kind, (rows, first) in held.kinds.items()
            ]
            problems.append(
                Problem(
                    field,
                    None,
                    f'column "{name}" mixes {" and ".join(parts)}.',
                    "Make it one type in all rows.",
                )
            )
    if problems:
        raise DataError(problems)


_KINDS = {str: "texts", bool: "booleans", int: "numbers", float: "numbers", list: "lists"}
