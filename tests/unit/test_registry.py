"""Keys of one's own: by decorator and by entry point; an unknown key names the known."""

import functools
import importlib.metadata
import subprocess
import sys

import pytest

import nbft
from nbft import consent, registry
from nbft.config import Config, settings
from nbft.errors import ConfigError
from nbft.registry import ALL, Registry


@pytest.fixture
def own():
    return Registry("things", "nbft.things", {"built_in": "json:dumps", "theirs": ""})


def test_a_decorator_registers_and_returns(own):
    @own.register("mine")
    def mine():
        return 1

    assert own.get("mine") is mine
    assert mine() == 1
    assert own.keys() == ("built_in", "theirs", "mine")
    assert own.is_own("mine")
    assert not own.is_own("built_in")
    own.unregister("mine")
    assert "mine" not in own


def test_running_a_cell_twice_replaces(own):
    own.register("mine")(1)
    own.register("mine")(2)
    assert own.get("mine") == 2


def test_what_is_built_in_is_imported_when_asked_for(own):
    import json

    assert own.get("built_in") is json.dumps
    assert own.get("theirs") is None


def test_a_built_in_key_is_taken(own):
    with pytest.raises(ConfigError, match=r"registry\.things='theirs': is built in"):
        own.register("theirs")
    with pytest.raises(ConfigError, match="is not a valid key"):
        own.register(" ")


def test_an_unknown_key_names_the_known_and_the_nearest(own):
    with pytest.raises(ConfigError) as caught:
        own.get("built_on")
    assert str(caught.value) == (
        "registry.things='built_on': is not one of built_in, theirs. Use built_in."
    )
    with pytest.raises(ConfigError, match=r"Register your own with nbft\.registry\.things"):
        own.get("zzz")


def test_packages_offer_keys_by_entry_points(monkeypatch, own):
    asked = []

    def entry_points():
        asked.append("all")
        made = functools.partial(importlib.metadata.EntryPoint, group="nbft.things")
        return importlib.metadata.EntryPoints(
            [
                made("of_a_package", "json:loads"),
                made("broken", "no_such_module:x"),
                made("theirs", "json:load"),  # a key that is built in stays so
                importlib.metadata.EntryPoint("else", "json:load", "nbft.others"),
            ]
        )

    monkeypatch.setattr(registry, "_entry_points_of_packages", entry_points)
    assert "built_in" in own
    assert asked == []  # not looked at for what is built in
    import json

    with pytest.raises(
        ConfigError, match=r"would run code from a package \(json:loads\), which you"
    ):
        own.get("of_a_package")
    consent.allow(own.code("of_a_package", "a.setting"))
    consent.allow(own.code("broken", "a.setting"))
    assert own.get("of_a_package") is json.loads
    assert own.get("theirs") is None
    assert own.keys() == ("built_in", "theirs", "of_a_package", "broken")
    assert asked == ["all"]
    with pytest.raises(ConfigError, match="no_such_module:x, which cannot be imported"):
        own.get("broken")


def test_the_packages_are_read_once_for_all_registries(monkeypatch):
    asked = []
    entry_points = importlib.metadata.entry_points

    def counted(**group):
        asked.append(group)
        return entry_points(**group)

    monkeypatch.setattr(importlib.metadata, "entry_points", counted)
    registry._entry_points_of_packages.cache_clear()
    for name in "ab":
        assert Registry(name, f"nbft.{name}").keys() == ()
    assert asked == [{}]


def test_there_is_one_for_each_kind_of_component():
    names = "models datasets trainers optimizers schedulers collators metrics rewards callbacks"
    names += " devices launchers exports checks"
    assert [one.name for one in ALL] == names.split()
    assert [one.entry_point_group for one in ALL] == [f"nbft.{name}" for name in names.split()]
    assert nbft.registry is registry


@pytest.mark.parametrize("one", ALL, ids=lambda one: one.name)
def test_every_built_in_key_can_be_imported(one):
    for key in one._builtin:
        one.get(key)


@pytest.mark.parametrize(
    ("path", "one"),
    [
        ("training.method", registry.trainers),
        ("optimizer.optim", registry.optimizers),
        ("scheduler.lr_scheduler_type", registry.schedulers),
        ("compute.device", registry.devices),
    ],
)
def test_a_setting_takes_registered_keys_and_offers_them(path, one):
    with pytest.raises(ConfigError, match="mine_own"):
        Config().apply({path: "mine_own"})
    one.register("mine_own")(object)
    try:
        Config().apply({path: "mine_own"})
        (setting,) = [s for s in settings() if s.path == path]
        assert "mine_own" in setting.choices
    finally:
        one.unregister("mine_own")
    (setting,) = [s for s in settings() if s.path == path]
    assert "mine_own" not in setting.choices


def test_names_of_other_systems():
    found = {
        name: Config(optimizer={"optim": name}).optimizer.optim
        for name in ("adam", "adamw", "paged_adamw", "adamw_torch")
    }
    assert found == {
        "adam": "adam",
        "adamw": "adamw_torch",
        "paged_adamw": "paged_adamw_32bit",
        "adamw_torch": "adamw_torch",
    }


def test_callbacks_are_looked_up():
    config = Config(callbacks={"callbacks": {"printer": None, "profiler": {"first_step": 3}}})
    assert config.callbacks.callbacks == {"printer": {}, "profiler": {"first_step": 3}}
    with pytest.raises(ConfigError, match=r"prnter is not one of early_stopping, .* Use printer\."):
        Config(callbacks={"callbacks": {"prnter": {}}})


def test_asking_for_keys_is_light():
    code = (
        "import nbft, sys\n"
        "[one.keys() for one in nbft.registry.ALL]\n"
        "print([m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr
