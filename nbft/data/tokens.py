"""From examples to named token sequences, each with ids and a loss mask.

The method determines the sequences of an example: its completion, or a chosen and a rejected answer.
Prompt and completion are tokenised so that no token crosses the boundary between them; the
end-of-sequence token is trained on. Tokens are cached by content. Called by `nbft.training`, the lens
and the doctor.
"""

from __future__ import annotations

import bisect
import contextlib
import dataclasses
import functools
import itertools
import json
import logging
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nbft import atomic
from nbft.access import private_folder
from nbft.config import Config
from nbft.data import processes
from nbft.data.chat import (
    Conversation,
    RefusedConversationError,
    Segment,
    as_conversations,
    unanswered,
)
from nbft.data.continuation import Continuation, shared_length
from nbft.data.examples import Example, Examples
from nbft.data.fingerprint import code_key, key_of, tokenizer_key
from nbft.data.lengths import KEPT_SHARES, enough_for, enough_in_words
from nbft.data.pretokenizer import Pretokenizer, splitter
from nbft.data.rendering import TokenizerTemplate
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


class Encoded(NamedTuple):
    """One sequence as tokens, not yet cut to data.max_length.

    Attributes:
        ids: Token ids, the end-of-sequence token included, [s]. Of a text that is much longer than
            data.max_length only the beginning.
        loss_mask: Which of them add to the loss, [s].
        prompt_tokens: Tokens before the first answer, whether they add to the loss or not.
        is_merged: Whether the tokenizer alone would have merged the end of the prompt and the
            start of the completion into one token.
        unanswered: Turns after the last answer of a conversation. They are left out, because a
            question without an answer has nothing to train on.
        untokenised: About how many tokens the rest of the text would have.
        is_folded: Whether a system turn stands in the first question.
        remark: See `chat.Conversation`.
        is_prompt_cut: Whether the prompt lost its beginning.
    """

    ids: list[int]
    loss_mask: list[bool]
    prompt_tokens: int
    is_merged: bool
    unanswered: int = 0
    untokenised: int = 0
    is_folded: bool = False
    remark: str = ""
    is_prompt_cut: bool = False

    @property
    def length(self) -> int:
        """Tokens of the whole text."""
        return len(self.ids) + self.untokenised


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
        folded: Examples whose system turn stands in their first question.
        prompts_cut: Examples whose prompt lost its beginning at `preference.max_prompt_length`.
        remarked: How many examples have each remark of `chat.Conversation`.
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
    folded: int
    prompts_cut: int
    remarked: dict[str, int]
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

    def answer_ids(self, number: int) -> list[int]:
        """Return the ids of the first answer of a row, as far as it is trained on."""
        end = self._of_first("prompt_tokens")[number]
        labels = itertools.dropwhile(lambda label: label == IGNORE_INDEX, self.labels[number][end:])
        return list(itertools.takewhile(lambda label: label != IGNORE_INDEX, labels))


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
        os.utime(folder)  # recently used: others are deleted before it
        rows = datasets.Dataset.from_file(str(folder / "rows.arrow"))
        known = {field.name for field in dataclasses.fields(Tokenised)}
        remarked = {name: counts.pop(name) for name in [*counts] if name not in known}
        return Tokenised(rows, method, key, remarked=remarked, **counts)
    except (OSError, ValueError, TypeError) as error:
        if folder.exists():
            logging.getLogger("nbft").warning("Tokens in the cache cannot be read: %s", error)
            atomic.remove(folder)
        return None


def encode_rows(
    examples: Sequence[Example],
    tokenizer: Any,
    method: Method,
    split: str = "train",
    *,
    most_prompt_tokens: int | None = None,
    **how: Any,
) -> list[Sequences]:
    """Return the named token sequences that a method makes of examples; as `encode` otherwise.

    Of a prompt with more than `most_prompt_tokens` the end is kept.
    """
    if most_prompt_tokens is not None:
        how["max_length"] = None  # a long prompt is tokenised to its end, which is kept
    if method.generates:  # where an answer begins must be known
        how["completion_only"] = True
    named = {
        name: [
            _with_short_prompt(one, most_prompt_tokens)
            for one in encode(texts, tokenizer, split, **how)
        ]
        for name, texts in method.texts(examples).items()
    }
    if method.generates:
        named = {name: [*map(prompt_of, encoded)] for name, encoded in named.items()}
    return [dict(zip(named, row, strict=True)) for row in zip(*named.values(), strict=True)]


