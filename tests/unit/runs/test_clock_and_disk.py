"""A clock that jumps and a disk that is slow: what is shown stays true."""

import os
import time

from nbft import events
from nbft.processes import kill, lives, process_start_time
from nbft.queue import Ticket
from nbft.runs.state import RunState

HERE = {"pid": os.getpid(), "process_start_time": process_start_time(os.getpid())}


def test_a_clock_that_jumps_back_changes_no_status(tmp_path, monkeypatch):
    path = tmp_path / "events.jsonl"
    events.append(path, "started", **HERE)
    events.append(path, "log", step=1, loss=1.0)
    monkeypatch.setattr(time, "time", lambda: 0.0)
    assert RunState(events.read(path)).status == "running"
    events.append(path, "log", step=2, loss=1.0)
    assert [e["step"] for e in events.current(events.read(path)) if e["event"] == "log"] == [1, 2]
    events.append(path, "completed", step=2, seconds=1.0)
    assert RunState(events.read(path)).status == "completed"


def test_the_start_of_a_process_does_not_depend_on_the_clock(monkeypatch):
    monkeypatch.setattr(time, "time", lambda: 4e9)
    assert lives(HERE["pid"], HERE["process_start_time"])
    assert not lives(HERE["pid"], HERE["process_start_time"] + 100)


def test_a_process_with_the_same_pid_but_another_start_is_not_killed():
    assert not kill(HERE["pid"], HERE["process_start_time"] - 100)


def test_the_queue_keeps_its_order_when_the_clock_jumps_back(tmp_path, monkeypatch):
    monkeypatch.setenv("NBFT_QUEUE", str(tmp_path))
    first = Ticket("cpu", tmp_path / "first")
    monkeypatch.setattr(time, "time", lambda: 0.0)
    second = Ticket("cpu", tmp_path / "second")
    assert second.take() == "Waiting for run “first”, which comes before this one."
    assert first.take() is None
    first.release()
    assert second.take() is None
    second.release()


def test_a_line_that_arrives_in_pieces_is_read_once_and_whole(tmp_path):
    path = tmp_path / "events.jsonl"
    reader = events.EventReader(path)
    whole = b'{"event": "log", "time": 1.0, "step": 1, "loss": 2.0}\n'
    seen = []
    with path.open("ab", buffering=0) as file:
        for start in range(0, len(whole), 7):
            file.write(whole[start : start + 7])
            seen += reader.read()
    assert [(e["event"], e["step"]) for e in seen] == [("log", 1)]
    assert reader.torn_lines == 0
