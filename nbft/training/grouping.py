"""Rows of like length together, whatever counts as their length.

transformers groups by the number of tokens; here also by the tokens that are trained on, or by a column
of the rows. Called by `nbft.training.rows`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nbft.config import Config
from nbft.data.examples import Examples
from nbft.data.tokens import Tokenised
from nbft.errors import DataError, Problem
from nbft.methods import IGNORE_INDEX


def lengths_of(config: Config, rows: Tokenised, examples: Examples) -> list[int] | None:
    """Return the length of each row by data.length_column_name, or None for its tokens.

    Raises:
        DataError: It names no column, or one that is neither a number, a text nor a list.
    """
    name, data = config.data.length_column_name, config.data
    if data.train_sampling_strategy != "group_by_length" or data.packing or name == "input_ids":
        return None
    if name == "labels":
        return [int((np.asarray(ids) != IGNORE_INDEX).sum()) for ids in rows.labels]
    return [_length(examples.row(int(n)), name) for n in rows.dataset["example"]]


def _length(row: Any, name: str) -> int:
    value = row.get(name)
    if isinstance(value, (str, list)):
        return len(value)
    if isinstance(value, (int, float)):
        return round(value)
    why = f"is no column with a text or a number; found {', '.join(row)}."
    fix = "Name one, or input_ids for the tokens."
    raise DataError(Problem("data.length_column_name", name, why, fix))
