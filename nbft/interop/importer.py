"""Import another system's file as our config, with a verdict on every key.

A key never ends a file: what cannot be taken is said on its line of the report. Only a file that
cannot be read, or that asks for a training method that nbft does not have, is refused. The tables
(`qefficient`, `oumi`, …) define the keys; this module applies them to a file. Called by
`Config.import_file`, `nbft import` and the form.
"""

from __future__ import annotations

import copy
import dataclasses
import difflib
import functools
import importlib
import itertools
import math
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from nbft.config import Config, io, settings
from nbft.config.base import limit_text
from nbft.config.data import SPLITS, written_out
from nbft.errors import ConfigError, Problem
from nbft.interop import preferences
from nbft.interop.read import Code, Document, read_document
from nbft.interop.report import Kind, Line, Report, shown
from nbft.interop.table import UNSET, Converted, Entry, System
from nbft.methods import method_of
from nbft.redaction import is_secret_name

SYSTEMS = ("qefficient", "oumi", "erniekit", "peft_studio", "unsloth", "llama_factory", "axolotl")
"""Names of the systems; the first wins when a file fits several equally well."""

DOCUMENTED = SYSTEMS[:5]
"""Systems on the compatibility page."""


def system(name: str) -> System:
    """Return a system by its name.

    Raises:
        ConfigError: There is none of this name.
    """
    key = name.lower().replace("-", "_").replace(" ", "_")
    key = {"trl": "unsloth", "peftstudio": "peft_studio", "llamafactory": "llama_factory"}.get(
        key, key
    )
    if key not in SYSTEMS:
        close = difflib.get_close_matches(key, SYSTEMS, n=1)
        fix = f"Did you mean {close[0]}?" if close else ""
        raise ConfigError(Problem("system", name, f"is not one of {', '.join(SYSTEMS)}.", fix))
    return importlib.import_module(f"nbft.interop.{key}").SYSTEM  # type: ignore[no-any-return]


def import_file(
    path: str | Path, system_name: str | None = None, *, strict: bool = False
) -> tuple[Config, Report]:
    """Read another system's file as a config, with a report line for every key.

    Args:
        path: YAML, JSON, Python, a notebook, a shell script that starts Oumi, or a file of rows.
        system_name: qefficient, oumi, erniekit, peft_studio, unsloth (TRL too), llama_factory or
            axolotl; detected from the keys when None.
        strict: Refuse a file with a key that cannot be taken, which is otherwise only reported.

    Raises:
        ConfigError: It cannot be read, no system fits, it asks for a method that nbft does not
            have, or it is refused by `strict`; the error lists all problems.
    """
    path = Path(path).expanduser()
    document = read_document(path)
    if document.language == "rows" and system_name is None:
        return _rows(document)
    found = system(system_name) if system_name is not None else _owner(document)
    if found is None and (found := _also(document)):
        config, report = import_document(document, found, strict=strict)
        note = "All keys of this file are keys of nbft, too; nbft train reads it as its own config."
        return config, dataclasses.replace(report, remarks=[note, *report.remarks])
    return import_document(document, found, strict=strict) if found else _ours(document)


def recognise(document: Document) -> System:
    """Return the system that a file belongs to, by its keys.

    Raises:
        ConfigError: No system has its keys.
    """
    if document.language == "python":  # of one system, whose own reading refuses what is not its
        (only,) = (one for one in map(system, SYSTEMS) if "python" in one.languages)
        if only.prepare:
            only.prepare(document)
        return only
    scores: dict[str, float] = {}
    prepared = {
        one: one.prepare(copy.deepcopy(document)).tree if one.prepare else document.tree
        for one in map(system, SYSTEMS)
        if document.language in one.languages
    }
    most = {one: _most(tree, one.marks) for one, tree in prepared.items()}
    for candidate in sorted(prepared, key=lambda one: -most[one]):
        if most[candidate] < max(scores.values(), default=0):
            break  # none of the others can win, so their tables need not be read
        keys = [key for key, _ in leaves(prepared[candidate], candidate)]
        entries = [match[0] for key in keys if (match := find(candidate, key))]
        known = sum(
            1.0 if entry.is_documented or not candidate.has_document else 0.75 for entry in entries
        )
        marked = sum(key in candidate.marks or key.split(".")[0] in candidate.marks for key in keys)
        if known:
            scores[candidate.name] = known + marked - 0.5 * (len(keys) - len(entries))
    best = max(
        (name for name in SYSTEMS if name in scores), key=lambda name: scores[name], default=None
    )
    if best is None or scores[best] <= 0:
        shown_keys = ", ".join(list(document.tree)[:6]) or "none"
        raise ConfigError(
            f"{document.path}: is not a file of a known system; its keys are {shown_keys}. Name the "
            f"system with --from: {', '.join(SYSTEMS)}."
        )
    return system(best)


