"""The state of a run: what it says of well-formed events, and that no line breaks it."""

from __future__ import annotations

import json
import math
import os
import random
import subprocess
import sys
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from pydantic_core import to_json

from nbft import charts, cli, events
from nbft.charts import LOSS, STANDARD, other_charts
from nbft.config import Config
from nbft.launchers import supervisor
from nbft.pages import report
from nbft.processes import process_start_time
from nbft.runs import Run, progress
from nbft.runs.state import RunState, StateReader, read_state
from nbft.runs.summary import summary
from nbft.server import answers
from nbft.training import failure
from nbft.training.callbacks.reporting import ReportingCallback
from nbft.training.callbacks.scoring import ScoringCallback
from nbft.widgets.monitor import Monitor


def log(step: int, **fields: Any) -> dict[str, Any]:
    return {"event": "log", "time": 1.0, "step": step, **fields}


def me() -> dict[str, Any]:
    return {"pid": os.getpid(), "process_start_time": process_start_time(os.getpid())}


def dead() -> dict[str, Any]:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    about = {"pid": process.pid, "process_start_time": process_start_time(process.pid)}
    process.kill()
    process.wait()
    return about


ON_CLUSTER = {"event": "queued", "cluster": "slurm"}


def write(path: Path, *found: dict[str, Any]) -> None:
    with path.open("a") as file:
        file.writelines(json.dumps(one) + "\n" for one in found)


def test_every_number_that_is_logged_is_a_curve() -> None:
    state = RunState(
        [
            log(1, loss=2.0, **{"rewards/chosen": 0.1}, note="x", flag=True),
            log(2, loss=1.0, **{"rewards/chosen": 0.3}),
            {"event": "eval", "step": 2, "eval_loss": 1.5},
        ]
    )
    assert set(state.curves) == {"loss", "rewards/chosen", "eval_loss"}
    assert list(state.curve("rewards/chosen").values) == [0.1, 0.3]
    assert state.rows(LOSS) == [(1, 2.0, None), (2, 1.0, 1.5)]
    assert [chart.title for chart in other_charts(state.curves)] == ["rewards"]


def test_a_note_that_is_answered_says_since_when() -> None:
    flat = {"event": "note", "kind": "flat", "text": "flat", "changes": {"training.seed": 1}}
    state = RunState([{**flat, "step": 5}, {"event": "note", "step": 5, "text": "other"}])
    assert state.notes[0] == ("flat", 5, "flat", {"training.seed": 1}, None)
    state.take({"event": "answered", "step": 9, "kind": "flat"})
    assert [note.answered_step for note in state.notes] == [9, None]
    assert state.changed["notes"] == state.taken
    state.take({**flat, "step": 12})
    assert [note.answered_step for note in state.notes] == [9, None, None]
    state.take({"event": "prepared", "resumed_step": 6})
    assert [note.answered_step for note in state.notes] == [None, None]


def test_what_a_resumed_run_does_again_replaces_the_earlier() -> None:
    state = RunState([log(step, loss=float(step)) for step in range(1, 9)])
    for event in (
        {"event": "note", "step": 7, "text": "gone"},
        {"event": "warning", "text": "stays"},
        {"event": "sample", "step": 8, "samples": [{"prompt": "p", "text": "gone"}]},
        {"event": "scores", "step": 3, "scores": {"rougeL": 0.5}},
        {"event": "eval", "step": 8, "eval_loss": 9.0},
        {"event": "prepared", "resumed_step": 4, "total_steps": 20},
    ):
        state.take(event)
    assert (state.step, state.total_steps) == (4, 20)
    assert list(state.curve("loss").steps) == [1, 2, 3, 4]
    assert [note.text for note in state.notes] == ["stays"]
    assert (len(state.samples), len(state.scored)) == (0, 1)
    assert state.eval_loss is None
    state.take(log(5, loss=0.5))
    assert state.rows(LOSS)[-1] == (5, 0.5, None)


