"""From examples to tokens and labels.

The prompt and the completion are cut into tokens so that none crosses the boundary between them;
the end-of-sequence token is learnt; a label of -100 is not learnt. What was cut once is kept in
nbft's cache, by its content. Called by `nbft.training`, the lens and the doctor.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nbft.config import Config
from nbft.config.data import Data
from nbft.data.chat import all_segments, unanswered
from nbft.data.examples import Example
from nbft.data.fingerprint import key_of, tokenizer_key
from nbft.data.formats import Turn
from nbft.data.lengths import KEPT_SHARES, enough_for, enough_in_words
from nbft.data.pretokenizer import Pretokenizer, splitter
from nbft.errors import DataError, Problem
from nbft.limits import usable_cores
from nbft.models.find import cache_folder

if TYPE_CHECKING:
    import datasets
    import pyarrow

IGNORE_INDEX = -100
"""Label of a token that adds nothing to the loss. Source: torch.nn.CrossEntropyLoss."""

CACHE_BYTES = 4 * 2**30
"""Most bytes of tokens that are kept; the ones used longest ago go first."""

_BATCH = 1000
_FEW = 16
"""Texts that the tokenizer cuts by itself; of more, so many are cut in both ways and compared."""

_VERSION = 2  # of the way that tokens are cut; a change of it forgets what is kept


class Encoded(NamedTuple):
    """One example as tokens, whole.

    Attributes:
        ids: Token ids, the end-of-sequence token included, [s].
        loss_mask: Which of them are learnt, [s].
        prompt_tokens: Tokens before the first answer, learnt or not.
        is_merged: Whether the tokenizer would have joined the end of the prompt and the beginning
            of the completion to one token; it was kept apart.
        unanswered: Turns after the last answer of a conversation. They are not among the tokens:
            nothing is learnt from a question without an answer.
    """

    ids: list[int]
    loss_mask: list[bool]
    prompt_tokens: int
    is_merged: bool
    unanswered: int = 0


@dataclass(frozen=True)
class Tokenised:
    """Examples as tokens.

    Attributes:
        dataset: input_ids and labels of each row, [s] each, with prompt_tokens (tokens before the
            first answer) and example (number of the example). It lies in a file.
        key: Its name in nbft's cache.
        cut: Examples that are kept but lost their end at `data.max_length`.
        left_out: Examples left out because their prompt alone fills `data.max_length`.
        empty: Examples left out because they hold no text.
        merged: Examples whose prompt and completion would have shared a token.
        unanswered: Examples that lose the turns after their last answer.
        tokens: Tokens of all rows.
        trained_tokens: Tokens that add to the loss. The first token of a row is never predicted.
        longest: Tokens of the longest row.
    """

    dataset: datasets.Dataset
    key: str
    cut: int
    left_out: int
    empty: int
    merged: int
    unanswered: int
    tokens: int
    trained_tokens: int
    longest: int

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def input_ids(self) -> Sequence[list[int]]:
        """Token ids of each row, [s] each."""
        return self.dataset["input_ids"]  # type: ignore[no-any-return]

    @property
    def labels(self) -> Sequence[list[int]]:
        """What each position shall predict, [s] each: its own token id, or -100."""
        return self.dataset["labels"]  # type: ignore[no-any-return]

    @property
    def prompt_ids(self) -> list[list[int]]:
        """The ids of what comes before the first answer of each row."""
        ends = self.dataset["prompt_tokens"]
        return [ids[:end] for ids, end in zip(self.input_ids, ends, strict=True)]


def tokenise(
    examples: Sequence[Example], tokenizer: Any, config: Config, split: str = "train"
) -> Tokenised:
    """Cut examples into tokens and say which are learnt.

    Args:
        examples: Prompts and completions, or chat messages.
        tokenizer: A transformers tokenizer.
        config: Its data section says max_length, completion_only_loss and dataset_num_proc.
        split: Name of the split, for messages.

    Raises:
        DataError: Messages were given to a tokenizer without a chat template, or no example leaves
            anything to learn.
    """
    key = _key(examples, tokenizer, config)
    if (kept := kept_tokens(key)) is not None:
        return kept
    _write(tokens_folder() / key, examples, tokenizer, config, split)
    found = kept_tokens(key)
    assert found is not None
    return found


def tokens_folder() -> Path:
    """Return the folder of all tokens that are kept: one folder in it for each set of rows."""
    return cache_folder() / "tokens"


def kept_tokens(key: str) -> Tokenised | None:
    """Return what was kept under a key, or None."""
    import datasets

    folder = tokens_folder() / key
    try:
        counts = json.loads((folder / "counts.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    os.utime(folder)  # it is in use: others are let go before it
    return Tokenised(datasets.Dataset.from_file(str(folder / "rows.arrow")), key, **counts)


def encode(
    examples: Sequence[Example],
    tokenizer: Any,
    split: str = "train",
    *,
    completion_only: bool = True,
    first: int = 0,
) -> list[Encoded]:
    """Cut examples into tokens, whole.

    Args:
        examples: Prompts and completions, or chat messages.
        tokenizer: A transformers tokenizer.
        split: Name of the split, for messages.
        completion_only: Whether only answers are learnt; all tokens otherwise.
        first: Number of the first of these examples, for messages.

    Raises:
        DataError: Messages were given to a tokenizer without a chat template.
    """
    found = _encoded(examples, tokenizer, split, first)
    return found if completion_only else [e._replace(loss_mask=[True] * len(e.ids)) for e in found]


def cut_to(encoded: Encoded, max_length: int) -> tuple[list[int], list[int]] | None:
    """Return (ids, labels) of at most so many tokens, or None where nothing would be learnt."""
    ids, loss_mask = encoded.ids[:max_length], encoded.loss_mask[:max_length]
    if not any(loss_mask[1:]):
        return None
    return ids, [i if on else IGNORE_INDEX for i, on in zip(ids, loss_mask, strict=True)]


_COUNTS = (
    *("cut", "left_out", "empty", "merged", "unanswered"),
    *("tokens", "trained_tokens", "longest"),
)


def _key(examples: Sequence[Example], tokenizer: Any, config: Config) -> str:
    """Return a name for the tokens of these examples: the same only if all that matters is."""
    how = {
        "version": _VERSION,
        "tokenizer": tokenizer_key(tokenizer),
        "max_length": config.data.max_length,
        "completion_only_loss": config.data.completion_only_loss,
    }
    texts = ((e.prompt, e.completion, e.messages) for e in examples)
    return key_of(itertools.chain([how], texts))


def _write(
    folder: Path, examples: Sequence[Example], tokenizer: Any, config: Config, split: str
) -> None:
    """Cut examples into tokens and keep them in a folder, which appears when it is whole."""
    import pyarrow

    _make_room(folder.parent)
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    partial.mkdir()
    counts = dict.fromkeys(_COUNTS, 0)
    lengths: list[int] = []
    try:
        with pyarrow.ipc.new_stream(str(partial / "rows.arrow"), _schema()) as stream:
            for encoded in _in_batches(examples, tokenizer, split, config.data):
                first = len(lengths)
                lengths += [len(one.ids) for one in encoded]
                stream.write_batch(_arrow(encoded, first, config.data.max_length, counts))
        if not counts["tokens"]:
            raise DataError(_nothing_left(lengths, config.data.max_length, split))
        (partial / "counts.json").write_text(json.dumps(counts), encoding="utf-8")
        if not folder.exists():  # another run may have been quicker
            partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _schema() -> pyarrow.Schema:
    import pyarrow

    tokens = pyarrow.list_(pyarrow.int32())
    return pyarrow.schema(
        {"input_ids": tokens, "labels": tokens, "prompt_tokens": "int32", "example": "int64"}
    )


def _arrow(
    encoded: list[Encoded], first: int, max_length: int, counts: dict[str, int]
) -> pyarrow.RecordBatch:
    """Return rows cut as `cut_to` cuts them, without those that leave nothing to learn.

    Args:
        encoded: Some of the examples.
        first: Number of the first of them.
        max_length: Most tokens of a row.
        counts: What happened to them is added here.
    """
    import pyarrow

    whole = np.array([len(one.ids) for one in encoded], int)
    size = np.minimum(whole, max_length)
    ends = np.cumsum(size)
    ids = np.fromiter(
        itertools.chain.from_iterable(one.ids[:max_length] for one in encoded), np.int32, size.sum()
    )
    # A bytearray, because it is written to below.
    learnt = np.frombuffer(bytearray().join(bytes(e.loss_mask[:max_length]) for e in encoded), bool)
    labels = np.where(learnt, ids, np.int32(IGNORE_INDEX))
    learnt[(ends - size)[size > 0]] = False  # nothing predicts the first token of a row
    sums = np.concatenate([[0], np.cumsum(learnt)])
    trained = sums[ends] - sums[ends - size]
    is_cut, stays = whole > max_length, trained > 0
    for name, number in (
        ("cut", (is_cut & stays).sum()),
        ("left_out", (is_cut & ~stays).sum()),
        ("empty", (~is_cut & ~stays).sum()),
        ("merged", sum(one.is_merged for one in encoded)),
        ("unanswered", sum(one.unanswered > 0 for one in encoded)),
        ("tokens", size[stays].sum()),
        ("trained_tokens", trained.sum()),
    ):
        counts[name] += int(number)
    counts["longest"] = max(counts["longest"], int(size[stays].max(initial=0)))
    if not stays.all():
        tokens = np.repeat(stays, size)
        ids, labels, size = ids[tokens], labels[tokens], size[stays]
    begins = np.concatenate([[0], np.cumsum(size)]).astype(np.int32)
    prompts = np.array([one.prompt_tokens for one in encoded], int)[stays]
    return pyarrow.record_batch(
        [
            pyarrow.ListArray.from_arrays(begins, ids),
            pyarrow.ListArray.from_arrays(begins, labels),
            pyarrow.array(np.minimum(prompts, size), pyarrow.int32()),
            pyarrow.array(first + np.flatnonzero(stays), pyarrow.int64()),
        ],
        schema=_schema(),
    )


def _make_room(folder: Path) -> None:
    """Let go of the tokens that were used longest ago, down to `CACHE_BYTES`."""
    folder.mkdir(parents=True, exist_ok=True)
    kept = sorted(folder.iterdir(), key=lambda f: f.stat().st_mtime, reverse=True)
    total = 0
    for one in kept:
        total += sum(f.stat().st_size for f in one.rglob("*") if f.is_file())
        if total > CACHE_BYTES:
            shutil.rmtree(one, ignore_errors=True)


def remarks(tokenised: Tokenised, config: Config, split: str) -> list[str]:
    """Say what happened to the rows of a split, with numbers; nothing when nothing happened."""
    total = len(tokenised) + tokenised.left_out + tokenised.empty
    said = []
    if tokenised.unanswered:
        said.append(
            f"{split}: {tokenised.unanswered:,} of {total:,} conversations go on after their last "
            "answer; those turns are left out, because nothing is learnt from them."
        )
    if tokenised.left_out:
        said.append(
            f"{split}: {tokenised.left_out:,} of {total:,} rows are left out: their prompt alone "
            f"fills data.max_length={config.data.max_length}, so nothing of them would be learnt."
        )
    if tokenised.empty:
        said.append(f"{split}: {tokenised.empty:,} of {total:,} rows are left out: they are empty.")
    if tokenised.cut:
        said.append(
            f"{split}: {tokenised.cut:,} of {total:,} rows lose their end at data.max_length="
            f"{config.data.max_length}; the model does not learn to stop there."
        )
    return said


def _nothing_left(lengths: list[int], max_length: int, split: str) -> Problem:
    longest = max(lengths, default=0)
    if longest <= max_length:
        return Problem(f"data.{split}", None, "no row leaves anything to learn.", "Look at it.")
    enough = enough_for(lengths, KEPT_SHARES[-1])
    return Problem(
        "data.max_length",
        max_length,
        f"cuts every completion away: nothing is left to learn in {len(lengths):,} {split} rows. "
        f"{enough_in_words(lengths)}",
        f"Use {enough}.",
        {"data.max_length": enough},
    )


_ROWS_A_PROCESS = 10_000
"""Conversations that make another process worth its start. Plain text gains nothing by processes:
the tokenizer works on all cores by itself, twice as fast as two processes on two cores."""


def _in_batches(
    examples: Sequence[Example], tokenizer: Any, split: str, data: Data
) -> Iterator[list[Encoded]]:
    """Cut examples into tokens, some at a time; in several processes where there are many."""
    wanted = data.dataset_num_proc or 1
    if data.dataset_num_proc is None and examples and examples[0].messages:
        wanted = min(len(examples) // _ROWS_A_PROCESS, usable_cores() // 2)
    work = _Work(tokenizer, split, data.completion_only_loss)
    pieces = (
        (first, examples[first : first + _BATCH]) for first in range(0, len(examples), _BATCH)
    )
    if wanted <= 1:
        yield from map(work, pieces)
        return
    import multiprocess

    with multiprocess.Pool(wanted) as pool:
        yield from pool.imap(work, pieces)


class _Work:
    """What a process does with its share of the examples."""

    def __init__(self, tokenizer: Any, split: str, completion_only: bool) -> None:
        self._tokenizer, self._split, self._only = tokenizer, split, completion_only

    def __call__(self, piece: tuple[int, Sequence[Example]]) -> list[Encoded]:
        first, examples = piece
        return encode(
            examples, self._tokenizer, self._split, completion_only=self._only, first=first
        )


def _encoded(examples: Sequence[Example], tokenizer: Any, split: str, first: int) -> list[Encoded]:
    plain = [n for n, e in enumerate(examples) if not e.messages]
    found: dict[int, Encoded] = {}
    if plain:
        prompts = _ids([examples[n].prompt for n in plain], tokenizer, special=True)
        wholes = _ids(
            [examples[n].prompt + examples[n].completion for n in plain], tokenizer, special=True
        )
        clean = [w[: len(p)] == p for p, w in zip(prompts, wholes, strict=True)]
        apart = _ids(
            [examples[n].completion for n, ok in zip(plain, clean, strict=True) if not ok],
            tokenizer,
            special=False,
        )
        rest = iter(apart)
        for n, prompt, whole, ok in zip(plain, prompts, wholes, clean, strict=True):
            completion = whole[len(prompt) :] if ok else next(rest)
            completion = [*completion, tokenizer.eos_token_id]
            learnt = [False] * len(prompt) + [True] * len(completion)
            found[n] = Encoded(prompt + completion, learnt, len(prompt), not ok)
    chats = [n for n, e in enumerate(examples) if e.messages]
    conversations = [examples[n].messages for n in chats]
    numbers = [first + n for n in chats]
    found |= zip(chats, _chats(conversations, tokenizer, split, numbers), strict=True)
    return [found[n] for n in range(len(examples))]


def _ids(texts: list[str], tokenizer: Any, *, special: bool) -> list[list[int]]:
    """Return the token ids of texts, with what the tokenizer puts before a text, but no end."""
    if len(texts) > _FEW and (words := _pretokenizer(tokenizer, special=special)):
        with contextlib.suppress(UnicodeEncodeError):  # half a character; the tokenizer says so
            found = words.cut(texts)
            some = slice(None, None, -(-len(texts) // _FEW))
            if found[some] == _asked(texts[some], tokenizer, special=special):
                return found
    return _asked(texts, tokenizer, special=special)


def _pretokenizer(tokenizer: Any, *, special: bool) -> Pretokenizer | None:
    """Return what cuts texts faster than the tokenizer, where there is such a thing."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or getattr(tokenizer, "split_special_tokens", False):
        return None
    if special and backend.num_special_tokens_to_add(False):
        return None
    return splitter(backend)