def _with_short_prompt(encoded: Encoded, most: int | None) -> Encoded:
    if most is None or encoded.prompt_tokens <= most:
        return encoded
    left_out = encoded.prompt_tokens - most
    return encoded._replace(
        ids=encoded.ids[left_out:],
        loss_mask=encoded.loss_mask[left_out:],
        prompt_tokens=most,
        is_prompt_cut=True,
    )


def encode(
    examples: Sequence[Example],
    tokenizer: Any,
    split: str = "train",
    *,
    completion_only: bool = True,
    first: int = 0,
    max_length: int | None = None,
) -> list[Encoded]:
    """Tokenise prompts with their completions, or conversations, without cutting them.

    Args:
        examples: Prompts and completions, or chat messages.
        tokenizer: A transformers tokenizer.
        split: Name of the split, for messages.
        completion_only: Whether only answers add to the loss; all tokens otherwise.
        first: Number of the first of these examples, for messages.
        max_length: Tokens that will be used; of a text that is much longer only the beginning is
            tokenised.

    Raises:
        RefusedConversationError: The chat template cannot say a conversation; has its number.
        DataError: Messages were given to a tokenizer without a chat template.
    """
    most = _most_characters(examples, tokenizer, max_length)
    pairs = _pairs([e for e in examples if not e.messages], tokenizer, most)
    chats = {first + n: e for n, e in enumerate(examples) if e.messages}
    conversations = _conversations(chats, tokenizer, split, most) if chats else iter(())
    encoded = [next(conversations if e.messages else pairs) for e in examples]
    if completion_only:
        return encoded
    return [one._replace(loss_mask=[True] * len(one.ids)) for one in encoded]


def prompt_of(encoded: Encoded) -> Encoded:
    """Return what is read before the last answer of an example, none of which is trained on."""
    end = len(encoded.ids)
    while end and not encoded.loss_mask[end - 1]:
        end -= 1
    while end and encoded.loss_mask[end - 1]:
        end -= 1
    rest = encoded.untokenised if end == len(encoded.ids) else 0
    return encoded._replace(
        ids=encoded.ids[:end], loss_mask=[False] * end, prompt_tokens=end, untokenised=rest
    )


_LONG_CHARACTERS = 20_000
"""Shorter texts are tokenised as a whole, which takes milliseconds."""


def _most_characters(
    examples: Sequence[Example], tokenizer: Any, max_length: int | None
) -> int | None:
    """Return how much of a text surely holds more than max_length tokens; None for all of it."""
    if max_length is None or not any(_characters(e) > _LONG_CHARACTERS for e in examples):
        return None
    return max(_LONG_CHARACTERS, 2 * max_length * max(map(len, tokenizer.get_vocab())))


def _characters(example: Example) -> int:
    of_turns = (len(turn["content"]) for turn in example.messages)
    return len(example.prompt) + len(example.completion) + sum(of_turns)


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
        "code": code_key(),
        "columns": method.columns,
        "most_prompt_tokens": method.most_prompt_tokens(config),
        "generates": method.generates,
        "tokenizer": tokenizer_key(tokenizer),
        "max_length": config.data.max_length,
        "completion_only_loss": config.data.completion_only_loss,
    }
    texts = (
        (name, e.prompt, e.completion, e.messages, e.tools)
        for name, sequence in method.texts(examples).items()
        for e in sequence
    )
    values = (list(method.values(e).values()) for e in examples if method.value_names)
    return key_of(itertools.chain([how], texts, values))


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

    _make_room(private_folder(folder.parent))
    counts: Counter[str] = Counter()
    lengths: list[int] = []
    with atomic.providing(folder) as partial:
        partial.mkdir()
        with pyarrow.ipc.new_stream(str(partial / "rows.arrow"), _schema(method)) as stream:
            try:
                for rows in _in_batches(examples, tokenizer, method, split, config):
                    first = len(lengths)
                    lengths += [max(encoded.length for encoded in row.values()) for row in rows]
                    of_rows = examples[first : first + len(rows)] if method.value_names else ()
                    values = [method.values(example) for example in of_rows]
                    most = config.data.max_length
                    stream.write_batch(_arrow(rows, values, method, first, most, counts))
            except RefusedConversationError as error:
                raise located(error, examples) from None
        if not counts["tokens"]:
            raise DataError(_nothing_left(lengths, config.data.max_length, split))
        (partial / "counts.json").write_text(json.dumps(counts), encoding="utf-8")


