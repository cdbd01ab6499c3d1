"""Frozen layers: their parameters get no gradient.

A name, whole or its end, means a layer and everything inside it; * stands for any text and ? for
one character, as in Oumi's model.freeze_layers. Or all parameters are frozen but those that regular
expressions name. Loads no library.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from nbft.errors import ModelError, Problem


def frozen_pattern(names: Sequence[str]) -> str:
    """Return a regular expression for the named layers and those inside them.

    >>> pattern = frozen_pattern(["layers.0", "*.mlp"])
    >>> [bool(re.fullmatch(pattern, name)) for name in (
    ...     "model.layers.0.self_attn.q_proj", "model.layers.1.mlp.up_proj", "model.layers.10")]
    [True, True, False]
    """
    parts = [re.escape(name).replace(r"\*", ".*").replace(r"\?", ".") for name in names]
    return rf"(.*\.)?({'|'.join(parts)})(\..*)?"


def unfrozen_pattern(patterns: Sequence[str], names: Iterable[str]) -> re.Pattern[str]:
    r"""Return a regular expression for the parameters that are trained while all others are frozen.

    Args:
        patterns: Regular expressions; {-1} stands for the number of the last layer.
        names: Names of modules or parameters, from which the number of layers is taken.

    >>> names = ["model.layers.0.mlp.weight", "model.layers.1.mlp.weight", "lm_head.weight"]
    >>> pattern = unfrozen_pattern([r"\.{-1}\."], names)
    >>> [bool(pattern.search(name)) for name in names]
    [False, True, False]
    """
    numbers = (re.search(r"\.(\d+)(?:\.|$)", name) for name in names)
    layers = 1 + max((int(number[1]) for number in numbers if number), default=-1)
    numbered = (re.sub(r"\{(-\d+)\}", lambda m: str(layers + int(m[1])), p) for p in patterns)
    return re.compile("|".join(f"(?:{pattern})" for pattern in numbered))


def freeze_except(model: Any, patterns: Sequence[str]) -> None:
    """Freeze all parameters of a torch model but those that a pattern matches.

    Raises:
        ModelError: None does, so nothing would be trained.
    """
    if not patterns:
        return
    parameters = dict(model.named_parameters())
    pattern = unfrozen_pattern(patterns, parameters)
    for name, parameter in parameters.items():
        parameter.requires_grad_(bool(pattern.search(name)))
    if not any(parameter.requires_grad for parameter in parameters.values()):
        why = "matches no parameter, so nothing would be trained."
        fix = f"The names are like {next(iter(parameters))}."
        raise ModelError(Problem("model.unfrozen_parameters", list(patterns), why, fix))


def freeze(model: Any, names: Sequence[str]) -> None:
    """Freeze the named layers of a torch model."""
    pattern = re.compile(frozen_pattern(names))
    for name, module in model.named_modules():
        if names and pattern.fullmatch(name):
            module.requires_grad_(False)
