"""Trackers themselves, offline: their files hold the numbers of the run."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys

import pytest
import wandb

import nbft


def logged(run, name="loss"):
    return {e["step"]: e[name] for e in run.events() if e["event"] == "log"}


def held_out(run):
    return [e["eval_loss"] for e in run.events() if e["event"] == "eval"]


TRACKED = {
    "tracking__project": "mine",
    "tracking__tags": ["a", "b"],
    "training__run_name": "first",
    "training__max_steps": 3,
    "evaluation__sample_count": 0,
}


@pytest.fixture
def tracked(train):
    """Return a function that trains three steps with a tracker."""

    def run(tracker):
        done = train(tracking__report_to=[tracker], **TRACKED)
        assert done.status == "completed", done.problems
        assert len(logged(done)) == 3
        return done

    return run


def test_tensorboard_files_hold_the_losses(tracked):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = tracked("tensorboard")
    (file,) = run.path.rglob("events.out.tfevents.*")
    found = EventAccumulator(str(file.parent)).Reload()
    for tag, name in (("train/loss", "loss"), ("train/learning_rate", "learning_rate")):
        written = {scalar.step: scalar.value for scalar in found.Scalars(tag)}
        assert written == pytest.approx(logged(run, name), rel=1e-6)
    measured = [scalar.value for scalar in found.Scalars("eval/loss")]
    assert measured == pytest.approx(held_out(run), rel=1e-6)


def test_trackio_keeps_the_losses_in_its_table(make_config, rows, tmp_path):
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    config = make_config(tracking__report_to=["trackio"], **TRACKED)
    config.data.train.datasets[0].rows = None
    config = config.apply({"data.train.datasets[0].path": str(tmp_path / "rows.jsonl")})
    config.save(tmp_path / "config.yaml")
    # It looks for its folder once, when it is imported.
    subprocess.run(
        [sys.executable, "-m", "nbft.cli", "train", str(tmp_path / "config.yaml")],
        env=os.environ | {"TRACKIO_DIR": str(tmp_path / "trackio")},
        check=True,
        capture_output=True,
    )
    (run,) = nbft.list_runs(tmp_path / "runs")
    with sqlite3.connect(tmp_path / "trackio" / "mine.db") as table:
        found = table.execute("select run_name, step, metrics from metrics order by id").fetchall()
    assert {name for name, *_ in found} == {"first"}
    written = [(step, json.loads(metrics)) for _, step, metrics in found]
    losses = {step: metrics["train/loss"] for step, metrics in written if "train/loss" in metrics}
    assert losses == pytest.approx(logged(run))


def test_wandb_writes_the_losses_to_its_file(tracked, tmp_path, monkeypatch):
    for name, value in (("MODE", "offline"), ("DIR", str(tmp_path)), ("SILENT", "true")):
        monkeypatch.setenv(f"WANDB_{name}", value)
    seen = {}
    log = wandb.sdk.wandb_run.Run.log

    def logging(self, data, *args, **kwargs):
        seen.update(project=self.project, tags=self.tags, name=self.name)
        return log(self, data, *args, **kwargs)

    monkeypatch.setattr(wandb.sdk.wandb_run.Run, "log", logging)
    run = tracked("wandb")
    wandb.finish()
    wandb.teardown()  # its own process writes the end of the file when it ends
    (file,) = tmp_path.rglob("offline-run-*/run-*.wandb")
    written = file.read_bytes()
    for loss in logged(run).values():
        assert json.dumps(loss).encode() in written
    assert seen == {"project": "mine", "tags": ("a", "b"), "name": "first"}
