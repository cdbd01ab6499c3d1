"""The columns of a file's rows: what is seen of them, and what picking sets."""

from __future__ import annotations

import json
from collections.abc import Callable
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from nbft.config import Config
from nbft.config.data import Dataset
from nbft.data.looking import look
from nbft.widgets.columns import Columns
from nbft.widgets.form import Form

from ...workbooks import write_xlsx  # noqa: TID252

PATH = "data.train.datasets[0].path"


def write(name: str, *rows: dict[str, Any]) -> str:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return name


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def columns_of(form: Form, path: str = PATH) -> Columns:
    return form._fields.make(path).columns


def said(columns: Columns) -> str:
    return unescape(columns._said.value)


def name_file(form: Form, name: str, path: str = PATH) -> Columns:
    form._fields.make(path).control.value = name
    return columns_of(form, path)


def first(form: Form) -> tuple[str, str]:
    from nbft.data import load_examples

    example = load_examples(form.config, "train")[0][0]
    return example.prompt, example.completion


QA = [{"q": f"{n} + 8?", "a": f"{n + 8}"} for n in range(20)]
ODD = [{"german word": f"Wort {n}", "hint": "", "meaning": f"word {n}"} for n in range(20)]


def test_names_that_leave_no_doubt_become_roles_at_once() -> None:
    form = Form()
    columns = name_file(form, write("mine.jsonl", *QA))
    assert form.problems == []
    assert first(form) == ("Question: 0 + 8?\n\nAnswer:\n", "8")
    assert "mine.jsonl: 20 rows; q is the prompt, a the answer." in said(columns)
    assert columns._use not in columns._picks.children
    template = form._fields.make("data.train.datasets[0].prompt_template")
    assert template.control.value == "Question: {q}\n\nAnswer:\n"
    assert [columns._lists[role].value for role in ("prompt", "completion")] == ["q", "a"]


def test_a_guess_is_shown_and_waits_for_one_click() -> None:
    form = Form()
    columns = name_file(form, write("odd.jsonl", *ODD))
    assert [p.level for p in form.problems] == ["error"]
    assert "with the columns german word, hint, meaning. Which of them" in said(columns)
    assert "Wort 0" in columns._rows.value
    columns._use.click()
    assert form.problems == []
    assert first(form) == ("Wort 0\n", "word 0")
    assert columns._use not in columns._picks.children


def test_picking_a_column_sets_its_role_and_two_roles_change_places() -> None:
    form = Form()
    columns = name_file(form, write("mine.jsonl", *QA))
    columns._lists["prompt"].value = "a"
    assert first(form) == ("Question: 8\n\nAnswer:\n", "0 + 8?")
    assert columns._lists["completion"].value == "q"
    columns._wording.value = "plain"
    assert first(form) == ("8\n", "0 + 8?")


def test_the_answer_cannot_be_empty() -> None:
    form = Form()
    columns = name_file(form, write("mine.jsonl", *QA))
    columns._lists["completion"].value = ""
    assert "The answer cannot be empty" in said(columns)
    assert columns._lists["completion"].value == "a"
    assert first(form) == ("Question: 0 + 8?\n\nAnswer:\n", "8")


def test_templates_that_a_person_has_written_are_not_replaced_by_a_pick() -> None:
    rows = [{"en": "dog", "fr": "chien", "it": "cane", "sys": "Be brief."}] * 5
    form = Form()
    columns = name_file(form, write("a.jsonl", *rows))
    form._fields.make("data.train.datasets[0].prompt_template").control.value = "In French: {en}\n"
    answer = "data.train.datasets[0].completion_template"
    form._fields.make(answer).control.value = "Voilà: {fr}"
    columns._lists["system"].value = "sys"
    dataset = form.config.data.train.datasets[0]
    assert dataset.system_template == "{sys}"
    assert (dataset.prompt_template, dataset.completion_template) == (
        "In French: {en}\n",
        "Voilà: {fr}",
    )
    columns._lists["completion"].value = "it"
    assert form.config.data.train.datasets[0].completion_template == "Voilà: {it}"
    columns._lists["context"].value = "fr"
    assert "Write {fr} into them" in said(columns)
    assert columns._lists["context"].value == ""
    columns._wording.value = "question"
    dataset = form.config.data.train.datasets[0]
    assert dataset.prompt_template == "Question: {en}\n\nAnswer:\n"
    assert dataset.completion_template == "Voilà: {it}", "the text around the answer stays"


