"""From the launcher card to a run on a file of one's own, by a person's steps, which are counted.

An action is a click, a choice or a text typed; waiting and looking are none.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from ..workbooks import write_xlsx  # noqa: TID252
from .conftest import READY, Notebook, Server, Theme

# A run without a model: what is asked here is how people get to it.
NO_TRAINING = (
    "exec('import nbft.launchers; from nbft.runs import Run; "
    "nbft.launchers.start = lambda config: Run.create(config)', globals())"
)


class Person:
    """Acts on the page, and counts."""

    def __init__(self, notebook: Notebook, server: Server) -> None:
        self.notebook, self.page, self.server = notebook, notebook.page, server
        self.actions = 0

    def opens_the_form(self, theme: Theme, width: int) -> Locator:
        """Press the card of the launcher."""
        self.page.set_viewport_size({"width": width, "height": 1000})
        self.page.goto(f"{self.server.url}/lab?reset&token={self.server.token}")
        card = self.page.locator(".jp-LauncherCard", has_text="Fine-tune a model")
        expect(card).to_be_visible(timeout=30_000)
        self.notebook.set_theme(theme)
        self.page.evaluate("() => window.jupyterapp.shell.collapseLeft()")
        self.clicks(card)
        form = self.page.locator(".nbft-form")
        expect(form).to_be_visible(timeout=60_000)
        self.page.wait_for_function(READY, timeout=60_000)
        self.notebook.kernel_eval(NO_TRAINING)
        return form

    def clicks(self, what: Locator) -> None:
        self.actions += 1
        what.click()

    def chooses(self, form: Locator, path: Path) -> None:
        """Choose a file of this computer: the button, and the file in the system's dialog."""
        with self.page.expect_file_chooser() as chooser:
            self.clicks(form.get_by_role("button", name="Choose a file of train rows"))
        self.actions += 1
        chooser.value.set_files(path)

    def picks(self, form: Locator, role: str, column: str) -> None:
        self.actions += 1
        form.locator(".nbft-columns").get_by_label(role, exact=True).select_option(column)

    def trains(self, form: Locator) -> None:
        button = form.get_by_role("button", name="Train here")
        expect(button).to_be_enabled(timeout=30_000)
        self.clicks(button)
        expect(form.get_by_text("Running: run")).to_be_visible(timeout=30_000)


@pytest.fixture
def person(notebook: Notebook, jupyter_lab: Server) -> Person:
    return Person(notebook, jupyter_lab)


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    path = tmp_path / "mydata.jsonl"
    rows = ({"q": f"What is {n} plus 8?", "a": f"{n} plus 8 is {n + 8}."} for n in range(60))
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


WORDS = [
    ["german word", "hint", "english_meaning"],
    *([f"Wort {n}", "a noun" if n % 2 else "", f"word {n}"] for n in range(80)),
]


@pytest.fixture
def words(tmp_path: Path) -> Path:
    path = tmp_path / "words.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(WORDS)
    return path


@pytest.fixture
def workbook(tmp_path: Path) -> Path:
    notes = [["Pupil", "Mark"], *([f"Pupil {n}", n % 6 + 1] for n in range(25))]
    return Path(write_xlsx(tmp_path / f"{tmp_path.name}.xlsx", {"Marks": notes, "Words": WORDS}))


def held_out_rows_are_of(notebook: Notebook, name: str) -> None:
    """Hold that the rows to train on and the held-out ones come from the file, and no other."""
    side = notebook.page.locator(".nbft-side")
    expect(side).to_contain_text(re.compile(rf"of {re.escape(name)}, \d+ held out"))
    expect(side).not_to_contain_text("alpaca")


def test_an_own_file_with_telling_names(
    person: Person,
    notebook: Notebook,
    questions: Path,
    looks: Callable[[str, Locator], None],
) -> None:
    form = person.opens_the_form("light", 1400)
    person.chooses(form, questions)
    columns = form.locator(".nbft-columns")
    expect(columns).to_contain_text("60 rows; q is the prompt, a the answer.", timeout=30_000)
    expect(columns.get_by_role("listitem")).to_have_count(3)
    expect(form.get_by_role("button", name="Train here")).to_have_text(
        re.compile(r"Train here: \d+ steps on mydata\.jsonl, about \d+ "), timeout=30_000
    )
    held_out_rows_are_of(notebook, "mydata.jsonl")
    notebook.page.set_viewport_size({"width": 1400, "height": 2000})
    looks("own-file", form)
    person.trains(form)
    assert person.actions <= 5


