"""Rows without anything wrong, and what the doctor finds in rows."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest

from nbft.config import Config
from nbft.data.doctor.checks import findings
from nbft.data.doctor.finding import Finding
from nbft.data.doctor.measure import measure
from nbft.data.samples import sample_path


@pytest.fixture(scope="session")
def good_rows() -> list[dict[str, Any]]:
    """Forty rows that differ, of much the same length."""
    lines = sample_path("gsm8k", "train").read_text(encoding="utf-8").splitlines()[:40]
    rows = [json.loads(line) for line in lines]
    return [{"prompt": row["question"] + "\n", "completion": row["answer"]} for row in rows]


@pytest.fixture
def tokenizer(tiny_tokenizer: Any) -> Any:
    return copy.deepcopy(tiny_tokenizer)


@pytest.fixture
def config_of(tiny_model: Any) -> Callable[..., Config]:
    """Return a function that makes a config of rows in memory; arguments are settings of data."""

    def make(rows: Any, **data: Any) -> Config:
        return Config(model={"model_name": str(tiny_model)}, data={"rows": rows, **data})

    return make


@pytest.fixture
def found_in(config_of: Callable[..., Config], tokenizer: Any) -> Callable[..., dict[str, Finding]]:
    """Return a function from rows and settings of data to what is found, by name."""

    def find(rows: Any, *, tokenizer: Any = tokenizer, **data: Any) -> dict[str, Finding]:
        config = config_of(rows, **data)
        return {one.name: one for one in findings(measure(config, tokenizer))}

    return find


def held_out(train: list[Any], validation: list[Any]) -> dict[str, Any]:
    """Return the data settings of two splits in memory."""
    return {
        "train": {"datasets": [{"rows": train}]},
        "validation": {"datasets": [{"rows": validation}]},
    }
