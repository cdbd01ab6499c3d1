"""`nbft config create`: seven steps to a config file.

The questions and their recommended answers come from `nbft.plan.advice`, like those of the guided
form.
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
        machine: The machine to train on.
        given: Answers known beforehand: model.model_name, method, data.
        ask: Asks for a setting with a default, both as text; None accepts every default.
        say: Shows a line.

    Returns:
        The settings by path, and the reason for each.

    Raises:
        ConfigError: A given answer is invalid.
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
                value, reason = given[path], "As requested."
            else:
                value = question.value if ask is None else _answer(question, ask, say)
                reason = question.reason if value == question.value else "Your answer."
            if ask is None or path in given:
                say(f"  {path}: {_shown(value)}. {reason}")
            answers[path] = value
            for setting in _settings(path, value):
                reasons[setting] = reason
    changes = {p: v for path, value in answers.items() for p, v in _settings(path, value).items()}
    return changes, reasons


def _answer(question: Question, ask: Ask, say: Say) -> Any:
    """Ask until the answer is valid."""
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
    """Return the settings of an answer.

    Raises:
        ConfigError: The answer is invalid.
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
    """Write a config file with the reason for each setting as a comment, and return the config.

    Paths of data files are absolute if the config is in another folder.

    Raises:
        ConfigError: The file already exists, or its folder is not writable.
    """
    if file.exists():
        raise ConfigError(f"{file}: already exists. Name another file, or remove it.")
    tree: dict[str, Any] = {}
    for path, value in changes.items():
        if path.endswith(".path"):
            data = Path(value).expanduser()
            value = str(data if file.absolute().parent == Path.cwd() else data.absolute())
        io.put(tree, path, value)
    config = Config(**tree)
    ordered = {name: tree[name] for name in Config.model_fields if name in tree}
    comments = {io.without_indices(path): reason for path, reason in reasons.items()}
    io.write(file, io.dump_yaml(ordered, comments))
    return config
