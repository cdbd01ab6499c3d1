"""The form without a browser: its widgets are driven as a front end would drive them."""

from __future__ import annotations

import json
import re
import sys
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
from ipywidgets import Widget

import nbft
from nbft.config import Config, presets, settings
from nbft.decisions import PARTS, Decisions
from nbft.errors import ConfigError, NbftError, Problem, RunError
from nbft.hardware import Choice
from nbft.pages.plan import learning_rate_curve, summary
from nbft.plan import Plan
from nbft.plan.plan import make_plan
from nbft.widgets.fields import range_words, read, write
from nbft.widgets.form import Form
from nbft.widgets.tree import fields, find
from nbft.widgets.views import TABS

RATE = "training.learning_rate"
PATH = "data.train.datasets[0].path"


def plan_of(config: Config, problems: list[Problem] | None = None) -> Plan:
    found = list(problems or [])
    if not config.data.train.datasets:
        found.append(Problem("data.train.datasets", None, "names no rows.", "Give a path."))
    if config.peft.lora_alpha > 500:
        found.append(
            Problem(
                "peft.lora_alpha", config.peft.lora_alpha, "is large.", "Use 32.",
                {"peft.lora_alpha": 32}, "warning",
            )
        )  # fmt: skip
    return Plan(
        problems=found,
        decisions=Decisions(
            Choice("cpu", "no GPU was found"),
            Choice("bfloat16", "this processor has it"),
            Choice("no", "nothing to mix"),
            dict.fromkeys(PARTS, Choice("on", "")),
        ),
        effective_batch_size=config.training.per_device_train_batch_size,
        free_memory_bytes=20 * 2**30,
        train_rows=240,
        eval_rows=32,
        total_steps=60,
        warmup_steps=3,
        tokens=41_200,
        trainable_parameters=2_442_240,
        total_parameters=134_515_008,
        memory_bytes=2 * 2**30,
        disk_bytes=2**26,
        seconds=240,
        stages={"training": 240.0},
        config=config,
    )


@pytest.fixture(autouse=True)
def _fake_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nbft.plan.make_plan", plan_of)


class FakeRun:
    id = "kind-otter-14"
    status = "running"
    is_over = False
    adapter: Path | None = None

    def compare(self) -> Any:
        return SimpleNamespace(_repr_html_=lambda: "<table>before and after</table>")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> FakeRun:
    run = FakeRun()
    run.started = []  # type: ignore[attr-defined]

    def start(config: Config) -> FakeRun:
        run.started.append(config)  # type: ignore[attr-defined]
        return run

    fakes = SimpleNamespace(start=start, spare=SimpleNamespace(prepare=lambda: None))
    monkeypatch.setitem(sys.modules, "nbft.launchers", fakes)
    monkeypatch.setattr(nbft, "launchers", fakes, raising=False)
    monkeypatch.setattr("nbft.widgets.Monitor", FakeMonitor, raising=False)
    FakeMonitor.shown.clear()
    FakeMonitor.made.clear()
    return run


class FakeMonitor:
    shown: ClassVar[list[tuple[Any, ...]]] = []
    made: ClassVar[list[FakeMonitor]] = []
    on_run_again: Any = None

    def __init__(self, run: FakeRun) -> None:
        self.run = run
        self.made.append(self)

    def show(self, *handles: Any) -> None:
        self.shown.append((self.run, *handles))


@pytest.fixture
def form() -> Form:
    form = Form()
    form._show_plan()  # what displaying it does
    return form


def control(form: Form, path: str) -> Any:
    return form._fields.make(path).control


def problem_of(form: Form, path: str) -> str:
    field = form._fields[path]
    shown = field._problem is not None and field._problem in field.widget.children
    return field._problem.value if shown else ""


def state_of(form: Form) -> str:
    """Return what the line of the state says, with the problems that it links to."""
    links = [link.description for link in form.line.links.children]
    return "\n".join([form.line.widget.value, *links])


def press(form: Form, name: str) -> None:
    buttons = (*form.widget.children, *form._more_buttons.children)
    next(b for b in buttons if getattr(b, "description", "").partition(": ")[0] == name).click()


def shown_text(widget: Any) -> str:
    own = f"{getattr(widget, 'value', '')} {getattr(widget, 'description', '')}"
    return own + "".join(shown_text(child) for child in getattr(widget, "children", ()))


def test_the_basic_view_costs_at_most_65_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    opening = Widget.open

    def count(self: Widget) -> None:
        opened.append(type(self).__name__)
        opening(self)

    monkeypatch.setattr(Widget, "open", count)
    form = Form()
    form._show_plan()
    assert 12 < len(opened) <= 65
    assert len(form._fields) <= 12
    assert len(form._views.page.children) == len(form._fields) + len(form._views._groups)


def test_every_setting_but_rows_in_memory_has_a_field_in_one_tab(form: Form) -> None:
    paths = {path.replace("[0]", "[]") for path, _ in fields()}
    assert {s.path for s in settings()} - paths == {
        "data.train.datasets[].rows",
        "data.validation.datasets[].rows",
        "data.test.datasets[].rows",
    }
    sections = [section for tab in TABS.values() for section in tab]
    assert sorted(sections) == sorted({s.section for s in settings()})
    for path, setting in fields():
        field = form._fields.make(path)
        assert setting.help.split("'")[0].split("&")[0][:20] in field._note.value
        assert field.control.description


