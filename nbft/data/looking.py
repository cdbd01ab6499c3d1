"""What the rows of a dataset are, at a glance: their columns, how they are read, and the first ones.

Called by the form, whose lists of columns show it, and by the wizard.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nbft.config import Config
from nbft.config.data import Dataset
from nbft.config.io import resolve
from nbft.data import formats, roles
from nbft.data.examples import load_examples, preview
from nbft.data.roles import Roles
from nbft.data.sources import columns_of, load_rows, remarks_of, spread
from nbft.data.tables import sheets_of
from nbft.errors import DataError
from nbft.formatting import count, listed
from nbft.methods import method_of

ROWS_SHOWN = 3
"""How many rows are shown as the model sees them."""

_ROWS_LOOKED_AT = 50
_COLUMNS_SAID = 8


@dataclass(frozen=True)
class Look:
    """What the rows of a dataset are.

    Attributes:
        called: What people call the rows.
        total: How many there are.
        columns: The names of their columns.
        first: The first of them.
        format: How they are read, in words; "" if that is not known.
        examples: The first rows as the model sees them.
        roles: The roles of the columns: as set, else as guessed.
        is_set: Whether the settings give the roles.
        is_sure: Whether the names of the columns leave no doubt about a guess.
        unused: A column with text or a label that is left out where all of another one is trained
            on; "" if there is none.
        remarks: Sentences on how their file was read.
        sheets: The sheets of a workbook; () for other files.
    """

    called: str
    total: int
    columns: tuple[str, ...]
    first: tuple[Mapping[str, Any], ...]
    format: str
    examples: tuple[Mapping[str, str], ...]
    roles: Roles
    is_set: bool
    is_sure: bool
    unused: str = ""
    remarks: tuple[str, ...] = ()
    sheets: tuple[str, ...] = ()

    @property
    def is_asked(self) -> bool:
        """Whether nothing says yet how the rows are read, and a guess can be made."""
        is_open = not self.format or bool(self.unused)
        return is_open and not self.is_set and self.roles.is_whole

    @property
    def sentence(self) -> str:
        """How many rows there are, how they are read, and what was odd about their file."""
        return " ".join([self._sentence, *self.remarks])

    @property
    def _sentence(self) -> str:
        total = f"{self.called}: {count(self.total, 'row')}"
        if self.is_set and self.roles.wording:
            return f"{total}; {self.roles}."
        if self.format:
            question = f" Or is {self.unused} the answer to it?" if self.unused else ""
            return f"{total}, {self.format}.{question}"
        names = listed(self.columns, _COLUMNS_SAID)
        if not self.roles.is_whole:
            return (
                f"{total} with the columns {names}. None of them holds text to learn from. Choose a "
                "file with at least one such column."
            )
        return (
            f"{total} with the columns {names}. Which of them is the prompt, and which the answer?"
        )


def look(dataset: Dataset, split: str, method: str = "sft") -> Look | None:
    """Look at the first rows of a dataset that is on this machine.

    Args:
        dataset: The dataset, and how its rows are read.
        split: The split of its rows.
        method: The training.method that they are for.

    Returns:
        What its rows are; None for a bundled sample, rows on a hub, or a file that cannot be read.
    """
    if dataset.rows is None and not dataset.path:
        return None
    every_row = {"sample_count": None, "shuffle": False, "mixture_proportion": None}
    whole = dataset.model_copy(update={**every_row, "columns": {}})
    try:
        rows = load_rows(whole, split, f"data.{split}.datasets[0]")
        columns = tuple(columns_of(rows))
        some = [dict(rows[n]) for n in spread(len(rows), _ROWS_LOOKED_AT).tolist()]
        first = [dict(rows[n]) for n in range(min(len(rows), ROWS_SHOWN))]
    except DataError:
        return None
    given = roles.roles_of(dataset, columns)
    guessed, is_sure = roles.guess(columns, some)
    how_named, how, examples = _read(dataset, first, method)
    return Look(
        called=dataset.called,
        total=len(rows),
        columns=columns,
        first=tuple(first),
        format=how,
        examples=examples,
        roles=given or guessed,
        is_set=given is not None,
        is_sure=is_sure,
        unused=roles.unused(how_named, guessed),
        remarks=tuple(remarks_of(rows)),
        sheets=sheets_of(resolve(dataset.path, None)) if dataset.path else (),
    )


def _read(
    dataset: Dataset, first: list[dict[str, Any]], method: str = "sft"
) -> tuple[str, str, tuple[dict[str, str], ...]]:
    """Return the format of rows, how they are read in words, and the first ones as examples.

    All are empty if they are not read.
    """
    at_once = {"path": None, "dataset_name": None, "rows": first, "sample_count": None}
    in_memory = dataset.model_copy(update={**at_once, "mixture_proportion": None})
    data = {"train": {"datasets": [in_memory]}, "split_ratio": 1.0}
    config = Config(data=data, training={"method": method})
    try:
        (name,) = load_examples(config, "train")[0].formats
        examples = tuple(preview(config, ROWS_SHOWN))
    except DataError:
        return "", "", ()
    if name == "template":
        return name, "read by your templates", examples
    known = {one.name: one.trained_on for one in formats.FORMATS}
    trained = method_of(config).trained_on(name) or known.get(name, "")
    return name, f"recognised as {name}{f'; {trained}' if trained else ''}", examples


def certain(dataset: Dataset, split: str, like: Dataset | None = None) -> dict[str, Any]:
    """Return settings for rows that nothing says how to read, if there is no doubt about it.

    Args:
        dataset: The dataset.
        split: The split of its rows.
        like: Rows to train on: others with the same columns are read as they are.
    """
    seen = look(dataset, split)
    if seen is None:
        return {}
    templates = (dataset.prompt_template, dataset.completion_template)
    if any((*templates, dataset.prompt_func, dataset.completion_func)):
        of_others = roles.without_missing(dataset, seen.columns)
        read = dataset.model_copy(update=of_others)
        return of_others | certain(read, split, like) if of_others else {}
    if like is not None and (shape := roles.same_shape(like, seen.columns)):
        return {name: value for name, value in shape.items() if getattr(dataset, name) != value}
    if seen.format or not seen.is_sure:
        return {}
    return roles.changes_of(seen.roles, dataset, seen.columns)


def as_picked(seen: Look, dataset: Dataset) -> tuple[dict[str, str], ...]:
    """Return the first rows as a guess would make them."""
    if not seen.roles.is_whole:
        return ()
    settings = roles.settings_of(seen.roles, seen.columns)
    return _read(dataset.model_copy(update=settings), [dict(row) for row in seen.first])[2]
