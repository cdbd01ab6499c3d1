"""What the fast path has to know of a batch, read before the batch goes to a GPU.

How many tokens a row has, and how many are trained, decides the shapes of what follows. Read on the
device, each of these numbers would wait for everything that was launched before. Called by
`nbft.training.trainer`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from nbft.methods import IGNORE_INDEX


class Measured:
    """A collator whose batches say how long their rows are and which tokens are trained.

    Args:
        collate: Makes the batches.
        rows: Whether to add `row_lengths`, the tokens of each row of a joined batch.
        targets: Whether to add `trained_positions`, the places of the trained labels among
            labels[:, 1:], flattened, [n].
    """

    def __init__(
        self, collate: Callable[[Any], Any], *, rows: bool = False, targets: bool = False
    ) -> None:
        self.collate, self.rows, self.targets = collate, rows, targets

    def __call__(self, examples: Any) -> Any:
        """Return a batch."""
        batch = self.collate(examples)
        if self.rows and "cu_seq_lens_q" in batch:
            batch["row_lengths"] = batch["cu_seq_lens_q"].diff().tolist()
        if self.targets and isinstance(batch.get("labels"), torch.Tensor):
            is_trained = batch["labels"][:, 1:] != IGNORE_INDEX
            batch["trained_positions"] = is_trained.flatten().nonzero()[:, 0]
        return batch