def _most(tree: Any, marks: Collection[str], place: str = "", marked: bool = False) -> int:
    """Return the highest score that a system with these marks can have: all keys are its own."""
    marked = marked or io.without_indices(place) in marks
    items: list[tuple[str, Any]] = []
    if isinstance(tree, dict):
        items = [(f"{place}.{key}".lstrip("."), item) for key, item in tree.items()]
    elif _is_of_blocks(tree):
        items = [(f"{place}[{number}]", item) for number, item in enumerate(tree)]
    return sum(_most(item, marks, key, marked) for key, item in items) or 1 + marked


def import_document(
    document: Document, found: System, *, strict: bool = False
) -> tuple[Config, Report]:
    """Convert a document by a system's table; arguments and errors as in `import_file`."""
    if found.prepare:
        document = found.prepare(document)
    work = Work(document, found)
    if found.interpolates:
        document.tree = work.interpolated(document.tree, "")
    keys = list(leaves(document.tree, found))
    for key, value in keys:  # a conversion may look at keys that come later
        if match := find(found, key):
            work.given[filled(match[0].path, match[1])] = value
    for key, value in keys:
        work.take(key, value)
    if found.rules:
        for problem in found.rules(work):
            work.wrong(problem.field, problem.value, problem.why, problem.fix)
    work.add_defaults()
    if found.settle:
        found.settle(work)
    config, report = work.finish()
    if strict and report.dropped:
        raise ConfigError([work.problem(line) for line in report.dropped])
    return config, report


