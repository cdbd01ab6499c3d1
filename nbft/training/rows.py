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

from nbft.config import Config
from nbft.data.examples import load_examples, stream_examples
from nbft.data.packing import pack, packed_dataset
from nbft.data.tokens import Tokenised, cut_to, encode, remarks, tokenise
from nbft.training.grouping import lengths_of

_STREAMED_BATCH = 64


@dataclass(frozen=True)
class TrainingRows:
    """What a run trains and measures on.

    Attributes:
        train: input_ids and labels of each sequence, [s] each, and seq_lengths where they are
            packed.
        looked_at: The training rows as tokens; of a stream the first ones.
        held_out: The held-out rows as tokens, or None.
        is_stream: Whether `train` is read on the way, so that nobody knows how many rows come.
        lengths: What counts as the length of each training row, or None for its tokens.
    """

    train: datasets.Dataset | datasets.IterableDataset
    looked_at: Tokenised
    held_out: Tokenised | None
    is_stream: bool
    lengths: list[int] | None = None

    @property
    def sequences(self) -> int:
        """Sequences that an epoch takes: rows, or what they are packed into."""
        return len(self.looked_at) if self.is_stream else len(self.train)


def read_rows(
    config: Config,
    tokenizer: Any,
    say: Callable[[str], None],
    warn: Callable[[str], None],
) -> TrainingRows:
    """Read both splits and cut them into tokens.

    Args:
        config: The config.
        tokenizer: A transformers tokenizer.
        say: Told how rows were recognised.
        warn: Told what a person should know about the rows.

    Raises:
        DataError: The rows cannot be read or leave nothing to learn.
    """
    tokenised: dict[str, Tokenised | None] = {}
    is_stream = False
    training: Any = None
    for split in ("train", "validation"):
        examples, said = load_examples(config, split)
        if not examples and split == "validation":
            tokenised[split] = None
            continue
        is_stream |= examples.is_stream
        training = examples if split == "train" else training
        tokenised[split] = done = tokenise(examples, tokenizer, config, split)
        for text in examples.recognised if split == "train" else ():
            say(text)
        for text in [*said, *remarks(done, config, split)]:
            warn(text)
    train, held_out = tokenised["train"], tokenised["validation"]
    assert train is not None
    if is_stream:
        stream = datasets.IterableDataset.from_generator(
            _streamed, gen_kwargs={"config": config, "tokenizer": tokenizer}
        )
        return TrainingRows(stream, train, held_out, is_stream)
    prepared, lengths = _prepared(train, config, lengths_of(config, train, training))
    return TrainingRows(prepared, train, held_out, is_stream, lengths)


def _prepared(
    rows: Tokenised, config: Config, lengths: list[int] | None
) -> tuple[datasets.Dataset, list[int] | None]:
    """Return the rows as the trainer wants them, and their lengths in the same order."""
    found = rows.dataset.select_columns(["input_ids", "labels"])
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
    examples = stream_examples(config)
    done = 0
    while batch := list(itertools.islice(examples, _STREAMED_BATCH)):
        only = config.data.completion_only_loss
        for encoded in encode(batch, tokenizer, completion_only=only, first=done):
            if kept := cut_to(encoded, config.data.max_length):
                yield {"input_ids": kept[0], "labels": kept[1]}
        done += len(batch)
