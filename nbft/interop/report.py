"""The report of an import: one line for every key of the file, the most important first.

What differs from the other system comes first, then what could not be taken, then the rest. Called
by `importer`; shown by the form, the notebook and `nbft import`.
"""

from __future__ import annotations

import html
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Kind = Literal[
    "taken", "renamed", "converted", "defaulted", "deviates", "ignored", "impossible", "unknown"
]
KINDS: tuple[Kind, ...] = get_args(Kind)

MEANING = {
    "taken": "the same name and value",
    "renamed": "the same value under another name",
    "converted": "another value that does the same",
    "defaulted": "not in the file; their default is kept because ours differs",
    "deviates": "different from that system, with the effect",
    "ignored": "left out, here or on this machine; the training is the same",
    "impossible": "nbft cannot take it",
    "unknown": "nbft does not know this key",
}

_GROUPS: tuple[tuple[str, tuple[Kind, ...]], ...] = (
    ("Differs from {title}", ("deviates",)),
    ("Could not be taken", ("impossible", "unknown")),
    ("Renamed, converted or left out", ("renamed", "converted", "ignored")),
    ("Defaults of {title} that nbft keeps", ("defaulted",)),
    ("Taken as they are", ("taken",)),
)
"""Headings of the report, in its order, and the kinds of lines below them."""

DROPPED: tuple[Kind, ...] = ("impossible", "unknown")
"""Kinds of lines that may change the training without being in the config."""


@dataclass
class Line:
    """What became of one key.

    Attributes:
        key: As in their file, dotted.
        value: As in their file.
        kind: What became of it.
        setting: Our setting, or "" where there is none.
        became: Its value here.
        note: Why, and what instead.
        line: Line of the file, or of a cell of it, or None.
        cell: Cell of a notebook, or None.
    """

    key: str
    value: Any
    kind: Kind
    setting: str = ""
    became: Any = None
    note: str = ""
    line: int | None = None
    cell: int | None = None

    @property
    def place(self) -> str:
        """Where the key stands: "line 2", "cell 4, line 2", or "" if nowhere."""
        where = f"line {self.line}" if self.line else ""
        return f"cell {self.cell}, {where}" if self.cell and where else where

    def __str__(self) -> str:
        place = f"{self.place}: " if self.place else ""
        ours = f" -> {self.setting}={shown(self.became)}" if self.setting else ""
        note = f" ({self.note})" if self.note else ""
        return f"{self.kind:<10} {place}{self.key}={shown(self.value)}{ours}{note}"


def shown(value: Any) -> str:
    """Write a value in at most 60 characters.

    >>> shown("fp16"), shown(None), shown(["q_proj", "v_proj"])
    ('fp16', 'null', '["q_proj", "v_proj"]')
    """
    text = value if isinstance(value, str) else json.dumps(value, default=repr, ensure_ascii=False)
    text = text.replace("\n", "\\n")
    return text if len(text) <= 60 else text[:59] + "…"


