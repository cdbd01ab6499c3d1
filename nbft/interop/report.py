"""The report of an import: one line for every key of the file.

Called by `importer`; shown by the form, the notebook and `nbft import`.
"""

from __future__ import annotations

import html
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Kind = Literal["taken", "renamed", "converted", "defaulted", "deviates", "impossible", "unknown"]
KINDS: tuple[Kind, ...] = get_args(Kind)

MEANING = {
    "taken": "the same name and value",
    "renamed": "the same value under another name",
    "converted": "another value that does the same",
    "defaulted": "not in the file; their default is kept because ours differs",
    "deviates": "different from that system, on purpose",
    "impossible": "not supported by nbft",
    "unknown": "not a key of that system",
}


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
        line: Line of the file, or None.
    """

    key: str
    value: Any
    kind: Kind
    setting: str = ""
    became: Any = None
    note: str = ""
    line: int | None = None

    def __str__(self) -> str:
        place = f"line {self.line}: " if self.line else ""
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
            "lines": [
                {name: _plain(value) for name, value in vars(line).items()} for line in self.lines
            ],
            "remarks": self.remarks,
        }

    def __str__(self) -> str:
        rows = [str(line) for line in self.lines]
        return "\n".join([self.summary, *rows, *(f"Note: {text}" for text in self.remarks)])

    def _repr_html_(self) -> str:
        """Return a table; its colours follow JupyterLab's theme."""
        rows = "".join(
            f'<tr><td style="{_CELL}"><span style="color:{_COLOUR.get(line.kind, _SOFT)}">'
            f'{line.kind}</span></td><td style="{_CELL}">{_theirs(line)}</td>'
            f'<td style="{_CELL}">{_ours(line)}</td></tr>'
            for line in self.lines
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
    place = f'<br><span style="color:{_SOFT}">line {line.line}</span>' if line.line else ""
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
