"""One row as the model will see it: its tokens, which of them are trained on, and what is cut off.

The tokens come from `tokens.encode`, as in training; nothing is tokenised or drawn here. Called by
`nbft.widgets.lens` and `nbft inspect`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

from nbft.config import Config
from nbft.data.chat import RefusedConversationError
from nbft.data.examples import Example, Examples
from nbft.data.packing import bins
from nbft.data.tokens import Encoded, Sequences, encode_rows, located
from nbft.data.turns import Turn, text_of, visible
from nbft.errors import DataError
from nbft.formatting import count
from nbft.methods import IGNORE_INDEX, Method, method_of

Kind = Literal["prompt", "trained", "special", "cut"]

KINDS: dict[Kind, str] = {
    "prompt": "not trained: the model reads it",
    "trained": "trained: the model learns to write it",
    "special": "special: a marker of the tokenizer or of the chat template",
    "cut": "cut off: the model never sees it",
}
"""Descriptions of the kinds of tokens."""


def kinds_of(method: Method) -> dict[Kind, str]:
    """Return the descriptions of the kinds of tokens for a method: bad answers are trained on, too."""
    if not method.uses_labels:
        return KINDS
    learned = "trained: the model learns to write it, or not to, if the answer is a bad one"
    return {**KINDS, "trained": learned}


ORDERS = {
    "share": "least trained first",
    "length": "longest first",
    "cut": "most cut first",
}
"""Orders that put the worst rows first."""


class LensToken(NamedTuple):
    """A token; or, where one character is made of several tokens, all of them.

    Attributes:
        ids: Its id; several for the pieces of one character.
        text: Its text.
        kind: What the training does with it. A special token with a label is trained on.
        label: What is predicted at its position: its own id, or -100 for nothing.
    """

    ids: tuple[int, ...]
    text: str
    kind: Kind
    label: int


class LensPart(NamedTuple):
    """A part of a row: the prompt, the completion, or one message of a conversation.

    Attributes:
        name: "prompt", "completion", "text", or the role of a message.
        is_trained: Whether the model learns to write it.
        text: Its text, without what the tokenizer and the chat template add.
        tokens: Its tokens; empty until there is a tokenizer.
        side: The sequence that it belongs to, such as "chosen" and "rejected"; "" for what all
            sequences of the row share.
    """

    name: str
    is_trained: bool
    text: str
    tokens: list[LensToken]
    side: str = ""

    @property
    def title(self) -> str:
        """Its name, after that of its side."""
        return f"{self.side}: {self.name}" if self.side else self.name


class Measure(NamedTuple):
    """The numbers of a row.

    Attributes:
        length: Tokens of the whole row.
        kept: Those that the model sees.
        trained: Those that add to the loss. The first token of a row is never predicted.
    """

    length: int
    kept: int
    trained: int

    @property
    def cut(self) -> int:
        """Tokens that are cut off."""
        return self.length - self.kept

    @property
    def share(self) -> float:
        """Trained share of the tokens that the model sees."""
        return self.trained / self.kept if self.kept else 0.0


Fact = tuple[str, Literal["", "good", "bad"]]


@dataclass(frozen=True)
class LensRow:
    """A row as the model will see it.

    Attributes:
        parts: Its parts, in order.
        measure: Its numbers; None until there is a tokenizer.
        end: What happens to the end-of-sequence token: "trained", "not trained", "cut off" or
            "missing".
        is_merged: Whether a token across prompt and completion was avoided.
        unanswered: Turns after the last answer, which are left out.
        is_estimate: Whether only the beginning of a very long text was tokenised, so that its
            length is an estimate.
        sides: The numbers of each sequence where a row has several, the shared prompt included.
        opinion: What the row says of its answers: their label, or how much better one is.
        is_asked: Whether the model answers it in training, so that nothing of it is trained on.
    """

    parts: list[LensPart]
    measure: Measure | None = None
    end: str = ""
    is_merged: bool = False
    unanswered: int = 0
    is_estimate: bool = False
    sides: Mapping[str, Measure] = field(default_factory=dict)
    opinion: tuple[Fact, ...] = ()
    is_asked: bool = False

    @property
    def tokens(self) -> list[LensToken]:
        """The tokens of all parts."""
        return [token for part in self.parts for token in part.tokens]

    @property
    def kept_tokens(self) -> list[LensToken]:
        """The tokens that the model sees; of several sequences, the shared ones once."""
        return [token for token in self.tokens if token.kind != "cut"]

    @property
    def facts(self) -> list[Fact]:
        """Short facts about the row, each good, bad or neither."""
        if self.measure is None:
            characters = count(sum(len(part.text) for part in self.parts), "character")
            return [(characters, ""), *self.opinion]
        length, kept, trained = self.measure
        cut = self.measure.cut
        about = "about " if self.is_estimate else ""
        facts: list[Fact] = [(about + count(length, "token"), "")]
        if self.is_asked and not cut:
            return [*facts, ("a prompt: the model answers it, and nothing of it is trained on", "")]
        if self.sides and trained:
            facts = [
                (f"{name} {about}{count(one.length, 'token')}, {count(one.trained)} trained", "")
                for name, one in self.sides.items()
            ]
        elif trained:
            facts.append((f"{count(trained)} trained ({self.measure.share:.0%})", ""))
        else:
            why = "its prompt fills data.max_length" if cut else "there is nothing to train on"
            facts.append((f"left out of the training: {why}", "bad"))
        facts.append((f"end of sequence {self.end}", "good" if self.end == "trained" else "bad"))
        if self.unanswered:
            facts.append((f"{count(self.unanswered, 'turn')} without an answer left out", "bad"))
        words = f"{about}{count(cut)} cut off after {count(kept)}" if cut else "nothing cut"
        if cut and self.sides:
            of_sides = {name: one.cut for name, one in self.sides.items() if one.cut}
            words = " and ".join(f"{about}{count(n)} of {name}" for name, n in of_sides.items())
            words += " cut off"
        return [*facts, (words, "bad" if cut else ""), *self.opinion]


def as_text(texts: Mapping[str, Example], *, completion_only: bool = True) -> LensRow:
    """Return an example as text, for use without a tokenizer.

    Args:
        texts: The text of each named sequence of the example.
        completion_only: Whether only answers add to the loss.
    """
    return LensRow(
        _arranged(
            {
                name: [
                    LensPart(part, is_trained or not completion_only, text, [])
                    for part, is_trained, text in _texts(sequence)
                ]
                for name, sequence in texts.items()
            }
        )
    )


def as_tokens(
    texts: Mapping[str, Example],
    row: Sequences,
    tokenizer: Any,
    max_length: int,
    *,
    completion_only: bool = True,
) -> LensRow:
    """Return an example as tokens.

    Args:
        texts: The text of each named sequence of the example.
        row: The same sequences from `encode_rows`.
        tokenizer: The tokenizer that made them.
        max_length: Most tokens of a sequence that the model sees.
        completion_only: Whether only answers add to the loss.
    """
    parts = _arranged(
        {
            name: _sequence_parts(texts[name], encoded, tokenizer, max_length, completion_only)
            for name, encoded in row.items()
        }
    )
    ends = [_end(encoded, tokenizer.eos_token_id, max_length) for encoded in row.values()]
    return LensRow(
        parts,
        measure(row, max_length),
        next((end for end in ends if end != "trained"), "trained"),
        any(encoded.is_merged for encoded in row.values()),
        max(encoded.unanswered for encoded in row.values()),
        any(encoded.untokenised for encoded in row.values()),
        {name: measure({name: one}, max_length) for name, one in row.items()}
        if len(row) > 1
        else {},
    )


def seen(
    examples: Examples,
    place: int,
    config: Config,
    tokenizer: Any = None,
    split: str = "train",
    encode: Callable[..., list[Sequences]] = encode_rows,
) -> tuple[LensRow | None, list[str]]:
    """Return a row as tokens, as text without a tokenizer, and the problems with it.

    Args:
        examples: The examples of the split.
        place: The row among them, from 0.
        config: The config that they come from.
        tokenizer: The one that the training uses, or None.
        split: Name of the split, for messages.
        encode: Tokenises examples.
    """
    method, data = method_of(config), config.data
    only, shown = data.completion_only_loss, None
    try:
        example = examples[place]
        texts = {name: text[0] for name, text in method.texts([example]).items()}
        opinion = _opinion(example, method)
        shown = replace(as_text(texts, completion_only=only), opinion=opinion)
        if tokenizer is not None:
            (row,) = encode(
                *([example], tokenizer, method, split),
                completion_only=only,
                first=place,
                max_length=data.max_length,
                most_prompt_tokens=method.most_prompt_tokens(config),
            )
            shown = as_tokens(texts, row, tokenizer, data.max_length, completion_only=only)
            shown = replace(shown, opinion=opinion, is_asked=method.generates)
    except RefusedConversationError as error:
        return shown, [str(problem) for problem in located(error, examples).problems]
    except DataError as error:
        return shown, [str(problem) for problem in error.problems]
    return shown, []


def tokens(config: Config, example: Example, *, folder: Path | None = None) -> LensRow:
    """Return an example as the tokens that the model will see; `inspect` shows them.

    Args:
        config: The config; its model's tokenizer is used, and downloaded if it is not here.
        example: One of `nbft.examples(config)`.
        folder: Folder of the config file, for relative paths.

    Returns:
        A row whose `tokens` have ids, text, kind and label each, and whose `measure` counts them.

    Raises:
        ModelError: The tokenizer is nowhere to be found.
        DataError: The chat template cannot say the conversation.
    """
    from nbft.models.find import find_model
    from nbft.models.load import tokenizer_for_display, tokenizer_source

    name, revision = tokenizer_source(config)
    tokenizer = tokenizer_for_display(
        config, find_model(name, revision, lambda _: None).path, folder
    )
    method, only = method_of(config), config.data.completion_only_loss
    texts = {name: text[0] for name, text in method.texts([example]).items()}
    most = method.most_prompt_tokens(config)
    (row,) = encode_rows(
        [example], tokenizer, method, completion_only=only, most_prompt_tokens=most
    )
    row_seen = as_tokens(texts, row, tokenizer, config.data.max_length, completion_only=only)
    return replace(row_seen, opinion=_opinion(example, method), is_asked=method.generates)


def _arranged(parts: Mapping[str, list[LensPart]]) -> list[LensPart]:
    """Return the parts of sequences in one list: first what comes before all their answers, once."""
    if len(parts) == 1:
        return next(iter(parts.values()))
    shared: list[LensPart] = []
    for together in zip(*(of_side[:-1] for of_side in parts.values()), strict=False):
        if any(part != together[0] for part in together):
            break
        shared.append(together[0])
    rest = (
        part._replace(side=s) for s, of_side in parts.items() for part in of_side[len(shared) :]
    )
    return [*shared, *rest]


def _opinion(example: Example, method: Method) -> tuple[Fact, ...]:
    """Return what a row says of its answers, if the method asks for it."""
    if not method.uses_labels:
        return ()
    if example.label is not None:
        return ((f"labelled {'good' if example.label else 'bad'}", ""),)
    facts: list[Fact] = []
    if example.has_same_answers:
        facts.append(("both answers are the same", "bad"))
    if method.scores_answers and (asked := example.asked_margin) is not None:
        facts.append((f"margin {asked:g} in the loss", ""))
    elif (margin := example.margin) is not None:
        words = f"chosen scored {abs(margin):g} {'higher' if margin > 0 else 'lower'}"
        facts.append((words if margin else "both scored alike", "" if margin > 0 else "bad"))
    return tuple(facts)


def _sequence_parts(
    example: Example, encoded: Encoded, tokenizer: Any, max_length: int, completion_only: bool
) -> list[LensPart]:
    pieces = list(_pieces(encoded.ids, tokenizer))
    if example.messages:
        starts, is_template = _of_template(example, pieces, tokenizer)
    else:
        starts, is_template = _of_prompt(example, pieces, encoded.prompt_tokens), set[int]()
    special = _special_ids(tokenizer)
    parts = as_text({"": example}, completion_only=completion_only).parts[: len(starts)]
    place = at = 0
    for number, (ids, text) in enumerate(pieces):
        last = at + len(ids) - 1
        label = ids[-1] if encoded.loss_mask[last] and last < max_length else IGNORE_INDEX
        kind: Kind = "trained" if label != IGNORE_INDEX and last else "prompt"
        if last >= max_length:
            kind = "cut"
        elif ids[0] in special or (number in is_template and kind == "prompt"):
            kind = "special"
        while place + 1 < len(starts) and starts[place + 1] <= number:
            place += 1
        parts[place].tokens.append(LensToken(ids, text, kind, label))
        at = last + 1
    return parts


def measure(row: Sequences, max_length: int) -> Measure:
    """Return the numbers of a row, summed over its sequences.

    >>> measure({"completion": Encoded([5, 6, 7, 2], [False, False, True, True], 2, False)}, 3)
    Measure(length=4, kept=3, trained=1)
    """
    sequences = row.values()
    return Measure(
        sum(one.length for one in sequences),
        sum(min(len(one.ids), max_length) for one in sequences),
        sum(sum(one.loss_mask[1:max_length]) for one in sequences),
    )


def worst_first(measures: Sequence[Measure | None], order: str) -> list[int]:
    """Return row numbers from the worst to the best row; unreadable ones (None) come first.

    >>> worst_first([Measure(9, 9, 3), Measure(12, 10, 9), None], "cut")
    [2, 1, 0]
    """
    keys: dict[str, Callable[[Measure], float]] = {
        "share": lambda one: one.share,
        "length": lambda one: -one.length,
        "cut": lambda one: -one.cut,
    }

    def key(number: int) -> tuple[bool, float]:
        measure = measures[number]
        return (True, keys[order](measure)) if measure else (False, 0.0)

    return sorted(range(len(measures)), key=key)


class Piece(NamedTuple):
    """The part of a row in a packed sequence.

    Attributes:
        row: Index of the row in the given lengths.
        begin: Index of its first token in the sequence.
        end: Index after its last token in the sequence.
    """

    row: int
    begin: int
    end: int


def sequences(lengths: Sequence[int], max_length: int, strategy: str) -> list[list[Piece]]:
    """Return the pieces of rows in each packed sequence.

    Args:
        lengths: Tokens of each row, at most max_length.
        max_length: Longest sequence, in tokens.
        strategy: data.packing_strategy.

    >>> sequences([3, 4], 5, "wrapped")
    [[Piece(row=0, begin=0, end=3), Piece(row=1, begin=0, end=2)], [Piece(row=1, begin=2, end=4)]]
    """
    if strategy != "wrapped":
        return [
            [Piece(row, 0, lengths[row]) for row in rows]
            for rows in bins(lengths, max_length, strategy)
        ]
    packed: list[list[Piece]] = []
    room = 0
    for row, length in enumerate(lengths):
        begin = 0
        while begin < length:
            if not room:
                packed.append([])
                room = max_length
            end = min(length, begin + room)
            packed[-1].append(Piece(row, begin, end))
            room -= end - begin
            begin = end
    return packed


def _texts(example: Example) -> Iterator[tuple[str, bool, str]]:
    """Yield (name, is an answer, text) of each part."""
    if example.messages:
        for message in example.messages:
            is_trained = message["role"] == "assistant" and message.get("trained") is not False
            yield message["role"], is_trained, text_of(message)
    elif example.prompt:
        yield "prompt", False, example.prompt
        yield "completion", True, example.completion
    else:
        yield "text", True, example.completion


def _end(encoded: Encoded, eos: int, max_length: int) -> str:
    if eos not in encoded.ids:
        return "cut off" if encoded.untokenised else "missing"
    place = len(encoded.ids) - 1 - encoded.ids[::-1].index(eos)
    if place >= max_length:
        return "cut off"
    return "trained" if place and encoded.loss_mask[place] else "not trained"


def _special_ids(tokenizer: Any) -> set[int]:
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return {*tokenizer.all_special_ids, *(i for i, token in added.items() if token.special)}


def _pieces(ids: Sequence[int], tokenizer: Any) -> Iterator[tuple[tuple[int, ...], str]]:
    """Yield ids with their text; ids that only together make a character stay together."""
    special = _special_ids(tokenizer)
    step = _steps(tokenizer)
    held: list[int] = []
    for token in ids:
        if token in special:
            if held:
                yield tuple(held), tokenizer.decode(held)
                held, step = [], _steps(tokenizer)
            yield (token,), tokenizer.convert_ids_to_tokens(token)
            continue
        held.append(token)
        try:
            text = step(token)
        except Exception:  # the stream of some tokenizers fails
            text, step = tokenizer.decode(held), _steps(tokenizer)
        if text is not None:
            yield tuple(held), text
            held = []
    if held:
        yield tuple(held), tokenizer.decode(held)


def _steps(tokenizer: Any) -> Callable[[int], str | None]:
    """Return a function from the next id to its text; None while a character is incomplete."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return lambda token: tokenizer.decode([token])
    from tokenizers.decoders import DecodeStream

    stream = DecodeStream(skip_special_tokens=False)
    return lambda token: stream.step(backend, token)


