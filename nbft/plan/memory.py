"""Estimates of the trained parameters, memory and time of a run.

Shapes are read from config.json and the headers of the safetensors files; the model is not loaded.
"""

from __future__ import annotations

import functools
import json
import math
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbft.config import Config
from nbft.decisions import EXACT_CHUNK_TOKENS, FAST_CHUNK_TOKENS, SHORT_ROW_TOKENS, Decisions
from nbft.hardware import has_bfloat16
from nbft.methods import method_of
from nbft.models.adapters import adapter_of, base_name
from nbft.models.find import find_described
from nbft.models.freezing import frozen_pattern, unfrozen_pattern
from nbft.models.targets import Layers
from nbft.reading import cached_by_stamp

_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
_LIBRARIES_BYTES = 1900 * 2**20
"""torch, transformers, TRL and memory that the allocator keeps, in a process on a CPU.
Measured with torch 2.13 on 2 cores."""

_FAST_LIBRARIES_BYTES = 700 * 2**20
"""The same on the fast path, which never allocates all logits at once."""

_CPU_FLOPS = {"bfloat16": 100e9, "float32": 42e9}
"""Of one core. Measured with the SFTTrainer of TRL 1.16 on SmolLM2-135M, AMD Zen 4, padding-free."""

_FAST_CPU_FLOPS = {"bfloat16": 250e9, "float32": 130e9}
"""The same on the fast path; with AMX bfloat16 does twice as much."""

_MORE_CORES = 0.75
"""Exponent of the number of cores: small batches do not keep all of them busy. Measured on the fast
path: 2 cores do 1.3 to 1.7 times as much as one."""


@dataclass(frozen=True)
class Shape:
    """The shape of a model.

    Attributes:
        parameters: Total number of parameters.
        modules: (name, parameters) of each module with weights.
        biases: (name, parameters) of each module with a bias; also part of `modules`.
        layers: (name, d_out, d_in) of each linear layer except the head, embeddings and experts.
        mixture: (name, d_out, d_in) of each matrix of a mixture's experts and routers.
        tables: (name, rows, width) of embeddings and the head, also of one that is tied.
        is_tied: Whether the head shares its weights with the embeddings.
        hidden_size, intermediate_size, num_layers, vocab_size: As in config.json.
    """

    parameters: int
    modules: tuple[tuple[str, int], ...]
    biases: tuple[tuple[str, int], ...]
    layers: tuple[tuple[str, int, int], ...]
    mixture: tuple[tuple[str, int, int], ...]
    tables: tuple[tuple[str, int, int], ...]
    is_tied: bool
    hidden_size: int
    intermediate_size: int
    num_layers: int
    vocab_size: int


@cached_by_stamp(maxsize=64)
def model_shape(folder: Path) -> Shape | None:
    """Read a model's shape from its files, or return None where they do not contain it."""
    try:
        about: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        has_files = any(folder.glob("*.safetensors"))
        shapes = tensor_shapes(folder) if has_files else _llama_shapes(about)
        if not shapes:
            return None
        sizes = {name: math.prod(shape) for name, shape in shapes.items()}
        hidden = about.get("hidden_size") or about["d_model"]
        # Classes that tie by default leave it out of their config.json.
        has_head = any(name.removesuffix(".weight").endswith(HEADS) for name in sizes)
        is_tied = bool(about.get("tie_word_embeddings", not has_head))
        if is_tied and "lm_head.weight" in sizes:
            del sizes["lm_head.weight"]  # stored, but shared with the embeddings
        layers: list[tuple[str, int, int]] = []
        mixture: list[tuple[str, int, int]] = []
        tables: list[tuple[str, int, int]] = []
        for name, shape in shapes.items():
            if len(shape) != 2 or not name.endswith(".weight"):
                continue
            if any(word in name for word in _EMBEDDINGS):
                kind = tables
            else:  # in transformers 5 experts and routers are not linear layers
                kind = mixture if _MIXTURE.search(name) else layers
            kind.append((name.removesuffix(".weight"), shape[0], shape[1]))
        vocabulary = about["vocab_size"]
        if is_tied and all(name != "lm_head" for name, *_ in tables):
            tables.append(("lm_head", vocabulary, hidden))
        return Shape(
            sum(sizes.values()),
            tuple((name.rpartition(".")[0], size) for name, size in sizes.items()),
            tuple((name[:-5], size) for name, size in sizes.items() if name.endswith(".bias")),
            tuple(layers),
            tuple(mixture),
            tuple(tables),
            is_tied,
            hidden,
            about.get("intermediate_size", about.get("d_ff", 4 * hidden)),
            about.get("num_hidden_layers") or about["num_layers"],
            vocabulary,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error):
        return None