def test_a_file_and_a_name_exclude_each_other() -> None:
    form = Form()
    name_file(form, write("mine.jsonl", *QA))
    form._fields.make("data.train.datasets[0].dataset_name").control.value = "alpaca"
    dataset = form.config.data.train.datasets[0]
    assert (dataset.path, dataset.dataset_name, dataset.prompt_template) == (None, "alpaca", None)
    assert form._fields.make(PATH).control.value == ""
    name_file(form, "mine.jsonl")
    assert form.config.data.train.datasets[0].dataset_name is None


def test_the_epochs_follow_each_file() -> None:
    form = Form()
    name_file(form, write("few.jsonl", *QA))
    assert form.config.training.num_train_epochs == 3
    name_file(form, write("many.jsonl", *({"q": f"{n}?", "a": f"{n}"} for n in range(6000))))
    assert form.config.training.num_train_epochs == 2


def test_held_out_rows_are_read_as_those_to_train_on() -> None:
    form = Form()
    columns = name_file(form, write("mine.jsonl", *QA))
    columns._wording.value = "chat"
    held = "data.validation.datasets[0].path"
    name_file(form, write("held.jsonl", *QA[:5]), held)
    data = form.config.data
    assert data.validation is not None
    assert data.validation.datasets[0].dataset_type == "chat_completion"
    columns._wording.value = "plain"
    data = form.config.data
    assert data.validation is not None
    assert data.validation.datasets[0].prompt_template == "{q}\n"
    assert form.problems == []


def test_columns_of_later_rows_can_be_picked_too() -> None:
    rows = [{"q": f"{n}?"} for n in range(150)] + [{"q": f"{n}?", "a": str(n)} for n in range(150)]
    seen = look(Dataset(path=write("late.jsonl", *rows)), "train")
    assert seen is not None
    assert seen.columns == ("q", "a")


@pytest.mark.parametrize("label", ["label", "sentiment", "category"])
def test_a_text_with_a_label_is_asked_about_and_not_trained_as_text_in_silence(label: str) -> None:
    form = Form()
    columns = name_file(form, write("films.csv", {"text": "", label: ""}))
    Path("films.csv").write_text(f"text,{label}\n" + "I like it.,good\nI hate it.,bad\n" * 20)
    form._check()
    assert columns.is_asked
    assert any("is not used" in p.why for p in form.problems)
    columns._use.click()
    assert first(form)[1] in ("good", "bad")
    assert not [p for p in form.problems if "is not used" in p.why]


def test_a_conversation_and_a_pair_exclude_each_other() -> None:
    turns = [{"role": "user", "content": "Hi."}, {"role": "assistant", "content": "Hello."}]
    form = Form()
    columns = name_file(form, write("a.jsonl", *[{"log": turns, "note": "n", "who": "w"}] * 5))
    assert columns._lists["messages"].value == "log"
    columns._use.click()
    assert form.config.data.train.datasets[0].dataset_type == "messages"
    columns._lists["completion"].value = "note"
    assert columns._lists["messages"].value == ""
    assert form.config.data.train.datasets[0].dataset_type == "text"
    columns._lists["messages"].value = "log"
    assert columns._lists["completion"].value == ""


def test_roles_belong_to_their_file() -> None:
    form = Form()
    name_file(form, write("mine.jsonl", *QA))
    columns_of(form)._wording.value = "plain"
    name_file(form, write("odd.jsonl", *ODD))
    assert form.config.data.train.datasets[0].prompt_template is None
    name_file(form, write("again.jsonl", *QA))
    assert first(form) == ("Question: 0 + 8?\n\nAnswer:\n", "8")


def test_a_template_that_a_person_has_written_stays_with_another_file() -> None:
    form = Form()
    form._fields.make("data.train.datasets[0].prompt_template").control.value = "{q} = "
    form._fields.make("data.train.datasets[0].completion_template").control.value = "{a}"
    columns = name_file(form, write("mine.jsonl", *QA))
    assert first(form) == ("0 + 8? = ", "8")
    assert "20 rows, read by your templates." in said(columns)
    assert columns._wording.options[0] == ("your own templates", "")


