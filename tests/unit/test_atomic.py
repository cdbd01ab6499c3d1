"""What is written is whole or absent, whatever happens while it is written."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from nbft.atomic import beside, is_partial, previous, providing, remove, replacing, scratch
from nbft.runs.checkpoints import keeping, last_whole, mark_whole, remove_older


def write(target: Path, text: str) -> None:
    with replacing(target) as partial:
        partial.mkdir()
        (partial / "inner").mkdir()
        (partial / "inner" / "file").write_text(text)


def test_a_folder_takes_the_place_of_another(tmp_path):
    target = tmp_path / "adapter"
    for text in ("one", "two"):
        write(target, text)
        assert (target / "inner" / "file").read_text() == text
        assert [path.name for path in tmp_path.iterdir()] == ["adapter"]


def test_an_error_leaves_what_was_there(tmp_path):
    target = tmp_path / "report.html"
    with replacing(target) as partial:
        partial.write_text("one")
    with pytest.raises(AssertionError), replacing(target) as partial:
        assert not partial.write_text("tw")
    assert target.read_text() == "one"
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


@pytest.mark.parametrize("write_beside", [replacing, providing])
def test_writers_of_one_target_have_names_of_their_own(tmp_path, write_beside):
    """So a name that a dead process left behind is in nobody's way, whatever its number was."""
    target = tmp_path / "rows.jsonl"
    with write_beside(target) as one, write_beside(target) as other:
        assert one != other
        assert is_partial(one)
        one.write_text("one")
        other.write_text("other")
    assert target.read_text() == ("one" if write_beside is replacing else "other")
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


def test_what_somebody_has_provided_stays(tmp_path):
    target = tmp_path / "tokens"
    with providing(target) as partial:
        partial.mkdir()
        (partial / "rows").write_text("late")
        target.mkdir()
        (target / "rows").write_text("early")
    assert (target / "rows").read_text() == "early"
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


def test_many_threads_provide_one_folder(tmp_path):
    target, barrier = tmp_path / "tokens", threading.Barrier(8)

    def provide(number: int) -> None:
        with providing(target) as partial:
            partial.mkdir()
            for name in ("a", "b"):
                (partial / name).write_text(str(number))
            barrier.wait()

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(provide, range(8)))
    assert (target / "a").read_text() == (target / "b").read_text()
    assert [path.name for path in tmp_path.iterdir()] == [target.name]


def test_what_killed_writers_left_is_removed_once_nobody_writes_there(tmp_path):
    old, still = (tmp_path / f"tokens.{digit * 16}.partial" for digit in "ab")
    for folder in (old, still):
        folder.mkdir()
        (folder / "rows").touch()
        os.utime(folder, (1, 1))
    os.utime(old / "rows", (1, 1))
    mine = tmp_path / "my.partial"  # of somebody who names files so too
    mine.touch()
    os.utime(mine, (1, 1))
    with providing(tmp_path / "others") as partial:
        partial.touch()
    assert {path.name for path in tmp_path.iterdir()} == {still.name, mine.name, "others"}
    assert beside(tmp_path / "tokens") == [tmp_path / "tokens.previous", still]
    with replacing(tmp_path / "tokens", is_alone=True) as partial:
        partial.touch()
    assert not still.exists()


def test_what_is_removed_is_gone_at_once(tmp_path):
    folder = tmp_path / "tokens"
    remove(folder)
    folder.mkdir()
    (folder / "rows").touch()
    remove(folder)
    assert [*tmp_path.iterdir()] == []
    with scratch(folder) as own:
        (own / "wheel").touch()
    assert [*tmp_path.iterdir()] == []


KILLED = """
import os, signal, sys
from pathlib import Path
from nbft.atomic import replacing
number = 0
def kill_at(event, arguments):
    global number
    if event.startswith(("os.", "open", "shutil.")):
        number += 1
        if number == int(sys.argv[2]):
            os.kill(os.getpid(), signal.SIGKILL)
sys.addaudithook(kill_at)
with replacing(Path(sys.argv[1])) as partial:
    partial.mkdir()
    for name in ("a", "b"):
        (partial / name).write_text("new")
"""


def test_kill_9_at_any_moment_leaves_the_old_or_the_new(tmp_path):
    killed = 0
    for number in range(1, 60):
        folder = tmp_path / str(number)
        target = folder / "adapter"
        target.mkdir(parents=True)
        for name in ("a", "b"):
            (target / name).write_text("old")
        done = subprocess.run([sys.executable, "-c", KILLED, str(target), str(number)], check=False)
        there = target if target.exists() else previous(target)
        assert {(there / name).read_text() for name in ("a", "b")} in ({"old"}, {"new"})
        killed += done.returncode != 0
        if done.returncode == 0:
            break
    assert killed > 10


def test_a_checkpoint_is_kept_while_another_of_its_step_is_written(tmp_path):
    checkpoint = tmp_path / "checkpoints" / "checkpoint-5"

    def save(text: str) -> None:
        with keeping(checkpoint):
            checkpoint.mkdir(parents=True)
            (checkpoint / "weights").write_text(text)
            found = last_whole(tmp_path)
            assert found is None or (found / "weights").read_text() == "one"
            assert text != "torn"
            mark_whole(checkpoint)

    save("one")
    with pytest.raises(AssertionError):
        save("torn")
    assert (checkpoint / "weights").read_text() == "one"
    assert last_whole(tmp_path) == checkpoint
    save("two")
    assert (checkpoint / "weights").read_text() == "two"
    assert [path.name for path in checkpoint.parent.iterdir()] == ["checkpoint-5"]


def test_older_checkpoints_go_but_neither_the_newest_nor_the_best(tmp_path):
    for step in (5, 10, 15, 20):
        checkpoint = tmp_path / f"checkpoint-{step}"
        checkpoint.mkdir()
        (checkpoint / "weights").write_text(str(step))
        mark_whole(checkpoint)
    torn = tmp_path / "checkpoint-25"
    torn.mkdir()
    (tmp_path / "README.md").touch()
    remove_older(tmp_path, 2, tmp_path / "checkpoint-5")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"checkpoint-5", "checkpoint-20", "README.md"}


def test_what_disappears_while_it_is_looked_at_stops_nobody(tmp_path, monkeypatch):
    """Others finish theirs at any moment, also between a look at a folder and one into it."""
    theirs = tmp_path / "entry.0123456789abcdef.partial"
    theirs.mkdir()
    look = os.scandir

    def finished_meanwhile(path):
        if Path(path) == theirs and theirs.exists():
            theirs.rename(tmp_path / "entry")
        return look(path)

    monkeypatch.setattr(os, "scandir", finished_meanwhile)
    with providing(tmp_path / "other") as partial:
        partial.mkdir()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["entry", "other"]
