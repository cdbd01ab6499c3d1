"""Settings of number types."""

from __future__ import annotations

import difflib
from typing import Any, Literal

from pydantic import field_validator
from pydantic_core import PydanticCustomError

from nbft.config.base import Section, expert_setting, setting

_TORCH_OPERATORS = (
    "add sub mul div sum mean pow exp log sqrt rsqrt cumsum norm matmul linear embedding softmax "
    "log_softmax cross_entropy layer_norm rms_norm gelu silu dropout scaled_dot_product_attention"
)
OPERATORS = {name: name for name in _TORCH_OPERATORS.split()} | {
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
"""Operators that can be listed, with torch's name for those named as in Paddle."""


class Precision(Section):
    """Number types used for computation."""

    mixed_precision: Literal["auto", "bf16", "fp16", "no"] = setting(
        "auto",
        help="16-bit computation of float32 weights; auto uses bf16 where the device supports it, "
        "and fp16 on older GPUs.",
        source="nbft",
        why="With bfloat16 weights auto means no, because there is nothing to mix. fp16 scales the "
        "loss and trains in float32 what it trains; the frozen weights may be float16. It needs a "
        "GPU: on a CPU transformers accepts it and silently computes in float32.",
    )
    tf32: bool | None = expert_setting(
        help="Faster float32 products with 19 bits on NVIDIA GPUs (Ampere or newer).",
        source="transformers TrainingArguments.tf32",
    )
    fp16_opt_level: Literal["O1", "O2"] = expert_setting(
        "O1",
        help="O1 computes in 16 bits with float32 weights; O2 also keeps the weights in 16 bits, "
        "with a float32 copy in the optimiser.",
        source="ERNIEKit fp16_opt_level; Mixed Precision Training, arXiv:1710.03740",
        why="Applies when mixed_precision is bf16 or fp16.",
    )
    loss_scale: float = expert_setting(
        65536.0,
        help="Initial loss scale of fp16, which preserves small gradients; adjusted in training.",
        ge=1,
        le=2**32,
        source="torch.amp.GradScaler init_scale; ERNIEKit scale_loss has 32768",
    )
    amp_custom_white_list: list[str] = expert_setting(
        help="Operators that compute in 16 bits under mixed precision: matmul, softmax.",
        source="ERNIEKit amp_custom_white_list",
        default_factory=list,
    )
    amp_custom_black_list: list[str] = expert_setting(
        help="Operators that compute in float32 under mixed precision: sum, div, matmul.",
        source="ERNIEKit amp_custom_black_list",
        default_factory=list,
    )
    amp_master_grad: bool = expert_setting(
        False,
        help="Accumulate gradients in float32 when fp16_opt_level is O2; fp16 requires it there.",
        source="ERNIEKit amp_master_grad",
    )
    fp8: bool = expert_setting(
        False,
        help="Round inputs and weights of linear layers to float8 (e4m3) before multiplying: the "
        "results of FP8 training, but not its speed.",
        source="FP8 Formats for Deep Learning, arXiv:2209.05433",
    )
    apply_hadamard: bool = expert_setting(
        True,
        help="Spread outliers over blocks of 32 (Hadamard transform) before rounding to float8.",
        source="ERNIEKit apply_hadamard; QuaRot, arXiv:2404.00456",
        why="Measured with one scale per tensor: if one number is 100,000 times larger than the "
        "others, the error of the other tokens falls from 13% to 4%. With outliers below 10,000 "
        "times, or across whole channels, there is no measurable difference.",
    )
    apply_online_actscale_step: int = expert_setting(
        200,
        help="Steps in which the activation scale follows each batch; it is fixed afterwards.",
        unit="steps",
        ge=0,
        source="ERNIEKit apply_online_actscale_step",
    )

    @field_validator("amp_custom_white_list", "amp_custom_black_list", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        """Accept names separated by spaces, as in ERNIEKit."""
        return value.split() if isinstance(value, str) else value

    @field_validator("amp_custom_white_list", "amp_custom_black_list")
    @classmethod
    def _are_operators(cls, value: list[str]) -> list[str]:
        for name in value:
            if name not in OPERATORS:
                close = difflib.get_close_matches(name, OPERATORS, n=1, cutoff=0.5)
                fix = f"Use {close[0]}." if close else f"Known: {', '.join(OPERATORS)}."
                text = f"{name} is not a supported operator. {fix}"
                raise PydanticCustomError("nbft", "{text}", {"text": text})
        return value