HEADS = ("lm_head", "embed_out")
_EMBEDDINGS = ("embed", "lm_head", "wte", "shared", "relative_attention_bias")
_MIXTURE = re.compile(r"\.experts\.|\.(block_sparse_moe|mlp)\.(gate|router)\.")


def tensor_shapes(folder: Path) -> dict[str, list[int]]:
    """Read the shape of every tensor of a model or an adapter from the files' headers.

    Returns {} where a file is damaged.
    """
    shapes: dict[str, list[int]] = {}
    try:
        for file in sorted(folder.glob("*.safetensors")):
            with file.open("rb") as stream:
                length = struct.unpack("<Q", stream.read(8))[0]
                if length > file.stat().st_size:
                    return {}
                header = json.loads(stream.read(length))
            shapes |= {k: v["shape"] for k, v in header.items() if k != "__metadata__"}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error):
        return {}
    return shapes


def _llama_shapes(about: Mapping[str, Any]) -> dict[str, list[int]]:
    """Return the shape of every tensor of a Llama by its config.json; {} for other models.

    Source: transformers, models/llama/modeling_llama.py.
    """
    if about.get("model_type") != "llama" or about.get("attention_bias") or about.get("mlp_bias"):
        return {}
    width, inner = about["hidden_size"], about["intermediate_size"]
    heads = about["num_attention_heads"]
    head = about.get("head_dim") or width // heads
    queries, keys = heads * head, (about.get("num_key_value_heads") or heads) * head
    layer = {
        "input_layernorm": [width],
        "self_attn.q_proj": [queries, width],
        "self_attn.k_proj": [keys, width],
        "self_attn.v_proj": [keys, width],
        "self_attn.o_proj": [width, queries],
        "post_attention_layernorm": [width],
        "mlp.gate_proj": [inner, width],
        "mlp.up_proj": [inner, width],
        "mlp.down_proj": [width, inner],
    }
    shapes = {
        f"model.layers.{n}.{name}.weight": shape
        for n in range(about["num_hidden_layers"])
        for name, shape in layer.items()
    }
    table = [about["vocab_size"], width]
    ends = {"model.embed_tokens.weight": table, "model.norm.weight": [width]}
    if not about.get("tie_word_embeddings"):
        ends["lm_head.weight"] = table
    return shapes | ends


def adapter_parameters(layers: Iterable[tuple[int, int]], r: int) -> int:
    """Count the parameters that LoRA trains.

    A target layer [d_out, d_in] gains A [r, d_in] and B [d_out, r].

    Args:
        layers: (d_out, d_in) of each target layer.
        r: LoRA rank, at least 1.

    Returns:
        A count of parameters, not bytes.

    Source: LoRA, arXiv:2106.09685, section 4.1.

    >>> adapter_parameters([(768, 768), (768, 768)], r=4)
    12288
    """
    return sum(r * (d_out + d_in) for d_out, d_in in layers)


