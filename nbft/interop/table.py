"""A row of a system's table, which maps the keys of another system to our settings.

The importer, the exporter and the compatibility page read the tables. Built by `load`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from nbft.interop.report import Kind

if TYPE_CHECKING:
    from nbft.config import Config
    from nbft.errors import Problem
    from nbft.interop.importer import Work
    from nbft.interop.read import Document

Status = Literal["effect", "hardware", "refused"]

UNSET: Any = type("Unset", (), {"__repr__": lambda _: "unset"})()
"""Marks the absence of a value, because None is a value."""


@dataclass(frozen=True)
class Converted:
    """The result of a conversion that is more than a value.

    Attributes:
        value: For the entry's own setting; UNSET leaves it alone.
        note: Why.
        kind: What became of the key; derived from the value when None.
        more: Further settings of ours that follow from the key.
    """

    value: Any = UNSET
    note: str = ""
    kind: Kind | None = None
    more: Mapping[str, Any] = field(default_factory=dict)


Convert = Callable[[Any, "Work"], Any]
Back = Callable[[Any, "Config"], Any]


@dataclass(frozen=True)
class Entry:
    """One key of another system.

    Attributes:
        path: Their key, dotted; `[]` matches any item and `<split>` the name of a split.
        setting: Ours, in the same notation; "" where there is none.
        convert: From their value to ours, or to `Converted`; None keeps it.
        back: From our value to theirs, or UNSET; None keeps it if there is no `convert`.
        default: Theirs, where it may differ from ours.
        type: Theirs; that of our setting where there is no conversion.
        choices: Their only values.
        gt, ge, lt, le: Their limits, as in pydantic.
        note: Why the value is converted or not.
        kind: What becomes of the key, if not given by the value or `convert`.
        also: Further spellings of the key.
        name: Its name in their document, if that is not the key.
        is_documented: Whether the compatibility page lists it.
        status, reason: For the compatibility page; those of the setting by default.
    """

    path: str
    setting: str = ""
    convert: Convert | None = None
    back: Back | None = None
    default: Any = UNSET
    type: type | None = None
    choices: tuple[Any, ...] = ()
    gt: float | None = None
    ge: float | None = None
    lt: float | None = None
    le: float | None = None
    note: str = ""
    kind: Kind | None = None
    also: tuple[str, ...] = ()
    name: str = ""
    is_documented: bool = True
    status: Status | None = None
    reason: str = ""

    @property
    def paths(self) -> tuple[str, ...]:
        """Every spelling of the key."""
        return (self.path, *self.also)


@dataclass(frozen=True, eq=False)
class System:
    """Another system: how its files are recognised, read, checked and written.

    Attributes:
        name: On the command line.
        title: For people.
        read_table: Returns its keys; called once, when they are needed.
        marks: Keys that no other system has.
        languages: File formats.
        prepare: Transforms a document to match the table.
        rules: Its own rules over several keys.
        settle: Handles what depends on several keys, after all are read.
        write: Completes the tree of an export.
        interpolates: Whether its loader fills ${oc.env:NAME}, as OmegaConf does.
    """

    name: str
    title: str
    read_table: Callable[[], tuple[Entry, ...]]
    marks: Collection[str]
    languages: Collection[str]
    prepare: Callable[[Document], Document] | None = None
    rules: Callable[[Work], Iterator[Problem]] | None = None
    settle: Callable[[Work], None] | None = None
    write: Callable[[Config, dict[str, Any]], None] | None = None
    interpolates: bool = False

    @functools.cached_property
    def table(self) -> tuple[Entry, ...]:
        """Its keys."""
        return self.read_table()

    @property
    def has_document(self) -> bool:
        """Whether it is on the compatibility page."""
        return any(entry.is_documented for entry in self.table)