@pytest.mark.parametrize("name", presets())
def test_every_value_is_shown_and_read_back_as_it_was(name: str) -> None:
    config = Config.preset(name)
    form = Form(config)
    for path, setting in fields():
        field = form._fields.make(path)
        assert read(setting, field.control.value) == form._tree.values([path])[path], path
    assert form.config == config


def test_what_was_typed_stays_and_is_judged_when_the_field_is_left(form: Form) -> None:
    rate = control(form, RATE)
    assert not rate.continuous_update
    rate.value = "fast"
    assert rate.value == "fast"
    assert "fast: is not a number." in problem_of(form, RATE)
    assert 'role="alert"' in problem_of(form, RATE)
    assert form._launching.buttons["Train here"].disabled
    assert "1 problem" in state_of(form)
    rate.value = "-1"
    assert "-1: must be above 0. The range is above 0, at most 1." in problem_of(form, RATE)
    with pytest.raises(ConfigError) as error:
        _ = form.config
    assert [p.field for p in error.value.problems] == [RATE]
    assert form.problems == error.value.problems
    fix = form._fields[RATE]._fix_button
    assert fix.description == "Use 2e-4"
    fix.click()
    assert rate.value == "2e-4"
    assert problem_of(form, RATE) == ""
    assert form.config.training.learning_rate == 2e-4
    assert not form._launching.buttons["Train here"].disabled


def test_all_problems_are_kept_and_the_other_fields_still_count(form: Form) -> None:
    control(form, RATE).value = "fast"
    control(form, "data.max_length").value = "200.7"
    control(form, "training.num_train_epochs").value = "3"
    assert "is not a whole number. Use 201." in problem_of(form, "data.max_length")
    assert len(form.problems) == 2
    assert "2 problems" in state_of(form)
    for path in (RATE, "data.max_length"):
        form._fields[path]._fix_button.click()
    config = form.config
    assert (config.training.num_train_epochs, config.data.max_length) == (3.0, 201)


def test_numbers_are_read_as_people_write_them(form: Form) -> None:
    control(form, "data.max_length").value = "1,024"
    control(form, RATE).value = " 5e-5 "
    control(form, "training.max_steps").value = "1e3"
    config = form.config
    assert (config.data.max_length, config.training.learning_rate) == (1024, 5e-5)
    assert config.training.max_steps == 1000


def test_lists_dicts_and_empty_fields(form: Form) -> None:
    control(form, "peft.target_modules").value = "q_proj, v_proj"
    control(form, "scheduler.lr_scheduler_kwargs").value = "{num_cycles: 2}"
    control(form, "memory.gradient_checkpointing_kwargs").value = ""
    control(form, "data.train.datasets[0].sample_count").value = ""
    control(form, "checkpoint.save_total_limit").value = ""
    config = form.config
    assert config.peft.target_modules == ["q_proj", "v_proj"]
    assert config.scheduler.lr_scheduler_kwargs == {"num_cycles": 2}
    assert config.memory.gradient_checkpointing_kwargs == {}
    assert config.data.train.datasets[0].sample_count is None
    assert config.checkpoint.save_total_limit is None
    control(form, "scheduler.lr_scheduler_kwargs").value = "{num_cycles"
    assert "is not a block of keys" in problem_of(form, "scheduler.lr_scheduler_kwargs")


def test_sample_prompts_with_commas_come_back_whole() -> None:
    setting = next(s for s in settings() if s.name == "sample_prompts")
    for prompts in (["Say hi, please.", "[INST] x"], ["[a"], ["x", ""]):
        assert read(setting, write(prompts)) == prompts


def test_a_dataset_that_is_emptied_is_no_dataset(form: Form) -> None:
    for name in ("dataset_name", "sample_count"):
        for split in ("train", "validation"):
            control(form, f"data.{split}.datasets[0].{name}").value = ""
    assert form.config.data.train.datasets == []
    assert form.config.data.validation is None
    assert "No data yet." in state_of(form)
    assert form._look_button.disabled
    control(form, PATH).value = "rows.jsonl"
    assert form.config.data.train.datasets[0].path == "rows.jsonl"
    assert "Ready" in state_of(form)


def test_nothing_is_wrong_where_nobody_has_been_until_check() -> None:
    form = Form(Config(peft={"lora_alpha": 600}))
    form._show_plan()
    control(form, "peft.lora_alpha")
    form._views.mark()
    assert problem_of(form, PATH) == ""
    assert problem_of(form, "peft.lora_alpha") == ""
    press(form, "Check")
    assert "Names no rows" in problem_of(form, PATH)
    assert "600: is large." in problem_of(form, "peft.lora_alpha")
    text = shown_text(form._results)
    assert text.index("Fix before training") < text.index("Worth a look")


