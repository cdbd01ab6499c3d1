"""Estimates of the trained parameters and memory of a run.

Shapes are read from config.json and the headers of the safetensors files; the model is not loaded.
"""

from __future__ import annotations

import functools
import json
import math
import re
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nbft.config import Config
from nbft.decisions import (
    EXACT_CHUNK_TOKENS,
    FAST_CHUNK_TOKENS,
    GROUP_STEP_TOKENS,
    SHORT_ROW_TOKENS,
    Decisions,
)
from nbft.evaluate.forecast import metrics_of, sampled_prompts
from nbft.methods import method_of
from nbft.models.adapters import adapter_of, base_name
from nbft.models.find import find_described
from nbft.models.freezing import frozen_pattern, unfrozen_pattern
from nbft.models.peft_types import (
    LayerParameters,
    excluded_pattern,
    peft_type_of,
    rank_of,
)
from nbft.models.peft_types.lora import changes_weights
from nbft.models.targets import Layers, adaptable_layers
from nbft.reading import cached_by_stamp

_BYTES = {"float64": 8, "float32": 4, "bfloat16": 2, "float16": 2}
LIBRARIES_BYTES = 600 * 2**20
"""Of torch, transformers, TRL and the rest in a process on a CPU, before the model is loaded.
Measured with torch 2.13 on Linux."""

_CONTEXT_BYTES = 500 * 2**20
"""Of the driver and its kernels on a GPU. Assumed, not measured."""

HOLES = 0.25
"""Memory between the tensors of a step, relative to all that the step makes, also what it makes
again. Measured with glibc's allocator in 25 configurations (0 to 0.5); the same runs with
MALLOC_MMAP_THRESHOLD_=131072, which leaves no holes but is slow, needed none of it."""

_GPU_HOLES = 0.08
"""The same on a GPU, whose allocator keeps whole blocks. Assumed, not measured."""

MARGINS = {
    "weights": 0.02,
    "gathered": 0.3,
    "adapter": 0.02,
    "gradients": 0.05,
    "optimizer": 0.02,
    "activations": 0.15,
    "head": 0.25,
    "autocast": 0.1,
    "step": 0.05,
    "reference": 0.05,
    "cache": 0.2,
    "libraries": 0.1,
    "fragmentation": 0.6,
}
"""Parts of the memory and how far each may be off, relative to it."""

