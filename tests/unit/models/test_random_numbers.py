"""Drawing random numbers beside a run changes none of its own."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from nbft.models.random_numbers import apart

DRAWS: dict[str, Callable[[], object]] = {
    "layer": lambda: nn.Linear(3, 3),
    "embedding": lambda: nn.Embedding(3, 3),
    "truncated": lambda: nn.init.trunc_normal_(torch.empty(3)),
    "orthogonal": lambda: nn.init.orthogonal_(torch.empty(3, 3)),
    "named": lambda: nn.init.normal_(tensor=torch.empty(3)),
    "filled": lambda: torch.empty(3).uniform_(-1, 1),
    "shapes": lambda: (torch.rand(3), torch.randn((2,), device="cpu"), torch.randint(0, 3, (2,))),
    "permutation": lambda: torch.randperm(4),
    "drawn": lambda: torch.multinomial(torch.ones(3), 1),
    "without contents": lambda: nn.Linear(3, 3, device="meta"),
}


@pytest.mark.parametrize("name", DRAWS)
def test_the_numbers_of_the_process_stay(name: str) -> None:
    before = torch.get_rng_state()
    with apart():
        DRAWS[name]()
    assert torch.equal(torch.get_rng_state(), before)


def test_they_are_random_and_a_given_generator_is_used() -> None:
    with apart():
        assert not torch.equal(torch.rand(9), torch.rand(9))
        first, second = (
            torch.rand(9, generator=torch.Generator().manual_seed(3)) for _ in range(2)
        )
    assert torch.equal(first, second)
