"""The routes, asked over HTTP of a real Jupyter server in a thread of this process."""

from __future__ import annotations

import http.client
import json
import math
import os
import threading
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest

from nbft import events
from nbft.config import Config
from nbft.errors import RunError
from nbft.processes import process_start_time
from nbft.runs import Run
from nbft.runs.mark import mark
from nbft.server import answers, roots
from nbft.server.handlers import ROUTES

from .conftest import API, TOKEN, Server


def make_run(folder: Path, name: str, *, ended: str | None = "completed") -> Run:
    path = folder / name
    path.mkdir(parents=True)
    mark(path)
    config = Config(model={"model_name": "smollm2-135m"}, data={"path": "/data/alpaca.jsonl"})
    config.save(path / "config.yaml", full=True)
    run = Run(path)
    pid = os.getpid()
    began = process_start_time(pid)
    events.append(run.events_path, "started", pid=pid, process_start_time=began, model="m")
    events.append(run.events_path, "prepared", rows=300, total_steps=94)
    events.append(run.events_path, "log", step=1, loss=2.0, learning_rate=1e-4)
    if ended:
        events.append(run.events_path, ended, step=1, seconds=3)
    return run


def id_of(server: Server, name: str) -> str:
    (found,) = [
        one["id"]
        for one in server.ask(f"runs?search={quote(name)}").body["runs"]
        if one["name"] == name
    ]
    return found


@pytest.fixture
def done(server: Server, request: pytest.FixtureRequest) -> str:
    """The id of a run that is over."""
    name = f"done-{abs(hash(request.node.name))}"
    make_run(server.root / "runs", name)
    return id_of(server, name)


@pytest.fixture
def running(server: Server, request: pytest.FixtureRequest) -> str:
    """The id of a run at work: its process is this one."""
    name = f"running-{abs(hash(request.node.name))}"
    make_run(server.root / "runs", name, ended=None)
    return id_of(server, name)


def path_of(server: Server, run_id: str) -> Path:
    return server.root / "runs" / run_id.rpartition("~")[0]


def requests_to_every_route(run_id: str) -> list[tuple[str, str]]:
    return [
        (method.upper(), route.lstrip("/").replace("{id}", run_id))
        for route, methods in API["paths"].items()
        for method in methods
        if method != "parameters"
    ]


def test_every_route_is_described() -> None:
    described = {route.lstrip("/").replace("{id}", "([^/]+)") for route in API["paths"]}
    assert described == set(ROUTES)
    for path, actions in ROUTES.items():
        methods = {method.lower() for method in actions}
        route = "/" + path.replace("([^/]+)", "{id}")
        assert methods == set(API["paths"][route]) - {"parameters"}


def test_every_route_refuses_who_has_not_logged_in(server: Server, done: str) -> None:
    for headers in ({}, {"Authorization": "token wrong"}):
        for method, path in requests_to_every_route(done):
            # A POST and a DELETE of no user fail at the XSRF check already.
            assert server.ask(path, method, {}, headers).status == 403
    assert path_of(server, done).is_dir()


def test_what_changes_something_needs_the_xsrf_token(server: Server, done: str) -> None:
    cookies: list[str] = []
    for path in ("/login", f"/login?token={TOKEN}"):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
        connection.request("GET", path, headers={"Cookie": "; ".join(cookies)})
        reply = connection.getresponse()
        cookies += [c.split(";")[0] for c in reply.headers.get_all("Set-Cookie") or []]
        connection.close()
    xsrf = dict(c.split("=", 1) for c in cookies)["_xsrf"]
    logged_in = {"Cookie": "; ".join(cookies)}
    assert server.ask(f"runs/{done}", "GET", headers=logged_in).status == 200
    assert server.ask(f"runs/{done}", "DELETE", headers=logged_in).status == 403
    assert server.ask(f"runs/{done}/commands", "POST", {}, headers=logged_in).status == 403
    assert path_of(server, done).is_dir()
    with_token = logged_in | {"X-XSRFToken": xsrf}
    assert server.ask(f"runs/{done}", "DELETE", headers=with_token).status == 204
    assert not path_of(server, done).exists()


