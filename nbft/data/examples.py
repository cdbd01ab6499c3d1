"""From rows to examples: what is prompt and what is to be learnt.

An `Example` is text in pieces, each to be learnt or not. Pieces come from templates or functions,
from `prompt` and `completion` columns, from chat `messages`, or from `text`. Nothing here loads a
model; chat messages wait for the tokenizer's template. Called by `tokens`, `nbft.plan` and the
form.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import importlib.util
import string
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbft.config import Config
from nbft.config.data import Dataset
from nbft.data.ready import READY
from nbft.data.sources import Rows, columns_of, load_rows, resolve
from nbft.errors import DataError, Problem

Render = Callable[[Mapping[str, Any]], str]


@dataclass(frozen=True)
class Example:
    """What one row gives.

    Attributes:
        prompt: Text that the model is given; "" for plain text.
        completion: Text that it learns to answer with.
        messages: Chat turns instead of both, for the model's chat template; () otherwise.
    """

    prompt: str = ""
    completion: str = ""
    messages: tuple[Mapping[str, str], ...] = ()


def load_examples(
    config: Config, split: str, *, folder: Path | None = None
) -> tuple[list[Example], list[str]]:
    """Read a split and make its examples.

    Where no validation rows are named, rows drawn by `training.seed` are held out of the training
    rows, so that the two never share a row; both keep the order of the file.

    Args:
        config: The config.
        split: "train" or "validation".
        folder: Folder of the config file, for relative paths.

    Returns:
        The examples, and sentences about what a person should know (empty completions, …).

    Raises:
        DataError: Every problem found in the files and templates of the split.
    """
    named = split == "train" or config.data.validation is not None
    source = config.data.train if split == "train" or not named else config.data.validation
    assert source is not None
    section = f"data.{'train' if not named else split}"
    if not source.datasets:
        raise DataError(
            Problem(
                f"{section}.datasets",
                None,
                "names no rows.",
                f"Give a path or a dataset_name, for example {section}.datasets[0].dataset_name="
                "alpaca.",
            )
        )
    examples: list[Example] = []
    problems: list[str | Problem] = []
    remarks: list[str] = []
    for number, dataset in enumerate(source.datasets):
        field = f"{section}.datasets[{number}]"
        try:
            rows = load_rows(
                dataset, section.split(".")[1], field, seed=config.training.seed, folder=folder
            )
            if dataset.sample_count and len(rows) < dataset.sample_count:
                remarks.append(
                    f"{field}.sample_count={dataset.sample_count}: there are only {len(rows):,} "
                    "rows; all are taken."
                )
            examples += _examples(rows, dataset, field, folder, remarks)
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(problems)
    if config.data.validation is None:
        examples = _share(examples, config, split)
    return examples, remarks


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


def _share(examples: list[Example], config: Config, split: str) -> list[Example]:
    """Return the part of all examples that a split gets when the other is cut from it."""
    import random

    numbers = list(range(len(examples)))
    random.Random(config.training.seed).shuffle(numbers)
    held_out = round(len(numbers) * (1 - config.data.split_ratio))
    if config.data.split_ratio < 1 and len(numbers) > 1:
        held_out = min(max(held_out, 1), len(numbers) - 1)
    cut = len(numbers) - held_out
    return [examples[n] for n in sorted(numbers[:cut] if split == "train" else numbers[cut:])]


def _examples(
    rows: Rows, dataset: Dataset, field: str, folder: Path | None, remarks: list[str]
) -> list[Example]:
    columns = columns_of(rows)
    prompt, completion = _renderers(dataset, columns, field, folder)
    if prompt and completion:
        _same_types(rows, prompt[1] | completion[1], field)
        examples = [
            Example(_call(prompt[0], row, n, field), _call(completion[0], row, n, field))
            for n, row in enumerate(rows, start=1)
        ]
    elif "messages" in columns:
        examples = [Example(messages=_turns(row, n, field)) for n, row in enumerate(rows, start=1)]
    elif "text" in columns:
        _same_types(rows, {"text"}, field)
        examples = [Example(completion=_text(row["text"])) for row in rows]
    else:
        found = ", ".join(f'"{name}"' for name in columns)
        pair = f'{{"prompt": "{columns[0]}", "completion": "{columns[-1]}"}}' if columns else "{…}"
        raise DataError(
            Problem(
                field,
                None,
                f'no "prompt" and "completion", no "messages" and no "text"; found {found}.',
                f"Write prompt_template and completion_template, or map columns: columns={pair}.",
            )
        )
    empty = sum(1 for e in examples if not e.messages and not e.completion.strip())
    if empty == len(examples):
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
            f"{field}: {empty:,} of {len(examples):,} rows have an empty completion; they teach the "
            "model to say nothing."
        )
    return examples


_Renderer = tuple[Render, set[str]]  # the function, and the columns that it is known to use


def _renderers(
    dataset: Dataset, columns: list[str], field: str, folder: Path | None
) -> tuple[_Renderer | None, _Renderer | None]:
    ready = READY.get(dataset.dataset_name or "") if dataset.path is None else None
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
        if getattr(dataset, f"{have}_template") or getattr(dataset, f"{have}_func"):
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
    except ValueError as error:
        why = f"{str(error).rstrip('.').lower()}."
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


def _call(render: Render, row: Mapping[str, Any], number: int, field: str) -> str:
    try:
        text = render(row)
    except Exception as error:
        raise DataError(
            Problem(
                field,
                None,
                f"row {number}: the prompt or completion function failed with "
                f"{type(error).__name__}: {error}.",
                f"The row has the columns {', '.join(row)}.",
            )
        ) from None
    if not isinstance(text, str):
        raise DataError(
            Problem(
                field,
                None,
                f"row {number}: the prompt or completion function returned "
                f"{type(text).__name__}, not text.",
                "Return a string.",
            )
        )
    return text


def _text(value: Any) -> str:
    return "" if value is None else str(value)


def _same_types(rows: Rows, columns: set[str], field: str) -> None:
    """Refuse a column that is text in some rows and something else in others."""
    problems: list[str | Problem] = []
    for column in sorted(columns):
        kinds: dict[str, list[int]] = {}
        missing = []
        for number, row in enumerate(rows, start=1):
            if column not in row:
                missing.append(number)
            elif (value := row[column]) is not None:
                kinds.setdefault(_KINDS.get(type(value), "objects"), []).append(number)
        if missing and len(missing) < len(rows):
            problems.append(
                Problem(
                    field,
                    None,
                    f'{len(missing):,} of {len(rows):,} rows have no "{column}" (the first is row '
                    f"{missing[0]:,}).",
                    "Add it, or leave those rows out.",
                )
            )
        if len(kinds) > 1:
            parts = [f"{len(n):,} {kind} (first in row {n[0]:,})" for kind, n in kinds.items()]
            problems.append(
                Problem(
                    field,
                    None,
                    f'column "{column}" mixes {" and ".join(parts)}.',
                    "Make it one type in all rows.",
                )
            )
    if problems:
        raise DataError(problems)


_KINDS = {str: "texts", bool: "booleans", int: "numbers", float: "numbers", list: "lists"}


def _turns(row: Mapping[str, Any], number: int, field: str) -> tuple[Mapping[str, str], ...]:
    messages = row.get("messages")
    good = isinstance(messages, list) and all(
        isinstance(m, Mapping) and isinstance(m.get("content"), str) and m.get("role")
        for m in messages
    )
    if not good:
        raise DataError(
            Problem(
                field,
                None,
                f'row {number}: "messages" is not a list of turns with role and content.',
                'Write [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}].',
            )
        )
    if not any(m["role"] == "assistant" for m in messages):  # type: ignore[union-attr]
        raise DataError(
            Problem(
                field,
                None,
                f'row {number}: no message has the role "assistant", so nothing would be learnt.',
                "Add the answer.",
            )
        )
    return tuple({"role": m["role"], "content": m["content"]} for m in messages)  # type: ignore[union-attr]