PART_NAMES = {
    "weights": "weights",
    "gathered": "gathered weights",
    "adapter": "adapter",
    "gradients": "gradients",
    "optimizer": "optimizer state",
    "activations": "activations",
    "head": "head and loss",
    "autocast": "16-bit copies (autocast)",
    "step": "gradients, activations and loss",
    "reference": "reference model",
    "cache": "generation cache",
    "libraries": "libraries",
    "fragmentation": "fragmentation",
}
"""What each part is called."""


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
        norms: Names of the modules with one weight for each of their inputs.
        is_tied: Whether the head shares its weights with the embeddings.
        hidden_size, intermediate_size, num_layers, vocab_size: As in config.json; of a mixture the
            experts that a token is sent to count as one layer of their widths together.
        num_heads: Attention heads.
        query_width, key_width: Numbers per token of all queries, and of all keys.
        is_assumed: Whether there are no weights to read, so that Llama's layers were assumed.
    """

    parameters: int
    modules: tuple[tuple[str, int], ...]
    biases: tuple[tuple[str, int], ...]
    layers: tuple[tuple[str, int, int], ...]
    mixture: tuple[tuple[str, int, int], ...]
    tables: tuple[tuple[str, int, int], ...]
    norms: tuple[str, ...]
    is_tied: bool
    hidden_size: int
    intermediate_size: int
    num_layers: int
    vocab_size: int
    num_heads: int
    query_width: int
    key_width: int
    is_assumed: bool = False


@cached_by_stamp(maxsize=64)
def model_shape(folder: Path) -> Shape | None:
    """Read a model's shape from its files, or return None where they do not contain it.

    Without weights it is that of a Llama with the sizes of config.json.
    """
    try:
        about: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        shapes: Mapping[str, Sequence[int]] = tensor_shapes(folder)
        has_weights = any(folder.glob("*.safetensors"))
        if not has_weights:
            shapes = _assumed_shapes(about)
        elif not shapes:
            return None
        return _shape_of(about, shapes, is_assumed=not has_weights and not _is_llama(about))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error):
        return None


def shape_for(config: Config, folder: Path | None) -> Shape | None:
    """Return the shape of the model that a config trains, with the head that its method needs.

    Args:
        config: The config.
        folder: Folder of the base model, if it is described on this machine.
    """
    shape = model_shape(folder) if folder else None
    return method_of(config).with_head(shape) if shape else None


def shape_of_config(about: Mapping[str, Any]) -> Shape:
    """Return the shape of a model of Llama's layers with the sizes of a config.json.

    Raises:
        KeyError: The config lacks a size.
    """
    return _shape_of(about, _assumed_shapes(about), is_assumed=True)


def _shape_of(
    about: Mapping[str, Any], shapes: Mapping[str, Sequence[int]], *, is_assumed: bool
) -> Shape:
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
    heads = about.get("num_attention_heads") or about.get("num_heads") or max(1, hidden // 64)
    width = about.get("head_dim") or about.get("d_kv") or hidden // heads
    if is_tied and all(name != "lm_head" for name, *_ in tables):
        tables.append(("lm_head", vocabulary, hidden))
    return Shape(
        sum(sizes.values()),
        tuple((name.rpartition(".")[0], size) for name, size in sizes.items()),
        tuple((name[:-5], size) for name, size in sizes.items() if name.endswith(".bias")),
        tuple(layers),
        tuple(mixture),
        tuple(tables),
        tuple(
            name[:-7]
            for name, size in shapes.items()
            if len(size) == 1 and name.endswith(".weight")
        ),
        is_tied,
        hidden,
        _intermediate_size(about, hidden),
        about.get("num_hidden_layers") or about["num_layers"],
        vocabulary,
        heads,
        heads * width,
        (about.get("num_key_value_heads") or heads) * width,
        is_assumed,
    )


def _is_llama(about: Mapping[str, Any]) -> bool:
    """Whether the layers that are assumed are those of the model."""
    has_bias = about.get("attention_bias") or about.get("mlp_bias")
    return about.get("model_type") == "llama" and not has_bias


def _assumed_shapes(about: Mapping[str, Any]) -> dict[str, list[int]]:
    """Return the tensors that a model of Llama's layers and the sizes of a config.json would have.

    Raises:
        KeyError: The config lacks a size.
    """
    hidden = about.get("hidden_size") or about["d_model"]
    heads = about.get("num_attention_heads") or about["num_heads"]
    width = about.get("head_dim") or hidden // heads
    queries, keys = heads * width, (about.get("num_key_value_heads") or heads) * width
    inner = about.get("moe_intermediate_size") or about.get("intermediate_size") or 4 * hidden
    experts = about.get("num_local_experts") or about.get("num_experts") or 0
    inside = [f"mlp.experts.{n}" for n in range(experts)] or ["mlp"]
    shapes = {"model.embed_tokens.weight": [about["vocab_size"], hidden]}
    for number in range(about.get("num_hidden_layers") or about["num_layers"]):
        layer = f"model.layers.{number}"
        shapes |= {
            f"{layer}.self_attn.q_proj.weight": [queries, hidden],
            f"{layer}.self_attn.k_proj.weight": [keys, hidden],
            f"{layer}.self_attn.v_proj.weight": [keys, hidden],
            f"{layer}.self_attn.o_proj.weight": [hidden, queries],
            f"{layer}.input_layernorm.weight": [hidden],
            f"{layer}.post_attention_layernorm.weight": [hidden],
        }
        for name in inside:
            shapes |= {
                f"{layer}.{name}.gate_proj.weight": [inner, hidden],
                f"{layer}.{name}.up_proj.weight": [inner, hidden],
                f"{layer}.{name}.down_proj.weight": [hidden, inner],
            }
    shapes["model.norm.weight"] = [hidden]
    if not about.get("tie_word_embeddings"):
        shapes["lm_head.weight"] = [about["vocab_size"], hidden]
    return shapes


def _intermediate_size(about: Mapping[str, Any], hidden: int) -> int:
    """Return the width inside the feed-forward layers that a token passes through."""
    usual = about.get("intermediate_size") or about.get("d_ff") or 4 * hidden
    experts = about.get("num_experts_per_tok")
    return int(experts * (about.get("moe_intermediate_size") or usual) if experts else usual)


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

    kind = peft_type_of(config)
    assert kind is not None
    layers, names = layers_of_shape(shape), method_of(config).modules_to_save(config)
    saved = layers.inside({module for name in names for module in layers.named(name)})
    sizes = [
        *shape.modules,
        *((n, d * w) for n, d, w in shape.tables if n not in dict(shape.modules)),
    ]
    whole = sum(size for name, size in sizes if name in saved)
    added = {layer.name: layer.added for layer in adapter_layers(config, shape) if layer.added}
    biases = sum(
        n
        for name, n in shape.biases
        if "bias" in kind.settings
        and trains(name)
        and (peft.bias == "all" or (peft.bias == "lora_only" and name in added))
    )
    return (
        sum(added.values())
        + _of_experts(config, shape, added, layers)
        + whole
        + biases
        + kind.own_parameters(peft, shape.hidden_size)
    )


def _of_experts(config: Config, shape: Shape, added: Mapping[str, int], layers: Layers) -> int:
    """Count what LoRA adds to the experts and routers of a mixture."""
    peft = config.peft
    if peft.method != "lora":
        return 0
    mixed = config.quantization.weight_quantize_algo == "weight_only_mix"
    excluded = _excludes(config)
    targets = layers.targets(config)
    return sum(
        rank_of(peft, name) * (d_out + d_in + (d_out if name.endswith(_FUSED) else 0))
        for name, d_out, d_in in shape.mixture
        if name in targets
        and not excluded(name)
        and not (".experts." in name and mixed)  # PEFT adds no adapter to 4-bit experts
    )


def adapter_layers(config: Config, shape: Shape) -> list[LayerParameters]:
    """Return the layers that an adapter could change, each with the parameters that this one adds.

    Those are the linear layers and what else is named; the norms in LayerNorm tuning. Experts and
    routers of a mixture are left out.

    Args:
        config: The config.
        shape: The model's shape.
    """
    kind, peft = peft_type_of(config), config.peft
    if kind is None or not kind.adapts:
        return []
    layers = adaptable_layers(config, layers_of_shape(shape))
    saved = layers.inside({m for name in peft.modules_to_save for m in layers.named(name)})
    excluded = _excludes(config)
    targets = {
        n for n in layers.targets(config) - saved if n in layers.adaptable and not excluded(n)
    }
    looked_up = layers.embeddings
    if kind.adapts == "norms":
        sizes = dict(shape.modules)
        known = [(name, 1, sizes[name]) for name in sorted(layers.norms, key=_in_order)]
    else:
        known = [*shape.layers, *(table for table in shape.tables if table[0] in targets)]
    found = []
    for name, d_out, d_in in known:
        # An embedding maps a row of the table, its output, to the width, its input.
        ends = (d_in, d_out) if name in looked_up else (d_out, d_in)
        added = kind.parameters(peft, name, *ends) if name in targets else 0
        found.append(LayerParameters(name, d_out, d_in, added))
    return found


def _in_order(name: str) -> list[int | str]:
    """Return the parts of a name, so that layer 10 comes after layer 9."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _excludes(config: Config) -> Callable[[str], object]:
    """Return a function that tells whether a layer is kept from getting an adapter."""
    pattern = excluded_pattern(config)
    return re.compile(pattern).fullmatch if pattern else lambda _: None