def test_only_what_is_new_is_given() -> None:
    state = RunState([log(1, loss=2.0), log(2, loss=1.5)])
    before = state.taken
    assert state.rows(LOSS, before) == []
    state.take({"event": "eval", "step": 2, "eval_loss": 1.7})
    assert state.rows(LOSS, before) == [(2, 1.5, 1.7)]  # the row as a whole
    state.take(log(3, loss=1.0))
    assert state.rows(LOSS, before) == [(2, 1.5, 1.7), (3, 1.0, None)]
    assert state.rows(LOSS, until=2) == [(1, 2.0, None), (2, 1.5, None)]


def test_held_out_rows_have_the_later_colour_in_every_chart() -> None:
    (chart,) = other_charts(["eval_mean_token_accuracy", "mean_token_accuracy"])
    assert chart.names == ["mean_token_accuracy", "eval_mean_token_accuracy"]
    assert LOSS.names == ["loss", "eval_loss"]


def test_other_measures_are_kept_in_few_points() -> None:
    state = RunState(measures={"loss"}, most_other_points=10)
    shown: list[tuple[float, ...]] = []
    (chart,) = other_charts(["rewards/chosen"])
    for step in range(1, 101):
        before = state.taken
        state.take(log(step, loss=1.0, **{"rewards/chosen": float(step)}))
        new = state.rows(chart, before if state.rewritten <= before else 0)
        if state.rewritten > before:
            shown = []
        shown = [row for row in shown if not new or row[0] < new[0][0]] + new
        assert shown == state.rows(chart)
    steps = list(state.curve("rewards/chosen").steps)
    assert steps == [1, 17, 33, 49, 65, 81, 97]
    assert len(state.curve("loss")) == 100
    for step in range(100, 0, -1):
        state.take(log(step, **{"rewards/chosen": 0.0}))
    assert len(state.curve("rewards/chosen")) < 10
    state.take(log(101, **{f"measure {i}": 1.0 for i in range(1_000)}))
    assert len(state.curves) == 100


def as_values(state: RunState) -> dict[str, Any]:
    """Return everything that a state says, for comparison."""
    curves = {
        name: [curve.steps.tolist(), list(map(str, curve.values)), curve._events.tolist()]
        for name, curve in state.curves.items()
    }
    said = ("step", "log", "stage", "taken", "rewritten", "began", "counts", "eval_loss", "changed")
    return {
        "curves": curves,
        "order": list(curves),
        **{name: getattr(state, name) for name in said},
    }


ODD_LOGS: list[dict[str, Any]] = [
    {},
    {"loss": "NaN"},
    {"loss": None},
    {"loss": True},
    {"loss": 10**400},
    {"loss": 2**60},
    {"loss": "low"},
    {"tokens": -1},
    {"tokens": 3.0},
    {"pid": 7, "process_start_time": 1.0},
    {"step": "7"},
    {"step": 2.0},
    {"step": -3},
    {"step": None},
    {"event": "log", "note": "text"},
    {"other": [1, 2]},
    {"text": "\ud800"},
]


@pytest.mark.parametrize(
    "kept", [{}, {"measures": {"loss"}, "most_other_points": 16}, {"measures": {}}]
)
@pytest.mark.parametrize("seed", range(6))
def test_many_logs_at_once_are_as_one_by_one(
    tmp_path: Path, seed: int, kept: dict[str, Any]
) -> None:
    chance = random.Random(seed)
    found, step = [], 0
    for _ in range(30):
        shape = {name: chance.random() for name in chance.sample(("loss", "a", "b", "c"), 3)}
        for _ in range(chance.choice((1, 5, 25, 60))):
            step += chance.choice((1, 1, 1, 1, 2)) if seed else 1
            if seed > 2 and chance.random() < 0.01:
                step = max(0, step - chance.randrange(20))
            odd = chance.choice(ODD_LOGS) if seed > 1 and chance.random() < 0.01 else {}
            found.append({**log(step, **shape, tokens=step), **odd})
        if chance.random() < 0.4:
            found.append({"event": "eval", "step": step, "eval_loss": chance.random()})
        if chance.random() < 0.1:
            found.append({"event": "prepared", "resumed_step": max(0, step - 10)})
    path = tmp_path / "events.jsonl"
    path.write_text("".join(json.dumps(event) + "\n" for event in found))
    reader = StateReader(path, **kept)
    reader.read()
    assert as_values(reader.state) == as_values(RunState(events.read(path), **kept))


