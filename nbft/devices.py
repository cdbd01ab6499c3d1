"""The built-in devices; `nbft.registry.devices` takes others. Loads no torch.

Called by `nbft.hardware` and the worker.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PEAK_TFLOPS = {
    "H200": 989.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "A10G": 125.0,
    "A10": 125.0,
    "L4": 121.0,
    "V100": 125.0,
    "T4": 65.0,
    "RTX 4090": 165.0,
    "RTX 3090": 71.0,
}
"""Dense 16-bit TFLOP/s with float32 sums, from NVIDIA's data sheets."""


class Device:
    """A kind of device; inherit from it for your own.

    Attributes:
        backend: Backend of torch.distributed.
        absent: Advice if the device is requested but missing.
    """

    backend = "gloo"
    absent = "Use auto."

    def found(self) -> str:
        """Return a description such as "an Intel GPU was found", or "" if there is none."""
        raise NotImplementedError

    def load(self) -> None:
        """Make the device known to torch, for example by importing a plugin."""

    def has_bfloat16(self) -> bool:
        """Whether it computes in bfloat16."""
        return False

    def free_memory_bytes(self) -> int | None:
        """Return its free memory, or None if it uses main memory."""
        return None

    def used_memory_bytes(self) -> int | None:
        """Return the memory that this process has used on it, or None."""
        return None

    def profile(self, **arguments: Any) -> Any:
        """Return a profiler, a context manager like torch.profiler.profile."""
        import torch

        return torch.profiler.profile(**arguments)


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


@functools.cache
def nvidia_gpus() -> tuple[Gpu, ...]:
    """Return the NVIDIA GPUs that the driver lists."""
    try:
        gpus = []
        out = _nvidia_smi("--query-gpu=name,memory.free,compute_cap")
        for line in out.strip().splitlines():
            name, free_mib, capability = (cell.strip() for cell in line.split(","))
            major, _, minor = capability.partition(".")
            gpus.append(Gpu(name, int(free_mib) * 2**20, (int(major), int(minor or 0))))
        return tuple(gpus)
    except ValueError:
        return ()


def _nvidia_smi(*arguments: str) -> str:
    """Return the answer of NVIDIA's driver; "" if there is none."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return ""
    try:
        return subprocess.run(
            [command, *arguments, "--format=csv,noheader,nounits"],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        ).stdout
    except (OSError, ValueError, subprocess.SubprocessError):
        return ""


def gpu_processes() -> list[tuple[int, int]]:
    """Return pid and bytes of GPU memory of each process on the first NVIDIA GPU that is visible."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "").partition(",")[0] or "0"
    out = _nvidia_smi("--query-compute-apps=pid,used_memory", f"--id={first}")
    processes = []
    for line in out.strip().splitlines():
        pid, _, used_mib = (cell.strip() for cell in line.partition(","))
        if pid.isdigit():
            processes.append((int(pid), int(used_mib) * 2**20 if used_mib.isdigit() else 0))
    return processes


@functools.cache
def processor_name() -> str:
    """Return the processor's name."""
    for line in cpuinfo():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


@functools.cache
def cpuinfo() -> tuple[str, ...]:
    """Return the lines of /proc/cpuinfo; none where there is no such file."""
    try:
        return tuple(Path("/proc/cpuinfo").read_text().splitlines())
    except OSError:
        return ()


def _torch() -> Any:
    torch = sys.modules.get("torch")
    return torch if torch is not None and hasattr(torch, "cuda") else None


class Cpu(Device):
    """The processor."""

    def found(self) -> str:
        """Return the processor's name."""
        return processor_name()


class Cuda(Device):
    """NVIDIA's GPUs, and AMD's under ROCm."""

    backend = "nccl"

    def found(self) -> str:
        """Ask torch if it is loaded, else the driver."""
        if torch := _torch():
            there = torch.cuda.is_available()
            return f"{torch.cuda.get_device_name(0)} was found" if there else ""
        gpus = nvidia_gpus()
        return f"{gpus[0].name} was found" if gpus else ""


class Xpu(Device):
    """Intel's GPUs."""

    backend = "xccl"

    def found(self) -> str:
        """Ask torch if it is loaded."""
        torch = _torch()
        there = torch and getattr(torch, "xpu", None) is not None and torch.xpu.is_available()
        return "an Intel GPU was found" if there else ""


class Mps(Device):
    """Apple's GPUs."""

    def found(self) -> str:
        """Ask torch if it is loaded, else the system."""
        if torch := _torch():
            there = torch.backends.mps.is_available()
        else:
            there = platform.system() == "Darwin" and platform.machine() == "arm64"
        return "an Apple GPU was found" if there else ""


class Qaic(Device):
    """Qualcomm Cloud AI 100, through the plugin torch_qaic."""

    backend = "qccl"
    absent = (
        "It needs the package torch_qaic of Qualcomm's Cloud AI SDK and its driver. "
        "Use auto meanwhile."
    )

    def found(self) -> str:
        """Look for the plugin, and ask torch for a card if it is loaded."""
        if importlib.util.find_spec("torch_qaic") is None:
            return ""
        if torch := _torch():
            self.load()
            module = getattr(torch, "qaic", None)
            if module is not None and hasattr(module, "is_available") and not module.is_available():
                return ""
        return "torch_qaic was found"

    def load(self) -> None:
        """Import the plugin, which registers the device with torch."""
        importlib.import_module("torch_qaic")

    def profile(self, **arguments: Any) -> Any:
        """Return the plugin's own profiler."""
        return importlib.import_module("torch_qaic.profile").profile(**arguments)


def peak_flops(device: str, peak_tflops: float | None, name: str = "") -> float | None:
    """Return a device's peak FLOP/s, or None if unknown.

    Args:
        device: "cuda" or another.
        peak_tflops: compute.peak_tflops, which takes precedence.
        name: Product name, such as "NVIDIA A100-SXM4-80GB".

    >>> peak_flops("cuda", None, "Tesla T4 was found")
    65000000000000.0
    >>> peak_flops("cpu", None) is None
    True
    """
    if peak_tflops:
        return peak_tflops * 1e12
    if device != "cuda":
        return None
    known = sorted(PEAK_TFLOPS, key=len, reverse=True)
    return next((PEAK_TFLOPS[key] * 1e12 for key in known if key in name), None)
