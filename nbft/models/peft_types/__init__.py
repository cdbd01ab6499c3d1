"""Kinds of adapters, one file each, with everything that differs between them.

Each file defines `TYPE`, a `PeftType`, whose name is a value of peft.method; no other code asks which
kind it is. To add one, add a file here, its name in `nbft.config.peft` and its learning rates in
`nbft.plan.rates`. Loads no library.
"""

from nbft.models.peft_types.peft_type import (
    LayerParameters,
    PeftType,
    described,
    excluded_pattern,
    merge_obstacle,
    peft_type_of,
    peft_types,
    rank_of,
)

__all__ = [
    "LayerParameters",
    "PeftType",
    "described",
    "excluded_pattern",
    "merge_obstacle",
    "peft_type_of",
    "peft_types",
    "rank_of",
]
