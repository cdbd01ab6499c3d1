"""From examples to named token sequences, each with ids and a loss mask.

The method determines the sequences of an example: its completion, or a chosen and a rejected answer.
Prompt and completion are tokenised so that no token crosses the boundary between them; the
end-of-sequence token is trained on. Tokens are cached by content. Called by `nbft.training`, the lens
and the doctor.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
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
"""Most bytes of cached tokens; the least recently used go first."""

_BATCH = 1000
_FEW = 16
"""Texts left to the tokenizer alone; of more, so many are tokenised in both ways and compared."""

_VERSION = 3  # of the tokens; changing it invalidates the cache


class Encoded(NamedTuple):
    """One sequence as tokens, not yet cut to data.max_length.

    Attributes:
        ids: Token ids, the end-of-sequence token included, [s].
        loss_mask: Which of them add to the loss, [s].
        prompt_tokens: Tokens before the first answer, whether they add to the loss or not.
        is_merged: Whether the tokenizer alone would have merged the end of the prompt and the
            start of the completion into one token.
        unanswered: Turns after the last answer of a conversation. They are left out, because a
            question without an answer has nothing to train on.
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
            Columns are named by `Method.column`. Backed by a file.
        method: Names the sequences.
        key: Name in nbft's cache.
        cut: Examples that are kept but lose their end at `data.max_length`.
        left_out: Examples left out because their prompt alone fills `data.max_length`.
        empty: Examples left out because they hold no text.
        merged: Examples whose prompt and completion would have shared a token.
        unanswered: Examples that lose the turns after their last answer.
        tokens: Tokens of all sequences of all rows.
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
    """Tokenise examples, cut to data.max_length, or take their tokens from the cache.

    Args:
        examples: Prompts and completions, or chat messages.
        tokenizer: A transformers tokenizer.
        config: The config: training.method, data.max_length, data.completion_only_loss and
            data.dataset_num_proc matter.
        split: Name of the split, for messages.

    Raises:
        DataError: Messages were given to a tokenizer without a chat template, or no example holds
            anything to train on.
    """
    method = method_of(config)
    key = _key(examples, tokenizer, config, method)
    if (cached := cached_tokens(key, method)) is not None:
        return cached
    _write(tokens_folder() / key, examples, tokenizer, config, method, split)
    written = cached_tokens(key, method)
    assert written is not None
    return written


def tokens_folder() -> Path:
    """Return the folder of all cached tokens; it has one folder for each set of rows."""
    return cache_folder() / "tokens"


