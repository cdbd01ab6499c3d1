"""The rows of a run for the trainer: truncated, shuffled, packed, or as a stream.

Called by `nbft.training.worker`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import datasets
import numpy as np
from pyarrow import compute

from nbft.config import Config
from nbft.data.budget import token_batches
from nbft.data.chat import each_answer
from nbft.data.examples import Examples, load_examples, stream_examples
from nbft.data.lengths import column_lengths
from nbft.data.packing import pack, packed_dataset
from nbft.data.rendering import TokenizerTemplate
from nbft.data.token_cache import Prepared, prepare
from nbft.data.tokens import Tokenised, cut_row, encode_rows, remarks
from nbft.evaluate.forecast import metrics_of
from nbft.methods import IGNORE_INDEX, method_of

_STREAMED_BATCH = 64


@dataclass(frozen=True)
class TrainingRows:
    """What a run trains and measures on.

    Attributes:
        train: The method's columns of token ids and labels, [s] each, and seq_lengths where they
            are packed.
        known: The training rows as tokens; the first ones of a stream.
        held_out: The held-out rows as tokens, or None.
        is_stream: Whether `train` is read during training, so that the number of rows is unknown.
        lengths: Length of each training row for grouping; None means its tokens.
        scored: The held-out rows as text, if they are scored; kept so that their file is not read
            again.
        batches: Row numbers of each batch, with data.max_tokens_per_batch.
        examples: The examples of both splits, where the method generates; `example` in a row is
            the number of its example.
    """

    train: datasets.Dataset | datasets.IterableDataset
    known: Tokenised
    held_out: Tokenised | None
    is_stream: bool
    lengths: list[int] | None = None
    scored: Examples | None = None
    batches: list[list[int]] | None = None
    examples: Mapping[str, Examples] = field(default_factory=dict)

    @property
    def sequences(self) -> int:
        """Sequences per epoch: rows, or what they are packed or batched into."""
        if self.batches is not None:
            return len(self.batches)
        return len(self.known) if self.is_stream else len(self.train)


def read_rows(
    config: Config,
    tokenizer: Any,
    say: Callable[[str], None],
    warn: Callable[[str], None],
    *,
    padding_free: bool,
) -> TrainingRows:
    """Read both splits and tokenise them.

    Args:
        config: The config.
        tokenizer: A transformers tokenizer.
        say: Called with how rows were recognised.
        warn: Called with warnings about the rows.
        padding_free: Whether the rows of a batch are joined instead of padded.

    Raises:
        DataError: The rows cannot be read or leave nothing to train on.
    """
    splits = prepare(config, tokenizer)
    for name, split in splits.items():
        for text in split.recognised if name == "train" else ():
            say(text)
        for text in [*split.said, *(remarks(split.rows, config, name) if split.rows else ())]:
            warn(text)
    train, held_out = splits["train"].rows, splits["validation"].rows
    assert train is not None
    if splits["train"].is_stream:
        stream = datasets.IterableDataset.from_generator(
            _streamed, gen_kwargs={"config": config, "tokenizer": tokenizer}
        )
        return TrainingRows(stream, train, held_out, is_stream=True)
    lengths = None
    if config.data.train_sampling_strategy == "group_by_length":
        examples = splits["train"].examples
        if examples is None:
            examples, _ = load_examples(config, "train", tokenizer=tokenizer)
        lengths = lengths_of(config, train, examples)
    prepared, lengths = _prepared(train, config, lengths)
    is_scored = metrics_of(config) or config.evaluation.metric_function is not None
    scored = splits["validation"].examples if is_scored else None
    batches = None
    if (budget := config.data.max_tokens_per_batch) is not None:
        table = prepared.with_format("arrow")[:]
        of_sequences = [
            compute.list_value_length(table[train.method.column(name, "input_ids")]).to_numpy()
            for name in train.method.sequences
        ]
        tokens = np.sum(of_sequences, axis=0).tolist()
        batches = token_batches(tokens, budget, is_padded=not padding_free)
    asked = _asked(splits, config, tokenizer) if train.method.generates else {}
    return TrainingRows(prepared, train, held_out, False, lengths, scored, batches, asked)


def _asked(splits: Mapping[str, Prepared], config: Config, tokenizer: Any) -> dict[str, Examples]:
    """Return the examples behind the tokens of each split."""
    return {
        name: split.examples or load_examples(config, name, tokenizer=tokenizer)[0]
        for name, split in splits.items()
        if split.rows is not None
    }


def rows_key(rows: Tokenised) -> str:
    """Return a hash of rows as tokens, whatever they come from."""
    import xxhash

    lengths, values = xxhash.xxh3_128(), xxhash.xxh3_128()
    for name in rows.method.token_columns:
        for chunk in rows.dataset.with_format("arrow")[:].column(name).chunks:
            lengths.update(compute.list_value_length(chunk).to_numpy(zero_copy_only=False))
            values.update(compute.list_flatten(chunk).to_numpy(zero_copy_only=False))
    return f"{lengths.hexdigest()}{values.hexdigest()}"


def _prepared(
    rows: Tokenised, config: Config, lengths: list[int] | None
) -> tuple[datasets.Dataset, list[int] | None]:
    """Return the rows, shuffled and packed, and their lengths in the same order."""
    dataset = rows.dataset.select_columns(rows.method.trained_columns)
    if config.data.shuffle:
        order = np.random.default_rng(config.training.seed).permutation(len(dataset))
        dataset = dataset.select(order)
        lengths = lengths and [lengths[n] for n in order]
    if config.data.packing:
        dataset = packed_dataset(dataset, config.data.max_length, config.data.packing_strategy)
    batch_rows = config.training.per_device_train_batch_size
    return rows.method.arrange(dataset, config, batch_rows), lengths


def _streamed(config: Config, tokenizer: Any) -> Iterator[dict[str, list[int]]]:
    """Yield the rows of a stream as tokens; packed ones are packed a buffer at a time."""
    rows = _cut(config, tokenizer)
    if not config.data.packing:
        yield from rows
        return
    while buffer := list(itertools.islice(rows, config.data.train.shuffle_buffer_size)):
        yield from pack(buffer, config.data.max_length, config.data.packing_strategy)


def _cut(config: Config, tokenizer: Any) -> Iterator[dict[str, list[int]]]:
    examples, method = stream_examples(config), method_of(config)
    done = 0
    template = TokenizerTemplate(tokenizer) if tokenizer.chat_template else None
    while batch := list(itertools.islice(examples, _STREAMED_BATCH)):
        for row in encode_rows(
            batch if template is None else each_answer(batch, template),
            tokenizer,
            method,
            completion_only=config.data.completion_only_loss,
            first=done,
            max_length=config.data.max_length,
            most_prompt_tokens=method.most_prompt_tokens(config),
        ):
            if kept := cut_row(row, method, config.data.max_length):
                yield kept
        done += len(batch)


def lengths_of(config: Config, rows: Tokenised, examples: Examples) -> list[int] | None:
    """Return the length of each row by data.length_column_name; None means its tokens.

    transformers groups by the number of tokens; this also by trained tokens or a column of the rows.

    Raises:
        DataError: It names no column, or one that holds neither numbers, text nor lists.
    """
    name, data = config.data.length_column_name, config.data
    if data.train_sampling_strategy != "group_by_length" or data.packing:
        return None
    if name == "input_ids" and len(rows.method.sequences) == 1:
        return None
    if name in ("input_ids", "labels"):
        columns = [rows.method.column(sequence, name) for sequence in rows.method.sequences]
        return [
            sum(int((np.asarray(ids) != IGNORE_INDEX).sum()) for ids in row)
            for row in zip(*(rows.dataset[column] for column in columns), strict=True)
        ]
    return column_lengths(examples, map(int, rows.dataset["example"]), name)
