"""Grids, halving, the table and the supervisor of a race, without training."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import nbft
from nbft import events
from nbft.cli import app
from nbft.launchers import race_supervisor, racing
from nbft.runs.race import (
    MOST_CONTESTANTS,
    Entrant,
    Race,
    check_entrants,
    entrants,
    memory_bytes,
    rungs,
    sharing,
    verdicts,
)
from nbft.runs.race_record import read_record
from nbft.runs.state import RunState

RATE = "training.learning_rate"


@pytest.fixture
def config(tmp_path: Path) -> nbft.Config:
    return nbft.Config.preset("two-minute-try").apply({"training.output_dir": str(tmp_path)})


@pytest.fixture
def made(config: nbft.Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Race:
    """A race that was made, and not started."""
    monkeypatch.setattr(racing, "_start", lambda _: None)
    monkeypatch.setenv("NBFT_QUEUE", str(tmp_path / "queue"))
    return nbft.race(config, {RATE: [1e-4, 3e-4], "peft.r": [8, 32]}, keep="half")


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        (None, r"grid: names no setting to try. Write \{"),
        ({}, "grid: names no setting to try"),
        ({RATE: 1e-4}, r"training.learning_rate=0.0001: is not a list of values to try. Write"),
        ({RATE: "1e-4"}, "is not a list of values to try"),
        ({RATE: []}, "has no values to try"),
        ({RATE: [1e-4, 1e-4]}, "has a value twice"),
        ({"training.learning_rat": [1, 2]}, "is not a setting. Did you mean learning_rate"),
        ({RATE: [1e-4, "high"]}, r"training.learning_rate='high'"),
        ({"training.output_dir": ["a", "b"]}, "training.output_dir: is chosen by the race"),
        ({RATE: [1e-4]}, "grid: makes 1 contestant. A race has 2 to 64"),
        ({"training.seed": range(MOST_CONTESTANTS + 1)}, "grid: makes 65 contestants"),
    ],
)
def test_a_wrong_grid_is_refused_before_anything_is_made(config, tmp_path, grid, said):
    with pytest.raises(nbft.ConfigError, match=said):
        nbft.race(config, grid)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changes", "options", "said"),
    [
        ({}, {"keep": 2}, r"keep=2: .*from 1 to 1"),
        ({}, {"keep": "best"}, r"keep='best'"),
        ({}, {"keep": True}, r"keep=True"),
        ({}, {"steps_per_turn": 0}, "steps_per_turn=0: must be at least 1"),
        ({"tracking.report_to": ["tensorboard"]}, {}, "tracking.report_to=.*cannot be used"),
        ({"callbacks.callbacks": {"profiler": {}}}, {}, "profiler: cannot be used in a race"),
        ({"training.do_train": False}, {}, "leaves nothing to race"),
    ],
)
def test_what_cannot_race_is_refused(config, tmp_path, changes, options, said):
    with pytest.raises(nbft.ConfigError, match=said):
        nbft.race(config.apply(changes), {"peft.r": [8, 32]}, **options)
    assert list(tmp_path.iterdir()) == []


def test_a_race_that_does_not_fit_is_refused(config, monkeypatch):
    grid = {"training.seed": [1, 2, 3]}
    monkeypatch.setattr("nbft.runs.race.free_memory_bytes", lambda _: 2**20)
    with pytest.raises(nbft.ConfigError, match=r"race: needs about .* for 3 contestants"):
        nbft.race(config, grid)


def test_the_weights_are_counted_once(config):
    two = entrants(config, {"training.seed": [1, 2]})
    plans = check_entrants(two)
    one = memory_bytes(two[:1], plans[:1])
    assert one == plans[0].memory_bytes
    both, weights = memory_bytes(two, plans), plans[0].memory_parts["weights"]
    assert one < both < one + weights
    assert sharing(two) == 2
    full = [Entrant(each.config.apply({"peft.method": "full"}), {}) for each in two]
    of_full = check_entrants(full)
    assert sharing(full) == 0
    assert memory_bytes(full, of_full) > plans[0].memory_parts["weights"] + memory_bytes(
        full[:1], of_full[:1]
    )


def test_rungs():
    assert rungs(2, 1) == [0.5]
    assert rungs(8, 1) == [0.125, 0.25, 0.5]
    assert rungs(6, 2) == [0.25, 0.5]
    assert rungs(4, 4) == []


def of(**curves: list[float]) -> RunState:
    found = [{"event": "prepared", "total_steps": 60}]
    for step, loss in enumerate(curves["loss"], start=1):
        found.append({"event": "log", "step": step, "loss": loss})
    for step, loss in enumerate(curves.get("eval_loss", ()), start=1):
        found.append({"event": "eval", "step": step, "eval_loss": loss})
    return RunState(found)


def test_verdicts_by_the_held_out_loss():
    states = {
        "a": of(loss=[1.0], eval_loss=[2.0, 3.0]),
        "b": of(loss=[9.0], eval_loss=[4.0, 2.5]),
        "c": of(loss=[1.0], eval_loss=[float("nan")]),
    }
    said = verdicts(states, "eval_loss", 1)
    assert set(said) == {"c"}
    assert set(verdicts(dict(list(states.items())[:2]), "eval_loss", 1)) == {"a"}
    text = "Dropped from the race after step 2 of 60: held-out loss 3.00, place 2 of 2; the first 1"
    assert verdicts({n: states[n] for n in "ab"}, "eval_loss", 1)["a"].startswith(text)
    assert verdicts(states, "eval_loss", 3) == {}


def test_without_a_held_out_loss_of_all_the_training_loss_decides():
    states = {"a": of(loss=[1.0, 3.0]), "b": of(loss=[1.5, 1.6], eval_loss=[9.0])}
    said = verdicts(states, "eval_loss", 1)
    assert "training loss (mean of the last 10 logs) 2.00" in said["a"]


def test_what_is_made(made, tmp_path):
    assert [run.status for run in made.runs] == ["created"] * 4
    base = made.id.removesuffix("-race")
    assert [run.id for run in made.runs] == [f"{base}-{n}" for n in range(1, 5)]
    assert made.titles[f"{base}-2"] == "learning_rate 0.0001, r 32"
    record = read_record(made.path)
    assert (record["keep"], record["by"], record["shared"]) == (1, "eval_loss", 4)
    assert made.best is None
    assert "share one copy of the base model's weights" in made.headline
    assert nbft.Race(made.path).id == made.id
    with pytest.raises(nbft.RunError, match="is no race"):
        nbft.Race(made.runs[0].path)
    first = made.runs[0]
    with pytest.raises(nbft.RunError, match="has trained no step yet"):
        made.clone(first)


def test_the_table_is_sorted_and_shown(made):
    for n, run in enumerate(made.runs[:3]):
        events.append(run.events_path, "log", step=5, loss=3.0 - n)
        events.append(run.events_path, "eval", step=5, eval_loss=[2.0, 1.0, 1.5][n])
    names = [run.id for run in made.runs]
    table = made.table()
    assert [row.run for row in table] == [names[1], names[2], names[0], names[3]]
    assert [row.place for row in table] == [1, 2, 3, None]
    assert made.best.id == names[1]
    text = str(table)
    assert text.splitlines()[0].split()[:3] == ["place", "run", "settings"]
    assert "not measured yet" in text
    assert table._repr_html_().count('<th scope="row"') == 4


def test_the_supervisor_says_how_the_worker_ended(made):
    race_supervisor.supervise(made.path, [sys.executable, "-c", "raise SystemExit(3)"])
    for run in made.runs:
        assert run.status == "failed"
        assert run.problems == [
            "The worker ended by itself with exit code 3 after step 0. See log.txt."
        ]
    assert read_record(made.path)["is_over"]
    with pytest.raises(nbft.RunError, match="is over"):
        made.clone(made.runs[0])


def test_a_race_that_is_stopped_in_the_queue_leaves_it(made):
    made.stop()
    for run in made.runs:
        events.append(run.path / "commands.jsonl", "cancel")
    began = {run.path: 0 for run in made.runs}
    say_queued = race_supervisor.say_queued

    def from_the_beginning(run, device):
        say_queued(run, device)
        return events.EventReader(run / "commands.jsonl", began[run])

    race_supervisor.say_queued = from_the_beginning
    try:
        from nbft.queue import Ticket

        ahead = Ticket(read_record(made.path)["device"], made.path.parent)
        assert ahead.take() is None
        race_supervisor.supervise(made.path, ["false"])
        ahead.release()
    finally:
        race_supervisor.say_queued = say_queued
    assert {run.status for run in made.runs} == {"cancelled"}


def test_the_command_line(config, tmp_path, monkeypatch):
    monkeypatch.setattr(racing, "_start", lambda _: None)
    file = str(config.save(tmp_path / "config.yaml"))
    tried = ["--try", "training.learning_rate=1e-4,3e-4", "--try", "peft.r=8"]
    done = CliRunner().invoke(app, ["race", file, *tried, "--keep", "half"])
    assert done.exit_code == 0, done.output
    assert "learning_rate 0.0003, r 8" in done.output
    (record,) = tmp_path.glob("*-race/race.json")
    assert read_record(record.parent)["keep"] == 1
    done = CliRunner().invoke(app, ["race", file, "--try", "peft.r"])
    assert (done.exit_code, "has no values. Write SETTING=VALUE,VALUE." in done.output) == (2, True)
