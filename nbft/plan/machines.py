"""Machines that people have, and what the plan decides on each.

`python -m nbft.plan.machines` prints docs/hardware.md. All of it comes from `make_plan`, for each
machine, method and size of model; nothing is measured, no weights are read and torch is not loaded.
"""

from __future__ import annotations

import functools
import json
import math
import struct
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbft.config import Config
from nbft.decisions import PARTS, Decisions, adapter_dtype
from nbft.devices import Gpu
from nbft.formatting import size
from nbft.hardware import Hardware, planning_for
from nbft.plan.memory import state_bytes
from nbft.plan.plan import Plan, make_plan

_GIB = 2**30


def _machine(
    title: str, name: str, free_gib: float, capability: tuple[int, int], n: int = 1
) -> Hardware:
    gpus = (Gpu(name, round(free_gib * _GIB), capability),) * n
    return Hardware(title, 48 * _GIB, "cuda", gpus)


MACHINES: tuple[Hardware, ...] = (
    _machine("Tesla T4, 16 GB (Colab)", "Tesla T4", 14.6, (7, 5)),
    _machine("Two Tesla T4, 16 GB each (Kaggle)", "Tesla T4", 14.6, (7, 5), 2),
    _machine("Tesla P100, 16 GB (Kaggle)", "Tesla P100-PCIE-16GB", 15.8, (6, 0)),
    _machine("RTX 3060, 12 GB", "NVIDIA GeForce RTX 3060", 11.5, (8, 6)),
    _machine("L4, 24 GB", "NVIDIA L4", 22.0, (8, 9)),
    _machine("RTX 4090, 24 GB", "NVIDIA GeForce RTX 4090", 23.5, (8, 9)),
    _machine("A100, 40 GB", "NVIDIA A100-SXM4-40GB", 39.2, (8, 0)),
    _machine(
        "A100, slice of 20 GB (MIG 3g.20gb)", "NVIDIA A100-SXM4-40GB MIG 3g.20gb", 19.4, (8, 0)
    ),
    _machine("A100, 80 GB", "NVIDIA A100-SXM4-80GB", 78.7, (8, 0)),
    _machine("H100, 80 GB", "NVIDIA H100 80GB HBM3", 78.7, (9, 0)),
    _machine("H200, 141 GB", "NVIDIA H200", 139.0, (9, 0)),
    _machine("MI300X, 192 GB (ROCm)", "AMD Instinct MI300X", 191.0, (9, 4)),
    Hardware("Arc A770, 16 GB", 24 * _GIB, "xpu", (Gpu("an Intel GPU", 15 * _GIB, (0, 0)),)),
    Hardware(
        "Apple M2, 16 GB", 10 * _GIB, "mps", (Gpu("an Apple GPU", 10 * _GIB, (0, 0)),), macos=14
    ),
    Hardware("Processor with 2 cores and 8 GB", 6 * _GIB, bfloat16="avx512_bf16"),
    Hardware("Binder, 2 GB", round(1.7 * _GIB)),
)
"""What of its memory is free on an otherwise idle machine is an assumption."""


@dataclass(frozen=True)
class Size:
    """A size of model, by the shape of a well-known one; hidden_size and so on as in config.json."""

    title: str
    model_type: str
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    vocab_size: int
    tie_word_embeddings: bool = False

    @property
    def shapes(self) -> dict[str, list[int]]:
        """The shape of every tensor."""
        hidden, inner = self.hidden_size, self.intermediate_size
        keys = hidden // self.num_attention_heads * self.num_key_value_heads
        found = {
            "model.embed_tokens.weight": [self.vocab_size, hidden],
            "model.norm.weight": [hidden],
        }
        if not self.tie_word_embeddings:
            found["lm_head.weight"] = [self.vocab_size, hidden]
        layer = {
            "input_layernorm.weight": [hidden],
            "post_attention_layernorm.weight": [hidden],
            **{f"mlp.{name}_proj.weight": [inner, hidden] for name in ("gate", "up")},
            "mlp.down_proj.weight": [hidden, inner],
        }
        for name, width in (("q", hidden), ("k", keys), ("v", keys)):
            layer[f"self_attn.{name}_proj.weight"] = [width, hidden]
            if self.model_type == "qwen2":
                layer[f"self_attn.{name}_proj.bias"] = [width]
        layer["self_attn.o_proj.weight"] = [hidden, hidden]
        for number in range(self.num_hidden_layers):
            found |= {f"model.layers.{number}.{name}": shape for name, shape in layer.items()}
        return found

    def write(self, folder: Path) -> None:
        """Write the config.json and the header of the weights, without the weights."""
        about = {name: value for name, value in vars(self).items() if name != "title"}
        (folder / "config.json").write_text(json.dumps(about), encoding="utf-8")
        header: dict[str, Any] = {}
        end = 0
        for name, shape in self.shapes.items():
            begin, end = end, end + 2 * math.prod(shape)
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [begin, end]}
        written = json.dumps(header).encode()
        content = struct.pack("<Q", len(written)) + written
        (folder / "model.safetensors").write_bytes(content)


