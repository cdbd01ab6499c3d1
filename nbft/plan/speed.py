"""Which parts of the fast path apply to a run, each with its reason. Loads no torch.

Called by `make_plan`, to show them, and by `nbft.training`, to use them.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from nbft.config import Config
from nbft.models.find import find_local
from nbft.plan.hardware import Choice, choose_mixed_precision, has_bfloat16

PARTS = ("padding_free", "row_attention", "label_head", "fused_lora", "lean_norm")

FAST_CHUNK_TOKENS = 256
"""Tokens whose logits exist at once; larger chunks are no faster, smaller ones slower."""

EXACT_CHUNK_TOKENS = 32
"""Tokens of these whose shares exist in float32 at once: few enough to stay in the cache."""

SHORT_ROW_TOKENS = 512
"""Rows up to this go through two matrix products: on a CPU torch's fused attention takes twice as
long for them in bfloat16 (8 rows of 128 tokens, forward and backward: 27 ms against 13)."""

_KNOWN = (
    "llama",
    "qwen2",
    "qwen3",
    "mistral",
    "gemma",
    "gemma3_text",
    "phi3",
    "smollm3",
    "granite",
)
"""Architectures whose losses on the fast path are tested against TRL's."""

_HEAD_EXTRAS = ("final_logit_softcapping", "logit_scale", "logits_scaling", "output_multiplier")


def choose_parts(
    config: Config, device: str, mixed_precision: str, model: Path | None
) -> dict[str, Choice]:
    """Decide about each part: "on" or "off", and why.

    Args:
        config: The config.
        device: The device that was chosen.
        mixed_precision: bf16, fp16 or no.
        model: Folder of the model, or None while it is not here.
    """
    own = config.model.model_type
    about = _read(model) if own == "hf" else {"model_type": own}
    chosen = {"padding_free": _padding_free(config, about)}
    end_to_end = chosen["padding_free"].value == "on"
    for part, hindrance in (
        ("row_attention", _row_attention(config, device, about, end_to_end=end_to_end)),
        ("label_head", _label_head(config, device, mixed_precision, about)),
        ("fused_lora", _fused_lora(config, mixed_precision)),
        ("lean_norm", f"{device} has its own kernels" if device != "cpu" else _unknown(about)),
    ):
        asked = getattr(config.speed, part)
        if asked == "off":
            chosen[part] = Choice("off", "as asked")
        elif hindrance:
            chosen[part] = Choice("off", hindrance)
        else:
            chosen[part] = Choice("on", _GAIN[part])
    return chosen


def fast_path(parts: dict[str, Choice]) -> Choice:
    """Say in one choice which parts are used: all, some or none, and why not the others.

    >>> fast_path({"lean_norm": Choice("on", ""), "fused_lora": Choice("off", "no LoRA")})
    Choice(value='in part', reason='without fused_lora (no LoRA)')
    """
    off = [f"{name} ({choice.reason})" for name, choice in parts.items() if choice.value == "off"]
    if not off:
        return Choice("on", "every part applies")
    return Choice("off" if len(off) == len(parts) else "in part", f"without {', '.join(off)}")


def parts_in_use(config: Config, device: str, dtype: str) -> set[str]:
    """Return the parts of the fast path that a run will use.

    Args:
        config: The config.
        device: The device that was chosen.
        dtype: Number type of the weights.
    """
    mixed_precision = choose_mixed_precision(config, device, dtype).value
    found = find_local(config.model.model_name, config.model.model_revision)
    parts = choose_parts(config, device, mixed_precision, found.path if found else None)
    return {name for name, choice in parts.items() if choice.value == "on"}


def is_padding_free(config: Config) -> bool:
    """Whether the rows of a batch lie end to end."""
    found = find_local(config.model.model_name, config.model.model_revision)
    return _padding_free(config, _read(found.path if found else None)).value == "on"


_GAIN = {
    "row_attention": "no row looks at another, so nothing is computed for it",
    "label_head": "prompt tokens have no loss, so they need no logits",
    "fused_lora": "the weights are frozen, so they need no gradient",
    "lean_norm": "a norm's gradient needs one copy of its input, not four",
}


def _read(model: Path | None) -> dict[str, Any]:
    try:
        content = json.loads(((model or Path()) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _unknown(about: dict[str, Any]) -> str:
    kind = about.get("model_type")
    if kind in _KNOWN:
        return ""
    return f"not tested with models of the type {kind}" if kind else "the model is not here yet"


def _padding_free(config: Config, about: dict[str, Any]) -> Choice:
    if config.data.packing:
        return Choice("on", "packed rows lie end to end")
    if config.data.padding_free is not None:
        return Choice("on" if config.data.padding_free else "off", "as asked")
    if config.data.pad_to_multiple_of:
        return Choice("off", f"data.pad_to_multiple_of={config.data.pad_to_multiple_of} pads")
    if config.model.attn_implementation not in (None, "sdpa"):
        return Choice("off", f"not tested with {config.model.attn_implementation} attention")
    if hindrance := _unknown(about):
        return Choice("off", hindrance)
    return Choice("on", "padding would be computed for nothing")


def _row_attention(config: Config, device: str, about: dict[str, Any], *, end_to_end: bool) -> str:
    if not end_to_end:
        return "rows are padded"
    if device not in ("cpu", "cuda"):
        return f"{device} has its own kernels"
    if device == "cuda" and (choice := has_bfloat16(device)).value == "no":
        return f"FlashAttention needs a newer GPU: {choice.reason}"
    if config.model.attn_implementation not in (None, "sdpa"):
        return f"{config.model.attn_implementation} was asked for"
    if config.model.attention_dropout:
        return f"model.attention_dropout={config.model.attention_dropout:g} draws over all rows"
    if about.get("attn_logit_softcapping"):
        return "this model caps its attention scores"
    return _unknown(about)


def _label_head(config: Config, device: str, mixed_precision: str, about: dict[str, Any]) -> str:
    if config.training.method != "sft":
        return "only SFTTrainer asks for it"
    if device != "cpu":
        return f"TRL has a kernel for {device}"
    if mixed_precision == "fp16":
        return "fp16 scales the loss"
    if any(about.get(name) not in (None, 1, 1.0) for name in _HEAD_EXTRAS):
        return "this model scales or caps its logits"
    if "lm_head" in [*config.peft.target_modules, *config.peft.modules_to_save]:
        return "the head has an adapter"
    return _unknown(about)


def _fused_lora(config: Config, mixed_precision: str) -> str:
    peft = config.peft
    if peft.method != "lora":
        return "no LoRA"
    if config.quantization.bits and not config.quantization.load_in_4bit:
        return "the weights are quantised, and not in 4 bits"
    if config.model.adapter_name_or_path:
        return "an adapter goes on that PEFT has built"
    if mixed_precision != "no":
        return f"{mixed_precision} autocast chooses its own number types"
    if peft.use_dora:
        return "DoRA has a step of its own"
    if peft.lora_dropout:
        return f"peft.lora_dropout={peft.lora_dropout:g}"
    if peft.bias != "none":
        return f"peft.bias={peft.bias}"
    return ""