class Work:
    """An import in progress: the keys of the file and the settings from them so far.

    Attributes:
        document: The file.
        system: Its system.
        given: Their values in the file by path (aliases by their main path).
        settings: Ours so far, by dotted path.
        lines: One for each key.
        key: The one that is being read.
        refusals: Why the file cannot be imported at all.
        remarks: Notes for the reader.
    """

    def __init__(self, document: Document, found: System) -> None:
        self.document, self.system = document, found
        self.given: dict[str, Any] = {}
        self.settings: dict[str, Any] = {}
        self.lines: dict[str, Line] = {}
        self.key = ""
        self.refusals: list[Problem] = []
        self.remarks = list(document.remarks)
        self._wrong: dict[str, Problem] = {}
        self._filled: dict[str, str] = {}  # key → how ${…} in its value was read
        self._asked: list[str] = []  # the keys whose ${…} are being read, so that no circle is
        self._source: dict[str, str] = {}  # our setting → their key

    @property
    def folder(self) -> Path:
        """The folder of the file."""
        return self.document.path.absolute().parent

    def take(self, key: str, value: Any) -> None:
        """Read one key of the file."""
        self.key = key
        entry, parts = find(self.system, key) or (None, ())
        if key in self._wrong:
            if entry is not None:
                self.given[filled(entry.path, parts)] = None
            return
        number, cell = self._place_of(key)
        line = self.lines[key] = Line(key, value, "taken", line=number, cell=cell)
        if entry is None and self._is_section(key):
            if value is None or value == {}:
                line.note = "an empty section"
            else:
                self.wrong(key, value, "is a section, and holds no keys.", "Indent them under it.")
            return
        if entry is not None and self._is_section(key) and not _may_hold_blocks(value):
            self.wrong(
                key, value, "is not a list of blocks.", "Write a block, with its keys, for each."
            )
            return
        if entry is None:
            line.kind, line.note = "unknown", self._nearest(key)
            return
        given = filled(entry.path, parts)
        if isinstance(value, Code) and entry.type is not object:
            line.kind = "impossible"
            line.note = "is code that would have to be run. Write its value instead"
            self.given[given] = None
            return
        value, remark = self._typed(entry, key, value)
        if value is UNSET:
            line.note += " nbft's default is kept."
        remark = "; ".join(text for text in (self._filled.get(key, ""), remark) if text)
        self.given[given] = None if value is UNSET else value
        if value is UNSET:
            return
        self._apply(entry, parts, line, value, remark)

    def add_defaults(self) -> None:
        """Keep their defaults where the file has no value and ours differ."""
        ours = {s.path: s.default for s in settings()}
        for entry in self.system.table:
            if entry.default is UNSET or entry.path in self.given:
                continue
            if entry.setting in self.settings or not entry.setting:
                continue
            line = Line(entry.path, entry.default, "defaulted")
            self._apply(entry, (), line, entry.default, "")
            changed = line.setting and line.became != ours.get(line.setting, UNSET)
            if not changed or line.kind in ("taken", "impossible"):
                if line.setting and not changed:
                    self.settings.pop(line.setting, None)
                continue
            line.kind = "defaulted"
            was = f"theirs; ours is {shown(ours.get(line.setting))}"
            line.note = f"{was}; {line.note}" if line.note else was
            self.lines[entry.path] = line

    def _apply(
        self, entry: Entry, parts: tuple[str, ...], line: Line, value: Any, remark: str
    ) -> None:
        result = Converted(value)
        known = _setting(entry.setting) if entry.setting else None
        if value is None and not entry.setting:
            result = Converted(kind="taken", note="null: not set")
        elif value is None and entry.convert is None and known and not known.optional:
            result = _default_for_null(entry)
        elif entry.convert is not None:
            result = self._converted(entry, line, value)
        elif entry.kind and not entry.setting:
            result = Converted(kind=entry.kind)
        if line.key in self._wrong:
            return
        note = result.note or entry.note
        line.note = "; ".join(text for text in (remark, note) if text)
        setting = filled(entry.setting, parts) if entry.setting else ""
        if result.value is not UNSET and setting:
            line.setting, line.became = setting, result.value
            self._set(setting, result.value, line.key)
        for name, item in result.more.items():
            name = filled(name, parts)
            self._set(name, item, line.key)
            if not line.setting:
                line.setting, line.became = name, item
        same_name = setting.rpartition(".")[2] == line.key.rpartition(".")[2]
        if result.kind or entry.kind:
            line.kind = result.kind or entry.kind or line.kind
        elif (line.setting and (line.became != value or result.value is UNSET)) or remark:
            line.kind = "converted"
        elif line.setting and not same_name:
            line.kind = "renamed"

    def _converted(self, entry: Entry, line: Line, value: Any) -> Converted:
        assert entry.convert is not None
        try:
            answer = entry.convert(value, self)
        except (TypeError, ValueError, KeyError, AttributeError, OverflowError):
            # Conversions may assume a valid file.
            if value is not None:
                why = f"{self.system.title}: has the wrong type {type(value).__name__}."
                self.wrong(line.key, value, why, "Write a value that the key accepts there.")
            return Converted(kind="taken", note="null, so our default is kept")
        return answer if isinstance(answer, Converted) else Converted(answer)

    def _typed(self, entry: Entry, key: str, value: Any) -> tuple[Any, str]:
        """Check type and range of a value; return it with a remark on how it was read."""
        wanted = entry.type
        if wanted is None and entry.convert is None and entry.setting:
            known = _setting(entry.setting)
            wanted = known.type if known and known.type is not type(None) else None
        if wanted is None and entry.default is not UNSET and entry.default is not None:
            wanted = type(entry.default)
        if (
            isinstance(value, str)
            and value in ("None", "null", "~")
            and "None" not in entry.choices
        ):
            return None, f"the text {value} is read as null"
        if value is None:
            return None, ""
        try:
            value, remark = typed(value, wanted, entry.choices)
        except ValueError as error:
            self.wrong(key, value, f"{self.system.title}: {error}.")
            return UNSET, ""
        if entry.choices and not isinstance(value, list) and not _among(value, entry.choices):
            listed = ", ".join(map(str, entry.choices))
            close = difflib.get_close_matches(str(value).lower(), map(str, entry.choices), n=1)
            fix = f"Did you mean {close[0]}?" if close else ""
            self.wrong(key, value, f"{self.system.title}: is not one of {listed}.", fix)
            return UNSET, ""
        if not _within(value, entry):
            self.wrong(key, value, f"{self.system.title}: must be {range_text(entry)}.")
            return UNSET, ""
        return value, remark

    def _set(self, setting: str, value: Any, key: str) -> None:
        self.settings[setting], self._source[setting] = value, key

    def wrong(self, key: str, value: Any, why: str, fix: str = "") -> None:
        """Say that a value cannot be taken: by the rules of its own system, or by ours."""
        line = self.lines.get(key)
        if line is None:
            number, cell = self._place_of(key)
            line = self.lines[key] = Line(key, value, "impossible", line=number, cell=cell)
        where = f"{line.place}: {key}" if line.place else key
        self._wrong[key] = Problem(where, value, why, fix)
        line.kind, line.note = "impossible", f"{why} {fix}".strip()

    def is_wrong(self, key: str) -> bool:
        """Whether the value of a key cannot be taken."""
        return key in self._wrong

    def refuse(self, key: str, value: Any, why: str, fix: str = "") -> None:
        """Refuse the whole file: it asks for what nbft must not leave out."""
        number, cell = self._place_of(key)
        place = Line(key, value, "taken", line=number, cell=cell).place
        self.refusals.append(Problem(f"{place}: {key}" if place else key, value, why, fix))

    def problem(self, line: Line) -> Problem:
        """Return what is wrong with a line of the report."""
        where = f"{line.place}: {line.key}" if line.place else line.key
        return self._wrong.get(line.key) or Problem(where, line.value, f"{line.note.rstrip('.?')}.")

    def report(
        self, key: str, kind: Kind, note: str = "", setting: str = "", value: Any = UNSET
    ) -> None:
        """Report what became of a key, in its line or in a new one."""
        line = self.lines.get(key)
        if line is None:
            line = self.lines[key] = Line(key, None, kind)
        line.kind, line.note = kind, note or line.note
        if setting:
            line.setting = setting
        if value is not UNSET:
            line.became = value

    def put(self, key: str, kind: Kind, note: str, **changes: Any) -> None:
        """Set settings of ours (`__` for a dot) that follow from a key, and report them."""
        for name, value in changes.items():
            setting = name.replace("__", ".")
            self._set(setting, value, key)
            self.report(key, kind, note, setting, value)

    def drop_default(self, key: str) -> None:
        """Drop a default of theirs, and the setting that came from it; a given key stays."""
        line = self.lines.get(key)
        if line is not None and line.kind == "defaulted":
            self.settings.pop(line.setting, None)
            del self.lines[key]

    def leave_out(self, setting: str, kind: Kind, note: str) -> None:
        """Leave out a setting of ours, and say on the line that it came from why."""
        self.settings.pop(setting, None)
        by_setting = {line.setting: line for line in self.lines.values()}
        line = by_setting.get(setting) or self.lines.get(self._source.get(setting, ""))
        if line is None:
            return
        if line.kind == "defaulted":
            del self.lines[line.key]
            return
        line.kind, line.note, line.setting, line.became = kind, note, "", None

    def finish(self) -> tuple[Config, Report]:
        """Return the config and the report.

        Raises:
            ConfigError: The file asks for a method that nbft does not have.
        """
        if self.refusals:
            raise ConfigError(self.refusals)
        for line in self.lines.values():
            if line.setting and _setting(line.setting) is None:
                line.kind, line.note = "impossible", f"nbft has no {line.setting}"
                self.settings.pop(line.setting, None)
        preferences.settle(self)
        self._find_files()
        self._without_held_out_rows()
        tree = tree_of(
            {n: v for n, v in self.settings.items() if v is not UNSET and _setting(n) is not None}
        )
        config, problems = Config.parse(tree)
        for problem in problems:
            self.invalid(problem)
        config = preferences.effective(self, config)
        report = Report(
            self.system.name,
            self.system.title,
            str(self.document.path),
            list(self.lines.values()),
            self.remarks,
        )
        if report.functions:
            names = ", ".join(report.functions)
            report.remarks.append(f"Reading the rows runs your own code: {names}.")
        return config, report

    def invalid(self, problem: Problem) -> None:
        """Say on its line that a value is not valid here; its default is in the config."""
        by_setting = {line.setting: line for line in self.lines.values() if line.setting}
        line = by_setting.get(problem.field) or self.lines.get(self._source.get(problem.field, ""))
        if line is None:
            self.remarks.append(f"{problem} nbft's default is kept.")
            return
        if line.setting == problem.field:
            line.setting, line.became = "", None
        self.wrong(
            line.key, line.value, problem.why, f"{problem.fix} nbft's default is kept.".strip()
        )

    def _without_held_out_rows(self) -> None:
        """Turn evaluations off where the file holds out no rows, as the other systems do."""
        held_out = any(name.startswith("data.validation.datasets") for name in self.settings)
        if self.settings.get("data.split_ratio") != 1 or held_out:
            return
        for setting in ("evaluation.eval_strategy", "checkpoint.load_best_model_at_end"):
            off: Any = "no" if setting.endswith("eval_strategy") else False
            key = self._source.get(setting)
            line = self.lines.get(key or "")
            if line is not None and line.kind != "defaulted" and line.became != off:
                line.kind, line.note = "converted", "no rows are held out, so nothing is evaluated"
                line.setting, line.became = setting, off
            if line is not None or setting.endswith("eval_strategy"):
                self.settings[setting] = off
        patience = "callbacks.early_stopping_patience"
        line = self.lines.get(self._source.get(patience, ""))
        if line is not None and self.settings.pop(patience, None) is not None:
            line.kind, line.note = "ignored", "no rows are held out, so nothing is evaluated"
            line.setting, line.became = "", None

    def interpolated(self, tree: Any, place: str) -> Any:
        """Return a tree with ${oc.env:NAME}, ${oc.env:NAME,default} and ${section.key} filled in."""
        if isinstance(tree, dict):
            return {
                name: self.interpolated(value, f"{place}.{name}".lstrip("."))
                for name, value in tree.items()
            }
        if isinstance(tree, list):
            return [self.interpolated(item, f"{place}[{n}]") for n, item in enumerate(tree)]
        if not isinstance(tree, str) or "${" not in tree:
            return tree
        found = [self._value_of(match[1].strip(), place, tree) for match in _FILL.finditer(tree)]
        if None in found:
            return tree
        if len(found) == 1 and _FILL.fullmatch(tree):
            return found[0]
        texts = iter(found)
        return _FILL.sub(lambda _: str(next(texts)), tree)

    def _value_of(self, written: str, place: str, whole: str) -> Any:
        """Return what stands for a reference; None, with a verdict, where there is nothing."""
        name, is_env, rest = written, written.startswith("oc.env:"), ""
        if is_env:
            name, comma, rest = written.removeprefix("oc.env:").partition(",")
            name, rest = name.strip(), rest.strip()
            if is_secret_name(name):
                why = f"would copy the secret {name} into a config."
                self.wrong(place, whole, why, "Log in with its library, or leave it out.")
                return None
            value: Any = os.environ.get(name, rest.strip("'\"") if comma else None)
            how = "of the environment" if name in os.environ else "not set, so its default"
        else:
            value = None if name in self._asked else _at(self.document.tree, name)
            if isinstance(value, str) and "${" in value:
                self._asked.append(name)
                value = self.interpolated(value, place)
                self._asked.pop()
                value = None if "${" in str(value) else value
            how = "of this file"
        if value is None:
            what = "the environment variable" if is_env else "the key"
            self.wrong(place, whole, f"{what} {name} is not set.", "Set it, or write the value.")
        else:
            self._filled[place] = f"{name} {how}"
        return value

    def _is_section(self, key: str) -> bool:
        """Whether the table has keys below this one."""
        plain = io.without_indices(key)
        return any(
            path.replace("<split>", split).startswith((f"{plain}.", f"{plain}[]."))
            for entry in self.system.table
            for path in entry.paths
            for split in (SPLITS if "<split>" in path else ("",))
        )

    def _find_files(self) -> None:
        """Write the full path of files of rows or functions found beside the config."""
        for setting, value in self.settings.items():
            is_path = setting.endswith("].path")
            if not isinstance(value, str) or not (is_path or setting.endswith("_func")):
                continue
            where, colon, name = (value, "", "") if is_path else value.rpartition(":")
            file = Path(where if is_path else f"{where.removesuffix('.py')}.py")
            if file.is_file() or not (self.folder / file).is_file():
                continue
            full = f"{self.folder / where}{colon}{name}"
            self.settings[setting] = full
            for line in self.lines.values():
                if line.setting == setting:
                    line.became = full
                    line.note = "; ".join(t for t in (line.note, "found beside the file") if t)
                    line.kind = "converted" if line.kind in ("taken", "renamed") else line.kind

    def _place_of(self, key: str) -> tuple[int | None, int | None]:
        lines = self.document.lines
        line = lines.get(key) or lines.get(key.rpartition(".")[2])
        return self.document.place(line)

    def _nearest(self, key: str) -> str:
        known = [path for entry in self.system.table for path in entry.paths]
        close = difflib.get_close_matches(io.without_indices(key), known, n=1, cutoff=0.6)
        last = {path.rpartition(".")[2]: path for path in known}
        near = difflib.get_close_matches(key.rpartition(".")[2], last, n=1, cutoff=0.75)
        nearest = close[0] if close else last[near[0]] if near else ""
        what = "nbft does not know this key"
        return f"{what}. Did you mean {nearest}?" if nearest else what


