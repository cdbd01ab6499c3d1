"""Cores and memory that a process is allowed, with the files of control groups as Linux has them."""

import subprocess
import sys

import pytest

from nbft import limits
from nbft.limits import available_bytes, usable_cores

V1_LIST = "12:memory:/\n4:cpu,cpuacct:/docker/a1\n1:name=systemd:/\n0::/\n"


@pytest.mark.parametrize(
    ("files", "quotas"),
    [
        ({}, []),
        ({"proc/self/cgroup": "0::/\n"}, []),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, []),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "250000 100000\n"}, [2.5]),
        (  # each group above holds the process too
            {
                "proc/self/cgroup": "0::/user.slice/a.scope\n",
                "sys/fs/cgroup/user.slice/a.scope/cpu.max": "400000 100000\n",
                "sys/fs/cgroup/user.slice/cpu.max": "150000 50000\n",
                "sys/fs/cgroup/cpu.max": "max 100000\n",
            },
            [4, 3],
        ),
        (  # the name of the group is the host's; here it is the top
            {"proc/self/cgroup": "0::/docker/a1\n", "sys/fs/cgroup/cpu.max": "100000 100000\n"},
            [1],
        ),
        (
            {
                "proc/self/cgroup": V1_LIST,
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "200000\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            [2],
        ),
        (
            {
                "proc/self/cgroup": V1_LIST,
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu,cpuacct/cpu.cfs_period_us": "100000\n",
            },
            [],
        ),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "what\n"}, []),
    ],
)
def test_the_quotas_of_control_groups(files, quotas, tmp_path):
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    assert list(limits._quotas(tmp_path)) == quotas


@pytest.mark.parametrize(
    ("quotas", "cores"), [([], 8), ([2.5], 2), ([64], 8), ([4, 3], 3), ([0.5], 1)]
)
def test_cores_are_those_of_the_process_within_its_quota(quotas, cores, monkeypatch):
    monkeypatch.setattr(limits.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(limits, "_quotas", lambda _: iter(quotas))
    assert usable_cores() == cores


def test_a_system_that_binds_no_process_counts_all_its_cores(monkeypatch):
    monkeypatch.delattr(limits.os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(limits.os, "cpu_count", lambda: None)
    monkeypatch.setattr(limits, "_quotas", lambda _: iter([]))
    assert usable_cores() == 1


def test_cores_are_counted_without_torch():
    code = "import sys; from nbft.limits import available_bytes, usable_cores; usable_cores()\n"
    code += "assert not {'torch', 'pydantic', 'psutil'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


GB = 10**9


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({}, None),
        ({"proc/meminfo": "MemFree: 1 kB\nMemAvailable:    4000000 kB\n"}, 4_096_000_000),
        (
            {
                "proc/meminfo": "MemAvailable:    64000000 kB\n",
                "proc/self/cgroup": "0::/\n",
                "sys/fs/cgroup/memory.max": f"{2 * GB}\n",
                "sys/fs/cgroup/memory.current": f"{GB}\n",
                "sys/fs/cgroup/memory.stat": "anon 5\ninactive_file 300000000\n",
            },
            1_300_000_000,
        ),
        (
            {
                "proc/meminfo": "MemAvailable:    1000 kB\n",
                "proc/self/cgroup": "0::/\n",
                "sys/fs/cgroup/memory.max": "max\n",
                "sys/fs/cgroup/memory.current": f"{GB}\n",
            },
            1_024_000,
        ),
        (
            {
                "proc/self/cgroup": V1_LIST,
                "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{2 * GB}\n",
                "sys/fs/cgroup/memory/memory.usage_in_bytes": f"{3 * GB}\n",
            },
            0,
        ),
    ],
)
def test_memory_is_what_the_machine_and_each_group_leave(files, free, tmp_path, monkeypatch):
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    monkeypatch.setattr(limits, "_ROOT", tmp_path)
    assert available_bytes() == free