def test_a_long_run_is_read_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "events.jsonl"
    write(path, *(log(step, loss=1.0) for step in range(500)))
    monkeypatch.setattr(RunState, "take", lambda *_: pytest.fail("one by one"))
    assert len(read_state(path).curve("loss")) == 500


def test_a_step_out_of_order_makes_everything_new() -> None:
    state = RunState([log(step, loss=float(step)) for step in (1, 5, 9)])
    before = state.taken
    assert state.rewritten <= before
    state.take(log(3, loss=3.0))
    assert state.rewritten > before
    assert [step for step, *_ in state.rows(LOSS)] == [1, 3, 5, 9]
    before = state.taken
    state.take(log(5, loss=0.5))
    assert state.rewritten > before
    assert state.rows(LOSS)[2] == (5, 0.5, None)


@pytest.mark.parametrize(
    ("found", "status"),
    [
        ([], "created"),
        ([{"event": "queued", **me()}], "queued"),
        ([{"event": "queued", **me()}, {"event": "started", **dead()}], "running"),
        ([{"event": "queued", **dead()}, {"event": "started", **me()}], "running"),
        ([{"event": "started", **dead()}], "lost"),
        ([{"event": "started", **me()}, {"event": "paused", "released": False}], "paused"),
        ([{"event": "started", **dead()}, {"event": "paused", "released": False}], "lost"),
        ([{"event": "started", **dead()}, {"event": "paused", "released": True}], "paused"),
        ([{"event": "started", **me()}, {"event": "paused"}, {"event": "continued"}], "running"),
        ([{"event": "started", **me()}, {"event": "failed"}], "failed"),
        ([{"event": "stopped"}, {"event": "started", **me()}], "running"),
        ([{"event": "stopped"}, {"event": "started"}], "lost"),
        ([{"event": "started", **me(), "pid": "me"}], "lost"),
        ([ON_CLUSTER], "queued"),
        ([ON_CLUSTER, {"event": "cancelled", **dead()}], "queued"),  # of the job before
        ([ON_CLUSTER, {"event": "paused", "released": True, **dead()}], "queued"),
        ([ON_CLUSTER, {"event": "cancelled"}], "cancelled"),
    ],
)
def test_status(found: list[dict[str, Any]], status: str) -> None:
    assert RunState(map(events.checked, found)).status == status


def test_a_worker_with_the_number_of_an_earlier_one_has_not_ended() -> None:
    earlier = [{"event": "started", "pid": 7}, {"event": "paused", "released": True}]
    assert supervisor._has_ended(earlier, 7)
    assert not supervisor._has_ended([*earlier, {"event": "started", "pid": 7}], 7)
    assert not supervisor._has_ended(earlier, 8)