def test_a_problem_of_the_list_leads_to_its_field_and_can_be_mended_there(form: Form) -> None:
    control(form, "peft.lora_alpha").value = "600"
    press(form, "Check")
    rows = (row for row in form._results.children if len(getattr(row, "children", ())) == 3)
    link, _, fix = next(rows).children
    link.click()
    assert form._views.view == "advanced"
    assert form._views.tabs.selected_index == list(TABS).index("Method")
    assert form._views.focus.target == "nbft-at-peft-lora_alpha"
    fix.click()
    assert form.config.peft.lora_alpha == 32
    assert "No problems" in shown_text(form._results)


def test_a_simulation_takes_the_place_of_the_estimate(
    form: Form, monkeypatch: pytest.MonkeyPatch
) -> None:
    def simulate(plan: Plan) -> Plan:
        return replace(plan, memory_bytes=3 * 2**30, memory_source="simulation")

    monkeypatch.setattr(Plan, "simulate", simulate)
    form._tree.take_plan(replace(form.plan, lengths_tokens=(5,)))
    form._show_checked()
    buttons = [
        button
        for row in form._results.children
        for button in getattr(row, "children", ())
        if getattr(button, "description", "") == "Simulate"
    ]
    (simulation,) = buttons
    simulation.click()
    assert form.plan.memory_source == "simulation"
    assert "simulated 3.0\xa0GiB of 20\xa0GiB free" in form._side.value
    assert "Simulate" not in shown_text(form._results)  # once is enough
    control(form, "peft.lora_alpha").value = "64"
    assert form.plan.memory_source == "formula"


def test_a_simulation_that_fails_says_why(form: Form, monkeypatch: pytest.MonkeyPatch) -> None:
    def simulate(plan: Plan) -> Plan:
        raise NbftError("This step cannot be simulated (why).")

    monkeypatch.setattr(Plan, "simulate", simulate)
    form._tree.take_plan(replace(form.plan, lengths_tokens=(5,)))
    form._checking._simulate(SimpleNamespace(disabled=False))
    assert "cannot be simulated (why)" in form.line.widget.value
    assert form.plan.memory_source == "formula"


def test_changed_fields_are_marked_counted_shown_and_reset(form: Form) -> None:
    rate = form._fields[RATE]
    assert form._views.changed_button.description == "0 changed from the preset (show)"
    assert "nbft-changed" not in rate.widget._dom_classes
    assert "From the preset." in rate._note.value
    rate.control.value = "1e-4"
    assert "nbft-changed" in rate.widget._dom_classes
    assert "From the preset." not in rate._note.value
    assert rate._reset_button.description == "Reset to 3e-4"
    assert form._views.changed_button.description == "1 changed from the preset (show)"
    form._views.changed_button.click()
    assert form._views.view == "changed"
    assert rate.widget in form._views.page.children
    rate._reset_button.click()
    assert rate.control.value == "3e-4"
    assert "nbft-changed" not in rate.widget._dom_classes
    rate.control.value = "1e-4"
    form._fields.make("peft.r").control.value = "4"
    form._reset_button.click()
    assert form._views.changed_button.description == "0 changed from the preset (hide)"
    assert form.config == Config.preset("two-minute-try")
    assert "Everything is back to the preset." in state_of(form)


def test_what_was_found_in_other_rows_goes_with_them(form: Form) -> None:
    form._check_button.click()
    assert form._results.children
    control(form, RATE).value = "1e-4"
    assert form._results.children, "it is still of these rows"
    control(form, "data.train.datasets[0].dataset_name").value = "alpaca"
    assert not form._results.children


def test_reset_all_leaves_the_rows_and_what_suits_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [json.dumps({"q": f"Wort {n}", "a": f"word {n}"}) + "\n" for n in range(300)]
    Path("mine.jsonl").write_text("".join(lines))
    form = Form()
    path = form._fields.make(PATH)
    path.control.value = "mine.jsonl"
    before = form.config
    form._fields.make(RATE).control.value = "1e-4"
    form._fields.make("training.num_train_epochs").control.value = "1"
    form._reset_button.click()
    assert form.config.diff(before) == {}
    assert form.config.evaluation.metrics == ["exact_match"]
    assert form._tree.base == Config.preset("two-minute-try")
    assert "Everything except the rows is back to the preset." in state_of(form)


def test_reset_all_without_a_preset_goes_to_the_defaults() -> None:
    form = Form(Config(data={"dataset_name": "grammar"}, peft={"r": 4}))
    form._reset_button.click()
    assert form.config == Config(data={"dataset_name": "grammar"})


def test_a_group_folds_into_a_line_with_its_values(form: Form) -> None:
    model, data, _, training, _ = form._views._groups
    rate = form._fields[RATE].widget
    before = form._views.page.children
    training._head.click()
    assert rate not in form._views.page.children
    assert training._head.description == (
        "▸ Training: Output folder runs, Epochs 2, Batch size per device 8 rows, Learning rate 3e-4"
    )
    form._apply_fix("", {RATE: 1e-4})
    assert training._head.description.endswith("Learning rate 1e-4")
    data._head.click()
    assert data._head.description == "▸ Data: Dataset grammar, Maximum length 256 tokens"
    form._reveal(RATE)
    assert rate in form._views.page.children, "what leads to a field unfolds its group"
    data._head.click()
    assert form._views.page.children == before
    assert model._head.description == "▾ Model"