_FILL = re.compile(r"(?<!\\)\$\{([^${}]+)\}")


def _at(tree: Any, path: str) -> Any:
    """Return the plain value at a dotted path of a tree, or None."""
    for part in io.parts(path) if re.fullmatch(r"[\w.\[\]]+", path) else ("",):
        if isinstance(tree, dict):
            tree = tree.get(part)
        elif isinstance(tree, list) and isinstance(part, int) and part < len(tree):
            tree = tree[part]
        else:
            return None
    return tree if isinstance(tree, (str, int, float, bool)) else None


def _default_for_null(entry: Entry) -> Converted:
    if entry.default is UNSET or entry.default is None:
        return Converted(kind="taken", note="null, so our default is kept")
    return Converted(entry.default, "null, so their default is kept", "converted")


# Keys


def leaves(tree: Mapping[str, Any], found: System) -> Iterator[tuple[str, Any]]:
    """Yield the keys of a file with their values; a block that is one key in the table stays whole."""
    yield from _leaves(tree, "", found)


def _leaves(value: Any, place: str, found: System) -> Iterator[tuple[str, Any]]:
    entry = find(found, place) if place else None
    whole = entry is not None and entry[0].type in (dict, list, object)
    if isinstance(value, dict) and value and not whole:
        for key, item in value.items():
            yield from _leaves(item, f"{place}.{key}".lstrip("."), found)
    elif (name := _name_key(value, place, found)) and not whole:
        for number, item in enumerate(value):  # a bare name stands for a set without more keys
            item = item if isinstance(item, dict) else {name: item}
            yield from _leaves(item, f"{place}[{number}]", found)
    elif place:
        yield place, value


