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


def test_a_machine_without_a_gpu_has_one_place_and_says_what_the_cluster_lacks(config, monkeypatch):
    monkeypatch.setattr(module.shutil, "which", lambda name: None)
    here, cluster = nbft.places(config)
    assert here.settings["compute.device"] == "cpu"
    assert here.plan.device.value == "cpu"
    assert not here.missing
    assert cluster.missing == "sbatch was not found. Start nbft on a machine of the cluster."


def test_each_place_is_planned_on_its_own(config):
    with planning_for(Hardware("two T4", 30 * 2**30, "cuda", (T4, T4))):
        found = {place.title: place for place in nbft.places(config)}
    one, two, cpu = (found[t] for t in found if t != "Slurm cluster")
    assert [place.plan.device.value for place in (one, two, cpu)] == ["cuda", "cuda", "cpu"]
    assert [place.plan.devices for place in (one, two)] == [1, 2]
    assert one.plan.seconds < cpu.plan.seconds


def test_what_a_place_cannot_do_is_said_there(config):
    asked = config.apply({"distributed.tensor_parallel_size": 4})
    with planning_for(Hardware("two T4", 30 * 2**30, "cuda", (T4, T4))):
        _, two, *_ = nbft.places(asked)
    assert two.missing.startswith("distributed.tensor_parallel_size=4")


def test_what_is_wrong_anywhere_is_not_called_ready():
    assert "1 problem to fix first." in str(nbft.places(Config()))


def test_the_place_that_the_config_names_is_marked(config):
    named = config.apply({"compute.device": "cpu", "distributed.num_processes": 1})
    assert [place.is_chosen for place in nbft.places(named)] == [True, False]


def test_the_table_has_words_for_everything(config):
    table = nbft.places(config)
    assert "Ready." in str(table)
    assert table._repr_html_().count("<tr>") == 1 + len(table)


def test_the_command_line_prints_them(config, tmp_path):
    path = tmp_path / "config.yaml"
    config.save(path)
    done = CliRunner().invoke(app, ["places", str(path), "--json"])
    assert done.exit_code == 0, done.output
    assert [place["plan"]["devices"] for place in json.loads(done.stdout)] == [1, 1]
