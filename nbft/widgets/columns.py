"""The columns of a file's rows as roles, picked from lists, with the first rows as the model sees them.

`look` reads the rows; `Columns` shows them below the field of their file. What is picked becomes
settings of the dataset (`nbft.data.roles`), so templates can be edited afterwards as any other field.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ipywidgets
from markupsafe import Markup

from nbft.config import Config
from nbft.config.data import Dataset
from nbft.data import formats, load_examples, load_rows, preview, roles
from nbft.data.ready import READY
from nbft.data.roles import WORDINGS, Roles
from nbft.data.sources import remarks_of
from nbft.errors import DataError
from nbft.formatting import count, listed
from nbft.methods import method_of
from nbft.pages import rows as page
from nbft.reading import stamp
from nbft.widgets.kit import Kit, unobserved

LISTS = {
    "prompt": "Prompt",
    "context": "Further text",
    "completion": "Answer or label",
    "system": "System prompt",
    "messages": "Conversation",
}
"""The lists, by the roles that are picked in them."""

_ROWS_LOOKED_AT = 50
_ROWS_SHOWN = 3
_MOST_COLUMNS = 500  # a list with more cannot be read
_COLUMNS_SAID = 8
_NONE = ("–", "")


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
        remarks: Sentences on how their file was read.
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
    remarks: tuple[str, ...] = ()

    @property
    def is_asked(self) -> bool:
        """Whether nothing says yet how the rows are read, and a guess can be made."""
        return not self.format and not self.is_set and self.roles.is_whole

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
            return f"{total}, {self.format}."
        names = listed(self.columns, _COLUMNS_SAID)
        if not self.roles.is_whole:
            return (
                f"{total} with the columns {names}. None of them holds text to learn from. Choose a "
                "file with at least one such column."
            )
        return (
            f"{total} with the columns {names}. Which of them is the prompt, and which the answer?"
        )


def look(dataset: Dataset, split: str) -> Look | None:
    """Look at the first rows of a dataset that is on this machine.

    Args:
        dataset: The dataset, and how its rows are read.
        split: The split of its rows.

    Returns:
        What its rows are; None for a bundled sample, rows on a hub, or a file that cannot be read.
    """
    if dataset.rows is None and not dataset.path:
        return None
    every_row = {"sample_count": None, "shuffle": False, "mixture_proportion": None}
    whole = dataset.model_copy(update={**every_row, "columns": {}})
    try:
        rows = load_rows(whole, split, f"data.{split}.datasets[0]")
        first = [dict(rows[n]) for n in range(min(len(rows), _ROWS_LOOKED_AT))]
    except DataError:
        return None
    columns = tuple(dict.fromkeys(name for row in first for name in row))
    given = roles.roles_of(dataset, columns)
    guessed, is_sure = roles.guess(columns, first)
    how, examples = _read(dataset, first)
    return Look(
        called=dataset.called,
        total=len(rows),
        columns=columns,
        first=tuple(first[:_ROWS_SHOWN]),
        format=how,
        examples=examples,
        roles=given or guessed,
        is_set=given is not None,
        is_sure=is_sure,
        remarks=tuple(remarks_of(rows)),
    )


def _read(dataset: Dataset, first: list[dict[str, Any]]) -> tuple[str, tuple[dict[str, str], ...]]:
    """Return how rows are read, in words, and the first ones as examples; nothing if they are not."""
    at_once = {"path": None, "dataset_name": None, "rows": first, "sample_count": None}
    in_memory = dataset.model_copy(update={**at_once, "mixture_proportion": None})
    config = Config(data={"train": {"datasets": [in_memory]}, "split_ratio": 1.0})
    try:
        (name,) = load_examples(config, "train")[0].formats
        examples = tuple(preview(config, _ROWS_SHOWN))
    except DataError:
        return "", ()
    if name == "template":
        return "read by your templates", examples
    known = {one.name: one.trained_on for one in formats.FORMATS}
    trained = method_of(config).trained_on(name) or known.get(name, "")
    return f"recognised as {name}{f'; {trained}' if trained else ''}", examples


def certain(dataset: Dataset, split: str) -> dict[str, Any]:
    """Return settings for rows that nothing says how to read, if their names leave no doubt.

    Args:
        dataset: The dataset.
        split: The split of its rows.
    """
    templates = (dataset.prompt_template, dataset.completion_template)
    if any((*templates, dataset.prompt_func, dataset.completion_func)):
        return {}
    seen = look(dataset, split)
    if seen is None or seen.format or not seen.is_sure:
        return {}
    return roles.changes_of(seen.roles, dataset, seen.columns)


class Columns:
    """The lists and the first rows.

    Args:
        kit: Makes the widgets.
        block: Path of the dataset's settings: data.train.datasets[0].
        on_pick: Called with the settings that picked roles change.
    """

    def __init__(self, kit: Kit, block: str, on_pick: Callable[[dict[str, Any]], None]) -> None:
        self._kit, self._block, self._on_pick = kit, block, on_pick
        self._split = block.split(".")[1]
        self._known: Any = None
        self._look: Look | None = None
        self._dataset = Dataset()
        self._is_locked = False
        self._lists: dict[str, Any] = {}

    @functools.cached_property
    def widget(self) -> Any:
        """The panel."""
        kit = self._kit
        self._said = kit.html("", "nbft-columns-said")
        self._lists = {
            role: kit(ipywidgets.Dropdown, "nbft-role", description=title, options=[_NONE])
            for role, title in LISTS.items()
        }
        self._wording = kit(
            ipywidgets.Dropdown, "nbft-role", description="Text around it", options=[_NONE]
        )
        for control in (*self._lists.values(), self._wording):
            control.observe(self._picked, "value")
        self._use = kit.button("Use these columns", self._use_guess, "nbft-push")
        self._picks = kit(ipywidgets.VBox, "nbft-picks")
        self._rows = kit.html("", "nbft-rows")
        self.lock(self._is_locked)
        children = (self._said, self._picks, self._rows)
        return kit(ipywidgets.VBox, "nbft-columns", children=children)

    @property
    def is_shown(self) -> bool:
        """Whether there are rows to look at."""
        return self._look is not None

    @property
    def is_asked(self) -> bool:
        """Whether the person has to say what the columns are."""
        return self._look is not None and self._look.is_asked

    def follow(self, config: Config) -> None:
        """Show the rows of a config, if they are others than before or read in another way."""
        split = config.data.splits().get(self._split)
        dataset = split.datasets[0] if split and split.datasets else Dataset()
        known = (dataset.model_dump(), id(dataset.rows), _stamp(dataset))
        if known == self._known:
            return
        self._known, self._dataset = known, dataset
        is_bundled = dataset.dataset_name in READY and not dataset.path and dataset.rows is None
        self._look = None if is_bundled else look(dataset, self._split)
        if self._look is not None:
            _ = self.widget  # made when there is something to show
            self._show(self._look)

    def lock(self, is_locked: bool) -> None:
        """Lock or unlock the lists."""
        self._is_locked = is_locked
        for control in self._controls():
            control.disabled = is_locked

    def _controls(self) -> Sequence[Any]:
        return (*self._lists.values(), self._wording, self._use) if self._lists else ()

    def _show(self, seen: Look) -> None:
        self._said.value = Markup('<p role="status">{}</p>').format(seen.sentence)
        shown = seen.columns[:_MOST_COLUMNS]
        for role, control in self._lists.items():
            value = getattr(seen.roles, role)
            options = [
                _NONE,
                *((_short(name), name) for name in dict.fromkeys((*shown, value)) if name),
            ]
            self._fill(control, options, value)
        wordings = [(wording.title, name) for name, wording in WORDINGS.items()]
        own = [] if seen.roles.wording else [("your own templates", "")]
        self._fill(self._wording, own + wordings, seen.roles.wording)
        pair = (self._wording,) if seen.roles.prompt else ()
        use = (self._use,) if seen.is_asked else ()
        self._picks.children = (*self._lists.values(), *pair, *use)
        examples = seen.examples or _as_picked(seen, self._dataset)
        self._rows.value = page.as_examples(examples) if examples else page.as_in_file(seen.first)

    def _fill(self, control: Any, options: list[tuple[str, str]], value: str) -> None:
        with unobserved(control, self._picked):
            if list(control.options) != options:
                control.options = options
            control.value = value

    def _picked(self, change: dict[str, Any]) -> None:
        assert self._look is not None
        values = {role: control.value for role, control in self._lists.items()}
        changed = next((r for r, control in self._lists.items() if control is change["owner"]), "")
        if changed == "messages" and values["messages"]:
            values |= dict.fromkeys(("prompt", "context", "completion"), "")
        elif changed in ("prompt", "context", "completion") and values[changed]:
            values["messages"] = ""
        for role, value in values.items():  # a column has one role
            if changed and role != changed and value and value == values[changed]:
                values[role] = ""
        self._take(Roles(**values, wording=self._wording.value or "plain"))

    def _use_guess(self, _button: Any) -> None:
        assert self._look is not None
        self._take(self._look.roles)

    def _take(self, picked: Roles) -> None:
        """Make roles the settings; with an answer missing, wait for it."""
        assert self._look is not None
        if not picked.is_whole:
            self._show(
                dataclasses.replace(self._look, roles=picked, format="", is_set=True, examples=())
            )
            self._said.value = Markup('<p role="status">{}</p>').format(
                "Pick the answer, too: the column that the model is trained on."
            )
            return
        changes = roles.changes_of(picked, self._dataset, self._look.columns)
        self._on_pick({f"{self._block}.{name}": value for name, value in changes.items()})


def _as_picked(seen: Look, dataset: Dataset) -> tuple[dict[str, str], ...]:
    """Return the first rows as a guess would make them."""
    if not seen.roles.is_whole:
        return ()
    settings = roles.settings_of(seen.roles, seen.columns)
    return _read(dataset.model_copy(update=settings), [dict(row) for row in seen.first])[1]


def _stamp(dataset: Dataset) -> Any:
    """Return what changes when the file does."""
    try:
        return stamp(Path(dataset.path).expanduser()) if dataset.path else None
    except OSError:
        return None


def _short(name: str, most: int = 60) -> str:
    return name if len(name) <= most else f"{name[: most - 1]}…"
