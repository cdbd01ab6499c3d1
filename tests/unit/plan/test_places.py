"""Where a run could train: each place with a plan of its own, and what it lacks."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

import nbft
from nbft.cli import app
from nbft.config import Config
from nbft.devices import Gpu
from nbft.hardware import Hardware, planning_for
from nbft.plan import places as module

T4 = Gpu("Tesla T4", 14 * 2**30, (7, 5))


@pytest.fixture
def config() -> Config:
    return Config.preset("two-minute-try")


@pytest.fixture
def no_slurm(monkeypatch):
    monkeypatch.setattr(module.shutil, "which", lambda name: None)


def machine(*gpus):
    return planning_for(Hardware("a machine", 30 * 2**30, "cuda" if gpus else "cpu", gpus))


def test_a_machine_without_a_gpu_has_one_place_and_says_what_the_cluster_lacks(config, no_slurm):
    here, cluster = nbft.places(config)
    assert here.settings["compute.device"] == "cpu"
    assert here.plan.device.value == "cpu"
    assert here.is_chosen
    assert not here.missing
    assert cluster.missing == "sbatch was not found. Start nbft on a machine of the cluster."
    assert cluster.remark.startswith("Planned for a node")
    assert not cluster.is_chosen


def test_without_submitit_the_cluster_says_so(config, monkeypatch):
    monkeypatch.setattr(module, "is_installed", lambda package: False)
    *_, cluster = nbft.places(config)
    assert cluster.missing == "Needs submitit. Install it with: pip install submitit"


def test_each_place_is_planned_on_its_own(config, no_slurm):
    with machine(T4, T4):
        one, two, cpu, _ = nbft.places(config)
    assert [place.plan.device.value for place in (one, two, cpu)] == ["cuda", "cuda", "cpu"]
    assert [place.plan.devices for place in (one, two)] == [1, 2]
    assert two.plan.seconds < one.plan.seconds < cpu.plan.seconds


@pytest.mark.parametrize(
    ("batch", "accumulation", "processes", "alike", "becomes"),
    [
        (8, 1, 2, 1, (4, 1)),
        (4, 4, 2, 1, (4, 2)),
        (4, 4, 8, 1, (2, 1)),
        (6, 1, 4, 1, None),
        (4, 2, 4, 2, (4, 1)),
    ],
)
def test_several_processes_take_the_same_steps(batch, accumulation, processes, alike, becomes):
    config = Config(
        training={
            "per_device_train_batch_size": batch,
            "gradient_accumulation_steps": accumulation,
        },
        distributed={"tensor_parallel_size": alike},
    )
    found = module._steps_as_before(config, processes)
    assert (tuple(found.values()) or None) == becomes
    back = config.apply({module._PROCESSES: processes, **found})
    if becomes:
        assert module._steps_as_before(back, 1) == {
            module._BATCH: becomes[0],
            module._ACCUMULATION: batch * accumulation // becomes[0],
        }


def test_steps_that_differ_are_said(config, no_slurm):
    with machine(T4, T4):
        _, two, *_ = nbft.places(config.apply({module._BATCH: 3}))
    assert two.remark == "A step learns from 6 rows instead of 3."


def test_what_a_place_cannot_do_is_said_there(config, no_slurm):
    asked = config.apply({"distributed.tensor_parallel_size": 4})
    with machine(T4, T4):
        _, two, *_ = nbft.places(asked)
    assert two.missing.startswith("distributed.tensor_parallel_size=4")


def test_what_is_wrong_anywhere_is_not_called_ready():
    assert "1 problem to fix first." in str(nbft.places(Config()))


def test_a_place_without_the_memory_is_not_called_ready(config, no_slurm):
    with machine(Gpu("Tesla T4", 2**28, (7, 5))):
        text = str(nbft.places(config))
    assert "Too little memory." in text.splitlines()[5]


@pytest.mark.parametrize(
    ("settings", "chosen"),
    [
        ({}, "Tesla T4"),
        ({"compute.device": "cpu"}, "the processor"),
        ({"distributed.num_processes": 2}, "2 × Tesla T4"),
        ({"distributed.num_processes": "auto"}, "2 × Tesla T4"),
        ({"compute.launcher": "slurm"}, "Slurm cluster"),
        ({"compute.device": "cpu", "distributed.num_processes": 3}, "3 processes on the processor"),
    ],
)
def test_the_place_that_the_config_leads_to_is_marked(config, no_slurm, settings, chosen):
    with machine(T4, T4):
        found = nbft.places(config.apply(settings))
    assert [place.title for place in found if place.is_chosen] == [chosen]


def test_a_device_names_the_runs_and_users_on_it(monkeypatch):
    cards = [Gpu("Tesla T4", 14 * 2**30, (7, 5), f"GPU-{n}") for n in "ab"]
    monkeypatch.setattr(
        module, "available_devices", lambda: {"cpu": "a CPU", "cuda": "T4 was found"}
    )
    monkeypatch.setattr(module.devices, "gpus", lambda: tuple(cards))
    runs = {"cuda": [("kind-otter-14", ["GPU-b"]), ("of alice", [])], "cpu": []}
    monkeypatch.setattr(module, "held", runs.get)
    monkeypatch.setattr(module, "gpu_users", lambda uuid: ["bob (2.0 GiB)"] * (uuid == "GPU-a"))
    monkeypatch.setattr(
        module, "other_use", lambda _: "the processor is in use: load 7.9 on 8 cores"
    )
    users = [device.users for device in module.devices_here()]
    assert users == [
        ("run of alice", "bob (2.0 GiB)"),
        ("run kind-otter-14", "run of alice"),
        ("load 7.9 on 8 cores",),
    ]


def test_the_tables_have_words_for_everything(config):
    table = nbft.places(config)
    assert "Ready." in str(table)
    assert table._repr_html_().count("<tr>") == 2 + len(table) + len(table.here)


def test_the_command_line_prints_them(config, tmp_path):
    path = tmp_path / "config.yaml"
    config.save(path)
    done = CliRunner().invoke(app, ["places", str(path), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert [place["plan"]["devices"] for place in found["places"]] == [1, 1]
    assert [device["users"] for device in found["devices"]]


def test_the_cheapest_of_each_provider_that_fits_stands_beside(
    config, no_slurm, monkeypatch, tmp_path
):
    monkeypatch.setenv("SKY_RUNTIME_DIR", str(tmp_path))
    assert nbft.places(config).remarks == [
        "Rented GPUs: no price list is on this machine. Get the lists: nbft cloud prices."
    ]
    for sky, gpu in (("runpod", "L4"), ("vast", "T4")):
        path = tmp_path / ".sky" / "catalogs" / "v8" / sky / "vms.csv"
        path.parent.mkdir(parents=True)
        head = "InstanceType,AcceleratorName,AcceleratorCount,Price,SpotPrice,Region,GpuInfo\n"
        path.write_text(f"{head}a,{gpu},1,0.5,,US,\nb,H100,1,3.5,,US,\n")
    found = nbft.places(config)
    rented = [place for place in found if place.offer]
    assert [place.title for place in rented] == ["RunPod: L4", "Vast.ai: T4"]
    assert not any(place.settings or place.is_chosen for place in rented)
    assert [text.split(":")[0] for text in found.remarks] == [
        "Prices of RunPod",
        "Prices of Vast.ai",
    ]
    low, high = rented[0].offer.cost_usd()
    assert f"about {low:.2f} to {high:.2f} USD" in str(found)
    assert found.to_dict()["places"][-1]["usd_per_hour"] == 0.5
