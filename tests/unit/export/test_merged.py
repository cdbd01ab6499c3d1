"""What a merged model's config says to readers older than transformers 5."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nbft.export.merged import _tell_older_readers

LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0}
DEFAULT = {"rope_theta": 100000.0, "rope_type": "default"}
CASES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "a base": ({"rope_parameters": DEFAULT}, {"rope_theta": 100000.0}),
    "scaled": (
        {"rope_parameters": {"rope_theta": 500000.0, **LLAMA3}},
        {"rope_theta": 500000.0, "rope_scaling": LLAMA3},
    ),
    "a base for each type of layer": (
        {"rope_parameters": {"full_attention": DEFAULT, "sliding_attention": DEFAULT}},
        {},
    ),
    "no positions that turn": ({"n_positions": 1024}, {}),
}


@pytest.mark.parametrize("name", CASES)
def test_older_readers_find_the_rotary_base(tmp_path: Path, name: str) -> None:
    """mlx_lm and transformers 4 take 10,000 where they find none, and are another model."""
    written, added = CASES[name]
    file = tmp_path / "config.json"
    file.write_text(json.dumps(written))
    _tell_older_readers(file)
    assert json.loads(file.read_text()) == written | added
