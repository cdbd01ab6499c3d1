"""Batches by tokens: each row once, in order, and no batch that is too large."""

from __future__ import annotations

import random

import pytest

from nbft.data.budget import token_batches


@pytest.mark.parametrize("is_padded", [False, True])
@pytest.mark.parametrize("seed", range(5))
def test_every_row_is_in_one_batch_and_no_batch_is_too_large(seed, is_padded):
    rng = random.Random(seed)
    lengths = [rng.randint(1, 60) for _ in range(200)]
    batches = token_batches(lengths, 50, is_padded=is_padded)
    assert [place for batch in batches for place in batch] == list(range(200))
    for batch, after in zip(batches, [*batches[1:], None], strict=True):
        rows = [lengths[place] for place in batch]
        tokens = max(rows) * len(rows) if is_padded else sum(rows)
        assert tokens <= 50 or len(batch) == 1
        if after:  # and none could have taken one more
            more = [*rows, lengths[after[0]]]
            assert (max(more) * len(more) if is_padded else sum(more)) > 50


def test_no_rows_make_no_batch():
    assert token_batches([], 10) == []
