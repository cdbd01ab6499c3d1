"""The exports of a run, over HTTP; the process that exports is the one of this test, or none."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from nbft import events
from nbft.errors import RunError
from nbft.launchers import exporting
from nbft.processes import identity
from nbft.runs import Run
from nbft.runs.exports import add_export
from nbft.server import answers

from .conftest import Server
from .test_server import id_of, make_run

PARAMETERS = 134_000_000


@pytest.fixture
def run(server: Server, request: pytest.FixtureRequest) -> Run:
    """A run that is over and has an adapter."""
    made = make_run(server.root / "runs", f"exported-{abs(hash(request.node.name))}")
    events.append(made.events_path, "prepared", rows=3, total_parameters=PARAMETERS)
    events.append(made.events_path, "completed", step=1, seconds=3, adapter="adapter")
    (made.path / "adapter").mkdir()
    (made.path / "adapter" / "adapter_config.json").write_text("{}")
    return made


@pytest.fixture
def route(server: Server, run: Run) -> str:
    return f"runs/{id_of(server, run.id)}/exports"


def started(run: Run, pid: int | None = None) -> None:
    place = {"to": "gguf", "path": str(run.path.parent.parent / f"{run.id}-gguf")}
    events.append(run.path / exporting.EVENTS, "started", **identity(pid), **place)


def test_a_run_says_how_it_can_be_exported(server: Server, run: Run, route: str) -> None:
    body = server.ask(route).body
    formats = {one["name"]: one for one in body["formats"]}
    names = ["adapter", "merged", "gguf", "ollama", "mlx", "vllm", "openai-server", "hub"]
    assert [*formats] == names
    assert formats["gguf"]["folder"] == f"{run.id}-gguf"
    offers = {one["dtype"]: one["offer"] for one in formats["gguf"]["choices"]}
    assert offers["q8_0"] == "Export as GGUF (q8_0), about 136 MiB"
    assert [one["dtype"] for one in formats["gguf"]["choices"] if one["is_usual"]] == ["bfloat16"]
    assert formats["adapter"]["choices"] == [
        {"dtype": "", "offer": "Export as adapter, about 2 B", "is_usual": True}
    ]
    assert {one["problem"] for one in formats.values()} == {""}
    assert body["help"]["dtype"].startswith("Fewer bits")
    assert (body["exports"], body["last"]) == ([], None)


def test_a_run_without_an_adapter_offers_nothing(server: Server) -> None:
    made = make_run(server.root / "runs", "without-an-adapter")
    assert server.ask(f"runs/{id_of(server, made.id)}/exports").body["formats"] == []


def test_what_cannot_be_exported_says_why(server: Server, run: Run, route: str) -> None:
    config = run.config.apply({"peft.method": "prompt_tuning"})
    config.save(run.path / "config.yaml", full=True)
    (server.root / f"{run.id}-adapter").mkdir()
    (server.root / f"{run.id}-adapter" / "thesis.txt").touch()
    formats = {one["name"]: one["problem"] for one in server.ask(route).body["formats"]}
    assert "has no weights to merge into" in formats["gguf"]
    assert "no export of nbft" in formats["adapter"]


def test_exports_are_listed_with_their_proofs(server: Server, run: Run, route: str) -> None:
    there, elsewhere = server.root / "out", server.root.parent / "elsewhere" / "out"
    for folder in (there, elsewhere):
        folder.mkdir(exist_ok=True)
        (folder / "proof.json").write_text("{}")
    add_export(run.path, "merged", there, {"passed": False}, "An earlier one.")
    add_export(run.path, "merged", elsewhere, {"passed": True}, "Same token ids.")
    add_export(run.path, "gguf", there, {"passed": True}, "Same answers.")
    add_export(run.path, "gguf", server.root / "gone", {"passed": False}, "It failed.")
    with (run.path / "exports.jsonl").open("a") as file:
        file.write('{"to": "gguf"}\n[]\n{"torn')
    found = server.ask(route).body["exports"]
    shown = [(one["format"], one["folder"], one["passed"], one["proof"]) for one in found]
    assert shown == [
        ("gguf", None, False, "It failed."),
        ("gguf", "out", True, "Same answers."),
        ("merged", None, True, "Same token ids."),
    ]


def test_an_export_is_started_in_a_process(
    server: Server, run: Run, route: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []

    def start(run: Run, to: str, path: Path, **options: Any) -> None:
        asked.append((run.path, to, path, options))
        started(run, os.getpid())

    monkeypatch.setattr(answers, "start_export", start)
    body = {"to": "gguf", "dtype": "q8_0", "folder": "exports/mine"}
    answer = server.ask(route, "POST", body)
    assert answer.status == 202
    options = {"dtype": "q8_0", "yes": True}
    assert asked == [(run.path, "gguf", server.root / "exports" / "mine", options)]
    last = answer.body["last"]
    assert (last["is_going"], last["text"]) == (True, "Starting …")
    assert answer.body["formats"] == []  # one at a time
    server.ask(route, "POST", {"to": "hub", "repo_id": "me/x", "private": False})
    assert asked[1][1:] == (
        "hub",
        server.root / f"{run.id}-hub",
        {"repo_id": "me/x", "private": False, "yes": True},
    )


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({}, 400, "name the format"),
        ([], 400, "name the format"),
        ({"to": 5}, 400, "name the format"),
        ({"to": "gguf", "yes": True}, 400, "yes: is no option of an export"),
        ({"to": "gguf", "dtype": 8}, 400, "dtype: is no option of an export, or of the wrong type"),
        ({"to": "gguf", "folder": "../out"}, 400, "not below the server's root folder"),
        ({"to": "gguf", "folder": "/etc/out"}, 400, "not below the server's root folder"),
        ({"to": "gguf", "folder": "."}, 400, "not below the server's root folder"),
        ({"to": "gguf", "folder": "runs"}, 409, "no export of nbft"),
        ({"to": "gguf", "dtype": "q9"}, 409, "is none of the number types of gguf"),
        ({"to": "hub"}, 409, "Name the repository as owner/name."),
        ({"to": "onnx"}, 409, "is not written"),
        ({"to": "nothing"}, 409, "is not one of adapter, merged"),
    ],
)
def test_what_cannot_be_started_is_refused(
    server: Server, route: str, body: Any, status: int, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "start_export", lambda *_, **__: pytest.fail("It was started."))
    answer = server.ask(route, "POST", body)
    assert (answer.status, words in answer.body["message"]) == (status, True), answer.body


def test_the_state_is_what_the_last_events_say(server: Server, run: Run, route: str) -> None:
    def state() -> tuple[bool, str]:
        last = server.ask(route).body["last"]
        return last["is_going"], last["text"]

    path = run.path / exporting.EVENTS
    started(run)
    events.append(path, "stage", text="Reading it back …")
    assert state() == (True, "Reading it back …")
    events.append(path, "refused", text="/x: the disk is full.")
    assert state() == (False, "/x: the disk is full.")
    started(run)
    events.append(path, "exported", path="/x")
    assert state() == (False, "")
    gone = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started(run, gone.pid)
    assert state() == (True, "Starting …")
    gone.communicate()
    is_going, text = state()
    assert not is_going
    assert "ended without a word" in text


def test_an_export_is_stopped_and_only_one_goes_on(server: Server, run: Run, route: str) -> None:
    assert server.ask(route, "DELETE").status == 409
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    started(run, process.pid)
    with pytest.raises(RunError, match=r"is being exported to .*-gguf"):
        exporting.start_export(run, "merged", Path("/nowhere"))
    assert server.ask(route, "DELETE").status == 202
    assert process.wait(20) != 0
    # It was not ready to hear of it, and had no word of its own.
    last = server.ask(route).body["last"]
    assert (last["is_going"], last["text"]) == (
        False,
        "The export was stopped. Nothing of it is left.",
    )
    assert server.ask(route, "DELETE").status == 409


def test_a_file_that_is_no_file_is_not_read(server: Server, run: Run, route: str) -> None:
    os.mkfifo(run.path / "exporting.jsonl")
    assert server.ask(route).status == 404
