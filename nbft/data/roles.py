"""Which column of the rows is what: the prompt, the answer, a system prompt, a conversation.

`guess` reads names and cells, `settings_of` writes roles as settings of a dataset, and `roles_of` reads
them back. Called by `examples` for its advice, and by the form's lists of columns.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nbft.config.data import Dataset
from nbft.data.cells import is_missing
from nbft.data.templates import columns_named
from nbft.data.turns import RowError, turns

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Wording:
    """The text around the columns of a prompt.

    Attributes:
        title: What people call it.
        alone: The prompt without further text; {prompt} stands for its column.
        with_context: The same with further text in {context}.
        is_chat: Whether it becomes a turn of a conversation, for the model's chat template.
    """

    title: str
    alone: str
    with_context: str
    is_chat: bool = False


WORDINGS = {
    "plain": Wording("only a line break", "{prompt}\n", "{prompt}\n{context}\n"),
    "question": Wording(
        "Question: … Answer:",
        "Question: {prompt}\n\nAnswer:\n",
        "{context}\n\nQuestion: {prompt}\n\nAnswer:\n",
    ),
    "instruction": Wording(
        "### Instruction: … ### Response:",
        "### Instruction:\n{prompt}\n\n### Response:\n",
        "### Instruction:\n{prompt}\n\n### Input:\n{context}\n\n### Response:\n",
    ),
    "summary": Wording(
        "Summarise this text. … Summary:",
        "Summarise this text.\n\n{prompt}\n\nSummary:\n",
        "Summarise this text.\n\n{prompt}\n\n{context}\n\nSummary:\n",
    ),
    "label": Wording(
        "Text: … Label:",
        "Text: {prompt}\n\nLabel:\n",
        "Text: {prompt}\n{context}\n\nLabel:\n",
    ),
    "chat": Wording("the model's chat template", "{prompt}", "{prompt}\n\n{context}", is_chat=True),
}
"""Ready prompts, by name."""

_NAMES = {
    "messages": ("messages", "conversations", "conversation", "turns", "chat"),
    "completion": (
        *("completion", "output", "answer", "a", "response", "target", "label", "summary"),
        *("translation", "solution", "reply", "highlights", "tgt", "assistant", "corrected"),
    ),
    "prompt": (
        *("prompt", "instruction", "question", "q", "query", "problem", "task", "input", "source"),
        *("text", "sentence", "document", "article", "dialogue", "request", "src", "user"),
    ),
    "context": ("context", "input", "passage", "hint", "background", "description"),
    "system": ("system", "system_prompt"),
}
"""Usual names of the columns of each role, the most telling first; in the order of choosing."""

_WORDING_OF = {
    **dict.fromkeys(("question", "q", "query", "problem"), "question"),
    **dict.fromkeys(("instruction", "task"), "instruction"),
    **dict.fromkeys(("document", "article", "dialogue"), "summary"),
}
"""The wording that suits a prompt's column of this name."""

_NO_TEXT = {
    *("id", "index", "idx", "key", "row", "url", "link", "date", "time", "timestamp", "split"),
    *("lang", "language", "license", "licence", "version", "weight"),
}
"""Names of columns that hold no text to learn from."""

_ABOUT_TEXT = {
    *("id", "type", "start", "end", "length", "count", "score", "number", "date", "category"),
    *("index", "name", "url", "source", "language"),
}
"""Last words of names that tell something about a text, such as question_type."""

_MOSTLY = 0.7

_SHAPES = (
    *("dataset_type", "columns", "prompt_template", "completion_template", "no_input_template"),
    *("system_template", "prompt_func", "completion_func", "input_columns", "target_column"),
)
"""The settings of a dataset that roles replace."""


@dataclass(frozen=True)
class Roles:
    """What the columns are; "" for a role that no column has.

    Attributes:
        prompt: What the model is given.
        context: Further text of the prompt.
        completion: What it is trained to answer; without a prompt, plain text to train on.
        system: The system prompt.
        messages: A conversation, instead of prompt and completion.
        wording: Name of the text around the prompt, one of `WORDINGS`; "" for another.
    """

    prompt: str = ""
    context: str = ""
    completion: str = ""
    system: str = ""
    messages: str = ""
    wording: str = "plain"

    @property
    def is_whole(self) -> bool:
        """Whether there is something to train on."""
        return bool(self.messages or self.completion)

    def __str__(self) -> str:
        """Return the roles as the end of a sentence: "q is the prompt, a the answer"."""
        if self.messages:
            return f"{self.messages} holds the conversations"
        if not self.prompt:
            return f"all of {self.completion} is trained on, as plain text"
        context = f" with {self.context}" if self.context else ""
        system = f", {self.system} the system prompt" if self.system else ""
        return f"{self.prompt}{context} is the prompt, {self.completion} the answer{system}"


