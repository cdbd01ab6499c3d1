"""From rows to examples: what is the prompt and what is trained on.

An `Example` is a prompt and a completion, or chat messages. It comes from templates or functions,
from a bundled sample's own template, or from the format of the rows (`formats`). Nothing here loads a
model. Called by `tokens`, `nbft.plan`, the lens, the doctor and the form.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import hashlib
import importlib
import importlib.util
import itertools
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np

from nbft import registry
from nbft.config import Config
from nbft.config.code import function_code, is_forbidden
from nbft.config.data import Dataset, Split
from nbft.config.io import resolve
from nbft.data import adapters, chat, formats, roles
from nbft.data.cells import is_missing, to_text
from nbft.data.formats import Example
from nbft.data.holdout import is_held_out
from nbft.data.ready import READY
from nbft.data.rendering import Template, TokenizerTemplate
from nbft.data.sources import (
    Rows,
    content_keys,
    file_errors,
    load_rows,
    number_in_file,
    remarks_of,
    spread,
    stream_rows,
)
from nbft.data.tables import is_no_name
from nbft.data.templates import column_of, columns_named, parsed_template
from nbft.data.turns import RowError, text_of
from nbft.errors import DataError, Problem
from nbft.formatting import count, listed, one_line
from nbft.methods import SUITS, Method, method_of
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
        return _made(self.make, self.rows[row], number_in_file(self.rows, row), self.field)


class Examples(Sequence[Example]):
    """The examples of a split. Those of a large file are made when they are needed.

    Attributes:
        formats: Format of each dataset's rows: "template", "ShareGPT conversations", …
        recognised: Sentences on how rows were recognised.
        is_stream: Whether these are only the first rows of a stream.
        parts: The datasets that they come from.
        answers: For each, the turn of its only answer; -1 for all of the row. See `by_answer`.
    """

    def __init__(
        self,
        parts: list[Part],
        order: np.ndarray,
        recognised: Sequence[str] = (),
        *,
        is_stream: bool = False,
        answers: np.ndarray | None = None,
    ) -> None:
        self.parts, self._order = parts, order
        self.answers = np.full(len(order), -1) if answers is None else answers
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
        return chat.only_answer(self.parts[part].example(place), int(self.answers[number]))

    def __iter__(self) -> Iterator[Example]:
        parts = np.searchsorted(self._begins, self._order, side="right") - 1
        places = self._order - self._begins[parts]
        every = zip(parts.tolist(), places.tolist(), self.answers.tolist(), strict=True)
        for part, place, answer in every:
            yield chat.only_answer(self.parts[part].example(place), answer)

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
        return part, number_in_file(self.parts[part].rows, int(self.parts[part].numbers[place]))

    def take(self, numbers: np.ndarray) -> Examples:
        """Return some of the examples."""
        return Examples(
            self.parts,
            self._order[numbers],
            self.recognised,
            is_stream=self.is_stream,
            answers=self.answers[numbers],
        )

    def by_answer(self, template: Template) -> Examples:
        """Return one example for each answer of the conversations whose earlier turns change.

        Such a template writes, say, the reasoning of the last answer only. What the model reads
        before an answer then never stands before a later one, so each needs a sequence of its own.

        Args:
            template: The chat template.
        """
        firsts = (part.example(0) for part in self.parts if len(part.numbers))
        if not template.may_change or not any(first.messages for first in firsts):
            return self
        places = [
            places
            for begin in range(0, len(self), _CHUNK)
            for places in chat.split_answers(self[begin : begin + _CHUNK], template)
        ]
        if all(one == (-1,) for one in places):
            return self
        order = np.repeat(self._order, [len(one) for one in places])
        flat = np.fromiter(itertools.chain.from_iterable(places), int, len(order))
        return Examples(self.parts, order, self.recognised, is_stream=self.is_stream, answers=flat)

    def _place(self, number: int) -> tuple[int, int]:
        """Return the part that holds an example, and its number there."""
        place = int(self._order[number])
        part = int(np.searchsorted(self._begins, place, side="right")) - 1
        return part, place - int(self._begins[part])


def by_answer(examples: Examples, tokenizer: Any) -> tuple[Examples, list[str]]:
    """Return what `Examples.by_answer` returns, and a sentence where it made more examples.

    Args:
        examples: The examples.
        tokenizer: A transformers tokenizer; without a chat template nothing changes.
    """
    if not tokenizer.chat_template:
        return examples, []
    split_up = examples.by_answer(TokenizerTemplate(tokenizer))
    if split_up is examples:
        return examples, []
    return split_up, [in_words_by_answer(len(examples), len(split_up))]


def in_words_by_answer(conversations: int, examples: int, about: str = "") -> str:
    """Say that conversations became more examples, and why."""
    return (
        "The chat template writes earlier turns differently when the conversation goes on, such as "
        "without their reasoning. So each answer is an example of its own: "
        f"{conversations:,} rows become {about}{examples:,} examples."
    )


def load_examples(
    config: Config,
    split: str,
    *,
    folder: Path | None = None,
    is_strict: bool = True,
    tokenizer: Any = None,
) -> tuple[Examples, list[str]]:
    """Read a split and make its examples.

    Without validation datasets, rows are held out of the training rows: drawn by `training.seed` and
    by what they hold, so that the two never share a row. Both keep the order of the file. Datasets with a
    mixture_proportion are mixed after that.

    Args:
        config: The config.
        split: train, validation or test.
        folder: Folder of the config file, for relative paths.
        is_strict: Raise at a row that cannot be used; otherwise when it is asked for, unless none
            can be.
        tokenizer: A transformers tokenizer, for the examples that are tokenised with it; see
            `by_answer`. Without it each row is one.

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
            rows = _rows(config, section, dataset, name, folder, is_strict=is_strict)
            if not block.stream and dataset.sample_count and len(rows) < dataset.sample_count:
                remarks.append(
                    f"{name}.sample_count={dataset.sample_count}: there are only {len(rows):,} "
                    "rows; all are taken."
                )
            how = (dataset, name, folder, remarks)
            parts.append(_part(rows, method, *how, is_strict=is_strict))
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(problems)
    recognised = [f"{part.field}: {remark}" for part in parts for remark in remarks_of(part.rows)]
    recognised += [
        f"{part.field}: recognised as {known.name} ({count(len(part.numbers), 'row')}); "
        f"{method.trained_on(known.name) or known.trained_on}."
        for part in parts
        for known in (*formats.FORMATS, formats.PROMPT_ROWS)
        if part.format == known.name
    ]
    is_stream = block.stream and section == "train"
    order = _order(config, parts, split, section, is_stream=is_stream)
    examples = Examples(parts, order, recognised, is_stream=is_stream)
    if tokenizer is None:
        return examples, remarks
    examples, split_up = by_answer(examples, tokenizer)
    return examples, remarks + split_up


