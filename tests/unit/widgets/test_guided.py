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
from nbft.widgets.form import Form
from nbft.widgets.guided import Guide

RATE = "training.learning_rate"
BATCH = "training.per_device_train_batch_size"
TURNS = "training.gradient_accumulation_steps"
MODEL = "model.model_name"
ROWS = "data.train.datasets[0]"
CPU = Machine(Choice("cpu", "no GPU was found"), 64 * 2**30, has_bfloat16=True)


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
    while form._guided.guide.number != to:
        view = form._guided.view
        (view.next if form._guided.guide.number < to else view.back).click()


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
        assert page.count("<b>Chosen: ") == len(chosen) > 0
        for answer in chosen:
            seen.add(answer.question.path)
            assert answer.question.reason.replace("'", "&#39;") in page
    assert {"method" if p.startswith("peft.method") else p for p in reasons} - seen == {
        f"{ROWS}.dataset_name"  # asked as "data"
    }
    assert "Suggested" not in page


def test_back_and_next_say_where_they_lead_and_move_the_focus(form: Form) -> None:
    view = form._guided.view
    assert view._buttons.children == (view.next,)
    assert view.next.description == "Next: Algorithm"
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
    turn(form, 3)
    type_in(form, RATE, "5e-5")
    assert "<b>Set to 5e-5.</b> Suggested: 3e-4. Small models need a higher rate" in page_of(form)
    button = use_button(form, RATE)
    assert button.description == "Use 3e-4 as suggested"
    type_in(form, MODEL, "someone/model-7B")
    assert form.config.training.learning_rate == 5e-5
    assert button.description == "Use 1e-4 as suggested"
    button.click()
    assert form.config.training.learning_rate == 1e-4
    assert form._fields.make(RATE).control.value == "1e-4"
    assert use_button(form, RATE) is None
    type_in(form, MODEL, "smollm2-135m")
    assert form.config.training.learning_rate == 3e-4, "the rule decides again"
    type_in(form, RATE, "5e-5")
    type_in(form, RATE, "3e-4")
    assert "<b>Set to 3e-4</b>, as suggested." in page_of(form)
    type_in(form, MODEL, "someone/model-7B")
    assert form.config.training.learning_rate == 3e-4, "typed, though the same as the rule's"


def test_four_bits_by_hand_are_a_method_and_the_rule_undoes_all_of_it(form: Form) -> None:
    turn(form, 2)
    type_in(form, "quantization.load_in_4bit", True)
    assert "<b>Set to qlora.</b> Suggested: lora" in page_of(form)
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
    turn(form, 3)
    assert "peft.r" not in [answer.question.path for answer in form._guided.guide.answers[2]]


def test_own_rows_replace_the_sample_and_all_that_came_with_it(
    form: Form, write: Callable[[str, str], str]
) -> None:
    path = write("rows.jsonl", '{"prompt": "a", "completion": "b"}\n' * 7000)
    for way in (form, Form()):  # by the rules, and by the preset that a form begins with
        way._views.mode.value = "guided"
        turn(way, 5)
        type_in(way, f"{ROWS}.path", path)
        (dataset,) = way.config.data.train.datasets
        assert (dataset.path, dataset.dataset_name, dataset.sample_count) == (path, None, None)
        assert way.config.data.validation is None, "a part of the own rows is held out"
        assert f"<b>Set to {path}.</b>" in page_of(way)
        assert use_button(way, "data") is None
    assert form.config.training.num_train_epochs == 2
    assert "6,300 rows to train on: 1 to 2 epochs" in page_of(form)
    # The field that is not asked for any more stays while the person is on the page.
    assert f"{ROWS}.sample_count" in form._guided.view._paths
    turn(form, 4)
    turn(form, 5)
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
    turn(form, 3)
    type_in(form, "peft.r", "8")
    form._views.mode.value = "advanced"
    type_in(form, BATCH, "16")
    before = settings_of(form)
    form._views.mode.value = "guided"
    assert settings_of(form) == before
    assert form._guided.guide.number == 3, "the place is kept too"
    assert "<b>Set to 16.</b> Suggested: 4" in page_of(form)


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
    turn(form, 5)
    assert form.config.data.train.datasets[0].rows is rows
    assert form.config.data.train.datasets[0].dataset_name is None
    assert "<b>Set to rows in memory.</b>" in page_of(form)
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
    turn(form, 3)
    assert "<b>Set to 32.</b> Suggested: 16" in page_of(form)
    form._reset_button.click()
    assert form._views.view == "guided"
    assert form.config.peft.r == 16
    assert form.config.training.learning_rate == 3e-4
    assert form.config.data.train.datasets[0].dataset_name == "grammar"


def test_a_wrong_value_waits_and_its_link_leads_to_its_step(form: Form) -> None:
    turn(form, 3)
    type_in(form, BATCH, "many")
    assert "is not a whole number" in form._fields[BATCH]._problem.value
    assert form._guided.view._groups[BATCH]._why.value == ""
    type_in(form, RATE, "5e-5")
    assert "<b>Set to 5e-5.</b>" in page_of(form), "the others are answered meanwhile"
    form._views.mode.value = "basic"
    form._views.mode.value = "guided"
    assert form._fields.make(BATCH).control.value == "many"
    turn(form, 7)
    assert "Fix before training" in page_of(form)
    assert "Before you start" not in page_of(form)
    form._reveal(BATCH)
    assert form._guided.guide.number == 3
    assert form._guided.view.focus.target == "nbft-at-training-per_device_train_batch_size"
    type_in(form, BATCH, "8")
    assert form.config.training.gradient_accumulation_steps == 2
    assert "<b>Set to 8.</b>" in page_of(form)
    form._reveal("scheduler.warmup_steps")  # no step has it
    assert form._views.view == "advanced"


def test_the_review_is_the_checklist_of_checks_that_ran(form: Form) -> None:
    turn(form, 7)
    page = page_of(form)
    assert '<td>passed</td><th scope="row">Rows</th><td>898 rows read, 102 held out.</td>' in page
    assert '<td>unknown</td><th scope="row">Model</th>' in page  # it is not on this machine
    type_in(form, f"{ROWS}.path", "gone.jsonl")
    assert '<td>to fix</td><th scope="row">Rows</th>' in page_of(form)


def test_a_locked_form_keeps_its_values(form: Form) -> None:
    turn(form, 3)
    type_in(form, RATE, "5e-5")
    form._launching.lock(True)
    use_button(form, RATE).click()
    assert form.config.training.learning_rate == 5e-5
    assert "locked" in form.line.widget.value


def test_the_rules_of_a_device_go_by_that_device(monkeypatch: pytest.MonkeyPatch) -> None:
    gpu = Machine(Choice("cuda", "a GPU"), 80 * 2**30, has_bfloat16=True)
    monkeypatch.setattr(
        "nbft.widgets.guided.this_machine",
        lambda config: CPU if config.compute.device == "cpu" else gpu,
    )
    guide = Guide()
    config = Config().apply(guide.decide(Config(), ()))
    assert (config.peft.method, config.data.max_length) == ("full", 1024)
    config = config.apply({"compute.device": "cpu"})
    changes = guide.decide(config, {"compute.device"})
    assert (changes["peft.method"], changes["data.max_length"]) == ("lora", 512)
    reason = guide.answers[3][0].question.reason
    assert reason == f"Uses {this_machine().device} on this machine."


def test_the_guided_form_is_light() -> None:
    code = (
        "import sys, nbft; form = nbft.Form(guided=True); form._guided.go_to(7); form.config\n"
        "heavy = ('torch', 'transformers', 'datasets', 'pyarrow', 'peft', 'trl')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
