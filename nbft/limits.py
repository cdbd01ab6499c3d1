"""What the system grants this process: cores and memory, where a container has a share of both.

Reads the files of Linux alone, so that the smallest process can ask. Called by `nbft.plan`,
`nbft.data`, `nbft.training` and `nbft.runs`.

Source: Linux, Documentation/admin-guide/cgroup-v2.rst, cgroup-v1/memory.rst, scheduler/sched-bwc.rst.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/")


def usable_cores() -> int:
    """Return the cores that this process may keep busy: those it is bound to, within its quota.

    A container or a shared server often grants fewer than the machine has. A quota of 1.5 cores
    counts as 1: a second thread would wait, and the others for it.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return max(1, min([cores, *map(int, _quotas(_ROOT))]))


def available_bytes() -> int | None:
    """Return the memory that this process could still take; None where the system does not say."""
    found = list(_rooms(_ROOT))
    for line in _lines(_ROOT / "proc/meminfo"):
        if line.startswith("MemAvailable:"):
            found.append(int(line.split()[1]) * 1024)
    return max(0, min(found)) if found else None


def _quotas(root: Path) -> Iterator[float]:
    """Yield the quotas in cores of each group that holds this process.

    Args:
        root: Where /proc and /sys are.
    """
    for folder, is_first in _groups(root, "cpu"):
        if is_first:
            written = [*_lines(folder / "cpu.cfs_quota_us"), *_lines(folder / "cpu.cfs_period_us")]
        else:
            written = " ".join(_lines(folder / "cpu.max")).split()
        with contextlib.suppress(ValueError, ZeroDivisionError):
            quota, period = map(int, written)  # cpu.max begins with "max" where there is none
            if quota > 0:
                yield quota / period


def _rooms(root: Path) -> Iterator[int]:
    """Yield the bytes that each group that holds this process has left.

    Files that were read and may be dropped count as free.
    """
    for folder, is_first in _groups(root, "memory"):
        names = ("limit_in_bytes", "usage_in_bytes") if is_first else ("max", "current")
        with contextlib.suppress(ValueError, IndexError):
            limit, used = (int(_lines(folder / f"memory.{name}")[0]) for name in names)
            stat = dict(line.split() for line in _lines(folder / "memory.stat"))
            yield limit - used + int(stat.get("inactive_file", 0))


def _groups(root: Path, controller: str) -> Iterator[tuple[Path, bool]]:
    """Yield each control group that limits something for this process, and whether it is of v1."""
    groups = root / "sys/fs/cgroup"
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, own = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = groups / controllers if controllers else groups
        place = top / own.strip("/")
        # A container may see its own group as the top, under a name that only its host knows.
        for folder in (place, *place.parents):
            if not folder.is_relative_to(top):
                break
            yield folder, bool(controllers)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