def examples(config: Config, split: str = "train", *, folder: Path | None = None) -> Examples:
    """Return the rows of a split as the model is trained on them.

    Args:
        config: The config.
        split: train, validation (the held-out rows) or test.
        folder: Folder of the config file, for relative paths.

    Returns:
        A sequence of examples with `prompt` and `completion`, or `messages`; its `row(n)` is the
        row that example n was made of.

    Raises:
        DataError: There is no such split, or its rows cannot be read.
    """
    if split not in ("train", "validation", "test"):
        raise DataError(Problem("split", split, "is no split.", "Use train, validation or test."))
    return load_examples(config, split, folder=folder)[0]


def make_example(part: Part, row: Mapping[str, Any], field: str) -> Example:
    """Return the example of one more row; columns that it lacks, such as the answer, are empty.

    Args:
        part: The dataset whose templates, or whose recognised format, apply.
        row: The row.
        field: Its name, for messages.

    Raises:
        DataError: The row has none of the dataset's columns, or cannot become an example.
    """
    columns = list(part.rows[int(part.numbers[0])])
    if not set(row) & set(columns):
        why = f"has none of the columns of {part.field}: {', '.join(columns)}."
        raise DataError(Problem(field, dict(row), why, "Name them as there."))
    return _made(part.make, {**dict.fromkeys(columns, ""), **row}, None, field)


def held_out(config: Config, train: Examples) -> Examples:
    """Return what `load_examples` returns for validation, without reading the rows again.

    Args:
        config: A config without validation datasets.
        train: Its training examples.
    """
    order = _order(config, train.parts, "validation", "train", is_stream=train.is_stream)
    return Examples(train.parts, order, train.recognised, is_stream=train.is_stream)