def file_layers(config: Config) -> Layers | None:
    """Return the layers of a config's model as its files name them; None where they do not tell."""
    if config.model.model_type != "hf":
        return None
    folder = find_described(base_name(config), config.model.model_revision)
    shape = shape_for(config, folder)
    return layers_of_shape(shape) if shape and not shape.is_assumed else None


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
        frozenset(shape.norms),
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
    saved = trainable_parameters(config, shape) * (2 if changes_weights(config.peft) else 1)
    if config.peft.save_projection:
        saved += frozen_adapter_parameters(config, shape)
    return saved * 4 + whole * _BYTES[dtype]


def frozen_adapter_parameters(config: Config, shape: Shape) -> int:
    """Count the parameters that an adapter adds and does not train."""
    kind = peft_type_of(config)
    if kind is None or adapter_of(config) is not None:
        return 0
    sizes = [(one.d_out, one.d_in) for one in adapter_layers(config, shape) if one.added]
    return kind.frozen_parameters(config.peft, sizes)


def _is_named(name: str, targets: Sequence[str]) -> bool:
    """Whether one of some names matches a layer, as in PEFT: its full name or the end of it."""
    return any(name == target or name.endswith(f".{target}") for target in targets)


def memory_bytes(
    config: Config, shape: Shape, lengths_tokens: Sequence[int], decisions: Decisions
) -> int:
    """Estimate the peak memory of a run; see `memory_parts`."""
    return sum(memory_parts(config, shape, lengths_tokens, decisions).values())


