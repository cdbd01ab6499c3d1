"""`nbft.help`: what there is to know about the settings that some words find.

What other systems call a setting is read from the importer's tables.
"""

from __future__ import annotations

import functools
import html
from dataclasses import dataclass

from nbft.config.base import Setting
from nbft.config.reference import default_words, range_words
from nbft.config.search import find_settings
from nbft.interop.importer import SYSTEMS, system

_MOST_SHOWN = 12


@dataclass(frozen=True)
class Help:
    """The settings that were found, as text or as a table in a notebook.

    Attributes:
        text: What was looked for.
        settings: What was found, the nearest first.
    """

    text: str
    settings: tuple[Setting, ...]

    @property
    def summary(self) -> str:
        """How many were found, and how many are shown."""
        number = len(self.settings)
        if not number:
            return f"No setting has {self.text!r} in its name or help. Try a shorter word."
        found = "1 setting" if number == 1 else f"{number} settings"
        more = f"; the first {_MOST_SHOWN} are shown" if number > _MOST_SHOWN else ""
        return f"{found} for {self.text!r}{more}."

    def __str__(self) -> str:
        """Return a paragraph a setting."""
        parts = [self.summary]
        for setting in self.settings[:_MOST_SHOWN]:
            lines = [line for line in (setting.help, setting.why, *_facts(setting)) if line]
            parts.append("\n    ".join([setting.path, *lines]))
        return "\n\n".join(parts)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """Return a list of terms; its colours follow JupyterLab's theme."""
        parts = []
        for setting in self.settings[:_MOST_SHOWN]:
            lines = [line for line in (setting.help, setting.why, *_facts(setting)) if line]
            text = "<br>".join(html.escape(line) for line in lines)
            parts.append(
                f'<dt style="font-weight:600;margin-top:0.8em"><code>{html.escape(setting.path)}'
                f'</code></dt><dd style="margin:0 0 0 1.5em;max-width:80ch">{text}</dd>'
            )
        return (
            '<div style="color:var(--jp-ui-font-color1, inherit)">'
            f"<p>{html.escape(self.summary)}</p><dl>{''.join(parts)}</dl></div>"
        )


def help(text: str = "") -> Help:  # noqa: A001 - as nbft.help
    """Look settings up by words of their name, their help or what another system calls them.

    Args:
        text: Words such as "warmup" or "micro_batch_size".

    >>> help("micro_batch_size").settings[0].path
    'training.per_device_train_batch_size'
    """
    called = {path: " ".join(names) for path, names in _names().items()}
    return Help(text, tuple(find_settings(text, called=called)))


def names_elsewhere(path: str) -> dict[str, list[str]]:
    """Return what other systems call a setting, as {title of the system: their keys}.

    >>> names_elsewhere("peft.r")["QEfficient"]
    ['model.peft_config.lora_r']
    """
    found: dict[str, list[str]] = {}
    for name in SYSTEMS:
        for entry in system(name).table:
            if entry.setting and _plain(entry.setting) == path:
                key = (entry.name or entry.path).replace("<split>", "train")
                found.setdefault(system(name).title, []).append(key)
    return found


def _facts(setting: Setting) -> list[str]:
    facts = [range_words(setting), f"Default: {default_words(setting)}. From: {setting.source}."]
    elsewhere = [
        f"{title} {', '.join(dict.fromkeys(keys))}"
        for title, keys in names_elsewhere(setting.path).items()
    ]
    return [*facts, f"Elsewhere: {'; '.join(elsewhere)}." if elsewhere else ""]


@functools.cache
def _names() -> dict[str, list[str]]:
    """Return the last part of every foreign key, by our path."""
    found: dict[str, list[str]] = {}
    for name in SYSTEMS:
        for entry in system(name).table:
            if entry.setting and not entry.name:
                keys = [key.rpartition(".")[2] for key in entry.paths]
                found.setdefault(_plain(entry.setting), []).extend(keys)
    return found


def _plain(path: str) -> str:
    """Write a table's path as `Setting.path` does."""
    return path.replace("<split>", "train").replace("[0]", "[]")
