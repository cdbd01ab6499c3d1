"""Values to choose instead of typing: base models, datasets, and files on the machine of the kernel.

An `Offer` lists what there is (`nbft.catalogue`) and says which settings a choice means; `Chooser` is
the list on the screen. Lists are made when they are opened, on a thread: disks and hubs are slow.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import anywidget
import traitlets

from nbft.catalogue.folders import ENDINGS, folder
from nbft.config import Config, io
from nbft.errors import DataError, NbftError, Problem
from nbft.formatting import count, duration, size
from nbft.pages import rows as page
from nbft.widgets.background import Task
from nbft.widgets.fields import in_words
from nbft.widgets.kernel import call_soon, is_main_thread

if TYPE_CHECKING:
    from nbft.catalogue.datasets import DatasetChoice
    from nbft.catalogue.models import ModelChoice

_HERE = Path(__file__).parent


@dataclass(frozen=True)
class Item:
    """One thing to choose.

    Attributes:
        title: Its name.
        about: What helps to decide, in a few words.
        group: Heading that it stands below.
        has_rows: Whether its first rows can be shown.
        what: The thing itself.
    """

    title: str
    about: str
    group: str
    has_rows: bool
    what: Any


class Offer:
    """What can be chosen for a field.

    Args:
        config: Returns the current config.
        path: Path of the field's setting.
    """

    title: ClassVar[str] = "Choose from a list"
    search: ClassVar[str] = ""
    """Label of the box for a search on the hub; "" without one."""

    endings: ClassVar[tuple[str, ...]] = ()
    """Of files for which JupyterLab's own dialog may be opened."""

    def __init__(self, config: Callable[[], Config], path: str) -> None:
        self.config, self.path = config, path

    def items(self) -> list[Item]:
        """Return what there is on this machine, and what is well known."""
        raise NotImplementedError

    def found(self, text: str) -> list[Item]:
        """Return what a search on the hub finds.

        Raises:
            NbftError: The hub cannot be asked.
        """
        raise NotImplementedError

    def settings(self, item: Item) -> dict[str, Any]:
        """Return the settings that a choice means, by dotted path; {} if it only leads to others."""
        raise NotImplementedError

    def said(self, item: Item) -> str:
        """Return what choosing an item has done, as a sentence."""
        return f"{item.title} was chosen."

    def rows(self, item: Item) -> str:
        """Return the first rows of an item as HTML."""
        raise NotImplementedError

    def at(self, path: str) -> Item:
        """Return the item at a path that JupyterLab has named.

        Raises:
            NbftError: It is not on this machine.
        """
        raise NotImplementedError


_SOURCES = {
    "machine": "On this machine",
    "run": "Trained by earlier runs",
    "recent": "Used before",
    "known": "Well-known models",
    "hub": "Found on the hub",
    "upload": "Files of yours",
    "file": "Files nearby",
    "sample": "Samples that come with nbft",
}


class Models(Offer):
    """Base models."""

    search = "Search the hub for models"

    def items(self) -> list[Item]:
        """Return the models by where they are; those that do not fit come last."""
        from nbft.catalogue.models import models

        return [self._item(choice) for choice in models(self._as_before())]

    def found(self, text: str) -> list[Item]:
        """Return the models that the hub finds."""
        from nbft.catalogue.models import search_models

        return [self._item(choice) for choice in search_models(text, self._as_before())]

    def __init__(self, config: Callable[[], Config], path: str) -> None:
        super().__init__(config, path)
        self._made: dict[str, tuple[Any, Any]] = {}  # what the last choice set besides: old, new

    def settings(self, item: Item) -> dict[str, Any]:
        """Return the model, and what makes it fit, in place of what made the last choice fit."""
        now = io.flatten(self.config().to_dict(full=True))
        undone = {p: old for p, (old, new) in self._made.items() if now.get(p) == new}
        changes = dict(item.what.fit.changes)
        self._made = {p: (undone.get(p, now.get(p)), new) for p, new in changes.items()}
        return {self.path: item.what.name, **undone, **changes}

    def said(self, item: Item) -> str:
        """Return what choosing an item has done, as a sentence."""
        also = ", ".join(f"{p}={in_words(v)}" for p, v in item.what.fit.changes.items())
        return f"{item.title} was chosen{f', with {also}, so that it fits' if also else ''}."

    def _as_before(self) -> Config:
        """Return the config without what made the last choice fit."""
        config = self.config()
        now = io.flatten(config.to_dict(full=True))
        return config.apply({p: old for p, (old, new) in self._made.items() if now.get(p) == new})

    def _item(self, choice: ModelChoice) -> Item:
        group = _SOURCES[choice.source] if choice.fit.is_usable else "Too large for this machine"
        facts = (
            _parameters(choice.parameters),
            choice.where,
            str(choice.fit) if choice.fit.verdict != "unknown" else "",
            f"licence {choice.license}" if choice.license else "",
            "needs an account on the hub" if choice.is_gated and not choice.is_local else "",
            f"{choice.context_tokens:,} tokens of context" if choice.context_tokens else "",
            _used(choice.last_used),
            _downloads(choice.downloads),
        )
        return Item(choice.title, _joined(facts), group, has_rows=False, what=choice)


