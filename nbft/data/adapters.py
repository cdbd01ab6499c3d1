"""Row formats by name, for `dataset_type`; `auto` recognises most of them by itself.

Each function takes a row and returns an `Example`. To add one, put it into `nbft.registry.datasets`;
a user's own may also return a pair of texts. Called by `examples`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nbft.config.data import Dataset
from nbft.data import formats, preferences
from nbft.data.cells import is_missing, to_text
from nbft.data.formats import Example, Row
from nbft.data.ready import STANFORD_ALPACA, create_alpaca_prompt
from nbft.data.turns import RowError, Turn
from nbft.formatting import listed


def _needs(row: Row, columns: Sequence[str], name: str) -> None:
    if missing := [column for column in columns if column not in row]:
        found = listed([*row])
        raise RowError(
            f'has no "{missing[0]}", which dataset_type {name} needs; it has {found}.',
            "Map it with columns, or choose another dataset_type.",
        )


def prompt_completion(row: Row) -> Example:
    """Take the columns prompt and completion."""
    _needs(row, ("prompt", "completion"), "prompt_completion")
    return formats.pair(row)


def messages(row: Row) -> Example:
    """Take the turns with role and content in messages."""
    _needs(row, ("messages",), "messages")
    return formats.messages(row)


def sharegpt(row: Row) -> Example:
    """Take the turns with from and value in conversations."""
    _needs(row, ("conversations",), "sharegpt")
    return formats.sharegpt(row)


def alpaca(row: Row) -> Example:
    """Take instruction, input (may be empty) and output, with a short prompt."""
    _needs(row, ("instruction", "output"), "alpaca")
    return formats.instruction(row)


def stanford_alpaca(row: Row) -> Example:
    """Take instruction, input (may be empty) and output, with the prompt of Stanford Alpaca."""
    _needs(row, ("instruction", "output"), "stanford_alpaca")
    given = {"instruction": to_text(row["instruction"]), "input": to_text(row.get("input"))}
    return Example(create_alpaca_prompt(given), to_text(row["output"]))


def alpaca_chat(row: Row) -> Example:
    """Take the same as a conversation, with Stanford's opening sentences as its system prompt.

    Source: Oumi, src/oumi/datasets/sft/alpaca.py.
    """
    _needs(row, ("instruction", "output"), "alpaca_chat")
    instruction, given = to_text(row["instruction"]), to_text(row.get("input"))
    asked = f"{instruction}\n\n### Input:\n{given}" if given else instruction
    return formats.chat(_turns(STANFORD_ALPACA[bool(given)], asked, to_text(row["output"])))


def chat_completion(row: Row) -> Example:
    """Take an instruction with its output, or a prompt with its completion, as a conversation.

    Conversations stay as they are. An input follows the instruction on the next line. In place of
    an answer there may be a chosen and a rejected one.

    Source: LLaMA-Factory, src/llamafactory/data/converter.py.
    """
    if "chosen" in row:
        is_text = not any(isinstance(row.get(name), list) for name in _OF_TURNS[:3])
        asked = {"prompt": _turns("", _instruction(row))} if is_text else {}
        return preferences.pair({**row, **asked})
    if conversation := _conversation(row):
        return conversation
    answer = "output" if "instruction" in row else "completion"
    _needs(row, ("prompt" if answer == "completion" else "instruction", answer), "chat_completion")
    turns = _turns("", _instruction(row), to_text(row[answer]))
    return dataclasses.replace(formats.chat(turns, _only_tools(row)), label=formats.label_of(row))


def _instruction(row: Row) -> str:
    """Return what is asked: an instruction with its input on the next line, or a prompt."""
    if "instruction" not in row:
        return to_text(row.get("prompt"))
    parts = [to_text(row["instruction"]), to_text(row.get("input"))]
    return "\n".join(part for part in parts if part)


def text_sft(row: Row) -> Example:
    """Take the rows of Oumi's reader of that name: messages, or an instruction as a conversation.

    Source: Oumi, src/oumi/datasets/sft/sft_jsonlines.py.
    """
    if isinstance(row.get("conversation"), Mapping):
        row = row["conversation"]
    if conversation := _conversation(row):
        return conversation
    _needs(row, ("instruction", "output"), "text_sft")
    asked = f"{to_text(row['instruction'])}\n\n{to_text(row.get('input'))}".strip()
    return formats.chat(_turns("", asked, to_text(row["output"])))


def input_output(row: Row) -> Example:
    """Take segments with text and label: those labelled true are trained on.

    Source: Axolotl, docs/input_output.qmd.
    """
    _needs(row, ("segments",), "input_output")
    given = row["segments"]
    if not isinstance(given, list) or not all(isinstance(one, Mapping) for one in given):
        raise RowError('"segments" is no list of objects.', 'Write [{"label": true, "text": "…"}].')
    segments = [(bool(s.get("label")), to_text(s.get("text"))) for s in given]
    labels = [label for label, _ in segments]
    first = labels.index(True) if True in labels else len(labels)
    if not all(labels[first:]):
        raise RowError(
            "has text that is not trained on after text that is.",
            "Use messages for conversations, or end the row with what is trained on.",
        )
    texts = [text for _, text in segments]
    return Example("".join(texts[:first]), "".join(texts[first:]))


def _conversation(row: Row) -> Example | None:
    if row.get("messages"):
        return messages(row)
    return sharegpt(row) if row.get("conversations") else None


def _turns(system: str, asked: str, answer: str | None = None) -> tuple[Turn, ...]:
    said = (("system", system or None), ("user", asked), ("assistant", answer))
    return tuple({"role": role, "content": text} for role, text in said if text is not None)


def _only_tools(row: Row) -> Row:
    return {name: row[name] for name in ("tools", "functions") if row.get(name)}


def text(row: Row) -> Example:
    """Train on all of the column text."""
    _needs(row, ("text",), "text")
    parts = row["text"] if isinstance(row["text"], list) else [row["text"]]
    return Example(completion="".join(map(to_text, parts)))


def erniekit(row: Row) -> Example:
    """Take ERNIEKit's src and tgt: lists of questions and answers by turns.

    `label` marks each answer as trained on (1) or only read (0). Of a pair of answers (`response`
    and `sort`) the better one is trained on.
    """
    _needs(row, ("src",), "erniekit")
    asked, answered = _list(row["src"]), _list(row.get("tgt"))
    worse: list[str] | None = None
    ranks = row.get("sort") or [1, 0]
    if row.get("response") is not None:
        if not isinstance(row["response"], list) or len(row["response"]) != len(ranks):
            raise RowError(
                "response is no list of as many answers as sort has ranks.",
                'Write "response": [["…"], ["…"]], "sort": [1, 0].',
            )
        best, worst = preferences.extremes(ranks)
        worse = [*answered, *_list(row["response"][worst])]
        answered = [*answered, *_list(row["response"][best])]
    if len(asked) != len(answered) or not asked:
        raise RowError(
            f"src has {len(asked)} turns and tgt {len(answered)}.",
            "Each question needs its answer.",
        )
    labels = row.get("label") or [1] * len(answered)
    example = formats.chat(_alternating(asked, answered, labels), row)
    if worse is None or len(worse) != len(asked):
        return example
    rejected = formats.with_system(_alternating(asked, worse, labels), row)
    return dataclasses.replace(example, rejected=rejected, margin=float(ranks[best] - ranks[worst]))


def _alternating(
    asked: Sequence[str], answered: Sequence[str], labels: Sequence[Any]
) -> tuple[Turn, ...]:
    turns: list[Turn] = []
    for question, answer, label in zip(asked, answered, labels, strict=False):
        turns.append({"role": "user", "content": question})
        turn = {"role": "assistant", "content": answer}
        turns.append(turn if label else {**turn, "trained": False})
    return tuple(turns)


def _list(value: Any) -> list[str]:
    if is_missing(value):
        return []
    return [to_text(item) for item in value] if isinstance(value, list) else [str(value)]


def in_turns(dataset: Dataset, make: Callable[[Row], Example]) -> Callable[[Row], Example]:
    """Return a function with what a dataset's settings say about turns.

    Their names, the system prompt of those without one, the earlier turns of a row, and which
    answers are trained on.
    """
    keys, column = dataset.message_property_mappings, dataset.history_column
    role_of = {name: role for role, names in dataset.roles.items() for name in names}
    is_last_only = dataset.train_target == "final_assistant_turn"
    if not (keys or role_of or column or is_last_only or dataset.system_prompt):
        return make

    def named(turn: Any) -> Any:
        if not isinstance(turn, Mapping):
            return turn
        turn = {**turn, **{ours: turn[theirs] for ours, theirs in keys.items() if theirs in turn}}
        where = "role" if "role" in turn else "from"
        speaker = turn.get(where)
        return {**turn, where: role_of.get(speaker, speaker)} if isinstance(speaker, str) else turn

    def make_turns(row: Row) -> Example:
        if keys or role_of:
            row = {**row, **{name: renamed(row[name]) for name in _OF_TURNS if name in row}}
        example = make(row)
        rejected = example.rejected
        return dataclasses.replace(
            example,
            messages=completed(example.messages, row),
            rejected=completed(rejected, row) if isinstance(rejected, tuple) else rejected,
        )

    def renamed(value: Any) -> Any:
        return [named(turn) for turn in value] if isinstance(value, list) else named(value)

    def completed(turns: tuple[Turn, ...], row: Row) -> tuple[Turn, ...]:
        if not turns:
            return turns
        if column and row.get(column):
            is_system = turns[0]["role"] == "system"
            turns = (*turns[:is_system], *_earlier(row[column], column), *turns[is_system:])
        if dataset.system_prompt and turns[0]["role"] != "system":
            turns = ({"role": "system", "content": dataset.system_prompt}, *turns)
        if is_last_only:
            answers = [n for n, turn in enumerate(turns) if turn["role"] == "assistant"]
            turns = tuple(
                {**turn, "trained": False} if n in answers[:-1] else turn
                for n, turn in enumerate(turns)
            )
        return turns

    return make_turns


_OF_TURNS = ("messages", "conversations", "prompt", "completion", "chosen", "rejected")
"""Columns that may hold turns."""


def _earlier(value: Any, column: str) -> tuple[Turn, ...]:
    return tuple(
        {"role": role, "content": text}
        for pair in formats.history(value, column)
        for role, text in zip(("user", "assistant"), pair, strict=True)
    )


def of_templates(
    dataset: Dataset,
    system: Callable[[Row], str],
    prompt: Callable[[Row], str],
    completion: Callable[[Row], str],
) -> Callable[[Row], Example]:
    """Return a function that fills templates: to texts, or to the turns of a conversation."""
    is_chat = dataset.dataset_type == "chat_completion"

    def make(row: Row) -> Example:
        if is_chat:
            turns = _turns(system(row), prompt(row), completion(row))
            return formats.chat(turns, _only_tools(row))
        return Example(system(row) + prompt(row), completion(row))

    return make


def of_columns(inputs: Sequence[str], target: str | None) -> Callable[[Row], Example]:
    """Return a function that joins columns: to a text, or to the prompt of a target column."""

    def make(row: Row) -> Example:
        joined = "\n".join(str(row[name]) for name in inputs if not is_missing(row.get(name)))
        if target is None:
            return Example(completion=joined)
        return Example(f"{joined}\n" if joined else "", to_text(row.get(target)))

    return make


def of_function(function: Callable[[Mapping[str, Any]], Any]) -> Callable[[Row], Example]:
    """Return a function that makes an example with a user's function."""

    def make(row: Row) -> Example:
        try:
            made = function(dict(row))  # it may change its row, which is shared
        except RowError:
            raise
        except Exception as error:
            raise RowError(
                f"the function of dataset_type failed with {type(error).__name__}: {error}.",
                f"The row has the columns {listed([*row])}.",
            ) from None
        if isinstance(made, Example):
            return made
        if isinstance(made, tuple) and len(made) == 2 and all(isinstance(t, str) for t in made):
            return Example(*made)
        raise RowError(
            f"the function of dataset_type returned {type(made).__name__}.",
            "Return (prompt, completion), two texts.",
        )

    return make
