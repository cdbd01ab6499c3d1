"""What a form keeps for the next kernel, and how it comes back; without a kernel or a browser."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import IPython.display
import pytest
from ipywidgets import Widget

from nbft import events, runs
from nbft.config import Config, presets
from nbft.processes import process_start_time
from nbft.runs import Run
from nbft.widgets import keeping, kernel
from nbft.widgets.form import Form
from nbft.widgets.keeping import place

RATE = "training.learning_rate"
LENGTH = "data.max_length"
PATH = "data.train.datasets[0].path"
TEMPLATE = "data.train.datasets[0].prompt_template"
SYSTEM = "data.train.datasets[0].system_prompt"


@pytest.fixture(autouse=True)
def shell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[SimpleNamespace]:
    """Every test is in the kernel of words.ipynb; what a loop would do in a second, `keep` does."""
    shell = SimpleNamespace(kernel="a kernel", user_ns={})
    monkeypatch.setattr(keeping, "get_ipython", lambda: shell)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JPY_SESSION_NAME", str(tmp_path / "words.ipynb"))
    theirs = asyncio._get_running_loop()  # of a browser test of the same session
    asyncio._set_running_loop(None)
    monkeypatch.setattr(kernel, "_loop", None)
    yield shell
    asyncio._set_running_loop(theirs)


@pytest.fixture
def words(tmp_path: Path) -> Path:
    path = tmp_path / "words.csv"
    path.write_text("prompt,completion\n" + "".join(f"Wort {n},word {n}\n" for n in range(40)))
    return path


def type_in(form: Form, path: str, text: Any) -> None:
    form._fields.make(path).control.value = text


def shown(form: Form, path: str) -> Any:
    return form._fields.make(path).control.value


def text_of(widget: Any) -> str:
    own = f"{getattr(widget, 'value', '')} {getattr(widget, 'description', '')}\n"
    return own + "".join(text_of(child) for child in getattr(widget, "children", ()))


def buttons(widget: Any) -> Iterator[Any]:
    if hasattr(widget, "click"):
        yield widget
    for child in getattr(widget, "children", ()):
        yield from buttons(child)


def press(form: Form, name: str) -> None:
    next(b for b in buttons(form.widget) if b.description.startswith(name)).click()


def offers(form: Form) -> bool:
    return any(b.description == "Continue where I was" for b in buttons(form.widget))


def state_of(form: Form) -> str:
    return form.line.widget.value


def file() -> Path:
    return place(Path("runs").absolute())


def filled(words: Path) -> Form:
    form = Form()
    type_in(form, PATH, str(words))
    type_in(form, RATE, "fast")
    type_in(form, LENGTH, "200")
    form._keeping.keep()
    return form


def test_what_was_typed_comes_back_wrong_values_too(words: Path) -> None:
    before = filled(words)
    after = Form()
    assert after.config == Config.preset("two-minute-try")  # until one asks
    assert "Kept 1 min ago: words.csv, " in text_of(after.widget)
    press(after, "Continue where I was")
    assert (shown(after, PATH), shown(after, RATE)) == (str(words), "fast")
    assert after._tree.typed() == before._tree.typed()
    assert after.problems == before.problems
    assert "fast: is not a number" in after._fields[RATE]._problem.value
    assert after._opening.control.value == before._opening.control.value == ""
    assert after._views.changed_button.description == before._views.changed_button.description
    assert not offers(after)
    type_in(after, RATE, "1e-4")
    assert after.config.training.learning_rate == 1e-4
    assert after.config.data.train.datasets[0].path == str(words)


def test_values_that_json_does_not_have_come_back() -> None:
    form = Form()
    type_in(form, RATE, "nan")
    type_in(form, "scheduler.lr_scheduler_kwargs", "{from: 2020-01-01}")
    form._keeping.keep()
    assert form._keeping._now() == form._keeping._last  # or it would be written for ever
    after = Form()
    press(after, "Continue where I was")
    assert shown(after, RATE) == "NaN"
    assert shown(after, "scheduler.lr_scheduler_kwargs") == '{"from": "2020-01-01"}'
    assert "Secrets" not in state_of(after)


def test_a_preset_is_not_taken_for_changes(words: Path) -> None:
    form = Form()
    form._opening.control.value = list(presets())[1]
    form._keeping.keep()
    after = Form()
    press(after, "Continue where I was")
    assert after._opening.control.value == list(presets())[1]
    assert after._tree.changes == form._tree.changes
    assert RATE not in after._tree.changes


@pytest.mark.parametrize("view", ["basic", "advanced", "yaml", "python", "guided"])
def test_the_view_comes_back(view: str, empty_cache: Path) -> None:
    form = Form()
    type_in(form, LENGTH, "200")
    form._views.mode.value = view
    if view == "advanced":
        form._views.tabs.selected_index = 3
    if view == "guided":
        form._guided.go_to(3)
    form._keeping.keep()
    after = Form()
    press(after, "Continue where I was")
    assert after._views.view == after._views.mode.value == view
    if view == "advanced":
        assert after._views.tabs.selected_index == 3
    if view == "guided":
        assert after._guided.guide.number == 3


def test_a_search_comes_back_over_its_view() -> None:
    form = Form()
    type_in(form, LENGTH, "200")
    form._views.search.value = "warm"
    form._keeping.keep()
    after = Form()
    press(after, "Continue where I was")
    assert (after._views.view, after._views.search.value) == ("search", "warm")
    after._views.search.value = ""
    assert after._views.view == "basic"


def test_yaml_that_was_not_applied_comes_back() -> None:
    form = Form()
    type_in(form, LENGTH, "200")
    form._views.mode.value = "yaml"
    form._views.yaml.text.value = "training: {seed: 7"
    form._keeping.keep()
    after = Form()
    press(after, "Continue where I was")
    assert after._views.yaml.text.value == "training: {seed: 7"
    type_in(after, LENGTH, "100")
    assert after._views.yaml.text.value == "training: {seed: 7"


def test_an_untouched_form_keeps_nothing_and_leaves_what_is_kept(words: Path) -> None:
    Form()._keeping.keep()
    assert not Path("runs").exists()
    filled(words)
    kept = file().read_text()
    looked_at = Form()
    looked_at._views.mode.value = "advanced"
    looked_at._keeping.keep()
    assert file().read_text() == kept


def test_what_was_taken_back_is_not_offered() -> None:
    form = Form(Config())
    type_in(form, LENGTH, "200")
    form._keeping.keep()
    assert offers(Form())
    fresh = form._keeping._fresh.typed
    form._tree.restore(fresh, [])
    form._keeping.keep()
    assert not file().exists()
    assert not offers(Form())


def test_a_form_of_a_config_offers_only_when_asked(words: Path) -> None:
    filled(words)
    form = Form(Config())
    assert not offers(form)
    form._opening.control.value = "runs"
    press(form, "Continue where I was")
    assert shown(form, RATE) == "fast"


def test_an_offer_that_is_taken_moves_nothing(words: Path) -> None:
    """A front end makes what follows a widget that goes anew, without what is being typed in it."""
    filled(words)
    form = Form()
    before = form.widget.children
    press(form, "Continue where I was")
    assert not offers(form)
    assert form.widget.children[: len(before)] == before


def test_two_forms_of_a_notebook_do_not_overwrite_each_other(words: Path) -> None:
    first, second = Form(), Form()
    type_in(first, LENGTH, "200")
    first._keeping.keep()
    type_in(second, RATE, "1e-3")
    second._keeping.keep()
    type_in(first, LENGTH, "300")
    first._keeping.keep()
    lengths = [kept.typed.settings["data"].get("max_length") for kept in keeping.read(file())]
    assert lengths == [300, second.config.data.max_length]
    after = Form()
    assert [kept.about for kept in after._keeping.kept] == [
        kept.about for kept in keeping.read(file())
    ]
    assert text_of(after._keeping._offer).count("Kept 1 min ago") == 2
    press(after, "Continue with these settings")
    assert shown(after, RATE) == "0.001"
    after._keeping.keep()
    assert len(keeping.read(file())) == 2  # the one that was continued is not listed twice
    after._opening.control.value = "runs"
    press(after, "Continue where I was")
    assert shown(after, LENGTH) == "300"


def test_typing_in_a_new_form_leaves_what_is_still_offered(words: Path) -> None:
    filled(words)
    for length in ("150", "151"):  # two restarts at which nobody pressed the button
        form = Form()
        type_in(form, LENGTH, length)
        form._keeping.keep()
    assert [kept.about.partition(",")[0] for kept in keeping.read(file())][-1] == "words.csv"
    form = Form()
    form._opening.control.value = "runs"
    assert text_of(form._views.page).count("Kept 1 min ago") == 3
    [*buttons_of_page] = buttons(form._views.page)
    buttons_of_page[2].click()
    assert shown(form, PATH) == str(words)
    assert shown(form, RATE) == "fast"
    form._keeping.keep()
    for n in range(4):
        other = Form()
        type_in(other, LENGTH, str(300 + n))
        other._keeping.keep()
    assert len(keeping.read(file())) == 3


def test_what_another_form_continued_with_is_kept_again_when_it_changes(words: Path) -> None:
    first = filled(words)
    second = Form()
    press(second, "Continue where I was")
    second._keeping.keep()
    type_in(first, LENGTH, "77")
    first._keeping.keep()
    type_in(second, LENGTH, "88")
    second._keeping.keep()
    kept = [kept.typed.settings["data"]["max_length"] for kept in keeping.read(file())]
    assert kept == [88, 77]


def test_notebooks_of_one_folder_are_told_apart(
    words: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, shell: SimpleNamespace
) -> None:
    filled(words)
    monkeypatch.setenv("JPY_SESSION_NAME", str(tmp_path / "other.ipynb"))
    assert not offers(Form())
    shell.user_ns["__vsc_ipynb_file__"] = str(tmp_path / "words.ipynb")  # VS Code knows better
    assert offers(Form())
    shell.user_ns.clear()
    monkeypatch.setenv("JPY_SESSION_NAME", str(tmp_path / "console-1"))
    assert file().name == ".nbft-form.json"
    monkeypatch.delenv("JPY_SESSION_NAME")  # as on Colab: the state is the folder's
    assert not offers(Form())
    filled(words)
    assert file().name == ".nbft-form.json"
    assert offers(Form())


def test_a_folder_can_be_moved_with_its_notebook(tmp_path: Path, monkeypatch: Any) -> None:
    here = place(tmp_path / "runs").name
    monkeypatch.setenv("JPY_SESSION_NAME", str(tmp_path / "there" / "words.ipynb"))
    assert place(tmp_path / "there" / "runs").name == here
    assert place(tmp_path / "runs").name != here


@pytest.mark.parametrize("name", ["no kernel", "Voila"])
def test_without_a_kernel_of_ones_own_nothing_is_kept(
    name: str, words: Path, shell: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(words)
    if name == "Voila":  # one notebook, many people
        monkeypatch.setenv("VOILA_PREHEAT", "False")
    else:
        del shell.kernel
    before = file().read_text()
    form = Form()
    assert not offers(form)
    type_in(form, LENGTH, "7")
    form._keeping.keep()
    assert file().read_text() == before


def test_secrets_are_not_kept_and_that_is_said(words: Path) -> None:
    form = Form()
    type_in(form, PATH, "https://me:Pa55word9@example.org/rows.jsonl")
    type_in(form, TEMPLATE, "hf_abcdefghijklmnopqrstuvwx {q}")
    form._views.mode.value = "yaml"
    form._views.yaml.text.value += "# hf_abcdefghijklmnopqrstuvwx"
    form._keeping.keep()
    text = file().read_text()
    assert "Pa55word9" not in text
    assert "hf_abc" not in text
    after = Form()
    press(after, "Continue where I was")
    assert "Secrets are not kept. Type them again: Data file, Prompt template." in state_of(after)
    assert "The edited YAML held a secret and is not kept." in state_of(after)
    assert not after._views.yaml.edited
    assert (shown(after, PATH), shown(after, TEMPLATE)) == ("", "")  # nothing that was not typed
    assert [problem.field for problem in after.problems] == [PATH, TEMPLATE]
    assert "held a secret, which is not kept. Type it again." in str(after.problems[0])
    assert "nbft-wrong" in after._fields.make(PATH).widget._dom_classes
    assert "2 problems. Training can start when every field is valid." in state_of(after)
    type_in(after, PATH, str(words))
    assert [problem.field for problem in after.problems] == [TEMPLATE]
    after._keeping.keep()
    again = Form()
    press(again, "Continue where I was")
    assert shown(again, PATH) == str(words)
    assert "Type them again: Prompt template." in state_of(again)
    type_in(again, TEMPLATE, "{prompt}: ")
    assert not again._tree.wrong
    again._keeping.keep()
    assert "(hidden)" not in file().read_text()


def test_what_a_preset_sets_takes_the_place_of_a_secret() -> None:
    form = Form()
    form._opening.control.value = next(name for name in presets() if name != "two-minute-try")
    usual = shown(form, "model.model_name")
    type_in(form, "model.model_name", "https://me:Pa55word9@example.org/model")
    form._keeping.keep()
    after = Form()
    press(after, "Continue where I was")
    assert shown(after, "model.model_name") == usual
    assert "model.model_name" in [problem.field for problem in after._tree.wrong]
    after._fields.make("model.model_name")._reset(None)
    assert not after._tree.wrong


@pytest.mark.parametrize(
    "template",
    [
        "Authorization: Approve or deny this claim.\n{prompt}\nDecision:",
        "password: correct-horse-9\n{prompt}",
        "Pass token=abc123def456 on.\n{prompt}",
    ],
)
def test_a_template_that_only_reads_like_a_secret_comes_back_as_it_was(
    template: str, words: Path
) -> None:
    form = Form()
    type_in(form, PATH, str(words))
    type_in(form, TEMPLATE, template)
    type_in(form, SYSTEM, "The password: is what you never tell, nor token=abc123def456.")
    form._keeping.keep()
    after = Form()
    press(after, "Continue where I was")
    assert shown(after, TEMPLATE) == template
    assert after._tree.typed() == form._tree.typed()
    assert "Secrets" not in state_of(after)


def test_rows_in_memory_are_not_kept_and_that_is_said() -> None:
    rows = [{"prompt": f"{n}+1=", "completion": f"{n + 1}"} for n in range(9)]
    config = Config(data={"rows": rows})
    form = Form(config)
    type_in(form, LENGTH, "200")
    form._keeping.keep()
    assert "3+1=" not in file().read_text()
    after = Form()
    press(after, "Continue where I was")
    said = "Rows in memory are not kept (data.train.datasets[0]). Give them with nbft.Form(config)."
    assert said in state_of(after)
    again = Form(config)
    again._opening.control.value = "runs"
    press(again, "Continue where I was")
    assert "Rows in memory" not in state_of(again)
    assert again.config.data.max_length == 200
    assert again.config.data.train.datasets[0].rows == rows


def test_the_code_of_a_kept_form_is_not_ones_own(words: Path) -> None:
    """Whoever can write the file could otherwise run code."""
    Path("mine.py").write_text("def prompt(row):\n    return row['prompt']\n")
    form = filled(words)
    type_in(form, RATE, "1e-4")
    type_in(form, "data.train.datasets[0].prompt_func", "mine.py:prompt")
    assert form.config.is_own
    form._keeping.keep()
    after = Form()
    press(after, "Continue where I was")
    assert not after.config.is_own
    assert "Allow mine.py:prompt" in text_of(after.widget)


def test_the_file_is_private_and_whole(words: Path) -> None:
    old = os.umask(0)
    try:
        filled(words)
    finally:
        os.umask(old)
    assert file().stat().st_mode & 0o777 == 0o600
    assert json.loads(file().read_text())["notebook"] == "words.ipynb"
    assert [path.name for path in Path("runs").iterdir()] == [file().name]


def test_two_kernels_never_leave_a_torn_file(words: Path) -> None:
    kept = [filled(words)._keeping._last.model_copy(update={"about": c * 90_000}) for c in "ab"]
    writers = [
        threading.Thread(
            target=lambda one=one: [keeping.write(file(), one, {one.form}) for _ in range(20)]
        )
        for one in kept
    ]
    keeping.write(file(), kept[0], ())
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        assert keeping.read(file())[0].about in ("a" * 90_000, "b" * 90_000)
    assert [path.name for path in Path("runs").iterdir()] == [file().name]


def changed(state: dict[str, Any], **changes: Any) -> str:
    return json.dumps(state | {"forms": [state["forms"][0] | changes]})


BROKEN: dict[str, Callable[[dict[str, Any]], Any]] = {
    "half of it": lambda state: json.dumps(state)[:300],
    "nothing": lambda state: "",
    "another version": lambda state: json.dumps(state | {"version": 2}),
    "a key of a later version": lambda state: json.dumps(state | {"new": 1}),
    "no view of ours": lambda state: changed(state, view=state["forms"][0]["view"] | {"home": "x"}),
    "a tab too many": lambda state: changed(state, view=state["forms"][0]["view"] | {"tab": 99}),
    "numbers for texts": lambda state: changed(state, about=1),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_file_of_another_version_or_broken_by_hand_is_ignored(how: str, words: Path) -> None:
    filled(words)
    file().write_text(BROKEN[how](json.loads(file().read_text())))
    form = Form()
    assert not offers(form)
    said = f"{file()} holds no settings that this version of nbft can read. It is ignored."
    assert said in text_of(form.widget)
    assert form.config == Config.preset("two-minute-try")
    type_in(form, LENGTH, "100")
    form._keeping.keep()  # and replaced
    assert offers(Form())


ODD: dict[str, Any] = {
    "no sections": {"nonsense": 1},
    "no block": {"training": 5},
    "no datasets": {"data": {"train": {"datasets": "x"}}},
    "null": {"data": None},
}


@pytest.mark.parametrize("how", ODD)
def test_settings_broken_by_hand_are_problems_of_fields(how: str, words: Path) -> None:
    filled(words)
    state = json.loads(file().read_text())
    kept = state["forms"][0]
    kept["typed"]["settings"] = ODD[how]
    kept["typed"]["base"] = ODD[how]
    kept["view"]["step"] = 99
    kept["view"]["home"] = "guided"
    kept["run"] = "/nowhere/at-all"
    file().write_text(json.dumps(state))
    form = Form()
    press(form, "Continue where I was")
    assert "Something went wrong" not in state_of(form)
    assert "/nowhere/at-all: is no run" in state_of(form)


def test_a_disk_that_fails_is_said_once_and_hurts_nothing(
    words: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    form = Form()
    Path("runs").write_text("a file where the folder would be")
    type_in(form, RATE, "1e-4")
    form._keeping.keep()
    said = f"{file()}: cannot be written: "
    assert said in state_of(form)
    assert "lost when the kernel restarts" in state_of(form)
    type_in(form, RATE, "2e-4")
    form._keeping.keep()
    assert said not in state_of(form)
    assert form.config.training.learning_rate == 2e-4
    assert "nbft-kept" not in form.widget._dom_classes
    Path("runs").unlink()  # there is room again
    type_in(form, RATE, "3e-4")
    form._keeping.keep()
    assert "nbft-kept" in form.widget._dom_classes
    assert offers(Form())


def test_a_closed_form_keeps_nothing(words: Path) -> None:
    form = filled(words)
    before = file().read_text()
    type_in(form, LENGTH, "150")
    form.close()
    form._keeping.keep()
    assert file().read_text() == before


def test_changes_are_written_soon_and_not_while_one_types(
    words: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keeping, "_SOON_SECONDS", 0.05)
    written: list[Any] = []
    threads: list[str] = []
    write = keeping.write

    def note(path: Path, kept: Any, *others: Any) -> None:
        threads.append(threading.current_thread().name)
        write(path, kept, *others)
        written.append(kept)

    monkeypatch.setattr(keeping, "write", note)

    async def person() -> None:
        form = Form()
        for n in range(20):
            type_in(form, LENGTH, str(100 + n))
        assert written == []
        for _ in range(200):
            await asyncio.sleep(0.02)
            if written:
                break
        type_in(form, LENGTH, "300")
        for _ in range(200):
            await asyncio.sleep(0.02)
            if len(written) > 1:
                break
        await asyncio.sleep(0.2)

    asyncio.run(person())
    assert [kept.typed.settings["data"]["max_length"] for kept in written] == [119, 300]
    assert "MainThread" not in threads
    assert keeping.read(file())[0].typed.settings["data"]["max_length"] == 300


# Runs


class FakeMonitor:
    shown: ClassVar[list[tuple[Any, ...]]] = []
    on_run_again: Any = None

    def __init__(self, run: Run) -> None:
        self.run = run

    def show(self, *handles: Any) -> None:
        self.shown.append((self.run, *handles))


@pytest.fixture
def monitors(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    monkeypatch.setattr("nbft.widgets.Monitor", FakeMonitor, raising=False)
    FakeMonitor.shown.clear()
    return FakeMonitor.shown


def run_of(words: Path, model: Path, name: str = "kind-otter-14", **training: Any) -> Run:
    config = Config(
        model={"model_name": str(model)},
        data={"path": str(words), "max_length": 64},
        training={"run_name": name, "max_steps": 3, **training},
        evaluation={"eval_strategy": "no"},
    )
    return Run.create(config)


def start(run: Run) -> None:
    """Let this process, which lives, be the worker of a run."""
    here = {"pid": os.getpid(), "process_start_time": process_start_time(os.getpid())}
    events.append(run.events_path, "started", step=0, **here)


def end(run: Run) -> None:
    events.append(run.events_path, "completed", step=3)


def training(words: Path, run: Run) -> Form:
    form = filled(words)
    type_in(form, RATE, "1e-4")
    form._launching.show_run(run)
    form._keeping.keep()
    return form


def test_a_run_that_is_training_is_shown_again(
    words: Path, tiny_model: Path, monitors: list[tuple[Any, ...]]
) -> None:
    run = run_of(words, tiny_model)
    start(run)
    training(words, run)
    form = Form()
    assert ", run kind-otter-14." in text_of(form.widget)
    form._launching.handles = ["view", "result"]
    press(form, "Continue where I was")
    assert form.run is not None
    assert form.run.path == run.path
    assert [(shown_run.id, *handles) for shown_run, *handles in monitors] == [
        ("kind-otter-14", "view", "result")
    ]
    assert "Running: run kind-otter-14" in state_of(form)
    assert form._fields[RATE].control.disabled
    assert not offers(form)
    end(run)
    form._launching.follow()
    assert not form._fields[RATE].control.disabled
    assert "Finished: run kind-otter-14" in state_of(form)


def test_a_run_that_has_ended_meanwhile_is_shown_with_its_end(
    words: Path, tiny_model: Path, monitors: list[tuple[Any, ...]]
) -> None:
    run = run_of(words, tiny_model)
    start(run)
    training(words, run)
    end(run)
    form = Form()
    form._launching.handles = ["view", "result"]
    press(form, "Continue where I was")
    assert len(monitors) == 1
    assert "Finished: run kind-otter-14 completed" in state_of(form)
    assert not form._fields[RATE].control.disabled


def test_a_copy_that_was_edited_during_a_run_is_not_locked(
    words: Path, tiny_model: Path, monitors: list[tuple[Any, ...]]
) -> None:
    run = run_of(words, tiny_model)
    start(run)
    before = training(words, run)
    press(before, "Edit a copy")
    type_in(before, LENGTH, "128")
    before._keeping.keep()
    form = Form()
    press(form, "Continue where I was")
    assert shown(form, LENGTH) == "128"
    assert not form._fields[LENGTH].control.disabled
    assert form._launching.is_training
    assert form._launching.buttons["Train here"].disabled


def test_the_newest_ten_runs_are_listed_when_asked_for(
    words: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n in range(12):
        run = run_of(words, tiny_model, f"run-{n}", seed=n)
        os.utime(run.path / "config.yaml", (1000 * n, 1000 * n))
    listed: list[Any] = []
    list_runs = runs.list_runs

    def note(folder: Any) -> Any:
        listed.append(folder)
        return list_runs(folder)

    monkeypatch.setattr(runs, "list_runs", note, raising=False)
    form = Form()
    assert listed == []
    form._opening.control.value = "runs"
    names = [b.description for b in buttons(form._views.page)]
    assert [name.partition(":")[0] for name in names] == [f"run-{n}" for n in range(11, 1, -1)]
    assert names[0].startswith(f"run-11: words.csv, {tiny_model.name}, lora, created, ")
    assert "2 older" in text_of(form._views.page)
    press(form, "run-5:")
    assert form.config.training.seed == 5
    assert form.config.training.run_name is None
    assert form.config.data.train.datasets[0].path == str(words)
    assert form._views.view == "basic"
    assert form._opening.control.value == ""
    assert "These are the settings of run run-5." in state_of(form)
    assert not form.problems


def test_where_no_run_is_that_is_said() -> None:
    form = Form()
    form._opening.control.value = "runs"
    assert "There are no runs in runs yet." in text_of(form._views.page)


def test_nothing_is_taken_over_while_a_run_locks_the_fields(
    words: Path, tiny_model: Path, monitors: list[tuple[Any, ...]]
) -> None:
    filled(words)
    run = run_of(words, tiny_model)
    start(run)
    form = Form()
    form._opening.control.value = "runs"
    before = form._tree.typed()
    form._launching.show_run(run)
    for name in ("Continue where I was", "kind-otter-14:"):
        press(form, name)
        assert "The fields are locked" in state_of(form)
    assert form._tree.typed() == before


def test_an_offer_costs_five_widgets_and_nothing_costs_none(
    words: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    opening = Widget.open

    def count(self: Widget) -> None:
        opened.append(type(self).__name__)
        opening(self)

    filled(words)
    monkeypatch.setattr(Widget, "open", count)
    Form()
    with_offer = len(opened)
    file().unlink()
    opened.clear()
    Form()
    assert with_offer - len(opened) <= 5
    assert len(opened) <= 70


# What a page shows without its kernel


def test_a_saved_form_says_how_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[Any] = []
    monkeypatch.setattr(
        IPython.display, "display", lambda what, **_: shown.append(what) or SimpleNamespace()
    )
    form = Form()
    form._ipython_display_()
    view, still, *_ = shown
    assert view["text/plain"] == "The form of nbft: run this cell to show it."
    assert view["application/vnd.jupyter.widget-view+json"]["model_id"] == form.widget.model_id
    assert "Run this cell again: your settings are kept." in still["text/html"]
    assert still["text/plain"] == ""
