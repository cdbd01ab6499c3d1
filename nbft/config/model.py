"""Settings of the base model: which one, and how it is loaded."""

from __future__ import annotations

from typing import Any, Literal

from nbft.config.base import Section, setting


class Model(Section):
    """The base model and its tokenizer."""

    model_name: str = setting(
        "smollm2-135m",
        help="Base model: a name on the hub, a folder, or smollm2-135m, which needs no hub.",
        source="nbft: small enough to train on a CPU in minutes",
        level="basic",
        suggestions=(
            "smollm2-135m",
            "HuggingFaceTB/SmolLM2-360M-Instruct",
            "Qwen/Qwen2.5-0.5B-Instruct",
            "meta-llama/Llama-3.2-1B-Instruct",
        ),
        why="Looked for in this order: a folder, nbft's cache, the hub, and for smollm2-135m the "
        "package index. A larger model answers better and needs more memory and time.",
    )
    model_revision: str | None = setting(
        help="Branch, tag or commit of the model on the hub.", source="TRL ModelConfig"
    )
    tokenizer_name: str | None = setting(
        help="Tokenizer, when it is not the model's own.", source="Oumi model.tokenizer_name"
    )
    pad_token: str | None = setting(
        help="Token used for padding; the tokenizer's own when empty, else its end-of-sequence.",
        source="TRL SFTConfig.pad_token",
    )
    chat_template_path: str | None = setting(
        help="File with a Jinja chat template that replaces the model's own.",
        source="TRL SFTConfig.chat_template_path",
    )
    dtype: Literal["auto", "bfloat16", "float16", "float32"] = setting(
        "auto",
        help="Number type of the weights in memory; auto decides by device and method.",
        source="TRL ModelConfig.dtype",
        why="auto: with an adapter, bfloat16 where the device computes in it, else float32. In full "
        "training float32, because small updates are lost in 16 bits.",
    )
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2"] | None = setting(
        help="Attention kernel; the model's best when empty.", source="transformers from_pretrained"
    )
    load_pretrained_weights: bool = setting(
        True,
        help="Start from the trained weights; false starts from random ones.",
        source="Oumi model.load_pretrained_weights",
        level="expert",
    )
    trust_remote_code: bool = setting(
        False,
        help="Run Python code that comes with the model. Only for publishers you trust.",
        source="transformers from_pretrained",
        level="expert",
    )
    model_init_kwargs: dict[str, Any] = setting(
        help="Further arguments of from_pretrained.",
        source="TRL SFTConfig.model_init_kwargs",
        level="expert",
        default_factory=dict,
    )