def margin_bytes(parts: Mapping[str, int]) -> int:
    """Return how far an estimate by parts may be off, all of them in the same direction."""
    return round(sum(MARGINS[name] * size for name, size in parts.items()))


def memory_parts(
    config: Config, shape: Shape, lengths_tokens: Sequence[int], decisions: Decisions
) -> dict[str, int]:
    """Estimate what takes memory at the fullest moment of a run, by the names of `MARGINS`.

    That is when the loss has been computed and all activations are kept; or, where all weights are
    trained, the end of the backward pass, when each has its gradient; or generation, which needs no
    gradients but keeps keys and values.

    Args:
        config: The config.
        shape: The model's shape.
        lengths_tokens: Lengths of some training sequences.
        decisions: What it leads to on this machine; on a CPU the libraries are included.

    Returns:
        Bytes; parts of size 0 are left out.
    """
    device, dtype = decisions.device.value, decisions.dtype.value
    width = _BYTES[dtype]
    trained = trainable_parameters(config, shape)
    is_mixed = decisions.mixed_precision.value != "no" and width > 2
    low = 2 if is_mixed else width
    row_tokens = _row_tokens(config, lengths_tokens, decisions) + virtual_tokens(config)
    tokens = _batch_tokens(config, row_tokens)
    is_adapted = config.peft.trains_adapter
    parts = {
        "weights": weight_bytes(config, shape, dtype),
        "adapter": (trained + frozen_adapter_parameters(config, shape)) * 4 if is_adapted else 0,
        "optimizer": 0 if _is_offloaded(config, device) else trained * state_bytes(config),
        "reference": int(method_of(config).memory_bytes(config, shape, trained)),
        "libraries": LIBRARIES_BYTES if device == "cpu" else _CONTEXT_BYTES,
    }
    kept = _kept_bytes(config, shape, decisions, row_tokens, low)
    matrices = sum(d_out * d_in for _, d_out, d_in in shape.layers)
    if device == "cpu" and config.quantization.bits is not None:
        parts["weights"] += 2 * matrices  # their file stays mapped
    head = 0 if method_of(config).scores_answers else shape.vocab_size * shape.hidden_size
    gradients = trained * 4
    keeps_gradients = (
        config.training.gradient_accumulation_steps > 1 or not config.memory.release_grads
    )
    after_loss = {
        "gradients": gradients if keeps_gradients or is_adapted else 0,
        "activations": int(tokens * (kept + _scores_bytes(shape, decisions, row_tokens, low))),
        "head": int(_head_bytes(config, shape, decisions, tokens, low)),
        "autocast": (matrices + head) * 2 if is_mixed else 0,
    }
    a_layer = replace(shape, num_layers=1)
    after_backward = {
        "gradients": gradients,
        "activations": int(tokens * _kept_bytes(config, a_layer, decisions, row_tokens, low)),
        "autocast": after_loss["autocast"] // max(1, shape.num_layers),
    }
    generating = {"cache": _cache_bytes(config, shape, row_tokens, low)}
    moments: tuple[dict[str, int], ...] = (after_loss, after_backward, generating)
    fullest = max(moments, key=lambda moment: sum(moment.values()))
    parts |= fullest
    if config.distributed.processes > 1:
        parts |= _of_several(config, shape, parts, trained, device)
    made = tokens * _kept_bytes(_keeping_all(config), shape, decisions, row_tokens, low)
    made += after_loss["head"] + after_loss["autocast"]
    parts["fragmentation"] = _fragmentation_bytes(device, made, low, head)
    return {name: parts[name] for name in MARGINS if parts.get(name)}


