"""Preference training in the form: its settings, what is proposed for pairs, and what is said."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nbft import make_plan
from nbft.config import Config
from nbft.plan.advice import STEPS, answers_of, this_machine
from nbft.widgets.form import Form

METHOD = "training.method"
PATH = "data.train.datasets[0].path"
PAIRS = [{"prompt": f"{n}?\n", "chosen": f"It is {n}.", "rejected": f"No, {n}."} for n in range(30)]
LABELLED = [
    {"prompt": f"{n}?\n", "completion": f"It is {n}.", "label": n % 2 == 0} for n in range(30)
]
PLAIN = [{"prompt": f"{n}?\n", "completion": f"It is {n}."} for n in range(30)]


@pytest.fixture
def form(tiny_model: Path, tmp_path: Path) -> Form:
    for name, rows in (("pairs", PAIRS), ("labelled", LABELLED), ("plain", PLAIN)):
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(text)
    return Form(Config(model={"model_name": str(tiny_model)}))


def fill(form: Form, path: str, value: Any) -> None:
    form._fields.make(path).control.value = value


def shown(form: Form) -> set[str]:
    """Return the fields on the tab Method."""
    page = form._views.tabs.children[2]
    of_method = form._views._of_method
    on_page = {*page.children, *of_method.children}
    return {path for path, field in form._fields.items() if field.widget in on_page}


def test_the_methods_are_listed_with_words(form: Form) -> None:
    options = dict(form._fields.make(METHOD).control.options)
    assert options["dpo: preference training (DPO)"] == "dpo"
    assert options["sft: supervised fine-tuning"] == "sft"


def test_the_settings_of_a_method_come_and_go_with_it(form: Form) -> None:
    form._views.mode.value = "advanced"
    form._views.tabs.selected_index = 2
    assert METHOD in shown(form)
    assert not [path for path in shown(form) if path.startswith("preference.")]
    control = form._fields[METHOD].control
    first = form._views.tabs.children[2].children[:2]
    control.value = "dpo"
    assert {"preference.beta", "preference.loss_type", METHOD, "peft.r"} <= shown(form)
    assert "preference.dpop_lambda" not in shown(form), "rarely needed"
    assert form._views.tabs.children[2].children[:2] == first, "the focus stays"
    control.value = "reward"
    assert "preference.beta" not in shown(form)
    assert "preference.max_prompt_length" in shown(form)
    control.value = "kto"
    assert "preference.beta" in shown(form)
    fill(form, "preference.beta", "0.3")
    control.value = "reward"
    assert "preference.beta" in shown(form), "it is wrong here, and can be corrected"
    control.value = "kto"
    control.value = "sft"
    assert not [path for path in shown(form) if path.startswith("preference.")]
    form._views.tabs.selected_index = 3
    others = form._views.tabs.children[3].children
    assert form._fields[METHOD].widget not in others, "one place for it"


def test_a_link_leads_to_the_method_and_to_its_settings(form: Form) -> None:
    form._views.reveal("preference.beta")
    assert form._views.tabs.selected_index == 2
    form._views.tabs.selected_index = 3
    form._views.reveal(METHOD)
    assert (form._views.view, form._views.tabs.selected_index) == ("advanced", 2)


@pytest.mark.parametrize(
    ("name", "method", "words"),
    [("pairs", "dpo", "a worse answer beside each"), ("labelled", "kto", "labelled bad")],
)
def test_rows_with_bad_answers_propose_the_method_that_uses_them(
    form: Form, tmp_path: Path, name: str, method: str, words: str
) -> None:
    fill(form, PATH, str(tmp_path / f"{name}.jsonl"))
    (problem,) = [p for p in form.problems if p.field == METHOD]
    assert problem.level == "warning"
    assert words in problem.why
    assert " of SFT" not in form._launching.buttons["Train here"].description
    form._apply_fix(METHOD, problem.changes)
    assert form.config.training.method == method
    assert form.config.training.learning_rate == 5e-5, "lower than for imitation"
    assert not [p for p in form.problems if p.field == METHOD]
    button = form._launching.buttons["Train here"].description
    assert f"of {method.upper()} on {name}.jsonl" in button
    said = form._fields[PATH].columns._look.sentence
    assert "likelier" in said
    fill(form, PATH, str(tmp_path / "plain.jsonl"))
    (refused,) = [p for p in form.problems if p.level == "error"]
    assert refused.changes == {METHOD: "sft"}
    form._apply_fix(PATH, refused.changes)
    assert [p for p in form.problems if p.level == "error"] == []


def test_a_method_that_is_asked_for_is_no_warning() -> None:
    config = Config(data={"rows": PAIRS})
    assert METHOD in {p.field for p in make_plan(config).warnings}
    asked = Config(data={"rows": PAIRS}, training={"method": "sft"})
    assert METHOD not in {p.field for p in make_plan(asked).warnings}
    assert METHOD not in {p.field for p in make_plan(Config(data={"rows": PLAIN})).warnings}


@pytest.mark.parametrize(("rows", "method"), [(PAIRS, "dpo"), (LABELLED, "kto"), (PLAIN, None)])
def test_the_steps_ask_for_the_method_where_the_rows_leave_a_choice(
    rows: list[dict[str, Any]], method: str | None
) -> None:
    config = Config(data={"rows": rows})
    answers = answers_of(config)
    questions = {q.path: q for q in STEPS[2].questions(answers, this_machine(config))}
    assert (METHOD in questions) == bool(method)
    if method:
        assert questions[METHOD].value == method
        assert "Your rows" in questions[METHOD].reason


def test_the_guided_mode_follows_the_rows(tiny_model: Path, form: Form, tmp_path: Path) -> None:
    guided = Form(guided=True)
    fill(guided, "model.model_name", str(tiny_model))
    for name, method, rate in (
        ("pairs", "dpo", 5e-5),
        ("plain", "sft", 3e-4),
        ("labelled", "kto", 5e-5),
    ):
        fill(guided, PATH, str(tmp_path / f"{name}.jsonl"))
        assert guided.config.training.method == method
        assert guided.config.training.learning_rate == rate
        assert [p for p in guided.problems if p.level == "error"] == []
