"""A disk that fills up under a run: it pauses with a sentence, harms nothing, and goes on."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import transformers

import nbft
from nbft import events
from nbft.runs.checkpoints import is_whole, last_whole

from .conftest import losses, steps, until


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 512 MiB: the plan of a run asks for 300."""
    path = tmp_path / "disk"
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=512m", "nbft-test", str(path)]
    if shutil.which("mount") is None or subprocess.run(command, check=False).returncode:
        pytest.skip("mounting a small disk needs root")
    yield path
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def fill(disk: Path, but_bytes: int = 0) -> Path:
    """Take all the room there is, but for some."""
    path = disk / "others"
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(1024 * 1024))
    if but_bytes:
        os.truncate(path, path.stat().st_size - but_bytes)
    return path


@pytest.fixture
def submitted(disk: Path, submitting, make_config):
    """Return a function that submits a run on the small disk, which is there until it has ended."""
    on_disk = {"training__output_dir": str(disk / "runs")}
    return lambda **changes: submitting(make_config(**{**on_disk, **changes}))


def test_a_full_disk_pauses_a_run_and_room_continues_it(submitted, train, disk):
    expected = losses(train(training__max_steps=300))
    run = submitted(training__max_steps=300)  # not over before the disk is full
    until(lambda: steps(run) >= 3, "step 3")
    before = run.events_path.read_bytes()
    others = fill(disk)
    until(lambda: run.status == "paused" or run.is_over, "the pause")
    assert run.status == "paused"
    said = run.events()[-1]
    assert f"The disk with {run.path} is full: " in said["text"]
    assert "Free some space, and the run continues by itself." in said["text"]
    assert run.events_path.read_bytes().startswith(before)
    others.unlink()
    assert run.wait().status == "completed", run.problems
    reader = events.EventReader(run.events_path)
    kinds = [e["event"] for e in reader.read()]
    assert kinds.count("paused") == kinds.count("continued") == 1
    assert reader.torn_lines == 0
    assert losses(run) == pytest.approx(expected, rel=1e-6)
    assert run.report().read_text().endswith("</html>\n")


def test_a_checkpoint_that_would_not_fit_is_not_begun(submitted, disk):
    run = submitted(training__max_steps=5000, checkpoint__save_steps=20)
    until(lambda: last_whole(run.path), "a checkpoint")
    others = fill(disk, but_bytes=8 * 1024 * 1024)  # room for events, not for a checkpoint
    until(lambda: run.status == "paused" or run.is_over, "the pause")
    assert run.status == "paused"
    kept = last_whole(run.path)
    assert kept is not None
    saved = (run.path / "checkpoints").glob("checkpoint-*")
    assert all(is_whole(path) for path in saved)
    others.unlink()
    until(lambda: last_whole(run.path) not in (None, kept), "the next checkpoint")
    run.stop()
    assert run.wait().status == "stopped", run.problems
    assert run.adapter is not None


def test_a_run_paused_by_a_full_disk_can_be_cancelled(submitted, disk):
    run = submitted(training__max_steps=5000)
    until(lambda: steps(run) >= 1, "a step")
    fill(disk)
    until(lambda: run.status == "paused", "the pause")
    run.cancel()
    until(lambda: run.is_over, "the end")
    assert run.status == "cancelled"


def test_an_event_that_does_not_fit_leaves_the_file_as_it_was(disk):
    path = disk / "events.jsonl"
    events.append(path, "log", step=1)
    others = fill(disk)
    before = path.read_bytes()
    with pytest.raises(OSError, match="No space left"):
        events.append(path, "note", text="x" * 10_000)
    assert path.read_bytes() == before
    others.unlink()
    assert events.keep_reserve(disk)
    fill(disk)
    events.append(path, "note", text="x" * 10_000)
    assert [e["event"] for e in events.read(path)] == ["log", "note"]


def test_the_last_word_of_a_run_gives_the_reserve_back(disk):
    path = disk / "events.jsonl"
    assert events.keep_reserve(disk)
    events.append(path, "completed", step=1, seconds=1.0)
    assert [each.name for each in disk.iterdir()] == ["events.jsonl"]


def test_a_report_that_does_not_fit_leaves_the_earlier_one(submitted, disk):
    run = submitted(training__max_steps=2)
    assert run.wait().status == "completed", run.problems
    before = run.report().read_bytes()
    fill(disk)
    with pytest.raises(OSError, match="No space left"):
        run.report()
    assert (run.path / "report.html").read_bytes() == before