def test_a_reader_reads_what_is_new_and_notices_another_file(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    reader = StateReader(path)
    assert not reader.read()
    write(path, log(1, loss=2.0))
    assert reader.read()
    assert not reader.read()
    with path.open("a") as file:
        file.write('{"event": "log", "st')
    assert not reader.read()
    with path.open("a") as file:
        file.write('ep": 2, "loss": 1}\n')
    assert reader.read()
    assert reader.state.step == 2
    path.write_text("")
    reader.read()
    assert (reader.state.step, reader.generation) == (0, 1)
    path.unlink()
    reader.read()
    assert reader.state.status == "created"


def test_a_reader_notices_a_larger_file_with_the_same_inode(tmp_path: Path) -> None:
    """An inode that a deleted run had is given to the next file."""
    path = tmp_path / "events.jsonl"
    write(path, log(1, loss=2.0), log(2, loss=2.0))
    reader = StateReader(path)
    reader.read()
    inode = path.stat().st_ino
    path.write_text("")
    write(path, log(1, loss=3.0), log(2, loss=3.0), log(3, loss=3.0))
    assert path.stat().st_ino == inode
    assert reader.read()
    assert reader.generation == 1
    assert list(reader.state.curves["loss"].values) == [3.0] * 3


def test_a_look_costs_as_much_as_is_new(tmp_path: Path, cpu_seconds: Callable[..., float]) -> None:
    path = tmp_path / "events.jsonl"
    line = '{"event": "log", "time": 1.0, "step": %d, "loss": 1.5, "learning_rate": 0.0002}\n'
    path.write_text("".join(line % step for step in range(1, 50_001)))
    reader = StateReader(path)

    whole = cpu_seconds(reader.read)
    taken = reader.state.taken
    with path.open("a") as file:
        file.write(line % 50_001)
    assert cpu_seconds(lambda: (reader.read(), reader.state.rows(LOSS, taken))) < whole / 50


# Lines that no worker writes.

HOSTILE = """{"event": "log", "step": "7", "loss": "low"}
{"event": 5}
[]
{"event": []}
{"event": {}}
{"event": null, "time": 1}
{"event": "log", "loss": {"a": 1}, "step": 1, "learning_rate": [1], "seconds_left": "soon"}
{"event": "log", "step": 3, "loss": NaN, "grad_norm": 1e999, "tokens_per_second": -Infinity}
{"event": "log", "step": -4, "loss": 1}
{"event": "log", "step": 1e300, "loss": 1e308}
{"event": "log", "step": BIG, "loss": BIG, "memory_bytes": "Infinity"}
{"event": "log", "step": 2, "loss": true, "seconds_left": "NaN", "epoch": null}
{"event": "log", "step": 4, "loss": 1.5, "x": {"deep": DEEP}}
{"event": "failed", "problems": "a sentence", "step": "1", "seconds": "2"}
{"event": "failed", "problems": {"a": 1}}
{"event": "failed", "problems": [1, null, "\\ud800 half"], "out_of_memory": "yes"}
{"event": "started", "pid": "1", "process_start_time": []}
{"event": "started", "pid": 0.5, "versions": ["torch"], "model": 7}
{"event": "prepared", "resumed_step": null, "total_steps": "94", "rows": {}, "tokens": -1}
{"event": "prepared", "resumed_step": [1], "device": 3, "total_parameters": 0}
{"event": "eval", "step": 5, "eval_loss": "NaN"}
{"event": "eval", "eval_loss": "text"}
{"event": "sample", "step": 0, "samples": "none"}
{"event": "sample", "step": 0, "samples": [1, {"prompt": 1, "text": "a"}, {"prompt": "p"}]}
{"event": "sample", "samples": [{"prompt": "p", "text": "no step"}]}
{"event": "sample", "step": 2, "samples": [{"prompt": "p\\udfff", "text": "\\ud83d"}]}
{"event": "scores", "step": 0, "scores": {"exact_match": NaN, "rougeL": "low"}, "rows": "many"}
{"event": "scores", "step": 0, "scores": {"exact_match": 1e308}, "values": {"exact_match": [1, "a"]}}
{"event": "scores", "step": 2, "scores": {"exact_match": -1e308}, "values": {"exact_match": [1, 2]}}
{"event": "scores", "step": 3, "scores": [1], "verdicts": "better", "split": 5}
{"event": "scores", "step": 4, "scores": {"\\ud800": 1}, "verdicts": {"\\ud800": 2}, "split": null}
{"event": "note", "text": 5, "step": 1}
{"event": "note", "text": "no step", "step": {}}
{"event": "warning"}
{"event": "stage", "text": ["a"]}
{"event": "command", "text": {}}
{"event": "checkpoint", "path": 5}
{"event": "paused", "text": 1, "released": "perhaps"}
{"event": "continued", "time": "now"}
{"event": "completed", "seconds": "NaN", "adapter": {}, "time": {}}
{"event": "", "step": 1}
{"event": "log", "time": 1, "step":
\x00
"""
HOSTILE = HOSTILE.replace("BIG", "9" * 400).replace("DEEP", "[" * 40 + "]" * 40)
HOSTILE += (
    '{"event": "log", "step": 1, "scores": ' + '{"scores": ' * 5_000 + "1" + "}" * 5_001 + "\n"
)


def odd_lines(seed: int, lines: int) -> str:
    """Return lines made by chance of the kinds and fields that there are, and of odd values."""
    chance = random.Random(seed)
    names = " ".join(events.KINDS.values()).replace(":", " ").replace(",", " ").split()
    names += [
        "scores",
        "samples",
        "values",
        "verdicts",
        "eval_loss",
        "loss",
        "resumed_step",
        "time",
    ]

    def value(depth: int) -> Any:
        kinds: list[Callable[[], Any]] = [
            lambda: chance.choice(
                [None, True, False, "", "NaN", "-Infinity", "7", "\ud800", "<b>"]
            ),
            lambda: chance.choice([0, 1, -1, 7, 10**18, 10**30, 2**53]),
            lambda: chance.choice([0.5, -0.0, 1e308, 1e-308, math.nan, math.inf, 3.0]),
            lambda: {"prompt": value(depth + 1), "text": value(depth + 1)},
            lambda: [value(depth + 1) for _ in range(chance.randrange(4))],
            lambda: {chance.choice(names): value(depth + 1) for _ in range(chance.randrange(4))},
        ]
        return chance.choice(kinds[:3] if depth > 3 else kinds)()

    def line() -> str:
        event = {"event": chance.choice([*events.KINDS, value(0)])}
        event |= {chance.choice(names): value(0) for _ in range(chance.randrange(8))}
        if chance.random() < 0.5:
            event["step"] = chance.randrange(100)
        text = json.dumps(event)
        return text[: chance.randrange(len(text))] if chance.random() < 0.05 else text

    return "".join(line() + "\n" for _ in range(lines))


def odd_run(folder: Path, text: str, name: str = "odd") -> Run:
    path = folder / name
    path.mkdir()
    Config(model={"model_name": "smollm2-135m"}, data={"path": "/a.jsonl"}).save(
        path / "config.yaml"
    )
    (path / "events.jsonl").write_text(text)
    return Run(path)


class Served:
    """What the routes ask of the server's folders."""

    def __init__(self, *found: Run) -> None:
        self.top = found[0].path.parent
        self.found = {run.id: run for run in found}

    def look(self) -> tuple[dict[str, Run], dict[str, Any]]:
        return self.found, {}

    def find(self, run_id: str) -> Run:
        return self.found[run_id]


def look_everywhere(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    """Show a run in every way that there is."""
    state = run.state
    for spec in (*STANDARD, *other_charts(state.curves)):
        state.rows(spec)
    for words in (progress.headline, progress.numbers, progress.held_out, progress.answers):
        str(words(state))
    assert run.status in ("created", "queued", "running", "paused", "lost", *events.FINAL_KINDS)
    assert run.step >= 0
    assert all(isinstance(problem, str) for problem in run.problems)
    assert isinstance(run.is_background, bool)
    str(run.scores())
    run.scores()._repr_html_()
    run.curves().savefig(os.devnull, format="png")
    served: Any = Served(run)
    for answer in (
        summary(run),
        answers.list_runs(served),
        answers.describe(served, run.id, run),
        answers.details(served, run.id),
        answers.state(served, run.id, ""),
        answers.events(served, run.id, 0),
    ):
        to_json(answer, inf_nan_mode="strings")
    monitor = Monitor(run)
    for place in range(6):
        monitor._built._tab.selected_index = place
        monitor.update()
    repr(monitor)
    monitor._outcome()
    monitor._words().encode()
    lines = cli._Progress()
    for event in run.events():
        lines.show(event)
    assert not lines._has_failed
    cli._about(run)
    assert run.report().read_text()
    capsys.readouterr()


def test_lines_that_no_worker_writes_break_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = HOSTILE.splitlines(keepends=True)
    look_everywhere(odd_run(tmp_path, HOSTILE), capsys)
    # Each line alone as well: a later one may hide what an earlier did.
    for number, line in enumerate(lines):
        state = read_state(odd_run(tmp_path, line, f"odd-{number}").events_path)
        assert progress.headline(state)
    found = odd_run(tmp_path, "".join(lines[:3]), "given")
    assert (summary(found)["step"], summary(found)["loss"]) == (0, None)


@pytest.mark.parametrize("seed", range(6))
def test_lines_made_by_chance_break_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], seed: int
) -> None:
    look_everywhere(odd_run(tmp_path, odd_lines(seed, 400)), capsys)


