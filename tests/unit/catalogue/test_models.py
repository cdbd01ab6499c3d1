from __future__ import annotations

import os
import socket
import time
from pathlib import Path

import pytest
from huggingface_hub import constants

from nbft.catalogue.models import DEFAULT, known_models, models, search_models
from nbft.errors import NbftError

GIB = 2**30


@pytest.fixture(autouse=True)
def _small_machine(empty_cache, monkeypatch):
    """No model is here, and 6 GiB of memory are free."""
    has_memory(monkeypatch, 6 * GIB)


def has_memory(monkeypatch, free_bytes):
    monkeypatch.setattr("nbft.plan.advice.free_memory_bytes", lambda device: free_bytes)


def cached(cache, name, make_model):
    repository = cache / f"models--{name.replace('/', '--')}"
    folder = make_model(repository / "snapshots" / "abc")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("abc")
    return folder


def named(choices, name):
    return next(choice for choice in choices if choice.name == name)


def test_an_empty_machine_offers_the_default_and_well_known_models(config, tmp_path):
    choices = models(config, folder=tmp_path)
    first = choices[0]
    assert (first.name, first.source, first.is_local) == (DEFAULT, "known", False)
    assert (first.where, first.license, first.context_tokens) == (
        "download 257 MiB",
        "apache-2.0",
        8192,
    )
    assert {choice.name for choice in choices} == {DEFAULT, *known_models()} - {
        "HuggingFaceTB/SmolLM2-135M-Instruct"
    }


def test_what_fits_comes_first_and_what_does_not_says_why(config, tmp_path):
    choices = models(config, folder=tmp_path)
    usable = [choice.fit.is_usable for choice in choices]
    assert usable == sorted(usable, reverse=True)
    large = choices[-1]
    assert large.name == "meta-llama/Llama-3.3-70B-Instruct"
    assert str(large.fit).startswith("does not fit: needs ")
    assert str(large.fit).endswith(" of 6.0 GiB")
    assert large.fit.needed_bytes > 6 * GIB
    assert large.is_gated


def test_four_bits_are_offered_where_they_are_what_makes_it_fit(config, tmp_path, monkeypatch):
    monkeypatch.setattr("nbft.catalogue.models.is_installed", lambda package: True)
    has_memory(monkeypatch, 8 * GIB)
    fit = named(models(config, folder=tmp_path), "Qwen/Qwen3-8B").fit
    assert (str(fit), fit.is_usable) == ("fits with 4-bit", True)
    assert config.apply(dict(fit.changes)).quantization.bits == 4
    monkeypatch.setattr("nbft.catalogue.models.is_installed", lambda package: False)
    fit = named(models(config, folder=tmp_path), "Qwen/Qwen3-8B").fit
    assert fit.verdict == "does not fit"


def test_lora_is_offered_where_full_training_does_not_fit(config, tmp_path):
    full = config.apply({"peft.method": "full"})
    choice = named(models(full, folder=tmp_path), "Qwen/Qwen2.5-0.5B-Instruct")
    assert choice.fit.verdict == "fits with LoRA"
    changed = full.apply(dict(choice.fit.changes))
    again = named(models(changed, folder=tmp_path), choice.name)
    assert again.fit.verdict == "fits"
    assert again.fit.needed_bytes == choice.fit.needed_bytes


def test_models_of_the_caches_are_found(config, tmp_path, empty_cache, make_model):
    folder = cached(empty_cache, "owner/in-hub", make_model)
    make_model(empty_cache / "models" / "other--in-nbft")
    choices = models(config, folder=tmp_path)
    assert [choice.name for choice in choices[:2]] == ["other/in-nbft", "owner/in-hub"]
    choice = choices[1]
    assert (choice.path, choice.source, choice.is_local) == (folder, "machine", True)
    assert choice.where == "on this machine, 128 MiB"
    assert choice.parameters == 99_876_864
    assert choice.context_tokens == 2048
    assert choice.fit.verdict == "fits"


