"""Cores and memory that this process may use, within a container's limits.

Reads Linux files only, without libraries. Called by `nbft.plan`, `nbft.data`, `nbft.training` and
`nbft.runs`.

Source: Linux, Documentation/admin-guide/cgroup-v2.rst, cgroup-v1/memory.rst, scheduler/sched-bwc.rst.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/")


def usable_cores() -> int:
    """Return the number of cores within this process's affinity and quota.

    A quota of 1.5 cores counts as 1: a second thread would be throttled, and the others wait for it.
    """
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return max(1, min([cores, *map(int, _quotas(_ROOT))]))


def available_bytes() -> int | None:
    """Return the memory that this process could still use; None if the system does not report it."""
    limits = list(_free_bytes(_ROOT))
    for line in _lines(_ROOT / "proc/meminfo"):
        if line.startswith("MemAvailable:"):
            limits.append(int(line.split()[1]) * 1024)
    return max(0, min(limits)) if limits else None


def _quotas(root: Path) -> Iterator[float]:
    """Yield the quota in cores of each of this process's groups; root contains /proc and /sys."""
    for folder, is_first in _groups(root, "cpu"):
        if is_first:
            written = [*_lines(folder / "cpu.cfs_quota_us"), *_lines(folder / "cpu.cfs_period_us")]
        else:
            written = " ".join(_lines(folder / "cpu.max")).split()
        with contextlib.suppress(ValueError, ZeroDivisionError):
            quota, period = map(int, written)  # cpu.max begins with "max" if there is no quota
            if quota > 0:
                yield quota / period


def _free_bytes(root: Path) -> Iterator[int]:
    """Yield the free bytes of each of this process's groups; inactive file cache counts as free."""
    for folder, is_first in _groups(root, "memory"):
        names = ("limit_in_bytes", "usage_in_bytes") if is_first else ("max", "current")
        with contextlib.suppress(ValueError, IndexError):
            limit, used = (int(_lines(folder / f"memory.{name}")[0]) for name in names)
            stat = dict(line.split() for line in _lines(folder / "memory.stat"))
            yield limit - used + int(stat.get("inactive_file", 0))


def _groups(root: Path, controller: str) -> Iterator[tuple[Path, bool]]:
    """Yield each control group that limits this process, and whether it is of version 1."""
    groups = root / "sys/fs/cgroup"
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, own = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        top = groups / controllers if controllers else groups
        group = top / own.strip("/")
        # A container may see its own group as the top, under a name that only its host knows.
        for folder in (group, *group.parents):
            if not folder.is_relative_to(top):
                break
            yield folder, bool(controllers)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