EACH_KIND: list[dict[str, Any]] = [
    json.loads(line)
    for line in """
{"event": "queued", "pid": 1, "process_start_time": 1, "device": "cpu", "commands_bytes": 0}
{"event": "started", "pid": 1, "process_start_time": 1, "seed": 42, "model": "m", "tags": ["a"], "versions": {"torch": "2"}}
{"event": "stage", "stage": "starting", "text": "Loading …", "pid": 1, "process_start_time": 1}
{"event": "sample", "step": 0, "samples": [{"prompt": "p", "text": "a"}]}
{"event": "scores", "step": 0, "split": "validation", "rows": 2, "max_new_tokens": 8, "scores": {"exact_match": 0}, "values": {"exact_match": [0, 0]}, "seconds": 1}
{"event": "prepared", "device": "cpu", "device_reason": "it is there", "dtype": "float32", "dtype_reason": "as asked", "mixed_precision": "no", "model_source": "folder", "rows": 300, "eval_rows": 30, "tokens": 9000, "longest": 99, "trained_tokens": 500, "total_steps": 40, "warmup_steps": 4, "resumed_step": 0, "trainable_parameters": 10, "total_parameters": 100, "measures": [{"name": "rewards", "label": "Rewards", "chart": "Rewards", "better": "up"}]}
{"event": "log", "step": 1, "epoch": 0.1, "loss": 2.0, "learning_rate": 1e-4, "grad_norm": 1.0, "tokens_per_second": 9.0, "memory_bytes": 1e9, "seconds_left": 3.0, "rewards": 1.0}
{"event": "eval", "step": 1, "epoch": 0.1, "eval_loss": 2.5}
{"event": "completions", "step": 1, "completions": [{"prompt": "p", "completion": "a", "tokens": 3, "is_cut": false, "rewards": {"length": 0.5}, "reward": 0.5, "advantage": 0.1}]}
{"event": "checkpoint", "step": 1, "path": "checkpoints/checkpoint-1"}
{"event": "command", "command": "sample", "step": 1, "text": "Answering the prompts."}
{"event": "sample", "step": 1, "samples": [{"prompt": "p", "text": "b"}]}
{"event": "scores", "step": 1, "split": "validation", "rows": 2, "max_new_tokens": 8, "scores": {"exact_match": 1}, "values": {"exact_match": [1, 1]}, "seconds": 1, "verdicts": {"exact_match": "better"}}
{"event": "note", "step": 1, "text": "The loss is flat.", "kind": "flat", "changes": {"training.learning_rate": 1e-3}}
{"event": "answered", "step": 1, "kind": "flat"}
{"event": "warning", "text": "3 rows were cut."}
{"event": "paused", "step": 1, "released": false, "text": "The disk is full."}
{"event": "continued", "step": 1}
{"event": "failed", "step": 1, "seconds": 9, "error": "E", "out_of_memory": false, "problems": ["Why."], "log": "line", "exit_code": 1, "signal": null}
{"event": "cancelled", "step": 1, "seconds": 9, "text": "Left the queue."}
{"event": "stopped", "step": 1, "seconds": 9, "adapter": "adapter"}
{"event": "completed", "step": 1, "seconds": 9, "adapter": "adapter"}
""".strip().splitlines()
]
"""Events as a worker writes them, with every field of each kind."""


