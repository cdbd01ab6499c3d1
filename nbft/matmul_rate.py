"""How fast this machine multiplies matrices: the highest rate that a process with torch has measured.

Kept in nbft's cache folder by device, allowed threads, number type and version of torch. Loads no library
here; `nbft.training.matmul_rate` measures. Called by `nbft.decisions` and `nbft.plan`.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nbft import hardware
from nbft.atomic import replacing
from nbft.hardware import Choice, available_devices, is_this_machine
from nbft.limits import usable_cores
from nbft.models.find import cache_folder

if TYPE_CHECKING:
    from nbft.decisions import Decisions


WORTHWHILE_GAIN = 1.2
"""How many times as fast as in float32 products have to be in bfloat16."""


def low_type(device: str) -> Choice:
    """Return the 16-bit number type to train in on a device, with the reason; "" where there is none.

    On a CPU whose rates were measured, by these; otherwise by what the device says of itself.
    """
    said = hardware.low_type(device)
    low, whole = (kept_rate(device, dtype) for dtype in ("bfloat16", "float32"))
    if device != "cpu" or not low or not whole:
        return said
    gain = f"measured {low / whole:.1f} times as fast as float32"
    reason = f"{said.reason}; {gain}" if said.value else f"bfloat16 is {gain}"
    return Choice("bfloat16" if low >= WORTHWHILE_GAIN * whole else "", reason)


def kept_rate(device: str, dtype: str) -> float | None:
    """Return the rate of this machine's products, in floating-point operations per second.

    None where it was not measured yet, or another machine is planned for.

    Args:
        device: "cpu", "cuda" or another.
        dtype: Number type of the products.
    """
    rate = _kept().get(_key(device, dtype)) if is_this_machine() else None
    return float(rate) if isinstance(rate, int | float) and rate > 0 else None


def keep_rate(device: str, dtype: str, flops: float) -> None:
    """Keep a measured rate if it is the highest so far: a busy machine measures less than it can.

    A cache that cannot be written is left as it is.

    Args:
        device: "cpu", "cuda" or another.
        dtype: Number type of the products.
        flops: Floating-point operations per second.
    """
    if flops <= (kept_rate(device, dtype) or 0.0):
        return
    kept = _kept() | {_key(device, dtype): round(flops)}
    with contextlib.suppress(OSError):
        _path().parent.mkdir(parents=True, exist_ok=True)
        with replacing(_path()) as partial:
            partial.write_text(json.dumps(kept, indent=1), encoding="utf-8")


def product_dtype(decisions: Decisions) -> str:
    """Return the number type of the products: that of mixed precision, else of the weights."""
    mixed = {"bf16": "bfloat16", "fp16": "float16"}
    return mixed.get(decisions.mixed_precision.value, decisions.dtype.value)


def usable_threads() -> int:
    """Return how many threads products on a CPU may use."""
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    return min(usable_cores(), int(asked)) if asked.isdecimal() and int(asked) else usable_cores()


def _key(device: str, dtype: str) -> str:
    name = available_devices().get(device, device)
    on = [f"{usable_threads()} threads"] if device == "cpu" else []
    return ", ".join([name, *on, dtype, f"torch {_torch_version()}"])


@functools.cache
def _torch_version() -> str:
    try:
        return importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _path() -> Path:
    return cache_folder() / "matmul-rates.json"


def _kept() -> dict[str, Any]:
    try:
        kept = json.loads(_path().read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return kept if isinstance(kept, dict) else {}
