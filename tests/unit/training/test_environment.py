import json
import logging
import os
import sys
from types import SimpleNamespace

import pytest
import torch

from nbft import registry
from nbft.config import Config
from nbft.devices import Device
from nbft.hardware import Choice
from nbft.training import environment as module
from nbft.training.environment import environment, variables


def test_trackers_get_project_and_tags():
    config = Config(tracking={"report_to": ["wandb"], "project": "mine", "tags": ["a", "b"]})
    found = variables(config, "cpu")
    assert found["WANDB_PROJECT"] == found["COMET_PROJECT_NAME"] == "mine"
    assert found["MLFLOW_EXPERIMENT_NAME"] == "mine"
    assert found["WANDB_TAGS"] == found["COMET_START_EXPERIMENT_TAGS"] == "a,b"
    assert json.loads(found["MLFLOW_TAGS"]) == {"a": "true", "b": "true"}
    assert variables(Config(tracking={"tags": ["a"]}), "cpu") == {}


def test_variables_are_put_back(monkeypatch):
    monkeypatch.setenv("WANDB_PROJECT", "theirs")
    monkeypatch.delenv("WANDB_TAGS", raising=False)
    config = Config(tracking={"report_to": ["wandb"], "project": "mine", "tags": ["a"]})
    seen = {}

    def fail():
        with environment(config, "cpu"):
            seen.update(os.environ)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert (seen["WANDB_PROJECT"], seen["WANDB_TAGS"]) == ("mine", "a")
    assert os.environ["WANDB_PROJECT"] == "theirs"
    assert "WANDB_TAGS" not in os.environ


def test_a_tracker_without_a_login_is_kept_offline(monkeypatch):
    """And whatever would make it ask for a key comes back after the run."""
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("TRACKIO_SPACE_ID", "me/runs")
    monkeypatch.delenv("COMET_START_ONLINE", raising=False)
    config = Config(tracking={"report_to": ["wandb", "comet_ml", "trackio"]})
    names = ("WANDB_MODE", "COMET_START_ONLINE", "TRACKIO_SPACE_ID")
    uses = {"wandb": Choice("offline", ""), "comet_ml": Choice("offline", "")}
    with environment(config, "cpu", uses | {"trackio": Choice("local", "")}):
        assert [os.environ.get(name) for name in names] == ["offline", "0", None]
    assert [os.environ.get(name) for name in names] == ["online", None, "me/runs"]
    with environment(config, "cpu", dict.fromkeys(uses, Choice("online", ""))):
        assert [os.environ.get(name) for name in names] == ["online", None, "me/runs"]


class Wandb:
    """As much of W&B as reads its settings: once in a process, from variables."""

    def __init__(self):
        self.settings = None

    def setup(self, settings=None):
        if self.settings is None:
            tags = os.environ.get("WANDB_TAGS", "")
            mode = os.environ.get("WANDB_MODE", "online")
            self.settings = SimpleNamespace(
                mode=mode, run_tags=tuple(filter(None, tags.split(",")))
            )
        if settings is not None:
            vars(self.settings).update(vars(settings))
        return self

    def Settings(self, **settings):  # noqa: N802 - W&B's name
        return SimpleNamespace(**settings)


@pytest.mark.parametrize("is_loaded_before", [True, False])
def test_wandb_takes_the_mode_and_tags_of_each_run(monkeypatch, is_loaded_before):
    """Though it reads them only once: the second run of a kernel is not the first again."""
    wandb = Wandb()
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.delitem(sys.modules, "wandb", raising=False)
    if is_loaded_before:
        monkeypatch.setitem(sys.modules, "wandb", wandb)
        wandb.setup()
    for mode, tags in (("offline", ["a"]), ("online", ["b", "c"]), ("offline", [])):
        config = Config(tracking={"report_to": ["wandb"], "tags": tags})
        with environment(config, "cpu", {"wandb": Choice(mode, "")}):
            monkeypatch.setitem(sys.modules, "wandb", wandb)  # its callback imports it
            found = wandb.setup().settings
            assert (found.mode, found.run_tags) == (mode, tuple(tags))
        assert (wandb.settings.mode, wandb.settings.run_tags) == ("online", ())


@pytest.mark.parametrize("ours", ["debug", "warning"])
@pytest.mark.parametrize("theirs", [None, "error"])
def test_levels_of_ours_and_of_the_libraries(ours, theirs):
    names = ("nbft", "trl", "datasets")
    before = [logging.getLogger(name).level for name in names]
    config = Config(logging={"log_level": ours, "dep_log_level": theirs})
    with environment(config, "cpu"):
        assert logging.getLogger("nbft").level == getattr(logging, ours.upper())
        expected = [logging.ERROR] * 2 if theirs else before[1:]
        assert [logging.getLogger(name).level for name in names[1:]] == expected
    assert [logging.getLogger(name).level for name in names] == before


def test_determinism_ends_with_the_run():
    config = Config(training={"full_determinism": True})
    with environment(config, "cpu"):
        torch.use_deterministic_algorithms(True)  # as transformers does
        torch.backends.cudnn.deterministic = True
    assert not torch.are_deterministic_algorithms_enabled()
    assert not torch.backends.cudnn.deterministic


def test_a_plugin_is_loaded_and_named_to_accelerate():
    loaded = []

    @registry.devices.register("abacus")
    class Abacus(Device):
        def found(self):
            return "an abacus was found"

        def load(self):
            loaded.append(os.environ["ACCELERATE_TORCH_DEVICE"])

    try:
        with environment(Config(), "abacus"):
            pass
    finally:
        registry.devices.unregister("abacus")
    assert loaded == ["abacus"]
    assert "ACCELERATE_TORCH_DEVICE" not in os.environ


def test_no_more_threads_than_granted_cores(monkeypatch):
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        monkeypatch.setattr(module, "usable_cores", lambda: 1)
        with environment(Config(), "cpu"):
            assert torch.get_num_threads() == 1
        assert torch.get_num_threads() == 2
        monkeypatch.setattr(module, "usable_cores", lambda: 64)
        with environment(Config(), "cpu"):
            assert torch.get_num_threads() == 2  # what somebody has set stays
    finally:
        torch.set_num_threads(before)
