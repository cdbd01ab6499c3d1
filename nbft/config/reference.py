"""docs/reference.md: every setting, made from the settings themselves.

`python -m nbft.config.reference` prints it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from nbft.config.base import Setting, limit_text
from nbft.config.config import Config, settings
from nbft.config.search import aliases

_TYPES = {
    bool: "true or false",
    int: "whole number",
    float: "number",
    str: "text",
    list: "list",
    dict: "block of keys",
}


def range_words(setting: Setting) -> str:
    """Say what a setting takes, in a sentence.

    >>> range_words(next(s for s in settings() if s.path == "peft.r"))
    'Whole number, 1 to 1,024; 4 to 64 is usual.'
    """
    if setting.choices:
        any_of = "any of" if setting.type is list else "one of"
        said = f"{any_of} {', '.join(map(str, setting.choices))}"
    else:
        kind = _TYPES.get(setting.type, "any value")
        unit = f" {setting.unit}" if setting.unit else ""
        said = f"{kind}, {setting.range_text}{unit}" if setting.range_text else f"{kind}{unit}"
        if unit and not setting.range_text:
            said = f"{kind} ({setting.unit})"
    if setting.usual:
        low, high = (limit_text(limit) for limit in setting.usual)
        said += f"; {low} to {high} is usual"
    if setting.optional:
        said += "; may be empty"
    return f"{said[:1].upper()}{said[1:]}."


def default_words(setting: Setting) -> str:
    """Write a default as YAML does.

    >>> default_words(next(s for s in settings() if s.path == "memory.gradient_checkpointing"))
    'false'
    """
    value: Any = setting.default
    if value is None or value == "":
        return "empty"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(str, value))}]"
    return "{}" if value == {} else str(value)


def page() -> str:
    """Return docs/reference.md."""
    found = settings()
    lines = [
        "# Every setting",
        "",
        "Made by `python -m nbft.config.reference` from the settings themselves. Do not edit it.",
        'In a notebook, `nbft.help("warmup")` finds settings by words and by the names of others.',
    ]
    for section, info in Config.model_fields.items():
        mine = [setting for setting in found if setting.section == section]
        lines += ["", f"## {section}", "", info.description or ""]
        for setting in mine:
            lines += ["", *_entry(setting)]
    return "\n".join(lines) + "\n"


def _entry(setting: Setting) -> Iterator[str]:
    yield f"### `{setting.path}`"
    yield ""
    yield _escaped(" ".join(part for part in (setting.help, setting.why) if part))
    yield ""
    yield f"- {_escaped(range_words(setting))}"
    yield f"- Default: `{default_words(setting)}`. From: {_escaped(setting.source)}."
    yield f"- In the form: {_escaped(setting.label)}."
    if called := aliases().get(setting.path):
        yield f"- Elsewhere: {', '.join(f'`{name}`' for name in called.split())}."


def _escaped(text: str) -> str:
    for mark in ("\\", "*", "_", "<", "[", "|"):
        text = text.replace(mark, f"\\{mark}")
    return text


if __name__ == "__main__":
    import sys

    sys.stdout.write(page())
