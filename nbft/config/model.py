"""Settings of the base model: which one, and how it is loaded."""

from __future__ import annotations

from typing import Any, Literal

from nbft.config.base import Section, key_of, setting
from nbft.registry import models


class Model(Section):
    """The base model and its tokenizer."""

    model_name: str = setting(
        "smollm2-135m",
        label="Base model",
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
    model_type: key_of(models) = setting(  # type: ignore[valid-type]
        "hf",
        help="How the model is loaded: hf by transformers, else a model class of your own, by its "
        "key in nbft.registry.models.",
        source="QEfficient model.model_type",
        level="expert",
    )
    auto_class_name: Literal[
        "AutoModelForCausalLM", "AutoModelForImageTextToText", "AutoModelForSeq2SeqLM"
    ] = setting(
        "AutoModelForCausalLM",
        label="Auto class",
        help="Class of transformers that loads the model.",
        source="QEfficient model.auto_class_name",
        level="expert",
        why="AutoModelForCausalLM for text; AutoModelForImageTextToText for models that also see "
        "pictures, trained on text here; AutoModelForSeq2SeqLM for an encoder with a decoder.",
    )
    model_revision: str | None = setting(
        help="Branch, tag or commit of the model on the hub.", source="TRL ModelConfig"
    )
    adapter_name_or_path: str | None = setting(
        label="Adapter to continue with",
        help="Adapter to go on training, a folder or a name on the hub; a new one when empty.",
        source="Oumi model.adapter_model",
        why="Its rank, strength and layers are its own; those of the peft section do not count. "
        "model_name may name the adapter's folder itself: its base model is then looked up.",
    )
    tokenizer_name: str | None = setting(
        label="Tokenizer",
        help="Tokenizer, when it is not the model's own.",
        source="Oumi model.tokenizer_name",
    )
    pad_token: str | None = setting(
        label="Padding token",
        help="Token used for padding; the tokenizer's own when empty, else its end-of-sequence.",
        source="TRL SFTConfig.pad_token",
    )
    tokenizer_kwargs: dict[str, Any] = setting(
        help="Further arguments of the tokenizer's from_pretrained.",
        source="Oumi model.tokenizer_kwargs",
        level="expert",
        default_factory=dict,
    )
    chat_template: str | None = setting(
        help="Chat template: a name (chatml, llama3, alpaca, zephyr, mistral, gemma) or Jinja text; "
        "the model's own when empty.",
        source="Oumi model.chat_template",
        suggestions=("chatml", "llama3", "alpaca", "zephyr", "mistral", "gemma"),
        why="A model that has learnt to chat knows its own template best. A base model has none.",
    )
    chat_template_path: str | None = setting(
        label="Chat template file",
        help="File with a Jinja chat template that replaces the model's own.",
        source="TRL SFTConfig.chat_template_path",
    )
    dtype: Literal["auto", "bfloat16", "float16", "float32", "float64"] = setting(
        "auto",
        help="Number type of the weights in memory; auto decides by device and method.",
        source="TRL ModelConfig.dtype",
        why="auto: with an adapter, bfloat16 where the device computes in it, else float32. In full "
        "training float32, because small updates are lost in 16 bits.",
    )
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2"] | None = setting(
        help="Attention kernel; the model's best when empty.", source="transformers from_pretrained"
    )
    device_map: Literal["auto", "balanced", "sequential"] | None = setting(
        help="Spread the layers over the GPUs there are, and over memory and disk what does not "
        "fit; the whole model on one device when empty.",
        source="transformers from_pretrained",
        level="expert",
    )
    freeze_layers: list[str] = setting(
        label="Frozen layers",
        help="Layers left untrained, by name; * stands for any text, layers.0 for layer 0.",
        source="Oumi model.freeze_layers",
        level="expert",
        default_factory=list,
        why="A name means a layer and all inside it, whole or by its end: embed_tokens, "
        "model.layers.3, layers.*.mlp. With an adapter these layers get none.",
    )
    attention_dropout: float | None = setting(
        help="Share of the attention weights dropped at random; the model's own when empty.",
        source="ERNIEKit attention_probs_dropout_prob",
        level="expert",
        ge=0,
        lt=1,
        usual=(0.0, 0.1),
    )
    hidden_dropout: float | None = setting(
        help="Share of what attention and feed-forward add to the hidden states that is dropped "
        "at random; the model's own when empty.",
        source="ERNIEKit hidden_dropout_prob",
        level="expert",
        ge=0,
        lt=1,
        usual=(0.0, 0.1),
    )
    dropout_warmup_steps: int | None = setting(
        help="Steps over which the two dropouts rise from 0, and more in later layers; when empty "
        "they are the same in every layer from the first step.",
        source="ERNIEKit dropout_warmup_steps",
        unit="steps",
        level="expert",
        ge=0,
        why="As ERNIEKit does it: linear in the steps, and layer n of N, counted from 0, has n/N "
        "of it; with 0 steps only the layers differ.",
    )
    use_cache: bool = setting(
        False,
        help="Keep the attention's keys and values in the forward pass; written into the model's "
        "config too. Answers always use them.",
        source="transformers TrainingArguments",
        level="expert",
    )
    use_liger_kernel: bool = setting(
        False,
        label="Liger kernels",
        help="Fused kernels of liger-kernel: less memory and time on a GPU.",
        source="transformers TrainingArguments",
        level="expert",
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
        label="Model arguments",
        help="Further arguments of from_pretrained.",
        source="TRL SFTConfig.model_init_kwargs",
        level="expert",
        default_factory=dict,
    )
