"""Packed sequences: whole rows, nothing lost, nothing longer than allowed."""

import random

import pytest

from nbft.data.packing import bins, pack, packed_dataset, wrapped_count

DRAWN = random.Random(1)
LENGTHS = [DRAWN.randint(1, 40) for _ in range(300)]
ROWS = [
    {"input_ids": [n] * length, "labels": [-100] + [n] * (length - 1)}
    for n, length in enumerate(LENGTHS)
]


@pytest.mark.parametrize("strategy", ["bfd", "greedy"])
def test_every_row_is_whole_in_one_sequence(strategy):
    seen = []
    for sequence in pack(ROWS, 64, strategy):
        assert len(sequence["input_ids"]) == sum(sequence["seq_lengths"]) <= 64
        start = 0
        for length in sequence["seq_lengths"]:
            number = sequence["input_ids"][start]
            assert sequence["input_ids"][start : start + length] == ROWS[number]["input_ids"]
            assert sequence["labels"][start : start + length] == ROWS[number]["labels"]
            seen.append(number)
            start += length
    assert sorted(seen) == list(range(len(ROWS)))


def test_wrapped_sequences_are_full_and_in_order():
    sequences = list(pack(ROWS, 64, "wrapped"))
    assert len(sequences) == wrapped_count(LENGTHS, 64)
    assert all(len(s["input_ids"]) == 64 for s in sequences[:-1])
    assert [i for s in sequences for i in s["input_ids"]] == [
        i for r in ROWS for i in r["input_ids"]
    ]
    assert all(sum(s["seq_lengths"]) == len(s["input_ids"]) for s in sequences)


@pytest.mark.parametrize("strategy", ["bfd", "greedy", "wrapped"])
def test_a_dataset_is_packed_as_a_stream_is(strategy):
    import datasets

    order = DRAWN.sample(range(len(ROWS)), 200)
    rows = datasets.Dataset.from_list(ROWS).select(order)  # an order that Arrow keeps apart
    packed = packed_dataset(rows, 64, strategy)
    assert packed.column_names == ["input_ids", "labels", "seq_lengths"]
    assert packed.to_list() == list(pack([ROWS[n] for n in order], 64, strategy))
    assert len(packed_dataset(rows.select([]), 64, strategy)) == 0


def test_best_fit_is_as_good_as_the_one_of_trl():
    import datasets
    import trl

    theirs = trl.pack_dataset(
        datasets.Dataset.from_dict({"input_ids": [r["input_ids"] for r in ROWS]}), 64, "bfd"
    )
    assert len(bins(LENGTHS, 64, "bfd")) == len(theirs)
    assert len(bins(LENGTHS, 64, "bfd")) <= len(bins(LENGTHS, 64, "greedy"))


def test_greedy_takes_rows_as_they_come_and_best_fit_the_longest_first():
    greedy, best = (bins(LENGTHS, 64, strategy) for strategy in ("greedy", "bfd"))
    assert [numbers[0] for numbers in greedy] == sorted(numbers[0] for numbers in greedy)
    assert all(numbers == sorted(numbers) for numbers in greedy)
    first = [LENGTHS[numbers[0]] for numbers in best]
    assert first == sorted(first, reverse=True)
    assert greedy != best
