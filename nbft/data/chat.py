"""Conversations as text, through the chat template: what is asked, and what is trained on.

What is trained on is what the model will have to write: after the template's text up to an answer,
with its generation prompt, the answer and the end of its turn, and nothing else. Called by
`examples` and `tokens`.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from nbft.data.continuation import shared_length
from nbft.data.formats import Example
from nbft.data.rendering import Template
from nbft.data.turns import Turn, called, reasoning_in, visible
from nbft.errors import DataError, Problem


class Segment(NamedTuple):
    """A part of a conversation."""

    text: str
    is_trained: bool


class Conversation(NamedTuple):
    """A conversation as text.

    Attributes:
        segments: What is read and what is trained on, by turns.
        changes: Whether the template changes an earlier turn when one is added; then only the
            last answer is trained on.
        is_folded: Whether the system turn stands in the first question, because the template
            takes none.
        remark: What a person should know of how the template writes it, to follow a number of
            conversations; "" for nothing.
    """

    segments: list[Segment]
    changes: bool = False
    is_folded: bool = False
    remark: str = ""


class RefusedConversationError(DataError):
    """The chat template cannot say a conversation.

    Attributes:
        number: Number of the conversation among those given, from 0.
        why, fix: What is wrong and what to do, two sentences.
    """

    def __init__(self, number: int, why: str, fix: str, field: str = "data") -> None:
        self.number, self.why, self.fix, self.field = number, why, fix, field
        super().__init__(Problem(field, None, f"row {number + 1:,}: {why}", fix))

    def __reduce__(self) -> Any:
        return type(self), (self.number, self.why, self.fix, self.field)


def answers(turns: Sequence[Turn]) -> list[int]:
    """Return the places of the answers that are trained on.

    >>> answers([{"role": "user"}, {"role": "assistant"}, {"role": "assistant", "trained": False}])
    [1]
    """
    return [
        n for n, t in enumerate(turns) if t["role"] == "assistant" and t.get("trained") is not False
    ]


def unanswered(conversation: Sequence[Turn]) -> int:
    """Return how many turns come after the last answer.

    >>> unanswered([{"role": "user"}, {"role": "assistant"}, {"role": "user"}])
    1
    """
    turns = enumerate(reversed(conversation))
    return next((n for n, turn in turns if turn["role"] == "assistant"), len(conversation))


def only_answer(example: Example, place: int) -> Example:
    """Return an example that ends with one of its answers and trains on no other.

    Args:
        example: A conversation.
        place: The turn of the answer; -1 leaves the example as it is.
    """
    if place < 0:
        return example
    earlier = tuple(
        {**turn, "trained": False} if turn["role"] == "assistant" else turn
        for turn in example.messages[:place]
    )
    return dataclasses.replace(example, messages=(*earlier, example.messages[place]))


def with_answer(example: Example, completion: str) -> Example:
    """Return an example with another answer, or another last answer, which alone is trained on.

    >>> with_answer(Example("2 + 2 =", "4", rejected="5"), "22").completion
    '22'
    """
    if not example.messages:
        return dataclasses.replace(example, completion=completion, rejected=None)
    last = max(n for n, turn in enumerate(example.messages) if turn["role"] == "assistant")
    turns = (*example.messages[:last], {"role": "assistant", "content": completion})
    return only_answer(dataclasses.replace(example, messages=turns, rejected=None), last)


def split_answers(examples: Sequence[Example], template: Template) -> list[tuple[int, ...]]:
    """Return for each example the places of the answers that need a sequence each; (-1,) for none.

    Args:
        examples: Examples; those that are no conversation with several answers need none.
        template: The chat template.
    """
    places = [answers(example.messages) for example in examples]
    several = [n for n, of_one in enumerate(places) if len(of_one) > 1]
    found: list[tuple[int, ...]] = [(-1,)] * len(examples)
    try:
        changes = [c.changes for c in _conversations([examples[n] for n in several], template)]
    except Exception:  # one is refused, which is said by its number where it is tokenised
        changes = [_changes(examples[n], template) for n in several]
    for n, is_changed in zip(several, changes, strict=True):
        if is_changed:
            found[n] = tuple(places[n])
    return found


def each_answer(examples: list[Example], template: Template) -> list[Example]:
    """Return examples with one for each answer of those whose earlier turns the template changes."""
    if not template.may_change:
        return examples
    places = split_answers(examples, template)
    return [only_answer(e, n) for e, of_one in zip(examples, places, strict=True) for n in of_one]


def _changes(example: Example, template: Template) -> bool:
    try:
        (conversation,) = _conversations([example], template)
    except Exception:
        return False
    return conversation.changes


def as_conversations(
    examples: Sequence[Example], template: Template, numbers: Sequence[int], split: str
) -> list[Conversation]:
    """Return conversations as text.

    Args:
        examples: Examples with messages.
        template: The chat template.
        numbers: Number of each example, for messages.
        split: Name of the split, for messages.

    Raises:
        RefusedConversationError: The template cannot say one of them.
    """
    try:
        return _conversations(examples, template)
    except Exception:  # a template may raise anything; find the conversation
        return [
            _alone(example, template, number, split)
            for example, number in zip(examples, numbers, strict=True)
        ]


def _alone(example: Example, template: Template, number: int, split: str) -> Conversation:
    try:
        (conversation,) = _conversations([example], template)
    except _UnsaidError as error:
        raise RefusedConversationError(number, error.why, error.fix, f"data.{split}") from None
    except Exception as error:
        why = f"the chat template refuses the messages ({error})."
        if names := [*called(example.messages), *(t["function"]["name"] for t in example.tools)]:
            why += f" It may not take tools; this row has {', '.join(dict.fromkeys(names))}."
        fix = "Roles are usually system, user, assistant, by turns."
        raise RefusedConversationError(number, why, fix, f"data.{split}") from None
    return conversation


class _UnsaidError(Exception):
    """The template leaves out what a tool is asked, answers or is."""

    def __init__(self, what: str) -> None:
        self.why = f"the chat template does not write {what}, so the model would not learn of it."
        self.fix = (
            "Choose a model whose template writes tools, set model.chat_template=chatml, or leave "
            "such rows out."
        )
        super().__init__(self.why)


def _conversations(examples: Sequence[Example], template: Template) -> list[Conversation]:
    takes_system = not any(map(_has_system, examples)) or template.takes_system
    messages = [e.messages if takes_system else _folded(e.messages) for e in examples]
    greets = any(turns[0]["role"] == "assistant" for turns in messages)
    first = 0 if not greets or template.takes_greeting else 1
    places = [
        (n, place) for n, turns in enumerate(messages) for place in answers(turns) if place >= first
    ]
    asked = [(messages[n][:place], examples[n].tools) for n, place in places]
    answered = [(messages[n][: place + 1], examples[n].tools) for n, place in places]
    before, after = template(asked, asks=True), template(answered, asks=False)
    marked = template.spans(answered)
    headers = _headers(asked, before, after, template)
    rendered: list[list[_Answer]] = [[] for _ in examples]
    for k, (n, place) in enumerate(places):
        spans = None if marked is None else marked[k]
        answer = _Answer(
            messages[n][place], before[k], after[k], headers[k], spans, template.special
        )
        rendered[n].append(answer)
    made = []
    for example, turns, of_one in zip(examples, messages, rendered, strict=True):
        if of_one:
            conversation = _joined(of_one)
            conversation = conversation._replace(remark=_remark(example, of_one, conversation))
        else:  # every answer is only read
            (text,) = template([(turns, example.tools)], asks=False)
            conversation = Conversation([Segment(text, False)])
        made.append(conversation._replace(is_folded=turns is not example.messages))
    return made


def _headers(
    asked: Sequence[tuple[Sequence[Turn], Any]],
    before: Sequence[str],
    after: Sequence[str],
    template: Template,
) -> list[int]:
    """Return how much of each question also stands before its answer: usually all, -1 for none.

    A template may ask with, say, <think>, and write answers without it. What it writes before any
    answer is seen by one that begins with a character of no text.
    """
    lengths = [len(text) for text in before]
    odd = [k for k, text in enumerate(before) if not after[k].startswith(text)]
    probe = {"role": "assistant", "content": "\ue000"}
    probes = template([((*asked[k][0], probe), asked[k][1]) for k in odd], asks=False)
    for k, text in zip(odd, probes, strict=True):
        header = shared_length(before[k], text)
        lengths[k] = header if header and after[k].startswith(before[k][:header]) else -1
    return lengths


@dataclasses.dataclass(slots=True)
class _Answer:
    """An answer that is trained on.

    Attributes:
        turn: The turn.
        question: The text up to it, with the generation prompt.
        whole: The text with it.
        header: How much of the question stands before the answer there; -1 if it does not.
        spans: What the template's own tags mark in it; None without tags.
        special: The special tokens of the tokenizer, the longest first.
        reply: What the model writes after the question, up to the end of its turn.
    """

    turn: Turn
    question: str
    whole: str
    header: int
    spans: list[tuple[int, int]] | None
    special: tuple[str, ...]
    reply: str = ""

    def __post_init__(self) -> None:
        self.reply = self._ended(self._reply())

    def after(self, begin: int) -> Iterator[Segment]:
        """Yield what is read after the first characters of the question, and what is trained on.

        Where the template has tags of its own, only what they mark of the reply is trained on.
        """
        yield Segment(self.question[begin:], False)
        reply, at = self.reply, len(self.question)
        if self.spans is None or not self.whole.startswith(self.question + reply):
            yield Segment(reply, True)
            return
        done, end = at, at + len(reply)
        for first, last in self.spans:
            if last > done and first < end:
                yield Segment(self.whole[done : max(first, done)], False)
                yield Segment(self.whole[max(first, done) : min(last, end)], True)
                done = min(last, end)
        yield Segment(self.whole[done:end], False)

    def _reply(self) -> str:
        content, reasoning = self.turn["content"], self.turn.get("reasoning_content")
        if self.header < 0:  # it asks for no reasoning, and this answer has some
            shown = visible(content).strip()
            if not shown or shown not in self.whole:
                raise ValueError("it writes an answer differently from how it asks for one")
            return self.whole[self.whole.rindex(shown) :]
        written, opening = self.whole[self.header :], self.question[self.header :].strip()
        if reasoning and opening:  # it asks for reasoning, so it must know where it belongs
            content = f"<think>\n{reasoning}\n</think>\n\n{content}"
        shown = visible(content).strip()
        if content == shown or reasoning_in(content) in written or shown not in written:
            return written
        # The template leaves out the reasoning that it will ask for.
        end = written[written.rindex(shown) + len(shown) :]
        if opening and content.lstrip().startswith(opening):
            content = content.lstrip()[len(opening) :].lstrip("\n")
        return f"{content.rstrip()}{end}"

    @property
    def is_unreasoned(self) -> bool:
        """Whether it answers at once where the template begins with reasoning."""
        opening = self.question[self.header :] if self.header >= 0 else ""
        return "<think>" in opening and "</think>" not in self.reply

    def _ended(self, reply: str) -> str:
        """Return a reply up to the end of its turn: what the template puts after it is not written.

        The end is the first of the special tokens after the text, with those right after it.
        """
        ended = reply.rstrip()
        if not ended.endswith(self.special):
            return reply
        while not self.turn.get("tool_calls"):  # the text of a call may end in one, too
            text = ended
            while token := next(filter(text.endswith, self.special), ""):
                text = text.removesuffix(token)
            earlier = text.rstrip()
            if earlier == text or not earlier.endswith(self.special):
                break
            ended = earlier
        return ended


def _joined(of_one: Sequence[_Answer]) -> Conversation:
    """Return the answers of one conversation as segments, each after what is read before it."""
    segments: list[Segment] = []
    so_far, changes = "", False
    for answer in of_one:
        if not answer.question.startswith(so_far):
            segments, so_far, changes = [], "", True
        added = [segment for segment in answer.after(len(so_far)) if segment.text]
        segments += added
        so_far += "".join(segment.text for segment in added)
    if of_one[-1].whole.startswith(so_far) and (rest := of_one[-1].whole[len(so_far) :]):
        segments.append(Segment(rest, False))
    return Conversation(segments, changes)


def _has_system(example: Example) -> bool:
    return bool(example.messages) and example.messages[0]["role"] == "system"


def _folded(messages: tuple[Turn, ...]) -> tuple[Turn, ...]:
    """Return the turns with that of the system in front of the first question."""
    if len(messages) < 2 or messages[0]["role"] != "system" or messages[1]["role"] != "user":
        return messages
    system, question, *rest = messages
    text = f"{system['content']}\n\n{question['content']}"
    return ({**question, "content": text}, *rest)


def _remark(example: Example, of_one: Sequence[_Answer], conversation: Conversation) -> str:
    """Return what a person should know of how a conversation is written.

    Raises:
        _UnsaidError: It leaves out what a tool is, is asked or answers.
    """
    last = answers(example.messages)[-1]
    turns = example.messages[: last + 1]
    text = "".join(segment.text for segment in conversation.segments)
    for tool in example.tools:
        if tool["function"]["name"] not in text:
            raise _UnsaidError(f"the tool {tool['function']['name']}")
    written = {id(answer.turn): answer.reply for answer in of_one if "tool_calls" in answer.turn}
    for turn in turns:
        for name in called([turn]):
            if name not in written.get(id(turn), text):
                raise _UnsaidError(f"the call of the tool {name}")
        if turn["role"] == "tool" and _core(turn["content"]) not in text:
            raise _UnsaidError(" ".join(["what the tool", turn.get("name", ""), "answers"]))
    if _has_system(example) and example.messages[0]["content"].strip() not in text:
        return "lose their system turn, which the chat template leaves out."
    reasoning = turns[-1].get("reasoning_content") or reasoning_in(turns[-1]["content"])
    if reasoning.strip() not in of_one[-1].reply:
        return "lose their reasoning, which the chat template leaves out."
    if of_one[-1].is_unreasoned:
        return (
            "have an answer without reasoning, although the chat template begins it with <think>; "
            "the model learns to answer at once."
        )
    return ""


def _core(content: str) -> str:
    """Return the first word of a tool's answer, which a template may quote or indent."""
    found = re.search(r"\w+", content)
    return found.group() if found else ""
