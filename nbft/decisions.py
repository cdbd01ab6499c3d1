"""Decisions that a config leaves to the machine, each with its reason. Loads no torch.

`make_plan` calls `decide`, shows the decisions and saves them in plan.json, where a worker reads
them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from nbft.config import Config
from nbft.hardware import (
    Choice,
    available_devices,
    compute_capability,
    gpu_count,
    why_no_gpu,
)
from nbft.matmul_rate import low_type
from nbft.methods import method_of
from nbft.models.adapters import FoundAdapter, adapter_of, base_name
from nbft.models.find import find_described
from nbft.models.peft_types import peft_type_of
from nbft.models.targets import trains_head
from nbft.tracking import use_of

PARTS = ("padding_free", "row_attention", "label_head", "fused_lora", "lean_norm")
"""Parts of the fast path that every method could have; pairs of answers have one more."""

FAST_CHUNK_TOKENS = 256
"""Tokens whose logits exist at a time; larger chunks are no faster, smaller ones slower."""

EXACT_CHUNK_TOKENS = 32
"""Tokens whose probabilities exist in float32 at a time: few enough to stay in the cache."""

GPU_LOGITS_BYTES = 2**30
"""Bytes of logits in float32 that exist at a time on a GPU; those in 16 bits come on top."""

SHORT_ROW_TOKENS = 512
"""Rows up to this length use two matrix products: on a CPU torch's fused attention takes twice as
long in bfloat16 (8 rows of 128 tokens, forward and backward: 27 ms instead of 13)."""

GROUP_STEP_TOKENS = 16
"""Short rows that attend together are padded to a multiple of this: lengths recur, and with them
oneDNN's kernels."""

_TESTED = "llama qwen2 qwen3 mistral gemma gemma3_text phi3 smollm3 granite".split()
"""Architectures whose losses on the fast path are tested against TRL's."""

_SET = "set in the config"
_NOT_HERE = "the model is not on this machine yet"

HEAD_EXTRAS = ("final_logit_softcapping", "logit_scale", "logits_scaling", "output_multiplier")


@dataclass(frozen=True)
class Decisions:
    """Device, number types, parts of the fast path and trackers that a run uses.

    Attributes:
        device: Device to train on.
        dtype: Number type of the weights in memory.
        mixed_precision: Number type of the computation: bf16, fp16 or no.
        parts: "on" or "off" for each of `PARTS`, and what else the method has.
        trackers: online, local, offline or off for each of tracking.report_to; see `nbft.tracking`.
    """

    device: Choice
    dtype: Choice
    mixed_precision: Choice
    parts: Mapping[str, Choice]
    trackers: Mapping[str, Choice] = field(default_factory=dict)

    def uses(self, part: str) -> bool:
        """Whether a part of the fast path is used."""
        return part in self.parts and self.parts[part].value == "on"

    @property
    def padding_free(self) -> bool:
        """Whether the rows of a batch are joined into one sequence instead of padded."""
        return self.uses("padding_free")

    @property
    def scales_float16(self) -> bool:
        """Whether an adapter is trained with a scaled loss on float16 weights."""
        return (self.dtype.value, self.mixed_precision.value) == ("float16", "fp16")

    @property
    def is_final(self) -> bool:
        """Whether no decision waits for the model to be on this machine."""
        return all(choice.reason != _NOT_HERE for choice in self.parts.values())

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Any) -> Decisions | None:
        """Read the values of `to_dict`, or return None if they are something else."""
        try:
            parts = {name: Choice(**values["parts"][name]) for name in PARTS}
            parts |= {name: Choice(**one) for name, one in values["parts"].items()}
            names = ("device", "dtype", "mixed_precision")
            device, dtype, mixed_precision = (Choice(**values[name]) for name in names)
            trackers = {n: Choice(**one) for n, one in values.get("trackers", {}).items()}
            return cls(device, dtype, mixed_precision, parts, trackers)
        except (KeyError, TypeError, AttributeError):
            return None


def decide(config: Config, model: Path | None = None) -> Decisions:
    """Decide everything that a config leaves to the machine.

    Args:
        config: The config.
        model: Folder of the base model; looked for when None.
    """
    if model is None:
        model = find_described(base_name(config), config.model.model_revision)
    device = choose_device(config)
    dtype = choose_dtype(config, device.value)
    mixed_precision = choose_mixed_precision(config, device.value, dtype.value)
    parts = _choose_parts(config, device.value, mixed_precision.value, model)
    return Decisions(device, dtype, mixed_precision, parts, choose_trackers(config))


