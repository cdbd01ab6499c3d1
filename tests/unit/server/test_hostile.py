"""Runs that were made to do harm, asked for by every GET route: nothing runs, and the list stays."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path

import pytest

from nbft import events
from nbft.plan.fixes import fixes_for_event
from nbft.runs.mark import mark
from nbft.runs.state import StateReader
from nbft.server.handlers import ROUTES

CONFIG = """
model: {model_name: smollm2-135m}
data:
  train:
    datasets:
      - path: rows.jsonl
        prompt_func: "{function}"
        completion_template: "{completion}"
evaluation: {metric_function: "{function}"}
"""

CODE = (
    "from pathlib import Path\nPath(__file__).with_name('it-ran').touch()\ndef f(row): return 'x'\n"
)


@pytest.fixture(params=["subprocess:call", "code.py:f", "{folder}/code.py:f"])
def harmful(request, server):
    """A run whose config names code, beside an event that memory ran out."""
    path = server.root / "runs" / "harmful"
    path.mkdir(parents=True)
    mark(path)
    rows = {"touch": 1, str(path / "it-ran"): 2, "completion": "x"}
    (path / "rows.jsonl").write_text(json.dumps(rows) + "\n")
    (path / "code.py").write_text(CODE)
    function = request.param.replace("{folder}", str(path))
    (path / "config.yaml").write_text(CONFIG.replace("{function}", function))
    said = {"problems": ["Memory ran out."], "out_of_memory": True}
    events.append(path / "events.jsonl", "failed", step=1, **said)
    yield path
    shutil.rmtree(path)


def gets(run_id: str) -> list[str]:
    """Return every GET route for a run."""
    paths = [path for path, actions in ROUTES.items() if "GET" in actions]
    assert len(paths) >= 7, paths
    filled = [path.replace("runs/([^/]+)", f"runs/{run_id}") for path in paths]
    return [f"{path}?ids={run_id},{run_id}" if path == "compare" else path for path in filled]


def id_of(server, path: Path) -> str:
    (found,) = [one["id"] for one in server.ask("runs").body["runs"] if one["name"] == path.name]
    return found


def bounded(read):
    """Return a reader that fails if it is asked for all of a file, however large."""

    def read_some(reader, seconds=None):
        assert seconds is not None, "an answer waits for all events"
        return read(reader, seconds)

    return read_some


def test_no_route_that_looks_runs_or_plans_anything(server, harmful, monkeypatch):
    def refuse(*_, **__):
        pytest.fail("a look at a run made a plan")

    monkeypatch.setattr("nbft.plan.plan.make_plan", refuse)
    monkeypatch.setattr("nbft.runs.folder.StateReader.read", bounded(StateReader.read))
    monkeypatch.setattr("nbft.plan.fixes.make_plan", refuse)
    monkeypatch.setattr("nbft.data.examples.load_function", refuse)
    for path in gets(id_of(server, harmful)):
        assert server.ask(path).status in (200, 400), path
    assert not (harmful / "it-ran").exists()


def test_a_click_on_a_fix_asks_before_it_runs_code(server, harmful):
    fix = {"words": "batch 1", "changes": {"data.max_length": 64}, "memory_bytes": 2**20}
    said = {"problems": ["Memory ran out."], "out_of_memory": True, "fixes": [fix]}
    events.append(harmful / "events.jsonl", "failed", step=1, **said)
    answer = server.ask(f"runs/{id_of(server, harmful)}/retry", "POST", {"fix": 0})
    assert answer.status == 409
    said = ("which you have not allowed", "is part of Python", "there is no file")
    assert any(words in answer.body["message"] for words in said)
    assert not (harmful / "it-ran").exists()


def test_the_fixes_of_somebodys_failed_run_are_not_made_from_their_code(harmful):
    assert fixes_for_event(harmful) == [] or not (harmful / "it-ran").exists()


ODD = [
    '{"event": "log", "step": "7", "loss": "low"}\n{"event": 5}\n[]\n',
    '{"event": "failed", "problems": {"a": 1}, "out_of_memory": "yes", "fixes": 7}\n',
    '{"event": "prepared", "total_steps": null, "rows": [], "measures": [1, {"name": 2}]}\n' * 3,
    '{"event": "started", "time": "yesterday", "pid": -5, "process_start_time": "x"}\n',
    '{"event": "scores", "step": 1, "scores": {"a": "b"}, "verdicts": [1], "values": 3}\n',
    "\0\0\0\n",
    "{" * 5000 + "\n",
]


@pytest.mark.parametrize("text", ODD)
def test_one_odd_run_is_one_odd_line(server, text):
    path = server.root / "runs" / "odd-event-1"
    path.mkdir(parents=True)
    try:
        (path / "config.yaml").write_text("model: {model_name: smollm2-135m}\n")
        (path / "events.jsonl").write_text(text)
        listed = server.ask("runs")
        assert listed.status == 200
        assert "odd-event-1" in [run["name"] for run in listed.body["runs"]]
        for route in gets(id_of(server, path)):
            assert server.ask(route).status in (200, 400), route
    finally:
        shutil.rmtree(path)


def test_a_run_that_cannot_be_described_is_a_line_of_its_own(server, harmful, monkeypatch):
    from nbft.server import answers

    summary = answers.summary

    def broken(run):
        if run.path == harmful:
            raise TypeError("odd")
        return summary(run)

    monkeypatch.setattr(answers, "summary", broken)
    (found,) = [one for one in server.ask("runs").body["runs"] if one["name"] == "harmful"]
    assert found["problems"] == ["This run cannot be read (TypeError). Its files may be damaged."]
    assert found["status"] == "lost"
    assert found["allowed"] == []


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [x, x, x, x, x, x, x, x, x]\n"
        + "".join(
            f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join([f'*{chr(97 + n)}'] * 9)}]\n"
            for n in range(9)
        ),
        "model: {model_init_kwargs: {a: &a [1, 2, 3, 4, 5, 6, 7, 8]"
        + "".join(
            f", {new}: &{new} [{', '.join([f'*{old}'] * 9)}]"
            for old, new in ("ab", "bc", "cd", "de", "ef", "fg")
        )
        + "}}\n",
        "model: {model_init_kwargs: {a: &a [*a]}}\n",
        "model: " + "[" * 3000 + "\n",
    ],
    ids=["sections", "values", "itself", "deep"],
)
def test_a_config_that_grows_when_it_is_read_is_one_sentence(server, harmful, text):
    (harmful / "config.yaml").write_text(text)
    run_id = id_of(server, harmful)
    began = time.monotonic()
    answer = server.ask(f"runs/{run_id}")
    assert answer.status == 409, answer.body
    assert len(answer.body["message"]) < 2_000
    assert time.monotonic() - began < 20  # it would take minutes
    assert server.ask("runs").status == 200