def _rows(
    config: Config,
    section: str,
    dataset: Dataset,
    field: str,
    folder: Path | None,
    *,
    is_strict: bool = True,
) -> Rows:
    seed = config.training.seed
    if not config.data.splits()[section].stream:
        return load_rows(dataset, section, field, seed=seed, folder=folder, is_strict=is_strict)
    most = STREAM_ROWS if section == "train" else dataset.sample_count
    where = (f"{field}.path", dataset.path)
    try:
        with file_errors(*where):
            stream = stream_rows(dataset, section, field, folder=folder)
            rows = list(itertools.islice(stream, most))
    except ValueError as error:
        fix = getattr(error, "fix", "Fix it.")
        raise DataError(Problem(*where, str(error), fix)) from None
    if not rows:
        raise DataError(Problem(*where, "holds no rows.", "Name another."))
    return rows


def _order(
    config: Config, parts: list[Part], split: str, section: str, *, is_stream: bool
) -> np.ndarray:
    """Return which examples of all parts belong to a split, in order."""
    lengths = [len(part.numbers) for part in parts]
    order = np.arange(sum(lengths))
    ratio, is_whole = config.data.split_ratio, config.data.validation is not None or is_stream
    if section == "train" and not is_whole:
        keys = [
            content_keys(part.rows, part.numbers) if ratio < 1 else part.numbers for part in parts
        ]
        held = is_held_out(np.concatenate(keys), ratio, config.training.seed)
        order = np.flatnonzero(held == (split != "train"))
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
        if keeps is None or _is_kept(keeps, row):
            yield {"set": dataset, "number": number, "row": row}


def _why_not(rows: Rows, number: int) -> Sequence[str | Problem]:
    """Return why a row of a file cannot be read; nothing if it can."""
    try:
        rows[number]
    except DataError as error:
        return error.problems
    return ()


def _typed(make: Make, needed: Mapping[str, _Content]) -> Make:
    """Return a function that refuses a row without a column, or with another type than most rows."""
    usual = {
        name: max(content.kinds, key=lambda kind: content.kinds[kind][0], default="")
        for name, content in needed.items()
    }

    def typed(row: Mapping[str, Any]) -> Example:
        for name, kind in usual.items():
            if name not in row:
                raise RowError(f'has no "{name}".', "Add it, or leave the row out.")
            own = _KINDS.get(type(row[name]), "objects")
            if own != kind and not is_missing(row[name]):
                why = f'has {own} in "{name}", where most rows have {kind}.'
                raise RowError(why, "Make it one type in all rows.")
        return make(row)

    return typed


def _check_kinds(make: Make, rows: Sequence[Mapping[str, Any]], method: Method, field: str) -> None:
    """Refuse rows of which none holds what the method trains on; single ones are refused later."""
    kinds: list[Kind] = []
    for row in rows:
        with contextlib.suppress(RowError):
            kinds.append(make(row).kind)
    if kinds and method.accepts.isdisjoint(kinds):
        raise DataError(_refused_kind(kinds[0], method, field))


def _refused_kind(kind: Kind, method: Method, field: str) -> Problem:
    return Problem(field, None, *method.refusal(kind), {"training.method": SUITS[kind]})


def _accepted(make: Make, method: Method) -> Make:
    """Return a function that refuses a row that does not hold what the method trains on."""

    def accepted(row: Mapping[str, Any]) -> Example:
        example = make(row)
        if example.kind not in method.accepts:
            raise RowError(*method.refusal(example.kind, of_one=True))
        return example

    return accepted


_PROBLEMS_SHOWN = 10
_ROWS_GUESSED_FROM = 50


def _is_kept(keeps: Callable[[Mapping[str, Any]], bool], row: Mapping[str, Any]) -> bool:
    """Whether a row is trained on; one that cannot be judged is kept, and refused by its number."""
    try:
        return keeps(row)
    except RowError:
        return True


