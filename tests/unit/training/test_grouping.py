"""What counts as the length of a row when rows of like length come together."""

from types import SimpleNamespace

import pytest

import nbft
from nbft.config import Config
from nbft.data.examples import load_examples
from nbft.data.tokens import tokenise
from nbft.errors import DataError
from nbft.training.ranks import ALONE
from nbft.training.rows import lengths_of
from nbft.training.sampling import OwnSampling

ROWS = [
    {"q": "a " * 9, "a": "b", "n": 5},
    {"q": "a", "a": "b " * 4, "n": 7},
    {"q": "a " * 3, "a": "b " * 2, "n": 6},
]


def lengths(tokenizer, name, **more):
    config = nbft.Config(
        data={
            "rows": ROWS,
            "split_ratio": 1.0,
            "prompt_template": "{q}\n",
            "completion_template": "{a}",
            "train_sampling_strategy": "group_by_length",
            "length_column_name": name,
            **more,
        }
    )
    examples, _ = load_examples(config, "train")
    return lengths_of(config, tokenise(examples, tokenizer, config), examples)


def test_tokens_are_left_to_transformers(tiny_tokenizer):
    assert lengths(tiny_tokenizer, "input_ids") is None
    assert lengths(tiny_tokenizer, "n", train_sampling_strategy="random") is None


def test_the_tokens_that_are_learnt(tiny_tokenizer):
    first, second, third = lengths(tiny_tokenizer, "labels")
    assert first < third < second


def test_a_column_of_the_rows(tiny_tokenizer):
    assert lengths(tiny_tokenizer, "n") == [5, 7, 6]
    assert lengths(tiny_tokenizer, "q") == [18, 1, 6]


def test_no_such_column(tiny_tokenizer):
    with pytest.raises(
        DataError, match=r"length_column_name='size': is no column .* found q, a, n"
    ):
        lengths(tiny_tokenizer, "size")


def test_the_trainer_draws_by_them():
    class Trainer(OwnSampling):
        class args:  # noqa: N801 - as the trainer calls it
            train_batch_size, gradient_accumulation_steps = 2, 1

        nbft_config, nbft_ranks = Config(), ALONE
        nbft_rows = SimpleNamespace(batches=None, lengths=[1, 9, 1, 9, 1, 9, 1, 9] * 10)

    order = list(Trainer()._get_train_sampler())
    pairs = [{order[n] % 2, order[n + 1] % 2} for n in range(2, len(order), 2)]
    assert sum(len(pair) == 1 for pair in pairs) >= len(pairs) - 2


def test_both_answers_of_a_pair_count(tiny_tokenizer):
    """The trainer looks for a column of tokens that pairs do not have."""
    pairs = [
        {"prompt": "a\n", "chosen": "b " * n, "rejected": "c " * (9 - 2 * n)} for n in (1, 3, 4)
    ]

    def of_pairs(name):
        config = nbft.Config(
            data={
                "rows": pairs,
                "split_ratio": 1.0,
                "train_sampling_strategy": "group_by_length",
                "length_column_name": name,
            },
            training={"method": "dpo"},
        )
        examples, _ = load_examples(config, "train")
        rows = tokenise(examples, tiny_tokenizer, config)
        return lengths_of(config, rows, examples), rows

    found, rows = of_pairs("input_ids")
    sides = ("chosen_input_ids", "rejected_input_ids")
    assert found == [sum(len(row[side]) for side in sides) for row in rows.dataset]
    assert len(set(found)) == 3
    trained, _ = of_pairs("labels")
    assert all(one < both for one, both in zip(trained, found, strict=True))