def choose_trackers(config: Config) -> dict[str, Choice]:
    """Choose how each tracker is used; without a login none is online, so that none asks for a key."""
    return {name: use_of(name, config.logging.logging_dir) for name in config.tracking.report_to}


def choose_device(config: Config) -> Choice:
    """Choose the device to train on: the configured one, or the first available."""
    wanted = config.compute.device
    available = available_devices()
    if wanted != "auto":
        is_found = wanted in available
        reason = f"{_SET}{_of_several(config, wanted)}" if is_found else f"{_SET}, but not found"
        return Choice(wanted, reason)
    for device in ("cuda", "xpu", "mps"):
        if device in available:
            return Choice(device, f"{available[device]}{_of_several(config, device)}")
    return Choice("cpu", why_no_gpu())


def _of_several(config: Config, device: str) -> str:
    """Say which of several GPUs are used."""
    if (number := gpu_count(device)) < 2:
        return ""
    if config.model.device_map is not None:
        return f"; model.device_map spreads the layers over {number} of them"
    return "" if sees_all_gpus(config) else f"; one of {number} is used"


def sees_all_gpus(config: Config) -> bool:
    """Whether a run asks for several GPUs; any other sees one."""
    return config.model.device_map is not None or config.distributed.num_processes != 1


def devices_needed(config: Config, device: str) -> int:
    """Return how many devices of a kind a run takes from their queue."""
    if device == "cpu":
        return 1
    if config.model.device_map is not None:
        return max(1, gpu_count(device))
    return config.distributed.processes


def choose_dtype(config: Config, device: str) -> Choice:
    """Choose the number type of the weights in memory."""
    if config.model.dtype != "auto":
        return Choice(config.model.dtype, _SET)
    if config.peft.method == "full":
        return Choice("float32", "small updates would be lost in 16 bits")
    low = low_type(device)
    return Choice(low.value or "float32", low.reason)


def choose_mixed_precision(config: Config, device: str, dtype: str) -> Choice:
    """Choose the number type of the computation: bf16, fp16 or no."""
    if config.precision.mixed_precision != "auto":
        return Choice(config.precision.mixed_precision, _SET)
    if dtype == "float16" and config.peft.trains_adapter and device == "cuda":
        return Choice("fp16", "float16 needs a scaled loss and a float32 adapter")
    if dtype != "float32":
        return Choice("no", f"the weights are already {dtype}")
    low = low_type(device)
    if not low.value:
        return Choice("no", low.reason)
    if config.peft.method == "full":
        return Choice("bf16" if low.value == "bfloat16" else "fp16", low.reason)
    return Choice("no", "model.dtype is float32")


@dataclass(frozen=True)
class _Model:
    """What the parts ask about the model.

    Attributes:
        about: Its config.json, with the changes of model.model_init_kwargs.
        attention: The attention that the settings choose; None for the model's own.
        untested: Why no part may be used by itself; "" where the losses are tested.
        adapter: The adapter that the run continues; None for a new one.
    """

    about: Mapping[str, Any]
    attention: str | None
    untested: str
    adapter: FoundAdapter | None


def _about_model(config: Config, folder: Path | None) -> _Model:
    settings = config.model
    about = read_about(folder) | settings.model_init_kwargs
    attention = settings.attn_implementation or about.get("attn_implementation")
    if settings.model_type != "hf":  # whatever its name, its code is somebody's own
        untested = f"not tested with {settings.model_type} models"
    elif settings.trust_remote_code and about.get("auto_map"):
        untested = "not tested with models that bring their own code"
    elif kind := about.get("model_type"):
        untested = "" if kind in _TESTED else f"not tested with {kind} models"
    else:
        untested = _NOT_HERE
    return _Model(about, attention, untested, adapter_of(config))


def adapter_dtype(config: Config, dtype: str) -> str:
    """Return the number type in which an adapter is trained: float32 over weights of any type.

    Only over quantised weights that compute in bfloat16 TRL's trainers make it bfloat16, as QLoRA
    does (arXiv:2305.14314, section 3).

    Args:
        config: The config.
        dtype: Number type of the weights.
    """
    kind = peft_type_of(config)
    takes_low = kind is not None and not kind.is_float32
    is_low = takes_low and _is_cast_by_trl(config) and dtype == "bfloat16"
    return "bfloat16" if is_low else "float32"


