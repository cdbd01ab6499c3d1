"""Settings of quantisation."""

from __future__ import annotations

from typing import Literal

from nbft.config.base import Section, expert_setting, setting


class Quantization(Section):
    """Frozen weights in 4 or 8 bits, with an adapter on top (QLoRA)."""

    load_in_4bit: bool = setting(
        False,
        label="Load in 4 bits",
        help="Keep the weights of the linear layers in 4 bits: an eighth of the size of float32.",
        source="transformers BitsAndBytesConfig",
        why="QLoRA, arXiv:2305.14314. Requires the package bitsandbytes; slow on a CPU.",
    )
    load_in_8bit: bool = setting(
        False,
        label="Load in 8 bits",
        help="Keep the weights of the linear layers in 8 bits: a quarter of the size of float32.",
        source="transformers BitsAndBytesConfig",
        why="LLM.int8(), arXiv:2208.07339. Requires the package bitsandbytes.",
    )
    bnb_4bit_quant_type: Literal["nf4", "fp4"] = setting(
        "nf4",
        label="4-bit type",
        help="4-bit number format: nf4 suits weights, fp4 is a small floating-point format.",
        source="QLoRA, arXiv:2305.14314, section 3",
    )
    bnb_4bit_use_double_quant: bool = setting(
        False,
        label="4-bit double quantization",
        help="Also quantise the scales of the 4-bit blocks: saves 0.4 bits per weight.",
        source="QLoRA, arXiv:2305.14314, section 3",
    )
    bnb_4bit_quant_storage: Literal["uint8", "float16", "bfloat16", "float32"] = expert_setting(
        "uint8",
        label="4-bit storage type",
        help="Number type used to store the 4-bit weights; the values are the same.",
        source="transformers BitsAndBytesConfig",
    )
    bnb_4bit_compute_dtype: Literal["float32", "float16", "bfloat16"] | None = expert_setting(
        label="4-bit compute type",
        help="Number type in which 4-bit layers compute; model.dtype when empty.",
        source="transformers BitsAndBytesConfig",
    )
    weight_quantize_algo: Literal["weight_only_int8", "weight_only_mix", "fp8_linear"] | None = (
        expert_setting(
            label="Weight quantization algorithm",
            help="weight_only_int8: linear layers in 8 bits. weight_only_mix: experts in 4 bits, "
            "other linear layers in 8. fp8_linear: linear layers compute in float8.",
            source="ERNIEKit weight_quantize_algo",
        )
    )

    @property
    def bits(self) -> int | None:
        """Bits per weight in most linear layers; None if they are not quantised."""
        if self.load_in_4bit:
            return 4
        return 8 if self.load_in_8bit or self.weight_quantize_algo else None
