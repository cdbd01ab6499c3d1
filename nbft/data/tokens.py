"""From examples to named token sequences, each with ids and a loss mask.

A method says which sequences an example gives: its completion, or a chosen and a rejected answer.
Prompt and completion are tokenised so that no token crosses the boundary between them; the
end-of-sequence token is trained on; a label of -100 is not. Tokens are cached by content. Called by
`nbft.training`, the lens and the doctor.
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
from nbft.methods import IGNORE_INDEX, Method, method_of
from nbft.models.find import cache_folder

if TYPE_CHECKING:
    import datasets
    import pyarrow

CACHE_BYTES = 4 * 2**30
"""Most bytes of tokens that are kept; the ones used longest ago go first."""

_BATCH = 1000
_FEW = 16
"""Texts that the tokenizer cuts by itself; of more, so many are cut in both ways and compared."""

_VERSION = 3  # of the way that tokens are cut; a change of it forgets what is kept


class Encoded(NamedTuple):
    """One sequence as tokens, whole.

    Attributes:
        ids: Token ids, the end-of-sequence token included, [s].
        loss_mask: Which of them add to the loss, [s].
        prompt_tokens: Tokens before the first answer, whether they add to the loss or not.
        is_merged: Whether the tokenizer would have joined the end of the prompt and the beginning
            of the completion to one token; it was kept apart.
        unanswered: Turns after the last answer of a conversation. They are not among the tokens:
            there is nothing to train on in a question without an answer.
    """

    ids: list[int]
    loss_mask: list[bool]
    prompt_tokens: int
    is_merged: bool
    unanswered: int = 0


Sequences = dict[str, Encoded]
"""The named token sequences of one example."""


@dataclass(frozen=True)
class Tokenised:
    """Examples as tokens.

    Attributes:
        dataset: For each row the input_ids and labels of every named sequence, [s] each, with
            prompt_tokens (tokens before the first answer); and example, the number of the example.
            Columns are named by `Method.column`. It lies in a file.
        method: Names the sequences.
        key: Its name in nbft's cache.
        cut: Examples that are kept but lost their end at `data.max_length`.
        left_out: Examples left out because their prompt alone fills `data.max_length`.
        empty: Examples left out because they hold no text.
        merged: Examples whose prompt and completion would have shared a token.
        unanswered: Examples that lose the turns after their last answer.
        tokens: Tokens of all rows, all sequences together.
        trained_tokens: Tokens that add to the loss. The first of a sequence is never predicted.
        longest: Tokens of the longest sequence.
    """

    dataset: datasets.Dataset
    method: Method
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

    def _of_first(self, part: str) -> Any:
        return self.dataset[self.method.column(self.method.sequences[0], part)]

    @property
    def input_ids(self) -> Sequence[list[int]]:
        """Token ids of the first sequence of each row, [s] each."""
        return self._of_first("input_ids")  # type: ignore[no-any-return]

    @property
    def labels(self) -> Sequence[list[int]]:
        """What each position of it predicts, [s] each: its own token id, or -100."""
        return self._of_first("labels")  # type: ignore[no-any-return]

    @property
    def prompt_ids(self) -> list[list[int]]:
        """The ids of what comes before the first answer of each row."""
        ends = self._of_first("prompt_tokens")
        return [ids[:end] for ids, end in zip(self.input_ids, ends, strict=True)]


def tokenise(
    examples: Sequence[Example], tokenizer: Any, config: Config, split: str = "train"
) -> Tokenised:
    """Tokenise examples and say which tokens add to the loss.

    Args:
        examples: Prompts and completions, or chat messages.
        tokenizer: A transformers tokenizer.
        config: Names the method; its data section says max_length, completion_only_loss and
            dataset_num_proc.
        split: Name of the split, for messages.

    Raises:
        DataError: Messages were given to a tokenizer without a chat template, or no example leaves
            anything to learn.
    """
    method = method_of(config)
    key = _key(examples, tokenizer, config, method)
    if (kept := kept_tokens(key, method)) is not None:
        return kept
    _write(tokens_folder() / key, examples, tokenizer, config, method, split)
    found = kept_tokens(key, method)
    assert found is not None
    return found


def tokens_folder() -> Path:
    """Return the folder of all tokens that are kept: one folder in it for each set of rows."""
    return cache_folder() / "tokens"


def kept_tokens(key: str, method: Method) -> Tokenised | None:
    """Return what was kept under a key, or None."""
    import datasets

    folder = tokens_folder() / key
    try:
        counts = json.loads((folder / "counts.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    os.utime(folder)  # it is in use: others are let go before it
    rows = datasets.Dataset.from_file(str(folder / "rows.arrow"))
    return Tokenised(rows, method, key, **counts)


def encode_rows(
    examples: Sequence[Example],
    tokenizer: Any,
    method: Method,
    split: str = "train",
    *,
    completion_only: bool = True,
    first: int = 0,
) -> list[Sequences]:
    """Return the named token sequences of examples, whole.

    Args:
        examples: The examples.
        tokenizer: A transformers tokenizer.
        method: Says which sequences there are.
        split: Name of the split, for messages.
        completion_only: Whether only answers add to the loss; all tokens otherwise.
        first: Number of the first of these examples, for messages.

    Raises:
        DataError: Messages were given to a tokenizer without a chat template.
    """
    named = {
        name: encode(texts, tokenizer, split, completion_only=completion_only, first=first)
        for name, texts in method.texts(examples).items()
    }
    return [dict(zip(named, one, strict=True)) for one in zip(*named.values(), strict=True)]


def encode(
    examples: Sequence[Example],
    tokenizer: Any,
    split: str = "train",
    *,
    completion_only: bool = True,
    first: int = 0,
) -> list[Encoded]:
    """Tokenise prompts with their completions, or conversations, whole.

    Args:
        examples: Prompts and completions, or chat messages.
        tokenizer: A transformers tokenizer.
        split: Name of the split, for messages.
        completion_only: Whether only answers add to the loss; all tokens otherwise.
        first: Number of the first of these examples, for messages.

    Raises:
        DataError: Messages were given to a tokenizer without a chat template.
    """
    found = _encoded(examples, tokenizer, split, first)
    return found if completion_only else [e._replace(loss_mask=[True] * len(e.ids)) for e in found]


def cut_to(encoded: Encoded, max_length: int) -> tuple[list[int], list[int]] | None:
    """Return (ids, labels) of at most so many tokens, or None where no token adds to the loss."""
    ids, loss_mask = encoded.ids[:max_length], encoded.loss_mask[:max_length]
    if not any(loss_mask[1:]):
        return None
    return ids, [i if on else IGNORE_INDEX for i, on in zip(ids, loss_mask, strict=True)]


def cut_row(row: Sequences, method: Method, max_length: int) -> dict[str, list[int]] | None:
    """Return the columns of a row for its trainer; None where nothing adds to the loss."""
    columns: dict[str, list[int]] = {}
    for name, encoded in row.items():
        if (cut := cut_to(encoded, max_length)) is None:
            return None
        columns[method.column(name, "input_ids")], columns[method.column(name, "labels")] = cut
    return columns


_COUNTS = (
    *("cut", "left_out", "empty", "merged", "unanswered"),
    *("tokens", "trained_tokens", "longest"),
)


def _key(examples: Sequence[Example], tokenizer: Any, config: Config, method: Method) -> str:
    """Return a name for the tokens of these examples: the same only if all that matters is."""
    how = {
        "version": _VERSION,
        "tokenizer": tokenizer_key(tokenizer),
        "max_length": config.data.max_length,
        "completion_only_loss": config.data.completion_only_loss,
    }
    texts = (
        (name, e.prompt, e.completion, e.messages)
        for name, sequence in method.texts(examples).items()
        for e in sequence
    )
    return key_of(itertools.chain([how], texts))


def _write(
    folder: Path,
    examples: Sequence[Example],
    tokenizer: Any,
    config: Config,
    method: Method,
    split: str,
) -> None:
    """Tokenise examples and keep them in a folder, which appears when it is whole."""
    import pyarrow

    _make_room(folder.parent)
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    partial.mkdir()
    counts = dict.fromkeys(_COUNTS, 0)
    lengths: list[int] = []
    try:
        with pyarrow.ipc.new_stream(str(partial / "rows.arrow"), _schema(method)) as stream:
            for rows in _in_batches(examples, tokenizer, method, split, config.data):
                first = len(lengths)
                lengths += [max(len(one.ids) for one in row.values()) for row in rows]
                stream.write_batch(_arrow(rows, method, first, config.data.max_length, counts))
        if not counts["tokens"]:
            raise DataError(_nothing_left(lengths, config.data.max_length, split))
        (partial / "counts.json").write_text(json.dumps(counts), encoding="utf-8")
        if not folder.exists():  # another run may have been quicker
            partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _schema(method: Method) -> pyarrow.Schema:
    import pyarrow

    tokens = pyarrow.list_(pyarrow.int32())
    parts = {"input_ids": tokens, "labels": tokens, "prompt_tokens": "int32"}
    named = {
        method.column(name, part): kind for name in method.sequences for part, kind in parts.items()
    }
    return pyarrow.schema({**named, "example": "int64"})


def _arrow(
    rows: list[Sequences], method: Method, first: int, max_length: int, counts: dict[str, int]
) -> pyarrow.RecordBatch:
    """Return rows cut as `cut_row` cuts them, without those that leave nothing to train on.

    Args:
        rows: Some of the examples.
        method: Names the sequences.
        first: Number of the first of them.
        max_length: Most tokens of a sequence.
        counts: What happened to them is added here.
    """
    import pyarrow

    cuts = [_Cut([row[name] for row in rows], max_length) for name in method.sequences]
    is_cut = np.logical_or.reduce([cut.is_cut for cut in cuts])
    stays = np.logical_and.reduce([cut.trained > 0 for cut in cuts])
    for name, number in (
        ("cut", (is_cut & stays).sum()),
        ("left_out", (is_cut & ~stays).sum()),
        ("empty", (~is_cut & ~stays).sum()),
        ("merged", sum(any(one.is_merged for one in row.values()) for row in rows)),
        ("unanswered", sum(any(one.unanswered for one in row.values()) for row in rows)),
        ("tokens", sum(cut.size[stays].sum() for cut in cuts)),
        ("trained_tokens", sum(cut.trained[stays].sum() for cut in cuts)),
    ):
        counts[name] += int(number)
    longest = max(int(cut.size[stays].max(initial=0)) for cut in cuts)
    counts["longest"] = max(counts["longest"], longest)
    columns = [column for cut in cuts for column in cut.columns(stays)]
    examples = pyarrow.array(first + np.flatnonzero(stays), pyarrow.int64())
    return pyarrow.record_batch([*columns, examples], schema=_schema(method))


class _Cut:
    """One named sequence of some rows, cut.

    Attributes:
        is_cut: Whether a row lost its end, [rows].
        size: Tokens of each that are left, [rows].
        trained: Those that add to the loss, [rows].
    """

    def __init__(self, encoded: Sequence[Encoded], max_length: int) -> None:
        whole = np.array([len(one.ids) for one in encoded], int)
        self.is_cut, self.size = whole > max_length, np.minimum(whole, max_length)
        ends = np.cumsum(self.size)
        begins = ends - self.size
        self._ids = np.fromiter(
            itertools.chain.from_iterable(one.ids[:max_length] for one in encoded),
            np.int32,
            self.size.sum(),
        )
        # A bytearray, because it is written to below.
        masks = bytearray().join(bytes(one.loss_mask[:max_length]) for one in encoded)
        loss_mask = np.frombuffer(masks, bool)
        self._labels = np.where(loss_mask, self._ids, np.int32(IGNORE_INDEX))
        loss_mask[begins[self.size > 0]] = False  # nothing predicts the first token of a row
        sums = np.concatenate([[0], np.cumsum(loss_mask)])
        self.trained = sums[ends] - sums[begins]
        self._prompts = np.minimum([one.prompt_tokens for one in encoded], self.size)

    def columns(self, stays: np.ndarray) -> list[pyarrow.Array]:
        """Return ids, labels and tokens of the prompts, of the rows that stay."""
        import pyarrow

        tokens, size = np.repeat(stays, self.size), self.size[stays]
        begins = np.concatenate([[0], np.cumsum(size)]).astype(np.int32)
        return [
            pyarrow.ListArray.from_arrays(begins, self._ids[tokens]),
            pyarrow.ListArray.from_arrays(begins, self._labels[tokens]),
            pyarrow.array(self._prompts[stays], pyarrow.int32()),
        ]


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
            "answer; those turns are left out, because there is nothing to train on in them."
        )
    if tokenised.left_out:
        said.append(
            f"{split}: {tokenised.left_out:,} of {total:,} rows are left out: their prompt alone "
            f"fills data.max_length={config.data.max_length}, so there is nothing to train on in them."
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
    examples: Sequence[Example], tokenizer: Any, method: Method, split: str, data: Data
) -> Iterator[list[Sequences]]:
    """Tokenise examples, some at a time; in several processes where there are many."""
    wanted = data.dataset_num_proc or 1
    if data.dataset_num_proc is None and examples and examples[0].messages:
        wanted = min(len(examples) // _ROWS_A_PROCESS, usable_cores() // 2)
    work = _Work(tokenizer, method, split, data.completion_only_loss)
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

    def __init__(self, tokenizer: Any, method: Method, split: str, completion_only: bool) -> None:
        self._how = tokenizer, method, split
        self._only = completion_only

    def __call__(self, piece: tuple[int, Sequence[Example]]) -> list[Sequences]:
        first, examples = piece
        return encode_rows(examples, *self._how, completion_only=self._only, first=first)


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
            loss_mask = [False] * len(prompt) + [True] * len(completion)
            found[n] = Encoded(prompt + completion, loss_mask, len(prompt), not ok)
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
    """Cut conversations into tokens through the chat template; the assistant's turns add to the loss."""
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
