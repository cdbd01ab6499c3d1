"""This machine's devices, number types and memory.

Asks torch if it is loaded (in a worker), else the system, so that the form needs no torch. Called
by `nbft.plan` and `nbft.training`.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import os
import platform
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbft import devices, registry
from nbft.formatting import count, size
from nbft.limits import available_bytes


@dataclass(frozen=True)
class Choice:
    """A chosen value and its reason."""

    value: str
    reason: str

    def __str__(self) -> str:
        """Return the value with its reason."""
        return f"{self.value} ({self.reason})"


def available_devices() -> dict[str, str]:
    """Return the available devices, each with a description."""
    descriptions = {"cpu": devices.processor_name()}
    for key in registry.devices:
        if (device := device_of(key)) and (description := device.found()):
            descriptions[key] = description
    return descriptions


@functools.cache
def _made(kind: type) -> Any:
    return kind()


def device_of(key: str) -> Any:
    """Return the `nbft.devices.Device` of a key; None for auto."""
    kind = registry.devices.get(key)
    return kind and _made(kind)


def _cuda() -> Any:
    """Return torch.cuda if torch is loaded and finds a GPU, else None."""
    cuda: Any = getattr(sys.modules.get("torch"), "cuda", None)
    return cuda if cuda is not None and cuda.is_available() else None


def has_bfloat16(device: str) -> Choice:
    """Return "yes" or "no" for whether a device computes in bfloat16, and why."""
    if device == "cuda":
        if cuda := _cuda():
            capability = cuda.get_device_capability(0)
        else:
            gpus = devices.nvidia_gpus()
            capability = gpus[0].capability if gpus else (0, 0)
        version = f"compute capability {capability[0]}.{capability[1]}"
        if capability >= (8, 0):
            return Choice("yes", f"this GPU has it, {version}")
        return Choice("no", f"this GPU lacks bfloat16, {version}")
    if device == "xpu":
        return Choice("yes", "Intel GPUs have it")
    if device == "mps":
        release = int(platform.mac_ver()[0].partition(".")[0] or 0)
        if release >= 14:
            return Choice("yes", "macOS has it from 14 on")
        return Choice("no", f"macOS {release} lacks bfloat16 on the GPU")
    if device != "cpu":
        has_it = device_of(device).has_bfloat16()
        return Choice("yes" if has_it else "no", f"reported by the plugin of {device}")
    flags = next((line for line in devices.cpuinfo() if line.startswith("flags")), "")
    for flag in ("amx_bf16", "avx512_bf16"):
        if f" {flag}" in flags:
            return Choice("yes", f"this processor has it, {flag}")
    if platform.machine() == "arm64" and platform.system() == "Darwin":
        return Choice("no", "bfloat16 is slow on this processor")
    return Choice("no", "this processor has no bfloat16 instructions")


def free_memory_bytes(device: str) -> int:
    """Return the memory that is available to a training on a device."""
    import psutil

    if device == "cuda":
        if cuda := _cuda():
            return int(cuda.mem_get_info()[0])
        if gpus := devices.nvidia_gpus():
            return gpus[0].free_bytes
    own = device_of(device).free_memory_bytes() if device in registry.devices else None
    if own is not None:
        return int(own)
    available = available_bytes()
    return int(psutil.virtual_memory().available) if available is None else available


def other_use(device: str) -> str:
    """Say what else uses a device now, as far as the system tells; "" if nothing does."""
    if device == "cuda":
        return _other_gpu_use(int(time.monotonic() // _ASKED_AGAIN_SECONDS))
    cores = os.cpu_count() or 1
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if device != "cpu" or load < _BUSY_SHARE * cores:
        return ""
    return f"the processor is in use: load {load:.1f} on {count(cores, 'core')}"


_ASKED_AGAIN_SECONDS = 30
_BUSY_SHARE = 0.75


@functools.lru_cache(maxsize=1)
def _other_gpu_use(_when: int) -> str:
    import psutil

    used: dict[str, int] = {}
    for pid, size_bytes in devices.gpu_processes():
        if pid == os.getpid():
            continue
        try:
            user = psutil.Process(pid).username()
        except (psutil.Error, KeyError):
            user = "another user"
        used[user] = used.get(user, 0) + size_bytes
    parts = [f"{user} ({size(n)})" if n else user for user, n in sorted(used.items())]
    return f"the GPU is also used by {' and '.join(parts)}" if parts else ""


def used_memory_bytes(device: str) -> int:
    """Return the memory that this process uses on a device."""
    import psutil

    if device == "cuda" and (cuda := _cuda()):
        return int(cuda.max_memory_allocated())
    torch: Any = sys.modules.get("torch")
    if device == "mps" and torch is not None and torch.backends.mps.is_available():
        return int(torch.mps.driver_allocated_memory())
    own = device_of(device).used_memory_bytes() if device in registry.devices else None
    if own is not None:
        return int(own)
    return int(psutil.Process().memory_info().rss)


def peak_memory_bytes(device: str) -> int | None:
    """Return this process's peak memory on a device; None if the system does not report it."""
    if device != "cpu":
        return used_memory_bytes(device)
    with contextlib.suppress(OSError, IndexError):  # Linux; getrusage counts the parent's as well
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return int(status.partition("VmHWM:")[2].split()[0]) * 1024
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def release_memory() -> None:
    """Free Python's garbage, the GPU's cache and the allocator's heap after a training."""
    gc.collect()
    if cuda := _cuda():
        cuda.empty_cache()
    if platform.system() == "Linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)
