"""Settings of the number types."""

from __future__ import annotations

from typing import Literal

from nbft.config.base import Section, setting


class Precision(Section):
    """Number types of the computation."""

    mixed_precision: Literal["auto", "bf16", "fp16", "no"] = setting(
        "auto",
        help="16-bit computation beside 32-bit weights; auto takes bf16 where the device has it.",
        source="nbft; fp16 never by itself",
        why="With bfloat16 weights there is nothing to mix and auto means no. fp16 needs a GPU: on "
        "a CPU transformers accepts it and computes in float32 without a word.",
    )
    tf32: bool | None = setting(
        help="Faster float32 products with 19 bits on NVIDIA GPUs from Ampere on.",
        source="transformers TrainingArguments.tf32",
        level="expert",
    )