def test_the_fit_of_a_model_that_is_here_follows_the_settings(
    config, tmp_path, empty_cache, make_model
):
    cached(empty_cache, "owner/name", make_model)

    def needed(changed):
        return named(models(changed, folder=tmp_path), "owner/name").fit.needed_bytes

    twice = config.apply({"training.per_device_train_batch_size": 8})
    assert needed(twice) > needed(config)
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    for name in ("model_name", "adapter_name_or_path"):
        continued = config.apply({f"model.{name}": str(tmp_path / "adapter")})
        assert needed(continued) == needed(config), "an adapter belongs to its own model"
    longer = models(config, [1000] * 20, folder=tmp_path)
    assert named(longer, "owner/name").fit.needed_bytes > needed(config)


def test_the_default_is_one_model_under_both_of_its_names(
    config, tmp_path, empty_cache, make_model
):
    cached(empty_cache, "HuggingFaceTB/SmolLM2-135M-Instruct", make_model)
    same = [c for c in models(config, folder=tmp_path) if "135" in c.name]
    assert [(choice.name, choice.is_local) for choice in same] == [(DEFAULT, True)]


def test_only_what_the_auto_class_loads_is_offered(config, tmp_path, make_model):
    make_model(tmp_path / "encoder", "BertForMaskedLM")
    make_model(tmp_path / "sequence", "T5ForConditionalGeneration")
    (tmp_path / "no-weights").mkdir()
    (tmp_path / "no-weights" / "config.json").write_text("{}")
    assert not any(choice.is_local for choice in models(config, folder=tmp_path))
    t5 = config.apply({"model.auto_class_name": "AutoModelForSeq2SeqLM"})
    here = [choice.title for choice in models(t5, folder=tmp_path) if choice.is_local]
    assert here == ["sequence"]


def test_folders_nearby_are_found_to_the_second_level(config, tmp_path, make_model):
    make_model(tmp_path / "mine")
    make_model(tmp_path / "models" / "deeper")
    make_model(tmp_path / "a" / "b" / "too-deep")
    make_model(tmp_path / ".hidden")
    (tmp_path / "mine" / "README.md").write_text("---\nlanguage: en\nlicense: mit\n---\n# Mine\n")
    here = [choice for choice in models(config, folder=tmp_path) if choice.is_local]
    assert [choice.title for choice in here] == ["mine", str(Path("models/deeper"))]
    assert here[0].name == str(tmp_path / "mine")
    assert here[0].license == "mit"


def test_results_of_runs_and_models_they_used(config, tmp_path, make_model, make_run, monkeypatch):
    has_memory(monkeypatch, 20 * GIB)
    older = make_run("older", model={"model_name": "Qwen/Qwen2.5-0.5B-Instruct"})
    os.utime(older / "config.yaml", (1000, 1000))
    newer = make_run("newer", model={"model_name": "someone/Mystery-3B"})
    make_model(newer / "merged")
    choices = models(config, folder=tmp_path)
    assert (choices[0].source, choices[0].title) == ("run", "newer, merged")
    assert choices[0].name == str(newer / "merged")
    mystery = named(choices, "someone/Mystery-3B")
    assert (mystery.source, mystery.parameters) == ("recent", 3 * 10**9)
    assert named(choices, "Qwen/Qwen2.5-0.5B-Instruct").last_used == 1000
    used = [choice.name for choice in choices if choice.last_used]
    assert used == ["someone/Mystery-3B", "Qwen/Qwen2.5-0.5B-Instruct"], "the newest first"


def test_a_folder_that_a_run_used_is_offered_while_it_is_there(
    config, tmp_path, make_model, make_run
):
    far = make_model(tmp_path / "far" / "away" / "from-here")
    make_run("one", model={"model_name": str(far)})
    make_run("two", model={"model_name": str(tmp_path / "gone")})
    listed = models(config, folder=tmp_path / "elsewhere")
    assert [choice.name for choice in listed if choice.is_local] == [str(far)]
    assert str(tmp_path / "gone") not in {choice.name for choice in listed}


