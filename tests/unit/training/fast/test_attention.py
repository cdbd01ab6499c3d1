"""Attention on a CPU: rows of similar length at once, each as if it were alone."""

from __future__ import annotations

import itertools

import pytest
import torch

from nbft.training.fast import attention

WIDTH = 8


def parts_of(lengths, heads=(6, 2, 2), dtype=torch.float32):
    torch.manual_seed(0)
    shape = 1, sum(lengths), WIDTH
    made = [torch.randn(*shape[:2], n, WIDTH, dtype=dtype).transpose(1, 2) for n in heads]
    return [part.requires_grad_() for part in made]


def ours(parts, lengths, window=None):
    begins = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)
    found, _ = attention.attend_within_rows(
        torch.nn.Identity(),
        *parts,
        None,
        sliding_window=window,
        cu_seq_lens_q=begins,
        max_length_q=max(lengths),
        row_lengths=lengths,
    )
    return found


def formula(parts, lengths, window=None):
    """Return softmax(q k' / sqrt(d)) v of each row, in float64, [1, s, heads, d]."""
    found = []
    for row in zip(*(part[0].double().split(lengths, dim=1) for part in parts), strict=True):
        query, key, value = row
        shared = query.shape[0] // key.shape[0]
        key, value = (part.repeat_interleave(shared, dim=0) for part in (key, value))
        place = torch.arange(query.shape[1])
        behind = place[:, None] - place
        sees = (behind >= 0) & (behind < (window or len(place)))
        scores = (query @ key.transpose(1, 2) / WIDTH**0.5).masked_fill(~sees, float("-inf"))
        found.append((scores.softmax(-1) @ value).transpose(0, 1))
    return torch.cat(found)[None]


def with_gradients(attend, parts, *args):
    found = attend(parts, *args)
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    return [found, *torch.autograd.grad((found.double() * weights).sum(), parts)]


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize(
    "lengths",
    [[1], [16], [3, 17, 1, 16, 40], [70, 20, 69], [9, 9, 9], [30, 520, 8], [515, 600]],
    ids=str,
)
def test_each_row_attends_as_if_it_were_alone(lengths, window):
    parts = parts_of(lengths)
    wanted = with_gradients(formula, parts, lengths, window)
    for actual, expected in zip(with_gradients(ours, parts, lengths, window), wanted, strict=True):
        torch.testing.assert_close(actual.double(), expected.double(), rtol=1e-4, atol=1e-5)


def test_without_shared_heads_and_in_bfloat16():
    lengths = [12, 7, 20]
    parts = parts_of(lengths, heads=(4, 4, 4), dtype=torch.bfloat16)
    wanted = with_gradients(formula, parts, lengths)
    for actual, expected in zip(with_gradients(ours, parts, lengths), wanted, strict=True):
        torch.testing.assert_close(actual.double(), expected.double(), rtol=0.05, atol=0.05)


def test_what_a_row_holds_is_nothing_to_another():
    """Numbers that overflow in one row leave the rows of its group as they are."""
    lengths = [5, 9, 7]
    parts = parts_of(lengths)
    before = with_gradients(ours, parts, lengths)
    changed = [part.detach().clone() for part in parts]
    for part in changed:
        part[:, :, 5:14] = float("nan")
    after = with_gradients(ours, [part.requires_grad_() for part in changed], lengths)
    for was, now in zip(before, after, strict=True):
        dim = 1 if was is before[0] else 2
        rows = zip(was.split(lengths, dim), now.split(lengths, dim), strict=True)
        assert [torch.equal(a, b) for a, b in rows] == [True, False, True]


def test_rows_of_similar_length_take_one_product(monkeypatch):
    taken = []
    by_products = attention._by_products

    def noted(rows, *args):
        taken.append(tuple(rows[0].shape[::2]))
        return by_products(rows, *args)

    monkeypatch.setattr(attention, "_by_products", noted)
    lengths = [30, 400, 81, 65, 390]
    ours(parts_of(lengths), lengths)
    assert taken == [(1, 400), (1, 400), (2, 96), (1, 32)]