def preview(config: Config, rows: int = 3, *, folder: Path | None = None) -> list[dict[str, str]]:
    """Return the first training rows as {"prompt", "completion"}, as they will be trained on.

    Raises:
        DataError: As `load_examples`.
    """
    examples, _ = load_examples(config, "train", folder=folder)
    shown = []
    for example in examples[:rows]:
        if example.messages:
            turns = [f"{m['role']}: {text_of(m)}" for m in example.messages]
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
    *,
    is_strict: bool = True,
) -> Part:
    """Determine the format of a dataset's rows, and check a sample of them."""
    checked = spread(len(rows), ROWS_CHECKED).tolist()
    broken = {} if is_strict else {n: why for n in checked if (why := _why_not(rows, n))}
    readable = [n for n in checked if n not in broken]
    contents = _contents(rows, readable or checked)
    columns = list(getattr(rows, "column_names", contents))
    numbers, keeps = np.arange(len(rows)), None
    known = formats.recognise(columns, rows[readable[0]]) if readable else None
    if known is None and method.generates and formats.PROMPT_ROWS.fits(columns, {}):
        known = formats.PROMPT_ROWS
    if way := _configured(dataset, columns, field, folder, is_answered=not method.generates):
        name, make, texts = way
    elif known:
        texts, name, make = {*known.texts} & {*columns}, known.name, known.make
        keeps = None if method.uses_labels else known.label
        if keeps is not None:
            if is_strict:
                kept = [_is_kept(keeps, row) for row in rows]
            else:
                kept = [
                    bool(_why_not(rows, n)) or _is_kept(keeps, rows[n]) for n in numbers.tolist()
                ]
            numbers = np.flatnonzero(np.array(kept, bool))
            if dropped := len(rows) - len(numbers):
                remarks.append(
                    f"{field}: {dropped:,} of {len(rows):,} rows are left out: they are "
                    "labelled as bad answers."
                )
            checked = numbers[spread(len(numbers), ROWS_CHECKED)].tolist()
        elif "label" in columns and not method.uses_labels:
            remarks.append(
                f'{field}: the column "label" holds {rows[readable[0]].get("label")!r}, not true or false; it '
                "is taken for something else than a judgement, and all rows are trained on."
            )
    else:
        of_rows = [problem for why in [*broken.values()][:_PROBLEMS_SHOWN] for problem in why]
        few = [rows[n] for n in (readable or checked)[:_ROWS_GUESSED_FROM]]
        raise DataError([_unknown(dataset, columns, few, field), *of_rows])
    make = adapters.in_turns(dataset, make)
    if method.uses_labels:
        _check_kinds(
            make,
            [rows[n] for n in checked[:_ROWS_GUESSED_FROM] if not _why_not(rows, n)],
            method,
            field,
        )
        make = _accepted(make, method)
    needed = {name: contents[name] for name in sorted(texts) if name in contents}
    if is_strict:
        _check_types(needed, field)
    else:
        make = _typed(make, needed)
    made: list[Example] | None = [] if len(checked) == len(numbers) else None
    empty, kind, has_turns = 0, None, False
    refused: list[DataError] = []
    for n in checked:
        try:
            example = _made(make, rows[n], number_in_file(rows, n), field)
        except DataError as error:
            refused.append(error)
            if is_strict or len(refused) == len(checked):
                raise
            made = None
            continue
        kind = kind or example.kind
        has_turns |= bool(example.messages)
        empty += not example.messages and not example.completion.strip()
        if made is not None:  # of a large file no examples are held
            made.append(example)
    if kind is not None and kind not in method.accepts:
        raise DataError(_refused_kind(kind, method, field))
    if method.generates:
        empty = 0  # the model writes the answers
    if empty == len(checked) and is_strict:
        why = f"gives nothing to train on in any of the {empty:,} rows."
        fix = "Name the column that holds the answer."
        setting = f"{field}.completion_template"
        raise DataError(Problem(setting, dataset.completion_template, why, fix))
    if empty:
        remarks.append(
            f"{field}: {empty:,} of {len(checked):,} rows have an empty completion; they teach the "
            "model to say nothing."
        )
    for setting, why in _unused(dataset, has_turns=has_turns):
        remarks.append(
            f"{field}.{setting}={getattr(dataset, setting)!r}: is not used, since {why}."
        )
    return Part(rows, numbers, make, field, name, kind or "pair", made, keeps)