def guess(columns: Sequence[str], rows: Iterable[Row]) -> tuple[Roles, bool]:
    """Return the likeliest roles of some columns, and whether their names leave no doubt.

    Args:
        columns: The names of the columns.
        rows: Some of the rows.

    >>> guess(["q", "a"], [{"q": "2 and 2?", "a": "4"}])
    (Roles(prompt='q', context='', completion='a', system='', messages='', wording='question'), True)
    """
    few = list(rows)
    filled = [name for name in columns if any(not is_missing(row.get(name)) for row in few)]
    texts = [name for name in filled if _is_text(name, few)]
    named: dict[str, str] = {}
    for role, usual in _NAMES.items():
        free = [n for n in (filled if role == "messages" else texts) if n not in named.values()]
        if role == "messages":
            free = [name for name in free if _is_conversation(name, few)]
        if found := _named(free, usual):
            named[role] = found
    if conversation := named.get("messages") or _conversation_among(filled, few):
        system = named.get("system", "")
        return Roles(messages=conversation, system=system), "messages" in named
    is_sure = all(_key(named.get(role, "")) in _NAMES[role] for role in ("prompt", "completion"))
    rest = [name for name in texts if name not in named.values()]
    free = [name for name in rest if _is_likely(name, few)]
    if len(free) < 2 - len({"prompt", "completion"} & named.keys()):
        free = rest
    if "completion" not in named and free:
        named["completion"] = free.pop()
    if "prompt" not in named and free:
        named["prompt"] = free.pop(0)
    if "prompt" not in named and "context" in named:
        named["prompt"] = named.pop("context")
    if "completion" not in named and "prompt" in named:  # the only column with text
        named["completion"] = named.pop("prompt")
    is_sure = is_sure or (len(texts) == 1 and _key(texts[0]) == "text")
    return Roles(**named, wording=_wording(named)), is_sure


def settings_of(roles: Roles, columns: Sequence[str]) -> dict[str, Any]:
    r"""Return the settings of a dataset that give its columns these roles.

    Settings that said otherwise are set to their defaults.

    Args:
        roles: The roles.
        columns: The names of all columns.

    >>> changes = settings_of(Roles("q", completion="a", wording="question"), ["q", "a"])
    >>> changes["prompt_template"], changes["completion_template"]
    ('Question: {q}\n\nAnswer:\n', '{a}')
    """
    usual = Dataset()
    settings: dict[str, Any] = {name: getattr(usual, name) for name in _SHAPES}
    if roles.messages or not roles.prompt:
        role, column = (
            ("messages", roles.messages) if roles.messages else ("text", roles.completion)
        )
        wanted = {role: column, "system": roles.system if roles.messages else ""}
        return settings | {
            "dataset_type": role,
            "columns": {new: old for new, old in wanted.items() if old and new != old},
        }
    renamed: dict[str, str] = {}

    def placed(role: str) -> str:
        column = getattr(roles, role)
        is_free = not (roles.context and column == "input")  # that name becomes the context's
        if _is_plain(column) and is_free:
            return f"{{{column}}}"
        names = (f"{role}_{n}" if n else role for n in range(len(columns) + 1))
        new = next(name for name in names if name not in (*columns, *renamed))
        renamed[new] = column
        return f"{{{new}}}"

    if roles.context not in ("", "input"):
        renamed["input"] = roles.context  # a template for rows without it needs this name
    wording, prompt = WORDINGS[roles.wording or "plain"], placed("prompt")
    settings["prompt_template"] = _filled(wording.alone, prompt, "")
    if roles.context:
        settings["no_input_template"] = settings["prompt_template"]
        settings["prompt_template"] = _filled(wording.with_context, prompt, "{input}")
    settings["completion_template"] = placed("completion")
    if roles.system:
        settings["system_template"] = placed("system")
    if wording.is_chat:
        settings["dataset_type"] = "chat_completion"
    return settings | {"columns": renamed}


def changes_of(roles: Roles, dataset: Dataset, columns: Sequence[str]) -> dict[str, Any]:
    """Return those of `settings_of` that a dataset does not have already."""
    settings = settings_of(roles, columns)
    return {name: value for name, value in settings.items() if getattr(dataset, name) != value}


def without_missing(dataset: Dataset, columns: Sequence[str]) -> dict[str, Any]:
    """Return what removes the templates of a dataset; {} if its rows have all their columns."""
    templates = (
        *(dataset.prompt_template, dataset.completion_template),
        *(dataset.no_input_template, dataset.system_template),
    )
    named = {name for template in templates for name in columns_named(template)}
    if named <= {*columns, *dataset.columns}:
        return {}
    usual = Dataset()
    return {name: getattr(usual, name) for name in _SHAPES if name.endswith("_template")}


def unused(format_name: str, roles: Roles) -> str:
    """Return the column that may be the answer where all of another is trained on as plain text.

    Args:
        format_name: The format as which rows are recognised.
        roles: The guess about their columns.
    """
    return roles.completion if format_name == "plain text" and roles.prompt else ""