def located(error: RefusedConversationError, examples: Sequence[Example]) -> DataError:
    """Return an error with the row's number in its file."""
    if not isinstance(examples, Examples):
        return error
    part, row = examples.origin(error.number)
    field = examples.parts[part].field
    return DataError(Problem(field, None, f"row {row:,}: {error.why}", error.fix))


def _schema(method: Method) -> pyarrow.Schema:
    import pyarrow

    tokens = pyarrow.list_(pyarrow.int32())
    parts = {"input_ids": tokens, "labels": tokens, "prompt_tokens": "int32"}
    named = {
        method.column(name, part): kind for name in method.sequences for part, kind in parts.items()
    }
    values = dict.fromkeys(method.value_names, "float32")
    return pyarrow.schema({**named, **values, "example": "int64"})


def _arrow(
    rows: list[Sequences],
    values: Sequence[Mapping[str, float]],
    method: Method,
    first: int,
    max_length: int,
    counts: Counter[str],
) -> pyarrow.RecordBatch:
    """Return rows cut as `cut_row` cuts them, without those that leave nothing to train on.

    Args:
        rows: The sequences of consecutive examples.
        values: The method's numbers of each, if it has any.
        method: Names the sequences.
        first: Number of the first example.
        max_length: Most tokens of a sequence.
        counts: The counts of `Tokenised`, which these rows are added to.
    """
    import pyarrow

    cuts = [_Cut([row[name] for row in rows], max_length) for name in method.sequences]
    is_cut = np.logical_or.reduce([cut.is_cut for cut in cuts])
    stays = np.logical_and.reduce([cut.trained > 0 for cut in cuts])
    if method.generates:
        stays = ~is_cut & np.logical_and.reduce([cut.size > 0 for cut in cuts])
    counts.update(
        cut=int((is_cut & stays).sum()),
        left_out=int((is_cut & ~stays).sum()),
        empty=int((~is_cut & ~stays).sum()),
        merged=sum(any(one.is_merged for one in row.values()) for row in rows),
        unanswered=sum(any(one.unanswered for one in row.values()) for row in rows),
        folded=sum(any(one.is_folded for one in row.values()) for row in rows),
        prompts_cut=sum(any(one.is_prompt_cut for one in row.values()) for row in rows),
        tokens=sum(int(cut.size[stays].sum()) for cut in cuts),
        trained_tokens=sum(int(cut.trained[stays].sum()) for cut in cuts),
    )
    for row in rows:
        counts.update({one.remark for one in row.values() if one.remark})
    longest = max(int(cut.size[stays].max(initial=0)) for cut in cuts)
    counts["longest"] = max(counts["longest"], longest)
    columns = [column for cut in cuts for column in cut.columns(stays)]
    kept = np.flatnonzero(stays).tolist()
    columns += [
        pyarrow.array([values[n][name] for n in kept], pyarrow.float32())
        for name in method.value_names
    ]
    examples = pyarrow.array([first + n for n in kept], pyarrow.int64())
    return pyarrow.record_batch([*columns, examples], schema=_schema(method))


class _Cut:
    """One named sequence of some rows, cut.

    Attributes:
        is_cut: Whether each row lost its end, [rows].
        size: Tokens left of each row, [rows].
        trained: Those that add to the loss, [rows].
    """

    def __init__(self, encoded: Sequence[Encoded], max_length: int) -> None:
        whole = np.array([one.length for one in encoded], int)
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
    """Delete the least recently used tokens, down to `CACHE_BYTES`.

    Another process may delete the same at the same time. What is being written stays.
    """
    found = []
    for entry in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):
            size = sum(f.stat().st_size for f in entry.rglob("*") if f.is_file())
            found.append((entry.stat().st_mtime, size, entry))
    total = 0
    for _, size, entry in sorted(found, reverse=True):
        total += size
        if total > CACHE_BYTES and not atomic.is_partial(entry):
            atomic.remove(entry)


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
        "conversations have a system turn, which the chat template does not take; it stands before "
        "the first question.": tokenised.folded,
        **{f"conversations {remark}": n for remark, n in tokenised.remarked.items()},
        "rows lose the beginning of their prompt at preference.max_prompt_length="
        f"{config.preference.max_prompt_length}.": tokenised.prompts_cut,
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


