"""Lists to choose from: what they hold, what choosing sets, and what goes wrong in them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nbft.errors import NbftError
from nbft.widgets.choosing import Chooser
from nbft.widgets.form import Form

MODEL, DATASET = "model.model_name", "data.train.datasets[0].dataset_name"
PATH = "data.train.datasets[0].path"
QA = "".join(json.dumps({"q": f"{n} + 8?", "a": f"{n + 8}"}) + "\n" for n in range(20))


@pytest.fixture
def form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Form:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.jsonl").write_text(QA)
    (tmp_path / "lesson").mkdir()
    (tmp_path / "lesson" / "other.csv").write_text("question,answer\nWhy?,So.\nHow?,Thus.\n")
    return Form()


def opened(form: Form, path: str) -> Chooser:
    field = form._fields.make(path)
    (button,) = (c for c in field.widget.children if "nbft-choose" in c._dom_classes)
    button.click()
    assert field._chooser in field.widget.children
    return field._chooser


def send(chooser: Chooser, **message: Any) -> None:
    chooser._handle_custom_msg(message, [])


def choose(chooser: Chooser, title: str) -> None:
    send(chooser, type="choose", item=titles(chooser).index(title))


def titles(chooser: Chooser) -> list[str]:
    return [item["title"] for item in chooser.items]


def test_a_model_is_chosen_with_what_speaks_for_it(form: Form, tiny_model: Path) -> None:
    Path("tiny").symlink_to(tiny_model)
    chooser = opened(form, MODEL)
    items = {item["title"]: item for item in chooser.items}
    assert chooser.items[0]["group"] == items["tiny"]["group"] == "On this machine"
    assert "135M parameters" in items["smollm2-135m"]["about"]
    assert "fits" in items["smollm2-135m"]["about"]
    groups = [item["group"] for item in chooser.items]
    assert groups == sorted(groups, key=groups.index), "a heading stands once"
    choose(chooser, "Qwen/Qwen2.5-0.5B-Instruct")
    assert form.config.model.model_name == "Qwen/Qwen2.5-0.5B-Instruct"
    assert form._fields[MODEL].control.value == "Qwen/Qwen2.5-0.5B-Instruct"
    assert MODEL in form._tree.left


def test_a_file_nearby_is_used_where_it_lies_and_read_by_its_columns(form: Form) -> None:
    chooser = opened(form, DATASET)
    assert {"mine.jsonl", "lesson/other.csv", "alpaca"} <= {*titles(chooser)}
    choose(chooser, "mine.jsonl")
    (dataset,) = form.config.data.train.datasets
    assert dataset.path == "mine.jsonl"
    assert dataset.dataset_name is None
    assert form.problems == []
    assert (form.plan.train_rows or 0) + (form.plan.eval_rows or 0) == 20
    assert not (Path.cwd() / "runs" / "data").exists(), "nothing is copied"


def test_a_sample_takes_the_place_of_a_file(form: Form) -> None:
    form._fields.make(PATH).control.value = "mine.jsonl"
    choose(opened(form, DATASET), "grammar")
    (dataset,) = form.config.data.train.datasets
    assert (dataset.dataset_name, dataset.path, dataset.prompt_template) == ("grammar", None, None)
    assert form.problems == []


def test_folders_lead_to_files(form: Form) -> None:
    chooser = opened(form, PATH)
    assert titles(chooser) == ["..", "lesson/", "mine.jsonl"]
    choose(chooser, "lesson/")
    assert titles(chooser) == ["..", "other.csv"]
    assert chooser.items[0]["group"] == str(Path.cwd() / "lesson")
    choose(chooser, "other.csv")
    assert form.config.data.train.datasets[0].path == str(Path("lesson", "other.csv"))
    assert form.plan.train_rows
    choose(chooser, "..")
    assert "mine.jsonl" in titles(chooser)


def test_a_path_of_jupyterlabs_own_dialog(form: Form) -> None:
    chooser = opened(form, PATH)
    assert ".csv" in chooser.endings
    send(chooser, type="path", path=f"{Path.cwd()}/nowhere.csv")
    assert "is not on the machine of the kernel" in chooser.said
    send(chooser, type="path", path=str(Path.cwd() / "lesson"))
    assert titles(chooser) == ["..", "other.csv"], "a folder is gone to"
    send(chooser, type="path", path=f"{Path.cwd()}/lesson/other.csv")
    assert form.config.data.train.datasets[0].path == str(Path("lesson", "other.csv"))
    models = opened(form, MODEL)
    assert models.endings == []
    send(models, type="path", path=str(Path.cwd() / "lesson"))
    assert form.config.model.model_name == "smollm2-135m"


def test_rows_are_shown_before_choosing(form: Form) -> None:
    chooser = opened(form, DATASET)
    number = titles(chooser).index("mine.jsonl")
    assert chooser.items[number]["has_rows"]
    send(chooser, type="rows", item=number)
    assert "0 + 8?" in chooser.rows[str(number)]
    (Path.cwd() / "lesson" / "other.csv").unlink()
    send(chooser, type="rows", item=titles(chooser).index("lesson/other.csv"))
    assert "does not exist" in chooser.said


def test_a_search_asks_the_hub_and_says_why_it_cannot(
    form: Form, monkeypatch: pytest.MonkeyPatch
) -> None:
    chooser = opened(form, MODEL)
    before = titles(chooser)

    def refuse(*_: object) -> None:
        raise NbftError("The hub did not answer.")

    monkeypatch.setattr("nbft.catalogue.models.search_models", refuse)
    send(chooser, type="search", text="qwen")
    assert chooser.said == "The hub did not answer."
    assert titles(chooser) == before
    monkeypatch.setattr("nbft.catalogue.models.search_models", lambda *_: [])
    send(chooser, type="search", text="qwen")
    assert (chooser.said, chooser.items) == ("Nothing was found.", [])
    send(chooser, type="search", text=" ")
    assert titles(chooser) == before


def test_a_locked_form_takes_no_choice(form: Form) -> None:
    chooser = opened(form, MODEL)
    form._lock(True)
    choose(chooser, "Qwen/Qwen2.5-0.5B-Instruct")
    assert form.config.model.model_name == "smollm2-135m"
    form._lock(False)
    choose(chooser, "Qwen/Qwen2.5-0.5B-Instruct")
    assert form.config.model.model_name == "Qwen/Qwen2.5-0.5B-Instruct"


@pytest.mark.parametrize("item", [-1, 10_000, "0", None, 1.5])
def test_a_number_that_is_no_item_does_nothing(form: Form, item: Any) -> None:
    chooser = opened(form, MODEL)
    send(chooser, type="choose", item=item)
    send(chooser, type="rows", item=item)
    assert form.config.model.model_name == "smollm2-135m"


def test_the_button_closes_the_list_again(form: Form) -> None:
    chooser = opened(form, MODEL)
    field = form._fields[MODEL]
    field._choose(None)
    assert chooser not in field.widget.children


def test_an_unexpected_error_is_one_sentence(form: Form, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("disk on fire")

    monkeypatch.setattr("nbft.catalogue.models.models", fail)
    assert opened(form, MODEL).said == "This went wrong (RuntimeError: disk on fire)."


def test_what_made_one_model_fit_goes_with_it(form: Form, monkeypatch: pytest.MonkeyPatch) -> None:
    from nbft.catalogue.models import Fit, ModelChoice

    large = Fit("fits with 4-bit", changes={"quantization.load_in_4bit": True})
    choices = [
        ModelChoice("org/large", "org/large", "known", fit=large),
        ModelChoice("smollm2-135m", "smollm2-135m", "known", fit=Fit("fits")),
    ]
    monkeypatch.setattr("nbft.catalogue.models.models", lambda *_: choices)
    chooser = opened(form, MODEL)
    choose(chooser, "org/large")
    assert form.config.quantization.load_in_4bit
    assert "load_in_4bit=on, so that it fits" in chooser.said
    choose(chooser, "smollm2-135m")
    assert not form.config.quantization.load_in_4bit
    assert chooser.said == "smollm2-135m was chosen."