def test_the_tabs_have_groups_too(form: Form) -> None:
    form._views.mode.value = "advanced"
    (group, *_) = form._views._groups
    assert group._head.description == "▾ Model"
    group._head.click()
    assert group._head.description.startswith("▸ Model: Base model smollm2-135m")
    form._reveal("model.model_name")
    assert group._head.description == "▾ Model"


def test_without_a_preset_the_defaults_count() -> None:
    form = Form(Config(training={"learning_rate": 1e-4}))
    rate = form._fields[RATE]
    assert "nbft-changed" in rate.widget._dom_classes
    assert rate._reset_button.description == "Reset to 2e-4"
    assert form._views.changed_button.description == "1 changed from defaults (show)"
    assert "From the preset." not in rate._note.value


def test_the_review_ticks_what_was_checked_and_waits_for_wrong_fields(form: Form) -> None:
    form._views.mode.value = "advanced"
    form._views.tabs.selected_index = list(TABS).index("Review")
    text = shown_text(form._views.page)
    assert "Before you start" in text
    assert '<td>passed</td><th scope="row">Rows</th><td>240 rows read, 32 held out.</td>' in text
    assert "Output folder" in text
    form._take("training.output_dir", "x<b>")
    assert "x&lt;b&gt;, about" in shown_text(form._views.page)
    form._take(RATE, "fast")
    assert "Before you start" not in shown_text(form._views.page)


def test_search_finds_by_name_help_and_the_names_of_others() -> None:
    assert find("warm-up")[0] == "scheduler.warmup_steps"
    assert find("lora_r")[0] == "peft.r"
    assert "data.max_length" in find("max_seq_length")
    assert "callbacks.early_stopping_patience" in find("better score")
    form = Form()
    form._views.search.value = "weight decay"
    assert form._views.page.children[1] is form._fields["optimizer.weight_decay"].widget
    form._views.search.value = "max steps"
    shown = [getattr(each, "value", "") or "" for each in form._views.page.children]
    assert [text for text in shown if text.startswith("<h3>")] == [
        *("<h3>Training</h3>", "<h3>Evaluation</h3>"),
        *("<h3>Data, train</h3>", "<h3>Data, validation</h3>", "<h3>Data, test</h3>"),
    ]
    form._views.search.value = "zebra"
    assert "No setting has" in shown_text(form._views.page)
    form._views.search.value = ""
    assert form._views.view == "basic"


def test_tabs_are_built_when_they_are_opened(form: Form) -> None:
    form._views.mode.value = "advanced"
    assert [bool(page.children) for page in form._views.tabs.children] == [True] + [False] * 6
    for index in range(len(TABS)):
        form._views.tabs.selected_index = index
        assert form._views.tabs.children[index].children
    shown = shown_text(form._views.tabs)
    assert "Maximum steps" in shown
    assert "Adam beta 1" not in shown  # rarely needed
    button = next(
        c
        for c in form._views.tabs.children[3].children
        if "rarely" in getattr(c, "description", "")
    )
    button.click()
    assert "Adam beta 1" in shown_text(form._views.tabs)


def test_yaml_goes_both_ways_and_wrong_yaml_stays(form: Form) -> None:
    form._views.mode.value = "yaml"
    view = form._views.yaml
    assert Config.from_yaml(view.text.value) == form.config
    assert view.copy.text == view.text.value
    wrong = view.text.value + "lora:\n  r: 4\n"
    view.text.value = wrong
    view.apply_button.click()
    assert view.text.value == wrong
    assert "lora" in view.problems.value
    view.text.value = "training:\n  max_steps: 7\n"
    view.apply_button.click()
    assert view.problems.value == ""
    assert form.config == Config(training={"max_steps": 7})
    assert control(form, "training.max_steps").value == "7"


def test_edited_yaml_survives_a_changed_field(form: Form) -> None:
    form._views.mode.value = "yaml"
    form._views.yaml.text.value = "# mine\n"
    control(form, RATE).value = "1e-4"
    assert form._views.yaml.text.value == "# mine\n"


def test_python_is_shown_and_its_refusal_said(form: Form, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Config, "to_python", lambda self: "import trl  # <here>")
    form._views.mode.value = "python"
    assert form._views.python.copy.text == "import trl  # <here>"
    assert "&lt;here&gt;" in form._views.python.text.value

    def refuse(self: Config) -> str:
        raise ConfigError("data.train: rows in memory cannot be written as Python.")

    monkeypatch.setattr(Config, "to_python", refuse)
    form._views.show("python")
    assert "rows in memory cannot be written" in state_of(form)


def test_a_preset_that_names_no_rows_keeps_mine(form: Form) -> None:
    control(form, PATH).value = "mine.jsonl"
    assert form._opening.control.value == ""  # own settings
    form._opening.control.value = "high-quality"
    assert form.config.data.train.datasets[0].path == "mine.jsonl"
    assert form.config.peft.r == 32
    form._opening.control.value = "two-minute-try"
    assert form.config == Config.preset("two-minute-try")
    assert control(form, PATH).value == ""


