"""Padding, counted by hand."""

import numpy as np
import pytest

from nbft.data.padding import padding_shares


def test_padding_of_a_batch_is_what_the_longest_row_leaves_over():
    shares = padding_shares([30, 10, 20, 40], batch_size=4, max_length=100)
    assert shares.random == shares.grouped == pytest.approx(1 - 100 / 160)
    assert (shares.packed, shares.sequences, shares.batches) == (0, 1, 1)
    assert shares.batch_size == 4


def test_a_batch_of_one_has_none():
    shares = padding_shares([30, 10, 20], batch_size=1, max_length=40)
    assert shares.random == shares.grouped == 0
    assert shares.packed == pytest.approx(1 - 60 / 80)


def test_rows_are_cut_and_batches_padded_to_a_multiple():
    shares = padding_shares([50, 20], batch_size=2, max_length=40, multiple_of=32)
    assert shares.random == pytest.approx(1 - 60 / 128)


def test_grouping_saves_most_of_it():
    lengths = np.random.default_rng(0).integers(10, 500, 4000)
    shares = padding_shares(lengths, batch_size=8, max_length=500)
    assert shares.random > 0.3
    assert shares.grouped < 0.05
    assert shares.packed < 0.02
    assert padding_shares(lengths, 8, 500) == shares, "the same each time"


def test_grouping_is_what_transformers_does():
    import torch
    from transformers.trainer_pt_utils import get_length_grouped_indices

    lengths = np.random.default_rng(1).integers(10, 500, 1000)
    order = get_length_grouped_indices(
        lengths.tolist(), 8, generator=torch.Generator().manual_seed(0)
    )
    padded = sum(8 * lengths[order[n : n + 8]].max() for n in range(0, 1000, 8))
    theirs = 1 - lengths.sum() / padded
    assert padding_shares(lengths, 8, 500).grouped == pytest.approx(theirs, abs=0.02)


def test_an_incomplete_batch_is_padded_to_its_own_rows():
    shares = padding_shares([10, 10, 10], batch_size=2, max_length=30)
    assert shares.random == 0
    assert shares.batches == 2
