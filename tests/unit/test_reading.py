"""Files of any size, and what only has the name of a file."""

from __future__ import annotations

import os
import socket
import threading
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from nbft import events
from nbft.cli import app
from nbft.config import Config
from nbft.errors import ConfigError
from nbft.reading import open_file, read_bytes, read_end
from nbft.runs import Run, list_runs
from nbft.runs.files import log_tail
from nbft.runs.state import StateReader
from nbft.runs.summary import summary

pytestmark = pytest.mark.skipif(os.name != "posix", reason="named pipes are of POSIX")

GIB = 2**30


def make_run(folder: Path) -> Run:
    folder.mkdir(parents=True)
    Config(model={"model_name": "m"}, data={"path": "/rows.jsonl"}).save(folder / "config.yaml")
    return Run(folder)


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def a_terminal(path: Path) -> None:
    path.symlink_to("/dev/tty")


def a_folder(path: Path) -> None:
    path.mkdir()


def a_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the path of a socket is short
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path.name)
    finally:
        os.chdir(here)


def a_loop(path: Path) -> None:
    path.symlink_to(path.name)


ODD = [a_pipe, a_device, a_terminal, a_folder, a_socket, a_loop]


def within(seconds: float, work: Callable[[], object]) -> object:
    """Return what a function returns, which may not take longer."""
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(work()), daemon=True)
    thread.start()
    thread.join(seconds)
    assert not thread.is_alive(), "it waits"
    assert found, "it failed"
    return found[0]


@pytest.mark.parametrize("make", ODD)
def test_what_is_no_file_is_not_opened(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / "x")

    def opened() -> str:
        try:
            open_file(tmp_path / "x").close()
        except OSError as error:
            return error.strerror or ""
        return ""

    assert within(5, opened)


@pytest.mark.parametrize("make", ODD)
@pytest.mark.parametrize("name", ["events.jsonl", "plan.json", "log.txt", "commands.jsonl"])
def test_an_odd_file_of_a_run_is_one_line(
    make: Callable[[Path], None], name: str, tmp_path: Path
) -> None:
    run = make_run(tmp_path / "odd-otter-1")
    make(run.path / name)
    about = within(5, lambda: summary(run))
    assert isinstance(about, dict)
    if name == "events.jsonl" and make is not a_loop:
        (problem,) = about["problems"]
        assert problem.startswith("events.jsonl cannot be read: ")
    assert within(5, lambda: (run.status, run.plan))
    log = within(5, lambda: (run.log_tail(),))
    assert isinstance(log, tuple)
    assert log[0].count("\n") == 0
    assert [found.id for found in list_runs(tmp_path)] == [run.id]


@pytest.mark.parametrize("make", ODD)
def test_an_odd_config_does_not_hide_the_other_runs(
    make: Callable[[Path], None], tmp_path: Path
) -> None:
    good = make_run(tmp_path / "good-otter-1")
    odd = make_run(tmp_path / "odd-otter-2")
    (odd.path / "config.yaml").unlink()
    make(odd.path / "config.yaml")
    found = within(5, lambda: [run.id for run in list_runs(tmp_path)])
    assert found == [good.id]
    assert isinstance(within(5, lambda: summary(odd)), dict)
    message = within(5, lambda: _message_of(odd.path / "config.yaml"))
    assert str(message).startswith(f"{odd.path / 'config.yaml'}: ")


def _message_of(path: Path) -> str:
    with pytest.raises(ConfigError) as caught:
        Config.load(path)
    return str(caught.value)


def test_events_are_not_written_into_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "events.jsonl")

    def written() -> bool:
        with pytest.raises(OSError, match="not a file"):
            events.append(tmp_path / "events.jsonl", "log", step=1)
        return True

    assert within(5, written)


def sparse(path: Path, size_bytes: int, *, end: bytes = b"") -> None:
    events.append(path, "log", step=1, loss=2.0)
    with path.open("r+b") as file:
        file.truncate(size_bytes)
        file.seek(size_bytes)
        file.write(end)


def test_a_sparse_file_of_20_gb_is_read_at_once(tmp_path: Path) -> None:
    run = make_run(tmp_path / "large-otter-1")
    sparse(run.events_path, 20 * GIB, end=b'\n{"event": "log", "step": 7, "loss": 1.0}\n')
    tracemalloc.start()
    began = time.monotonic()
    about = summary(run)
    assert time.monotonic() - began < 20
    assert about["step"] == 7
    assert run.state.step == 7
    assert tracemalloc.get_traced_memory()[1] < 200e6
    tracemalloc.stop()
    events.append(run.events_path, "log", step=8, loss=0.5)
    assert run.state.step == summary(run)["step"] == 8
    reader = events.EventReader(run.events_path)
    assert [event.get("step") for event in reader.read()] == [1, 7, 8]
    assert reader.torn_lines == 1


