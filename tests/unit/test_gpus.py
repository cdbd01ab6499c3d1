"""GPUs as the drivers list them: which one a process sees, its memory now, and what is assumed."""

from __future__ import annotations

import os
import sys
import types
from pathlib import Path

import pytest

from nbft import devices, hardware
from nbft.config import Config
from nbft.decisions import choose_device, decide
from nbft.plan import make_plan
from nbft.queue import Ticket

GIB = 2**30
T4 = "GPU-aaaa1111, Tesla T4, {free}, 7.5, [N/A]"
TWO = f"{T4.format(free=15000)}\nGPU-bbbb2222, Tesla T4, 9000, 7.5, [N/A]"
A100 = "GPU-cccc3333, NVIDIA A100-SXM4-40GB, [N/A], 8.0, Enabled"
SLICES = """GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-cccc3333)
  MIG 3g.20gb     Device  0: (UUID: MIG-11aa)
  MIG 1g.5gb      Device  1: (UUID: MIG-22bb)
GPU 1: Tesla T4 (UUID: GPU-aaaa1111)
"""
MEMORY = """<nvidia_smi_log><gpu><mig_devices>
<mig_device><index>0</index><fb_memory_usage><total>19968 MiB</total><used>37 MiB</used>
<free>19930 MiB</free></fb_memory_usage><bar1_memory_usage><free>1 MiB</free></bar1_memory_usage>
</mig_device>
<mig_device><index>1</index><fb_memory_usage><total>4864 MiB</total><free>4857 MiB</free>
</fb_memory_usage></mig_device></mig_devices>
<fb_memory_usage><free>N/A</free></fb_memory_usage></gpu></nvidia_smi_log>"""


