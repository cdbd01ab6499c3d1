"""Devices as plugins: what is found, what is said where it is not, and qaic through its package."""

import os
import subprocess
import sys
import types

import psutil
import pytest

from nbft import hardware, registry
from nbft.config import Config
from nbft.decisions import choose_device, decide
from nbft.devices import Cuda, Device, Qaic, peak_flops
from nbft.plan import make_plan
from nbft.plan.checklist import checklist
from nbft.plan.checks import check


@pytest.fixture
def torch_qaic(monkeypatch):
    """The plugin, as far as its name and its profiler go."""
    module, profile = types.ModuleType("torch_qaic"), types.ModuleType("torch_qaic.profile")
    module.__spec__ = types.SimpleNamespace(name="torch_qaic")
    profile.profile = lambda **arguments: ("profiled", arguments)
    monkeypatch.setitem(sys.modules, "torch_qaic", module)
    monkeypatch.setitem(sys.modules, "torch_qaic.profile", profile)
    return module


def test_qaic_is_said_to_be_absent():
    config = Config(data={"dataset_name": "alpaca"}, compute={"device": "qaic"})
    assert choose_device(config).value == "qaic"
    (problem,) = [p for p in check(config, decide(config)) if p.field == "compute.device"]
    assert "needs the package torch_qaic" in str(problem)
    assert problem.level == "error"


def test_qaic_is_used_where_its_plugin_is(torch_qaic):
    assert hardware.available_devices()["qaic"] == "torch_qaic was found"
    config = Config(data={"dataset_name": "alpaca"}, compute={"device": "qaic"})
    assert str(choose_device(config)) == "qaic (set in the config)"
    assert not [p for p in check(config, decide(config)) if p.field == "compute.device"]
    assert Qaic.backend == "qccl"
    assert Qaic().profile(a=1) == ("profiled", {"a": 1})


def test_torch_knows_a_renamed_device_by_its_name():
    """The plugin renames torch's spare device, in a process of its own as it cannot be undone."""
    code = (
        "import sys, types, torch\n"
        "plugin = types.ModuleType('torch_qaic')\n"
        "plugin.__spec__ = types.SimpleNamespace(name='torch_qaic')\n"
        "sys.modules['torch_qaic'] = plugin\n"
        "torch.utils.rename_privateuse1_backend('qaic')\n"
        "from nbft.hardware import available_devices, device_of\n"
        "device_of('qaic').load()\n"
        "print(torch.device('qaic').type, 'qaic' in available_devices())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["qaic", "True"], done.stderr


def test_auto_takes_no_plugin_by_itself(torch_qaic):
    assert choose_device(Config()).value in ("cpu", "cuda", "mps", "xpu")


def test_a_device_of_ones_own():
    @registry.devices.register("abacus")
    class Abacus(Device):
        def found(self):
            return "an abacus was found"

        def has_bfloat16(self):
            return True

        def free_memory_bytes(self):
            return 10

    try:
        assert hardware.available_devices()["abacus"] == "an abacus was found"
        assert hardware.has_bfloat16("abacus").value == "yes"
        assert hardware.free_memory_bytes("abacus") == 10
        assert Config(compute={"device": "abacus"}).compute.device == "abacus"
    finally:
        registry.devices.unregister("abacus")


def test_the_peak_of_a_device():
    assert peak_flops("cuda", None, "NVIDIA A100-SXM4-80GB was found") == 312e12
    assert peak_flops("cuda", None, "NVIDIA A10G was found") == 125e12
    assert peak_flops("cuda", None, "unheard of") is None
    assert peak_flops("cpu", 0.5) == 5e11


def test_several_processes_talk_through():
    assert (Cuda.backend, Qaic.backend, Device.backend) == ("nccl", "qccl", "gloo")


@pytest.fixture
def nvidia_smi(monkeypatch, tmp_path):
    """A driver that lists this process and two others, one of which is not seen from here."""
    path = tmp_path / "nvidia-smi"
    other, hidden = os.getppid(), 2**22 + 5
    path.write_text(
        f"#!/bin/sh\necho {os.getpid()}, 900\necho {other}, 2048\necho {hidden}, [N/A]\n"
    )
    path.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    hardware._gpu_users.cache_clear()
    yield path
    hardware._gpu_users.cache_clear()


def test_other_processes_on_the_gpu_are_said(nvidia_smi):
    user = psutil.Process(os.getppid()).username()
    assert hardware.other_use("cuda") == (
        f"the GPU is also used by another user and {user} (2.0 GiB)"
    )


@pytest.mark.parametrize("answer", ["", "No devices were found", "a, b, c"])
def test_a_driver_that_says_nothing_of_use(nvidia_smi, answer):
    nvidia_smi.write_text(f"#!/bin/sh\necho '{answer}'\n")
    assert hardware.other_use("cuda") == ""


@pytest.mark.parametrize(
    ("load", "said"),
    [(0.1, ""), (7.9, "the processor is in use: load 7.9 on 8 cores"), (None, "")],
)
def test_a_processor_in_use_is_said(monkeypatch, load, said):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    if load is None:  # Windows
        monkeypatch.delattr(os, "getloadavg")
    else:
        monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    assert hardware.other_use("cpu") == said
    plan = make_plan(Config(data={"dataset_name": "alpaca"}, compute={"device": "cpu"}))
    assert plan.device_use == said
    (machine,) = [str(item) for item in checklist(plan) if item.title == "Machine"]
    assert said in machine
    assert plan.to_dict()["device_use"] == said