def test_rows_in_memory_have_columns_too_and_bundled_ones_need_none() -> None:
    columns = columns_of(Form(Config(data={"rows": ODD})))
    assert "the rows in memory: 20 rows" in said(columns)
    assert not columns_of(Form()).is_shown


def test_held_out_rows_get_roles_of_their_own() -> None:
    form = Form()
    name_file(form, write("mine.jsonl", *QA))
    name_file(form, write("held.jsonl", *QA[:5]), "data.validation.datasets[0].path")
    assert form.problems == []
    assert form.plan.eval_rows == 5


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        ([{"id": 1, "url": "http://x"}], "None of them holds text to learn from."),
        ([{"story": "Once."}], "1 row with the columns story."),
        (
            [{f"column {n}": "x" for n in range(200)}],
            "column 0, column 1, column 2, column 3, column 4, column 5, column 6, column 7 and 192 more",
        ),
        ([{"text": "Once."}], "1 row, recognised as plain text; all of it is trained on."),
        ([{"instruction": "Why?", "output": "So."}] * 3, "3 rows, recognised as instructions"),
    ],
)
def test_what_is_said_of_rows(rows: list[dict[str, Any]], sentence: str) -> None:
    seen = look(Dataset(path=write("a.jsonl", *rows)), "train")
    assert seen is not None
    assert sentence in seen.sentence


def test_a_file_that_cannot_be_read_has_no_columns() -> None:
    Path("a.jsonl").write_text('{"a"')
    assert look(Dataset(path="a.jsonl"), "train") is None
    form = Form()
    assert not name_file(form, "a.jsonl").is_shown


def test_a_file_is_looked_at_whole_even_if_the_dataset_takes_a_part() -> None:
    path = write("mine.jsonl", *QA)
    seen = look(Dataset(path=path, sample_count=2, shuffle=True), "train")
    assert seen is not None
    assert seen.total == 20


def test_locked_lists_keep_their_roles() -> None:
    form = Form()
    columns = name_file(form, write("mine.jsonl", *QA))
    form._lock(True)
    assert all(control.disabled for control in columns._controls())
    form._lock(False)
    assert not any(control.disabled for control in columns._controls())


def test_markup_in_names_and_cells_is_text() -> None:
    columns = name_file(Form(), write("a.jsonl", {"<b>": "<i>x</i>", "</p>": "y"}))
    shown = columns._said.value + columns._rows.value
    assert "&lt;b&gt;" in shown
    assert "&lt;i&gt;x" in shown
    assert "<i>" not in shown


def test_following_again_reads_no_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    form = Form()
    name_file(form, write("mine.jsonl", *QA))
    monkeypatch.setattr("nbft.widgets.columns.look", lambda *_: pytest.fail("read again"))
    form._fields.make("training.learning_rate").control.value = "1e-4"


