"""Which rows are held out: drawn by what they hold, not by their number.

So equal rows stay together, and a row stays where it is when others are mended, added or removed.
Called by `examples`; the exported Python cell contains this module.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import xxhash


def content_key(row: Mapping[str, Any] | bytes) -> int:
    """Return a hash of what a row holds, wherever it stands: 64 bits.

    Args:
        row: A dict, or a line of a JSON Lines file as bytes.
    """
    if isinstance(row, bytes):
        return int(xxhash.xxh3_64_intdigest(row.strip()))
    line = json.dumps(row, ensure_ascii=False, default=_text)
    return int(xxhash.xxh3_64_intdigest(line.encode("utf-8", "surrogatepass")))


def _text(value: Any) -> str:
    """Write what JSON lacks, such as a date or a picture, without its place in memory."""
    return re.sub(r" at 0x[0-9A-Fa-f]+", "", str(value))


def is_held_out(keys: Any, split_ratio: float, seed: int) -> np.ndarray:
    """Return which rows are held out of the training rows, [n].

    The share is a chance: of n rows about 0.3 √n more or fewer than a tenth are held out. At least
    one is, and at least one is not.

    Args:
        keys: The rows' content keys, [n].
        split_ratio: Share of the rows to train on.
        seed: Seed of the draw.
    """
    total = len(keys)
    if split_ratio == 1 or total < 2:
        return np.zeros(total, bool)
    drawn = np.asarray(keys, np.uint64) ^ np.uint64(seed & (2**64 - 1))
    for multiplier in (0xBF58476D1CE4E5B9, 0x94D049BB133111EB, 0x9E3779B97F4A7C15):  # splitmix64
        drawn = (drawn ^ (drawn >> np.uint64(32))) * np.uint64(multiplier)
    least, most = drawn.min(), drawn.max()
    if least == most:  # all rows are the same
        return np.arange(total) >= min(max(round(total * split_ratio), 1), total - 1)
    limit = min(max(np.uint64(split_ratio * 2.0**64), least + np.uint64(1)), most)
    held_out: np.ndarray = drawn >= limit
    return held_out