def keeps_float32(config: Config, decisions: Decisions) -> bool:
    """Whether the trainer would make a float32 adapter bfloat16, which is to be undone."""
    return _is_cast_by_trl(config) and adapter_dtype(config, decisions.dtype.value) == "float32"


def _is_cast_by_trl(config: Config) -> bool:
    how = config.quantization
    is_quantised = how.bits is not None and how.weight_quantize_algo != "fp8_linear"
    return is_quantised and method_of(config).takes_peft_config and config.peft.trains_adapter


def _choose_parts(
    config: Config, device: str, mixed_precision: str, folder: Path | None
) -> dict[str, Choice]:
    model = _about_model(config, folder)
    padding_free = _padding_free(config, device, model)
    obstacles = {
        "row_attention": _row_attention(config, device, model, joined=padding_free.value == "on"),
        "label_head": _label_head(config, device, mixed_precision, model),
        "fused_lora": _fused_lora(config, mixed_precision, model),
        "lean_norm": _lean_norm(config, device, model),
    }
    parts = {"padding_free": padding_free} | {
        part: Choice("off", obstacle) if obstacle else Choice("on", _GAIN[part])
        for part, obstacle in obstacles.items()
    }
    if "shared_prompt" in method_of(config).fast_parts:
        obstacle = _shared_prompt(config, parts["row_attention"])
        parts["shared_prompt"] = Choice("off" if obstacle else "on", obstacle or _SHARED_GAIN)
    if parts["row_attention"].value == "on" and device == "cuda" and not has_flash_attention():
        reason = f"{_GAIN['row_attention']}, one row at a time: FlashAttention needs a newer GPU"
        parts["row_attention"] = Choice("on", reason)
    return parts


def has_flash_attention() -> bool:
    """Whether torch's FlashAttention runs on the GPU: NVIDIA's from Ampere on, or AMD's."""
    return compute_capability() >= (8, 0)


def fast_path(parts: Mapping[str, Choice]) -> Choice:
    """Summarise which parts are used, all, some or none, and why the others are not.

    >>> fast_path({"lean_norm": Choice("on", ""), "fused_lora": Choice("off", "no LoRA")})
    Choice(value='in part', reason='without fused_lora (no LoRA)')
    """
    off = [f"{name} ({choice.reason})" for name, choice in parts.items() if choice.value == "off"]
    if not off:
        return Choice("on", "every part applies")
    return Choice("off" if len(off) == len(parts) else "in part", f"without {', '.join(off)}")


_GAIN = {
    "row_attention": "skips attention between different rows",
    "label_head": "computes no logits for tokens without a loss",
    "fused_lora": "computes no gradients of frozen weights",
    "lean_norm": "keeps one copy of a norm's input instead of four",
}
_SHARED_GAIN = "computes a prompt once for both of its answers"