class Datasets(Offer):
    """Datasets."""

    search = "Search the hub for datasets"

    def items(self) -> list[Item]:
        """Return the datasets by where they are."""
        from nbft.catalogue.datasets import datasets

        return [self._item(choice) for choice in datasets(self.config())]

    def found(self, text: str) -> list[Item]:
        """Return the datasets that the hub finds."""
        from nbft.catalogue.datasets import search_datasets

        return [self._item(choice) for choice in search_datasets(text)]

    def settings(self, item: Item) -> dict[str, Any]:
        """Return the settings of the dataset; a file and a name exclude each other."""
        block = self.path.rpartition(".")[0]
        chosen = dict.fromkeys(("path", "dataset_name", "subset", "split")) | item.what.settings
        if chosen["path"]:
            chosen["path"] = from_here(Path(chosen["path"]))
        return {f"{block}.{name}": value for name, value in chosen.items()}

    def rows(self, item: Item) -> str:
        """Return the first rows of a file or sample."""
        return _first_rows(item.what)

    def _item(self, choice: DatasetChoice) -> Item:
        known = "Well-known datasets" if choice.source == "known" else _SOURCES[choice.source]
        facts = (
            choice.about,
            count(choice.rows, "row") if choice.rows else "",
            f"columns {', '.join(choice.columns)}" if choice.columns else "",
            size(choice.size_bytes) if choice.size_bytes and choice.source != "sample" else "",
            f"licence {choice.license}" if choice.license and choice.path is None else "",
            "needs an account on the hub" if choice.is_gated else "",
            _used(choice.last_used),
            _downloads(choice.downloads),
        )
        has_rows = choice.path is not None
        return Item(choice.title, _joined(facts), known, has_rows=has_rows, what=choice)


class Files(Offer):
    """Data files on the machine of the kernel, folder by folder. They are used where they lie."""

    title = "Browse this machine"
    endings = ENDINGS

    def __init__(self, config: Callable[[], Config], path: str) -> None:
        super().__init__(config, path)
        self._folder = Path()

    def items(self) -> list[Item]:
        """Return the folders and data files of the current folder."""
        here = folder(self._folder)
        group = str(here.path)
        up = [Item("..", "the folder above", group, has_rows=False, what=here.parent)]
        entries = [
            Item(
                f"{entry.name}/" if entry.is_folder else entry.name,
                ""
                if entry.is_folder
                else _joined((size(entry.size_bytes or 0), _changed(entry.modified))),
                group,
                has_rows=not entry.is_folder,
                what=entry.path,
            )
            for entry in here.entries
        ]
        if not here.is_complete:
            about = "This folder holds too much to show it all: type the path of the file instead."
            entries.append(Item("…", about, group, has_rows=False, what=None))
        return (up if here.parent else []) + entries

    def settings(self, item: Item) -> dict[str, Any]:
        """Return the path of a file; for a folder nothing, after going there."""
        if item.what is None:
            return {}
        if not item.has_rows:
            self._folder = item.what
            return {}
        return {self.path: from_here(item.what)}

    def at(self, path: str) -> Item:
        """Return the file or folder at a path that JupyterLab has named."""
        found = named_by_jupyterlab(path)
        return Item(found.name, "", "", has_rows=found.is_file(), what=found)

    def rows(self, item: Item) -> str:
        """Return the first rows of a file."""
        from nbft.catalogue.datasets import DatasetChoice

        return _first_rows(DatasetChoice(str(item.what), item.title, "file", item.what))


