"""What a method knows of its rows before the first step."""

from __future__ import annotations

from typing import Any

import pytest

from nbft.config import Config
from nbft.data.formats import Example
from nbft.data.tokens import tokenise
from nbft.methods import method_of

LONGER, SHORTER, ALIKE = (5, 2), (2, 5), (3, 3)


@pytest.mark.parametrize("method", ["dpo", "orpo", "cpo", "reward"])
@pytest.mark.parametrize(
    ("train", "held_out", "accuracy"),
    [
        ([LONGER] * 3 + [SHORTER], [], 0.75),
        ([SHORTER] * 3 + [LONGER], [], 0.75),
        ([LONGER, ALIKE], [], 0.75),
        ([LONGER] * 3 + [SHORTER], [SHORTER] * 3 + [LONGER], 0.25),
    ],
)
def test_the_accuracy_of_length_alone(
    tiny_tokenizer: Any,
    method: str,
    train: list[tuple[int, int]],
    held_out: list[tuple[int, int]],
    accuracy: float,
) -> None:
    config = Config(training={"method": method})
    splits = [
        tokenise(
            [Example(f"{n}?\n", " yes" * good, rejected=" yes" * bad) for n, (good, bad) in pairs],
            tiny_tokenizer,
            config,
        )
        if pairs
        else None
        for pairs in ([*enumerate(train)], [*enumerate(held_out, 10)])
    ]
    assert splits[0] is not None
    assert method_of(config).known_of_rows(splits[0], splits[1]) == {"length_accuracy": accuracy}


def test_other_methods_have_no_pairs(tiny_tokenizer: Any) -> None:
    for method, more in (("sft", {}), ("kto", {"label": True})):
        config = Config(training={"method": method})
        rows = tokenise([Example("a?\n", "b", **more)], tiny_tokenizer, config)
        assert method_of(config).known_of_rows(rows, None) == {}
