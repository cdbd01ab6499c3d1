"""How many parameters a run trains, and the memory and time it will take: estimates.

Shapes are read from config.json and from the headers of the safetensors files, so the model is
not loaded. Called by `make_plan`.
"""

from __future__ import annotations

import functools
import json
import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbft.config import Config

_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
_LIBRARIES_BYTES = 1900 * 2**20
"""torch, transformers, TRL and what the allocator does not give back, in a process on a CPU.
Measured with torch 2.13 on 2 cores."""

_CPU_FLOPS_PER_CORE = {"bfloat16": 60e9, "float32": 25e9}
"""Measured with the SFTTrainer of TRL 1.16 on SmolLM2-135M, AMD Zen 4, padding-free."""


@dataclass(frozen=True)
class Shape:
    """The shape of a model.

    Attributes:
        parameters: All of them.
        modules: (name, parameters) of each part that has weights.
        layers: (name, d_out, d_in) of each linear layer but the head and the embeddings.
        hidden_size, intermediate_size, num_layers, vocab_size: As in config.json.
    """

    parameters: int
    modules: tuple[tuple[str, int], ...]
    layers: tuple[tuple[str, int, int], ...]
    hidden_size: int
    intermediate_size: int
    num_layers: int
    vocab_size: int


@functools.lru_cache(maxsize=16)
def model_shape(folder: Path) -> Shape | None:
    """Read a model's shape from its files, or return None where they do not say it."""
    try:
        about: dict[str, Any] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        shapes: dict[str, list[int]] = {}
        for file in sorted(folder.glob("*.safetensors")):
            with file.open("rb") as stream:
                length = struct.unpack("<Q", stream.read(8))[0]
                if length > file.stat().st_size:
                    return None
                header = json.loads(stream.read(length))
            shapes |= {k: v["shape"] for k, v in header.items() if k != "__metadata__"}
        if not shapes:
            return None
        sizes = {name: math.prod(shape) for name, shape in shapes.items()}
        if about.get("tie_word_embeddings") and "lm_head.weight" in sizes:
            del sizes["lm_head.weight"]  # stored, but the same numbers as the embeddings
        layers = []
        for name, shape in shapes.items():
            outside = ("embed" in name) or ("lm_head" in name) or ("wte" in name)
            if len(shape) == 2 and name.endswith(".weight") and not outside:
                layers.append((name.removesuffix(".weight"), shape[0], shape[1]))
        return Shape(
            sum(sizes.values()),
            tuple((name.rpartition(".")[0], size) for name, size in sizes.items()),
            tuple(layers),
            about["hidden_size"],
            about.get("intermediate_size", 4 * about["hidden_size"]),
            about["num_hidden_layers"],
            about["vocab_size"],
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error):
        return None


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
    """Count what a run trains: every parameter, or the adapter's."""
    if config.peft.method == "full":
        return shape.parameters
    targets = config.peft.target_modules
    everything = "all-linear" in targets
    chosen = [
        (d_out, d_in)
        for name, d_out, d_in in shape.layers
        if everything or _is_named(name, targets)
    ]
    magnitudes = sum(d_out for d_out, _ in chosen) if config.peft.use_dora else 0
    whole = sum(n for name, n in shape.modules if _is_named(name, config.peft.modules_to_save))
    return adapter_parameters(chosen, config.peft.r) + magnitudes + whole


def _is_named(name: str, targets: Sequence[str]) -> bool:
    """Whether a layer is meant by one of some names, as PEFT reads them: whole or by its end."""
    return any(name == target or name.endswith(f".{target}") for target in targets)


def memory_bytes(
    config: Config, shape: Shape, lengths_tokens: Sequence[int], device: str, dtype: str
) -> int:
    """Estimate the most memory that a run holds at once.

    Weights, then for each trained parameter a gradient and two moments of Adam, then the
    activations of one micro-batch and the scores over the vocabulary. For SmolLM2-135M with LoRA
    on a CPU it says 2.5 GiB where 2.5 were measured (4 rows of 80 tokens), 2.9 where 2.9 were (8).

    Args:
        config: The config.
        shape: The model's shape.
        lengths_tokens: Lengths of some training rows.
        device: "cpu" counts the libraries too.
        dtype: Number type of the weights.
    """
    width = _BYTES[dtype]
    trained = trainable_parameters(config, shape)
    weights = shape.parameters * width
    if config.peft.method == "lora":
        weights += trained * 4
    optimiser = trained * (4 + {"adamw_8bit": 2, "sgd": 0, "adafactor": 1}.get(_optim(config), 8))
    longest = sorted(lengths_tokens)[-max(1, len(lengths_tokens) // 20) :]
    batch = config.training.per_device_train_batch_size
    row_tokens = sum(longest) / len(longest) if longest else config.data.max_length
    if config.data.padding_free and lengths_tokens:
        row_tokens = (sum(lengths_tokens) / len(lengths_tokens) + row_tokens) / 2
    tokens = batch * min(row_tokens, config.data.max_length)
    # Kept for the backward pass in each layer, in numbers a token: inputs of the norms and of the
    # seven projections, the attention's result, the gated product and its two factors.
    a_layer = 10 * shape.hidden_size + 4 * shape.intermediate_size
    layers = 1 if config.memory.gradient_checkpointing else shape.num_layers
    # An adapter keeps its own float32 copy of what goes into a 16-bit layer.
    if config.peft.method == "lora" and width == 2:
        width = 4
    kept = tokens * width * (layers * a_layer + shape.num_layers * shape.hidden_size)
    scores = min(tokens, 4096) * min(shape.vocab_size, 32_768) * 4 * 2
    libraries = _LIBRARIES_BYTES if device == "cpu" else 500 * 2**20
    return int(weights + optimiser + kept + scores + libraries)


def _optim(config: Config) -> str:
    return config.optimizer.optim.replace("paged_", "").replace("adamw_32bit", "adamw_torch")


def training_seconds(
    config: Config, shape: Shape, tokens: int, device: str, dtype: str, cores: int
) -> int | None:
    """Estimate the time of the training steps on a CPU; None where nothing was measured.

    Args:
        config: The config.
        shape: The model's shape.
        tokens: Tokens that all steps see together.
        device: Only "cpu" is known before the first step.
        dtype: Number type of the weights.
        cores: Cores that compute.
    """
    if device != "cpu":
        return None
    padding = 1.0 if config.data.padding_free else 1.9
    again = 1.25 if config.memory.gradient_checkpointing else 1.0
    speed = _CPU_FLOPS_PER_CORE.get(dtype, 25e9) * cores
    return round(6 * shape.parameters * tokens * padding * again / speed) + 10