def same_shape(dataset: Dataset, columns: Sequence[str]) -> dict[str, Any]:
    """Return what says how the rows of a dataset are read, for others with the same columns.

    Nothing if the others lack a column, or if no setting says it.

    Args:
        dataset: The dataset.
        columns: The columns of the others.
    """
    usual = Dataset()
    shape = {name: getattr(dataset, name) for name in _SHAPES}
    if all(value == getattr(usual, name) for name, value in shape.items()):
        return {}
    roles = roles_of(dataset, columns)
    is_read = roles is not None and not set(dataset.columns.values()) - set(columns)
    return shape if is_read else {}


def roles_of(dataset: Dataset, columns: Sequence[str]) -> Roles | None:
    """Return the roles that a dataset's settings give its columns; None if they give none.

    Args:
        dataset: The dataset.
        columns: The names of the columns in the file.
    """
    old = {new: before for new, before in dataset.columns.items() if before in columns}

    def among(template: str | None) -> list[str]:
        names = (old.get(name, name) for name in columns_named(template))
        return [name for name in names if name in columns]

    if dataset.dataset_type in ("messages", "text") and dataset.prompt_template is None:
        column = old.get(dataset.dataset_type, dataset.dataset_type)
        if column not in columns:
            return None
        if dataset.dataset_type == "text":
            return Roles(completion=column)
        return Roles(messages=column, system=old.get("system", ""))
    prompt, completion = among(dataset.prompt_template), among(dataset.completion_template)
    if not completion:
        return None
    first = (among(dataset.no_input_template) or prompt or [""])[0]
    roles = Roles(
        prompt=first,
        context=next((name for name in prompt if name != first), ""),
        completion=completion[0],
        system=next(iter(among(dataset.system_template)), ""),
    )
    for wording in WORDINGS:
        known = dataclasses.replace(roles, wording=wording)
        wanted = settings_of(known, columns)
        if all(getattr(dataset, name) == wanted[name] for name in _SHAPES):
            return known
    return dataclasses.replace(roles, wording="")


def same_role(name: str, columns: Sequence[str]) -> str:
    """Return the only column with a usual name of the role that a name is usual for; "" if none is.

    >>> same_role("question", ["q", "a"]), same_role("colour", ["q", "a"])
    ('q', '')
    """
    for usual in _NAMES.values():
        if _key(name) in usual and (found := [c for c in columns if _key(c) in usual]):
            return found[0] if len(found) == 1 else ""
    return ""


def _named(columns: Sequence[str], usual: Sequence[str]) -> str:
    """Return the column that has the most telling of some names, whole or as a word of its own."""
    for whole in (True, False):
        for name in usual:
            for column in columns:
                key = _key(column)
                words = key.split("_")
                is_part = not whole and len(name) > 1 and words[-1] not in _ABOUT_TEXT
                if key == name or (is_part and name in words):
                    return column
    return ""


@functools.lru_cache(10_000)
def _key(column: str) -> str:
    """Return a name in small letters with single underscores between its words.

    >>> _key(" English Meaning"), _key("systemPrompt")
    ('english_meaning', 'system_prompt')
    """
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", column)
    return re.sub(r"[\W_]+", "_", words).strip("_").lower()


def _is_text(column: str, rows: Sequence[Row]) -> bool:
    """Whether a column may hold text to train on: no list, no object, and no identifier."""
    if _key(column) in _NO_TEXT or _key(column).endswith("_id"):
        return False
    cells = [row.get(column) for row in rows if not is_missing(row.get(column))]
    return all(isinstance(cell, (str, int, float, bool)) for cell in cells)


def _is_likely(column: str, rows: Sequence[Row]) -> bool:
    """Whether a column is more than a number or a note: mostly filled, and with words."""
    if _key(column).split("_")[-1] in _ABOUT_TEXT:
        return False
    cells = [str(row[column]) for row in rows if not is_missing(row.get(column))]
    filled = [cell for cell in cells if cell.strip()]
    has_words = any(re.search(r"[^\W\d_]", cell) for cell in filled)
    return has_words and len(filled) >= _MOSTLY * len(rows)


def _is_conversation(column: str, rows: Sequence[Row]) -> bool:
    """Whether the first cell of a column that is filled reads as turns."""
    cell = next((row[column] for row in rows if not is_missing(row.get(column))), None)
    try:
        return not is_missing(cell) and bool(turns(cell, column))
    except RowError:
        return False


def _conversation_among(columns: Sequence[str], rows: Sequence[Row]) -> str:
    return next((name for name in columns if _is_conversation(name, rows)), "")


def _wording(named: Mapping[str, str]) -> str:
    prompt, completion = _key(named.get("prompt", "")), _key(named.get("completion", ""))
    if "summary" in completion.split("_"):
        return "summary"
    if "label" in completion.split("_"):
        return "label"
    return next((w for name, w in _WORDING_OF.items() if name in prompt.split("_")), "plain")


def _is_plain(column: str) -> bool:
    """Whether a template can name a column as it is."""
    return column == column.strip().strip("'\"") and not re.search(r"[{}!:]", column)


def _filled(template: str, prompt: str, context: str) -> str:
    named = {"{prompt}": prompt, "{context}": context}
    return re.sub(r"{prompt}|{context}", lambda m: named[m[0]], template)
