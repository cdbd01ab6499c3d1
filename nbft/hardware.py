"""Devices, number types and memory, of this machine or of one that is planned for.

Asks torch if it is loaded (in a worker), else the system, so that the form needs no torch. Within
`planning_for` it describes another machine. Called by `nbft.plan` and `nbft.training`.
"""

from __future__ import annotations

import contextlib
import contextvars
import ctypes
import functools
import gc
import os
import platform
import sys
import time
from collections.abc import Iterator
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


@dataclass(frozen=True)
class Hardware:
    """A machine to plan for.

    Attributes:
        title: What people call it.
        free_bytes: Main memory that is free.
        device: Its best device: cuda, xpu, mps or cpu.
        gpus: Its GPUs that a process may use; those of Intel and Apple have no compute capability.
        bfloat16: The processor's instruction for bfloat16, amx_bf16 or avx512_bf16; "" without one.
        macos: Release of macOS; 0 on other systems.
    """

    title: str
    free_bytes: int
    device: str = "cpu"
    gpus: tuple[devices.Gpu, ...] = ()
    bfloat16: str = ""
    macos: int = 0


_other: contextvars.ContextVar[Hardware | None] = contextvars.ContextVar("_other", default=None)
"""The machine that is planned for; None for this one."""


@contextlib.contextmanager
def planning_for(machine: Hardware) -> Iterator[None]:
    """Let everything in this module describe another machine."""
    token = _other.set(machine)
    try:
        yield
    finally:
        _other.reset(token)


def is_this_machine() -> bool:
    """Whether this machine is planned for, not another one."""
    return _other.get() is None


def available_devices() -> dict[str, str]:
    """Return the available devices, each with a description."""
    if (other := _other.get()) is not None:
        found = {other.device: f"{other.gpus[0].name} was found"} if other.gpus else {}
        return {"cpu": "the processor", **found}
    descriptions = {"cpu": devices.processor_name()}
    for key in registry.devices:
        if (device := device_of(key)) and (description := device.found()):
            descriptions[key] = description
    return descriptions


def gpu_count(device: str) -> int:
    """Return how many GPUs of a kind this process may use; 0 where that is not known."""
    if (other := _other.get()) is not None:
        return len(other.gpus) if device == other.device else 0
    if device != "cuda":
        return 0
    cuda = _cuda()
    return int(cuda.device_count()) if cuda else len(devices.gpus())


def why_no_gpu() -> str:
    """Say why training uses no GPU."""
    if _other.get() is None:
        if why := devices.Cuda().why_unusable():
            return why
        asked = os.environ.get("CUDA_VISIBLE_DEVICES")
        if asked is not None:
            return f"no GPU was found, and CUDA_VISIBLE_DEVICES is {asked or 'empty'}"
    return "no GPU was found"


def assumptions(device: str) -> list[str]:
    """Return what the system does not report of a device and what is assumed instead; sentences."""
    if device == "xpu" and _other.get() is None and device_of(device).free_memory_bytes() is None:
        said = "The system does not report the free memory of the Intel GPU; that of the machine is"
        return [f"{said} assumed."]
    is_driver = device == "cuda" and _running_cuda() is None
    return [gpu.assumed for gpu in _gpus()[:1] if gpu.assumed and is_driver]


def _gpus() -> tuple[devices.Gpu, ...]:
    other = _other.get()
    return devices.gpus() if other is None else other.gpus


@functools.cache
def _made(kind: type) -> Any:
    return kind()


def device_of(key: str) -> Any:
    """Return the `nbft.devices.Device` of a key; None for auto."""
    kind = registry.devices.get(key)
    return kind and _made(kind)


def _cuda() -> Any:
    """Return torch.cuda if torch is loaded and finds a GPU here, else None."""
    if _other.get() is not None:
        return None
    cuda: Any = getattr(sys.modules.get("torch"), "cuda", None)
    return cuda if cuda is not None and cuda.is_available() else None


def _running_cuda() -> Any:
    """Return torch.cuda if it runs, or if no driver tells what it would; asking it starts it."""
    cuda = _cuda()
    return cuda if cuda and (cuda.is_initialized() or not devices.gpus()) else None


def has_bfloat16(device: str) -> Choice:
    """Return "yes" or "no" for whether a device computes in bfloat16, and why."""
    if device == "cuda":
        capability = compute_capability()
        version = f"compute capability {capability[0]}.{capability[1]}"
        if capability >= (8, 0):
            return Choice("yes", f"this GPU has it, {version}")
        return Choice("no", f"this GPU lacks bfloat16, {version}")
    if device == "xpu":
        return Choice("yes", "Intel GPUs have it")
    if device == "mps":
        release = _macos()
        if release >= 14:
            return Choice("yes", "macOS has it from 14 on")
        return Choice("no", f"macOS {release} lacks bfloat16 on the GPU")
    if device != "cpu":
        has_it = device_of(device).has_bfloat16()
        return Choice("yes" if has_it else "no", f"reported by the plugin of {device}")
    if instruction := _bfloat16_instruction():
        return Choice("yes", f"this processor has it, {instruction}")
    if _macos() and platform.machine() == "arm64":
        return Choice("no", "bfloat16 is slow on this processor")
    return Choice("no", "this processor has no bfloat16 instructions")


