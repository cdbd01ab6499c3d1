"""Conversations as text, through the chat template: what is asked, and what is trained on.

Called by `tokens`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from nbft.data.formats import Turn
from nbft.errors import DataError, Problem


class Segment(NamedTuple):
    """A part of a conversation, tokenised on its own."""

    text: str
    is_trained: bool


def chat_segments(
    messages: Sequence[Turn], tokenizer: Any, split: str = "train", number: int = 0
) -> list[Segment]:
    """Return a conversation as segments, through the chat template.

    The text up to each answer is rendered as it will be when the model is used, so the model is
    trained on exactly what it will have to write. Turns after the last answer are left out.

    Args:
        messages: Turns with role and content, an answer among them.
        tokenizer: A transformers tokenizer.
        split: Name of the split, for messages.
        number: Number of the conversation in its split, for messages.

    Raises:
        DataError: The tokenizer has no chat template, or the template refuses the conversation.
    """
    _require_template(tokenizer, split)
    try:
        return _segments([messages], tokenizer)[0]
    except Exception as error:
        why = f"row {number + 1}: the chat template refuses the messages ({error})."
        fix = "Roles are usually system, user, assistant, by turns."
        raise DataError(Problem(f"data.{split}", None, why, fix)) from None


def all_segments(
    conversations: Sequence[Sequence[Turn]], tokenizer: Any, split: str, numbers: Sequence[int]
) -> list[list[Segment]]:
    """Return conversations as `chat_segments` does each, in half the time."""
    _require_template(tokenizer, split)
    try:
        return _segments(conversations, tokenizer)
    except Exception:  # a template may raise anything; find the conversation
        return [
            chat_segments(messages, tokenizer, split, number)
            for messages, number in zip(conversations, numbers, strict=True)
        ]


def unanswered(conversation: Sequence[Turn]) -> int:
    """Return how many turns come after the last answer.

    >>> unanswered([{"role": "user"}, {"role": "assistant"}, {"role": "user"}])
    1
    """
    turns = enumerate(reversed(conversation))
    return next((n for n, turn in turns if turn["role"] == "assistant"), len(conversation))


def _require_template(tokenizer: Any, split: str) -> None:
    if not tokenizer.chat_template:
        why = 'has "messages", but the model has no chat template.'
        fix = (
            "Choose an instruct model, set model.chat_template_path, or give prompt and completion."
        )
        raise DataError(Problem(f"data.{split}", None, why, fix))


def _segments(conversations: Sequence[Sequence[Turn]], tokenizer: Any) -> list[list[Segment]]:
    answers = [
        (place, end)
        for place, conversation in enumerate(conversations)
        for end, turn in enumerate(conversation)
        if turn["role"] == "assistant"
    ]
    asked = [list(conversations[place][:end]) for place, end in answers]
    answered = [list(conversations[place][: end + 1]) for place, end in answers]
    before = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    after = tokenizer.apply_chat_template(answered, tokenize=False, add_generation_prompt=False)
    segments: list[list[Segment]] = [[] for _ in conversations]
    done = [""] * len(conversations)
    for (place, end), question, whole in zip(answers, before, after, strict=True):
        if not whole.startswith(question) or not question.startswith(done[place]):
            raise ValueError("the template changes earlier turns when one is added")
        is_trained = conversations[place][end].get("trained") != "no"  # an answer only to be read
        segments[place].append(Segment(question[len(done[place]) :], False))
        segments[place].append(Segment(whole[len(question) :], is_trained))
        done[place] = whole
    return segments
