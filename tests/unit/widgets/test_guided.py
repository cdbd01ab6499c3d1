"""The guided mode: seven steps over the form's own settings, and the rules behind their values."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nbft import wizard
from nbft.config import Config, io
from nbft.hardware import Choice
from nbft.plan.advice import STEPS, Machine, this_machine
from nbft.widgets.fields import css_name
from nbft.widgets.form import Form
from nbft.widgets.guided import Guide
from nbft.widgets.tree import fields

RATE = "training.learning_rate"
BATCH = "training.per_device_train_batch_size"
TURNS = "training.gradient_accumulation_steps"
MODEL = "model.model_name"
ROWS = "data.train.datasets[0]"
CPU = Machine(Choice("cpu", "no GPU was found"), 64 * 2**30, has_16_bits=True)


@pytest.fixture(autouse=True)
def cpu(monkeypatch: pytest.MonkeyPatch, empty_cache: Path) -> None:
    """Every test is on the same machine, which holds no model."""
    monkeypatch.setattr("nbft.widgets.guided.this_machine", lambda config: CPU)


@pytest.fixture
def form() -> Form:
    form = Form(guided=True)
    form._show_plan()  # what displaying it does
    return form


def type_in(form: Form, path: str, text: Any) -> None:
    form._fields.make(path).control.value = text


def turn(form: Form, to: int) -> None:
    """Go to a step by the buttons."""
    guide, view = form._guided.guide, form._guided.view
    while (number := guide.number) != to:
        (view.next if number < to else view.back).click()
        assert guide.number != number, page_of(form)


def text_of(widget: Any) -> str:
    own = f"{getattr(widget, 'value', '')} {getattr(widget, 'description', '')}\n"
    return own + "".join(text_of(child) for child in getattr(widget, "children", ()))


def page_of(form: Form) -> str:
    return text_of(form._guided.view.widget)


def use_button(form: Form, path: str) -> Any:
    group = form._guided.view._groups[path]
    return group._use if group._use in group.widget.children else None


def settings_of(form: Form) -> dict[str, Any]:
    return io.flatten(form.config.to_dict())


def test_a_guided_form_begins_with_what_the_wizard_of_the_command_line_chooses(form: Form) -> None:
    changes, _ = wizard.create(CPU, given={}, ask=None, say=lambda _: None)
    assert form.config == Config().apply(changes)
    assert form._views.mode.value == "guided"
    assert form._opening.control.value == ""


def test_each_step_says_its_number_what_it_is_about_what_was_chosen_and_why(form: Form) -> None:
    _, reasons = wizard.create(CPU, given={}, ask=None, say=lambda _: None)
    seen = set()
    for number, step in enumerate(STEPS, 1):
        turn(form, number)
        page = page_of(form)
        assert f"Step {number} of 7: {step.title}</h3><p>{step.about}</p>" in page
        assert f"<li aria-current=step>{step.title}</li>" in page
        chosen = [answer for answer in form._guided.guide.answers[number - 1] if not answer.is_kept]
        assert page.count("<b>Recommended: ") == len(chosen) > 0
        for answer in chosen:
            seen.add(answer.question.path)
            assert answer.question.reason.replace("'", "&#39;") in page
    assert {"method" if p.startswith("peft.method") else p for p in reasons} - seen == {
        f"{ROWS}.dataset_name"  # asked as "data"
    }
    assert "as recommended" not in page, "there is nothing to choose between"


def test_back_and_next_say_where_they_lead_and_move_the_focus(form: Form) -> None:
    view = form._guided.view
    assert view._buttons.children == (view.next,)
    assert view.next.description == "Next: Data"
    view.next.click()
    assert view.focus.target == "nbft-step-2"
    assert view.widget.children[1]._dom_classes == ("nbft-step-2",)
    assert view.back.description == "Back: Model"
    turn(form, 7)
    assert view._buttons.children == (view.back,)
    turn(form, 6)
    assert view.next.description == "Next: Review and launch"


def test_rules_go_by_what_was_answered_before_and_say_what_followed(form: Form) -> None:
    assert form.config.training.learning_rate == 3e-4  # 135 million parameters
    type_in(form, MODEL, "someone/model-7B")
    assert form.config.training.learning_rate == 1e-4
    assert "Updated to match: Learning rate is now 1e-4" in page_of(form)
    type_in(form, BATCH, "2")
    assert form.config.training.gradient_accumulation_steps == 8
    assert "Gradient accumulation steps is now 8." in page_of(form)
    type_in(form, "peft.r", "8")
    assert form.config.peft.lora_alpha == 16


def test_what_a_person_set_stays_and_one_click_gives_it_back_to_the_rule(form: Form) -> None:
    turn(form, 4)
    type_in(form, RATE, "5e-5")
    why = form._guided.view._groups[RATE]._why.value
    assert why.startswith("<p><b>You chose 5e-5.</b> Small models need a higher rate than large")
    assert "3e-4" not in why, "the recommendation is said once, on the button"
    button = use_button(form, RATE)
    assert button.description == "Use 3e-4 as recommended"
    type_in(form, MODEL, "someone/model-7B")
    assert form.config.training.learning_rate == 5e-5
    assert button.description == "Use 1e-4 as recommended"
    button.click()
    assert form.config.training.learning_rate == 1e-4
    assert form._fields.make(RATE).control.value == "1e-4"
    assert use_button(form, RATE) is None
    type_in(form, MODEL, "smollm2-135m")
    assert form.config.training.learning_rate == 3e-4, "the rule decides again"
    type_in(form, RATE, "5e-5")
    type_in(form, RATE, "3e-4")
    assert "<b>You chose 3e-4.</b> Small models" in page_of(form)
    type_in(form, MODEL, "someone/model-7B")
    assert form.config.training.learning_rate == 3e-4, "typed, though the same as the rule's"


def test_four_bits_by_hand_are_a_method_and_the_rule_undoes_all_of_it(form: Form) -> None:
    turn(form, 3)
    type_in(form, "quantization.load_in_4bit", True)
    assert "<b>You chose qlora.</b> 135 million parameters: " in page_of(form)
    assert form.config.training.per_device_train_batch_size == 1  # qlora's
    use_button(form, "method").click()
    assert form.config.quantization.load_in_4bit is False
    assert form.config.training.per_device_train_batch_size == 4


def test_methods_without_a_rule_stand(form: Form) -> None:
    for config in (
        Config(peft={"method": "ia3"}),
        Config(quantization={"load_in_8bit": True}),
    ):
        form = Form(config, guided=True)
        assert form.config.peft.method == config.peft.method
        assert form.config.quantization == config.quantization
    type_in(form, "peft.method", "ia3")
    turn(form, 4)
    assert "peft.r" not in [answer.question.path for answer in form._guided.guide.answers[3]]


def test_own_rows_replace_the_sample_and_all_that_came_with_it(
    form: Form, write: Callable[[str, str], str]
) -> None:
    path = write("rows.jsonl", '{"prompt": "a", "completion": "b"}\n' * 7000)
    for way in (form, Form()):  # by the rules, and by the preset that a form begins with
        way._views.mode.value = "guided"
        turn(way, 2)
        type_in(way, f"{ROWS}.path", path)
        (dataset,) = way.config.data.train.datasets
        assert (dataset.path, dataset.dataset_name, dataset.sample_count) == (path, None, None)
        assert way.config.data.validation is None, "a part of the own rows is held out"
        assert f"<b>You chose {path}.</b>" in page_of(way)
        assert use_button(way, "data") is None
    assert form.config.training.num_train_epochs == 2
    # The field that is not asked for any more stays while the person is on the page.
    assert f"{ROWS}.sample_count" in form._guided.view._paths
    turn(form, 4)
    assert "6,300 rows to train on: 1 to 3 passes over them" in page_of(form)
    turn(form, 2)
    assert f"{ROWS}.sample_count" not in form._guided.view._paths


def test_to_go_between_guided_and_full_changes_nothing() -> None:
    given = Config(
        training={"learning_rate": 7e-5, "num_train_epochs": 9},
        peft={"r": 4},
        scheduler={"lr_scheduler_type": "cosine"},
        data={"dataset_name": "samsum"},
    )
    for form in (Form(), Form(given)):
        before = settings_of(form)
        for view in ("guided", "basic", "guided", "advanced", "yaml", "guided", "python"):
            form._views.mode.value = view
            assert settings_of(form) == before, view
    form._views.mode.value = "guided"
    turn(form, 4)
    type_in(form, "peft.r", "8")
    form._views.mode.value = "advanced"
    type_in(form, BATCH, "16")
    before = settings_of(form)
    form._views.mode.value = "guided"
    assert settings_of(form) == before
    assert form._guided.guide.number == 4, "the place is kept too"
    assert "<b>You chose 16.</b> More rows at once are faster" in page_of(form)
    assert use_button(form, BATCH).description == "Use 4 as recommended"


def test_a_file_that_was_named_in_the_full_form_changes_nothing_at_the_switch(form: Form) -> None:
    form._views.mode.value = "basic"
    type_in(form, f"{ROWS}.path", "mine.jsonl")
    before = settings_of(form)
    form._views.mode.value = "guided"
    assert settings_of(form) == before


def test_what_a_given_config_leaves_open_goes_by_the_rules() -> None:
    form = Form(Config(training={"learning_rate": 7e-5}), guided=True)
    assert form.config.training.learning_rate == 7e-5
    assert form.config.training.num_train_epochs == 3
    assert form.config.data.train.datasets[0].dataset_name == "grammar"


def test_rows_in_memory_stay_the_rows() -> None:
    rows = [{"prompt": "a", "completion": "b"}] * 30
    form = Form(Config(data={"rows": rows}), guided=True)
    turn(form, 2)
    assert form.config.data.train.datasets[0].rows is rows
    assert form.config.data.train.datasets[0].dataset_name is None
    assert "<b>The rows are those that you gave in Python.</b>" in page_of(form)
    turn(form, 4)
    assert "27 rows to train on" in page_of(form)
    form._reset_button.click()
    type_in(form, BATCH, "many")
    assert form._tree.so_far().data.train.datasets[0].rows is rows
    type_in(form, BATCH, "2")
    assert form.config.data.train.datasets[0].rows is rows
    assert form.config.data.train.datasets[0].dataset_name is None


def test_presets_and_reset_in_the_guided_mode(form: Form) -> None:
    form._opening.control.value = "high-quality"
    assert form.config.peft.r == 32
    assert form.config.training.learning_rate == 1e-4
    assert form._opening.control.value == "high-quality"
    turn(form, 4)
    assert "<b>From the preset: 32.</b> A higher rank can learn more" in page_of(form)
    assert use_button(form, "peft.r") is None, "8 to 32 suits as well"
    type_in(form, "peft.r", "8")
    form._reset_button.click()
    assert form._views.view == "guided"
    assert form.config.peft.r == 32
    assert form.config.training.learning_rate == 1e-4
    assert form.config.data.train.datasets[0].dataset_name == "grammar"


def test_a_wrong_value_waits_and_its_link_leads_to_its_step(form: Form) -> None:
    turn(form, 4)
    type_in(form, BATCH, "many")
    assert "is not a whole number" in form._fields[BATCH]._problem.value
    assert form._guided.view._groups[BATCH]._why.value == ""
    type_in(form, RATE, "5e-5")
    assert "<b>You chose 5e-5.</b>" in page_of(form), "the others are answered meanwhile"
    form._views.mode.value = "basic"
    form._views.mode.value = "guided"
    assert form._fields.make(BATCH).control.value == "many"
    form._guided.go_to(7)
    assert "Fix before training" in page_of(form)
    assert "Before you start" not in page_of(form)
    form._reveal(BATCH)
    assert form._guided.guide.number == 4
    assert form._guided.view.focus.target == "nbft-at-training-per_device_train_batch_size"
    type_in(form, BATCH, "8")
    assert form.config.training.gradient_accumulation_steps == 2
    assert "<b>You chose 8.</b>" in page_of(form)


def test_every_link_of_the_review_leads_to_a_step_that_shows_the_field(form: Form) -> None:
    for path, step in {
        f"{ROWS}.prompt_template": 2,
        f"{ROWS}.columns": 2,
        "data.split_ratio": 2,
        "peft.lora_dropout": 3,
        "data.max_length": 4,
        "scheduler.warmup_steps": 4,
        "precision.mixed_precision": 5,
    }.items():
        form._reveal(path)
        assert form._views.view == "guided"
        assert form._guided.guide.number == step, path
        shown = text_of(form._guided.view.widget)
        assert form._fields[path].control.description in shown, path
        assert form._guided.view.focus.target == css_name(path)
    form._reveal(f"{ROWS}.prompt_template")
    turn(form, 3)
    turn(form, 2)
    assert f"{ROWS}.prompt_template" not in form._guided.view._paths, "gone with the next step"


def test_every_basic_setting_belongs_to_a_step(form: Form) -> None:
    basic = [path for path, setting in fields() if setting.level == "basic"]
    assert all(form._guided.guide.step_of(path) for path in basic)


# Next


def waits_for(form: Form) -> list[str]:
    """Return what Next waits for."""
    view = form._guided.view
    links = [w.description for w in view._reasons.children if hasattr(w, "description")]
    links = [text for text in links if text]
    assert view.next.disabled == bool(links)
    assert (view._reasons in view._buttons.children) == bool(links)
    return links


def test_next_waits_for_what_is_wrong_in_the_step_and_leads_there(form: Form) -> None:
    assert waits_for(form) == []
    type_in(form, MODEL, "not a model")
    (link,) = waits_for(form)
    assert link.startswith("Base model: not a model: is neither a folder with a model nor a name")
    form._guided.view.next.click()  # it was pressed before it was disabled
    assert form._guided.guide.number == 1
    assert form._guided.view.focus.target == css_name(MODEL)
    type_in(form, MODEL, "someone/model-7B")
    assert waits_for(form) == []
    turn(form, 4)
    type_in(form, BATCH, "many")
    assert waits_for(form) == [
        "Batch size per device: many: is not a whole number. The default is 4."
    ]
    turn(form, 3)  # back is always free, and so is the way up to the problem
    assert waits_for(form) == []
    turn(form, 4)
    assert len(waits_for(form)) == 1
    type_in(form, BATCH, "2")
    assert waits_for(form) == []


def test_next_waits_for_data_that_can_be_read(form: Form, write: Callable[[str, str], str]) -> None:
    turn(form, 2)
    type_in(form, f"{ROWS}.path", "gone.jsonl")
    (link,) = waits_for(form)
    assert link.startswith("Data file: gone.jsonl: does not exist.")
    type_in(form, f"{ROWS}.path", "")
    type_in(form, f"{ROWS}.dataset_name", "")
    assert waits_for(form) == ["Choose a data file or a dataset."]
    type_in(form, f"{ROWS}.path", write("rows.jsonl", '{"prompt": "a", "completion": "b"}\n' * 30))
    assert waits_for(form) == []


def test_a_given_config_is_judged_when_the_form_is_displayed() -> None:
    form = Form(Config(data={"path": "gone.jsonl"}), guided=True)
    form._show_plan()
    turn(form, 2)
    assert waits_for(form)[0].startswith("Data file: gone.jsonl: does not exist.")


def test_columns_are_picked_in_the_data_step(form: Form, write: Callable[[str, str], str]) -> None:
    turn(form, 2)
    rows = "".join(f"word {i},from a book,meaning {i}\n" for i in range(40))
    type_in(form, f"{ROWS}.path", write("odd.csv", "german word,remark,gloss\n" + rows))
    assert waits_for(form) == [
        "Pick the columns of your file: which is the prompt, and which the answer?"
    ]
    assert "Which of them is the prompt, and which the answer?" in page_of(form)
    field = form._fields[f"{ROWS}.path"]
    assert "nbft-wrong" in field.widget._dom_classes
    assert field._problem is None, "the panel asks; no setting has to be typed"
    columns = field.columns
    columns._use.click()
    assert waits_for(form) == []
    columns._lists["context"].value = ""
    assert form.config.data.train.datasets[0].completion_template == "{gloss}"
    assert "Templates" not in page_of(form)
    template = form._fields[f"{ROWS}.prompt_template"]  # can be edited once there is one
    assert template.control.value == "{german word}\n"
    assert f"{ROWS}.prompt_template" in form._guided.view._paths
    type_in(form, f"{ROWS}.prompt_template", "{german word")
    assert waits_for(form)[0].startswith("Prompt template: {german word: has a brace that is not")
    type_in(form, f"{ROWS}.prompt_template", "What is {german word}?\n")
    turn(form, 4)
    assert "37 rows to train on" in page_of(form)
    turn(form, 7)
    assert '<td>passed</td><th scope="row">Rows</th><td>37 rows read, 3 held out.</td>' in page_of(
        form
    )


def test_a_preset_and_the_rules_do_not_contradict_each_other() -> None:
    form = Form(guided=True)
    form._show_plan()
    form._opening.control.value = "two-minute-try"
    turn(form, 4)
    page = page_of(form)
    assert "<b>From the preset: 256.</b> 99% of your rows have at most " in page
    assert "<b>From the preset: 2.</b> 1,000 rows to train on: a small dataset needs 2 to 5" in page
    assert "as recommended" not in page, "every value of the preset suits these rows"
    type_in(form, "data.max_length", "16")
    assert "<b>You chose 16.</b>" in page_of(form)
    assert use_button(form, "data.max_length").description == "Use 128 as recommended"


def test_a_preset_whose_value_does_not_suit_the_rows_says_so(
    write: Callable[[str, str], str],
) -> None:
    row = '{"prompt": "' + "word " * 300 + '", "completion": "b"}\n'
    form = Form(guided=True)
    form._opening.control.value = "two-minute-try"
    turn(form, 2)
    type_in(form, f"{ROWS}.path", write("long.jsonl", row * 50))
    turn(form, 4)
    assert "<b>From the preset: 256.</b> 99% of your rows have at most 376 tokens" in page_of(form)
    assert use_button(form, "data.max_length").description == "Use 512 as recommended"


def test_the_review_is_the_checklist_of_checks_that_ran(form: Form) -> None:
    turn(form, 7)
    page = page_of(form)
    assert '<td>passed</td><th scope="row">Rows</th><td>898 rows read, 102 held out.</td>' in page
    assert '<td>unknown</td><th scope="row">Model</th>' in page  # it is not on this machine
    form._fields.make(f"{ROWS}.path")
    type_in(form, f"{ROWS}.path", "gone.jsonl")
    assert '<td>to fix</td><th scope="row">Rows</th>' in page_of(form)


def test_a_locked_form_keeps_its_values(form: Form) -> None:
    turn(form, 4)
    type_in(form, RATE, "5e-5")
    form._launching.lock(True)
    use_button(form, RATE).click()
    assert form.config.training.learning_rate == 5e-5
    assert "locked" in form.line.widget.value


def test_the_rules_of_a_device_go_by_that_device(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Machine(Choice("cuda", "a GPU"), 80 * 2**30, has_16_bits=True)
    monkeypatch.setattr(
        "nbft.widgets.guided.this_machine",
        lambda config: CPU if config.compute.device == "cpu" else gpu,
    )
    guide = Guide()
    config = Config().apply(guide.decide(Config(), ()))
    assert config.peft.method == "full"
    config = config.apply({"compute.device": "cpu"})
    changes = guide.decide(config, {"compute.device"})
    assert changes["peft.method"] == "lora"
    reason = guide.answers[4][0].question.reason
    assert reason == f"On this machine, auto is {this_machine().device}."


def test_the_guided_form_is_light() -> None:
    code = (
        "import sys, nbft; form = nbft.Form(guided=True); form._guided.go_to(7); form.config\n"
        "heavy = ('torch', 'transformers', 'datasets', 'pyarrow', 'peft', 'trl')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
