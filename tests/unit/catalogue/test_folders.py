from __future__ import annotations

import itertools
import os
import time
from pathlib import Path

import pytest

from nbft.catalogue import folders
from nbft.catalogue.folders import data_files, folder
from nbft.errors import DataError


def fill(root, *names):
    for number, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('{"text": "a"}\n')
        os.utime(path, (1000 + number, 1000 + number))


def test_folders_come_first_then_data_files(tmp_path):
    fill(tmp_path, "b.jsonl", "A.csv", "notes.txt", "c.JSONL.gz", ".hidden.jsonl", "zoo/x.csv")
    (tmp_path / ".git").mkdir()
    (tmp_path / "Ape").mkdir()
    shown = folder(tmp_path)
    assert [entry.name for entry in shown.entries] == [
        "Ape",
        "zoo",
        "A.csv",
        "b.jsonl",
        "c.JSONL.gz",
    ]
    assert [entry.is_folder for entry in shown.entries] == [True, True, False, False, False]
    csv = shown.entries[2]
    assert (csv.path, csv.size_bytes, csv.modified) == (tmp_path / "A.csv", 14, 1001)
    assert shown.entries[0].size_bytes is None
    assert (shown.path, shown.parent, shown.is_complete) == (tmp_path, tmp_path.parent, True)


def test_the_working_folder_and_the_root(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert folder().path == tmp_path
    assert folder("..").path == tmp_path.parent
    assert folder("/").parent is None
    monkeypatch.setenv("HOME", str(tmp_path))
    assert folder("~").path == tmp_path


def test_links_are_followed_one_step_and_never_in_circles(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path)
    (tmp_path / "self.jsonl").symlink_to(tmp_path / "self.jsonl")
    (tmp_path / "nowhere.csv").symlink_to(tmp_path / "gone.csv")
    os.mkfifo(tmp_path / "pipe.jsonl")
    shown = folder(tmp_path)
    assert [(entry.name, entry.is_folder) for entry in shown.entries] == [("loop", True)]
    inside = folder(tmp_path / "loop")
    assert (inside.path, inside.parent) == (tmp_path / "loop", tmp_path)
    assert data_files(tmp_path, levels=3) == []


@pytest.mark.parametrize(
    ("name", "why"),
    [("gone", "no such file or directory"), ("file.csv", "not a directory"), ("\0", "no path")],
)
def test_a_folder_that_cannot_be_read_is_a_sentence(tmp_path, name, why):
    fill(tmp_path, "file.csv")
    with pytest.raises(DataError, match=rf"cannot be read: {why}.*\. Choose another folder\."):
        folder(f"{tmp_path}/{name}")


def test_a_folder_without_permission_is_a_sentence(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match=r"folder='.*': cannot be read: permission denied\."):
        folder(tmp_path)
    assert data_files(tmp_path) == []


def test_a_name_that_is_not_text_is_left_out(tmp_path):
    (Path(os.fsdecode(bytes(tmp_path) + b"/\xff.jsonl"))).write_text("{}")
    fill(tmp_path, "<b>é.jsonl")
    assert [entry.name for entry in folder(tmp_path).entries] == ["<b>é.jsonl"]


def test_a_large_folder_is_cut_off_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "_SHOWN", 3)
    fill(tmp_path, *(f"{number}.csv" for number in range(5)))
    shown = folder(tmp_path)
    assert [entry.name for entry in shown.entries] == ["0.csv", "1.csv", "2.csv"]
    assert not shown.is_complete


def test_a_huge_folder_does_not_stall(tmp_path, monkeypatch):
    monkeypatch.setattr(folders, "_SECONDS", 0.001)
    for number in range(6000):
        (tmp_path / f"{number}.jsonl").touch()
    began = time.process_time()
    assert not folder(tmp_path).is_complete
    data_files(tmp_path, levels=1)
    assert time.process_time() - began < 0.5, "looks for 1 ms and sorts what it saw"


def test_some_files_of_a_huge_folder_are_found_in_time(tmp_path, monkeypatch):
    for number in range(3000):
        (tmp_path / f"{number}.csv").write_text("a\n1\n")
    ticks = itertools.count()
    monkeypatch.setattr(folders.time, "monotonic", lambda: next(ticks) / 100)
    assert 5 < len(data_files(tmp_path)) < 20


def test_the_newest_data_files_of_a_folder_and_those_below(tmp_path):
    fill(tmp_path, "old.csv", "sub/middle.jsonl", "a/b/deep.jsonl", "new.parquet", ".venv/x.csv")
    assert [file.name for file in data_files(tmp_path)] == ["new.parquet", "old.csv"]
    found = data_files(tmp_path, levels=1)
    assert [file.name for file in found] == ["new.parquet", "middle.jsonl", "old.csv"]


def test_what_holds_no_rows_is_left_out(tmp_path):
    fill(tmp_path, "model/tokenizer.json", "model/config.json", "run/run.json", "run/events.jsonl")
    (tmp_path / "settings.json").write_text('{\n  "a": 1\n}\n')
    (tmp_path / "empty.csv").touch()
    (tmp_path / "array.json").write_text('\ufeff [\n{"a": 1}]')
    (tmp_path / "lines.json").write_text('{"a": 1}\n{"a": 2}\n')
    found = data_files(tmp_path, levels=1)
    assert {file.name for file in found} == {"array.json", "lines.json"}