@pytest.fixture
def driver(monkeypatch, tmp_path):
    """Return a function that installs a driver with its answers; PyTorch is built for it."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(devices, "torch_builds", lambda: {"cuda": "12.6"})
    monkeypatch.setattr(devices, "amd_gpus", lambda: ())
    monkeypatch.setitem(sys.modules, "torch", None)  # as before the first training

    def answer(table, slices="", memory=""):
        for name, text in (("table", table), ("slices", slices), ("memory", memory)):
            (tmp_path / name).write_text(text)
        path = tmp_path / "nvidia-smi"
        path.write_text(
            f'#!/bin/sh\ncase "$1" in\n-L) cat {tmp_path}/slices;;\n-q) cat {tmp_path}/memory;;\n'
            f"--query-gpu*) cat {tmp_path}/table;;\nesac\n"
        )
        path.chmod(0o755)
        devices._listed.cache_clear()

    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    yield answer
    devices._listed.cache_clear()


@pytest.mark.parametrize(
    ("asked", "uuids"),
    [
        (None, ["GPU-aaaa1111", "GPU-bbbb2222"]),
        ("1", ["GPU-bbbb2222"]),
        ("1,0", ["GPU-bbbb2222", "GPU-aaaa1111"]),
        ("GPU-bbbb", ["GPU-bbbb2222"]),
        ("0,7,1", ["GPU-aaaa1111"]),
        ("", []),
        ("-1", []),
        ("aaaa", []),
    ],
)
def test_gpus_that_a_process_sees(driver, monkeypatch, asked, uuids):
    driver(TWO)
    if asked is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", asked)
    assert [gpu.uuid for gpu in devices.gpus()] == uuids
    device = choose_device(Config())
    assert device.value == ("cuda" if uuids else "cpu")
    if len(uuids) == 2:
        assert device.reason == "Tesla T4 was found; one of 2 is used"
    if not uuids:
        named = asked or "empty"
        assert device.reason == f"no GPU was found, and CUDA_VISIBLE_DEVICES is {named}"


@pytest.mark.parametrize(
    ("table", "asked", "one"),
    [
        (TWO, None, "GPU-aaaa1111"),
        (TWO, "1,0", "GPU-bbbb2222"),
        (TWO, "1", "1"),
        (TWO, "GPU-bbbb", "GPU-bbbb"),
        (TWO, "", ""),
        (T4.format(free=15000), None, None),
        ("", "2,3", "2"),  # no driver that lists them
        ("", "MIG-11aa,MIG-22bb", "MIG-11aa"),
        ("", None, None),
    ],
)
def test_a_process_sees_one_gpu(driver, monkeypatch, table, asked, one):
    driver(table)
    if asked is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", asked)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    devices.see_one_gpu()
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == one


def test_the_names_of_gpus(driver, monkeypatch):
    driver(TWO)
    assert devices.names_of("cuda") == ("GPU-aaaa1111", "GPU-bbbb2222")
    assert devices.names_of("cpu") == devices.names_to_take("mps") == ()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,0")
    assert devices.names_of("cuda") == ("GPU-bbbb2222", "GPU-aaaa1111")
    assert devices.names_to_take("cuda") == ("GPU-aaaa1111", "GPU-bbbb2222")
    radeon = devices.Gpu("Radeon", 1, (9, 0))
    driver("")
    monkeypatch.setattr(devices, "amd_gpus", lambda: (radeon, radeon))
    assert devices.names_of("cuda") == devices.names_to_take("cuda") == ()


def test_a_run_takes_gpus_like_the_one_it_is_planned_for(driver):
    driver(
        f"{T4.format(free=700)}\nGPU-b, NVIDIA GT 1030, 9000, 6.1, [N/A]\n"
        "GPU-c, Tesla T4, 15000, 7.5, [N/A]"
    )
    assert devices.names_to_take("cuda") == ("GPU-c", "GPU-aaaa1111")
    assert devices.names_to_take("cuda", 2) == ("GPU-c", "GPU-aaaa1111")
    assert devices.names_to_take("cuda", 3) == ("GPU-aaaa1111", "GPU-b", "GPU-c")
    assert hardware.free_memory_bytes("cuda") == 700 * 2**20
    assert hardware.free_memory_bytes("cuda", 1) == 15000 * 2**20


def test_free_memory_is_that_of_the_freest_gpus(driver):
    driver(f"{T4.format(free=700)}\nGPU-b, Tesla T4, 9000, 7.5, [N/A]")
    assert hardware.free_memory_bytes("cuda") == 700 * 2**20
    assert hardware.free_memory_bytes("cuda", 1) == 9000 * 2**20
    assert hardware.free_memory_bytes("cuda", 2) == 700 * 2**20
    assert hardware.free_memory_bytes("cuda", 9) == 700 * 2**20


@pytest.mark.parametrize(
    ("table", "held", "processes", "said"),
    [
        (TWO, (), 2, "2 processes, since 2 of 2 GPUs are free."),
        (TWO, ("GPU-aaaa1111",), 1, "1 process, since 1 of 2 GPUs is free."),
        (
            TWO,
            ("GPU-aaaa1111", "GPU-bbbb2222"),
            2,
            "2 processes, since there are 2 GPUs; all are in use, so the run waits.",
        ),
        (T4.format(free=15000), (), 1, "1 process, since 1 of 1 GPU is free."),
        ("", (), 1, "1 process, since on a CPU several would share its cores."),
    ],
)
def test_auto_is_a_process_for_each_free_gpu(
    driver, monkeypatch, tmp_path, table, held, processes, said
):
    driver(table)
    monkeypatch.setenv("NBFT_QUEUE", str(tmp_path / "queue"))
    if held:
        ticket = Ticket("cuda", tmp_path / "other", lambda: held, len(held))
        assert ticket.take() is None
    config = Config(distributed={"num_processes": "auto"})
    plan = make_plan(config)
    assert config.distributed.num_processes is None
    assert plan.config.distributed.num_processes == processes
    assert f"distributed.num_processes is auto: {said}" in plan.remarks
    assert plan.devices == processes
    assert make_plan(plan.config).remarks == [r for r in plan.remarks if "is auto" not in r]


@pytest.mark.parametrize(
    ("changes", "processes", "said"),
    [
        ({"data.train.stream": True}, 1, "several do not go with data.train.stream yet."),
        ({"training.method": "grpo"}, 1, "several do not go with training.method=grpo yet."),
        ({"model.device_map": "auto"}, 1, "several do not go with model.device_map yet."),
        (
            {
                "distributed.sharding_parallel_size": 2,
                "distributed.fsdp": "full_shard",
                "precision.mixed_precision": "no",
            },
            2,
            "3 of 3 GPUs are free.",
        ),
    ],
)
def test_auto_asks_for_nothing_that_is_refused(driver, changes, processes, said):
    driver(f"{TWO}\nGPU-cccc3333, Tesla T4, 9000, 7.5, [N/A]")
    config = Config(distributed={"num_processes": "auto"}).apply(changes)
    plan = make_plan(config)
    assert plan.config.distributed.num_processes == processes
    assert any(said in remark for remark in plan.remarks if "is auto" in remark)
    assert not [p for p in plan.errors if p.field.startswith("distributed")]


def test_slices_of_a_gpu_train_one_run_each(driver):
    driver(A100, SLICES, MEMORY)
    auto = make_plan(Config(distributed={"num_processes": "auto"}))
    assert auto.config.distributed.num_processes == 1
    two = make_plan(Config(distributed={"num_processes": 2}))
    (problem,) = (p for p in two.errors if p.field == "distributed.num_processes")
    assert problem.why.startswith("needs whole GPUs, and those here are slices (MIG)")


def test_free_memory_is_that_of_now_on_the_card_that_is_used(driver, monkeypatch):
    driver(TWO)
    assert hardware.free_memory_bytes("cuda") == 15000 * 2**20
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert hardware.free_memory_bytes("cuda") == 9000 * 2**20
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    now = devices.time.monotonic()
    monkeypatch.setattr(devices.time, "monotonic", lambda: now)
    devices._listed.cache_clear()
    assert hardware.free_memory_bytes("cuda") == 15000 * 2**20
    Path(os.environ["PATH"].split(os.pathsep)[0], "table").write_text(T4.format(free=700))
    monkeypatch.setattr(devices.time, "monotonic", lambda: now + 3)
    assert hardware.free_memory_bytes("cuda") == 700 * 2**20


def test_slices_of_a_partitioned_gpu(driver, monkeypatch):
    driver(f"{A100}\n{T4.format(free=15000)}", SLICES, MEMORY)
    assert [(gpu.name, gpu.free_bytes // 2**20, gpu.uuid) for gpu in devices.gpus()] == [
        ("NVIDIA A100-SXM4-40GB MIG 3g.20gb", 19930, "MIG-11aa"),
        ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", 4857, "MIG-22bb"),
        ("Tesla T4", 15000, "GPU-aaaa1111"),
    ]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-22bb")
    assert hardware.free_memory_bytes("cuda") == 4857 * 2**20
    assert hardware.assumptions("cuda") == []
    decisions = decide(Config())
    assert str(decisions.device) == "cuda (NVIDIA A100-SXM4-40GB MIG 1g.5gb was found)"
    assert decisions.dtype.value == "bfloat16"


@pytest.mark.parametrize(
    ("table", "slices", "free_bytes", "said"),
    [
        (
            A100,
            SLICES,
            20 * 10**9,
            (
                "The driver does not report the free memory of NVIDIA A100-SXM4-40GB MIG 3g.20gb; all "
                "of it is assumed."
            ),
        ),
        (
            "GPU-dddd, NVIDIA GB10, [N/A], 12.1, [N/A]",
            "",
            5 * GIB,
            (
                "The driver does not report the free memory of NVIDIA GB10; that of the machine is "
                "assumed."
            ),
        ),
        (
            "GPU-dddd, Tesla X, 1000, [N/A], [N/A]",
            "",
            1000 * 2**20,
            (
                "The driver does not report the compute capability of Tesla X; 7.0 is assumed, which "
                "has no bfloat16."
            ),
        ),
    ],
)
def test_what_is_assumed_is_said_by_the_plan(driver, monkeypatch, table, slices, free_bytes, said):
    monkeypatch.setattr(devices, "available_bytes", lambda: 5 * GIB)
    driver(table, slices)
    plan = make_plan(Config(data={"dataset_name": "alpaca"}))
    assert plan.device.value == "cuda"
    assert plan.free_memory_bytes == free_bytes
    assert said in plan.remarks


@pytest.mark.parametrize("answer", ["No devices were found", "a, b, c", "[N/A], [N/A]", "\n,,,,,"])
def test_a_driver_that_answers_nonsense(driver, answer):
    driver(answer)
    assert choose_device(Config()).reason == "no GPU was found"


@pytest.mark.parametrize(
    ("builds", "table", "reason"),
    [
        ({}, TWO, "Tesla T4 was found; one of 2 is used"),
        (
            {"cpu": "2.13.0+cpu"},
            TWO,
            "Tesla T4 cannot be used: the installed PyTorch is built for CPUs, not for CUDA",
        ),
        (
            {"hip": "7.1"},
            TWO,
            "Tesla T4 cannot be used: the installed PyTorch is built for ROCm, not for CUDA",
        ),
        ({"cuda": "13.0"}, T4.format(free=1), "Tesla T4 was found"),
        ({"cuda": "12.6"}, "GPU-p, Tesla P100, 16000, 6.0, [N/A]", "Tesla P100 was found"),
        (
            {"cuda": "12.8"},
            "GPU-p, Tesla P100, 16000, 6.0, [N/A]",
            (
                "Tesla P100 cannot be used: PyTorch built for CUDA 12.8 has no kernels for compute "
                "capability 6.0; install a build for CUDA 12.6"
            ),
        ),
        (
            {"cuda": "13.2"},
            "GPU-v, Tesla V100, 16000, 7.0, [N/A]",
            (
                "Tesla V100 cannot be used: PyTorch built for CUDA 13.2 has no kernels for compute "
                "capability 7.0; install a build for CUDA 12.6"
            ),
        ),
    ],
)
def test_a_gpu_that_pytorch_is_not_built_for(driver, monkeypatch, builds, table, reason):
    driver(table)
    monkeypatch.setattr(devices, "torch_builds", lambda: builds)
    device = choose_device(Config())
    assert device.reason == reason
    assert device.value == ("cuda" if "was found" in reason else "cpu")


def test_what_pytorch_is_built_for_is_read_without_it():
    import torch

    devices.torch_builds.cache_clear()
    built = {name: getattr(torch.version, name, None) for name in ("cuda", "hip", "xpu")}
    expected = {name: version for name, version in built.items() if version}
    assert devices.torch_builds() == (expected or {"cpu": torch.__version__})


def test_amd_gpus(tmp_path):
    nodes = tmp_path / "kfd/kfd/topology/nodes"
    for number, version in ((0, 0), (1, 90402)):
        (nodes / str(number)).mkdir(parents=True)
        (nodes / str(number) / "properties").write_text(
            f"cpu_cores_count 1\ngfx_target_version {version}\n"
        )
    cards = {0: ("0x1a03", "1", "0", ""), 1: ("0x1002", f"{192 * GIB}", f"{GIB}", "MI300X OAM")}
    for number, (vendor, total, used, name) in cards.items():
        card = tmp_path / f"drm/card{number}/device"
        card.mkdir(parents=True)
        (card / "vendor").write_text(f"{vendor}\n")
        (card / "mem_info_vram_total").write_text(f"{total}\n")
        (card / "mem_info_vram_used").write_text(f"{used}\n")
        (card / "product_name").write_text(f"{name}\n")
    assert devices.amd_gpus(tmp_path) == (devices.Gpu("MI300X OAM", 191 * GIB, (9, 4)),)
    assert devices.amd_gpus(tmp_path / "nothing") == ()
    assert not devices.has_intel_gpu(tmp_path)
    (tmp_path / "drm/card0/device/vendor").write_text("0x8086\n")
    assert devices.has_intel_gpu(tmp_path)


def test_an_intel_gpu_is_planned_for_before_torch_is_loaded(driver, monkeypatch):
    driver("")
    monkeypatch.setattr(devices, "has_intel_gpu", lambda: True)
    assert choose_device(Config()).value == "cpu"
    monkeypatch.setattr(devices, "torch_builds", lambda: {"xpu": "20250301"})
    plan = make_plan(Config(data={"dataset_name": "alpaca"}))
    assert (plan.device.value, plan.dtype.value) == ("xpu", "bfloat16")
    assert "The system does not report the free memory of the Intel GPU" in " ".join(plan.remarks)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems cannot begin a peak anew")
def test_the_peak_of_a_run_is_its_own():
    block = bytearray(400 * 2**20)
    for place in range(0, len(block), 4096):
        block[place] = 1
    before = hardware.peak_memory_bytes("cpu")
    del block
    hardware.begin_peak()
    assert hardware.peak_memory_bytes("cpu") < before - 300 * 2**20


def test_torch_is_asked_once_cuda_runs(driver, monkeypatch):
    """Before, to ask it would start CUDA, which takes memory on the GPU for the kernel's life."""
    driver(TWO)
    asked = []

    class Cuda:
        def is_available(self):
            return True

        def is_initialized(self):
            return bool(asked)

        def mem_get_info(self):
            return 4321, 10_000

        def get_device_capability(self, number):
            return 9, 0

    monkeypatch.setitem(sys.modules, "torch", types.SimpleNamespace(cuda=Cuda()))
    assert hardware.free_memory_bytes("cuda") == 15000 * 2**20
    assert hardware.compute_capability() == (7, 5)
    asked.append(1)
    assert hardware.free_memory_bytes("cuda") == 4321
    assert hardware.compute_capability() == (9, 0)


def test_a_processor_of_a_machine_with_gpus_is_one_device():
    two = hardware.Hardware("two", GIB, "cuda", (devices.Gpu("T4", 2 * GIB, (7, 5)),) * 2)
    with hardware.planning_for(two):
        assert choose_device(Config(compute={"device": "cpu"})).reason == "set in the config"
        assert hardware.free_memory_bytes("cpu") == GIB
        assert hardware.free_memory_bytes("cuda") == 2 * GIB
        chosen = choose_device(Config(compute={"device": "cuda"}))
        assert chosen.reason == "set in the config; one of 2 is used"
    assert "T4" not in str(hardware.available_devices())
