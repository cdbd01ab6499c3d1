"""`nbft.help`: search the settings, also by their names in other systems."""

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
    """Settings found by a search, as text or as a list in a notebook.

    Attributes:
        text: The search text.
        settings: The settings found, the best match first.
    """

    text: str
    settings: tuple[Setting, ...]

    @property
    def summary(self) -> str:
        """The number of settings found and shown."""
        number = len(self.settings)
        if not number:
            return f"No setting has {self.text!r} in its name or help. Try a shorter word."
        count = "1 setting" if number == 1 else f"{number} settings"
        shown = f"; the first {_MOST_SHOWN} are shown" if number > _MOST_SHOWN else ""
        return f"{count} for {self.text!r}{shown}."

    def __str__(self) -> str:
        """Return one paragraph per setting."""
        parts = [self.summary]
        for setting in self.settings[:_MOST_SHOWN]:
            parts.append("\n    ".join([setting.path, *_facts(setting)]))
        return "\n\n".join(parts)

    __repr__ = __str__

    def _repr_html_(self) -> str:
        """Return a list of terms; its colours follow JupyterLab's theme."""
        parts = []
        for setting in self.settings[:_MOST_SHOWN]:
            text = "<br>".join(map(html.escape, _facts(setting)))
            parts.append(
                f'<dt style="font-weight:600;margin-top:0.8em"><code>{html.escape(setting.path)}'
                f'</code></dt><dd style="margin:0 0 0 1.5em;max-width:80ch">{text}</dd>'
            )
        return (
            '<div style="color:var(--jp-ui-font-color1, inherit)">'
            f"<p>{html.escape(self.summary)}</p><dl>{''.join(parts)}</dl></div>"
        )


def help(text: str = "") -> Help:  # noqa: A001 - as nbft.help
    """Search settings by their name, their help, or their name in another system.

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
    names: dict[str, list[str]] = {}
    for name in SYSTEMS:
        for entry in system(name).table:
            if entry.setting and _plain(entry.setting) == path:
                key = (entry.name or entry.path).replace("<split>", "train")
                names.setdefault(system(name).title, []).append(key)
    return names


def _facts(setting: Setting) -> list[str]:
    default = f"Default: {default_words(setting)}. From: {setting.source}."
    elsewhere = [
        f"{title} {', '.join(dict.fromkeys(keys))}"
        for title, keys in names_elsewhere(setting.path).items()
    ]
    others = f"Elsewhere: {'; '.join(elsewhere)}." if elsewhere else ""
    facts = (setting.help, setting.why, range_words(setting), default, others)
    return [fact for fact in facts if fact]


@functools.cache
def _names() -> dict[str, list[str]]:
    """Return the last part of every foreign key, by our path."""
    names: dict[str, list[str]] = {}
    for name in SYSTEMS:
        for entry in system(name).table:
            if entry.setting and not entry.name:
                keys = [key.rpartition(".")[2] for key in entry.paths]
                names.setdefault(_plain(entry.setting), []).extend(keys)
    return names


def _plain(path: str) -> str:
    """Write a table's path as `Setting.path` does."""
    return path.replace("<split>", "train").replace("[0]", "[]")
