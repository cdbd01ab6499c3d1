"""“Export…” without a browser: the form is filled in, and what would be in a thread is done at once."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from ipywidgets.widgets import widget as ipywidgets_widget

from nbft import events
from nbft.config import Config
from nbft.errors import RunError
from nbft.export import exporting as writing
from nbft.export.exporting import Exported
from nbft.export.proof import Proof
from nbft.runs import Run
from nbft.runs.exports import add_export
from nbft.runs.mark import mark
from nbft.widgets import kernel
from nbft.widgets.exporting import Exporting

from .test_doctor import widgets_in

PARAMETERS = 134_000_000


@pytest.fixture(autouse=True)
def no_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernel, "_loop", None)


def make_run(folder: Path, **settings: Any) -> Run:
    """A finished run, whose adapter is a file that nobody loads."""
    path = folder / "runs" / "kind-otter-14"
    (path / "adapter").mkdir(parents=True)
    (path / "adapter" / "adapter_config.json").write_text("{}")
    mark(path)
    config = Config(model={"model_name": "/no/model"}, data={"path": "/data/rows.jsonl"})
    config.apply(settings).save(path / "config.yaml", full=True)
    run = Run(path)
    events.append(run.events_path, "prepared", rows=3, total_parameters=PARAMETERS)
    events.append(run.events_path, "completed", step=1, seconds=3, adapter="adapter")
    return run


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    return make_run(tmp_path)


class Asked(NamedTuple):
    run: Run
    to: str
    path: Path
    options: dict[str, Any]


def proof(*failures: str) -> Proof:
    return Proof(
        passed=not failures,
        failures=list(failures),
        same_token_ids=True,
        same_answers=True,
        largest_logit_difference=0.4,
        written_difference=0.001,
        same_first_choices=0.97,
        cases=7,
        dtype="q8_0",
        read_by="transformers 5",
    )


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Asked]:
    """What would have been exported; each is proven."""
    found = []

    def write(run: Run, to: str, path: Path, *, say: Any, **options: Any) -> Exported:
        found.append(Asked(run, to, path, options))
        say("Loading the trained model …")
        return Exported(path, proof(), "```bash\nollama create x\n```\n\nOr so:\n\n```\nrun x\n```")

    monkeypatch.setattr(writing, "write_export", write)
    return found


def opened(run: Run) -> Exporting:
    exporting = Exporting(run)
    press(exporting, "Export…")
    return exporting


def press(exporting: Exporting, words: str) -> None:
    button(exporting, words).click()


def button(exporting: Exporting, words: str) -> Any:
    found = [b for b in widgets_in(exporting.box, "Button") if b.description.startswith(words)]
    return found[0]


def names(exporting: Exporting) -> list[str]:
    return [button.description for button in widgets_in(exporting.box, "Button")]


def control(exporting: Exporting, label: str) -> Any:
    kinds = ("Dropdown", "Text", "Checkbox")
    every = [one for kind in kinds for one in widgets_in(exporting.box, kind)]
    return next(one for one in every if one.description == label)


def said(exporting: Exporting) -> str:
    return exporting._status.value


def test_the_form_opens_in_place_and_its_button_says_what_it_will_do(run: Run) -> None:
    exporting = Exporting(run)
    assert names(exporting) == ["Export…"]
    press(exporting, "Export…")
    assert control(exporting, "Format").value == "gguf"
    assert names(exporting) == ["Close export", "Export as GGUF (bfloat16), about 256 MiB"]
    control(exporting, "Number type").value = "q8_0"
    assert names(exporting)[1] == "Export as GGUF (q8_0), about 136 MiB"
    assert control(exporting, "Folder").value == "kind-otter-14-gguf"
    about = "".join(html.value for html in widgets_in(exporting.box, "HTML"))
    assert f"{Path.cwd() / 'kind-otter-14-gguf'}. It takes about 136 MiB there; " in about
    press(exporting, "Close export")
    assert names(exporting) == ["Export…"]
    assert exporting.state == "closed"


def test_each_format_has_its_options(run: Run) -> None:
    exporting = opened(run)
    labels = {}
    for _, name in control(exporting, "Format").options:
        control(exporting, "Format").value = name
        labels[name] = [*exporting._controls]
        assert control(exporting, "Folder").value == f"kind-otter-14-{name}"
    assert labels == {
        "adapter": [],
        "merged": ["dtype", "max_shard_size"],
        "gguf": ["dtype"],
        "ollama": ["dtype"],
        "mlx": ["dtype"],
        "vllm": ["dtype", "max_shard_size"],
        "openai-server": ["dtype", "max_shard_size"],
        "hub": ["repo_id", "private", "adapter", "dtype"],
    }


def test_a_folder_that_a_person_has_typed_stays_with_another_format(run: Run) -> None:
    exporting = opened(run)
    control(exporting, "Folder").value = "mine"
    control(exporting, "Format").value = "merged"
    assert control(exporting, "Folder").value == "mine"


def test_only_the_adapter_is_offered_first_where_nothing_can_be_merged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    exporting = opened(make_run(tmp_path, **{"peft.method": "prompt_tuning"}))
    assert control(exporting, "Format").value == "adapter"
    control(exporting, "Format").value = "gguf"
    assert "It has no weights to merge into" in said(exporting)
    assert button(exporting, "Export as GGUF").disabled


@pytest.mark.parametrize("key", ["Largest file", "Folder", "room"])
def test_what_is_wrong_is_said_and_nothing_can_be_started(
    run: Run, asked: list[Asked], key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (Path.cwd() / "mine").mkdir()
    (Path.cwd() / "mine" / "thesis.txt").touch()
    exporting = opened(run)
    if key == "room":
        full = type("Usage", (), {"free": 2**20})()
        monkeypatch.setattr(writing.shutil, "disk_usage", lambda _: full)
    control(exporting, "Format").value = "merged"
    value, words = {
        "Largest file": ("huge", "is no size of a file. Write a number with KB, MB, GB or TB"),
        "Folder": ("mine", "is there already and no export of nbft. Choose another folder."),
        "room": ("", "the export needs about 320 MiB, and 1.0 MiB are free."),
    }[key]
    if value:
        control(exporting, key).value = value
    assert words in said(exporting)
    assert button(exporting, "Export as merged model").disabled
    press(exporting, "Export as merged model")
    assert not asked


def test_the_export_ends_with_its_proof_and_the_next_commands(run: Run, asked: list[Asked]) -> None:
    exporting = opened(run)
    control(exporting, "Format").value = "ollama"
    control(exporting, "Number type").value = "q8_0"
    press(exporting, "Export as Ollama model (q8_0), about 136 MiB")
    folder = Path.cwd() / "kind-otter-14-ollama"
    assert [(one.to, one.path) for one in asked] == [("ollama", folder)]
    assert asked[0].options == {"dtype": "q8_0", "yes": True}
    assert "Exported." in said(exporting)
    shown = exporting._result.value
    assert "<b>The proof passed.</b> Reloaded by transformers 5, 7 prompts" in shown
    assert f"It is in {folder}" in shown
    assert ">ollama create x</pre>" in shown
    assert ">run x</pre>" in shown
    assert not control(exporting, "Format").disabled
    assert "Export as Ollama model (q8_0), about 136 MiB" in names(exporting)


def test_a_proof_that_failed_is_said(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    bad = Exported(Path("out"), proof("It answers 2 prompts <otherwise>."), "")
    monkeypatch.setattr(writing, "write_export", lambda *_, **__: bad)
    exporting = opened(run)
    press(exporting, "Export as GGUF")
    assert "Exported, but the proof failed." in said(exporting)
    shown = exporting._result.value
    assert "not the trained model.</b> It answers 2 prompts &lt;otherwise&gt;." in shown


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (RunError("/x: the disk is full."), "/x: the disk is full."),
        (KeyError("w"), "The export failed (KeyError: &#39;w&#39;)."),
    ],
)
def test_an_error_is_a_sentence_and_the_form_can_be_used_again(
    run: Run, error: Exception, sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(writing, "write_export", fail)
    exporting = opened(run)
    press(exporting, "Export as GGUF")
    assert sentence in said(exporting)
    assert exporting.state == "open"
    assert not control(exporting, "Number type").disabled
    assert not button(exporting, "Export as GGUF").disabled


def test_it_says_its_stages_and_stops_before_the_next(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages = []

    def write(*_: object, say: Callable[[str], None], **__: object) -> None:
        say("Loading the trained model …")
        stages.append((said(exporting), names(exporting), control(exporting, "Format").disabled))
        press(exporting, "Close export")
        assert "Stop the export first." in said(exporting)
        press(exporting, "Stop")
        stages.append(said(exporting))
        say("Writing the export …")
        pytest.fail("It went on.")

    monkeypatch.setattr(writing, "write_export", write)
    exporting = opened(run)
    press(exporting, "Export as GGUF")
    (first, buttons, is_disabled), second = stages
    assert "Loading the trained model …" in first
    assert (buttons, is_disabled) == (["Close export", "Stop"], True)
    assert "Stopping after this stage …" in second
    assert "The export was stopped. Nothing of it is left." in said(exporting)
    assert "Export as GGUF (bfloat16), about 256 MiB" in names(exporting)


def test_an_upload_that_is_stopped_leaves_the_export(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(run: Run, to: str, path: Path, *, say: Any, **_: object) -> None:
        add_export(run.path, to, path, proof(), "Same token ids.")
        press(exporting, "Stop")
        say("Uploading to me/corrector …")

    monkeypatch.setattr(writing, "write_export", write)
    exporting = opened(run)
    control(exporting, "Format").value = "hub"
    control(exporting, "Repository").value = "me/corrector"
    press(exporting, "Upload to me/corrector")
    press(exporting, "Yes, upload it")
    folder = Path.cwd() / "kind-otter-14-hub"
    assert f"Stopped before it was uploaded. The export is in {folder}." in said(exporting)


def test_an_upload_is_asked_about(run: Run, asked: list[Asked]) -> None:
    exporting = opened(run)
    control(exporting, "Format").value = "hub"
    assert "Name the repository as owner/name." in said(exporting)
    assert "run `hf auth login`" in exporting._about.value
    control(exporting, "Repository").value = "me/corrector"
    control(exporting, "Private").value = False
    assert said(exporting) == '<div role="status"></div>'
    press(exporting, "Upload to me/corrector (bfloat16), about 256 MiB")
    question = (
        "Upload the merged model of kind-otter-14 to huggingface.co/me/corrector, for everybody?"
    )
    assert question in said(exporting)
    assert not asked
    press(exporting, "No")
    assert names(exporting)[-1] == "Upload to me/corrector (bfloat16), about 256 MiB"
    control(exporting, "Adapter only").value = True
    press(exporting, "Upload to me/corrector")
    assert "Upload the adapter of kind-otter-14" in said(exporting)
    press(exporting, "Yes, upload it")
    about = {"repo_id": "me/corrector", "private": False, "adapter": True, "yes": True}
    assert [(one.to, one.options) for one in asked] == [("hub", about)]


def test_a_click_on_another_thread_touches_no_widget(
    run: Run, asked: list[Asked], monkeypatch: pytest.MonkeyPatch
) -> None:
    later: list[Callable[[], None]] = []
    exporting = Exporting(run)
    monkeypatch.setattr("nbft.widgets.exporting.call_soon", later.append)
    thread = threading.Thread(target=button(exporting, "Export…").click)
    thread.start()
    thread.join()
    assert exporting.state == "closed"
    (action,) = later
    action()
    assert exporting.state == "open"


def test_it_is_closed_with_all_its_widgets(run: Run, asked: list[Asked]) -> None:
    before = len(ipywidgets_widget._instances)
    exporting = opened(run)
    for name in ("merged", "hub", "gguf", "adapter"):
        control(exporting, "Format").value = name
    press(exporting, "Export as adapter")
    many = len(ipywidgets_widget._instances)
    for name in ("merged", "hub", "gguf", "adapter"):
        control(exporting, "Format").value = name
    assert len(ipywidgets_widget._instances) == many
    exporting.close()
    assert len(ipywidgets_widget._instances) == before
