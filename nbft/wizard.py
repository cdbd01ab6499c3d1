"""`nbft config create`: seven steps with a question each, to a config file.

The questions and their recommended answers come from `nbft.plan.advice`, like those of the guided
form. A step with several settings asks whether to keep all that is recommended. Further questions are
asked only of files whose columns do not tell how their rows are to be read.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nbft.config import Config, io
from nbft.config.data import Dataset
from nbft.data import load_rows, preview, roles
from nbft.data.looking import look
from nbft.data.roles import WORDINGS, Roles
from nbft.errors import ConfigError, NbftError, Problem
from nbft.plan.advice import (
    METHODS,
    STEPS,
    Machine,
    Question,
    Step,
    dataset_of,
    settings_of,
)

Ask = Callable[[str, str], str]
Say = Callable[[str], None]

_DATASET = "data.train.datasets[0]"
_ROWS_LOOKED_AT = 50


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
        ask_here = ask
        if ask is not None and len(several := _recommended(step, answers, machine)) > 1:
            for question in several:
                say(_line(question.path, question.value, question.reason))
            if _agrees(ask, say, "keep these"):
                ask_here = None
        for question in step.questions(answers, machine):
            path = question.path
            if path in given:
                value, reason = given[path], "As requested."
            elif ask_here is None:
                value, reason = question.value, question.reason
            else:
                value = _answer(question, ask_here, say)
                reason = question.reason if value == question.value else "Your answer."
            if ask is None or path in given:
                say(_line(path, value, reason))
            answers[path] = value
            for setting in _settings(path, value):
                reasons[setting] = reason
            if path == "data":
                columns = _columns(str(value), ask, say)
                answers |= columns
                reasons |= dict.fromkeys(columns, "How the columns become prompt and answer.")
                ask_here = None  # how many rows of a sample are used is no question
    changes = {p: v for path, value in answers.items() for p, v in _settings(path, value).items()}
    return changes, reasons


def _recommended(step: Step, answers: Mapping[str, Any], machine: Machine) -> list[Question]:
    """Return the questions of a step that are asked together; none if it depends on a first answer."""
    expected, questions = dict(answers), []
    for question in step.questions(expected, machine):
        if question.path == "data":
            return []
        expected.setdefault(question.path, question.value)
        questions.append(question)
    return questions


def _line(path: str, value: Any, reason: str) -> str:
    return f"  {path}: {_shown(value)}. {reason}"


def _agrees(ask: Ask, say: Say, what: str) -> bool:
    while (text := ask(what, "yes").strip().lower()) not in ("y", "yes", "n", "no"):
        say(f"  {text} is neither yes nor no.")
    return text.startswith("y")


def _answer(question: Question, ask: Ask, say: Say) -> Any:
    """Ask until the answer is valid, and until the rows that it names can be read."""
    say(f"  {question.reason}")
    while True:
        text = ask(question.path, _shown(question.value)).strip()
        if text == _shown(question.value):
            return question.value
        try:
            value = _read(question, text)
            _settings(question.path, value)
            if question.path == "data":
                _read_rows(value)
        except NbftError as error:
            for problem in error.problems:
                say(f"  {problem}")
            continue
        return value


# The columns of a file


def _read_rows(given: str) -> None:
    """Read a file; nothing is done for a name.

    Raises:
        DataError: It cannot be read.
    """
    if (dataset := _dataset(given)).path is not None:
        load_rows(dataset, "train", _DATASET)


def _dataset(given: str) -> Dataset:
    return Config().apply(dataset_of(given)).data.train.datasets[0]


def _columns(given: str, ask: Ask | None, say: Say) -> dict[str, Any]:
    """Return the settings that say what the columns of a file are, if they are not recognised.

    They are asked for, with the likeliest as the default, until a row looks as it should.
    """
    seen = look(_dataset(given), "train")
    if seen is None or not seen.is_asked:  # the checklist at the end says what is wrong
        if seen is not None:
            _say_row(given, {}, say)
        return {}
    columns, picked = seen.columns, seen.roles
    say("  The columns of this file do not tell which is the prompt and which the answer.")
    while True:
        if ask is not None:
            picked = _pick(columns, picked, ask, say)
        say(f"  {picked}.")
        changes = roles.changes_of(picked, _dataset(given), columns)
        settings = {f"{_DATASET}.{name}": value for name, value in changes.items()}
        is_read = _say_row(given, settings, say)
        if ask is None or (is_read and _agrees(ask, say, "keep these columns")):
            return settings


def _say_row(given: str, settings: Mapping[str, Any], say: Say) -> bool:
    """Show the first row as the model sees it; return whether the rows can be read."""
    try:
        (row,) = preview(Config().apply({**dataset_of(given), **settings}), 1)
    except NbftError:
        return False
    say("  The first row, as the model sees it:")
    for name, text in row.items():
        say("\n".join([f"    {name}:", *(f"      | {line}" for line in text.split("\n"))]))
    return True


def _pick(columns: Sequence[str], likeliest: Roles, ask: Ask, say: Say) -> Roles:
    """Ask for the column of each role, by its number or name."""
    names = {"": "none"} | {name: name for name in columns}
    say(_numbered(names))
    picked = Roles(system=likeliest.system)

    def column(role: str, title: str) -> str:
        return _choose(title, names, getattr(likeliest, role), ask, say)

    if likeliest.messages and (messages := column("messages", "conversation")):
        return dataclasses.replace(picked, messages=messages)
    prompt = column("prompt", "prompt")
    has_more = prompt and len(columns) > 2
    context = column("context", "further text of the prompt") if has_more else ""
    while not (completion := column("completion", "answer")):
        say("  The model is trained to write the answer: choose its column.")
    wording = likeliest.wording
    if prompt:
        titles = {name: wording.title for name, wording in WORDINGS.items()}
        say(_numbered(titles))
        wording = _choose("text around the prompt", titles, wording, ask, say)
    return dataclasses.replace(
        picked, prompt=prompt, context=context, completion=completion, wording=wording
    )


def _numbered(names: Mapping[str, str]) -> str:
    return "\n".join(f"    {number} {name}" for number, name in enumerate(names.values()))


def _choose(title: str, names: Mapping[str, str], likeliest: str, ask: Ask, say: Say) -> str:
    """Ask for one of some values by its number or name."""
    values = list(names)
    while True:
        text = ask(title, str(values.index(likeliest))).strip()
        if text.isdecimal() and int(text) < len(values):
            return values[int(text)]
        for value in values:
            if text == names[value]:
                return value
        say(f"  {text} is neither a number from 0 to {len(values) - 1} nor one of these names.")


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
