import json
import math
import multiprocessing
import os

import pytest

from nbft import events


def _append_many(path, writer, count):
    for number in range(count):
        events.append(path, "log", writer=writer, number=number, text="x" * 3000)


def test_an_event_comes_back_as_it_was_said(tmp_path):
    said = events.append(tmp_path / "e", "log", step=1, loss=0.5, text="ü\n{a}\u2028")
    (read,) = events.read(tmp_path / "e")
    assert read == said
    assert read["event"] == "log"
    assert (tmp_path / "e").read_bytes().count(b"\n") == 1


def test_numbers_that_json_lacks_come_back_and_every_line_is_strict_json(tmp_path):
    events.append(
        tmp_path / "e", "log", loss=math.nan, high=math.inf, low=-math.inf, deep=[math.nan]
    )
    line = json.loads((tmp_path / "e").read_text(), parse_constant=pytest.fail)
    assert (line["loss"], line["high"], line["low"]) == ("NaN", "Infinity", "-Infinity")
    (read,) = events.read(tmp_path / "e")
    assert math.isnan(read["loss"])
    assert (read["high"], read["low"]) == (math.inf, -math.inf)


def test_a_text_in_a_sample_stays_a_text(tmp_path):
    events.append(tmp_path / "e", "sample", step=0, samples=[{"prompt": "NaN", "text": "Infinity"}])
    (read,) = events.read(tmp_path / "e")
    assert read["samples"] == [{"prompt": "NaN", "text": "Infinity"}]


def test_a_sample_keeps_its_wanted_answer_and_none_is_shown_that_is_no_text(tmp_path):
    good = {"prompt": "p", "text": "a", "wanted": "b"}
    samples = [good, {"prompt": "p", "text": "a", "wanted": 3}]
    events.append(tmp_path / "e", "sample", step=0, samples=samples)
    (read,) = events.read(tmp_path / "e")
    assert read["samples"] == [good]


def test_a_file_that_is_not_there_holds_no_events(tmp_path):
    assert events.read(tmp_path / "none") == []


def test_each_event_is_given_once_and_an_unfinished_line_waits(tmp_path):
    path = tmp_path / "e"
    reader = events.EventReader(path)
    assert reader.read() == []
    events.append(path, "log", step=1)
    assert [e["step"] for e in reader.read()] == [1]
    assert reader.read() == []
    with path.open("a") as file:
        file.write('{"event": "log", "st')
    assert reader.read() == []
    with path.open("a") as file:
        file.write('ep": 2}\n{"event": "log", "step": 3}\n')
    assert [e["step"] for e in reader.read()] == [2, 3]
    assert reader.torn_lines == 0


def test_a_line_that_a_crash_tore_is_closed_skipped_and_counted(tmp_path):
    path = tmp_path / "e"
    events.append(path, "log", step=1)
    with path.open("a") as file:
        file.write('{"event": "log", "st')
    events.append(path, "log", step=2)
    reader = events.EventReader(path)
    assert [e["step"] for e in reader.read()] == [1, 2]
    assert reader.torn_lines == 1


def test_a_line_that_is_no_event_is_counted(tmp_path):
    (tmp_path / "e").write_bytes(b'[1]\n{"a": 1}\n\xff\xfe\n\n{"event": "log"}\n')
    reader = events.EventReader(tmp_path / "e")
    assert len(reader.read()) == 1
    assert reader.torn_lines == 3


def test_two_processes_append_without_tearing_each_others_lines(tmp_path):
    path, count = tmp_path / "e", 200
    context = multiprocessing.get_context("fork" if hasattr(os, "fork") else "spawn")
    writers = [context.Process(target=_append_many, args=(path, w, count)) for w in (1, 2)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    reader = events.EventReader(path)
    found = reader.read()
    assert reader.torn_lines == 0
    for writer in (1, 2):
        assert [e["number"] for e in found if e["writer"] == writer] == list(range(count))


def test_a_full_disk_is_an_error_and_not_silence(tmp_path):
    if not os.path.exists("/dev/full"):  # noqa: PTH110
        pytest.skip("this system has no /dev/full")
    with pytest.raises(OSError):  # noqa: PT011
        events.append("/dev/full", "log")


def test_what_a_resumed_run_did_again_counts_once():
    found = [
        {"event": "log", "step": 1},
        {"event": "log", "step": 2},
        {"event": "warning", "text": "kept"},
        {"event": "prepared", "resumed_step": 1},
        {"event": "log", "step": 2, "loss": 5},
    ]
    kept = [e for e in events.current(found) if e["event"] == "log"]
    assert kept == [{"event": "log", "step": 1}, {"event": "log", "step": 2, "loss": 5}]
    assert {"event": "warning", "text": "kept"} in events.current(found)


def test_every_final_kind_is_a_kind():
    assert set(events.KINDS) >= events.FINAL_KINDS
