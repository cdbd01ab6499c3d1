"""Settings of the number types."""

from __future__ import annotations

import difflib
from typing import Any, Literal

from pydantic import field_validator
from pydantic_core import PydanticCustomError

from nbft.config.base import Section, setting

OPERATORS = {
    **{
        name: name
        for name in (
            "add",
            "sub",
            "mul",
            "div",
            "sum",
            "mean",
            "pow",
            "exp",
            "log",
            "sqrt",
            "rsqrt",
            "cumsum",
            "norm",
            "matmul",
            "linear",
            "embedding",
            "softmax",
            "log_softmax",
            "cross_entropy",
            "layer_norm",
            "rms_norm",
            "gelu",
            "silu",
            "dropout",
            "scaled_dot_product_attention",
        )
    },
    "elementwise_add": "add",
    "elementwise_sub": "sub",
    "elementwise_mul": "mul",
    "elementwise_div": "div",
    "elementwise_pow": "pow",
    "reduce_sum": "sum",
    "reduce_mean": "mean",
    "matmul_v2": "matmul",
    "lookup_table": "embedding",
    "lookup_table_v2": "embedding",
    "flash_attn": "scaled_dot_product_attention",
    "c_softmax_with_cross_entropy": "cross_entropy",
    "softmax_with_cross_entropy": "cross_entropy",
    "c_embedding": "embedding",
    "p_norm": "norm",
}
"""Operators that can be listed, and what torch calls those that have Paddle's names."""


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
    fp16_opt_level: Literal["O1", "O2"] = setting(
        "O1",
        help="O1 computes in 16 bits beside float32 weights; O2 keeps the weights in 16 bits too, "
        "with a float32 copy in the optimiser.",
        source="ERNIEKit fp16_opt_level; Mixed Precision Training, arXiv:1710.03740",
        level="expert",
        why="Acts with mixed_precision bf16 or fp16.",
    )
    loss_scale: float = setting(
        65536.0,
        help="Number that the loss is first multiplied by under fp16, so that small gradients are "
        "not lost; adapted on the way.",
        ge=1,
        le=2**32,
        source="torch.amp.GradScaler init_scale; ERNIEKit scale_loss has 32768",
        level="expert",
    )
    amp_custom_white_list: list[str] = setting(
        help="Operators that compute in 16 bits under mixed precision: matmul, softmax.",
        source="ERNIEKit amp_custom_white_list",
        level="expert",
        default_factory=list,
    )
    amp_custom_black_list: list[str] = setting(
        help="Operators that compute in float32 under mixed precision: sum, div, matmul.",
        source="ERNIEKit amp_custom_black_list",
        level="expert",
        default_factory=list,
    )
    amp_master_grad: bool = setting(
        False,
        help="Add up the gradients in float32 under O2.",
        source="ERNIEKit amp_master_grad",
        level="expert",
    )
    fp8: bool = setting(
        False,
        help="Round inputs and weights of linear layers to float8 (e4m3) before they are "
        "multiplied: the numbers of FP8 training, not its speed.",
        source="FP8 Formats for Deep Learning, arXiv:2209.05433",
        level="expert",
    )
    apply_hadamard: bool = setting(
        True,
        help="Spread outliers over blocks of 32 by a Hadamard transform before rounding to float8.",
        source="ERNIEKit apply_hadamard; QuaRot, arXiv:2404.00456",
        level="expert",
        why="Measured with one scale a tensor: where one number is 100,000 times the others, the "
        "error of the other tokens falls from 13% to 4%; with outliers below 10,000 times, or in "
        "whole channels, it changes nothing that could be told from chance.",
    )
    apply_online_actscale_step: int = setting(
        200,
        help="Steps over which the scale of activations follows each batch; then it stays.",
        unit="steps",
        ge=0,
        source="ERNIEKit apply_online_actscale_step",
        level="expert",
    )

    @field_validator("amp_custom_white_list", "amp_custom_black_list", mode="before")
    @classmethod
    def _one_text(cls, value: Any) -> Any:
        """Take names with spaces between, as ERNIEKit writes them."""
        return value.split() if isinstance(value, str) else value

    @field_validator("amp_custom_white_list", "amp_custom_black_list")
    @classmethod
    def _are_operators(cls, value: list[str]) -> list[str]:
        for name in value:
            if name not in OPERATORS:
                close = difflib.get_close_matches(name, OPERATORS, n=1, cutoff=0.5)
                fix = f"Use {close[0]}." if close else f"Known: {', '.join(OPERATORS)}."
                text = f"{name} is no operator that can be listed. {fix}"
                raise PydanticCustomError("nbft", "{text}", {"text": text})
        return value