def test_version(server: Server) -> None:
    assert server.ask("version").body == {"version": version("nbft")}


def test_runs_at_work_come_first(server: Server, running: str, done: str) -> None:
    body = server.ask("runs").body
    found = [one["id"] for one in body["runs"]]
    assert found.index(running) < found.index(done)
    assert body["version"] == version("nbft")
    assert body["total"] == body["matching"] == len(found)


def test_search_and_limit(server: Server, running: str, done: str) -> None:
    body = server.ask(f"runs?search=ALPACA%20{done.rpartition('~')[0]}").body
    assert [one["id"] for one in body["runs"]] == [done]
    assert body["matching"] == 1 < body["total"]
    assert len(server.ask("runs?limit=1").body["runs"]) == 1
    assert server.ask("runs?search=nothing-like-it").body["runs"] == []
    for limit in ("0", "-1", "x", "1.5", "9" * 5_000, "²", ""):
        assert server.ask(f"runs?limit={quote(limit)}").status == 400


def test_runs_beside_notebooks_and_of_configured_folders_are_found(server: Server) -> None:
    make_run(server.root / "lesson" / "two" / "runs", "beside-a-notebook")
    make_run(server.root.parent / "elsewhere", "configured")
    make_run(server.root / "a" / "b" / "c" / "runs", "too-deep")
    make_run(server.root / ".hidden" / "runs", "hidden")
    nbft = roots.Nbft(root_dir=str(server.root), roots=["../elsewhere"])
    names = {run.id for run in nbft.runs().values()}
    assert {"beside-a-notebook", "configured"} <= names
    assert not {"too-deep", "hidden"} & names
    outside = server.ask("runs?search=configured").body["runs"][0]
    assert outside["folder"] is None  # a file browser cannot go there
    assert server.ask(f"runs/{outside['id']}").status == 200


def test_two_runs_of_one_name_have_two_ids(tmp_path: Path) -> None:
    for folder in ("runs", "lesson/runs"):
        make_run(tmp_path / folder, "twin")
    nbft = roots.Nbft(root_dir=str(tmp_path))
    ids = list(nbft.runs())
    assert len(ids) == 2
    assert {nbft.find(run_id).path for run_id in ids} == {
        tmp_path / "runs" / "twin",
        tmp_path / "lesson" / "runs" / "twin",
    }


def test_only_runs_can_be_named(server: Server, done: str) -> None:
    name, _, key = done.rpartition("~")
    root = server.root / "runs"
    outside = make_run(server.root.parent / "outside", "secret-run")
    (root / "link").symlink_to(outside.path)
    leaking = make_run(root, "leaking")
    (leaking.path / "log.txt").symlink_to("/etc/passwd")
    (root / "no-run").mkdir()
    names = ["link", "leaking", "no-run", "not-there", "", ".", "..", "../../outside/secret-run"]
    names += [f"../runs/{name}", f"./{name}", f"{name}/", f"{name}\0", str(outside.path), "..\\x"]
    ids = [f"{one}~{key}" for one in names] + [name, f"{name}~", f"{name}~00000000", "~", "..", "%"]
    for one in ids:
        for method, path in requests_to_every_route(quote(one, safe="") or "~"):
            if "/runs/" in f"/{path}":
                answer = server.ask(path, method, {"command": "stop"})
                assert answer.status == 404, (method, path)
                assert str(server.root.parent) not in answer.body["message"]
    assert outside.path.is_dir()
    listed = {one["name"]: one for one in server.ask("runs?limit=1000").body["runs"]}
    assert not {"link", "no-run"} & listed.keys()
    assert listed["leaking"]["problems"] == [
        "leaking: log.txt is not a plain file, so this run is not opened."
    ]
    assert listed["leaking"]["allowed"] == []


def test_a_path_that_is_not_encoded_leads_nowhere(server: Server, done: str) -> None:
    for path in (f"runs/../runs/{done}", "runs/../../../etc/passwd", f"runs/{done}/../../x"):
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
        connection.request("GET", f"/nbft/api/{path}", headers={"Authorization": f"token {TOKEN}"})
        assert connection.getresponse().status == 404