def _unused(dataset: Dataset, *, has_turns: bool) -> Iterator[tuple[str, str]]:
    """Yield the settings that say nothing about rows of this kind, with the reason."""
    is_templated, default = _has_templates(dataset), Dataset()
    no_turns = "the rows are no conversations. With dataset_type=chat_completion they become some"
    reasons = {
        "no_input_template": ""
        if dataset.prompt_template is not None
        else "there is no prompt_template",
        "system_template": "" if is_templated else "there is no prompt_template",
        "system_prompt": "" if is_templated or has_turns else no_turns,
        **dict.fromkeys(_OF_TURNS, "" if has_turns else no_turns),
    }
    for name, reason in reasons.items():
        if reason and getattr(dataset, name) != getattr(default, name):
            yield name, reason


_OF_TURNS = ("history_column", "message_property_mappings", "roles", "train_target")


_Way = tuple[str, Make, set[str]]  # name, how an example is made, columns that it needs


def _configured(
    dataset: Dataset, columns: list[str], field: str, folder: Path | None, *, is_answered: bool
) -> _Way | None:
    """Return how examples are made where the config determines it, or None."""
    if way := _named_way(dataset, columns, field):
        return way
    prompt, completion = _renderers(dataset, columns, field, folder, is_answered=is_answered)
    if not prompt or not completion:
        return None
    make = adapters.of_templates(
        dataset,
        _system(dataset, columns, field),
        functools.partial(_called, prompt[0]),
        functools.partial(_called, completion[0]),
    )
    return "template", make, prompt[1] | completion[1]


def _has_templates(dataset: Dataset) -> bool:
    names = (f"{part}_{kind}" for part in ("prompt", "completion") for kind in ("template", "func"))
    return any(getattr(dataset, name) is not None for name in names)


def _system(dataset: Dataset, columns: Sequence[str], field: str) -> Render:
    """Return the function from a row to its system prompt; "" for a row without one."""
    template, usual = dataset.system_template, dataset.system_prompt or ""
    if not template:
        return lambda row: usual
    used = columns_named(template)
    known, setting = [*columns, *used], f"{field}.system_template"
    render, _ = template_renderer(template, known, setting, is_constant=True)

    def system(row: Mapping[str, Any]) -> str:
        given = {name: to_text(row.get(name)) or usual for name in used}
        return render(given) if all(given.values()) else ""

    return system


def _prompt_template(dataset: Dataset, columns: list[str], field: str) -> _Renderer:
    """Return what fills the prompt: with the template for rows without an input, where there is one."""
    assert dataset.prompt_template is not None
    whole, short = dataset.prompt_template, dataset.no_input_template
    if not whole and short is None:
        return (lambda row: "", set())  # all of the row's text is the completion
    if short is None:
        return template_renderer(whole, columns, f"{field}.prompt_template")
    setting = f"{field}.no_input_template"
    without, names = template_renderer(short, columns, setting, is_constant=True)
    render, _ = template_renderer(whole, [*columns, "input"], f"{field}.prompt_template")
    return (lambda row: (render if to_text(row.get("input")) else without)(row)), names


def _named_way(dataset: Dataset, columns: list[str], field: str) -> _Way | None:
    """Return how examples are made where dataset_type or input_columns determine it."""
    target = dataset.target_column
    if dataset.input_columns:
        wanted = [*dataset.input_columns, *([target] if target else [])]
        if missing := [name for name in wanted if name not in columns]:
            which = "target_column" if missing[0] == target else "input_columns"
            why = f"{missing[0]} is not a column; found {listed(columns)}."
            fix = "Name columns of the rows."
            raise DataError(Problem(f"{field}.{which}", getattr(dataset, which), why, fix))
        return "columns", adapters.of_columns(dataset.input_columns, target), set(wanted)
    if target:
        why = "is set without input_columns, so there is no prompt."
        fix = "Name them, or write a completion_template."
        raise DataError(Problem(f"{field}.target_column", target, why, fix))
    is_templated = dataset.dataset_type == "chat_completion" and _has_templates(dataset)
    if dataset.dataset_type in ("auto", "seq_completion") or is_templated:
        return None
    function = registry.datasets.get(dataset.dataset_type)
    return dataset.dataset_type, adapters.of_function(function), set()