def test_a_sparse_end_is_not_read_again_and_again(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    sparse(path, 20 * GIB)
    reader = events.EventReader(path)
    began = time.monotonic()
    assert [len(reader.read()) for _ in range(5)] == [1, 0, 0, 0, 0]
    assert time.monotonic() - began < 20
    assert not reader.is_behind


def test_a_line_that_is_too_long_is_skipped_and_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "_BLOCK_BYTES", 64)
    monkeypatch.setattr(events, "_LONGEST_LINE_BYTES", 500)
    path = tmp_path / "events.jsonl"
    reader = events.EventReader(path)
    events.append(path, "stage", text="a")
    events.append(path, "stage", text="b" * 1000)
    events.append(path, "stage", text="c" * 300)
    with path.open("ab") as file:
        file.write(b'{"event": "stage", "text": "' + b"d" * 1000)
    assert [event["text"][0] for event in reader.read()] == ["a", "c"]
    assert reader.torn_lines == 2
    with path.open("ab") as file:
        file.write(b'd"}\n{"event": "stage", "text": "e"}\n')
    assert [event["text"] for event in reader.read()] == ["e"]
    assert reader.offset_bytes == path.stat().st_size


@pytest.mark.parametrize("block_bytes", [1, 7, 64, 10_000])
@pytest.mark.parametrize("most_bytes", [None, 1, 100])
def test_blocks_change_nothing(
    block_bytes: int, most_bytes: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "_BLOCK_BYTES", block_bytes)
    path = tmp_path / "events.jsonl"
    for step in range(40):
        events.append(path, "log", step=step, loss=1 / (step + 1))
    with path.open("ab") as file:
        file.write(b'\n\r\n[]\n{"event": "log", "step": 40')
    reader, found = events.EventReader(path), []
    found += reader.read(most_bytes)
    while reader.is_behind:
        new = reader.read(most_bytes)
        if not new and not reader.is_behind:
            break
        found += new
    assert [event["step"] for event in found] == list(range(40))
    with path.open("ab") as file:
        file.write(b"}\n")
    assert [event["step"] for event in reader.read()] == [40]


def test_a_long_file_is_read_over_several_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "_BLOCK_BYTES", 1000)
    run = make_run(tmp_path / "long-otter-1")
    for step in range(1, 101):
        events.append(run.events_path, "log", step=step, loss=1.0)
    about = summary(run, seconds=-1)
    assert about["step"] < 100
    assert "has not been read yet" in about["problems"][0]
    for _ in range(100):
        about = summary(run, seconds=-1)
    assert (about["step"], about["problems"]) == (100, [])
    reader = StateReader(run.events_path)
    assert reader.read()
    assert reader.state.step == 100


def test_a_log_of_any_size_costs_its_end(tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    with log.open("wb") as file:
        file.truncate(20 * GIB)
        file.seek(20 * GIB)
        file.write(b"\nalmost\nthe end\n")
    began = time.monotonic()
    assert log_tail(tmp_path, 2) == ("almost\nthe end", True)
    assert time.monotonic() - began < 20


def test_large_configs_and_plans_are_not_read(tmp_path: Path) -> None:
    run = make_run(tmp_path / "large-otter-2")
    for name in ("config.yaml", "plan.json"):
        with (run.path / name).open("r+b" if name == "config.yaml" else "wb") as file:
            file.truncate(20 * GIB)
    began = time.monotonic()
    assert run.plan == {}
    assert "config.yaml cannot be read: more than" in summary(run)["problems"][0]
    with pytest.raises(ConfigError, match="too large for a config"):
        Config.load(run.path / "config.yaml")
    assert time.monotonic() - began < 20


def test_reading_is_bounded_by_what_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_bytes(b"0123456789")
    assert read_bytes(path, 10) == b"0123456789"
    with pytest.raises(OSError, match="more than 9 bytes"):
        read_bytes(path, 9)
    assert read_end(path, 3) == (b"789", False)
    assert read_end(path, 10) == (b"0123456789", True)


@pytest.mark.parametrize("make", ODD)
def test_the_list_has_a_line_for_each_odd_run(make: Callable[[Path], None], tmp_path: Path) -> None:
    good = make_run(tmp_path / "good-otter-1")
    odd = make_run(tmp_path / "odd-otter-2")
    (odd.path / "config.yaml").unlink()
    make(odd.path / "config.yaml")
    other = make_run(tmp_path / "odder-otter-3")
    make(other.events_path)
    (tmp_path / "no-run").mkdir()
    (tmp_path / "file").touch()
    done = within(5, lambda: CliRunner().invoke(app, ["runs", "--folder", str(tmp_path)]))
    assert isinstance(done, Result)
    assert done.exit_code == 0
    assert sorted(line.split()[0] for line in done.stdout.splitlines()) == [good.id, other.id]
    odd_line, *others = done.stderr.splitlines()
    assert odd_line.startswith("odd-otter-2: cannot be read: ")
    if make is not a_loop:
        assert len(others) == 1
        assert others[0].startswith("  events.jsonl cannot be read: ")
        done = within(5, lambda: CliRunner().invoke(app, ["attach", str(other.path)]))
        assert isinstance(done, Result)
        assert (done.exit_code, len(done.stderr.splitlines())) == (2, 1)
        assert done.stderr.startswith(f"{other.events_path}: ")
