"""Row formats by name, for `dataset_type`; `auto` recognises most of them by itself.

Each function takes a row and returns an `Example`. To add one, put it into `nbft.registry.datasets`;
a user's own may also return a pair of texts. Called by `examples`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nbft.data import formats
from nbft.data.formats import Example, Row, RowError, Turn, to_text


def _needs(row: Row, columns: Sequence[str], name: str) -> None:
    if missing := [column for column in columns if column not in row]:
        found = ", ".join(row)
        raise RowError(
            f'has no "{missing[0]}", which dataset_type {name} needs; it has {found}.',
            "Map it with columns, or choose another dataset_type.",
        )


def prompt_completion(row: Row) -> Example:
    """Take the columns prompt and completion."""
    _needs(row, ("prompt", "completion"), "prompt_completion")
    return Example(to_text(row["prompt"]), to_text(row["completion"]))


def messages(row: Row) -> Example:
    """Take the turns with role and content in messages."""
    _needs(row, ("messages",), "messages")
    return formats.chat(formats.turns(row["messages"], "messages"))


def sharegpt(row: Row) -> Example:
    """Take the turns with from and value in conversations."""
    _needs(row, ("conversations",), "sharegpt")
    return formats.sharegpt(row)


def alpaca(row: Row) -> Example:
    """Take instruction, input (may be empty) and output, with the prompt of Stanford Alpaca."""
    _needs(row, ("instruction", "output"), "alpaca")
    return formats.instruction(row)


def text(row: Row) -> Example:
    """Train on all of the column text."""
    _needs(row, ("text",), "text")
    return Example(completion=to_text(row["text"]))


def erniekit(row: Row) -> Example:
    """Take ERNIEKit's src and tgt: lists of questions and answers by turns.

    `label` marks each answer as trained on (1) or only read (0). Of a pair of answers (`response`
    and `sort`) the better one is trained on.
    """
    _needs(row, ("src",), "erniekit")
    asked, answered = _list(row["src"]), _list(row.get("tgt"))
    if row.get("response") is not None:
        ranks = row.get("sort") or [1, 0]
        best = max(range(len(row["response"])), key=lambda n: ranks[n])
        answered = [*answered, *_list(row["response"][best])]
    if len(asked) != len(answered) or not asked:
        raise RowError(
            f"src has {len(asked)} turns and tgt {len(answered)}.",
            "Each question needs its answer.",
        )
    labels = row.get("label") or [1] * len(answered)
    turns: list[Turn] = []
    if row.get("system"):
        turns.append({"role": "system", "content": str(row["system"])})
    for question, answer, label in zip(asked, answered, labels, strict=False):
        turns.append({"role": "user", "content": question})
        turn = {"role": "assistant", "content": answer}
        turns.append(turn if label else {**turn, "trained": "no"})
    return formats.chat(tuple(turns))


def _list(value: Any) -> list[str]:
    if value is None:
        return []
    return [str(item) for item in value] if isinstance(value, list) else [str(value)]


def of_columns(inputs: Sequence[str], target: str | None) -> Callable[[Row], Example]:
    """Return a function that joins columns: to a text, or to the prompt of a target column."""

    def make(row: Row) -> Example:
        joined = "\n".join(str(row[name]) for name in inputs if row.get(name) is not None)
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
                f"The row has the columns {', '.join(row)}.",
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