def _unknown(dataset: Dataset, columns: list[str], few: Rows, field: str) -> Problem:
    """Say that rows are of no known format, and what their columns may be."""
    names = listed([f'"{name}"' for name in columns])
    why = f"nothing says which column is the prompt, and which the answer; found {names}."
    if odd := next(filter(is_no_name, columns), None):
        why += f" If “{one_line(odd, 40)}” is no name but data, put a row with names above it."
    picked, _ = roles.guess(columns, few)
    fix = "Write prompt_template and completion_template, with names of columns in braces."
    changes = roles.changes_of(picked, dataset, columns)
    if dataset.columns and not changes.get("columns"):
        changes.pop("columns")  # these names are those that it gives
    if not picked.is_whole or (dataset.columns and "columns" in changes):
        return Problem(field, None, why, fix)
    shown = {name: changes[name] for name in changes if name != "no_input_template"}
    return Problem(
        field,
        None,
        why,
        f"If {picked}, use {_assigned(shown)}.",
        {f"{field}.{name}": value for name, value in changes.items()},
    )


def _assigned(changes: Mapping[str, Any]) -> str:
    """Return settings as a person writes them: a=1 and b=2."""
    return " and ".join(f"{name}={value!r}" for name, value in changes.items())


def _made(make: Make, row: Mapping[str, Any], number: int | None, field: str) -> Example:
    """Make the example of a row; number it in errors, where it has a number."""
    try:
        example = make(row)
        _check_characters(example)
    except RowError as error:
        place = "" if number is None else f"row {number:,}: "
        raise DataError(Problem(field, None, f"{place}{error.why}", error.fix)) from None
    return example


def _check_characters(example: Example) -> None:
    """Raise where a text holds half a character, which no tokenizer takes."""
    for text in (example.prompt, example.completion, *map(text_of, example.messages)):
        if text.isascii():
            continue
        try:
            text.encode()
        except UnicodeEncodeError as error:
            half, place = text[error.start], error.start + 1
            raise RowError(
                f"has half a character (\\u{ord(half):04x}) at place {place:,} of a text.",
                "Write the whole character, or remove the half; it is often an emoji cut in two.",
            ) from None


_Renderer = tuple[Render, set[str]]  # the function, and the columns that it is known to use


def _renderers(
    dataset: Dataset, columns: list[str], field: str, folder: Path | None, *, is_answered: bool
) -> tuple[_Renderer | None, _Renderer | None]:
    """Return what makes prompt and completion where the config names it; else (None, None)."""
    ready = READY.get(dataset.dataset_name or "") if dataset.path is None else None
    if not ready and not _has_templates(dataset):
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
            if part == "prompt" and dataset.prompt_template is not None and function is None:
                made[part] = _prompt_template(dataset, columns, field)
            elif template is not None:
                made[part] = template_renderer(template, columns, f"{field}.{part}_template")
            elif function is not None:
                made[part] = (
                    load_function(function, f"{field}.{part}_func", folder, is_own=dataset._is_own),
                    set(),
                )
            elif part in columns:
                made[part] = (lambda row, part=part: to_text(row[part]), {part})  # type: ignore[misc]
        except DataError as error:
            problems += error.problems
    if not is_answered and made["completion"] is None:
        made["completion"] = (lambda row: "", set())
    if not problems and (made["prompt"] is None) != (made["completion"] is None):
        have, lack = ("prompt", "completion") if made["prompt"] else ("completion", "prompt")
        why = f"is missing, while {have}_template or {have}_func is given."
        fix = f"Write one; the columns are {listed(columns)}."
        problems.append(Problem(f"{field}.{lack}_template", None, why, fix))
    if problems:
        raise DataError(problems)
    return made["prompt"], made["completion"]