def test_every_kind_of_event_is_there() -> None:
    assert {event["event"] for event in EACH_KIND} == {*events.KINDS}


def read_as_a_worker(run: Run) -> None:
    """Read a run as the worker and the supervisor of another attempt do."""
    failure.failure(MemoryError("none left"), run.path)
    failure.last_step(run.events_path)
    supervisor._has_ended(run.events(), 1)
    events.current(run.events())
    reporting = ReportingCallback(run.path, "cpu", lambda _: [])
    scoring = ScoringCallback(run.config, [], None, reporting)
    scorer: Any = types.SimpleNamespace(split="validation", asked={"rows": 4})
    scoring._scorers = [scorer]
    scoring._score = lambda *_: None  # type: ignore[method-assign]
    hook = types.SimpleNamespace(remove=lambda: None)
    embeddings = types.SimpleNamespace(register_forward_pre_hook=lambda _: hook)
    model = types.SimpleNamespace(get_input_embeddings=lambda: embeddings)
    scoring.before(model, run.events())


@pytest.mark.parametrize("is_none", [False, True], ids=["absent", "null"])
@pytest.mark.parametrize(
    ("at", "field"),
    [
        pytest.param(at, name, id=f"{event['event']}-{at}-{name}")
        for at, event in enumerate(EACH_KIND)
        for name in ("time", *event)
        if name != "event"
    ],
)
def test_any_field_may_be_missing(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    at: int,
    field: str,
    is_none: bool,
) -> None:
    """Rows that are streamed have no number, and a later version may leave out others."""
    found = [{"time": 1.0, **event} for event in EACH_KIND]
    found[at].pop(field)
    if is_none:
        found[at][field] = None
    # The last event hides the others that end a run.
    kept = [e for n, e in enumerate(found) if n == at or e["event"] not in events.FINAL_KINDS]
    if kept[-1]["event"] not in events.FINAL_KINDS:
        kept.append(found[-1])
    for place in ((Figure, "savefig"), (charts, "png"), (report, "draw_curves")):
        monkeypatch.setattr(*place, lambda *_, **__: b"")  # pixels take the longest
    run = odd_run(tmp_path, "".join(json.dumps(event) + "\n" for event in kept))
    look_everywhere(run, capsys)
    read_as_a_worker(run)