SIZES: tuple[Size, ...] = (
    Size("135M", "llama", 576, 1536, 30, 9, 3, 49_152, tie_word_embeddings=True),
    Size("1B", "llama", 2048, 8192, 16, 32, 8, 128_256, tie_word_embeddings=True),
    Size("8B", "llama", 4096, 14_336, 32, 32, 8, 128_256),
    Size("32B", "qwen2", 5120, 27_648, 64, 40, 8, 152_064),
)
"""SmolLM2-135M, Llama 3.2 1B, Llama 3.1 8B and Qwen2.5 32B."""

METHODS: dict[str, dict[str, Any]] = {
    "LoRA": {},
    "4-bit LoRA": {"quantization.load_in_4bit": True},
    "full": {"peft.method": "full", "training.learning_rate": 2e-5},
}
"""Method → its settings."""

_ROW_TOKENS, _BATCH = 512, 8
"""What advice depends on most; said on the page."""


@functools.cache
def plans(machine: Hardware) -> dict[tuple[str, str], Plan]:
    """Return the plan of each method and size on a machine."""
    found = {}
    with tempfile.TemporaryDirectory() as folder, planning_for(machine):
        for model in SIZES:
            path = Path(folder) / model.title
            path.mkdir()
            model.write(path)
            for method, changes in METHODS.items():
                found[method, model.title] = make_plan(_config(path).apply(changes))
    return found


def _config(model: Path) -> Config:
    text = "word" * (_ROW_TOKENS // 2)  # without a tokenizer four characters are a token
    rows = [{"prompt": text, "completion": text}] * 64
    batch = {"per_device_train_batch_size": _BATCH, "gradient_accumulation_steps": 1}
    return Config(model={"model_name": str(model)}, data={"rows": rows}, training=batch)


def advice(plan: Plan) -> list[str]:
    """Return what the plan advises for its machine; sentences."""
    of_memory = "training.per_device_train_batch_size"
    return [
        problem.fix if problem.field == of_memory else str(problem)
        for problem in plan.problems
        if problem.field.startswith(("compute.", "precision.", "model.dtype", "memory.", of_memory))
    ]


def page() -> str:
    """Return docs/hardware.md."""
    sizes = [model.title for model in SIZES]
    lines = [_INTRODUCTION]
    for machine in MACHINES:
        found = plans(machine)
        first = next(iter(found.values()))
        lines += [
            f"## {machine.title}",
            "",
            f"Device: {first.device}. Free memory: {size(first.free_memory_bytes)}.",
            "",
            "| method | weights | mixed precision | trained in | rows | attention | fast path | optimiser |",
            "|---|---|---|---|---|---|---|---|",
        ]
        for method in METHODS:
            lines.append(_row(method, *decided(found[method, sizes[0]]).values()))
        lines += ["", _row("method", *sizes), "|---" * (len(sizes) + 1) + "|"]
        for method in METHODS:
            lines.append(_row(method, *(_memory(found[method, title]) for title in sizes)))
        lines.append("")
    return "\n".join(lines)


def decided(plan: Plan) -> dict[str, str]:
    """Return what a plan decides for its machine, in words."""
    decisions, config = plan.decisions, plan.config
    trained = (
        adapter_dtype(config, decisions.dtype.value) if config.peft.trains_adapter else "float32"
    )
    return {
        "weights": decisions.dtype.value,
        "mixed precision": decisions.mixed_precision.value,
        "trained in": trained,
        "rows": "joined" if decisions.padding_free else "padded",
        "attention": _attention(decisions),
        "fast path": ", ".join(part for part in PARTS if decisions.uses(part)) or "none",
        "optimiser": f"{config.optimizer.optim}, {state_bytes(config)} bytes a parameter",
    }


def _attention(decisions: Decisions) -> str:
    if not decisions.uses("row_attention"):
        return "torch's, with a mask"
    at_once = (
        decisions.device.value == "cuda"
        and "one row" not in decisions.parts["row_attention"].reason
    )
    return "FlashAttention within rows" if at_once else "row by row"


def _memory(plan: Plan) -> str:
    advised = advice(plan)
    words = size(plan.memory_bytes or 0)
    return f"{words}. {' '.join(advised)}" if advised else words


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


_INTRODUCTION = f"""# What the plan decides on which machine

Made by `make docs` from `nbft/plan/machines.py`; `nbft config check` shows the same for your own
machine. These are decisions and estimates of the plan. Nothing on this page is a measurement, and no
run has been made on these GPUs. Free memory is an assumption about an otherwise idle machine.

Rows have {_ROW_TOKENS} tokens, a batch has {_BATCH} rows, and other settings are the defaults. The models have the
shapes of SmolLM2-135M, Llama 3.2 1B, Llama 3.1 8B and Qwen2.5 32B.

- A GPU without bfloat16 (compute capability below 8.0) trains in float16 with a scaled loss. The frozen
  weights are float16; the adapter, its gradients, the optimiser and the sums between layers are float32.
- A run sees one GPU. `model.device_map` spreads a model over all of them.
- PyTorch built for CUDA 12.8 or newer has no kernels for compute capability 6, and from CUDA 13 on none
  below 7.5. Install a build for CUDA 12.6 there.
- A size without advice fits. “Use 4” is a batch size.
- “Row by row” and FlashAttention grow with the number of rows in a batch, not with its square.
"""


if __name__ == "__main__":
    sys.stdout.write(page())