def read_about(model: Path | None) -> dict[str, Any]:
    """Return the config.json in a model's folder; empty where there is none."""
    try:
        content = json.loads(((model or Path()) / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _padding_free(config: Config, device: str, model: _Model) -> Choice:
    data, method = config.data, method_of(config)
    if "padding_free" not in method.fast_parts:
        return Choice("off", f"{method.trainer_name} pads its batches")
    if _changes_rows(config):
        return Choice("off", _VIRTUAL)
    if data.packing:
        return Choice("on", "packed rows need no padding")
    if data.padding_free is not None:
        return Choice("on" if data.padding_free else "off", _SET)
    if data.collate_fn != "dynamic_padding":
        return Choice("off", f"data.collate_fn={data.collate_fn} makes the batches")
    if data.pad_to_multiple_of:
        return Choice("off", f"data.pad_to_multiple_of={data.pad_to_multiple_of} adds padding")
    if model.attention not in (None, "sdpa"):
        return Choice("off", f"not tested with {model.attention} attention")
    if model.untested:
        return Choice("off", model.untested)
    if device not in _ATTENDS_BY_ROW:
        return Choice(
            "off", f"on {device} joined rows would share one mask, quadratic in the batch"
        )
    return Choice("on", "avoids computing on padding")


_VIRTUAL = "virtual tokens come before each row"


def _changes_rows(config: Config) -> bool:
    """Whether the adapter puts virtual tokens in front of each row."""
    kind = peft_type_of(config)
    return kind is not None and kind.changes_rows


_ATTENDS_BY_ROW = ("cpu", "cuda")
"""Devices where each row of a joined batch attends within itself."""


def _row_attention(config: Config, device: str, model: _Model, *, joined: bool) -> str:
    asked = config.memory.use_attn_mask_start_row_indices
    if asked is False:
        return "memory.use_attn_mask_start_row_indices is false"
    if config.distributed.splits_layers:
        return _SPLIT
    if not joined:
        return "rows are padded"
    if model.attention not in (None, "sdpa"):
        return f"model.attn_implementation is {model.attention}"
    if config.model.attention_dropout:
        return f"model.attention_dropout={config.model.attention_dropout:g} is not supported"
    if model.about.get("attn_logit_softcapping"):
        return "this model caps its attention scores"
    if model.about.get("is_causal") is False or model.about.get("use_bidirectional_attention"):
        return "this model attends to later tokens too"
    if asked or model.untested:  # what an unknown model adds to its scores would be lost
        return model.untested
    if config.speed.row_attention == "off":
        return _SET
    return "" if device in _ATTENDS_BY_ROW else f"{device} has its own kernels"


def _shared_prompt(config: Config, row_attention: Choice) -> str:
    if config.speed.shared_prompt == "off":
        return _SET
    return "it needs row_attention" if row_attention.value == "off" else ""


def _label_head(config: Config, device: str, mixed_precision: str, model: _Model) -> str:
    method, memory = method_of(config), config.memory
    if method.scores_answers:
        return "a reward model has no logits"
    if "label_head" not in method.fast_parts:
        return f"{method.trainer_name} computes the loss itself"
    if memory.use_sparse_head_and_loss_fn or memory.use_fused_head_and_loss_fn:
        return "the memory settings select another head"
    if config.speed.label_head == "off":
        return _SET
    if best_measure(config) == "entropy":
        return "it computes no entropy, which checkpoint.metric_for_best_model names"
    if device != "cpu" and not method.computes_loss:
        return f"TRL has its own kernel for {device}"
    if mixed_precision == "fp16":
        return "fp16 scales the loss"
    if any(model.about.get(name) not in (None, 1, 1.0) for name in HEAD_EXTRAS):
        return "this model scales or caps its logits"
    if trains_head(config):
        return "the head has an adapter"
    if _changes_rows(config):
        return _VIRTUAL
    return model.untested


def best_measure(config: Config) -> str | None:
    """Return the measure that decides which checkpoint is best; None where nothing depends on it."""
    keep = config.checkpoint
    if not (
        keep.load_best_model_at_end or keep.save_strategy == "best" or config.callbacks.stops_early
    ):
        return None
    return keep.metric_for_best_model.removeprefix("eval_")


def _adapter_settings(config: Config, adapter: FoundAdapter | None) -> Mapping[str, Any]:
    return adapter.about if adapter else vars(config.peft)


_SPLIT = "its weights are split (distributed.tensor_parallel_size)"


def _fused_lora(config: Config, mixed_precision: str, model: _Model) -> str:
    if config.peft.method != "lora":
        return "no LoRA"
    if config.speed.fused_lora == "off":
        return _SET
    if config.distributed.splits_layers:
        return _SPLIT
    if config.precision.fp8:
        return "precision.fp8 has its own matrix product"
    if config.quantization.bits and not config.quantization.load_in_4bit:
        return "the weights are quantised, but not in 4 bits"
    if config.model.adapter_name_or_path:
        return "the run continues an existing adapter"
    if mixed_precision != "no":
        return f"{mixed_precision} autocast chooses the number types"
    peft = _adapter_settings(config, model.adapter)
    if peft.get("use_dora"):
        return "DoRA is computed differently"
    if dropout := peft.get("lora_dropout"):
        return f"peft.lora_dropout={dropout:g}"
    if (bias := peft.get("bias") or "none") != "none":
        return f"peft.bias={bias}"
    return ""


def _lean_norm(config: Config, device: str, model: _Model) -> str:
    if config.speed.lean_norm == "off":
        return _SET
    if device not in ("cpu", "cuda"):
        return f"{device} has its own kernels"
    return model.untested
