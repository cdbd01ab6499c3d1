"""The built-in devices; `nbft.registry.devices` takes others. Loads no torch.

Called by `nbft.hardware`, the worker and its launchers.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import importlib.util
import os
import platform
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nbft.limits import available_bytes

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


GPU_WATTS = {
    "H200": 700,
    "H100": 700,
    "A100": 400,
    "L40S": 350,
    "A10G": 300,
    "A10": 150,
    "L4": 72,
    "V100": 300,
    "T4": 70,
    "RTX 4090": 450,
    "RTX 3090": 350,
}
"""Highest power of the same cards, from the same data sheets."""


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
    """One GPU, or one slice of a partitioned one.

    Attributes:
        name: Its product name.
        free_bytes: Free memory.
        capability: Compute capability; NVIDIA's have bfloat16 and FlashAttention from (8, 0) on.
        uuid: What CUDA_VISIBLE_DEVICES calls it; "" where that is not known.
        assumed: What the driver does not report and what is assumed instead, a sentence; or "".
    """

    name: str
    free_bytes: int
    capability: tuple[int, int]
    uuid: str = ""
    assumed: str = ""


_ASKED_AGAIN_SECONDS = 2
"""A plan makes many decisions; the driver is asked once for all of them."""


def gpus() -> tuple[Gpu, ...]:
    """Return the GPUs that this process may use, with the memory that is free now.

    NVIDIA's, or else AMD's; torch calls both cuda.
    """
    return nvidia_gpus() or visible(amd_gpus(), os.environ.get("CUDA_VISIBLE_DEVICES"))


def nvidia_gpus() -> tuple[Gpu, ...]:
    """Return the NVIDIA GPUs that this process may use, with the memory that is free now."""
    listed = _listed(int(time.monotonic() // _ASKED_AGAIN_SECONDS))
    return visible(listed, os.environ.get("CUDA_VISIBLE_DEVICES"))


def visible(gpus: Sequence[Gpu], asked: str | None) -> tuple[Gpu, ...]:
    """Return those of some GPUs that CUDA_VISIBLE_DEVICES leaves, in its order.

    It has numbers or the beginnings of UUIDs; CUDA ignores what follows one that it does not know.

    Args:
        gpus: All GPUs.
        asked: The variable; None if it is not set.

    >>> two = [Gpu("T4", 0, (7, 5), "GPU-aa"), Gpu("T4", 0, (7, 5), "GPU-bb")]
    >>> [gpu.uuid for gpu in visible(two, "GPU-b,0")], visible(two, "-1")
    (['GPU-bb', 'GPU-aa'], ())
    """
    if asked is None:
        return tuple(gpus)
    chosen: list[Gpu] = []
    for name in map(str.strip, asked.split(",")):
        is_uuid = name.startswith(("GPU-", "MIG-"))
        named = [
            gpu
            for number, gpu in enumerate(gpus)
            if name == str(number) or (is_uuid and gpu.uuid.startswith(name))
        ]
        if not named:
            break
        chosen.append(named[0])
    return tuple(chosen)


def see_one_gpu() -> None:
    """Hide all GPUs from this process but the first that it may use; to be called before CUDA starts.

    transformers would otherwise split each batch over all of them (torch.nn.DataParallel), which
    TRL refuses and which is slower than one. A UUID is used where there is one: CUDA's numbers
    follow the speed of the GPUs, the driver's their slots.
    """
    asked = os.environ.get("CUDA_VISIBLE_DEVICES")
    if len(seen := gpus()) > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = seen[0].uuid or (asked or "0").partition(",")[0]
    elif asked:
        os.environ["CUDA_VISIBLE_DEVICES"] = asked.partition(",")[0]


def visible_variable(names: Sequence[str]) -> dict[str, str]:
    """Return the environment variable of a process that sees only some GPUs; {} if there are none.

    Args:
        names: Their `names_of`.
    """
    return {"CUDA_VISIBLE_DEVICES": ",".join(names)} if names else {}


def names_of(device: str) -> tuple[str, ...]:
    """Return what CUDA_VISIBLE_DEVICES calls the GPUs that this process may use.

    Args:
        device: Kind of the device.

    Returns:
        Their UUIDs; () for another device than cuda, and where the driver gives none, as AMD's.
    """
    seen = gpus() if device == "cuda" else ()
    return tuple(gpu.uuid for gpu in seen) if all(gpu.uuid for gpu in seen) else ()


def names_to_take(device: str, needs: int | None = 1) -> tuple[str, ...]:
    """Return `names_of` the GPUs that a background run may take; most free memory first.

    A run is planned for the first GPU, so that it takes those like it.

    Args:
        device: Kind of the device.
        needs: How many it takes; all if None. If fewer are like the first, it may take any.
    """
    if not (names := names_of(device)):
        return ()
    same = alike(gpus())
    is_few = needs is None or len(same) < needs
    return names if is_few else tuple(gpu.uuid for gpu in same)


def alike(seen: Sequence[Gpu]) -> list[Gpu]:
    """Return those of some GPUs that are like the first, the one with the most free memory first."""
    first = seen[0]
    same = [gpu for gpu in seen if (gpu.name, gpu.capability) == (first.name, first.capability)]
    return sorted(same, key=lambda gpu: -gpu.free_bytes)


@functools.lru_cache(maxsize=1)
def _listed(_when: int) -> tuple[Gpu, ...]:
    """Return the NVIDIA GPUs that the driver lists, with the slices of those that are partitioned."""
    out = _nvidia_smi("--query-gpu=uuid,name,memory.free,compute_cap,mig.mode.current")
    found: list[Gpu] = []
    for line in out.strip().splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if len(cells) != 5:
            continue
        uuid, name, free_mib, capability, partitioned = cells
        major, _, minor = capability.partition(".")
        gpu = Gpu(
            name,
            0,
            (int(major), int(minor)) if major.isdigit() and minor.isdigit() else (0, 0),
            uuid,
        )
        if gpu.capability == (0, 0):
            gpu = replace(
                gpu,
                capability=_OLDEST,
                assumed=f"The driver does not report the compute capability of {name}; "
                f"{_OLDEST[0]}.{_OLDEST[1]} is assumed, which has no bfloat16.",
            )
        if partitioned == "Enabled":
            found += _slices(gpu)
        elif free_mib.isdigit():
            found.append(replace(gpu, free_bytes=int(free_mib) * 2**20))
        else:  # as of GPUs that share main memory, such as GB10
            said = f"The driver does not report the free memory of {name}; that of the machine is assumed."
            free_bytes = available_bytes() or 0
            found.append(
                replace(gpu, free_bytes=free_bytes, assumed=f"{gpu.assumed} {said}".strip())
            )
    return tuple(found)


_OLDEST = (7, 0)

_SLICE = re.compile(
    r"MIG (?P<profile>\d+g\.(?P<gb>\d+)gb\S*)\s+Device\s+(?P<number>\d+): +\(UUID: (?P<uuid>\S+)\)"
)


def _slices(gpu: Gpu) -> Iterator[Gpu]:
    """Yield the slices of a partitioned GPU (MIG), each with its free memory."""
    _, _, listed = _nvidia_smi("-L", table=False).partition(gpu.uuid)
    of_gpu = re.split(r"^GPU ", listed, maxsplit=1, flags=re.MULTILINE)[0]
    free = _free_of_slices(_nvidia_smi("-q", "-x", "-i", gpu.uuid, table=False))
    for found in _SLICE.finditer(of_gpu):
        name, assumed = f"{gpu.name} MIG {found['profile']}", gpu.assumed
        free_bytes = free.get(found["number"])
        if free_bytes is None:
            free_bytes = int(found["gb"]) * 10**9
            said = f"The driver does not report the free memory of {name}; all of it is assumed."
            assumed = f"{assumed} {said}".strip()
        yield Gpu(name, free_bytes, gpu.capability, found["uuid"], assumed)


def _free_of_slices(document: str) -> dict[str, int]:
    """Return the free bytes of each slice of a GPU by its number, from the driver's XML."""
    return {
        found["number"]: int(found["mib"]) * 2**20
        for part in document.split("<mig_device>")[1:]
        if (found := _MEMORY_OF_SLICE.search(part))
    }


