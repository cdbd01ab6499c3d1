"""The rows of a run as the trainer wants them: cut, shuffled, packed, or as a stream.

Called by `nbft.training.worker`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
from pyarrow import compute

from nbft.config import Config
from nbft.data.budget import token_batches
from nbft.data.examples import Examples, load_examples, stream_examples
from nbft.data.packing import pack, packed_dataset
from nbft.data.token_cache import prepare
from nbft.data.tokens import Tokenised, cut_row, encode_rows, remarks
from nbft.evaluate.forecast import metrics_of
from nbft.methods import method_of
from nbft.training.grouping import lengths_of

_STREAMED_BATCH = 64


@dataclass(frozen=True)
class TrainingRows:
    """What a run trains and measures on.

    Attributes:
        train: The method's columns of token ids and labels, [s] each, and seq_lengths where they
            are packed.
        looked_at: The training rows as tokens; of a stream the first ones.
        held_out: The held-out rows as tokens, or None.
        is_stream: Whether `train` is read on the way, so that nobody knows how many rows come.
        batches: Rows of each batch, by place, where data.max_tokens_per_batch makes them.
        lengths: What counts as the length of each training row, or None for its tokens.
        scored: The held-out rows before they were cut, where they were read and are scored. As
            long as they are held, scores need not read their file again.
    """

    train: datasets.Dataset | datasets.IterableDataset
    looked_at: Tokenised
    held_out: Tokenised | None
    is_stream: bool
    lengths: list[int] | None = None
    scored: Examples | None = None
    batches: list[list[int]] | None = None

    @property
    def sequences(self) -> int:
        """Sequences that an epoch takes: rows, or what they are packed or batched into."""
        if self.batches is not None:
            return len(self.batches)
        return len(self.looked_at) if self.is_stream else len(self.train)


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
        padding_free: Whether the rows of a batch are joined instead of padded.
        say: Told how rows were recognised.
        warn: Told what a person should know about the rows.

    Raises:
        DataError: The rows cannot be read or leave nothing to learn.
    """
    found = prepare(config, tokenizer)
    for split, one in found.items():
        for text in one.recognised if split == "train" else ():
            say(text)
        for text in [*one.said, *(remarks(one.rows, config, split) if one.rows else ())]:
            warn(text)
    train, held_out = found["train"].rows, found["validation"].rows
    assert train is not None
    if found["train"].is_stream:
        stream = datasets.IterableDataset.from_generator(
            _streamed, gen_kwargs={"config": config, "tokenizer": tokenizer}
        )
        return TrainingRows(stream, train, held_out, is_stream=True)
    lengths = None
    if config.data.train_sampling_strategy == "group_by_length":
        examples = found["train"].examples or load_examples(config, "train")[0]
        lengths = lengths_of(config, train, examples)
    prepared, lengths = _prepared(train, config, lengths)
    is_scored = metrics_of(config) or config.evaluation.metric_function is not None
    scored = found["validation"].examples if is_scored else None
    batches = None
    if (budget := config.data.max_tokens_per_batch) is not None:
        table = prepared.with_format("arrow")[:]
        of_sequences = [
            compute.list_value_length(table[train.method.column(name, "input_ids")]).to_numpy()
            for name in train.method.sequences
        ]
        tokens = np.sum(of_sequences, axis=0).tolist()
        batches = token_batches(tokens, budget, is_padded=not padding_free)
    return TrainingRows(prepared, train, held_out, False, lengths, scored, batches)


def _prepared(
    rows: Tokenised, config: Config, lengths: list[int] | None
) -> tuple[datasets.Dataset, list[int] | None]:
    """Return the rows as the trainer wants them, and their lengths in the same order."""
    found = rows.dataset.select_columns(rows.method.columns)
    if config.data.shuffle:
        order = np.random.default_rng(config.training.seed).permutation(len(found))
        found = found.select(order)
        lengths = lengths and [lengths[n] for n in order]
    if config.data.packing:
        found = packed_dataset(found, config.data.max_length, config.data.packing_strategy)
    return found, lengths


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
    while batch := list(itertools.islice(examples, _STREAMED_BATCH)):
        only = config.data.completion_only_loss
        for row in encode_rows(batch, tokenizer, method, completion_only=only, first=done):
            if kept := cut_row(row, method, config.data.max_length):
                yield kept
        done += len(batch)