def test_a_disk_that_is_full_before_the_first_step_pauses_the_run(submitted, train, disk):
    expected = losses(train(training__max_steps=3))
    run = submitted(training__max_steps=3)
    others = fill(disk)
    until(lambda: run.status == "paused" or run.is_over, "the pause")
    assert run.status == "paused", run.problems
    assert steps(run) <= 1
    assert "is full" in run.events()[-1]["text"]
    others.unlink()
    assert run.wait().status == "completed", run.problems
    assert losses(run) == pytest.approx(expected, rel=1e-6)


def test_a_run_whose_turn_comes_on_a_full_disk_waits_for_room(submitted, disk):
    first = submitted(training__max_steps=5000)
    until(lambda: steps(first) >= 1, "a step")
    second = submitted(training__max_steps=1)
    others = fill(disk)
    os.kill(next(e for e in first.events() if e["event"] == "started")["pid"], signal.SIGKILL)
    until(lambda: second.status == "paused" or second.is_over, "the pause")
    assert second.status == "paused", second.problems
    assert [e["event"] for e in second.events()].count("started") == 0
    others.unlink()
    assert second.wait().status == "completed", second.problems


def full_once(monkeypatch: pytest.MonkeyPatch, of: type, name: str, when: Callable[[Path], bool]):
    """Let a method that writes a folder fail once, half way, as it does on a full disk."""
    usual = getattr(of, name)
    failed = []

    def save(self, folder, *args, **kwargs):
        result = usual(self, folder, *args, **kwargs)
        if not failed and when(Path(folder)):
            failed.append(folder)
            next(f for f in sorted(Path(folder).rglob("*")) if f.is_file()).write_bytes(b"torn")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return result

    monkeypatch.setattr(of, name, save)
    return failed


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_disk_that_fills_while_the_result_is_saved_pauses_the_run(train, monkeypatch, method):
    what = "adapter" if method == "lora" else "model"
    expected = losses(train(peft__method=method))
    of = transformers.PreTrainedTokenizerBase
    failed = full_once(monkeypatch, of, "save_pretrained", lambda f: f.name.startswith(what))
    run = train(peft__method=method)
    assert failed
    assert run.status == "completed", run.problems
    assert run.problems == []
    kinds = [e["event"] for e in run.events()]
    assert kinds.count("paused") == kinds.count("continued") == 1
    assert losses(run) == pytest.approx(expected, rel=1e-6)
    assert run.adapter == run.path / what
    assert b"torn" not in [f.read_bytes() for f in run.adapter.iterdir()]
    assert not [*run.path.glob("*.partial"), *run.path.glob("*.previous")]
    assert run.generate("Correct: I has a cat.\n", max_new_tokens=2) is not None
    run.close()


def test_a_disk_that_fills_while_a_checkpoint_is_saved_pauses_the_run(train, monkeypatch):
    failed = full_once(
        monkeypatch, transformers.Trainer, "_save_rng_state", lambda f: "-2" in f.name
    )
    run = train(checkpoint__save_steps=2, checkpoint__save_total_limit=1)
    assert failed
    assert run.status == "completed", run.problems
    kinds = [e["event"] for e in run.events()]
    assert kinds.count("paused") == kinds.count("continued") == 1
    saved = (run.path / "checkpoints").glob("checkpoint-*")
    assert [(path.name, is_whole(path)) for path in saved] == [("checkpoint-6", True)]


def test_what_a_full_disk_once_said_is_no_problem_of_a_run_that_was_resumed(train, monkeypatch):
    def fail(_tokenizer, folder, *_args, **_kwargs):
        assert not Path(folder).name.startswith("adapter"), "No adapter."

    monkeypatch.setattr(transformers.PreTrainedTokenizerBase, "save_pretrained", fail)
    run = train()
    assert run.status == "failed"
    assert run.problems
    monkeypatch.undo()
    run.resume()
    assert run.wait().status == "completed"
    assert run.problems == []
    assert nbft.attach(run.path).problems == []


def test_the_system_ends_a_run_on_a_full_disk(submitted, disk):
    run = submitted(training__max_steps=5000, checkpoint__save_steps=3)
    until(lambda: last_whole(run.path), "a checkpoint")
    kept = last_whole(run.path)
    fill(disk)
    until(lambda: run.status == "paused", "the pause")
    os.kill(next(e for e in run.events() if e["event"] == "started")["pid"], signal.SIGTERM)
    until(lambda: run.is_over, "the end")
    assert run.status == "stopped"
    assert last_whole(run.path) is not None
    assert kept is not None