def test_other_rows_replace_all_rows_of_the_preset(form: Form) -> None:
    """Held-out rows of the preset would score a run on other data, without a word."""
    validation = control(form, "data.validation.datasets[0].dataset_name")
    assert validation.value == "grammar"
    control(form, PATH).value = "mine.jsonl"
    wanted = {"path": "mine.jsonl", "max_length": 256, "padding_free": True}
    assert form.config.data == Config(data=wanted).data
    assert validation.value == ""
    assert control(form, "data.train.datasets[0].sample_count").value == ""
    assert "Ready" in state_of(form)
    assert "These rows replace those of the preset" in state_of(form)
    assert form.config.peft == Config.preset("two-minute-try").peft
    control(form, "data.train.datasets[0].prompt_template").value = "{q}"
    assert "replace" not in state_of(form)


def test_what_a_person_chose_for_their_rows_stays(form: Form) -> None:
    control(form, "data.train.datasets[0].prompt_template").value = "{q}\n"
    control(form, "data.validation.datasets[0].path").value = "held out.jsonl"
    assert form.config.data.validation.datasets[0].sample_count is None
    assert form.config.data.train.datasets[0].dataset_name == "grammar"
    control(form, "data.train.datasets[0].sample_count").value = "50"
    control(form, PATH).value = "mine.jsonl"
    (trained,), (held_out,) = form.config.data.train.datasets, form.config.data.validation.datasets
    assert (trained.path, trained.dataset_name, trained.sample_count) == ("mine.jsonl", None, 50)
    assert trained.prompt_template == "{q}\n"
    assert (held_out.path, held_out.dataset_name, held_out.sample_count) == (
        "held out.jsonl",
        None,
        None,
    )
    form._opening.control.value = "high-quality"
    control(form, PATH).value = "others.jsonl"
    assert form.config.data.train.datasets[0].prompt_template == "{q}\n", "still the person's own"
    own = Form(Config(data={"dataset_name": "alpaca", "sample_count": 20}))
    control(own, PATH).value = "mine.jsonl"
    assert own.config.data.train.datasets[0].sample_count == 20, "not of a preset"


def test_another_bundled_dataset_replaces_the_rows_of_the_preset(form: Form) -> None:
    control(form, "data.train.datasets[0].dataset_name").value = "gsm8k"
    assert form.config.data.train.datasets[0].dataset_name == "gsm8k"
    assert form.config.data.train.datasets[0].sample_count is None
    assert form.config.data.validation is None


def test_a_recipe_keeps_the_model_that_was_chosen_and_says_so(form: Form) -> None:
    model = "model.model_name"
    said = (
        "The base model stays a/b, which you chose; this preset suggests Qwen/Qwen2.5-7B-Instruct."
    )
    form._opening.control.value = "lora-7b"
    assert form.config.model.model_name == "Qwen/Qwen2.5-7B-Instruct", "nobody chose another"
    form._opening.control.value = "lora-1b"
    assert form.config.model.model_name == "Qwen/Qwen2.5-1.5B-Instruct"
    assert "The base model stays" not in state_of(form)
    control(form, model).value = "a/b"
    control(form, "model.dtype").value = "float32"
    form._opening.control.value = "lora-7b"
    assert (form.config.model.model_name, form.config.model.dtype) == ("a/b", "float32")
    assert form.config.peft.lora_dropout == 0.05
    assert said in state_of(form)
    form._opening.control.value = "high-quality"  # names no model
    assert form.config.model.model_name == "a/b"
    assert "The base model stays" not in state_of(form)
    form._opening.control.value = "qlora-7b"
    assert said in state_of(form)
    form._opening.control.value = "two-minute-try"  # an example of its own, rows and model
    assert form.config == Config.preset("two-minute-try")
    control(form, model).value = "a/b"
    control(form, model).value = "smollm2-135m"
    for recipe in ("lora-7b", "lora-1b"):
        form._opening.control.value = recipe
        assert form.config.model.model_name == "smollm2-135m", "the default, but chosen"
    form = Form(Config(model={"model_name": "a/b"}))
    form._opening.control.value = "lora-7b"
    assert form.config.model.model_name == "a/b"


def test_a_file_is_opened_and_a_wrong_one_is_fixed_as_yaml(form: Form, tmp_path: Path) -> None:
    def open_file(name: str, text: str) -> None:
        (tmp_path / name).write_text(text)
        form._opening.control.value = "open"
        form._opening.file[0].value = str(tmp_path / name)
        form._opening.file[1].click()

    open_file("right.json", json.dumps({"training": {"max_steps": 3}}))
    assert form.config.training.max_steps == 3
    assert form._views.view == "basic"
    open_file("wrong.yaml", "training:\n  max_step: 3\n")
    assert form._views.view == "yaml"
    assert "max_step: 3" in form._views.yaml.text.value
    assert "Did you mean max_steps?" in form._views.yaml.problems.value
    assert form.config.training.max_steps == 3
    form._opening.control.value = "open"
    form._views.show("basic")
    form._opening.control.value = "open"
    assert form._views.view == "file", "opened twice in a row"
    form._opening.file[0].value = str(tmp_path / "none.yaml")
    form._opening.file[1].click()
    assert "no such file" in state_of(form)