def _of_prompt(
    example: Example, pieces: Sequence[tuple[tuple[int, ...], str]], prompt_tokens: int
) -> list[int]:
    """Return the pieces at which prompt and completion begin."""
    if not example.prompt:
        return [0]
    at = 0
    for number, (ids, _) in enumerate(pieces):
        if at >= prompt_tokens:
            return [0, number]
        at += len(ids)
    return [0]


def _of_template(
    example: Example, pieces: Sequence[tuple[tuple[int, ...], str]], tokenizer: Any
) -> tuple[list[int], set[int]]:
    """Return the pieces at which the messages begin, and those that the template adds."""
    whole = "".join(text for _, text in pieces)
    contents = list(_contents(example.messages, whole))
    bounds = [0]
    for number in range(1, len(contents)):
        begin = _rendered_length(example, number, whole, tokenizer)
        before, here = contents[number - 1][1], contents[number][0]
        bounds.append(begin if before <= begin <= here else before)
    starts, is_template = [0], set[int]()
    at = 0
    for number, (_, text) in enumerate(pieces):
        end = at + len(text)
        while len(starts) < len(bounds) and bounds[len(starts)] <= at:
            starts.append(number)
        if contents and not any(at < stop and start < end for start, stop in contents):
            is_template.add(number)
        at = end
    return starts, is_template


def _contents(messages: Sequence[Turn], whole: str) -> Iterator[tuple[int, int]]:
    """Yield the span of each message's content in the rendered text; stop at one that is absent."""
    at = 0
    for message in messages:
        for text in (message["content"].strip(), visible(message["content"]).strip()):
            start = whole.find(text, at)  # some templates trim, or leave earlier reasoning out
            if start >= 0:
                break
        else:
            return
        at = start + len(text)
        yield start, at


def _rendered_length(example: Example, turns: int, whole: str, tokenizer: Any) -> int:
    """Return the length of the first turns in the rendered text; -1 if it differs from them."""
    try:
        text = tokenizer.apply_chat_template(
            list(example.messages[:turns]),
            tools=list(example.tools) or None,
            tokenize=False,
            add_generation_prompt=False,
        )
    except Exception:  # a template may refuse a conversation that stops here
        return -1
    return len(text) if whole.startswith(text) else -1