def test_details_hold_the_settings_that_differ(server: Server, done: str) -> None:
    settings = server.ask(f"runs/{done}").body["settings"]
    assert settings["data.train.datasets[0].path"] == [None, "/data/alpaca.jsonl"]
    assert "training.learning_rate" not in settings
    assert "training.run_name" not in settings


def test_secrets_stay_on_the_server(server: Server, done: str) -> None:
    run = Run(path_of(server, done))
    secret = "hf_" + "a1B2c3D4" * 4
    config = run.config
    config.model.model_init_kwargs = {"token": "plain", "api_key": "word"}
    config.save(run.path / "config.yaml", full=True)
    log = f"GET /x?token={secret}&a=1\nlogin {secret}\nAuthorization: Bearer abcdefghij\nstep 1"
    (run.path / "log.txt").write_text(log)
    text = server.ask(f"runs/{done}/log").body["text"]
    assert secret not in text
    assert "abcdefghij" not in text
    assert "step 1" in text
    settings = json.dumps(server.ask(f"runs/{done}").body)
    assert "plain" not in settings
    assert "(hidden)" in settings


def test_events_come_piece_by_piece(
    server: Server, running: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(path_of(server, running))
    events.append(run.events_path, "sample", step=1, samples=[{"prompt": "p", "text": "é" * 900}])
    events.append(run.events_path, "log", step=2, loss=math.nan)
    with run.events_path.open("a") as file:
        file.write('{"event": "log", "time": 1, "step": 3')
    monkeypatch.setattr(answers, "_EVENTS_BYTES", 300)
    found, after, more = [], 0, True
    while more:
        piece = server.ask(f"runs/{running}/events?after={after}").body
        assert piece["after"] == after < piece["next"]
        found, after, more = found + piece["events"], piece["next"], piece["more"]
        assert len(found) < 10
    kinds = [event["event"] for event in found]
    assert kinds == ["started", "prepared", "log", "sample", "log"]
    assert found[-1]["loss"] == "NaN"
    piece = server.ask(f"runs/{running}/events?after={after}").body
    assert (piece["events"], piece["next"]) == ([], after)
    with run.events_path.open("a") as file:
        file.write(', "loss": 1}\n')
    assert server.ask(f"runs/{running}/events?after={after}").body["events"][0]["step"] == 3
    # A position beyond the end means that the file is another one.
    assert server.ask(f"runs/{running}/events?after=999999").body["after"] == 0
    for after in ("-1", "x", str(2**64)):
        assert server.ask(f"runs/{running}/events?after={after}").status == 400


def test_the_state_holds_what_is_drawn_and_then_what_is_new(server: Server, running: str) -> None:
    run = Run(path_of(server, running))
    say = lambda event, **fields: events.append(run.events_path, event, **fields)  # noqa: E731
    say("sample", step=0, samples=[{"prompt": "Say hi.", "text": "no"}])
    say("scores", step=0, split="validation", rows=4, scores={"exact_match": 0.0})
    first = server.ask(f"runs/{running}/state").body
    assert (first["whole"], first["more"], first["said"]) == (True, False, 4)
    loss, rate = first["charts"]
    assert [one["label"] for one in loss["series"]] == ["loss", "held-out loss"]
    assert (loss["rows"], rate["rows"]) == ([[1, 2.0, None]], [[1, 1e-4]])
    assert first["answers"] == [
        {"title": "Say hi.", "prompt": "Say hi.", "answers": [{"when": "base model", "text": "no"}]}
    ]

    again = server.ask(f"runs/{running}/state?after={first['next']}").body
    assert not again["whole"]
    assert [chart["rows"] for chart in again["charts"]] == [[], []]
    assert again["notes"] is again["scores"] is again["answers"] is None

    say("log", step=2, loss=math.nan, learning_rate=2e-4)
    say("eval", step=2, eval_loss=1.5)
    say("note", step=2, kind="nan", text="The loss is no number.")
    say("scores", step=2, split="validation", rows=4, scores={"exact_match": 0.5})
    new = server.ask(f"runs/{running}/state?after={again['next']}").body
    assert new["charts"][0]["rows"] == [[2, "NaN", 1.5]]
    assert new["notes"] == ["Step 2: The loss is no number."]
    (table,) = new["scores"]["tables"]
    assert table["caption"] == "4 held-out rows"
    assert table["rows"] == [["exact match", "0% (0 of 4)", "50% (2 of 4)", "+2 rows: better"]]
    assert new["scores"]["charts"][0]["rows"] == [[0, 0.0], [2, 0.5]]
    assert new["answers"] is None

    say("answered", step=9, kind="nan")
    over = server.ask(f"runs/{running}/state?after={new['next']}").body
    assert over["notes"] == ["Step 2: The loss is no number. (No longer true since step 9.)"]

    say("prepared", rows=300, total_steps=94, resumed_step=1)
    back = server.ask(f"runs/{running}/state?after={new['next']}").body
    assert back["whole"]
    assert back["charts"][0]["rows"] == [[1, 2.0, None]]
    assert back["notes"] == []
    for after in ("x", "-1", "1-2-3-4-5", "9" * 5_000, "%00"):
        assert server.ask(f"runs/{running}/state?after={after}").body["whole"]


def test_the_state_holds_what_else_a_method_measures(server: Server, running: str) -> None:
    run = Run(path_of(server, running))
    say = lambda event, **fields: events.append(run.events_path, event, **fields)  # noqa: E731
    first = server.ask(f"runs/{running}/state").body
    say("log", step=2, loss=1.5, **{"rewards/chosen": 0.1, "rewards/rejected": -0.1})
    new = server.ask(f"runs/{running}/state?after={first['next']}").body
    assert new["whole"]
    loss, _, rewards = new["charts"]
    assert loss["rows"] == [[1, 2.0, None], [2, 1.5, None]]
    assert rewards["title"] == "rewards"
    assert [one["label"] for one in rewards["series"]] == ["chosen", "rejected"]
    assert rewards["rows"] == [[2, 0.1, -0.1]]
    say("log", step=3, loss=1.0, **{"rewards/chosen": 0.2, "rewards/rejected": -0.2})
    more = server.ask(f"runs/{running}/state?after={new['next']}").body
    assert not more["whole"]
    assert more["charts"][2]["rows"] == [[3, 0.2, -0.2]]


def test_a_long_state_comes_piece_by_piece(
    server: Server, running: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(path_of(server, running))
    events.append(run.events_path, "prepared", total_steps=94, resumed_step=1)
    for step in range(2, 40):
        events.append(run.events_path, "log", step=step, loss=1 / step, learning_rate=1e-4)
        if step % 10 == 0:
            events.append(run.events_path, "eval", step=step, eval_loss=0.5)
    monkeypatch.setattr(answers, "_STATE_EVENTS", 7)
    rows: dict[int, list[Any]] = {}
    after, more, pieces = "", True, 0
    while more:
        piece = server.ask(f"runs/{running}/state?after={after}").body
        new = piece["charts"][0]["rows"]
        rows = {step: row for step, row in rows.items() if not new or step < new[0][0]}
        rows |= {row[0]: row for row in new}
        assert piece["whole"] == (pieces == 0)
        after, more, pieces = piece["next"], piece["more"], pieces + 1
    assert pieces > 5
    monkeypatch.setattr(answers, "_STATE_EVENTS", 1_000)
    whole = server.ask(f"runs/{running}/state").body["charts"][0]["rows"]
    assert list(rows.values()) == whole
    assert len(whole) == 39


def test_a_loss_that_is_not_a_number_is_valid_json(server: Server, running: str) -> None:
    run = Run(path_of(server, running))
    events.append(run.events_path, "log", step=2, loss=math.inf)
    about = server.ask(f"runs/{running}").body
    assert about["loss"] == "Infinity"
    assert about["curve"][-1] == [2, "Infinity"]


def test_log_tail(server: Server, done: str) -> None:
    assert server.ask(f"runs/{done}/log").body == {"text": "", "truncated": False}
    (path_of(server, done) / "log.txt").write_bytes(b"\xff first\nsecond\nthird\n")
    answer = server.ask(f"runs/{done}/log?lines=2").body
    assert answer == {"text": "second\nthird", "truncated": True}
    for lines in ("0", "2001", "-3"):
        assert server.ask(f"runs/{done}/log?lines={lines}").status == 400


def test_stop_is_written_for_the_worker(server: Server, running: str) -> None:
    answer = server.ask(f"runs/{running}/commands", "POST", {"command": "stop"})
    assert answer.status == 202
    assert answer.body["id"] == running
    (line,) = events.read(path_of(server, running) / "commands.jsonl")
    assert line["event"] == "stop"


@pytest.mark.parametrize("name", sorted(answers.COMMANDS))
def test_every_command_calls_its_method(
    server: Server, running: str, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    called = []
    method = "continue_" if name == "continue" else name
    monkeypatch.setattr(Run, method, lambda run: called.append(run.id))
    assert server.ask(f"runs/{running}/commands", "POST", {"command": name}).status == 202
    assert called == [running.rpartition("~")[0]]


def test_resume(server: Server, done: str, monkeypatch: pytest.MonkeyPatch) -> None:
    called = []
    monkeypatch.setattr(Run, "resume", lambda run: called.append(run.id))
    assert server.ask(f"runs/{done}/resume", "POST").status == 202
    assert called == [done.rpartition("~")[0]]


@pytest.fixture
def out_of_memory(server: Server, done: str) -> str:
    """The id of a run that memory ran out on, with two fixes."""
    run = Run(path_of(server, done))
    fixes = [
        {"words": "batch 2", "changes": {"data.max_length": 64}, "memory_bytes": 2**30},
        {"words": "of another's", "changes": {"training.seed": 2}, "memory_bytes": 2**30},
        {"words": "LoRA", "changes": {"peft.method": "lora"}, "memory_bytes": 2**29},
        {"words": 7, "changes": [], "memory_bytes": "much"},
        "batch 1",
    ]
    said = {"problems": ["x"], "out_of_memory": True, "fixes": fixes}
    events.append(run.events_path, "failed", step=1, **said)
    return done


def test_a_fix_starts_a_new_run_beside_the_old(
    server: Server, out_of_memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted = []

    def retry(run: Run, config: Config) -> Run:
        assert run.path == path_of(server, out_of_memory)
        submitted.append(config)
        return make_run(Path(config.training.output_dir), "calm-crane-7")

    monkeypatch.setattr("nbft.launchers.launch.retry", retry)
    fixes = server.ask(f"runs/{out_of_memory}").body["fixes"]
    assert fixes == [
        "Run again with batch 2 (about 1.0 GiB)",
        "Run again with LoRA (about 512 MiB)",
    ]
    answer = server.ask(f"runs/{out_of_memory}/retry", "POST", {"fix": 0})
    assert answer.status == 202
    assert answer.body["name"] == "calm-crane-7"
    assert server.ask(f"runs/{answer.body['id']}").body["name"] == "calm-crane-7"
    (config,) = submitted
    assert (config.data.max_length, config.training.run_name) == (64, None)


def test_what_is_no_fix_is_refused(server: Server, out_of_memory: str, running: str) -> None:
    for body in ({}, {"fix": "0"}, {"fix": True}, {"fix": 0.5}, [], "{", "null"):
        assert server.ask(f"runs/{out_of_memory}/retry", "POST", body).status == 400
    for fix in (2, -1, 10**30):
        answer = server.ask(f"runs/{out_of_memory}/retry", "POST", {"fix": fix})
        assert answer.status == 409
        assert "has 2 fixes" in answer.body["message"]
    assert server.ask(f"runs/{running}/retry", "POST", {"fix": 0}).status == 409
    assert server.ask(f"runs/x{running}/retry", "POST", {"fix": 0}).status == 404


def test_a_run_that_went_on_offers_no_fix(server: Server, out_of_memory: str) -> None:
    run = Run(path_of(server, out_of_memory))
    events.append(run.events_path, "completed", step=2, seconds=1)
    assert server.ask(f"runs/{out_of_memory}").body["fixes"] == []
    assert server.ask(f"runs/{out_of_memory}/retry", "POST", {"fix": 0}).status == 409


@pytest.mark.parametrize(
    "body", [{}, {"command": "explode"}, {"command": None}, {"command": ["stop"]}, [], "{", "null"]
)
def test_what_is_no_command_is_a_bad_request(server: Server, running: str, body: Any) -> None:
    assert server.ask(f"runs/{running}/commands", "POST", body).status == 400


def test_what_the_status_does_not_allow_is_a_conflict(
    server: Server, running: str, done: str
) -> None:
    answer = server.ask(f"runs/{done}/commands", "POST", {"command": "stop"})
    assert answer.status == 409
    assert "completed" in answer.body["message"]
    assert server.ask(f"runs/{running}", "DELETE").status == 409
    assert path_of(server, running).is_dir()


def test_a_config_that_cannot_be_read_is_a_conflict(server: Server, done: str) -> None:
    (path_of(server, done) / "config.yaml").write_text("model: [")
    answer = server.ask(f"runs/{done}")
    assert answer.status == 409
    assert id_of(server, done.rpartition("~")[0]) == done  # and the list still holds it


def test_delete(server: Server, done: str) -> None:
    assert server.ask(f"runs/{done}", "DELETE").status == 204
    assert not path_of(server, done).exists()
    assert server.ask(f"runs/{done}", "DELETE").status == 404


def test_compare(server: Server, running: str, done: str) -> None:
    run = Run(path_of(server, done))
    config = run.config
    config.training.learning_rate = 5e-5
    config.save(run.path / "config.yaml", full=True)
    body = server.ask(f"compare?ids={running},{done}").body
    assert [one["id"] for one in body["runs"]] == [running, done]
    assert body["settings"] == {"training.learning_rate": [2e-4, 5e-5]}
    assert body["chart"]["rows"] == [[1, 2.0, 2.0]]
    assert [one["label"] for one in body["chart"]["series"]] == [
        one["name"] for one in body["runs"]
    ]
    assert len({one["color"] for one in body["chart"]["series"]}) == 2
    for ids in ("", done, f"{done},{done}", ",".join(f"{i}~x" for i in range(7))):
        assert server.ask(f"compare?ids={ids}").status == 400
    assert server.ask(f"compare?ids={done},nobody~00000000").status == 404


def test_a_bug_tells_the_browser_nothing(
    server: Server, done: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise ValueError("a secret inside")

    monkeypatch.setattr(answers, "details", broken)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    headers = {"Authorization": f"token {TOKEN}"}
    connection.request("GET", f"/nbft/api/runs/{done}", headers=headers)
    reply = connection.getresponse()
    assert reply.status == 500
    assert json.loads(reply.read()) == {"message": "Internal Server Error"}


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RunError("100% of it"), 409),
        (PermissionError(13, "Permission denied", "/a/path"), 409),
        (FileNotFoundError(2, "No such file", "/a/path"), 404),
    ],
)
def test_errors_become_sentences(
    server: Server, done: str, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int
) -> None:
    def broken(*_: Any) -> None:
        raise error

    monkeypatch.setattr(answers, "delete", broken)
    answer = server.ask(f"runs/{done}", "DELETE")
    assert answer.status == status
    assert "/a/path" not in answer.body["message"]
    if status == 409:
        assert answer.body["message"] in ("100% of it", "The disk refuses: Permission denied.")


def test_reading_does_not_hold_the_server_up(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, leave = threading.Event(), threading.Event()

    def slow(*_: Any) -> dict[str, Any]:
        entered.set()
        leave.wait(60)
        return {"version": "0", "total": 0, "matching": 0, "runs": []}

    monkeypatch.setattr(answers, "list_runs", slow)
    asking = threading.Thread(target=server.ask, args=("runs",))
    asking.start()
    assert entered.wait(10)
    assert server.ask("version").status == 200
    assert asking.is_alive()
    leave.set()
    asking.join()