def test_a_file_of_another_system_is_opened_with_a_word_on_every_key(
    form: Form, tmp_path: Path
) -> None:
    def open_file(name: str, text: str) -> None:
        (tmp_path / name).write_text(text)
        form._opening.control.value = "open"
        form._opening.file[0].value = str(tmp_path / name)
        form._opening.file[1].click()

    open_file("theirs.json", json.dumps({"base_model": "a/b", "algorithm": "dora", "rank": 16}))
    assert form.config.peft.use_dora
    assert form._views.view == "basic"
    report = form._results.children[0].value
    assert "PEFT Studio: 3 keys read" in report
    assert "<code>peft.r</code> 16" in report
    open_file("wrong.json", json.dumps({"base_model": "a/b", "algorithm": "lora", "rank": 999}))
    report = form._results.children[0].value
    assert "PEFT Studio: must be 4 to 64" in report
    assert report.index("Could not be taken (1)") < report.index("Renamed, converted or left out")
    assert form.config.peft.r == Config().peft.r
    assert not form.config.peft.use_dora
    open_file("method.yml", "base_model: a/b\nadapter: lora\nrl: ppo\n")
    assert "asks for PPO" in state_of(form)
    assert not form.config.peft.use_dora


def test_code_of_an_opened_file_waits_for_a_button_beside_its_source(
    form: Form, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nbft.plan.make_plan", make_plan)
    trace = str(tmp_path / "ran")
    (tmp_path / "own.py").write_text(f"open({trace!r}, 'w')\ndef prompt(row):\n    return 'a'\n")
    theirs = "dataset: {dataset_name: grammar, prompt_func: 'own:prompt', "
    (tmp_path / "a.yaml").write_text(theirs + "completion_template: '{target}'}")
    form._opening.control.value = "open"
    form._opening.file[0].value = str(tmp_path / "a.yaml")
    form._opening.file[1].click()
    assert form.config.data.train.datasets[0].prompt_func == f"{tmp_path}/own:prompt"
    assert "which you have not allowed" in state_of(form)
    assert form.plan.errors
    form._look_button.click()
    form._check_button.click()
    shown, row, *_ = form._results.children
    (button,) = row.children
    assert "def prompt(row):" in shown.value
    assert button.description == f"Allow {tmp_path}/own:prompt"
    assert not (tmp_path / "ran").exists()
    button.click()
    assert "which you have not allowed" not in state_of(form)
    assert form.plan.errors == []
    assert (tmp_path / "ran").exists()


def test_rows_in_memory_are_kept_through_every_change() -> None:
    rows = [{"prompt": "a", "completion": "b"}]
    form = Form(Config(data={"rows": rows}))
    control(form, RATE).value = "1e-4"
    template = "data.train.datasets[0].prompt_template"
    control(form, template).value = "{prompt}"
    control(form, template).value = ""
    form._reset_button.click()
    form._opening.control.value = "high-quality"
    assert form.config.data.train.datasets[0].rows is rows


def test_the_data_is_looked_at(form: Form, empty_cache: Path) -> None:
    press(form, "Look at the data")
    lens = form._results.children[-1]
    assert lens.row["title"].startswith("row 1 of ")
    assert "Ready" in state_of(form)
    control(form, PATH).value = "none.jsonl"
    press(form, "Look at the data")
    assert lens not in form._results.children
    assert lens.comm is None  # closed: it holds no rows any more
    assert "does not exist" in form._results.children[-1].row["problems"][0]


def test_training_locks_the_fields_and_ends_with_run_again(form: Form, run: FakeRun) -> None:
    form._launching.handles = ["live", "result"]
    press(form, "Train here")
    assert run.started == [form.config]  # type: ignore[attr-defined]
    assert FakeMonitor.shown == [(run, "live", "result")]
    assert control(form, RATE).disabled
    assert "Running: run kind-otter-14" in state_of(form)
    assert form._launching._edit in form._more_buttons.children
    press(form, "Edit a copy")
    assert not control(form, RATE).disabled
    assert "Train here waits: run kind-otter-14 is training." in state_of(form)
    assert form._launching.buttons["Train here"].disabled

    form._launching.lock(True)
    run.is_over, run.status, run.adapter = True, "completed", Path("adapter")
    form._launching.follow()
    assert "Finished: run kind-otter-14 completed." in state_of(form)
    assert form._launching.buttons["Train here"].description.startswith("Run again")
    assert not form._launching.buttons["Train here"].disabled
    press(form, "Compare")
    assert "before and after" in shown_text(form._results)
    control(form, RATE).value = "1e-4"
    assert "Ready" in state_of(form)
    assert form._launching.buttons["Train here"].description.startswith("Train here: ")
    press(form, "Train here")
    assert "before and after" not in shown_text(form._results)  # it was the earlier run's


def test_a_fix_beneath_the_form_makes_the_new_run_the_forms_run(form: Form, run: FakeRun) -> None:
    run.config = form.config  # type: ignore[attr-defined]
    form._launching.handles = ["live", "result"]
    press(form, "Train here")
    again = FakeRun()
    again.id = "calm-heron-3"
    place = {"training.run_name": "calm-heron-3", "training.output_dir": "/there/runs"}
    batch = "training.per_device_train_batch_size"
    again.config = form.config.apply({**place, batch: 1})  # type: ignore[attr-defined]
    run.is_over, run.status = True, "failed"
    form._launching.follow()
    assert "Finished: run kind-otter-14 failed." in state_of(form)
    FakeMonitor.made[-1].on_run_again(again)
    assert form.run is again
    assert "Running: run calm-heron-3" in state_of(form)
    assert control(form, batch).value == "1", "the fields show the run that trains"
    assert control(form, batch).disabled
    assert form.config.training.output_dir == "runs"
    again.is_over = True
    form._launching.follow()
    assert not control(form, batch).disabled


def test_a_fix_does_not_touch_what_was_typed_after_the_run(form: Form, run: FakeRun) -> None:
    form._launching.handles = ["live", "result"]
    press(form, "Train here")
    run.is_over, run.status = True, "failed"
    form._launching.follow()
    control(form, RATE).value = "1e-4"
    again = FakeRun()
    FakeMonitor.made[-1].on_run_again(again)
    assert form.run is again
    assert not control(form, RATE).disabled
    assert form.config.training.learning_rate == 1e-4
    assert "Train here waits: run kind-otter-14 is training." in state_of(form)


def test_what_cannot_start_is_said_in_a_sentence(
    form: Form, run: FakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(config: Config) -> None:
        raise RunError("runs: the disk is full.")

    monkeypatch.setattr(sys.modules["nbft.launchers"], "start", refuse)
    press(form, "Train here")
    assert "the disk is full" in state_of(form)
    assert "Traceback" not in state_of(form)
    assert not control(form, RATE).disabled

    def crash(config: Config) -> None:
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(sys.modules["nbft.launchers"], "start", crash)
    press(form, "Train here")
    assert "ZeroDivisionError" in state_of(form)
    assert "form.log" in state_of(form)
    assert "Traceback" in form.log


def test_a_click_on_another_thread_is_handed_to_the_main_one(
    form: Form, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("nbft.widgets.state_line.call_soon", lambda *call: asked.append(call))
    thread = threading.Thread(target=lambda: press(form, "Check"))
    thread.start()
    thread.join()
    assert len(asked) == 1
    assert not form._tree.is_checked


def test_a_misspelt_keyword_is_named() -> None:
    with pytest.raises(TypeError, match="Did you mean config"):
        Form(confg=Config())
    with pytest.raises(TypeError, match=r"nbft\.Config"):
        Form("two-minute-try")  # type: ignore[arg-type]


def test_this_run_says_what_will_happen() -> None:
    plan = plan_of(Config())
    html = summary(plan)
    time, memory = "about 4\xa0min", "2.0\xa0GiB of 20\xa0GiB free"
    for words in ("41,200", time, memory, "no GPU was found", "60"):
        assert words in html
    assert "1 field needs fixing" in summary(plan, "1 field needs fixing.")
    curve = learning_rate_curve([(0, 0.0), (3, 3e-4), (60, 0.0)])
    assert 'role="img"' in curve
    assert "0 at the start, 3e-4 at step 3, 0 at step 60" in curve
    assert learning_rate_curve([]) == ""


def test_a_range_that_ends_at_one_has_one_row() -> None:
    texts = {path: range_words(setting) for path, setting in fields()}
    assert texts["data.train.datasets[0].sample_count"] == "At least 1 row."
    assert not [text for text in texts.values() if re.search(r"least 1 \w+s\b", text)]


def test_the_layers_are_listed_with_what_the_adapter_adds(tmp_path: Path) -> None:
    from nbft.data.tiny_model import make_tiny_model

    form = Form(Config(model={"model_name": str(make_tiny_model(tmp_path))}, peft={"r": 8}))
    form._views.show("advanced")
    form._views.tabs.selected_index = list(TABS).index("Method")
    table = form._views.layers
    row = r'<th scope="row">model.layers.\*.self_attn.{}</th><td>2</td><td>{}</td><td>{}</td>'
    assert re.search(row.format("q_proj", "64 × 64", "1,024"), table.value)
    assert re.search(row.format("k_proj", "32 × 64", "768"), table.value)
    assert "lm_head" not in table.value  # the head is no target
    assert '<th scope="col">' in table.value  # a screen reader says what a number is
    total = sum(int(n.replace(",", "")) for n in re.findall(r"<td>([\d,]+)</td></tr>", table.value))
    assert f"LoRA r=8 adds {total:,} parameters" in table.value

    form._take("peft.r", 16)
    assert re.search(row.format("q_proj", "64 × 64", "2,048"), table.value)
    form._take("peft.target_modules", ["q_proj"])
    assert re.search(row.format("k_proj", "32 × 64", "none"), table.value)
    before = table.value
    form._take("peft.r", "x")  # while a field is wrong
    assert table.value == before
    form._take("peft.r", 16)
    form._take_all({"peft.method": "ln_tuning", "peft.target_modules": ["all-linear"]})
    assert "model.layers.*.input_layernorm</th><td>2</td><td>64</td><td>64</td>" in table.value
    form._take("peft.method", "prompt_tuning")
    assert "No layer is changed." in table.value
    form._take("peft.method", "full")
    assert "Every layer is trained" in table.value
    form.close()


# Trackers


@pytest.fixture
def no_tracker_but(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the trackers that count as installed; none has a login."""
    installed: list[str] = []
    versions = lambda name: "1.2" if name in installed else None  # noqa: E731
    monkeypatch.setattr("nbft.tracking.version_of", versions)
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", "none")
    monkeypatch.setenv("WANDB_CONFIG_DIR", "none")
    return installed


def notes_of(form: Form) -> dict[str, str]:
    boxes = control(form, "tracking.report_to")
    return {name: note.value for name, note in boxes._notes.items()}


def test_each_tracker_has_a_box_and_its_state(form: Form, no_tracker_but: list[str]) -> None:
    no_tracker_but += ["tensorboard", "wandb"]
    notes = notes_of(form)
    assert notes["tensorboard"].startswith(
        "Installed 1.2, local: written to the folder of the run."
    )
    assert notes["wandb"].startswith("Installed 1.2, offline: no login was found")
    assert notes["comet_ml"] == "Not installed: <code>pip install comet-ml</code>"
    boxes = control(form, "tracking.report_to")._boxes
    assert [box.description for box in boxes.values()] == [
        *("TensorBoard", "Weights & Biases", "Comet"),
        *("MLflow", "Trackio", "Arize Phoenix"),
    ]


def test_ticking_a_tracker_sets_it(form: Form, no_tracker_but: list[str]) -> None:
    boxes = control(form, "tracking.report_to")._boxes
    boxes["wandb"].value = True
    boxes["tensorboard"].value = True
    assert form.config.tracking.report_to == ["tensorboard", "wandb"]
    assert form._fields["tracking.report_to"].in_words() == "Trackers tensorboard, wandb"
    boxes["wandb"].value = False
    assert form.config.tracking.report_to == ["tensorboard"]
    boxes["tensorboard"].value = False
    assert form.config.tracking.report_to == []
    assert "tracking.report_to" not in form._tree.changes
    assert form._fields["tracking.report_to"].in_words() == ""


def test_a_tracker_is_installed_or_logged_in_while_the_form_is_open(
    form: Form, no_tracker_but: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert notes_of(form)["wandb"].startswith("Not installed")
    no_tracker_but.append("wandb")
    monkeypatch.setenv("WANDB_API_KEY", "x")
    control(form, "tracking.project").value = "mine"
    assert notes_of(form)["wandb"].endswith("the login is in WANDB_API_KEY.")
    control(form, "logging.logging_dir").value = "tb"
    no_tracker_but.append("tensorboard")
    control(form, "tracking.project").value = "yours"
    assert "written to tb" in notes_of(form)["tensorboard"]


def test_the_boxes_show_what_yaml_says_and_are_locked_with_the_form(
    form: Form, no_tracker_but: list[str]
) -> None:
    boxes = control(form, "tracking.report_to")._boxes
    form._apply_yaml("tracking: {report_to: [mlflow, wandb]}")
    assert [name for name, box in boxes.items() if box.value] == ["wandb", "mlflow"]
    assert form.config.tracking.report_to == ["mlflow", "wandb"], "in the order that was written"
    form._lock(True)
    assert all(box.disabled for box in boxes.values())
    form._lock(False)
    assert not any(box.disabled for box in boxes.values())


def test_a_missing_tracker_that_is_ticked_has_the_sentence_of_the_plan(
    no_tracker_but: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nbft.plan.make_plan", make_plan)
    monkeypatch.setattr("nbft.plan.checks.version_of", lambda _: None)
    form = Form(Config(data={"dataset_name": "alpaca"}))
    control(form, "tracking.report_to")._boxes["mlflow"].value = True
    said = "not installed: mlflow. pip install mlflow, or remove what is not installed."
    assert said in problem_of(form, "tracking.report_to")
    form._fields["tracking.report_to"]._fix_button.click()
    assert form.config.tracking.report_to == []


def test_the_name_of_the_run_is_beside_the_project(form: Form) -> None:
    form._views.reveal("tracking.project")
    (group,) = [group for group in form._views._groups if group._title == "Tracking"]
    assert [field.path for field in group.fields] == [
        *("tracking.report_to", "tracking.project", "training.run_name", "tracking.tags")
    ]
    form._views.reveal("training.run_name")
    assert list(TABS)[form._views.tabs.selected_index] == "Tracking"


def test_auto_is_typed_and_shown_as_the_number_of_processes(form: Form) -> None:
    box = control(form, "distributed.num_processes")
    box.value = "auto"
    assert form.config.distributed.num_processes is None
    assert box.value == "auto"
    box.value = ""
    assert form.config.distributed.num_processes == 1
