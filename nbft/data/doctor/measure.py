"""One pass over all rows that keeps only numbers, for the checks.

Rows are read, tokenised and dropped, a thousand at a time; about 200 bytes of each remain: its
lengths, two hashes, a signature and a few flags. Called by `examine`.
"""

from __future__ import annotations

import array
import functools
import hashlib
import itertools
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nbft import registry
from nbft.config import Config
from nbft.config.data import SPLITS
from nbft.data import turns
from nbft.data.cells import is_missing
from nbft.data.chat import RefusedConversationError
from nbft.data.doctor import minhash
from nbft.data.doctor.habits import Habits
from nbft.data.doctor.kinds import KINDS, Kind, Said, own_kind, text_of
from nbft.data.doctor.text import FAMILIES, excerpt, families_in, special_tokens
from nbft.data.examples import Example, Examples, load_examples
from nbft.data.sources import spread
from nbft.data.tokens import Encoded, Sequences, encode_rows
from nbft.errors import DataError, NbftError, Problem
from nbft.methods import method_of

Say = Callable[[str], None]

EXAMPLES = 5
"""Rows that a finding shows."""

FOLDED = "have a system turn, which the chat template does not take"
"""The remark of `Seen.remarked` on rows whose system turn stands before the first question."""

# Signs such as = > ] : may be the mark after which the answer begins.
_CHUNK = 1000  # rows at once: enough for a tokenizer to work on all cores
_SECONDS_BETWEEN_WORDS = 1.0
_MOST_TOKENS = 2**16 - 1  # lengths above count as this


class StoppedError(DataError):
    """The check was stopped."""


@dataclass(frozen=True)
class Place:
    """A row that a finding is about.

    Attributes:
        split: train, validation or test.
        number: Number of the example in its split, from 0.
        field: Dataset that it comes from: data.train.datasets[0].
        row: Its number in its file or list, from 1.
        text: A short part of it, on one line.
    """

    split: str
    number: int
    field: str
    row: int
    text: str