_ROWS_A_PROCESS = 40_000
"""Conversations that make another process worth its start. Plain text gains nothing from processes:
the tokenizer uses all cores by itself, twice as fast as two processes on two cores."""


def _in_batches(
    examples: Sequence[Example], tokenizer: Any, method: Method, split: str, config: Config
) -> Iterator[list[Sequences]]:
    """Tokenise examples in batches; in several processes where there are many."""
    data = config.data
    wanted = data.dataset_num_proc or 1
    if data.dataset_num_proc is None and examples and examples[0].messages:
        wanted = min(len(examples) // _ROWS_A_PROCESS, usable_cores() // 2)
    work = functools.partial(
        _encode_batch,
        tokenizer=tokenizer,
        method=method,
        split=split,
        completion_only=data.completion_only_loss,
        max_length=data.max_length,
        most_prompt_tokens=method.most_prompt_tokens(config),
    )
    starts = range(0, len(examples), _BATCH)
    batches = ((n, examples[n : n + _BATCH]) for n in starts)
    if (several := min(wanted, len(starts))) > 1:
        yield from processes.imap(work, batches, several)
    else:
        yield from map(work, batches)


def _encode_batch(batch: tuple[int, Sequence[Example]], **how: Any) -> list[Sequences]:
    first, examples = batch
    return encode_rows(examples, first=first, **how)


def _pairs(examples: Sequence[Example], tokenizer: Any, most: int | None) -> Iterator[Encoded]:
    """Tokenise prompts and completions, each as far as so many characters."""
    texts = [e.prompt + e.completion for e in examples]
    prompts = _ids([e.prompt[:most] for e in examples], tokenizer, special=True)
    wholes = _ids([text[:most] for text in texts], tokenizer, special=True)
    is_clean = [whole[: len(p)] == p for p, whole in zip(prompts, wholes, strict=True)]
    apart = iter(_apart(examples, prompts, wholes, is_clean, tokenizer, most))
    end = _end_id(tokenizer)
    for text, prompt, whole, clean in zip(texts, prompts, wholes, is_clean, strict=True):
        before, after = (prompt, whole[len(prompt) :]) if clean else next(apart)
        untokenised = _untokenised(text, most, len(before) + len(after))
        if end is not None and after[-1:] != [end] and not untokenised:
            after = [*after, end]
        loss_mask = [False] * len(before) + [True] * len(after)
        yield Encoded(before + after, loss_mask, len(before), not clean, 0, untokenised)


def _apart(
    examples: Sequence[Example],
    prompts: list[list[int]],
    wholes: list[list[int]],
    is_clean: list[bool],
    tokenizer: Any,
    most: int | None,
) -> Iterator[tuple[list[int], list[int]]]:
    """Yield prompt and completion as ids where the tokenizer alone would merge them.

    The prompt is tokenised as it is when the model is asked, and the completion as a text that goes
    on after it. Where a tokenizer has no such tokens, the token that both share is trained on.
    """
    merged = [n for n, clean in enumerate(is_clean) if not clean]
    if not merged:
        return
    going_on = _continuation(tokenizer)
    completions = going_on.ids([examples[n].completion[:most] for n in merged])
    for n, completion in zip(merged, completions, strict=True):
        prompt, whole = prompts[n], wholes[n]
        if _text(prompt + completion, tokenizer) != _text(whole, tokenizer):
            shared = shared_length(prompt, whole)
            prompt, completion = whole[:shared], whole[shared:]
        yield prompt, completion


def _text(ids: list[int], tokenizer: Any) -> str:
    return str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))


def _untokenised(text: str, most: int | None, tokens: int) -> int:
    """Return about how many tokens are left of a text of which the first characters are tokenised."""
    if most is None or len(text) <= most:
        return 0
    return round((len(text) - most) * tokens / most)