class Chooser(anywidget.AnyWidget):
    """A list to choose from, with a box for a search.

    Args:
        offer: What can be chosen.
        on_choose: Called with the settings of a choice.
        **traits: Initial traits.
    """

    _esm = _HERE / "chooser.js"

    label = traitlets.Unicode(help="what the list is, for screen readers").tag(sync=True)
    search = traitlets.Unicode(help="label of the search; empty without one").tag(sync=True)
    endings: traitlets.List[Any] = traitlets.List(help="of files for JupyterLab's dialog").tag(
        sync=True
    )
    items: traitlets.List[Any] = traitlets.List(help="title, about, group, has_rows").tag(sync=True)
    said = traitlets.Unicode(help="the state, or what went wrong").tag(sync=True)
    rows: traitlets.Dict[str, Any] = traitlets.Dict(help="HTML by number of item").tag(sync=True)
    disabled = traitlets.Bool(help="whether nothing can be chosen").tag(sync=True)

    def __init__(
        self, offer: Offer, on_choose: Callable[[dict[str, Any]], None], **traits: Any
    ) -> None:
        self._offer, self._on_choose = offer, on_choose
        self._items: list[Item] = []
        self._turn = 0  # grows with each task; what earlier ones find is ignored
        about = {"label": offer.title, "search": offer.search, "endings": [*offer.endings]}
        super().__init__(**about, **traits)
        self.on_msg(self._hear)

    def refresh(self) -> None:
        """List what there is now."""
        self._find(self._offer.items, "Looking…")

    def _hear(self, _widget: object, message: Mapping[str, Any], _buffers: object) -> None:
        """Handle a message of the front end, on the main thread."""
        if not is_main_thread():
            call_soon(self._hear, _widget, message, _buffers)
            return
        number = message.get("item", -1)
        is_item = isinstance(number, int) and 0 <= number < len(self._items)
        if message.get("type") == "search":
            text = str(message.get("text", "")).strip()
            if text:
                self._find(lambda: self._offer.found(text), "Asking the hub…")
            else:
                self.refresh()
        elif message.get("type") == "choose" and is_item and not self.disabled:
            self._choose(self._items[number])
        elif message.get("type") == "rows" and is_item:
            self._look(number)
        elif message.get("type") == "path" and self._offer.endings and not self.disabled:
            try:
                self._choose(self._offer.at(str(message.get("path"))))
            except NbftError as error:
                self._fail(error)

    def _choose(self, item: Item) -> None:
        if settings := self._offer.settings(item):
            self.said = self._offer.said(item)
            self._on_choose(settings)
        else:
            self.refresh()

    def _look(self, number: int) -> None:
        item = self._items[number]

        def show(html: str) -> None:
            if number < len(self._items) and self._items[number] is item:
                self.rows = {**self.rows, str(number): html}

        Task(lambda: self._offer.rows(item), show, self._fail)

    def _find(self, find: Callable[[], Sequence[Item]], meanwhile: str) -> None:
        self._turn += 1
        turn, self.said = self._turn, meanwhile

        def show(items: Sequence[Item]) -> None:
            if turn != self._turn:
                return
            # Items of a group stand together, in the order of its first.
            groups = {group: n for n, group in enumerate(dict.fromkeys(i.group for i in items))}
            self._items = sorted(items, key=lambda item: groups[item.group])
            with self.hold_sync():
                self.rows = {}
                self.items = [
                    {
                        "title": item.title,
                        "about": item.about,
                        "group": item.group,
                        "has_rows": item.has_rows,
                    }
                    for item in self._items
                ]
                self.said = "" if items else "Nothing was found."

        def fail(error: Exception) -> None:
            if turn == self._turn:
                self._fail(error)

        Task(find, show, fail)

    def _fail(self, error: Exception) -> None:
        is_known = isinstance(error, NbftError)
        self.said = (
            str(error) if is_known else f"This went wrong ({type(error).__name__}: {error})."
        )


def _first_rows(choice: DatasetChoice) -> str:
    from nbft.catalogue.datasets import look

    return str(page.as_in_file(look(choice).rows))


def named_by_jupyterlab(path: str) -> Path:
    """Return a path that JupyterLab has named, below the root of its server.

    Raises:
        DataError: There is nothing here: the kernel runs on another machine, say.
    """
    found = Path(path).expanduser()
    if not found.exists():
        why = "is not on the machine of the kernel, which is another than JupyterLab's."
        raise DataError(Problem("path", path, why, "Upload it: “Choose a file”."))
    return found


def from_here(path: Path) -> str:
    """Return a path as a person would write it: from the working folder, if it is in there."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _joined(facts: Sequence[str]) -> str:
    return ", ".join(filter(None, facts))


def _parameters(number: int | None) -> str:
    """Return a number of parameters: "135M", "8B"; "" if it is unknown.

    >>> _parameters(134_515_008), _parameters(999_885_952), _parameters(8_030_261_248)
    ('135M parameters', '1B parameters', '8.03B parameters')
    """
    if not number:
        return ""
    rounded = float(f"{number:.3g}")
    unit, letter = (1e9, "B") if rounded >= 1e9 else (1e6, "M")
    return f"{rounded / unit:g}{letter} parameters"


def _used(when: float | None) -> str:
    return f"used {duration(max(time.time() - when, 1))} ago" if when else ""


def _changed(when: float) -> str:
    return f"changed on {datetime.fromtimestamp(when).astimezone():%Y-%m-%d}"


def _downloads(number: int | None) -> str:
    return f"{number:,} downloads in 30 days" if number else ""
