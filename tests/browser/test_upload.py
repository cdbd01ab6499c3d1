"""A data file brought into the form in a real browser: chosen, dropped, cancelled, lost."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from .conftest import App, Notebook, Theme

FORM = """
import nbft
form = nbft.Form(nbft.Config(training={"output_dir": OUTPUT}))
form
"""
PATH = "form.config.data.train.datasets[0].path"
PARTS = "[p.name for p in __import__('pathlib').Path(OUTPUT, 'data').glob('.*')]"

# Drops files on an element as a person does; their text is made here.
DROP = """(node, [type, files]) => {
    const data = new DataTransfer();
    for (const [name, text] of files) data.items.add(new File([text], name));
    const event = new DragEvent(type, {dataTransfer: data, bubbles: true, cancelable: true});
    node.dispatchEvent(event);
    return event.defaultPrevented;
}"""


def rows_of(size_bytes: int) -> bytes:
    """Return JSON Lines of about this size."""
    row = json.dumps({"instruction": "Count <b>", "output": "one two three " * 20}) + "\n"
    return row.encode() * (size_bytes // len(row))


@pytest.fixture(scope="session")
def large_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("large") / "my rows.jsonl"
    path.write_bytes(rows_of(30 * 2**20))
    return path


@pytest.fixture
def open_form(notebook: Notebook, tmp_path: Path) -> Callable[..., Locator]:
    def open_form(app: App = "lab", theme: Theme = "light", width: int = 1200) -> Locator:
        output = f"OUTPUT = {str(tmp_path / 'runs')!r}\n"
        notebook.open([output + FORM], app=app, theme=theme, width=width)
        if app != "voila":
            notebook.run_cell(0)
        form = notebook.page.locator(".nbft-form")
        expect(form.get_by_role("button", name="Choose a file of train rows")).to_be_visible(
            timeout=30_000
        )
        return form

    return open_form


def choose(page: Page, form: Locator, path: Path) -> None:
    """Choose a file with the keyboard."""
    with page.expect_file_chooser() as chooser:
        form.get_by_role("button", name="Choose a file of train rows").press("Enter")
    chooser.value.set_files(path)


def test_a_large_file_is_chosen_sent_shown_and_used(
    open_form: Callable[..., Locator],
    notebook: Notebook,
    page: Page,
    large_file: Path,
    looks: Callable[[str, Locator], None],
    console_errors: list[str],
) -> None:
    form = open_form()
    field = form.locator(".nbft-field", has=page.locator(".nbft-upload"))
    said = field.locator(".nbft-columns")
    looks("upload-empty", form)
    notebook.kernel_eval("exec('import nbft.widgets.upload as u; u._SHOW_SECONDS = 0.0')")
    seen = "".join(
        (
            "new Promise(resolve => { const words = new Set();",
            "const node = document.querySelector('.nbft-progress');",
            "const watch = new MutationObserver(() => words.add(node.textContent));",
            "watch.observe(node, {childList: true}); window.wordsOfProgress = words; resolve() })",
        )
    )
    page.evaluate(f"() => {seen}")
    choose(page, form, large_file)
    expect(said).to_contain_text("recognised as instructions", timeout=60_000)
    words = page.evaluate("[...window.wordsOfProgress]")
    assert sum(bool(re.fullmatch(r"\d.* MiB of 30 MiB, .*/s, .* left", w)) for w in words) >= 3
    path = notebook.kernel_eval(PATH)
    assert path.endswith("/runs/data/my rows.jsonl")
    assert Path(path).read_bytes() == large_file.read_bytes()
    expect(form.get_by_label("Data file", exact=True)).to_have_value(path)
    expect(field.get_by_role("listitem")).to_have_count(3)
    expect(field.get_by_role("listitem").first).to_contain_text("Count <b>")
    assert field.evaluate("node => node.scrollWidth <= node.clientWidth")
    page.set_viewport_size({"width": 1400, "height": 1400})
    looks("upload-kept", form)
    assert not [line for line in console_errors if "nbft" in line.lower()]


def test_a_file_is_dropped_cancelled_refused_and_dropped_again(
    open_form: Callable[..., Locator],
    notebook: Notebook,
    page: Page,
    large_file: Path,
    axe: Callable[[Locator], list[str]],
) -> None:
    form = open_form()
    field = form.locator(".nbft-field", has=page.locator(".nbft-upload"))
    other = form.get_by_label("Learning rate", exact=True)

    assert other.evaluate(DROP, ["dragover", [["a.jsonl", ""]]])  # anywhere on the page of fields
    expect(field).to_have_class(re.compile("nbft-dropping"))
    notebook.screenshot("upload-dropping", form)
    assert other.evaluate(DROP, ["drop", [["notes.docx", "x"]]])
    expect(field).not_to_have_class(re.compile("nbft-dropping"))
    expect(field.get_by_role("alert")).to_contain_text("notes.docx: has the ending .docx.")
    assert axe(form) == []
    notebook.screenshot("upload-refused", form)
    assert not form.get_by_role("button", name="Check").evaluate(DROP, ["drop", [["a.csv", "x"]]])

    # A piece is held up, so that there is time to press Cancel.
    hold = "exec('u.Upload._hold, u.Upload._take = u.Upload._take, lambda *given: None')"
    notebook.kernel_eval("exec('import nbft.widgets.upload as u', globals())")
    notebook.kernel_eval(hold)
    choose(page, form, large_file)
    cancel = field.get_by_role("button", name="Cancel")
    expect(cancel).to_be_focused()  # the button that was pressed is not there any more
    expect(field.get_by_text("Waiting for the kernel")).to_be_visible()
    expect(field.get_by_role("progressbar", name="Upload")).to_be_visible()
    notebook.expect_value(f"len({PARTS})", 1)
    assert axe(form) == []
    notebook.screenshot("upload-waiting", form)
    form.get_by_label("Advanced", exact=True).check()  # the view goes, the upload does not
    expect(cancel).to_have_count(0)
    form.get_by_label("Basic", exact=True).check()
    cancel.press("Enter")
    expect(field.locator(".nbft-said")).to_contain_text("cancelled; nothing of it was kept.")
    expect(form.get_by_role("button", name="Choose a file of train rows")).to_be_focused()
    notebook.expect_value(PARTS, [])
    notebook.kernel_eval("exec('u.Upload._take = u.Upload._hold')")

    rows = rows_of(2000).decode()
    field.evaluate(DROP, ["drop", [["../rows.jsonl", rows]]])
    expect(field.locator(".nbft-columns")).to_contain_text("recognised as instructions")
    notebook.expect_value(f"{PATH}.endswith('/runs/data/rows.jsonl')", True)
    expect(form.get_by_role("button", name="Train here")).to_be_enabled()


def test_the_data_tab_takes_a_file_for_each_split(
    open_form: Callable[..., Locator], notebook: Notebook, page: Page
) -> None:
    form = open_form()
    form.get_by_label("Advanced", exact=True).check()
    rows = rows_of(2000).decode()
    form.get_by_role("tab", name="Data").click()
    held_out = form.locator(".nbft-at-data-validation-datasets-0-path")
    expect(form.get_by_role("button", name="Choose a file of validation rows")).to_be_visible()
    held_out.evaluate(DROP, ["drop", [["held out.jsonl", rows]]])
    expect(held_out.locator(".nbft-columns")).to_contain_text("recognised as instructions")
    form.get_by_label("Maximum length", exact=True).evaluate(DROP, ["drop", [["rows.jsonl", rows]]])
    first = form.locator(".nbft-at-data-train-datasets-0-path")
    expect(first.locator(".nbft-columns")).to_contain_text("recognised as instructions")
    paths = "[s.datasets[0].path[-10:] for s in form.config.data.splits().values()]"
    notebook.expect_value(paths, ["rows.jsonl", " out.jsonl"])
    form.get_by_role("tab", name="Method").click()
    lora = form.get_by_label("LoRA alpha", exact=True)
    assert not lora.evaluate(DROP, ["drop", [["rows.jsonl", rows]]])  # no data is shown here


def test_a_reload_or_a_restart_leaves_no_part_behind(
    open_form: Callable[..., Locator], notebook: Notebook, page: Page, large_file: Path
) -> None:
    form = open_form()
    slow = "u.time.sleep(0.2); return u.Upload._quick(*given)"
    code = (
        "import nbft.widgets.upload as u\nu._TICK_SECONDS = 0.5\n"
        f"u.Upload._quick = u.Upload._take\ndef take(*given):\n    {slow}\nu.Upload._take = take"
    )
    notebook.kernel_eval(f"exec({code!r}, globals())")
    choose(page, form, large_file)
    expect(form.get_by_text(re.compile("MiB of 30 MiB"))).to_be_visible()
    folder = Path(notebook.kernel_eval("OUTPUT")) / "data"
    assert len([*folder.iterdir()]) == 1
    notebook.reload()
    page.wait_for_function("() => true")
    expect_empty(notebook, folder)

    notebook.run_cell(0)
    choose(page, form, large_file)
    expect(form.get_by_text(re.compile("MiB of 30 MiB"))).to_be_visible()
    assert len([*folder.iterdir()]) == 1
    notebook.restart()
    assert [*folder.iterdir()] == []


def expect_empty(notebook: Notebook, folder: Path) -> None:
    """Wait, by asking the kernel, until a folder is empty."""
    for _ in range(200):
        if not [*folder.iterdir()]:
            return
        notebook.page.wait_for_timeout(100)
    raise AssertionError([*folder.iterdir()])


@pytest.mark.parametrize("app", ["notebook", "voila"])
def test_files_come_along_in_other_front_ends(
    open_form: Callable[..., Locator], notebook: Notebook, page: Page, tmp_path: Path, app: App
) -> None:
    form = open_form(app)
    path = tmp_path / "rows.csv"
    path.write_text("question,answer\nWhy?,So.\nHow?,Thus.\n")
    choose(page, form, path)
    said = form.locator(".nbft-columns")
    expect(said).to_contain_text("2 rows, recognised as questions and answers")
    kept = tmp_path / "runs" / "data" / "rows.csv"
    assert kept.read_bytes() == path.read_bytes()
    expect(form.get_by_label("Data file", exact=True)).to_have_value(str(kept))