_MEMORY_OF_SLICE = re.compile(
    r"<index>(?P<number>\d+)<.*?<fb_memory_usage>.*?<free>(?P<mib>\d+) MiB<", re.DOTALL
)


def amd_gpus(root: Path = Path("/sys/class")) -> tuple[Gpu, ...]:
    """Return the AMD GPUs that ROCm may use, from the files of its driver.

    Source: Linux, Documentation/gpu/amdgpu/driver-misc.rst; include/uapi/linux/kfd_sysfs.h.
    """
    versions = []
    for node in sorted(root.glob("kfd/kfd/topology/nodes/*/properties"), key=_number_of_node):
        about = dict(line.split(maxsplit=1) for line in _text(node).splitlines() if " " in line)
        if version := int(about.get("gfx_target_version", 0)):  # 0 for a processor
            versions.append((version // 10_000, version // 100 % 100))
    cards = [
        card.parent
        for card in sorted(root.glob("drm/card*/device/mem_info_vram_total"))
        if _text(card.parent / "vendor").strip() == "0x1002"
    ]
    gpus = []
    for card, capability in zip(cards, versions, strict=False):
        total, used = (_text(card / f"mem_info_vram_{name}").strip() for name in ("total", "used"))
        if total.isdigit():
            free_bytes = int(total) - (int(used) if used.isdigit() else 0)
            name = _text(card / "product_name").strip() or "an AMD GPU"
            gpus.append(Gpu(name, free_bytes, capability))
    return tuple(gpus)


def has_intel_gpu(root: Path = Path("/sys/class")) -> bool:
    """Whether the system lists a graphics card of Intel."""
    return any(_text(path).strip() == "0x8086" for path in root.glob("drm/card*/device/vendor"))


def _number_of_node(path: Path) -> int:
    return int(path.parent.name) if path.parent.name.isdigit() else -1


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


@functools.cache
def torch_builds() -> dict[str, str]:
    """Return what the installed PyTorch is built for (cuda, hip, xpu), each with its version.

    Reads torch/version.py, so that torch is not imported. {"cpu": version} without a GPU's; {} if
    there is no such file.
    """
    spec = importlib.util.find_spec("torch")
    if spec is None or spec.origin is None:
        return {}
    written = _text(Path(spec.origin).with_name("version.py"))
    values = dict(re.findall(r"^(\w+)(?:: [^=]+)? = '([^']+)'", written, re.MULTILINE))
    if "__version__" not in values:
        return {}
    gpu = {name: values[name] for name in ("cuda", "hip", "xpu") if name in values}
    return gpu or {"cpu": values["__version__"]}


def _nvidia_smi(*arguments: str, table: bool = True) -> str:
    """Return the answer of NVIDIA's driver, as a table or as it is; "" if there is none."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return ""
    form = ["--format=csv,noheader,nounits"] if table else []
    try:
        return subprocess.run(
            [command, *arguments, *form],
            capture_output=True,
            text=True,
            timeout=5,
            check=True,
        ).stdout
    except (OSError, ValueError, subprocess.SubprocessError):
        return ""


def gpu_processes(uuid: str = "") -> list[tuple[int, int]]:
    """Return pid and bytes of GPU memory of each process on an NVIDIA GPU.

    Args:
        uuid: Which; the first that is visible if "".
    """
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "").partition(",")[0] or "0"
    out = _nvidia_smi("--query-compute-apps=pid,used_memory", f"--id={uuid or first}")
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
        if self.why_unusable():
            return ""
        if torch := _torch():
            there = torch.cuda.is_available()
            return f"{torch.cuda.get_device_name(0)} was found" if there else ""
        seen = gpus()
        return f"{seen[0].name} was found" if seen else ""

    def why_unusable(self) -> str:
        """Say why PyTorch cannot use a GPU that is there; "" if it can, or if there is none."""
        nvidia = nvidia_gpus()
        needed = "cuda" if nvidia else "hip"
        seen, builds = nvidia or gpus(), torch_builds()
        if not seen or not builds:
            return ""
        if needed in builds:
            return _too_old(seen[0], builds["cuda"]) if nvidia else ""
        named = {"cuda": "CUDA", "hip": "ROCm", "xpu": "Intel GPUs", "cpu": "CPUs"}
        built = ", ".join(named[build] for build in builds)
        return (
            f"{seen[0].name} cannot be used: the installed PyTorch is built for {built}, "
            f"not for {named[needed]}"
        )


def _too_old(gpu: Gpu, cuda: str) -> str:
    """Say that a build of PyTorch has no kernels for an NVIDIA GPU; "" if it has.

    Source: PyTorch's releases 2.8 and later, github.com/pytorch/pytorch/issues/157517 and 172352.
    """
    major, minor = (int(part) for part in (*cuda.split("."), "0")[:2])
    least = (7, 5) if major >= 13 else (7, 0) if (major, minor) >= (12, 8) else (0, 0)
    if gpu.capability >= least:
        return ""
    return (
        f"{gpu.name} cannot be used: PyTorch built for CUDA {cuda} has no kernels for compute "
        f"capability {gpu.capability[0]}.{gpu.capability[1]}; install a build for CUDA 12.6"
    )


class Xpu(Device):
    """Intel's GPUs."""

    backend = "xccl"

    def found(self) -> str:
        """Ask torch if it is loaded, else the system; PyTorch must be built for it."""
        if torch := _torch():
            there = getattr(torch, "xpu", None) is not None and torch.xpu.is_available()
        else:
            there = "xpu" in torch_builds() and has_intel_gpu()
        return "an Intel GPU was found" if there else ""

    def free_memory_bytes(self) -> int | None:
        """Ask torch if it is loaded; some drivers do not report it."""
        with contextlib.suppress(AttributeError, RuntimeError):
            if self.found() and (torch := _torch()):
                return int(torch.xpu.mem_get_info()[0])
        return None


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
