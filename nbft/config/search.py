"""Search for settings, used by the form's search field and by `nbft.help`."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Mapping

from nbft.config.base import Setting
from nbft.config.config import settings
from nbft.config.problems import CALLED_ELSEWHERE


def find_settings(
    text: str,
    among: Iterable[Setting] | None = None,
    called: Mapping[str, str] | None = None,
) -> list[Setting]:
    """Return the settings with every word of a text in their name, label, alias or help.

    Exact names come first, then settings with the words in their name, then in their help; expert
    settings come last in each group.

    Args:
        text: Words, in any case; "warm-up" and "warmup" are the same.
        among: The settings to search; all if None.
        called: Further names, in one text, by the path of the setting.

    >>> find_settings("warm")[0].path, find_settings("lr")[0].path
    ('scheduler.warmup_steps', 'training.learning_rate')
    """
    text = text.lower().replace("[0]", "[]")
    words = re.sub(r"([^\W\d_])-(\w)", r"\1\2", text).replace("_", " ").split()
    ranked = []
    for setting in settings() if among is None else among:
        others = (aliases().get(setting.path, ""), (called or {}).get(setting.path, ""))
        names = " ".join((*others, setting.label.replace(" ", "_"))).lower()
        name = f"{setting.path} {names}".lower().replace("_", " ")
        rare = setting.level == "expert"
        about = f"{name} {setting.help}".lower().replace("-", "")
        if text.strip().replace(" ", "_") in names.split():
            ranked.append((0, rare, setting))
        elif all(word in name for word in words):
            ranked.append((1, rare, setting))
        elif all(word in about for word in words):
            ranked.append((2, rare, setting))
    return [setting for *_, setting in sorted(ranked, key=lambda entry: entry[:2])]


@functools.cache
def aliases() -> dict[str, str]:
    """Return other tools' names of settings, by path, from the messages about unknown keys."""
    names: dict[str, str] = {}
    for alias, sentence in CALLED_ELSEWHERE.items():
        if match := re.search(r"(\w+\.\w+)", sentence):
            names[match[1]] = f"{names.get(match[1], '')} {alias}".strip()
    return names