def trainable_parameters(config: Config, shape: Shape) -> int:
    """Count the trained parameters: all, or the adapter's, without those of frozen layers."""
    is_frozen = re.compile(frozen_pattern(config.model.freeze_layers)).fullmatch
    peft = config.peft

    def trains(name: str) -> bool:
        if not config.model.freeze_layers:
            return True
        tied = shape.is_tied and name.endswith("embed_tokens") and is_frozen("lm_head")
        return not (is_frozen(name) or tied)

    if peft.method == "full":
        if patterns := config.model.unfrozen_parameters:
            unfrozen = unfrozen_pattern(patterns, [name for name, _ in shape.modules])
            return sum(n for name, n in shape.modules if unfrozen.search(f"{name}.weight"))
        return sum(n for name, n in shape.modules if trains(name))
    if (adapter := adapter_of(config)) is not None:
        shapes = tensor_shapes(adapter.path)
        return sum(math.prod(s) for name, s in shapes.items() if trains(name.rpartition(".")[0]))

    layers = layers_of_shape(shape)
    targets = {name for name in layers.targets(config) if trains(name)}
    saved = layers.inside({m for name in peft.modules_to_save for m in layers.named(name)})
    sizes = [
        *shape.modules,
        *((n, d * w) for n, d, w in shape.tables if n not in dict(shape.modules)),
    ]
    whole = sum(size for name, size in sizes if name in saved)
    targets -= saved
    matrices = [matrix for matrix in (*shape.layers, *shape.tables) if matrix[0] in targets]
    if peft.method == "ia3":
        ends = peft.feedforward_modules
        return whole + sum(
            d_in if _is_named(name, ends) else d_out for name, d_out, d_in in matrices
        )
    if peft.method == "oft":  # a skew-symmetric matrix for each block of inputs
        block = peft.oft_block_size
        return whole + sum(d_in // block * (block * (block - 1) // 2) for _, _, d_in in matrices)
    magnitudes = 0
    if peft.use_dora:
        looked_up = layers.embeddings
        magnitudes = sum(d_in if n in looked_up else d_out for n, d_out, d_in in matrices)
    biases = sum(
        n
        for name, n in shape.biases
        if trains(name) and (peft.bias == "all" or (peft.bias == "lora_only" and name in targets))
    )
    mixed = config.quantization.weight_quantize_algo == "weight_only_mix"
    of_layers = ((d_out, d_in) for _, d_out, d_in in matrices)
    experts = sum(
        peft.r * (d_out + d_in + (d_out if name.endswith(_FUSED) else 0))
        for name, d_out, d_in in shape.mixture
        if name in targets
        and not (".experts." in name and mixed)  # PEFT adds no adapter to 4-bit experts
    )
    return adapter_parameters(of_layers, peft.r) + experts + magnitudes + whole + biases


def file_layers(config: Config) -> Layers | None:
    """Return the layers of a config's model as its files name them; None where they do not tell."""
    if config.model.model_type != "hf":
        return None
    folder = find_described(base_name(config), config.model.model_revision)
    shape = model_shape(folder) if folder else None
    return layers_of_shape(shape) if shape else None


@functools.lru_cache(maxsize=16)
def layers_of_shape(shape: Shape) -> Layers:
    """Return the layers of a model as its files name them."""
    tables, mixture = ({name for name, *_ in part} for part in (shape.tables, shape.mixture))
    linear = {name for name, *_ in shape.layers} | mixture
    names = {name for name, _ in shape.modules} | linear | tables
    names |= {name[:at] for name in names for at, letter in enumerate(name) if letter == "."}
    of_words = (shape.vocab_size, shape.hidden_size)
    shared = {name for name, *size in shape.tables if tuple(size) == of_words}
    return Layers(
        frozenset(names),
        frozenset(linear | tables),
        frozenset(linear),
        frozenset(tables - {name for name in tables if name.endswith(HEADS)}),
        frozenset(shared if shape.is_tied else ()),
    )


_FUSED = (".w1", ".w3", ".gate_proj", ".up_proj")
"""Matrices of an expert that transformers 5 fuses into one, to which PEFT gives twice the rank.
Source: peft/utils/transformers_weight_conversion.py, 0.21."""


def weight_bytes(config: Config, shape: Shape, dtype: str) -> int:
    """Return the bytes of the base model's weights, quantised or not.

    4 bits: half a byte, and for each block of 64 weights a scale of 4 bytes; quantised twice, one
    byte each and 4 for every 256 of them. 8 bits: a byte, and 4 for each row. float8: a byte.

    Args:
        config: Its quantization section says how.
        shape: The model's shape.
        dtype: Number type of what is not quantised.

    Source: QLoRA, arXiv:2305.14314, section 3; LLM.int8(), arXiv:2208.07339, section 3.
    """
    width, how = _BYTES[dtype], config.quantization
    if how.bits is None:
        return shape.parameters * width
    linear = sum(d_out * d_in for _, d_out, d_in in shape.layers)
    rows = sum(d_out for _, d_out, _ in shape.layers)
    double = how.bnb_4bit_use_double_quant
    a_weight = 0.5 + ((1 + 4 / 256) if double else 4) / 64
    rest = (shape.parameters - linear) * width
    if how.weight_quantize_algo == "weight_only_mix":
        experts = sum(m * n for name, m, n in shape.mixture if ".experts." in name)
        rest += round(experts * (a_weight - width))
    if how.bits == 4:
        return round(linear * a_weight) + rest
    scales = 0 if how.weight_quantize_algo == "fp8_linear" else 4 * rows
    return linear + scales + rest


def saved_weight_bytes(config: Config, shape: Shape, dtype: str) -> int:
    """Return the bytes of the weights that a run saves: the adapter's, or all.

    Args:
        config: The config.
        shape: The model's shape.
        dtype: Number type of the weights in memory; an adapter on 16-bit weights has 32 bits.
    """
    if config.peft.method == "full":
        return shape.parameters * _BYTES[dtype]
    embeddings = ("embed_tokens", "lm_head")
    targets = [name for name in config.peft.target_modules if name in embeddings]
    # PEFT saves the layer with its adapter, since its vocabulary may have grown.
    whole = sum(n for name, n in shape.modules if _is_named(name, targets))
    return trainable_parameters(config, shape) * 4 + whole * _BYTES[dtype]


def _is_named(name: str, targets: Sequence[str]) -> bool:
    """Whether one of some names matches a layer, as in PEFT: its full name or the end of it."""
    return any(name == target or name.endswith(f".{target}") for target in targets)


def memory_bytes(
    config: Config, shape: Shape, lengths_tokens: Sequence[int], decisions: Decisions
) -> int:
    """Estimate the peak memory of a run.

    Weights, a gradient and the optimiser state of each trained parameter, the activations of one
    micro-batch, and the logits. For SmolLM2-135M with LoRA on a CPU and up to 1,160, 1,800 and
    3,340 tokens per step, it estimates 2.1, 2.7 and 4.0 GiB on the fast path; 2.1, 2.7 and 4.2
    were measured.

    Args:
        config: The config.
        shape: The model's shape.
        lengths_tokens: Lengths of some training sequences.
        decisions: What it leads to on this machine; on a CPU the libraries are included.
    """
    device, dtype = decisions.device.value, decisions.dtype.value
    width, method = _BYTES[dtype], method_of(config)
    trained = trainable_parameters(config, shape)
    weights = weight_bytes(config, shape, dtype)
    if config.peft.trains_adapter:
        weights += trained * 4
    gradients = trained * 4
    state = 0 if _is_offloaded(config, device) else trained * state_bytes(config)
    longest = sorted(lengths_tokens)[-max(1, len(lengths_tokens) // 20) :]
    batch = config.training.per_device_train_batch_size
    row_tokens = sum(longest) / len(longest) if longest else config.data.max_length
    if decisions.padding_free and lengths_tokens:
        row_tokens = (sum(lengths_tokens) / len(lengths_tokens) + row_tokens) / 2
    tokens = batch * len(method.sequences) * min(row_tokens, config.data.max_length)
    if (budget := config.data.max_tokens_per_batch) is not None:
        tokens = max(budget, min(row_tokens, config.data.max_length))
    numbers = float(_kept_numbers(config, shape))
    keeps_all = not config.memory.gradient_checkpointing
    if decisions.uses("row_attention") and device == "cpu" and keeps_all:
        numbers += _kept_by_row_attention(shape, row_tokens)  # FlashAttention keeps none of it
    scores = min(tokens, 4096) * min(shape.vocab_size, 32_768) * 4 * 2
    libraries = _LIBRARIES_BYTES if device == "cpu" else 500 * 2**20
    if decisions.uses("label_head"):
        scores = shape.vocab_size * (FAST_CHUNK_TOKENS * width + EXACT_CHUNK_TOKENS * 4)
        libraries = _FAST_LIBRARIES_BYTES
    # PEFT's own layer keeps a float32 copy of what goes into a 16-bit layer.
    if config.peft.trains_adapter and width == 2 and not decisions.uses("fused_lora"):
        width = 4
    activations = tokens * width * numbers + method.memory_bytes(config, shape, tokens)
    return int(weights + gradients + state + activations + scores + libraries)


def _kept_by_row_attention(shape: Shape, row_tokens: float) -> float:
    """Return the numbers that all layers keep per token: scaled queries, keys, attention weights.

    Attention weights are kept for short rows only; heads are assumed to be 64 wide.
    """
    heads = shape.hidden_size / 64
    weights = heads * row_tokens if row_tokens <= SHORT_ROW_TOKENS else 0
    return shape.num_layers * (2 * shape.hidden_size + weights)


def state_bytes(config: Config) -> int:
    """Return the bytes that the optimiser keeps for each trained parameter.

    Two moments of Adam in float32; in bfloat16 half, in 8 bits a quarter of that. One of Lion and
    RMSProp, and of SGD with momentum. Adafactor keeps sums of rows and columns, taken for one byte.

    >>> state_bytes(Config()), state_bytes(Config(optimizer={"moment_dtype": "bfloat16"}))
    (8, 4)
    """
    ours = config.optimizer
    name = str(ours.optim).replace("paged_", "").replace("adamw_32bit", "adamw_torch")
    if name in ("adamw_torch", "adamw_torch_fused") and ours.moment_dtype == "bfloat16":
        return 4
    sgd = 4 if ours.sgd_momentum else 0
    known = {"adamw_8bit": 2, "sgd": sgd, "adafactor": 1, "rmsprop": 4, "lion_32bit": 4}
    return known.get(name, 8)


def _is_offloaded(config: Config, device: str) -> bool:
    """Whether the optimiser state is in CPU memory instead of the device's."""
    return config.memory.offload_optimizer and device != "cpu"


_OF_ATTENTION = 3
"""Widths of the model that a layer's attention keeps for the backward pass: queries, keys, values
and their result. Measured on SmolLM2-135M in float32: of 19.4 widths a layer and token full_attn
leaves 15.7, core_attn 19.4 (scaled dot products keep no scores) and full 1.1."""


def _kept_numbers(config: Config, shape: Shape) -> int:
    """Return the numbers that all layers keep per token for the backward pass.

    In each layer: the inputs of the norms and of the seven projections, the attention output, the
    gated product and its two factors. Recomputed activations exist for one layer at a time.
    """
    hidden, layers = shape.hidden_size, shape.num_layers
    a_layer = 10 * hidden + 4 * shape.intermediate_size
    between = layers * hidden
    if not config.memory.gradient_checkpointing:
        return layers * a_layer + between
    again = {"full": a_layer, "full_attn": _OF_ATTENTION * hidden, "core_attn": 0}[
        config.memory.recompute_granularity
    ]
    return layers * (a_layer - again) + again + between


def training_seconds(
    config: Config, shape: Shape, tokens: int, decisions: Decisions, cores: int
) -> float | None:
    """Estimate the time in seconds of the training steps on a CPU; None on other devices.

    Args:
        config: The config.
        shape: The model's shape.
        tokens: Tokens in all steps together.
        decisions: What it leads to on this machine.
        cores: Number of cores used.
    """
    device, dtype = decisions.device.value, decisions.dtype.value
    if device != "cpu":
        return None
    padding = 1.0 if decisions.padding_free else 1.9
    again = 1 + 0.25 * _computed_again(config, shape)
    flops = _CPU_FLOPS.get(dtype, _CPU_FLOPS["float32"])
    if decisions.uses("row_attention") and decisions.uses("label_head"):
        flops = _FAST_CPU_FLOPS.get(dtype, _FAST_CPU_FLOPS["float32"])
        if dtype == "bfloat16" and "amx" in has_bfloat16(device).reason:
            flops *= 2
    return float(6 * shape.parameters * tokens * padding * again / (flops * cores**_MORE_CORES))


def _computed_again(config: Config, shape: Shape) -> float:
    """Return the share of the forward pass that is recomputed in the backward pass."""
    granularity = config.memory.recompute_granularity
    if not config.memory.gradient_checkpointing or granularity == "core_attn":
        return 0.0  # core_attn is negligible beside the projections
    if granularity == "full":
        return 1.0
    sizes = [(".mlp." in name, d_out * d_in) for name, d_out, d_in in shape.layers]
    return sum(n for is_mlp, n in sizes if not is_mlp) / max(1, sum(n for _, n in sizes))
