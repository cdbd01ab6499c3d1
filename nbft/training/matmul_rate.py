"""The rate at which this machine multiplies matrices, measured in a tenth of a second by each run.

The plan estimates times by it, and on a CPU chooses the number type; see `nbft.matmul_rate`. Called
by the worker and the probe.
"""

from __future__ import annotations

import time
from typing import Any

import torch

from nbft.decisions import Decisions
from nbft.hardware import other_use
from nbft.matmul_rate import keep_rate, product_dtype

_CPU_WIDTH, _GPU_WIDTH = 1024, 4096
"""Of square matrices: large enough for the full rate, 2 and 137 billion operations."""

_SECONDS = 0.1


def measure_rates(decisions: Decisions) -> None:
    """Measure the rate for the number types of a run, unless its device is in use; the highest is kept.

    Draws no random numbers, so the training that follows is the same with and without it.
    """
    device, wanted = decisions.device.value, {product_dtype(decisions)}
    if device == "cpu":  # their ratio decides which of the two is trained in
        wanted |= {"float32", "bfloat16"}
    if not other_use(device):
        for dtype in sorted(wanted):
            keep_rate(device, dtype, measure(device, dtype))


def measure(device: str, dtype: str) -> float:
    """Return the operations per second of the fastest of some products.

    The fastest, because other programs only ever slow a product down.

    Args:
        device: "cpu", "cuda" or another.
        dtype: Number type of the products.
    """
    width = _CPU_WIDTH if device == "cpu" else _GPU_WIDTH
    a = torch.full((width, width), 0.5, device=device, dtype=getattr(torch, dtype))
    _seconds(a)  # prepares the kernel
    began, fastest = time.perf_counter(), _seconds(a)
    while time.perf_counter() - began < _SECONDS:
        fastest = min(fastest, _seconds(a))
    return 2 * width**3 / fastest


def _seconds(a: Any) -> float:
    """Return the time of a product; reading a number of it waits for a GPU."""
    began = time.perf_counter()
    (a @ a)[0, 0].item()
    return time.perf_counter() - began