def test_what_was_odd_about_a_table_is_said(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("q;a;\nx;y;\n;;\n")
    seen = look(Dataset(path=str(path)), "train")
    assert seen is not None
    assert seen.sentence.endswith(
        "The cells are separated by semicolons. 1 column without a name or values is left out. "
        "1 empty row is left out (row 3)."
    )


def test_the_epochs_follow_the_number_of_rows_that_replace_those_of_a_preset() -> None:
    form = Form()
    assert form.config.training.num_train_epochs == 2
    name_file(form, write("mine.jsonl", *QA))
    assert form.config.training.num_train_epochs == 3
    assert form._fields.make("training.num_train_epochs").control.value == "3"
    assert "Epochs: 3." in form.line.widget.value
    assert "a small dataset needs" in form.line.widget.value
    form._fields.make("training.num_train_epochs").control.value = "1"
    name_file(form, write("odd.jsonl", *ODD))
    columns_of(form)._use.click()
    assert form.config.training.num_train_epochs == 1, "what a person has chosen stays"


LONG = "A long answer can be worded in many ways, so that few of them are the same to the letter. "


@pytest.mark.parametrize(
    ("answers", "metrics", "said"),
    [
        (lambda n: f"{n} is the answer.", ["exact_match"], "the wanted answers are short"),
        (lambda n: f"{LONG}{n} + 1 = {n + 1}\n#### {n + 1}", ["exact_match"], "state a number"),
        (lambda n: f"{LONG * 2}{n}", ["perplexity"], "more than one right wording"),
    ],
)
def test_own_rows_are_scored_by_what_suits_their_answers(
    answers: Callable[[int], str], metrics: list[str], said: str
) -> None:
    form = Form()
    name_file(form, write("mine.jsonl", *({"q": f"Say {n}.", "a": answers(n)} for n in range(40))))
    assert form.config.evaluation.metrics == metrics
    assert f"Scored by {metrics[0]}: " in form.line.widget.value
    assert said in form.line.widget.value


def test_a_bundled_sample_keeps_its_own_metrics_and_a_person_theirs() -> None:
    form = Form()
    name_file(form, write("mine.jsonl", *QA))
    assert form.config.evaluation.metrics == ["exact_match"]
    form._fields.make("data.train.datasets[0].dataset_name").control.value = "samsum"
    assert form.config.evaluation.metrics is None
    form._fields.make("evaluation.metrics").control.value = "rouge"
    name_file(form, write("other.jsonl", *QA))
    assert form.config.evaluation.metrics == ["rouge"]


def test_the_epochs_wait_until_the_rows_can_be_read() -> None:
    form = Form()
    columns = name_file(form, write("odd.jsonl", *ODD))
    assert form.config.training.num_train_epochs == 2
    columns._use.click()
    assert form.config.training.num_train_epochs == 3


def test_a_sheet_of_a_workbook_is_chosen_from_a_list(tmp_path: Path) -> None:
    qa = [["q", "a"], *([f"Say {n}.", f"{n}!"] for n in range(20))]
    odd = [["german word", "meaning"], *([f"Wort {n}", f"word {n}"] for n in range(30))]
    write_xlsx(tmp_path / "class.xlsx", {"Questions": qa, "Words": odd})
    form = Form()
    columns = name_file(form, "class.xlsx")
    assert columns._picks.children[0] is columns._sheet
    assert first(form)[0].startswith("Question: Say ")
    columns._sheet.value = "Words"
    assert form.config.data.train.datasets[0].subset == "Words"
    assert form.config.data.train.datasets[0].prompt_template is None, "that of the former sheet"
    assert "30 rows with the columns german word, meaning." in said(columns)
    columns._use.click()
    assert first(form)[0].startswith("Wort ")
    columns._sheet.value = ""
    assert form.config.data.train.datasets[0].subset is None
    assert first(form)[0].startswith("Question: Say ")
    name_file(form, write("mine.jsonl", *QA))
    assert columns._sheet not in columns._picks.children
    form._lock(True)
    assert columns._sheet.disabled


def test_templates_of_former_columns_go_with_them() -> None:
    """Also those that a person has edited: no template can name a column that is not there."""
    form = Form()
    columns = name_file(form, write("odd.jsonl", *ODD))
    columns._use.click()
    form._fields.make("data.train.datasets[0].prompt_template").control.value = "{meaning}?"
    name_file(form, write("mine.jsonl", *QA))
    assert form.problems == []
    assert first(form)[0].startswith("Question: ")
    form._fields.make("data.train.datasets[0].prompt_template").control.value = "Say {q}:"
    name_file(form, write("other.jsonl", *QA))
    assert form.config.data.train.datasets[0].prompt_template == "Say {q}:", "it fits these, too"


@pytest.mark.parametrize(("rows", "is_said"), [(20, True), (300, False)])
def test_few_rows_are_said_to_be_few(rows: int, is_said: bool) -> None:
    form = Form()
    name_file(
        form, write("mine.jsonl", *({"q": f"{n} + 8?", "a": f"{n + 8}"} for n in range(rows)))
    )
    assert ("are few: a model learns their wording" in form.line.widget.value) == is_said


def test_the_guesses_of_other_lists_wait_for_the_button() -> None:
    rows = [{"Nr.": n, "Verb": f"gehen {n}", "Teacher": "A" if n % 3 else ""} for n in range(30)]
    rows = [{**row, "Form": f"geht {row['Nr.']}"} for row in rows]
    form = Form()
    columns = name_file(form, write("verbs.jsonl", *rows))
    assert (columns._lists["prompt"].value, columns._lists["completion"].value) == ("Verb", "Form")
    columns._lists["prompt"].value = "Form"
    assert columns._lists["completion"].value == "Verb"
    assert columns._use in columns._picks.children
    assert form.config.data.train.datasets[0].prompt_template is None
    columns._use.click()
    assert first(form) == ("geht 0\n", "gehen 0")
