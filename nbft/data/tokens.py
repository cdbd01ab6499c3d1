"""From examples to tokens and labels.

The prompt and the completion are cut into tokens so that none crosses the boundary between them;
the end-of-sequence token is learnt; a label of -100 is not learnt. What was cut once is kept in
nbft's cache, by its content. Called by `nbft.training`, the lens and the doctor.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from nbft.config import Config
from nbft.config.data import Data
from nbft.data.examples import Example
from nbft.errors import DataError, Problem
from nbft.models.find import cache_folder

if TYPE_CHECKING:
    import datasets

IGNORE_INDEX = -100
"""Label of a token that adds nothing to the loss. Source: torch.nn.CrossEntropyLoss."""

CACHE_BYTES = 4 * 2**30
"""Most bytes of tokens that are kept; the ones used longest ago go first."""

_BATCH = 1000
_VERSION = 1  # of the way that tokens are cut; a change of it forgets what is kept

Segment = tuple[str, bool]


class Encoded(NamedTuple):
    """One example as tokens, whole.

    Attributes:
        ids: Token ids, the end-of-sequence token included, [s].
        learnt: Which of them are learnt, [s].
        prompt_tokens: Tokens before the first answer, learnt or not.
        is_merged: Whether the tokenizer would have joined the end of the prompt and the beginning
            of the completion to one token; it was kept apart.
    """

    ids: list[int]
    learnt: list[bool]
    prompt_tokens: int
    is_merged: bool


@dataclass(frozen=True)
class Tokenised:
    """Examples as tokens.

    Attributes:
        dataset: input_ids and labels of each row, [s] each, with prompt_tokens (tokens before the
            first answer) and example (number of the example). It lies in a file.
        cut: Examples that are kept but lost their end at `data.max_length`.
        left_out: Examples left out because their prompt alone fills `data.max_length`.
        empty: Examples left out because they hold no text.
        merged: Examples whose prompt and completion would have shared a token.
        tokens: Tokens of all rows.
        trained_tokens: Tokens that add to the loss. The first token of a row is never predicted.
        longest: Tokens of the longest row.
    """

    dataset: datasets.Dataset
    cut: int
    left_out: int
    empty: int
    merged: int
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
    folder = cache_folder() / "tokens" / _key(examples, tokenizer, config)
    if not (folder / "counts.json").is_file():
        _write(folder, examples, tokenizer, config, split)
    os.utime(folder)
    return _read(folder)


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
    return found if completion_only else [e._replace(learnt=[True] * len(e.ids)) for e in found]


def cut_to(encoded: Encoded, max_length: int) -> tuple[list[int], list[int]] | None:
    """Return (ids, labels) of at most so many tokens, or None where nothing would be learnt."""
    ids, learnt = encoded.ids[:max_length], encoded.learnt[:max_length]
    if not any(learnt[1:]):
        return None
    return ids, [i if on else IGNORE_INDEX for i, on in zip(ids, learnt, strict=True)]


_COUNTS = ("cut", "left_out", "empty", "merged", "tokens", "trained_tokens", "longest")


def _key(examples: Sequence[Example], tokenizer: Any, config: Config) -> str:
    """Return a name for the tokens of these examples: the same only if all that matters is."""
    digest = hashlib.blake2b(digest_size=16)
    how = {
        "version": _VERSION,
        "tokenizer": tokenizer.backend_tokenizer.to_str()
        if getattr(tokenizer, "backend_tokenizer", None)
        else json.dumps(tokenizer.get_vocab(), sort_keys=True),
        "chat_template": tokenizer.chat_template,
        "special": tokenizer.special_tokens_map,
        "max_length": config.data.max_length,
        "completion_only_loss": config.data.completion_only_loss,
    }
    digest.update(json.dumps(how, sort_keys=True, default=str).encode())
    for example in examples:
        digest.update(repr((example.prompt, example.completion, example.messages)).encode())
    return digest.hexdigest()


def _write(
    folder: Path, examples: Sequence[Example], tokenizer: Any, config: Config, split: str
) -> None:
    """Cut examples into tokens and keep them in a folder, which appears when it is whole."""
    _make_room(folder.parent)
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    partial.mkdir()
    counts = dict.fromkeys(_COUNTS, 0)
    lengths: list[int] = []
    encoded = _in_batches(examples, tokenizer, split, config.data)
    try:
        with _Writer(partial / "rows.arrow") as writer:
            for number, one in enumerate(encoded):
                lengths.append(len(one.ids))
                is_cut = len(one.ids) > config.data.max_length
                kept = cut_to(one, config.data.max_length)
                counts["merged"] += one.is_merged
                if kept is None:
                    counts["left_out" if is_cut else "empty"] += 1
                    continue
                ids, labels = kept
                writer.add(ids, labels, min(one.prompt_tokens, len(ids)), number)
                counts["cut"] += is_cut
                counts["tokens"] += len(ids)
                counts["trained_tokens"] += len(labels) - 1 - labels[1:].count(IGNORE_INDEX)
                counts["longest"] = max(counts["longest"], len(ids))
        if not counts["tokens"]:
            raise DataError(_nothing_left(lengths, config.data.max_length, split))
        (partial / "counts.json").write_text(json.dumps(counts), encoding="utf-8")
        if not folder.exists():  # another run may have been quicker
            partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


class _Writer:
    """Writes tokenised rows to an Arrow file, some at a time."""

    def __init__(self, path: Path) -> None:
        import pyarrow

        tokens = pyarrow.list_(pyarrow.int32())
        self._schema = pyarrow.schema(
            {"input_ids": tokens, "labels": tokens, "prompt_tokens": "int32", "example": "int64"}
        )
        self._stream = pyarrow.ipc.new_stream(str(path), self._schema)
        self._rows: list[tuple[Any, ...]] = []

    def add(self, *row: Any) -> None:
        self._rows.append(row)
        if len(self._rows) == _BATCH:
            self._flush()

    def _flush(self) -> None:
        import pyarrow

        columns = [*zip(*self._rows, strict=True)] or [()] * len(self._schema)
        arrays = [pyarrow.array(c, f.type) for c, f in zip(columns, self._schema, strict=True)]
        self._stream.write_batch(pyarrow.record_batch(arrays, schema=self._schema))
        self._rows.clear()

    def __enter__(self) -> _Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self._flush()
        self._stream.close()


def _read(folder: Path) -> Tokenised:
    import datasets

    counts = json.loads((folder / "counts.json").read_text(encoding="utf-8"))
    return Tokenised(datasets.Dataset.from_file(str(folder / "rows.arrow")), **counts)


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
    enough = sorted(lengths)[min(len(lengths) - 1, round(0.95 * len(lengths)))]
    return Problem(
        "data.max_length",
        max_length,
        f"cuts every completion away: nothing is left to learn in {len(lengths):,} {split} rows of "
        f"up to {longest:,} tokens.",
        f"Use {enough}, which keeps 95% of the rows whole.",
        {"data.max_length": enough},
    )


_ROWS_A_PROCESS = 10_000
"""Conversations that make another process worth its start. Plain text gains nothing by processes:
the tokenizer works on all cores by itself, twice as fast as two processes on two cores."""


def _in_batches(
    examples: Sequence[Example], tokenizer: Any, split: str, data: Data
) -> Iterator[Encoded]:
    """Cut examples into tokens, in several processes where there are many."""
    wanted = data.dataset_num_proc or 1
    if data.dataset_num_proc is None and examples and examples[0].messages:
        wanted = min(len(examples) // _ROWS_A_PROCESS, _cores() // 2)
    work = _Work(tokenizer, split, data.completion_only_loss)
    pieces = (
        (first, examples[first : first + _BATCH]) for first in range(0, len(examples), _BATCH)
    )
    if wanted <= 1:
        for found in map(work, pieces):
            yield from found
        return
    import multiprocess

    with multiprocess.Pool(wanted) as pool:
        for found in pool.imap(work, pieces):
            yield from found


class _Work:
    """What a process does with its share of the examples."""

    def __init__(self, tokenizer: Any, split: str, completion_only: bool) -> None:
        self._tokenizer, self._split, self._only = tokenizer, split, completion_only

    def __call__(self, piece: tuple[int, Sequence[Example]]) -> list[Encoded]:
        first, examples = piece
        return encode(
            examples, self._tokenizer, self._split, completion_only=self._only, first=first
        )


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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
    for n, example in enumerate(examples):
        if example.messages:
            ids, learnt = _chat(example.messages, tokenizer, split, first + n)
            found[n] = Encoded(ids, learnt, learnt.index(True), is_merged=False)
    return [found[n] for n in range(len(examples))]


def _ids(texts: list[str], tokenizer: Any, *, special: bool) -> list[list[int]]:
    """Return the token ids of texts, with what the tokenizer puts before a text, but no end."""
    if not texts:
        return []
    found: list[list[int]] = tokenizer(texts, add_special_tokens=special)["input_ids"]
    end = tokenizer.eos_token_id
    if special and tokenizer("a")["input_ids"][-1:] == [end]:  # this tokenizer appends the end
        return [ids[:-1] for ids in found]
    return found


def _chat(
    messages: Sequence[Mapping[str, str]], tokenizer: Any, split: str, number: int
) -> tuple[list[int], list[bool]]:
    """Cut a conversation into tokens through the chat template; the assistant's turns are learnt.

    The text up to each answer is rendered as it will be when the model is asked, so the model
    learns exactly what it will have to write.
    """
    ids: list[int] = []
    learnt: list[bool] = []
    for text, is_answer in chat_segments(messages, tokenizer, split, number):
        piece = tokenizer(text, add_special_tokens=False)["input_ids"]
        ids += piece
        learnt += [is_answer] * len(piece)
    end = tokenizer.eos_token_id
    if end not in ids[-2:]:  # a template may end in <end of turn> and a new line
        ids.append(end)
        learnt.append(True)
    return ids, learnt


def chat_segments(
    messages: Sequence[Mapping[str, str]], tokenizer: Any, split: str = "train", number: int = 0
) -> list[Segment]:
    """Return a conversation as (text, whether it is learnt), through the chat template.

    Raises:
        DataError: The tokenizer has no chat template, or the template refuses the messages.
    """
    if not tokenizer.chat_template:
        raise DataError(
            Problem(
                f"data.{split}",
                None,
                'has "messages", but the model has no chat template.',
                "Choose an instruct model, set model.chat_template_path, or give prompt and "
                "completion.",
            )
        )

    def render(turns: Sequence[Mapping[str, str]], *, ask: bool = False) -> str:
        text: str = tokenizer.apply_chat_template(
            list(turns), tokenize=False, add_generation_prompt=ask
        )
        return text

    segments: list[Segment] = []
    done = ""
    try:
        for n, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            asked, answered = render(messages[:n], ask=True), render(messages[: n + 1])
            if not answered.startswith(asked) or not asked.startswith(done):
                raise ValueError("the template changes earlier turns when one is added")
            is_learnt = message.get("learnt") != "no"  # an answer that is only read
            segments += [(asked[len(done) :], False), (answered[len(asked) :], is_learnt)]
            done = answered
    except DataError:
        raise
    except Exception as error:
        raise DataError(
            Problem(
                f"data.{split}",
                None,
                f"row {number + 1}: the chat template refuses the messages ({error}).",
                "Roles are usually system, user, assistant, by turns.",
            )
        ) from None
    return segments
