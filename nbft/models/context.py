"""How much text a model reads at once. Called by the plan and by the doctor; loads no model."""

from __future__ import annotations

import json
from pathlib import Path


def context_tokens(model: Path) -> int | None:
    """Return the most tokens that a model reads at once; None if its config.json does not say.

    Args:
        model: The folder of the model.
    """
    try:
        about = json.loads((model / "config.json").read_text(encoding="utf-8"))
        tokens = about.get("max_position_embeddings") or about.get("n_positions")
    except (OSError, ValueError, AttributeError):
        return None
    return tokens if isinstance(tokens, int) else None
