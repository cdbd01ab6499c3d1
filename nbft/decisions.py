"""What a config leaves open, decided once for a machine: each choice with its reason. Loads no torch.

`decide` is called by `make_plan`, which shows the decisions and keeps them in plan.json; a worker
reads them there and trains by them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from nbft.config import Config
from nbft.hardware import Choice, available_devices, has_bfloat16
from nbft.methods import method_of
from nbft.models.adapters import base_name
from nbft.models.find import find_local

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

_NOT_HERE = "the model is not here yet"

HEAD_EXTRAS = ("final_logit_softcapping", "logit_scale", "logits_scaling", "output_multiplier")


@dataclass(frozen=True)
class Decisions:
    """What a run uses of what it could.

    Attributes:
        device: Where it trains.
        dtype: Number type of the weights in memory.
        mixed_precision: Number type of the computation beside them: bf16, fp16 or no.
        parts: Each part of `PARTS`: "on" or "off".
    """

    device: Choice
    dtype: Choice
    mixed_precision: Choice
    parts: Mapping[str, Choice]

    def uses(self, part: str) -> bool:
        """Whether a part of the fast path is used."""
        return self.parts[part].value == "on"

    @property
    def padding_free(self) -> bool:
        """Whether the rows of a batch are joined to one sequence instead of padded."""
        return self.uses("padding_free")

    @property
    def is_final(self) -> bool:
        """Whether nothing was left open because the model was not on this machine yet."""
        return all(choice.reason != _NOT_HERE for choice in self.parts.values())

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> Decisions | None:
        """Read what `to_dict` returned, or return None where it is something else."""
        try:
            parts = {name: Choice(**values["parts"][name]) for name in PARTS}
            names = ("device", "dtype", "mixed_precision")
            device, dtype, mixed_precision = (Choice(**values[name]) for name in names)
            return cls(device, dtype, mixed_precision, parts)
        except (KeyError, TypeError):
            return None


def decide(config: Config, model: Path | None = None) -> Decisions:
    """Decide everything that a config leaves to the machine.

    Args:
        config: The config.
        model: Folder of the base model; looked for on this machine when None.
    """
    if model is None:
        found = find_local(base_name(config), config.model.model_revision)
        model = found.path if found else None
    device = choose_device(config)
    dtype = choose_dtype(config, device.value)
    mixed_precision = choose_mixed_precision(config, device.value, dtype.value)
    parts = _choose_parts(config, device.value, mixed_precision.value, model)
    return Decisions(device, dtype, mixed_precision, parts)


def choose_device(config: Config) -> Choice:
    """Choose the device that trains: the one asked for, or the first there is."""
    wanted = config.compute.device
    there = available_devices()
    if wanted != "auto":
        reason = "as asked" if wanted in there else "asked for, but not found here"
        return Choice(wanted, reason)
    for device in ("cuda", "xpu", "mps"):
        if device in there:
            return Choice(device, there[device])
    return Choice("cpu", "no GPU was found")


def choose_dtype(config: Config, device: str) -> Choice:
    """Choose the number type of the weights in memory."""
    if config.model.dtype != "auto":
        return Choice(config.model.dtype, "as asked")
    if config.peft.method == "full":
        return Choice("float32", "small updates of all weights are lost in 16 bits")
    bfloat16 = has_bfloat16(device)
    if bfloat16.value == "yes":
        return Choice("bfloat16", bfloat16.reason)
    return Choice("float32", bfloat16.reason)


def choose_mixed_precision(config: Config, device: str, dtype: str) -> Choice:
    """Choose the number type of the computation beside the weights: bf16, fp16 or no."""
    if config.precision.mixed_precision != "auto":
        return Choice(config.precision.mixed_precision, "as asked")
    if dtype != "float32":
        return Choice("no", f"the weights are {dtype} already")
    bfloat16 = has_bfloat16(device)
    if config.peft.method == "full" and bfloat16.value == "yes":
        return Choice("bf16", bfloat16.reason)
    if bfloat16.value == "yes":
        return Choice("no", "float32 weights were asked for")
    return Choice("no", bfloat16.reason)


def _choose_parts(
    config: Config, device: str, mixed_precision: str, model: Path | None
) -> dict[str, Choice]:
    own = config.model.model_type
    about = _read(model) if own == "hf" else {"model_type": own}
    padding_free = _padding_free(config, about)
    hindrances = {
        "row_attention": _row_attention(config, device, about, joined=padding_free.value == "on"),
        "label_head": _label_head(config, device, mixed_precision, about),
        "fused_lora": _fused_lora(config, mixed_precision),
        "lean_norm": _lean_norm(config, device, about),
    }
    return {"padding_free": padding_free} | {
        part: Choice("off", hindrance) if hindrance else Choice("on", _GAIN[part])
        for part, hindrance in hindrances.items()
    }


def fast_path(parts: Mapping[str, Choice]) -> Choice:
    """Say in one choice which parts are used: all, some or none, and why not the others.

    >>> fast_path({"lean_norm": Choice("on", ""), "fused_lora": Choice("off", "no LoRA")})
    Choice(value='in part', reason='without fused_lora (no LoRA)')
    """
    off = [f"{name} ({choice.reason})" for name, choice in parts.items() if choice.value == "off"]
    if not off:
        return Choice("on", "every part applies")
    return Choice("off" if len(off) == len(parts) else "in part", f"without {', '.join(off)}")


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
    return f"not tested with models of the type {kind}" if kind else _NOT_HERE


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


def _row_attention(config: Config, device: str, about: dict[str, Any], *, joined: bool) -> str:
    asked = config.memory.use_attn_mask_start_row_indices
    if asked is False:
        return "memory.use_attn_mask_start_row_indices is false"
    if not joined:
        return "rows are padded"
    if config.model.attn_implementation not in (None, "sdpa"):
        return f"{config.model.attn_implementation} was asked for"
    if config.model.attention_dropout:
        return f"model.attention_dropout={config.model.attention_dropout:g} draws over all rows"
    if about.get("attn_logit_softcapping"):
        return "this model caps its attention scores"
    if asked:
        return ""
    if config.speed.row_attention == "off":
        return "as asked"
    if device not in ("cpu", "cuda"):
        return f"{device} has its own kernels"
    if device == "cuda" and (choice := has_bfloat16(device)).value == "no":
        return f"FlashAttention needs a newer GPU: {choice.reason}"
    return _unknown(about)


def _label_head(config: Config, device: str, mixed_precision: str, about: dict[str, Any]) -> str:
    method, memory = method_of(config), config.memory
    if "label_head" not in method.fast_parts:
        return f"{method.trainer_name} computes the loss in its own way"
    if memory.use_sparse_head_and_loss_fn or memory.use_fused_head_and_loss_fn:
        return "the memory settings ask for another head"
    if config.speed.label_head == "off":
        return "as asked"
    if device != "cpu":
        return f"TRL has a kernel for {device}"
    if mixed_precision == "fp16":
        return "fp16 scales the loss"
    if any(about.get(name) not in (None, 1, 1.0) for name in HEAD_EXTRAS):
        return "this model scales or caps its logits"
    if "lm_head" in [*config.peft.target_modules, *config.peft.modules_to_save]:
        return "the head has an adapter"
    return _unknown(about)


def _fused_lora(config: Config, mixed_precision: str) -> str:
    peft = config.peft
    if peft.method != "lora":
        return "no LoRA"
    if config.speed.fused_lora == "off":
        return "as asked"
    if config.precision.fp8:
        return "precision.fp8 multiplies by the frozen weights in its own way"
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


def _lean_norm(config: Config, device: str, about: dict[str, Any]) -> str:
    if config.speed.lean_norm == "off":
        return "as asked"
    return f"{device} has its own kernels" if device != "cpu" else _unknown(about)
