"""What the plan decides on the machines that people have; docs/hardware.md has all of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from nbft.decisions import decide
from nbft.hardware import planning_for
from nbft.models.quantize import bitsandbytes_arguments
from nbft.plan.machines import MACHINES, METHODS, SIZES, advice, decided, plans

PAGE = Path(__file__).parents[3] / "docs" / "hardware.md"


def test_the_page_is_as_the_code_makes_it():
    """It pins memory and advice of each combination; a process of its own has no other keys."""
    command = [sys.executable, "-m", "nbft.plan.machines"]
    made = subprocess.run(command, capture_output=True, encoding="utf-8", check=True).stdout
    assert PAGE.read_text(encoding="utf-8") == made, "make docs writes it anew"


OLD = (
    ("float16 fp16 float32", "joined", "row by row", "padding_free row_attention lean_norm"),
    ("float16 fp16 float32", "joined", "row by row", "padding_free row_attention lean_norm"),
    ("float32 fp16 float32", "joined", "row by row", "padding_free row_attention lean_norm"),
)
NEW = (
    (
        "bfloat16 no float32",
        "joined",
        "FlashAttention",
        "padding_free row_attention fused_lora lean_norm",
    ),
    (
        "bfloat16 no bfloat16",
        "joined",
        "FlashAttention",
        "padding_free row_attention fused_lora lean_norm",
    ),
    ("float32 bf16 float32", "joined", "FlashAttention", "padding_free row_attention lean_norm"),
)
PADDED = (
    ("bfloat16 no float32", "padded", "torch's, with a mask", "fused_lora"),
    ("bfloat16 no bfloat16", "padded", "torch's, with a mask", "fused_lora"),
    ("float32 bf16 float32", "padded", "torch's, with a mask", "none"),
)
ALL = "padding_free row_attention label_head fused_lora lean_norm"
ALL_BUT_LORA = "padding_free row_attention label_head lean_norm"
PROCESSOR = (
    ("bfloat16 no float32", "joined", "row by row", ALL),
    ("bfloat16 no bfloat16", "joined", "row by row", ALL),
    ("float32 bf16 float32", "joined", "row by row", ALL_BUT_LORA),
)
OLD_PROCESSOR = (
    ("float32 no float32", "joined", "row by row", ALL),
    ("float32 no float32", "joined", "row by row", ALL),
    ("float32 no float32", "joined", "row by row", ALL_BUT_LORA),
)

EXPECTED = {
    "Tesla T4, 16 GB (Colab)": ("cuda (Tesla T4 was found)", OLD),
    "Two Tesla T4, 16 GB each (Kaggle)": ("cuda (Tesla T4 was found; one of 2 is used)", OLD),
    "Tesla P100, 16 GB (Kaggle)": ("cuda (Tesla P100-PCIE-16GB was found)", OLD),
    "RTX 3060, 12 GB": ("cuda (NVIDIA GeForce RTX 3060 was found)", NEW),
    "L4, 24 GB": ("cuda (NVIDIA L4 was found)", NEW),
    "RTX 4090, 24 GB": ("cuda (NVIDIA GeForce RTX 4090 was found)", NEW),
    "A100, 40 GB": ("cuda (NVIDIA A100-SXM4-40GB was found)", NEW),
    "A100, slice of 20 GB (MIG 3g.20gb)": (
        "cuda (NVIDIA A100-SXM4-40GB MIG 3g.20gb was found)",
        NEW,
    ),
    "A100, 80 GB": ("cuda (NVIDIA A100-SXM4-80GB was found)", NEW),
    "H100, 80 GB": ("cuda (NVIDIA H100 80GB HBM3 was found)", NEW),
    "H200, 141 GB": ("cuda (NVIDIA H200 was found)", NEW),
    "MI300X, 192 GB (ROCm)": ("cuda (AMD Instinct MI300X was found)", NEW),
    "Arc A770, 16 GB": ("xpu (an Intel GPU was found)", PADDED),
    "Apple M2, 16 GB": ("mps (an Apple GPU was found)", PADDED),
    "Processor with 2 cores and 8 GB": ("cpu (no GPU was found)", PROCESSOR),
    "Binder, 2 GB": ("cpu (no GPU was found)", OLD_PROCESSOR),
}
MACHINE = {machine.title: machine for machine in MACHINES}


def test_every_machine_is_expected_to_be_something():
    assert MACHINE.keys() == EXPECTED.keys()


@pytest.mark.parametrize("title", EXPECTED)
def test_what_is_decided(title):
    device, methods = EXPECTED[title]
    for (method, _), plan in plans(MACHINE[title]).items():
        numbers, rows, attention, parts = methods[list(METHODS).index(method)]
        found = decided(plan)
        assert str(plan.device) == device
        assert " ".join(list(found.values())[:3]) == numbers, method
        assert (found["rows"], found["fast path"]) == (rows, ", ".join(parts.split()))
        assert found["attention"].startswith(attention)
        assert found["optimiser"] == "adamw_torch_fused, 8 bytes a parameter"


@pytest.mark.parametrize("title", EXPECTED)
def test_what_does_not_fit_is_said_and_what_fits_is_not(title):
    for plan in plans(MACHINE[title]).values():
        said = [p for p in plan.problems if p.field == "training.per_device_train_batch_size"]
        assert plan.free_memory_bytes == (MACHINE[title].gpus or (MACHINE[title],))[0].free_bytes
        assert bool(said) == (plan.memory_bytes > plan.free_memory_bytes)


def test_four_bits_are_not_proposed_where_nothing_computes_them():
    found = plans(MACHINE["Apple M2, 16 GB"])
    assert "bitsandbytes runs on cpu, cuda and xpu" in " ".join(advice(found["4-bit LoRA", "8B"]))
    assert not any("QLoRA" in text for plan in found.values() for text in advice(plan))


def test_four_bits_compute_in_float16_on_an_old_gpu():
    plan = plans(MACHINE["Tesla T4, 16 GB (Colab)"])["4-bit LoRA", "8B"]
    arguments = bitsandbytes_arguments(plan.config, plan.dtype.value)
    assert arguments["bnb_4bit_compute_dtype"] == "float16"
    assert "The adapter on the quantised weights is trained in float32." in plan.remarks


def test_all_gpus_are_used_by_a_model_that_is_spread_over_them():
    machine = MACHINE["Two Tesla T4, 16 GB each (Kaggle)"]
    config = plans(machine)["LoRA", "1B"].config.apply({"model.device_map": "auto"})
    with planning_for(machine):
        assert decide(config).device.reason == (
            "Tesla T4 was found; model.device_map spreads the layers over 2 of them"
        )


@pytest.mark.parametrize(
    ("title", "parameters"),
    [
        ("135M", 134_515_008),
        ("1B", 1_235_814_400),
        ("8B", 8_030_261_248),
        ("32B", 32_763_876_352),
    ],
)
def test_the_sizes_are_those_of_the_models(title, parameters):
    """As their cards on the hub say."""
    (plan,) = {p.total_parameters for (_, t), p in plans(MACHINES[0]).items() if t == title}
    assert plan == parameters
    assert title in [one.title for one in SIZES]