@dataclass
class Report:
    """What became of every key, in the order of the file; defaults come last.

    Shown in groups: what differs, what could not be taken, the rest.

    Attributes:
        system: Name of the system: qefficient, oumi, …
        title: The same as people write it.
        source: The file.
        lines: One for each key.
        remarks: Further notes for the reader.
    """

    system: str
    title: str
    source: str
    lines: list[Line] = field(default_factory=list)
    remarks: list[str] = field(default_factory=list)

    def __iter__(self) -> Iterator[Line]:
        return iter(self.lines)

    def __len__(self) -> int:
        return len(self.lines)

    def of_kind(self, *kinds: Kind) -> list[Line]:
        """Return the lines of some kinds."""
        return [line for line in self.lines if line.kind in kinds]

    @property
    def groups(self) -> list[tuple[str, list[Line]]]:
        """The lines by heading, the most important first; without empty groups."""
        named = [(head.format(title=self.title), self.of_kind(*kinds)) for head, kinds in _GROUPS]
        return [(head, lines) for head, lines in named if lines]

    @property
    def dropped(self) -> list[Line]:
        """Keys that could not be taken, or that nbft does not know: the training may differ."""
        return self.of_kind(*DROPPED)

    @property
    def functions(self) -> list[str]:
        """Functions of the user that a run will import, which runs their code."""
        return [
            str(line.became)
            for line in self.lines
            if line.setting.endswith(("_func", "metric_function"))
            and line.became
            and not str(line.became).startswith("nbft.")
        ]

    @property
    def counts(self) -> dict[str, int]:
        """Number of lines of each kind that occurs."""
        numbers = Counter(line.kind for line in self.lines)
        return {kind: numbers[kind] for kind in KINDS if numbers[kind]}

    @property
    def summary(self) -> str:
        """One sentence with the system, the number of keys, and the counts."""
        keys = sum(line.kind != "defaulted" for line in self.lines)
        counts = ", ".join(f"{number} {kind}" for kind, number in self.counts.items())
        return f"{self.title}: {keys} keys read; {counts or 'nothing to report'}."

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON-compatible data."""
        return {
            "system": self.system,
            "source": self.source,
            "counts": self.counts,
            "dropped": [line.key for line in self.dropped],
            "lines": [
                {name: _plain(value) for name, value in vars(line).items()} for line in self.lines
            ],
            "remarks": self.remarks,
        }

    def __str__(self) -> str:
        parts = [self.summary]
        for head, lines in self.groups:
            headed = len(self.groups) > 1
            parts += [f"\n{head} ({len(lines)}):"] * headed
            parts += [str(line) for line in lines]
        return "\n".join([*parts, *(f"Note: {text}" for text in self.remarks)])

    def _repr_html_(self) -> str:
        """Return a table in groups; its colours follow JupyterLab's theme."""
        rows = "".join(
            f'<tr><th scope="rowgroup" colspan="3" style="{_CELL}font-weight:600">'
            f"{html.escape(head)} ({len(lines)})</th></tr>"
            + "".join(
                f'<tr><td style="{_CELL}"><span style="color:{_COLOUR.get(line.kind, _SOFT)}">'
                f'{line.kind}</span></td><td style="{_CELL}">{_theirs(line)}</td>'
                f'<td style="{_CELL}">{_ours(line)}</td></tr>'
                for line in lines
            )
            for head, lines in self.groups
        )
        heads = (("Became", "6.5em"), ("Their key", "45%"), ("Here", "auto"))
        head = "".join(
            f'<th scope="col" style="{_CELL}width:{width};font-weight:600">{text}</th>'
            for text, width in heads
        )
        remarks = "".join(f"<p>{html.escape(text)}</p>" for text in self.remarks)
        return (
            f'<div style="color:{_INK};max-width:1200px"><p>{html.escape(self.summary)}</p>{remarks}'
            '<div tabindex="0" style="overflow:auto;max-height:32em">'
            '<table style="border-collapse:collapse;table-layout:fixed;width:100%;'
            f'font-size:inherit;color:{_INK}"><thead><tr>{head}</tr></thead>'
            f"<tbody>{rows}</tbody></table></div></div>"
        )


class Exported(str):
    """The text of an exported file, with the settings left out.

    Attributes:
        system: Its system.
        left_out: Our settings that the file cannot express, with their values.
    """

    system: str
    left_out: dict[str, Any]


_INK = "var(--jp-ui-font-color1, inherit)"
_SOFT = "var(--jp-ui-font-color2, #616161)"
_CELL = (
    "text-align:left;vertical-align:top;padding:3px 12px 3px 0;overflow-wrap:anywhere;"
    "white-space:normal;border-bottom:1px solid var(--jp-border-color2, #e0e0e0);"
)
_COLOUR = {
    "deviates": "var(--jp-warn-color0, #a15c00)",
    "impossible": "var(--jp-error-color0, #b3261e)",
    "unknown": "var(--jp-error-color0, #b3261e)",
}


def _theirs(line: Line) -> str:
    place = f'<br><span style="color:{_SOFT}">{line.place}</span>' if line.place else ""
    return f"<code>{html.escape(line.key)}</code> {html.escape(shown(line.value))}{place}"


def _ours(line: Line) -> str:
    ours = f"<code>{html.escape(line.setting)}</code> {html.escape(shown(line.became))}" * bool(
        line.setting
    )
    note = f'<span style="color:{_SOFT}">{html.escape(line.note)}</span>' * bool(line.note)
    return "<br>".join(part for part in (ours, note) if part)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value if value is None or isinstance(value, (bool, int, float, str)) else repr(value)
