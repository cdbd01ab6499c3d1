"""Layers that stay as they are: their parameters get no gradient.

A name means a layer and all inside it, whole or by its end, with * for any text and ? for one
character, as in Oumi's model.freeze_layers. Loads no library.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any


def frozen_pattern(names: Sequence[str]) -> str:
    """Return a regular expression for the layers that are meant, and those inside them.

    >>> pattern = frozen_pattern(["layers.0", "*.mlp"])
    >>> [bool(re.fullmatch(pattern, name)) for name in (
    ...     "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.up_proj", "model.layers.10")]
    [True, True, False]
    """
    parts = [re.escape(name).replace(r"\*", ".*").replace(r"\?", ".") for name in names]
    return rf"(.*\.)?({'|'.join(parts)})(\..*)?"


def freeze(model: Any, names: Sequence[str]) -> None:
    """Take the named layers of a torch model out of the training."""
    pattern = re.compile(frozen_pattern(names))
    for name, module in model.named_modules():
        if names and pattern.fullmatch(name):
            module.requires_grad_(False)
