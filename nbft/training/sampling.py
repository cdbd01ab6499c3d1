"""Other samplers: virtual epochs, batches by tokens, rows grouped by length.

Virtual epochs: epoch e takes the n positions from e·n on in an endless sequence of shuffles, so that
no row is repeated before all have been used. Called by `nbft.training.trainer`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from transformers.trainer_pt_utils import BatchRebalanceSampler, LengthGroupedSampler

from nbft.config import Config
from nbft.training.ranks import ALONE, Ranks
from nbft.training.rows import TrainingRows


class VirtualEpochSampler(torch.utils.data.Sampler[int]):
    """Draws a given number of rows per epoch.

    Args:
        rows: Number of rows.
        samples: Rows per epoch.
        seed: Seed of the shuffles; None keeps the rows in order.
    """

    def __init__(self, rows: int, samples: int, seed: int | None) -> None:
        self._rows, self._samples, self._seed = rows, samples, seed
        self._epoch = 0

    def __len__(self) -> int:
        """Return the number of rows per epoch."""
        return self._samples

    def set_epoch(self, epoch: int) -> None:
        """Set the next epoch, counted from 0, so that a resumed run draws the same."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        """Yield the row numbers of this epoch."""
        begin = self._epoch * self._samples
        for position in range(begin, begin + self._samples):
            shuffle, index = divmod(position, self._rows)
            if index == 0 or position == begin:
                order = _order(self._rows, self._seed, shuffle)
            yield order[index]
        self._epoch += 1


def _order(length: int, seed: int | None, shuffle: int) -> list[int]:
    """Return the numbers below `length` in the order of a shuffle, counted from 0."""
    if seed is None:
        return list(range(length))
    generator = torch.Generator().manual_seed(seed + shuffle)
    return torch.randperm(length, generator=generator).tolist()


def _seed(config: Config) -> int | None:
    if not config.data.shuffle:
        return None
    training = config.training
    return training.seed if training.data_seed is None else training.data_seed


class TokenBatchSampler(BatchRebalanceSampler):
    """Yields prepared batches, in another order each epoch.

    The Trainer recognises a sampler of whole batches by its base class; nothing else of it is used.

    Args:
        batches: The row numbers of each batch.
        seed: Seed of the shuffles; None keeps the batches in order.
    """

    def __init__(self, batches: list[list[int]], seed: int | None) -> None:
        self._batches, self._seed, self._epoch = batches, seed, 0

    def __len__(self) -> int:
        """Return the number of batches per epoch."""
        return len(self._batches)

    def set_epoch(self, epoch: int) -> None:
        """Set the next epoch, counted from 0, so that a resumed run draws the same."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the batches of this epoch."""
        yield from (self._batches[n] for n in _order(len(self), self._seed, self._epoch))
        self._epoch += 1


class LengthSampler(LengthGroupedSampler):
    """Groups rows by length in an order that can be repeated.

    The order comes from the random numbers of the training; of several processes, from the first's.

    Attributes:
        ranks: Which of several processes this is.
        began: Their state when this epoch began.
        begin: The state for the next epoch to begin with; where they are if None.
    """

    ranks: Ranks = ALONE
    began: torch.Tensor | None = None
    begin: torch.Tensor | None = None

    def __iter__(self) -> Iterator[int]:
        """Yield the row numbers of this epoch."""
        state = self.ranks.every(torch.get_rng_state())[0] if self.begin is None else self.begin
        self.generator = None
        if self.begin is not None or not self.ranks.is_first:
            self.generator = torch.Generator()
            self.generator.set_state(state)
        self.began = state
        order = list(super().__iter__())
        self.generator = self.begin = None
        yield from order


class OwnSampling:
    """Part of a trainer: uses one of these samplers if a setting asks for it."""

    nbft_config: Config
    nbft_rows: TrainingRows
    nbft_ranks: Ranks
    nbft_order: LengthSampler | None = None
    """The sampler whose order comes from the random numbers of the training, if there is one."""

    nbft_virtual: VirtualEpochSampler | None = None
    """The sampler of virtual epochs, if there is one."""

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        trainer: Any = self
        config, rows = self.nbft_config, self.nbft_rows
        if (samples := config.training.num_samples_each_epoch) is not None:
            dataset = trainer.train_dataset if train_dataset is None else train_dataset
            self.nbft_virtual = VirtualEpochSampler(len(dataset), samples, _seed(config))
            return self.nbft_virtual
        if rows.batches is not None:
            return TokenBatchSampler(rows.batches, _seed(config))
        step_rows = trainer.args.train_batch_size * trainer.args.gradient_accumulation_steps
        step_rows *= config.distributed.data_parallel_size
        if rows.lengths is not None:
            usual: Any = LengthGroupedSampler(step_rows, lengths=rows.lengths)
        else:
            usual = super()._get_train_sampler(train_dataset)  # type: ignore[misc]
        if isinstance(usual, LengthGroupedSampler):
            self.nbft_order = usual = LengthSampler(step_rows, lengths=usual.lengths)
            usual.ranks = self.nbft_ranks
        return usual