def _name_key(value: Any, place: str, found: System) -> str:
    """Return the key that a bare name in a list of blocks stands for; "" for a plain list."""
    if not isinstance(value, list) or not value or not place:
        return ""
    if _is_of_blocks(value):
        return "name"
    if not all(isinstance(item, (str, dict)) for item in value):
        return ""
    names = ("path", "dataset_name")
    return next((name for name in names if find(found, f"{place}[0].{name}")), "")


def _is_of_blocks(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(v, dict) for v in value)


def find(found: System, key: str) -> tuple[Entry, tuple[str, ...]] | None:
    """Return the entry for a key, and the values of its placeholders `<split>` and `[]`."""
    exact, patterns = _paths(found.name)
    if key in exact:
        return exact[key], ()
    if (match := patterns.get(io.without_indices(key))) is None:
        return None
    path, split, entry = match
    numbers = iter(_INDEX.findall(key))
    return entry, tuple(
        split if mark == "<split>" else next(numbers) for mark in _MARK.findall(path)
    )


_INDEX = re.compile(r"\[\d+\]")
_MARK = re.compile(r"<split>|\[\]")


@functools.cache
def _paths(name: str) -> tuple[dict[str, Entry], dict[str, tuple[str, str, Entry]]]:
    """Return the entries of a system by their path, and those with `<split>` or `[]` in it."""
    exact: dict[str, Entry] = {}
    patterns: dict[str, tuple[str, str, Entry]] = {}
    for entry in system(name).table:
        for path in entry.paths:
            if "[]" not in path and "<split>" not in path:
                exact[path] = entry
                continue
            for split in SPLITS if "<split>" in path else ("",):
                patterns.setdefault(path.replace("<split>", split), (path, split, entry))
    return exact, patterns


