"""What is a run, and what Delete removes."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest

from nbft import events
from nbft.config import Config
from nbft.errors import RunError
from nbft.runs import Run, attach, list_runs
from nbft.runs import folder as runs_folder
from nbft.runs.mark import MARK, is_marked, is_run, mark


@pytest.fixture
def run(tmp_path):
    """A run that is over."""
    path = tmp_path / "runs" / "kind-otter-1"
    path.mkdir(parents=True)
    mark(path)
    Config().save(path / "config.yaml", full=True)
    events.append(path / "events.jsonl", "completed", step=1, seconds=1)
    return Run(path)


def of_another_tool(folder: Path, text: str) -> Path:
    (folder / "weights").mkdir(parents=True)
    (folder / "weights" / "best.txt").write_text("somebody else's result")
    (folder / "config.yaml").write_text(text)
    return folder


@pytest.mark.parametrize(
    "text",
    ["epochs: 3\nimgsz: 640\n", "model: {name: a}\ntraining: {x: 1}\n", "", "- 1\n", "[", "a"],
)
def test_a_folder_of_another_tool_is_no_run(run, text):
    theirs = of_another_tool(run.path.parent / "yolo-exp7", text)
    assert not is_run(theirs)
    assert [one.id for one in list_runs(run.path.parent)] == ["kind-otter-1"]
    for use in (Run, attach):
        with pytest.raises(RunError):
            use(theirs)


def test_a_folder_with_events_and_our_sections_is_listed_and_not_deleted(run):
    (run.path / MARK).unlink()
    assert is_run(run.path)
    with pytest.raises(
        RunError, match=r"has no run\.json, so it may not be nbft's\. Delete the fo"
    ):
        Run(run.path).delete()
    assert (run.path / "events.jsonl").exists()
    (run.path / "config.yaml").write_text("epochs: 3\n")
    assert not is_run(run.path)


def test_a_list_looks_at_each_folder_once(run, monkeypatch):
    looked = []
    known = runs_folder.is_run
    monkeypatch.setattr(runs_folder, "is_run", lambda path: looked.append(path) or known(path))
    assert len(list_runs(run.path.parent)) == len(looked) == 1


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"other": 1}', "nbft", "[" * 9000, "\0"])
def test_what_is_no_mark(run, text):
    (run.path / MARK).write_text(text)
    assert not is_marked(run.path)


@pytest.mark.parametrize("name", [MARK, "config.yaml", "events.jsonl"])
def test_a_pipe_or_a_link_in_the_place_of_a_file_marks_nothing(run, name, tmp_path):
    kept = tmp_path / "kept"
    shutil.copy(run.path / name, kept)
    (run.path / name).unlink()
    os.mkfifo(run.path / name)
    assert not is_marked(run.path) or name != MARK
    list_runs(run.path.parent)  # does not wait for a writer
    (run.path / name).unlink()
    (run.path / name).symlink_to(kept)
    assert not is_marked(run.path) or name != MARK


def test_delete_removes_what_nbft_wrote_and_names_the_rest(run, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "precious.txt").write_text("x")
    for folder in ("data", "adapter", "checkpoints/checkpoint-1"):
        (run.path / folder).mkdir(parents=True)
        (run.path / folder / "file").write_text("x")
    (run.path / "checkpoints" / "link").symlink_to(outside)
    (run.path / "model").symlink_to(outside)
    (run.path / "notes.txt").write_text("mine")
    (run.path / "plots").mkdir()
    (run.path / "adapter.partial").mkdir()  # of saves that were cut short
    (run.path / "model.previous").mkdir()
    (run.path / "report.html.partial").write_text("x")
    assert run.delete() == ["notes.txt", "plots"]
    assert sorted(path.name for path in run.path.iterdir()) == ["notes.txt", "plots"]
    assert (outside / "precious.txt").exists()
    assert not is_run(run.path)


def test_delete_removes_the_folder_if_nothing_else_is_in_it(run):
    assert run.delete() == []
    assert not run.path.exists()


def test_a_new_run_is_marked(tmp_path, tiny_model):
    rows = [{"prompt": "a", "completion": "b"}] * 4
    config = Config(
        model={"model_name": str(tiny_model)},
        data={"rows": rows},
        training={"output_dir": str(tmp_path)},
    )
    new = Run.create(config)
    assert is_marked(new.path)
    assert "nbft" in json.loads((new.path / MARK).read_text())