def test_a_config_of_another_program_is_no_run(config, tmp_path, make_run):
    run = make_run("other", model={"model_name": "someone/Mystery-3B"})
    (run / "run.json").unlink()
    (run / "config.yaml").write_text("model:\n  model_name: someone/Mystery-3B\nname: other\n")
    assert all(choice.source == "known" for choice in models(config, folder=tmp_path))


def test_damaged_files_do_not_hide_the_rest(config, tmp_path, make_model, make_run):
    damaged = make_model(tmp_path / "damaged")
    (damaged / "model.safetensors").write_bytes(b"\xff" * 20)
    listed = make_model(tmp_path / "a-list")
    (listed / "config.json").write_text("[1]")
    (make_run("odd") / "config.yaml").write_bytes(b"\xff\x00 model: [")
    make_model(tmp_path / "whole")
    here = {c.title: c.fit.verdict for c in models(config, folder=tmp_path) if c.is_local}
    assert here == {"whole": "fits", "damaged": "unknown"}


def test_fifty_models_are_listed_at_once(config, tmp_path, empty_cache, make_model):
    for number in range(50):
        cached(empty_cache, f"owner/m{number}", make_model)
    began = time.process_time()
    assert len([c for c in models(config, folder=tmp_path) if c.is_local]) == 50
    assert time.process_time() - began < 1.0, "0.12 s were measured"


def test_facts_are_complete():
    for name, fact in known_models().items():
        assert name.count("/") == 1
        assert 10**8 < fact["parameters"] < 10**11
        assert {"license", "context_tokens"} < set(fact)
        assert fact["license"].startswith(("llama", "gemma")) == fact.get("gated", False)


def test_a_search_asks_the_hub_once(hub, config, empty_cache, make_model):
    cached(empty_cache, "owner/small", make_model)
    hub.answer = [
        {
            "id": "owner/large",
            "downloads": 120,
            "gated": "manual",
            "tags": ["license:mit", "safetensors"],
            "safetensors": {"total": 70_000_000_000},
        },
        {"id": "owner/small", "downloads": 7, "gated": False, "tags": []},
        {"id": "owner/<b>odd</b>", "gated": None, "safetensors": None, "tags": None},
    ]
    large, small, odd = search_models("tiny llama", config)
    ((path, query),) = hub.asked
    assert path == "/api/models"
    assert query["search"] == ["tiny llama"]
    assert query["sort"] == ["downloads"]
    assert query["pipeline_tag"] == ["text-generation"]
    assert (large.license, large.is_gated, large.downloads) == ("mit", True, 120)
    assert large.fit.verdict == "does not fit"
    assert large.where == "download 130 GiB"
    assert (small.is_local, small.is_gated, small.source) == (True, False, "hub")
    assert (odd.name, odd.fit.verdict, odd.where) == ("owner/<b>odd</b>", "unknown", "to download")


def test_a_search_that_fails_says_so_in_a_sentence(hub, config, monkeypatch):
    def words():
        with pytest.raises(NbftError) as error:
            search_models("llama", config)
        return str(error.value)

    start = "Searching the hub for models failed: "
    hub.answer = 503
    assert words() == f"{start}it answered with status 503 and without a list. Try again later."
    hub.answer = {"error": "no"}
    assert words() == f"{start}it answered with status 200 and without a list. Try again later."
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    asked = len(hub.asked)
    assert words() == f"{start}HF_HUB_OFFLINE is set. Unset it, or choose one listed here."
    assert len(hub.asked) == asked


def test_a_search_waits_for_a_few_seconds_only(hub, config, monkeypatch):
    monkeypatch.setattr("nbft.catalogue.hub.HUB_SECONDS", 0.2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{silent.getsockname()[1]}")
        began = time.monotonic()
        with pytest.raises(NbftError, match=r"no answer within 0.2 seconds \(ReadTimeout\)"):
            search_models("llama", config)
        assert time.monotonic() - began < 5
    with pytest.raises(NbftError, match=r"no answer within 0.2 seconds \(ConnectError\)"):
        search_models("llama", config)