def filled(path: str, parts: Iterable[str]) -> str:
    """Fill the placeholders `<split>` and `[]` of a path."""
    rest = iter(parts)
    return _MARK.sub(lambda m: next(rest, m[0]), path)


@functools.cache
def _known_settings() -> dict[str, Any]:
    return {setting.path: setting for setting in settings()}


def _setting(path: str) -> Any:
    """Return the setting of ours at a path, or the block of free keys that contains it."""
    known = _known_settings()
    plain = io.without_indices(path.replace("<split>", "train"))
    plain = re.sub(r"^data\.(validation|test)\.", "data.train.", plain)
    while plain:
        if plain in known:
            setting = known[plain]
            is_own = plain == io.without_indices(path.replace("<split>", "train"))
            return setting if is_own or setting.type is dict or plain.startswith("data.") else None
        plain = plain.rpartition(".")[0]
    return None


def tree_of(changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tree of dotted settings; blocks and lists are created as needed."""
    tree: dict[str, Any] = {}
    for path, value in changes.items():
        place: Any = tree
        *way, last = io.parts(path)
        for here, after in itertools.pairwise([*way, last]):
            fresh: Any = [] if isinstance(after, int) else {}
            if isinstance(place, list):
                assert isinstance(here, int)
                place += [{} for _ in range(here + 1 - len(place))]
            elif not isinstance(place.get(here), (dict, list)):
                place[here] = fresh
            place = place[here]
        if isinstance(place, list):
            assert isinstance(last, int)
            place += [None] * (last + 1 - len(place))
        place[last] = value
    return tree


# Values


def typed(value: Any, wanted: Any, choices: tuple[Any, ...] = ()) -> tuple[Any, str]:
    """Convert a value to a type, with a remark if that is not obvious.

    Raises:
        ValueError: It cannot be converted.

    >>> typed("5e-5", float)
    (5e-05, 'YAML 1.1 reads 5e-5 as text; read as a number')
    >>> typed(False, str, ("no", "steps"))
    ('no', 'YAML 1.1 reads no as false; read as text')
    """
    if wanted is str and isinstance(value, bool):
        word = next((w for w in (("yes", "on"), ("no", "off"))[not value] if w in choices), None)
        if word:
            return word, f"YAML 1.1 reads {word} as {str(value).lower()}; read as text"
        raise ValueError("is not text")
    if wanted in (int, float) and isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            raise ValueError("is not a number") from None
        why = f"YAML 1.1 reads {value} as text; read as a number"
        if not re.search(r"\de", value):
            why = f"the text {value} is read as a number"
        is_whole = math.isfinite(number) and number == int(number)
        return (int(number) if wanted is int and is_whole else number), why
    if wanted in (int, float) and isinstance(value, bool):
        raise ValueError("is not a number")
    if wanted is int and isinstance(value, float):
        if not math.isfinite(value) or value != int(value):
            raise ValueError("is not a whole number")
        return int(value), ""
    if wanted is int and not isinstance(value, int):
        raise ValueError("is not a whole number")
    if wanted is float:
        if not isinstance(value, (int, float)):
            raise ValueError("is not a number")
        return float(value), ""
    if wanted is bool and isinstance(value, str) and value.lower() in _SWITCHES:
        return _SWITCHES[value.lower()], f"the text {value} is read as true or false"
    if wanted is bool and not isinstance(value, bool):
        if value in (0, 1):
            return bool(value), f"{value} is read as true or false"
        raise ValueError("is neither true nor false")
    if wanted is dict and not isinstance(value, dict):
        raise ValueError("is not a block of keys")
    if wanted is list and not isinstance(value, list):
        raise ValueError("is not a list")
    if wanted is str and isinstance(value, (dict, list)):
        raise ValueError("is not text")
    return (str(value), "") if wanted is str and not isinstance(value, str) else (value, "")


_SWITCHES = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}


def _among(value: Any, choices: tuple[Any, ...]) -> bool:
    return value in choices or str(value).lower() in {str(choice).lower() for choice in choices}


def _within(value: Any, entry: Entry) -> bool:
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        return True
    return not (
        (entry.gt is not None and value <= entry.gt)
        or (entry.ge is not None and value < entry.ge)
        or (entry.lt is not None and value >= entry.lt)
        or (entry.le is not None and value > entry.le)
    )


def range_text(entry: Entry) -> str:
    """Write the range that a system allows: "1 to 32", "above 0 and below 1"."""
    if entry.ge is not None and entry.le is not None:
        return f"{limit_text(entry.ge)} to {limit_text(entry.le)}"
    limits = {"above": entry.gt, "at least": entry.ge, "below": entry.lt, "at most": entry.le}
    return " and ".join(
        f"{word} {limit_text(limit)}" for word, limit in limits.items() if limit is not None
    )


# Our own files, and files of rows


def _count_unknown(tree: Mapping[str, Any]) -> int:
    """Return how many keys of a tree are not settings of ours."""
    tree = dict(tree)
    if isinstance(tree.get("data"), dict):
        tree["data"] = written_out(tree["data"])
    keys = io.flatten(tree, _known_settings())
    sections = set(Config.model_fields)
    return sum(key not in sections and _setting(key) is None for key in keys)


def _ours(document: Document) -> tuple[Config, Report]:
    config = Config(**io.read(document.path))
    lines = [
        Line(key, value, "taken", key, value, line=document.lines.get(key))
        for key, value in io.flatten(document.tree, _known_settings()).items()
    ]
    note = (
        "This is a config of nbft. If it belongs to another system, name it, such as --from oumi."
    )
    return config, Report("nbft", "nbft", str(document.path), lines, [note])


def is_theirs(path: Path) -> bool:
    """Whether a file is of another system, or of rows, rather than a config of ours.

    Raises:
        ConfigError: It cannot be read.
    """
    if path.suffix.lower() in (".yaml", ".yml", ".json") and not path.is_file():
        return False  # reading it as ours gives the error
    document = read_document(path)
    if document.language not in ("yaml", "json"):
        return True
    try:
        return _owner(document) is not None
    except ConfigError:  # nobody's: reading it as ours gives the error
        return False


def _owner(document: Document) -> System | None:
    """Return the system that knows more of a file's keys than we do; None if it is ours.

    A file whose keys both know equally well is theirs only if its values are wrong for us and right
    for them.

    Raises:
        ConfigError: Neither we nor a system know its keys.
    """
    if document.language not in ("yaml", "json"):
        return recognise(document)
    unknown = _count_unknown(document.tree)
    if document.tree and not unknown and not Config.parse(document.tree)[1]:
        return None
    try:
        found = recognise(document)
    except ConfigError:
        if {*document.tree} & {*Config.model_fields}:
            return None
        raise
    unknown_to_them = sum(find(found, key) is None for key, _ in leaves(document.tree, found))
    if unknown_to_them != unknown:
        return found if unknown_to_them < unknown else None
    try:
        _, report = import_document(document, found)
    except ConfigError:
        return None
    return None if report.of_kind("impossible") else found


def _may_hold_blocks(value: Any) -> bool:
    """Whether a value can stand where blocks do: names of sets, which some systems take, included."""
    items = value if isinstance(value, list) else [value]
    return all(isinstance(item, (str, dict, bool, type(None))) for item in items)


def _also(document: Document) -> System | None:
    """Return the system that knows all keys of a file that could be ours, too."""
    try:
        found = recognise(document)
    except ConfigError:
        return None
    # A section without keys is none of the table's.
    given = leaves(document.tree, found)
    is_known = all(find(found, key) or value is None for key, value in given)
    return found if is_known and found.has_document else None


def _rows(document: Document) -> tuple[Config, Report]:
    """Return a config that trains on a file of rows."""
    from nbft.config.data import Dataset
    from nbft.data.formats import recognise as recognise_rows
    from nbft.data.sources import columns_of, load_rows
    from nbft.errors import DataError

    path = str(document.path)
    try:
        rows = load_rows(Dataset(path=path), "train", "data.train.datasets[0]", folder=None)
    except DataError as error:
        raise ConfigError(error.problems) from None
    names = columns_of(rows)
    known = recognise_rows(names, rows[0])
    config = Config(data={"path": path})
    setting = "data.train.datasets[0].path"
    lines = [Line("the file", path, "taken", setting, path, f"{len(rows):,} rows to train on")]
    note = "no known format"
    if known:
        trained = method_of(config).trained_on(known.name) or known.trained_on
        note = f"recognised as {known.name}; {trained}"
    kind: Kind = "taken" if known else "impossible"
    lines += [Line(name, None, kind, note=note) for name in names]
    return config, Report("rows", "A file of rows", path, lines)