def test_a_table_with_odd_columns(
    person: Person,
    notebook: Notebook,
    words: Path,
    looks: Callable[[str, Locator], None],
) -> None:
    form = person.opens_the_form("light", 1400)
    person.chooses(form, words)
    columns = form.locator(".nbft-columns")
    expect(columns).to_contain_text("Which of them is the prompt", timeout=30_000)
    notebook.page.set_viewport_size({"width": 1400, "height": 2000})
    looks("own-table-asked", form)
    person.picks(form, "Further text", "–")
    person.clicks(columns.get_by_role("button", name="Use these columns"))
    expect(columns).to_contain_text("german word is the prompt, english_meaning the answer")
    expect(columns.get_by_role("listitem").first).to_contain_text("Wort 0⏎")
    held_out_rows_are_of(notebook, "words.csv")
    notebook.screenshot("own-table", form)
    person.trains(form)
    assert person.actions <= 8


def test_a_workbook_with_two_sheets(
    person: Person,
    notebook: Notebook,
    workbook: Path,
    looks: Callable[[str, Locator], None],
) -> None:
    form = person.opens_the_form("light", 1400)
    person.chooses(form, workbook)
    columns = form.locator(".nbft-columns")
    expect(columns).to_contain_text("The sheet “Marks” is read.", timeout=30_000)
    person.picks(form, "Sheet", "Words")
    expect(columns).to_contain_text("80 rows with the columns german word", timeout=30_000)
    notebook.page.set_viewport_size({"width": 1400, "height": 2000})
    looks("own-workbook", form)
    person.picks(form, "Further text", "–")
    person.clicks(columns.get_by_role("button", name="Use these columns"))
    expect(columns).to_contain_text("german word is the prompt, english_meaning the answer")
    held_out_rows_are_of(notebook, workbook.name)
    person.trains(form)
    assert person.actions <= 8


def test_lists_to_choose_from(
    person: Person,
    notebook: Notebook,
    jupyter_lab: Server,
    looks: Callable[[str, Locator], None],
) -> None:
    folder = jupyter_lab.root / "lists"
    folder.mkdir(exist_ok=True)
    (folder / "here.csv").write_text("question,answer\n" + "Why?,So.\n" * 30)
    form = person.opens_the_form("light", 1400)
    field = form.locator(".nbft-field", has=person.page.get_by_label("Base model", exact=True))
    field.get_by_role("button", name="Choose from a list").click()
    model = field.get_by_role("button", name="smollm2-135m")
    expect(model).to_be_visible(timeout=30_000)
    person.page.set_viewport_size({"width": 1400, "height": 2000})
    looks("list-of-models", form)
    field.get_by_role("searchbox").fill("qwen")
    field.get_by_role("searchbox").press("Enter")
    expect(field.get_by_role("status")).to_contain_text("hub", timeout=30_000)
    field.get_by_role("button", name="Choose from a list").click()

    files = form.locator(".nbft-field", has=person.page.get_by_label("Data file", exact=True))
    files.get_by_role("button", name="Browse this machine").click()
    files.get_by_role("button", name="lists/", exact=True).click()
    files.get_by_role("button", name="show rows of here.csv").click()
    expect(files.get_by_text('"answer": "So."').first).to_be_visible(timeout=30_000)
    looks("list-of-files", form)
    files.get_by_role("button", name="here.csv", exact=True).click()
    expect(form.get_by_label("Data file", exact=True)).to_have_value("lists/here.csv")
    held_out_rows_are_of(notebook, "here.csv")


def test_files_of_jupyterlabs_own_dialog_and_list(
    person: Person, notebook: Notebook, jupyter_lab: Server, page: Page
) -> None:
    folder = jupyter_lab.root / "lesson"
    folder.mkdir(exist_ok=True)
    (folder / "one.csv").write_text("question,answer\n" + "Why?,So.\n" * 30)
    (folder / "notes.txt").write_text("Not for training.")
    (folder / "two.csv").write_text("question,answer\n" + "How?,Thus.\n" * 40)
    form = person.opens_the_form("light", 1400)
    go_to = "path => window.jupyterapp.commands.execute('filebrowser:go-to-path', { path })"
    page.evaluate(go_to, "/")  # other tests leave it elsewhere, and the dialog opens where it is
    name = form.get_by_label("Data file", exact=True)
    field = form.locator(".nbft-field", has=page.get_by_label("Data file", exact=True))
    field.get_by_role("button", name="Browse this machine").click()
    field.get_by_role("button", name="Open JupyterLab’s file dialog").click()
    dialog = page.get_by_role("dialog")
    dialog.locator(".jp-DirListing-item", has_text="lesson").dblclick()
    expect(dialog.locator(".jp-DirListing-item", has_text="one.csv")).to_be_visible()
    expect(dialog.locator(".jp-DirListing-item", has_text="notes.txt")).to_have_count(0)
    notebook.screenshot("jupyterlab-dialog")
    dialog.locator(".jp-DirListing-item", has_text="one.csv").click()
    dialog.get_by_role("button", name="Select").click()
    expect(name).to_have_value("lesson/one.csv")
    held_out_rows_are_of(notebook, "one.csv")

    page.evaluate(go_to, "/lesson")
    listed = page.locator("#filebrowser .jp-DirListing-item", has_text="two.csv")
    expect(listed).to_be_visible()
    here, there = listed.bounding_box(), name.bounding_box()
    assert here is not None
    assert there is not None
    page.mouse.move(here["x"] + 60, here["y"] + 5)
    page.mouse.down()
    for part in range(1, 11):
        to_x, to_y = there["x"] + 20, there["y"] + 5
        page.mouse.move(
            here["x"] + 60 + (to_x - here["x"] - 60) * part / 10,
            here["y"] + 5 + (to_y - here["y"] - 5) * part / 10,
        )
    expect(field).to_have_class(re.compile("nbft-dropping"))
    notebook.screenshot("jupyterlab-list-dropping")
    page.mouse.up()
    expect(name).to_have_value("lesson/two.csv")
    held_out_rows_are_of(notebook, "two.csv")