def _continuation(tokenizer: Any) -> Continuation:
    return Continuation(functools.partial(_tokenizer_ids, tokenizer=tokenizer, special=False))


def _end_id(tokenizer: Any) -> int | None:
    """Return the token that ends a sequence; a BERT tokenizer has a separator instead."""
    end = tokenizer.eos_token_id
    return tokenizer.sep_token_id if end is None else end  # type: ignore[no-any-return]


def _ids(texts: list[str], tokenizer: Any, *, special: bool) -> list[list[int]]:
    """Return the token ids of texts, with what the tokenizer puts before a text, but no end."""
    if len(texts) > _FEW and (pretokenizer := _pretokenizer(tokenizer, special=special)):
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
    if special and tokenizer("a")["input_ids"][-1:] == [_end_id(tokenizer)]:
        return [row[:-1] for row in ids]  # this tokenizer appends the end by itself
    return ids


def _conversations(
    examples: Mapping[int, Example], tokenizer: Any, split: str, most: int | None
) -> Iterator[Encoded]:
    """Tokenise conversations, by their number, through the chat template."""
    template = TokenizerTemplate(tokenizer, split)
    conversations = as_conversations([*examples.values()], template, [*examples], split)
    end = _end_id(tokenizer)
    pieces = _pieces(conversations, tokenizer, most)
    every = zip(examples.values(), conversations, pieces, strict=True)
    for example, conversation, (ids, loss_mask) in every:
        text = "".join(segment.text for segment in conversation.segments)
        untokenised = _untokenised(text, most, len(ids))
        after = loss_mask[::-1].index(True) if any(loss_mask) else len(ids)
        if end is not None and end not in ids[-after - 1 :] and not untokenised:
            ids, loss_mask = [*ids, end], [*loss_mask, True]
        yield Encoded(
            ids,
            loss_mask,
            loss_mask.index(True) if any(loss_mask) else len(ids),
            False,
            unanswered(example.messages),
            untokenised,
            conversation.is_folded,
            conversation.remark,
        )


def _pieces(
    conversations: Sequence[Conversation], tokenizer: Any, most: int | None
) -> Iterator[tuple[list[int], list[bool]]]:
    """Yield the ids of each conversation and which of them are trained on."""
    segments = [list(_first(c.segments, most)) for c in conversations]
    going_on = _continuation(tokenizer)
    if not going_on.is_plain:
        for of_one in segments:
            yield _with_offsets(of_one, tokenizer) or _joined(
                of_one,
                [
                    *_ids([of_one[0].text], tokenizer, special=False),
                    *going_on.ids([s.text for s in of_one[1:]]),
                ],
            )
        return
    texts = [segment.text for of_one in segments for segment in of_one]
    ids = iter(_ids(texts, tokenizer, special=False))
    for of_one in segments:
        yield _joined(of_one, [next(ids) for _ in of_one])


def _joined(
    segments: Sequence[Segment], pieces: Sequence[list[int]]
) -> tuple[list[int], list[bool]]:
    ids: list[int] = []
    loss_mask: list[bool] = []
    for segment, piece in zip(segments, pieces, strict=True):
        ids += piece
        loss_mask += [segment.is_trained] * len(piece)
    return ids, loss_mask


def _with_offsets(
    segments: Sequence[Segment], tokenizer: Any
) -> tuple[list[int], list[bool]] | None:
    """Return the ids of a whole text, or None where a token crosses from read to trained text."""
    if not tokenizer.is_fast:
        return None
    text = "".join(segment.text for segment in segments)
    tokenised = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    ends = list(itertools.accumulate(len(segment.text) for segment in segments))
    loss_mask = []
    for begin, end in tokenised["offset_mapping"]:
        place = bisect.bisect_right(ends, begin)
        if end > ends[place]:
            return None
        loss_mask.append(segments[place].is_trained)
    return tokenised["input_ids"], loss_mask


def _first(segments: Sequence[Segment], most: int | None) -> Iterator[Segment]:
    """Yield segments as far as so many characters."""
    room = most
    for segment in segments:
        if room is None:
            yield segment
        elif room > 0:
            yield segment._replace(text=segment.text[:room])
            room -= len(segment.text)