@dataclass
class Hits:
    """The rows of the table that contain something, and where in the first few."""

    rows: array.array[int] = field(default_factory=lambda: array.array("I"))
    texts: dict[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    def add(self, row: int, text: str, place: int) -> None:
        """Record a row, and what surrounds a place of its text."""
        self.rows.append(row)
        if len(self.texts) < EXAMPLES:
            self.texts[row] = excerpt(text, place)


@dataclass
class Column:
    """What one column of one dataset holds.

    Attributes:
        filled: Rows in which it is not empty.
        first: Its value in the first row that was read.
        is_constant: Whether all rows have that value.
    """

    filled: int = 0
    first: Any = None
    is_constant: bool = True


@dataclass
class Seen:
    """What was recorded of the rows. Arrays have one element for each checked row.

    Attributes:
        config: The config whose rows these are.
        tokenizer: The model's tokenizer.
        examples: The examples by split, those that could be read.
        problems: Why the others could not be read.
        remarks: Other messages from reading them.
        split: Split of each row, a number in `names`.
        number: Number of each row in its split.
        dataset: Dataset of each row, a number in `fields`.
        row: Number of each row in its file, from 1.
        tokens: Tokens of each row, whole.
        trained: Tokens of each row that add to the loss at data.max_length.
        is_merged, is_glued, is_chat: Whether a token would cross the boundary; whether the answer
            follows the prompt without a space or line break; whether it is messages.
        end_is_trained, end_is_masked: Whether the end-of-sequence token is trained on; whether it
            is not, although the token before it is.
        answer_is_empty: Whether there is nothing to train on but the end.
        is_unanswered: Whether turns come after the last answer.
        text_hash, spelt_hash: Of prompt and completion; the same without case and spaces.
        prompt_hash: Of the prompt, or of both without one, without case and spaces.
        signature: Of `minhash`, [rows, 64].
        has_same_answers: Whether the two answers of a pair are the same.
        margin: 1 where the chosen answer is scored higher, 0 alike, -1 lower; 2 without scores.
        label: 1 for a good answer, 0 for a bad one, -1 without a label.
        side_tokens: Tokens of a pair's prompt with the chosen and with the rejected answer, whole,
            [rows, 2]; 0 where the method does not compare two.
        odd: Rows with a fault of the catalogue, by kind.
        kinds: The kinds that were looked for: those of the catalogue, and people's own.
        failed: Why a kind could not be looked for, by its name.
        habits: What rows do, for what most of them do.
        foreign: Rows with the markers of another chat template, by its family.
        templated: Rows whose text is written in the model's own chat template.
        special: Rows with other special tokens of the model in their text.
        refused: Why the tokenizer or template refuses rows, by row.
        talk: Rows with what is odd in their turns or cells: undeclared_calls, argument_text,
            renamed_roles, not_a_number.
        remarked: Rows that the chat template writes in a way to know of; see `chat.Conversation`.
        columns: By dataset and column.
        read: Rows read of each dataset.
        context_tokens: Most tokens that the model reads; None where it does not say.
        is_sample: Whether only some of the rows were looked at.
        is_stopped: Whether that is because the check was stopped.
    """

    config: Config
    tokenizer: Any
    examples: dict[str, Examples]
    problems: list[Problem]
    remarks: list[str]
    split: np.ndarray
    number: np.ndarray
    dataset: np.ndarray
    row: np.ndarray
    fields: list[str] = field(default_factory=list)
    odd: dict[str, Hits] = field(default_factory=dict)
    kinds: dict[str, Kind] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    foreign: dict[str, Hits] = field(default_factory=dict)
    templated: Hits = field(default_factory=Hits)
    special: Hits = field(default_factory=Hits)
    refused: dict[int, str] = field(default_factory=dict)
    talk: dict[str, Hits] = field(default_factory=dict)
    remarked: dict[str, list[int]] = field(default_factory=dict)
    columns: dict[str, dict[str, Column]] = field(default_factory=dict)
    read: dict[str, int] = field(default_factory=dict)
    context_tokens: int | None = None
    is_sample: bool = False
    is_stopped: bool = False

    def __post_init__(self) -> None:
        rows = len(self.number)
        self.names = list(self.examples)
        self.tokens = np.zeros(rows, np.int32)
        self.trained = np.zeros(rows, np.int32)
        self.is_merged = np.zeros(rows, bool)
        self.is_glued = np.zeros(rows, bool)
        self.is_chat = np.zeros(rows, bool)
        self.end_is_trained = np.zeros(rows, bool)
        self.end_is_masked = np.zeros(rows, bool)
        self.answer_is_empty = np.zeros(rows, bool)
        self.is_unanswered = np.zeros(rows, bool)
        self.text_hash = np.zeros(rows, np.uint64)
        self.prompt_hash = np.zeros(rows, np.uint64)
        self.spelt_hash = np.zeros(rows, np.uint64)
        self.has_same_answers = np.zeros(rows, bool)
        self.margin = np.full(rows, 2, np.int8)
        self.label = np.full(rows, -1, np.int8)
        self.side_tokens = np.zeros((rows, 2), np.uint16)
        self.habits = Habits(rows)
        self.signature = np.zeros((rows, 64), np.uint16)

    def __len__(self) -> int:
        return len(self.number)

    @property
    def is_stream(self) -> bool:
        """Whether these are the first rows of a stream."""
        return any(examples.is_stream for examples in self.examples.values())

    @property
    def is_tokenised(self) -> np.ndarray:
        """Which rows could be tokenised."""
        return self.tokens > 0

    @property
    def left_out(self) -> int:
        """Rows that are not examples, because they are labelled as bad answers."""
        parts = {part.field: part for split in self.examples.values() for part in split.parts}
        return sum(len(part.rows) - len(part.numbers) for part in parts.values())

    @functools.cached_property
    def similar(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The earlier and the later row of pairs that are nearly the same, and their similarity."""
        first, second, likeness = minhash.similar_pairs(self.signature)
        differ = self.text_hash[first] != self.text_hash[second]
        return first[differ], second[differ], likeness[differ]

    def of(self, split: str) -> np.ndarray:
        """Return which rows belong to a split."""
        if split not in self.names:
            return np.zeros(len(self), bool)
        rows: np.ndarray = self.split == self.names.index(split)
        return rows

    def example(self, row: int) -> Example:
        """Return the example of a row, read again."""
        return self.examples[self.names[self.split[row]]][int(self.number[row])]

    def keep(self, rows: np.ndarray) -> None:
        """Forget all rows but some, as if only these had been chosen.

        Args:
            rows: Which rows to keep, a flag for each.
        """
        new = dict(zip(np.flatnonzero(rows).tolist(), itertools.count(), strict=False))

        def kept(hits: Hits) -> Hits:
            texts = {new[row]: text for row, text in hits.texts.items() if row in new}
            return Hits(array.array("I", [new[row] for row in hits.rows if row in new]), texts)

        for name, value in vars(self).items():
            if isinstance(value, np.ndarray):
                setattr(self, name, value[rows])
        self.habits.keep(rows)
        for found in (self.odd, self.foreign, self.talk):
            for name, hits in [*found.items()]:
                found[name] = kept(hits)
                if not found[name]:
                    del found[name]
        self.templated, self.special = kept(self.templated), kept(self.special)
        self.refused = {new[row]: why for row, why in self.refused.items() if row in new}
        remarked = {name: [new[n] for n in of if n in new] for name, of in self.remarked.items()}
        self.remarked = {name: numbers for name, numbers in remarked.items() if numbers}
        self.is_sample = True

    def place(self, row: int, text: str | None = None) -> Place:
        """Return where a row comes from, with a part of its text."""
        return Place(
            self.names[self.split[row]],
            int(self.number[row]),
            self.fields[self.dataset[row]],
            int(self.row[row]),
            excerpt(text_of(self.example(row))) if text is None else text,
        )


def measure(
    config: Config,
    tokenizer: Any,
    *,
    folder: Path | None = None,
    sample: int | None = None,
    say: Say = lambda _: None,
) -> Seen:
    """Read the rows of every split, and keep numbers.

    Args:
        config: The config.
        tokenizer: Its model's tokenizer.
        folder: Folder of the config file, for relative paths.
        sample: Check about this many rows, spread evenly over all; all of them when None.
        say: Told the progress once a second. An interrupt, or a `StoppedError` raised by it, ends
            the pass, and the rows checked until then are the sample.

    Raises:
        StoppedError: Raised by say before any row was checked.
    """
    examples: dict[str, Examples] = {}
    problems: list[Problem] = []
    remarks: list[str] = []
    for split in SPLITS:
        try:
            of_split, messages = load_examples(config, split, folder=folder, is_strict=False)
        except DataError as error:
            problems += [
                p if isinstance(p, Problem) else Problem("", None, p) for p in error.problems
            ]
            continue
        if len(of_split):
            examples[split] = of_split
        remarks += [*of_split.recognised, *messages]
    progress = _Progress(say)
    seen = _table(config, tokenizer, examples, sample, progress)
    seen.problems = list({str(problem): problem for problem in problems}.values())
    seen.remarks = list(dict.fromkeys(remarks))
    _Pass(seen, progress).run()
    return seen


class _Progress:
    """Passes messages on, but at most once a second."""

    def __init__(self, say: Say) -> None:
        self._say, self._last = say, time.monotonic()

    def __call__(self, text: str) -> None:
        if time.monotonic() - self._last >= _SECONDS_BETWEEN_WORDS:
            self._say(text)
            self._last = time.monotonic()


def _table(
    config: Config,
    tokenizer: Any,
    examples: dict[str, Examples],
    sample: int | None,
    progress: _Progress,
) -> Seen:
    """Return an empty table of the rows to check: each row of a file once."""
    total = sum(map(len, examples.values()))
    fields: list[str] = []
    is_sample = False
    parts = [np.zeros((0, 4), np.int64)]
    for code, split_examples in enumerate(examples.values()):
        size = len(split_examples)
        numbers = spread(size, size if sample is None else -(-sample * size // max(total, 1)))
        is_sample |= len(numbers) < size
        origins = np.empty((len(numbers), 2), np.int64)
        for n, number in enumerate(numbers.tolist()):
            origins[n] = split_examples.origin(number)
            if n % _CHUNK == 0:
                progress(f"Found {n:,} of {total:,} rows")
        # A mixture may repeat rows; that is meant.
        _, once = np.unique((origins[:, 0] << 40) | origins[:, 1], return_index=True)
        once.sort()
        numbers, origins = numbers[once], origins[once]
        codes = np.full(len(numbers), code)
        datasets, rows = len(fields) + origins[:, 0], origins[:, 1]
        parts.append(np.stack([codes, numbers, datasets, rows], axis=1))
        fields += [part.field for part in split_examples.parts]
    columns, kinds = np.concatenate(parts).T, (np.uint8, np.uint32, np.uint16, np.uint32)
    split, number, dataset, row = (c.astype(k) for c, k in zip(columns, kinds, strict=True))
    seen = Seen(config, tokenizer, examples, [], [], split, number, dataset, row, fields)
    seen.is_sample = is_sample
    return seen


class _Pass:
    """Goes over the rows of a table and fills it in."""

    def __init__(self, seen: Seen, progress: _Progress) -> None:
        self._seen, self._progress = seen, progress
        self._end = seen.tokenizer.eos_token_id
        self._max_length = seen.config.data.max_length
        self._special = special_tokens(seen.tokenizer.all_special_tokens)
        self._learns_from_bad = method_of(seen.config).uses_labels
        self._common: np.ndarray | None = None
        self._kinds = seen.kinds = dict(KINDS)
        for name in registry.checks.keys():  # noqa: SIM118
            try:
                self._kinds[name] = own_kind(name, registry.checks.get(name))
            except NbftError as error:  # of a package that nobody has agreed to
                seen.failed[name] = str(error)

    def run(self) -> None:
        """Check every row, or those for which there is time."""
        seen = self._seen
        total, done = len(seen), np.zeros(len(seen), bool)
        chunks = -(-total // _CHUNK)
        try:
            for start in range(chunks):
                # Every n-th row, so that the first chunk shows what all rows have in common.
                rows = np.arange(start, total, chunks)
                for code, split in enumerate(seen.names):
                    of_split = rows[seen.split[rows] == code]
                    if len(of_split):
                        self._record(of_split, split)
                done[rows] = True
                self._progress(f"Checked {done.sum():,} of {total:,} rows{self._so_far()}")
        except (KeyboardInterrupt, StoppedError):
            if not done.any():
                raise
            if not done.all():
                seen.keep(done)
                seen.is_stopped = True
        seen.habits.forget()

    def _so_far(self) -> str:
        """Return what was found most often until now."""
        found = sorted(self._seen.odd.items(), key=lambda pair: -len(pair[1]))
        named = ", ".join(f"{name} {len(hits):,}" for name, hits in found[:3])
        return named and f"; so far {named}"

    def _record(self, rows: np.ndarray, split: str) -> None:
        """Record some rows of one split."""
        seen = self._seen
        kept, examples = [], []
        for row in rows.tolist():
            number = int(seen.number[row])
            try:
                example = seen.examples[split][number]
                cells = seen.examples[split].row(number)
                self._columns(seen.fields[seen.dataset[row]], cells)
                self._cells(row, cells)
            except DataError as error:
                seen.refused[row] = _sentence(error)
                continue
            self._text(row, example)
            kept.append(row)
            examples.append(example)
        kept, encoded = self._encoded(kept, examples, split)
        for row, one in zip(kept, encoded, strict=True):
            self._tokens(row, one)
        ids = [list(itertools.chain(*(s.ids for s in one.values()))) for one in encoded]
        hashes, counts = minhash.shingles(ids)
        if self._common is None:
            self._common = minhash.common_shingles(hashes, counts)
        seen.signature[kept] = minhash.signatures(hashes, counts, self._common)

    def _encoded(
        self, rows: list[int], examples: list[Example], split: str
    ) -> tuple[list[int], list[Sequences]]:
        """Tokenise examples; where one is refused, halve them until it is alone."""
        config, tokenizer = self._seen.config, self._seen.tokenizer
        only, method = config.data.completion_only_loss, method_of(config)
        try:
            return rows, encode_rows(
                examples,
                tokenizer,
                method,
                split,
                completion_only=only,
                max_length=config.data.max_length,
                most_prompt_tokens=method.most_prompt_tokens(config),
            )
        except Exception as error:  # a template or tokenizer may raise anything
            if len(rows) > 1:
                half = len(rows) // 2
                first = self._encoded(rows[:half], examples[:half], split)
                second = self._encoded(rows[half:], examples[half:], split)
                return first[0] + second[0], first[1] + second[1]
            self._seen.refused[rows[0]] = _sentence(error)
            return [], []

    def _columns(self, dataset: str, row: Mapping[str, Any]) -> None:
        columns = self._seen.columns.setdefault(dataset, {})
        self._seen.read[dataset] = self._seen.read.get(dataset, 0) + 1
        for name, value in row.items():
            column = columns.setdefault(name, Column(first=value))
            column.filled += not _is_empty(value)
            column.is_constant = column.is_constant and _is_same(value, column.first)

    def _talk(self, kind: str, row: int, text: str) -> None:
        self._seen.talk.setdefault(kind, Hits()).add(row, text, 0)

    def _cells(self, row: int, cells: Mapping[str, Any]) -> None:
        for name, value in cells.items():
            if value is not None and is_missing(value):
                self._talk("not_a_number", row, f"{name} is {value}")
            said = value if isinstance(value, list) else ()
            roles = [turn.get("role") for turn in said if isinstance(turn, Mapping)]
            if renamed := [r for r in roles if isinstance(r, str) and turns.ROLES.get(r) != r]:
                known = turns.ROLES.get(renamed[0].strip().lower(), "?")
                self._talk("renamed_roles", row, f"{renamed[0]} is read as {known}")

    def _text(self, row: int, example: Example) -> None:
        seen = self._seen
        declared = {tool["function"]["name"] for tool in example.tools}
        for call in (c for turn in example.messages for c in turn.get("tool_calls", ())):
            name, arguments = call["function"]["name"], call["function"]["arguments"]
            if name not in declared:
                self._talk("undeclared_calls", row, name)
            if isinstance(arguments, str):
                self._talk("argument_text", row, f"{name}({arguments})")
        said = Said(example)
        text, prompt, answer = said.text, said.prompt, said.answer
        seen.is_chat[row] = bool(example.messages)
        seen.is_glued[row] = example.is_glued
        if self._learns_from_bad:
            seen.has_same_answers[row] = example.has_same_answers
            seen.margin[row] = 2 if example.margin is None else np.sign(example.margin)
            seen.label[row] = -1 if example.label is None else example.label
        seen.answer_is_empty[row] = not answer.strip()
        more = [example.tools, example.rejected, example.label]
        beside = json.dumps(more, default=str) if any(m not in ((), None) for m in more) else ""
        seen.text_hash[row] = _hash(f"{prompt}\0{answer}\0{beside}")
        seen.spelt_hash[row] = _hash(_spelt(f"{prompt}\0{answer}") + beside)
        seen.prompt_hash[row] = _hash(_spelt(prompt if prompt.strip() else f"{prompt}\0{answer}"))
        seen.habits.add(row, said)
        # What is wrong with an answer that is labelled bad is what the model is to avoid.
        for name, kind in self._kinds.items() if seen.label[row] else ():
            if hit := self._found(name, kind, said):
                seen.odd.setdefault(name, Hits()).add(row, *hit)
        template = str(seen.tokenizer.chat_template or "")
        marked = families_in(text)
        own = [f for f in FAMILIES if f.name in marked and any(m in template for m in f.marks)]
        for name, place in marked.items():
            if name not in {family.name for family in own}:
                seen.foreign.setdefault(name, Hits()).add(row, text, place)
        if self._special and (match := self._special.search(text)):
            is_templated = bool(own) and not example.messages
            (seen.templated if is_templated else seen.special).add(row, text, match.start())

    def _found(self, name: str, kind: Kind, said: Said) -> tuple[str, int] | None:
        """Return what a kind finds; one that fails is named, and passed over from then on."""
        if name in self._seen.failed:
            return None
        try:
            return kind.find(said)
        except Exception as error:  # a person's own check may raise anything
            self._seen.failed[name] = f"{type(error).__name__}: {error}".strip(": ")
            return None

    def _tokens(self, row: int, sequences: Sequences) -> None:
        seen, every = self._seen, list(sequences.values())
        seen.tokens[row] = max(one.length for one in every)
        seen.trained[row] = sum(sum(one.loss_mask[1 : self._max_length]) for one in every)
        if len(every) == 2:
            seen.side_tokens[row] = [min(one.length, _MOST_TOKENS) for one in every]
        if method_of(seen.config).generates and seen.tokens[row] <= self._max_length:
            seen.trained[row] = seen.tokens[row]  # a prompt that is answered is none to leave out
        seen.is_merged[row] = any(one.is_merged for one in every)
        seen.is_unanswered[row] = any(one.unanswered > 0 for one in every)
        for remark in {one.remark for one in every if one.remark}:
            seen.remarked.setdefault(remark, []).append(row)
        if any(one.is_folded for one in every):
            seen.remarked.setdefault(FOLDED, []).append(row)
        ends = [_end_of_sequence(one, self._end) for one in every]
        is_prompt = method_of(seen.config).generates
        seen.end_is_trained[row] = is_prompt or all(end == "trained" for end in ends)
        seen.end_is_masked[row] = any(end == "masked" for end in ends)


def _end_of_sequence(one: Encoded, end: int) -> str:
    """Return what becomes of the last end-of-sequence token: "trained", "masked" or ""."""
    # A template may end in <end of turn> and a new line.
    last = next((n for n in (-1, -2) if one.ids[n:][:1] == [end]), None)
    if last is None:
        return ""
    if one.loss_mask[last]:
        return "trained"
    return "masked" if one.loss_mask[last - 1 : last] == [True] else ""


def _is_empty(value: Any) -> bool:
    if isinstance(value, str):
        return not value.strip()
    return value is None or (hasattr(value, "__len__") and len(value) == 0)


def _is_same(one: Any, other: Any) -> bool:
    try:
        return bool(one == other)
    except ValueError:  # arrays
        return np.array_equal(one, other)


def _spelt(text: str) -> str:
    """Return a text without case and spaces, so that only the words count."""
    return " ".join(text.casefold().split())


def _hash(text: str) -> int:
    encoded = text.encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(encoded, digest_size=8).digest(), "little")


def _sentence(error: Exception) -> str:
    if isinstance(error, RefusedConversationError):
        return f"{error.why} {error.fix}"
    if isinstance(error, DataError):
        return "; ".join(p.sentence if isinstance(p, Problem) else p for p in error.problems)
    first = next(iter(str(error).splitlines()), "")
    return f"{type(error).__name__}: {first}".strip(": ")