def test_the_problem_of_a_field_is_a_way_to_it(
    person: Person, notebook: Notebook, page: Page
) -> None:
    form = person.opens_the_form("light", 1400)
    rate = form.get_by_label("Learning rate", exact=True)
    rate.fill("0.1")
    rate.press("Tab")
    link = form.get_by_role("button", name=re.compile("^Learning rate: "))
    expect(link).to_be_visible()
    notebook.screenshot("state-warning", form)
    link.click()
    expect(rate).to_be_focused()
    rate.fill("fast")
    rate.press("Tab")
    expect(form.get_by_text("1 problem. Training can start when")).to_be_visible()
    expect(form.get_by_role("button", name="Train here", exact=True)).to_be_disabled()
    notebook.screenshot("state-wrong", form)


TEMPLATE = "Prompt template"
MENDED = [
    (TEMPLATE, "{q}", "become one word", "Use {q}⏎", "{q}\n"),
    (TEMPLATE, "{question}", "is not a column", "Use {q}", "{q}"),
    (TEMPLATE, "{q", "not closed", "Use {q}", "{q}"),
    ("Learning rate", "0.1", "above the usual range", "Use 2e-4", "2e-4"),
    ("Learning rate", "3", "must be at most 1", "Use 2e-4", "2e-4"),
    ("Epochs", "500", "500 times", "Use 5", "5"),
    ("Maximum length", "8", "truncates about 100%", "Use 2", re.compile(r"2\d")),
]


def test_what_is_wrong_is_mended_with_a_click(notebook: Notebook, questions: Path) -> None:
    given = {"path": str(questions), "prompt_template": "Q: {q}\n", "completion_template": "{a}"}
    data = {"train": {"datasets": [given]}}
    notebook.open([f"import nbft\nnbft.Form(nbft.Config(data={data!r}))"])
    notebook.run_cell(0)
    form = notebook.page.locator(".nbft-form")
    for field, typed, said, fix, mended in MENDED:
        control = form.get_by_label(field, exact=True)
        control.fill(typed)
        control.press("Tab")
        box = form.locator(".nbft-field", has=notebook.page.get_by_label(field, exact=True))
        expect(box.get_by_role("alert")).to_contain_text(said, timeout=30_000)
        link = form.locator(".nbft-links").get_by_role("button").filter(has_text=said)
        expect(link).to_contain_text(field)
        box.get_by_role("button", name=fix).click()
        expect(control).to_have_value(mended)
        expect(link).to_have_count(0)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("ids.csv", "id,url\n1,http://a\n2,http://b\n", "None of them holds text to learn from."),
        ("story.csv", "story\n" + "Once upon a time.\n" * 30, "30 rows with the columns story."),
        (
            "wide.csv",
            ",".join(f"column {n}" for n in range(200)) + "\n" + ",".join(["x"] * 200) + "\n",
            "and 192 more",
        ),
        ("few.csv", "question,answer\nWhy?,So.\nHow?,Thus.\nWho?,Me.\n", "3 rows"),
    ],
)
def test_a_file_that_is_hard_to_train_on_is_met_with_the_next_step(
    person: Person, notebook: Notebook, tmp_path: Path, name: str, content: str, said: str
) -> None:
    (tmp_path / name).write_text(content)
    form = person.opens_the_form("light", 1400)
    person.chooses(form, tmp_path / name)
    columns = form.locator(".nbft-columns")
    expect(columns).to_contain_text(said, timeout=30_000)
    notebook.page.set_viewport_size({"width": 1400, "height": 2000})
    notebook.screenshot(f"hard-{name.removesuffix('.csv')}", form)
