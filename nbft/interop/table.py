"""What a row of a system's table says, and the words that the tables are written in.

A table maps the keys of another system to our settings. The importer, the export and the
compatibility page all read it. Called by the file of each system.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
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
class Says:
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
        convert: From their value to ours, or to `Says`; None takes it as it is.
        back: From our value to theirs, or UNSET; None takes it as it is, where there is no convert.
        default: Theirs, where it may differ from ours.
        type: Theirs; that of our setting where there is no conversion.
        choices: Their only values.
        low, high: Their limits.
        beyond_low, beyond_high: Whether the limit itself is allowed.
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
    low: float | None = None
    high: float | None = None
    beyond_low: bool = False
    beyond_high: bool = False
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
    marks: frozenset[str] = frozenset()
    languages: tuple[str, ...] = ("yaml", "json")
    prepare: Callable[[Document], Document] | None = None
    rules: Callable[[Work], Iterator[Problem]] | None = None
    settle: Callable[[Work], None] | None = None
    write: Callable[[Config, dict[str, Any]], None] | None = None
    is_strict: bool = False

    @property
    def has_document(self) -> bool:
        """Whether a document of it is counted on the compatibility page."""
        return any(entry.is_documented for entry in self.table)


def extra(
    path: str,
    setting: str = "",
    convert: Convert | None = None,
    back: Back | None = None,
    **more: Any,
) -> Entry:
    """Return an entry for a key that the code of a system has and its document does not."""
    return Entry(path, setting, convert, back, is_documented=False, **more)


# Conversions


def words(pairs: Mapping[Any, Any], note: str = "") -> Convert:
    """Return a conversion by a list of values; others are left as they are.

    >>> words({"adamw": "adamw_torch"})("adamw", None)
    'adamw_torch'
    """

    def convert(value: Any, _: Any) -> Any:
        key = value.lower() if isinstance(value, str) else value
        changed = next((new for old, new in pairs.items() if old == key), value)
        return Says(changed, note) if note and changed != value else changed

    return convert


def unwords(pairs: Mapping[Any, Any]) -> Back:
    """Return the way back of `words`."""

    def back(value: Any, _: Config) -> Any:
        return next((old for old, new in pairs.items() if new == value), value)

    return back


def none(note: str, kind: Kind = "impossible") -> Convert:
    """Return a conversion that takes nothing, and says why."""
    return lambda value, work: Says(note=note, kind=kind)


def no_effect(note: str) -> Convert:
    """Return a conversion for a key that needs nothing to be done."""
    return none(note, "converted")


def only(allowed: Iterable[Any], note: str) -> Convert:
    """Return a conversion that says nothing to some values and refuses the others."""
    fine = tuple(allowed)

    def convert(value: Any, work: Work) -> Says:
        if value in fine:
            return Says(kind="taken", note="what nbft does anyway")
        return Says(kind="impossible", note=note)

    return convert


def negated(value: Any, _: Any) -> bool:
    """Turn a switch around.

    >>> negated(True, None)
    False
    """
    return not value


def on_gpu(note: str, instead: Any = UNSET) -> Convert:
    """Return a conversion of what a GPU alone does: taken where there is one, else left out.

    Args:
        note: Why nothing is lost without it.
        instead: The value without a GPU.
    """

    def convert(value: Any, work: Work) -> Says:
        from nbft.hardware import available_devices

        if not value:
            return Says(value)
        if "cuda" not in available_devices():
            return Says(instead, f"needs a GPU; {note}", "converted")
        return Says(value)

    return convert


OPTIMIZERS = {
    "adamw": "adamw_torch",
    "adamw_hf": "adamw_torch",
    "adamw_custom": "adamw_torch",
    "adamw_bnb_8bit": "adamw_8bit",
    "paged_adamw": "paged_adamw_32bit",
}
"""Names of optimisers that transformers refuses, as it calls them."""


def optimizer(value: Any, _: Any) -> Any:
    """Name an optimiser as transformers does."""
    key = str(value).lower()
    name = OPTIMIZERS.get(key, key)
    if name != value:
        return Says(name, f"transformers calls it {name}" if name != key else "in lower case")
    return name


def words_of(text: Any) -> list[str]:
    """Split a list written as text with spaces or commas; a list stays one.

    >>> words_of("sync_param sync_grad"), words_of("a, b"), words_of(None)
    (['sync_param', 'sync_grad'], ['a', 'b'], [])
    """
    if isinstance(text, (list, tuple)):
        return [str(item) for item in text]
    return [word for word in str(text or "").replace(",", " ").split() if word]


def as_words(value: Any, _: Any) -> list[str]:
    """Take a list of words, written as a list or as text."""
    return words_of(value)


def warmup_ratio(value: Any, work: Work) -> Says:
    """Write a share of all steps as transformers 5 does: as warm-up steps below 1."""
    if value is None:
        return Says(kind="taken", note="not set")
    if any((work.given.get(name) or 0) > 0 for name in work.given if name.endswith("warmup_steps")):
        return Says(kind="converted", note="warmup_steps is given too and wins, as it does there")
    if value == 0:
        return Says(kind="taken", more={"scheduler.warmup_steps": 0.0})
    if value >= 1:
        return Says(0.999999, "all steps", "converted")
    note = "transformers 5 has no warmup_ratio: warm-up steps below 1 are a share"
    return Says(float(value), note, "converted")
