"""Frozen layers: their parameters get no gradient.

A name, whole or its end, means a layer and everything inside it; * stands for any text and ? for
one character, as in Oumi's model.freeze_layers. Loads no library.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any


def frozen_pattern(names: Sequence[str]) -> str:
    """Return a regular expression for the named layers and those inside them.

    >>> pattern = frozen_pattern(["layers.0", "*.mlp"])
    >>> [bool(re.fullmatch(pattern, name)) for name in (
    ...     "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.up_proj", "model.layers.10")]
    [True, True, False]
    """
    parts = [re.escape(name).replace(r"\*", ".*").replace(r"\?", ".") for name in names]
    return rf"(.*\.)?({'|'.join(parts)})(\..*)?"


def freeze(model: Any, names: Sequence[str]) -> None:
    """Freeze the named layers of a torch model."""
    pattern = re.compile(frozen_pattern(names))
    for name, module in model.named_modules():
        if names and pattern.fullmatch(name):
            module.requires_grad_(False)
