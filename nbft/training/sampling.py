"""Other ways through the rows: epochs of another length, batches by their tokens, rows by length.

Virtual epochs: epoch e takes the n places from e·n on in an endless row of shuffles, so that no row
comes twice before all came once. Called by `nbft.training.trainer`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from transformers.trainer_pt_utils import BatchRebalanceSampler, LengthGroupedSampler

from nbft.config import Config
from nbft.training.rows import TrainingRows


class VirtualEpochSampler(torch.utils.data.Sampler[int]):
    """Draws so many rows an epoch.

    Args:
        rows: How many there are.
        samples: How many an epoch has.
        seed: Seed of the shuffles; None keeps the rows in their order.
    """

    def __init__(self, rows: int, samples: int, seed: int | None) -> None:
        self._rows, self._samples, self._seed = rows, samples, seed
        self._epoch = 0

    def __len__(self) -> int:
        """Return how many rows an epoch has."""
        return self._samples

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes, counted from 0, so that a resumed run draws the same."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        """Yield the places of the rows of this epoch."""
        begin = self._epoch * self._samples
        for place in range(begin, begin + self._samples):
            turn, within = divmod(place, self._rows)
            if within == 0 or place == begin:
                order = _order(self._rows, self._seed, turn)
            yield order[within]
        self._epoch += 1


def _order(number: int, seed: int | None, turn: int) -> list[int]:
    """Return so many places in the order of a turn, counted from 0; None keeps them in theirs."""
    if seed is None:
        return list(range(number))
    generator = torch.Generator().manual_seed(seed + turn)
    return torch.randperm(number, generator=generator).tolist()


def _seed(config: Config) -> int | None:
    if not config.data.shuffle:
        return None
    training = config.training
    return training.seed if training.data_seed is None else training.data_seed


class TokenBatchSampler(BatchRebalanceSampler):
    """Yields batches that were made before, in another order each epoch.

    The Trainer takes a sampler of this class as one of whole batches; nothing else of it is used.

    Args:
        batches: The places of the rows of each batch.
        seed: Seed of the orders; None keeps the batches in theirs.
    """

    def __init__(self, batches: list[list[int]], seed: int | None) -> None:
        self._batches, self._seed, self._epoch = batches, seed, 0

    def __len__(self) -> int:
        """Return how many batches an epoch has."""
        return len(self._batches)

    def set_epoch(self, epoch: int) -> None:
        """Say which epoch comes, counted from 0, so that a resumed run draws the same."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the batches of this epoch."""
        yield from (self._batches[n] for n in _order(len(self), self._seed, self._epoch))
        self._epoch += 1


class OwnSampling:
    """Part of a trainer: draws its rows in one of these ways, where one is asked for."""

    nbft_config: Config
    nbft_rows: TrainingRows

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        trainer: Any = self
        config, rows = self.nbft_config, self.nbft_rows
        if (samples := config.training.num_samples_each_epoch) is not None:
            dataset = trainer.train_dataset if train_dataset is None else train_dataset
            return VirtualEpochSampler(len(dataset), samples, _seed(config))
        if rows.batches is not None:
            return TokenBatchSampler(rows.batches, _seed(config))
        if rows.lengths is not None:
            batch = trainer.args.train_batch_size * trainer.args.gradient_accumulation_steps
            return LengthGroupedSampler(batch, lengths=rows.lengths)
        return super()._get_train_sampler(train_dataset)  # type: ignore[misc]