def compute_capability() -> tuple[int, int]:
    """Return the compute capability of the GPU that torch calls cuda; (0, 0) without one."""
    if cuda := _running_cuda():
        major, minor = cuda.get_device_capability(0)
        return major, minor
    seen = _gpus()
    return seen[0].capability if seen else (0, 0)


def low_type(device: str) -> Choice:
    """Return the 16-bit number type to train in on a device, with the reason; "" where there is none.

    bfloat16 where the device computes in it. Otherwise float16 on a GPU that torch calls cuda, with
    a scaled loss: its smallest number is 6e-8, and gradients are smaller.
    """
    bfloat16 = has_bfloat16(device)
    if bfloat16.value == "yes":
        return Choice("bfloat16", bfloat16.reason)
    return Choice("float16" if device == "cuda" else "", bfloat16.reason)


def _bfloat16_instruction() -> str:
    if (other := _other.get()) is not None:
        return other.bfloat16
    flags = next((line for line in devices.cpuinfo() if line.startswith("flags")), "")
    return next((flag for flag in ("amx_bf16", "avx512_bf16") if f" {flag}" in flags), "")


def _macos() -> int:
    """Return the release of macOS; 0 on other systems."""
    if (other := _other.get()) is not None:
        return other.macos
    return int(platform.mac_ver()[0].partition(".")[0] or 0)


def free_memory_bytes(device: str, devices_needed: int | None = None) -> int:
    """Return the memory that is available to a training on a device now.

    Args:
        device: Kind of the device.
        devices_needed: How many GPUs a background run takes, of which the least free counts; of
            this process's own, the first, if None.
    """
    import psutil

    if (other := _other.get()) is not None:
        return other.gpus[0].free_bytes if device != "cpu" and other.gpus else other.free_bytes
    if device == "cuda":
        if cuda := _running_cuda():
            return int(cuda.mem_get_info()[0])
        if seen := devices.gpus():
            if devices_needed is None:
                return seen[0].free_bytes
            freest = devices.alike(seen)
            return freest[min(devices_needed, len(freest)) - 1].free_bytes
    own = device_of(device).free_memory_bytes() if device in registry.devices else None
    if own is not None:
        return int(own)
    available = available_bytes()
    return int(psutil.virtual_memory().available) if available is None else available


def other_use(device: str) -> str:
    """Say what else uses a device now, as far as the system tells; "" if nothing does."""
    if _other.get() is not None:
        return ""
    if device == "cuda":
        users = gpu_users()
        return f"the GPU is also used by {' and '.join(users)}" if users else ""
    cores = os.cpu_count() or 1
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    if device != "cpu" or load < _BUSY_SHARE * cores:
        return ""
    return f"the processor is in use: load {load:.1f} on {count(cores, 'core')}"


_ASKED_AGAIN_SECONDS = 30
_BUSY_SHARE = 0.75


def gpu_users(uuid: str = "") -> list[str]:
    """Return who has other processes on an NVIDIA GPU now, each with the memory that they hold.

    Args:
        uuid: Which; the first that is visible if "".
    """
    return _gpu_users(int(time.monotonic() // _ASKED_AGAIN_SECONDS), uuid)


@functools.lru_cache(maxsize=16)
def _gpu_users(_when: int, uuid: str) -> list[str]:
    import psutil

    used: dict[str, int] = {}
    for pid, size_bytes in devices.gpu_processes(uuid):
        if pid == os.getpid():
            continue
        try:
            user = psutil.Process(pid).username()
        except (psutil.Error, KeyError):
            user = "another user"
        used[user] = used.get(user, 0) + size_bytes
    return [f"{user} ({size(n)})" if n else user for user, n in sorted(used.items())]


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


def begin_peak() -> None:
    """Begin to measure the peaks of memory anew: several runs may share a process."""
    if cuda := _cuda():
        cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):  # Linux, Documentation/filesystems/proc.rst, clear_refs
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def release_memory() -> None:
    """Free Python's garbage, the GPU's cache and the allocator's heap after a training."""
    gc.collect()
    if cuda := _cuda():
        cuda.empty_cache()
    if platform.system() == "Linux":
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL("libc.so.6").malloc_trim(0)
