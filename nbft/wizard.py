"""`nbft config create`: seven steps from nothing to a config file.

The questions and their smart defaults come from `nbft.plan.advice`, as those of the guided form do;
here they are asked, checked and written.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from nbft.config import Config, io
from nbft.errors import ConfigError, NbftError, Problem
from nbft.plan.advice import METHODS, STEPS, Machine, Question, settings_of

Ask = Callable[[str, str], str]
Say = Callable[[str], None]


def create(
    machine: Machine, *, given: Mapping[str, Any], ask: Ask | None, say: Say
) -> tuple[dict[str, Any], dict[str, str]]:
    """Go through the seven steps.

    Args:
        machine: The machine that trains.
        given: Answers that are not asked for: model.model_name, method, data.
        ask: Asks for a setting with a default, both as text; None takes every default.
        say: Shows a line.

    Returns:
        Every setting that was asked for, by its path, and the reason of each.

    Raises:
        ConfigError: A given answer is wrong.
    """
    answers = dict(given)
    for path, value in given.items():
        _settings(path, value)
    reasons: dict[str, str] = {}
    for number, step in enumerate(STEPS, 1):
        say(f"\n{number} of {len(STEPS)}. {step.title}\n{step.about}")
        for question in step.questions(answers, machine):
            path = question.path
            if path in given:
                value, reason = given[path], "As asked."
            else:
                value = question.value if ask is None else _answer(question, ask, say)
                reason = question.reason if value == question.value else "As answered."
            if ask is None or path in given:
                say(f"  {path}: {_shown(value)}. {reason}")
            answers[path] = value
            for setting in _settings(path, value):
                reasons[setting] = reason
    changes = {p: v for path, value in answers.items() for p, v in _settings(path, value).items()}
    return changes, reasons


def _answer(question: Question, ask: Ask, say: Say) -> Any:
    """Ask until the answer is one that the setting takes."""
    say(f"  {question.reason}")
    while True:
        text = ask(question.path, _shown(question.value)).strip()
        if text == _shown(question.value):
            return question.value
        try:
            value = _read(question, text)
            _settings(question.path, value)
        except NbftError as error:
            for problem in error.problems:
                say(f"  {problem}")
            continue
        return value


def _read(question: Question, text: str) -> Any:
    if isinstance(question.value, list):
        return [word for word in text.replace(",", " ").split() if word != "none"]
    if isinstance(question.value, str):
        return text
    return io.parse_yaml(f"value: {text}", question.path)["value"]


def _settings(path: str, value: Any) -> dict[str, Any]:
    """Return what an answer is in the settings.

    Raises:
        ConfigError: The answer is wrong.
    """
    if path == "method" and value not in METHODS:
        raise ConfigError(Problem("method", value, f"is not one of {', '.join(METHODS)}."))
    changes = settings_of(path, value)
    Config().apply(changes)
    return changes


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ", ".join(value) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)


def write(changes: Mapping[str, Any], reasons: Mapping[str, str], file: Path) -> Config:
    """Write settings as a config file, the reason of each beside it, and return the config.

    A file of rows is named from the config's folder, which may be another than this.

    Raises:
        ConfigError: The file is there already, or its folder cannot be written.
    """
    if file.exists():
        raise ConfigError(f"{file}: is there already. Name another file, or remove it.")
    tree: dict[str, Any] = {}
    for path, value in changes.items():
        is_rows = path.endswith(".path")
        io.put(tree, path, _from(file.absolute().parent, value) if is_rows else value)
    config = Config(**tree)
    ordered = {name: tree[name] for name in Config.model_fields if name in tree}
    comments = {io.without_indices(path): reason for path, reason in reasons.items()}
    io.write(file, io.dump_yaml(ordered, comments))
    return config


def _from(folder: Path, path: str) -> str:
    """Write a path so that it is found from a folder."""
    there = Path(path).expanduser()
    if there.is_absolute() or folder == Path.cwd():
        return str(there)
    return str(there.absolute())