def _asked(texts: list[str], tokenizer: Any, *, special: bool) -> list[list[int]]:
    if not texts:
        return []
    found: list[list[int]] = tokenizer(
        texts, add_special_tokens=special, return_attention_mask=False
    )["input_ids"]
    end = tokenizer.eos_token_id
    if special and tokenizer("a")["input_ids"][-1:] == [end]:  # this tokenizer appends the end
        return [ids[:-1] for ids in found]
    return found


def _chats(
    conversations: Sequence[Sequence[Turn]],
    tokenizer: Any,
    split: str,
    numbers: Sequence[int],
) -> Iterator[Encoded]:
    """Cut conversations into tokens through the chat template; the assistant's turns are learnt."""
    if not conversations:
        return
    segments = all_segments(conversations, tokenizer, split, numbers)
    texts = [segment.text for one in segments for segment in one]
    pieces = iter(_ids(texts, tokenizer, special=False))
    end = tokenizer.eos_token_id
    for conversation, one in zip(conversations, segments, strict=True):
        ids: list[int] = []
        loss_mask: list[bool] = []
        for (_, is_trained), piece in zip(one, pieces, strict=False):
            ids += piece
            loss_mask += [is_trained] * len(piece)
        if end not in ids[-2:]:  # a template may end in <end of turn> and a new line
            ids.append(end)
            loss_mask.append(True)
        prompt_tokens = loss_mask.index(True) if any(loss_mask) else len(ids)
        yield Encoded(ids, loss_mask, prompt_tokens, False, unanswered(conversation))