def _of_several(
    config: Config, shape: Shape, parts: Mapping[str, int], trained: int, device: str
) -> dict[str, int]:
    """Return what changes in a process that trains with others.

    A copy of the model has its gradients once more, in the buckets that are exchanged. Of a shard,
    weights are gathered to compute: layer by layer embeddings, head and two layers, one of which is
    fetched ahead; otherwise all. The gradients of what is gathered at once are there twice, too. On
    a CPU the model is read whole, and what is freed then stays with the process.
    """
    ours = config.distributed
    if not ours.shards:
        return {"gradients": parts.get("gradients", 0) + 4 * trained}
    tables = sum(rows * width for _, rows, width in shape.tables) // (2 if shape.is_tied else 1)
    of_tables, size = tables / shape.parameters, ours.processes_per_copy
    of_layers = (1 - of_tables) / ours.alike  # tables are not split, nor half of an adapter
    of_weights = (of_tables + of_layers) * ours.alike / size
    of_adapter = (ours.alike + 1) / (2 * size)
    of_trained = of_adapter if "adapter" in parts else of_weights
    shares = {"weights": of_weights, "adapter": of_adapter}
    changed = {
        name: math.ceil(parts.get(name, 0) * shares.get(name, of_trained))
        for name in ("weights", "adapter", "gradients", "optimizer")
    }
    of_a_layer = of_layers / max(1, shape.num_layers)
    at_once, unit = of_tables + 2 * of_a_layer, max(of_tables, of_a_layer)
    if ours.fsdp_auto_wrap_policy == "NO_WRAP":
        at_once = unit = of_tables + of_layers
    elif ours.shards != "weights":
        at_once = of_tables + of_layers
    weights = parts["weights"] + parts.get("adapter", 0)
    read = weights if device == "cpu" else 0
    changed["gathered"] = round(weights * min(1.0, at_once) + 2 * 4 * trained * unit) + read
    return changed


def virtual_tokens(config: Config) -> int:
    """Return the tokens that an adapter puts in front of each row."""
    kind = peft_type_of(config)
    return config.peft.num_virtual_tokens if kind is not None and kind.changes_rows else 0