def test_streamed_rows_are_described(tmp_path: Path) -> None:
    found = [{"event": "prepared", "rows": None, "tokens": None, "device": "cpu", "eval_rows": 3}]
    run = odd_run(tmp_path, "".join(json.dumps(event) + "\n" for event in found))
    assert "Streamed rows; 3 held out." in run.report().read_text()


@pytest.mark.parametrize("seed", range(60))
def test_every_look_agrees_with_one_look(tmp_path: Path, seed: int) -> None:
    text = odd_lines(seed + 100, 120)
    run = odd_run(tmp_path, "")
    reader = StateReader(run.events_path)
    lines = text.splitlines(keepends=True)
    for begin in range(0, len(lines), 7):
        with run.events_path.open("a") as file:
            file.writelines(lines[begin : begin + 7])
        reader.read()
    once = read_state(run.events_path)
    assert repr(reader.state.rows(LOSS)) == repr(once.rows(LOSS))  # repr: NaN equals NaN
    assert (reader.state.status, reader.state.step) == (once.status, once.step)
    assert reader.state.counts == once.counts
    few = summary(run)
    assert (few["status"], few["step"]) == (once.status, once.step)


def test_a_measure_is_drawn_as_its_method_declares_it():
    declared = [
        {"name": "rewards/margins", "label": "margin", "chart": "preference", "better": "higher"},
        {"name": "kl", "label": "distance", "chart": "preference", "better": ""},
        "no record",
    ]
    state = RunState(
        [
            {"event": "prepared", "time": 1.0, "measures": declared},
            {"event": "log", "time": 2.0, "step": 1, "rewards/margins": 0.5, "kl": 0.1, "odd": 1.0},
            {"event": "eval", "time": 3.0, "step": 1, "eval_rewards/margins": 0.4},
        ]
    )
    charts = other_charts(state.curves, state.measures)
    assert [(chart.title, [curve.label for curve in chart.curves]) for chart in charts] == [
        ("preference", ["margin", "distance", "margin, held-out"]),
        ("odd", ["odd"]),
    ]
    assert RunState([{"event": "prepared", "time": 1.0, "measures": 3}]).measures == []