def template_renderer(
    template: str, columns: list[str], field: str, *, is_constant: bool = False
) -> _Renderer:
    """Return the function that fills a template from a row, and the columns it uses.

    Args:
        template: Text with columns in braces, plain or quoted: {question}, {'question'}; {{ and }}
            for braces.
        columns: The columns there are.
        field: Name of the setting, for messages.
        is_constant: Whether it may be the same for every row.

    Raises:
        DataError: A placeholder is not a column, or a brace is not closed.
    """
    try:
        parsed = list(parsed_template(template))
    except ValueError:
        why = "has a brace that is not closed, or not opened."
        if closed := _closed(template, columns):
            fix, changes = f"Did you mean {closed!r}?", {field: closed}
        else:
            fix, changes = _LITERAL_BRACES, {}
        raise DataError(Problem(field, template, why, fix, changes)) from None
    pieces: list[tuple[str, str | None]] = []
    problems: list[str | Problem] = []
    for text, name in parsed:
        column = None if name is None else column_of(name)
        if name is not None and column is not None and column not in columns:
            plain, is_formatted, _ = re.split(r"([:!]|$)", column, maxsplit=1)
            if is_formatted and plain in columns:
                fix = f"Write {{{plain}}} alone, or {{{{ and }}}} for literal braces."
                why = f"{{{name}}} is not a column."
                problems.append(Problem(field, template, why, fix))
            else:
                problems.append(_no_column(name, column, template, columns, field))
        pieces.append((text, column))
    if problems:
        raise DataError(problems)
    if not is_constant and not any(column for _, column in pieces):
        why = "names no column, so every row would be the same."
        fix = f"Put a column in braces: {listed([f'{{{c}}}' for c in columns])}."
        raise DataError(Problem(field, template, why, fix))

    def render(row: Mapping[str, Any]) -> str:
        return "".join(text + (to_text(row.get(col)) if col else "") for text, col in pieces)

    return render, {column for _, column in pieces if column}


_LITERAL_BRACES = "Write {{ and }} for literal braces."


def _no_column(written: str, name: str, template: str, columns: list[str], field: str) -> Problem:
    """Say that a template names no column, with the nearest one, or the one of the same role."""
    why = f"{{{name}}} is not a column."
    is_prose = "\n" in name or " " in name
    close = difflib.get_close_matches(name, columns, n=1, cutoff=0.5)
    if not close and not is_prose:
        close = [likely] if (likely := roles.same_role(name, columns)) else []
    if close:
        fixed = template.replace(f"{{{written}}}", f"{{{close[0]}}}")
        return Problem(field, template, why, f"Did you mean {{{close[0]}}}?", {field: fixed})
    fix = _LITERAL_BRACES if is_prose else f"The columns are {listed(columns)}."
    return Problem(field, template, why, fix)


def _closed(template: str, columns: Sequence[str]) -> str | None:
    """Return a template whose braces around names of columns are closed, if that makes it right."""
    names = "|".join(map(re.escape, sorted(columns, key=len, reverse=True)))
    opened = re.sub(rf"(?<!\{{)\b({names})\}}", r"{\1}", template)
    closed = re.sub(rf"\{{({names})(?!\w|\}})", r"{\1}", opened)
    try:
        named = [name for _, name in parsed_template(closed) if name is not None]
    except ValueError:
        return None
    return closed if named and all(name in columns for name in named) else None


def load_function(written: str, field: str, folder: Path | None, *, is_own: bool = False) -> Render:
    """Import a function written as path/to/file:function or package.module:function.

    Args:
        written: Value of the setting.
        field: Name of the setting, for messages.
        folder: Folder of the config, where a file is looked for first; then the working folder.
        is_own: Whether the config was made in this session by a person's own code.

    Raises:
        DataError: There is no such file, module or function, importing it fails, or nobody has
            consented to running it.
    """
    where, colon, name = written.rpartition(":")
    if not colon or not where or not name:
        fix = "Write path/to/file:function."
        raise DataError(Problem(field, written, "names no function.", fix))
    code = function_code(written, field, folder, is_own=is_own)
    if code is not None and is_forbidden(code, is_own=is_own):
        raise DataError(code.problem)
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
            f"The row has the columns {listed([*row])}.",
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
    for place, index in enumerate(numbers):
        row, number = rows[index], number_in_file(rows, index)
        for name, value in row.items():
            column = columns.get(name)
            if column is None:
                first_without = number_in_file(rows, numbers[0]) if place else 0
                column = columns[name] = _Content(len(numbers), first_without=first_without)
            column.rows += 1
            if not is_missing(value):
                kind = _KINDS.get(type(value), "objects")
                column.kinds.setdefault(kind, [0, number])[0] += 1
        if len(row) < len(columns):
            for name in columns.keys() - row.keys():
                columns[name].first_without = columns[name].first_without or number
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


_CHUNK = 1000
_KINDS = {str: "texts", bool: "booleans", int: "numbers", float: "numbers", list: "lists"}