def cached_tokens(key: str, method: Method) -> Tokenised | None:
    """Return the tokens that are cached under a key, or None."""
    import datasets

    folder = tokens_folder() / key
    try:
        counts = json.loads((folder / "counts.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    os.utime(folder)  # recently used: others are deleted before it
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
    """Return the named token sequences that a method makes of examples; as `encode` otherwise."""
    named = {
        name: encode(texts, tokenizer, split, completion_only=completion_only, first=first)
        for name, texts in method.texts(examples).items()
    }
    return [dict(zip(named, row, strict=True)) for row in zip(*named.values(), strict=True)]


def encode(
    examples: Sequence[Example],
    tokenizer: Any,
    split: str = "train",
    *,
    completion_only: bool = True,
    first: int = 0,
) -> list[Encoded]:
    """Tokenise prompts with their completions, or conversations, without cutting them.

    Args:
        examples: Prompts and completions, or chat messages.
        tokenizer: A transformers tokenizer.
        split: Name of the split, for messages.
        completion_only: Whether only answers add to the loss; all tokens otherwise.
        first: Number of the first of these examples, for messages.

    Raises:
        DataError: Messages were given to a tokenizer without a chat template.
    """
    pairs = _pairs([e for e in examples if not e.messages], tokenizer)
    chats = {first + n: e.messages for n, e in enumerate(examples) if e.messages}
    conversations = _conversations(chats, tokenizer, split) if chats else iter(())
    encoded = [next(conversations if e.messages else pairs) for e in examples]
    if completion_only:
        return encoded
    return [one._replace(loss_mask=[True] * len(one.ids)) for one in encoded]


def cut_to(encoded: Encoded, max_length: int) -> tuple[list[int], list[int]] | None:
    """Return (ids, labels) of at most max_length tokens; None where no token adds to the loss."""
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


def _key(examples: Sequence[Example], tokenizer: Any, config: Config, method: Method) -> str:
    """Return the name of the tokens of these examples in the cache."""
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
    """Tokenise examples into a folder, which appears only when it is complete."""
    import pyarrow

    _make_room(folder.parent)
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    partial.mkdir()
    counts: Counter[str] = Counter()
    lengths: list[int] = []
    try:
        with pyarrow.ipc.new_stream(str(partial / "rows.arrow"), _schema(method)) as stream:
            for rows in _in_batches(examples, tokenizer, method, split, config.data):
                first = len(lengths)
                lengths += [max(len(encoded.ids) for encoded in row.values()) for row in rows]
                stream.write_batch(_arrow(rows, method, first, config.data.max_length, counts))
        if not counts["tokens"]:
            raise DataError(_nothing_left(lengths, config.data.max_length, split))
        (partial / "counts.json").write_text(json.dumps(counts), encoding="utf-8")
        if not folder.exists():  # another run may have been faster
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
    rows: list[Sequences], method: Method, first: int, max_length: int, counts: Counter[str]
) -> pyarrow.RecordBatch:
    """Return rows cut as `cut_row` cuts them, without those that leave nothing to train on.

    Args:
        rows: The sequences of consecutive examples.
        method: Names the sequences.
        first: Number of the first example.
        max_length: Most tokens of a sequence.
        counts: The counts of `Tokenised`, which these rows are added to.
    """
    import pyarrow

    cuts = [_Cut([row[name] for row in rows], max_length) for name in method.sequences]
    is_cut = np.logical_or.reduce([cut.is_cut for cut in cuts])
    stays = np.logical_and.reduce([cut.trained > 0 for cut in cuts])
    counts.update(
        cut=int((is_cut & stays).sum()),
        left_out=int((is_cut & ~stays).sum()),
        empty=int((~is_cut & ~stays).sum()),
        merged=sum(any(one.is_merged for one in row.values()) for row in rows),
        unanswered=sum(any(one.unanswered for one in row.values()) for row in rows),
        tokens=sum(int(cut.size[stays].sum()) for cut in cuts),
        trained_tokens=sum(int(cut.trained[stays].sum()) for cut in cuts),
    )
    longest = max(int(cut.size[stays].max(initial=0)) for cut in cuts)
    counts["longest"] = max(counts["longest"], longest)
    columns = [column for cut in cuts for column in cut.columns(stays)]
    examples = pyarrow.array(first + np.flatnonzero(stays), pyarrow.int64())
    return pyarrow.record_batch([*columns, examples], schema=_schema(method))


class _Cut:
    """One named sequence of some rows, cut.

    Attributes:
        is_cut: Whether each row lost its end, [rows].
        size: Tokens left of each row, [rows].
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
        masks = bytearray().join(bytes(one.loss_mask[:max_length]) for one in encoded)
        loss_mask = np.frombuffer(masks, bool)  # writable, as a bytearray is
        self._labels = np.where(loss_mask, self._ids, np.int32(IGNORE_INDEX))
        loss_mask[begins[self.size > 0]] = False  # nothing predicts the first token of a row
        sums = np.concatenate([[0], np.cumsum(loss_mask)])
        self.trained = sums[ends] - sums[begins]
        self._prompts = np.minimum([one.prompt_tokens for one in encoded], self.size)

    def columns(self, stays: np.ndarray) -> list[pyarrow.Array]:
        """Return ids, labels and prompt lengths of the rows that stay."""
        import pyarrow

        tokens, size = np.repeat(stays, self.size), self.size[stays]
        begins = np.concatenate([[0], np.cumsum(size)]).astype(np.int32)
        return [
            pyarrow.ListArray.from_arrays(begins, self._ids[tokens]),
            pyarrow.ListArray.from_arrays(begins, self._labels[tokens]),
            pyarrow.array(self._prompts[stays], pyarrow.int32()),
        ]


def _make_room(folder: Path) -> None:
    """Delete the least recently used tokens, down to `CACHE_BYTES`."""
    folder.mkdir(parents=True, exist_ok=True)
    total = 0
    for entry in sorted(folder.iterdir(), key=lambda f: f.stat().st_mtime, reverse=True):
        total += sum(f.stat().st_size for f in entry.rglob("*") if f.is_file())
        if total > CACHE_BYTES:
            shutil.rmtree(entry, ignore_errors=True)


def remarks(tokenised: Tokenised, config: Config, split: str) -> list[str]:
    """Describe which rows of a split were cut or left out; nothing where none were."""
    limit = f"data.max_length={config.data.max_length}"
    total = len(tokenised) + tokenised.left_out + tokenised.empty
    affected = {
        "conversations go on after their last answer; those turns are left out, because they have "
        "nothing to train on.": tokenised.unanswered,
        f"rows are left out: their prompt alone fills {limit}, so they have nothing to train on.": (
            tokenised.left_out
        ),
        "rows are left out: they are empty.": tokenised.empty,
        f"rows lose their end at {limit}; the model does not learn to stop there.": tokenised.cut,
    }
    return [f"{split}: {n:,} of {total:,} {what}" for what, n in affected.items() if n]


def _nothing_left(lengths: list[int], max_length: int, split: str) -> Problem:
    if max(lengths, default=0) <= max_length:
        why = "no row holds anything to train on."
        return Problem(f"data.{split}", None, why, "Check the rows.")
    enough = enough_for(lengths, KEPT_SHARES[-1])
    return Problem(
        "data.max_length",
        max_length,
        f"cuts every completion away: nothing is left to train on in {len(lengths):,} {split} "
        f"rows. {enough_in_words(lengths)}",
        f"Use {enough}.",
        {"data.max_length": enough},
    )


_ROWS_A_PROCESS = 10_000
"""Conversations that make another process worth starting. Plain text gains nothing from processes:
the tokenizer uses all cores by itself, twice as fast as two processes on two cores."""


def _in_batches(
    examples: Sequence[Example], tokenizer: Any, method: Method, split: str, data: Data
) -> Iterator[list[Sequences]]:
    """Tokenise examples in batches; in several processes where there are many."""
    wanted = data.dataset_num_proc or 1
    if data.dataset_num_proc is None and examples and examples[0].messages:
        wanted = min(len(examples) // _ROWS_A_PROCESS, usable_cores() // 2)
    work = functools.partial(
        _encode_batch,
        tokenizer=tokenizer,
        method=method,
        split=split,
        completion_only=data.completion_only_loss,
    )
    batches = ((n, examples[n : n + _BATCH]) for n in range(0, len(examples), _BATCH))
    if wanted <= 1:
        yield from map(work, batches)
        return
    import multiprocess

    with multiprocess.Pool(wanted) as pool:
        yield from pool.imap(work, batches)


def _encode_batch(batch: tuple[int, Sequence[Example]], **how: Any) -> list[Sequences]:
    first, examples = batch
    return encode_rows(examples, first=first, **how)


def _pairs(examples: Sequence[Example], tokenizer: Any) -> Iterator[Encoded]:
    """Tokenise prompts and completions."""
    prompts = _ids([e.prompt for e in examples], tokenizer, special=True)
    wholes = _ids([e.prompt + e.completion for e in examples], tokenizer, special=True)
    is_clean = [whole[: len(p)] == p for p, whole in zip(prompts, wholes, strict=True)]
    merged = [e.completion for e, clean in zip(examples, is_clean, strict=True) if not clean]
    apart = iter(_ids(merged, tokenizer, special=False))
    end = tokenizer.eos_token_id
    for prompt, whole, clean in zip(prompts, wholes, is_clean, strict=True):
        completion = [*(whole[len(prompt) :] if clean else next(apart)), end]
        loss_mask = [False] * len(prompt) + [True] * len(completion)
        yield Encoded(prompt + completion, loss_mask, len(prompt), not clean)


def _ids(texts: list[str], tokenizer: Any, *, special: bool) -> list[list[int]]:
    """Return the token ids of texts, with what the tokenizer puts before a text, but no end."""
    if len(texts) > _FEW and (pretokenizer := _pretokenizer(tokenizer, special=special)):
        with contextlib.suppress(UnicodeEncodeError):  # half a character: the tokenizer reports it
            ids = pretokenizer.cut(texts)
            checked = slice(None, None, -(-len(texts) // _FEW))
            if ids[checked] == _tokenizer_ids(texts[checked], tokenizer, special=special):
                return ids
    return _tokenizer_ids(texts, tokenizer, special=special)


def _pretokenizer(tokenizer: Any, *, special: bool) -> Pretokenizer | None:
    """Return what tokenises faster than the tokenizer itself, or None."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or getattr(tokenizer, "split_special_tokens", False):
        return None
    if special and backend.num_special_tokens_to_add(False):
        return None
    return splitter(backend)


def _tokenizer_ids(texts: list[str], tokenizer: Any, *, special: bool) -> list[list[int]]:
    if not texts:
        return []
    tokenised = tokenizer(texts, add_special_tokens=special, return_attention_mask=False)
    ids: list[list[int]] = tokenised["input_ids"]
    if special and tokenizer("a")["input_ids"][-1:] == [tokenizer.eos_token_id]:
        return [row[:-1] for row in ids]  # this tokenizer appends the end by itself
    return ids


def _conversations(
    conversations: Mapping[int, Sequence[Turn]], tokenizer: Any, split: str
) -> Iterator[Encoded]:
    """Tokenise conversations, by their number, through the chat template."""
    segments = all_segments([*conversations.values()], tokenizer, split, [*conversations])
    texts = [segment.text for of_one in segments for segment in of_one]
    pieces = iter(_ids(texts, tokenizer, special=False))
    end = tokenizer.eos_token_id
    for conversation, of_one in zip(conversations.values(), segments, strict=True):
        ids: list[int] = []
        loss_mask: list[bool] = []
        for (_, is_trained), piece in zip(of_one, pieces, strict=False):
            ids += piece
            loss_mask += [is_trained] * len(piece)
        if end not in ids[-2:]:  # a template may end in <end of turn> and a line break
            ids.append(end)
            loss_mask.append(True)
        prompt_tokens = loss_mask.index(True) if any(loss_mask) else len(ids)
        yield Encoded(ids, loss_mask, prompt_tokens, False, unanswered(conversation))
