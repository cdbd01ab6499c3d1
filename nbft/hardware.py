"""This machine's devices, number types and memory.

Asks torch if it is loaded (in a worker), else the system, so that the form needs no torch. Called
by `nbft.plan` and `nbft.training`.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbft import registry
from nbft.limits import available_bytes


@dataclass(frozen=True)
class Choice:
    """A chosen value and its reason."""

    value: str
    reason: str

    def __str__(self) -> str:
        """Return the value with its reason."""
        return f"{self.value} ({self.reason})"


@dataclass(frozen=True)
class Gpu:
    """One NVIDIA GPU.

    Attributes:
        name: Its product name.
        free_bytes: Free memory.
        capability: Compute capability; bfloat16 from (8, 0) on.
    """

    name: str
    free_bytes: int
    capability: tuple[int, int]


def available_devices() -> dict[str, str]:
    """Return the available devices, each with a description."""
    descriptions = {"cpu": processor_name()}
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


@functools.cache
def nvidia_gpus() -> tuple[Gpu, ...]:
    """Return the NVIDIA GPUs that the driver lists."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return ()
    query = "--query-gpu=name,memory.free,compute_cap"
    try:
        out = subprocess.run(
            [command, query, "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        ).stdout
        gpus = []
        for line in out.strip().splitlines():
            name, free_mib, capability = (cell.strip() for cell in line.split(","))
            major, _, minor = capability.partition(".")
            gpus.append(Gpu(name, int(free_mib) * 2**20, (int(major), int(minor or 0))))
        return tuple(gpus)
    except (OSError, ValueError, subprocess.SubprocessError):
        return ()


@functools.cache
def processor_name() -> str:
    """Return the processor's name."""
    for line in _cpuinfo():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@functools.cache
def _cpuinfo() -> tuple[str, ...]:
    try:
        return tuple(Path("/proc/cpuinfo").read_text().splitlines())
    except OSError:
        return ()


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
            gpus = nvidia_gpus()
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
    flags = next((line for line in _cpuinfo() if line.startswith("flags")), "")
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
        if gpus := nvidia_gpus():
            return gpus[0].free_bytes
    own = device_of(device).free_memory_bytes() if device in registry.devices else None
    if own is not None:
        return int(own)
    available = available_bytes()
    return int(psutil.virtual_memory().available) if available is None else available


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
