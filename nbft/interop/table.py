"""A row of a system's table, which maps the keys of another system to our settings.

The importer, the exporter and the compatibility page read the tables. Built by `load`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from nbft.interop.report import Kind

if TYPE_CHECKING:
    from nbft.config import Config
    from nbft.errors import Problem
    from nbft.interop.importer import Work
    from nbft.interop.read import Document

Status = Literal["effect", "hardware", "refused", "planned"]

UNSET: Any = type("Unset", (), {"__repr__": lambda _: "unset"})()
"""There is no such value; None is one."""


@dataclass(frozen=True)
class Converted:
    """What a conversion says beyond a value.

    Attributes:
        value: For the entry's own setting; UNSET leaves it alone.
        note: Why.
        kind: What became of the key; told from the value when None.
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
        path: Their key, dotted; `[]` stands for any item and `<split>` for a split's name.
        setting: Ours, written alike; "" where there is none.
        convert: From their value to ours, or to `Converted`; None takes it as it is.
        back: From our value to theirs, or UNSET; None takes it as it is, where there is no convert.
        default: Theirs, where it may differ from ours.
        type: Theirs; that of our setting where there is no conversion.
        choices: Their only values.
        gt, ge, lt, le: Their limits, as in pydantic.
        note: Why the value is converted, or why not.
        kind: What becomes of the key, where neither value nor convert tell.
        also: Further spellings of the key.
        name: As their document calls it, where that is no key.
        is_documented: Whether it stands in the document that the compatibility page counts.
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


@dataclass(frozen=True)
class System:
    """Another system: how its files are known, read, checked and written.

    Attributes:
        name: As the command line takes it.
        title: As people write it.
        table: Its keys.
        marks: Keys that no other system has.
        languages: What its files are written in.
        prepare: Brings a document to the shape of the table; None leaves it.
        rules: Its own rules over several keys.
        settle: What depends on several keys, once all are read.
        write: Mends the tree of an export; None leaves it.
        is_strict: Whether it refuses unknown keys itself.
    """

    name: str
    title: str
    table: tuple[Entry, ...]
    marks: Collection[str]
    languages: Collection[str]
    prepare: Callable[[Document], Document] | None = None
    rules: Callable[[Work], Iterator[Problem]] | None = None
    settle: Callable[[Work], None] | None = None
    write: Callable[[Config, dict[str, Any]], None] | None = None
    is_strict: bool = False

    @property
    def has_document(self) -> bool:
        """Whether a document of it is counted on the compatibility page."""
        return any(entry.is_documented for entry in self.table)