def test_the_time_left_counts_down(monkeypatch: pytest.MonkeyPatch) -> None:
    state = RunState([{"event": "started", **me()}])
    assert state.seconds_left is None
    now = time.time()
    state.take({"event": "stage", "time": now, "text": "Loading …", "seconds_left": 60.0})
    monkeypatch.setattr(time, "time", lambda: now + 15)
    assert state.seconds_left == pytest.approx(45)
    state.take({"event": "log", "time": now + 10, "step": 1, "seconds_left": 30.0})
    assert state.seconds_left == pytest.approx(25)
    state.take({"event": "stage", "time": now + 12, "text": "Scoring …", "seconds_left": 20.0})
    assert state.seconds_left == pytest.approx(17)
    monkeypatch.setattr(time, "time", lambda: now + 40)
    assert state.seconds_left is None  # it takes longer than expected: never "0 s left"
    monkeypatch.setattr(time, "time", lambda: now + 15)
    state.take({"event": "paused", "step": 1})
    assert state.seconds_left is None
    state.take({"event": "continued", "step": 1})
    state.take({"event": "completed", "step": 1})
    assert state.seconds_left is None
    state.take({"event": "started", "time": now + 14, **me()})
    assert state.seconds_left is None  # what is known is of the first attempt


def test_an_estimate_that_is_no_number_is_none() -> None:
    state = RunState([log(1, seconds_left=math.nan)])
    assert state.seconds_left is None
    assert RunState([log(1, seconds_left=math.inf)]).seconds_left is None
    of_an_old_run = {"event": "log", "step": 1, "seconds_left": 12.0}
    assert RunState([of_an_old_run]).seconds_left == 12.0


@pytest.mark.parametrize("kept", [{}, {"most_points": 10}])
def test_a_stage_ends_with_its_result(tmp_path: Path, kept: dict[str, int]) -> None:
    reader = StateReader(tmp_path / "events.jsonl", **kept)

    def stage_after(*more: dict[str, Any]) -> str:
        write(reader.path, *more)
        reader.read()
        return reader.state.stage

    start = ({"event": "started", **me()}, {"event": "stage", "text": "Loading …"})
    assert stage_after(*start) == "Loading …"
    assert stage_after({"event": "sample", "step": 0, "samples": []}) == "Loading …"
    assert stage_after({"event": "prepared", "total_steps": 9}) == ""
    results = (
        {"event": "eval", "step": 1, "eval_loss": 1.0},
        {"event": "scores", "step": 1, "scores": {"a": 1.0}},
        {"event": "sample", "step": 1, "samples": []},
        {"event": "checkpoint", "step": 1, "path": "a"},
        log(2, loss=1.0),
    )
    for result in results:
        assert stage_after({"event": "stage", "text": "Working …"}) == "Working …"
        assert stage_after(result) == ""


@pytest.mark.parametrize(
    ("found", "is_before"),
    [
        ([{"event": "stage", "step": 0, "text": "Loading …"}], True),
        ([{"event": "stage", "text": "Loading …"}], True),
        ([{"event": "prepared"}, {"event": "stage", "step": 0, "text": "Evaluating …"}], True),
        ([{"event": "prepared"}], False),
        ([{"event": "prepared"}, log(2), {"event": "stage", "step": 2, "text": "Saving …"}], False),
        ([{"event": "prepared"}, {"event": "stage", "step": 2, "text": "Evaluating …"}], False),
        (
            [
                {"event": "prepared", "resumed_step": 5},
                {"event": "stage", "step": 5, "text": "Evaluating …"},
            ],
            True,
        ),
    ],
)
def test_whether_a_step_was_made(found: list[dict[str, Any]], is_before: bool) -> None:
    assert RunState([{"event": "started", **me()}, *found]).is_before_first_step == is_before