def _row_tokens(config: Config, lengths: Sequence[int], decisions: Decisions) -> float:
    """Return the tokens of a row of the largest batches: as long as the longest twentieth."""
    longest = sorted(lengths)[-max(1, len(lengths) // 20) :]
    row_tokens = sum(longest) / len(longest) if longest else config.data.max_length
    if decisions.padding_free and lengths:  # nothing is padded to the longest row of a batch
        row_tokens = (sum(lengths) / len(lengths) + row_tokens) / 2
    (limit,) = method_of(config).trained_lengths(config, [config.data.max_length])
    return min(row_tokens, limit)


def fullest_batch(config: Config, lengths: Sequence[int], decisions: Decisions) -> list[int]:
    """Return the tokens of each row of the fullest batch."""
    a_row = max(1, round(_row_tokens(config, lengths, decisions)))
    return [a_row] * max(1, round(_batch_tokens(config, a_row) / a_row))


def _batch_tokens(config: Config, row_tokens: float) -> float:
    if (budget := config.data.max_tokens_per_batch) is not None:
        return max(budget, row_tokens)
    rows = config.training.per_device_train_batch_size
    return rows * len(method_of(config).sequences) * row_tokens


def _kept_bytes(
    config: Config, shape: Shape, decisions: Decisions, row_tokens: float, low: int
) -> float:
    """Return the bytes that all layers keep per token for the backward pass.

    With autocast the residual stream, and so what the norms keep, stays in float32, and each
    projection keeps a 16-bit copy of its input. A LoRA layer of PEFT's own keeps a float32 copy for
    each projection; the fused one keeps the input once. Recomputed activations exist for one layer
    at a time.

    Args:
        config: The config.
        shape: The model's shape.
        decisions: Which parts of the fast path are used.
        row_tokens: Tokens of a row.
        low: Bytes of a number in the products.
    """
    hidden, inner, queries = shape.hidden_size, shape.intermediate_size, shape.query_width
    stream = _BYTES[decisions.dtype.value]
    if decisions.uses("lean_norm"):
        norms = 2 * stream * hidden
    else:
        norms = 2 * (4 + (0 if config.peft.trains_adapter else stream)) * hidden
    is_shared = decisions.uses("fused_lora") or stream == low == 4
    kind = peft_type_of(config)
    is_shared |= kind is not None and kind.adapts != "linear"  # the layers compute as ever
    if is_shared or (stream == low and not config.peft.trains_adapter):
        inputs, feed_forward = low * (hidden + queries), low * (hidden + inner)
    else:  # query, key and value; gate and up
        copy = 4 if stream == low else low
        inputs, feed_forward = copy * (3 * hidden + queries), copy * (2 * hidden + inner)
    core = _attention_bytes(config, shape, decisions, row_tokens, low)
    attention = inputs + core
    feed_forward += 3 * low * inner  # the gate, its activation and the factor
    a_layer = norms + attention + feed_forward
    between = stream * hidden
    memory = config.memory
    if not memory.gradient_checkpointing:
        return shape.num_layers * a_layer + between
    again = {"full": a_layer, "full_attn": attention, "core_attn": core}[
        memory.recompute_granularity
    ]
    return shape.num_layers * (a_layer - again + between) + again


def _attention_bytes(
    config: Config, shape: Shape, decisions: Decisions, row_tokens: float, low: int
) -> float:
    """Return the bytes per token that softmax(q k') v keeps: q, k, v, and its result or weights."""
    queries, keys = shape.query_width, shape.key_width
    if not decisions.uses("row_attention"):
        is_eager = config.model.attn_implementation == "eager"
        weights = shape.num_heads * row_tokens * (low + 4) if is_eager else 0
        return low * (3 * queries + queries) + weights  # keys and values are repeated for each head
    if decisions.device.value == "cpu" and row_tokens <= SHORT_ROW_TOKENS:
        padded = _padded(row_tokens)
        a_token = low * (queries + 2 * keys + shape.num_heads * padded)
        return a_token * padded / max(1, row_tokens)
    return low * (2 * queries + 2 * keys)  # FlashAttention keeps no weights


def _scores_bytes(shape: Shape, decisions: Decisions, row_tokens: float, low: int) -> float:
    """Return the bytes per token of the scores of one layer, from which its weights are made."""
    is_grouped = decisions.uses("row_attention") and decisions.device.value == "cpu"
    if not is_grouped or row_tokens > SHORT_ROW_TOKENS:
        return 0.0
    return low * shape.num_heads * _padded(row_tokens) ** 2 / max(1, row_tokens)


def _padded(row_tokens: float) -> float:
    """Return the tokens of a row that attends together with others."""
    return -(-row_tokens // GROUP_STEP_TOKENS) * GROUP_STEP_TOKENS


def _head_bytes(
    config: Config, shape: Shape, decisions: Decisions, tokens: float, low: int
) -> float:
    """Return the bytes that the head and the loss need at a time, beyond the activations.

    On the fast path a few tokens' logits; in TRL's own head a tile of 4,096 tokens and 32,768 words,
    whose shares are computed in seven float32 copies on a CPU and in place on a GPU; in the plain
    trainer all logits, in float32 too, with their softmax and its gradient.
    """
    if method_of(config).scores_answers:  # a number for each answer
        return 0.0
    vocabulary, hidden = shape.vocab_size, shape.hidden_size
    states = 2 * low * hidden * tokens
    trains_head = config.peft.method == "full"
    if decisions.uses("label_head"):
        chunk = float(min(tokens, FAST_CHUNK_TOKENS))
        logits = vocabulary * (chunk * low + EXACT_CHUNK_TOKENS * 4)
        if trains_head:  # its gradient, from a chunk's shares in float32
            logits = vocabulary * (hidden * (4 + low) + chunk * (low + 8))
        return states + logits
    if method_of(config).takes_peft_config:
        tile = min(tokens, 4096) * min(vocabulary, 32_768)
        in_float32 = 28 * tile if decisions.device.value == "cpu" else 0
        of_head = 4 * vocabulary * hidden if trains_head else 0
        return states + low * tile + in_float32 + of_head
    return states + tokens * vocabulary * (low + 4 * 4)


def _cache_bytes(config: Config, shape: Shape, row_tokens: float, low: int) -> int:
    """Return the bytes of the keys and values that answering keeps; 0 if nothing is answered."""
    evaluation = config.evaluation
    rows = max(
        evaluation.per_device_generation_batch_size * bool(metrics_of(config)),
        sampled_prompts(config),
        method_of(config).answers_at_once(config),
    )
    tokens = row_tokens + evaluation.sample_max_new_tokens
    return int(rows * tokens * 2 * shape.key_width * shape.num_layers * low)


def _keeping_all(config: Config) -> Config:
    """Return a config that recomputes nothing."""
    return config.model_copy(update={"memory": type(config.memory)()})


def _fragmentation_bytes(device: str, made: float, low: int, head: int) -> int:
    """Return the memory of an allocator between and beside the tensors of a step.

    Args:
        device: On a CPU 16-bit products need a reordered copy of their largest matrix.
        made: Bytes of what a step makes.
        low: Bytes of a number in the products.
        head: Weights of the head of logits, the largest matrix; 0 without one.
    """
    if device != "cpu":
        return int(_GPU_HOLES * made)
    reordered = head * low if low == 2 else 0
    return int(reordered + HOLES * made)


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
