"""The command for a GPU ends in time, writes after each result, and names what it left out."""

from __future__ import annotations

import json

import pytest

from benchmarks import gpu
from benchmarks.correctness import Checked
from benchmarks.gpu import Item, Record


@pytest.fixture
def clock(monkeypatch):
    """Return a function that lets time pass."""
    now = [100.0]
    monkeypatch.setattr(gpu.time, "monotonic", lambda: now[0])

    def wait(seconds, found):
        def measure(left):
            now[0] += seconds
            if isinstance(found, Exception):
                raise found
            return {"left": left, **found}

        return measure

    return wait


def test_what_no_time_is_left_for_is_left_out_and_the_rest_goes_on(clock, tmp_path):
    record = Record(tmp_path / "new" / "gpu.json", {"minutes": 1})
    contents = []

    def items():
        yield Item("speed", "first", 20, clock(25, {"tokens_per_second": 5.0}))
        contents.append(json.loads(record.path.read_text()))
        yield Item("speed", "fails", 5, clock(1, RuntimeError("no kernel")))
        yield Item("speed", "absent", 5, clock(1, {}), "Unsloth is not installed.")
        yield Item("speed", "too long", 40, clock(40, {}))
        yield Item("forecast", "last", 30, clock(30, {}))

    gpu.measure(items(), record, end=160.0)
    assert [one["name"] for one in contents[0]["results"]] == ["first"]
    found = json.loads(record.path.read_text())
    assert [(one["name"], one.get("left"), one.get("error")) for one in found["results"]] == [
        ("first", 60.0, None),
        ("fails", None, "no kernel"),
        ("last", 34.0, None),
    ]
    assert found["left_out"] == [
        {"kind": "speed", "name": "absent", "why": "Unsloth is not installed."},
        {"kind": "speed", "name": "too long", "why": "It takes about 40 s, and 34 s are left."},
    ]
    assert found["minutes"] == 1


def test_what_was_found_is_kept_when_the_next_cannot_be_prepared(clock, tmp_path):
    record = Record(tmp_path / "gpu.json", {})

    def items():
        yield Item("speed", "first", 1, clock(1, {}))
        raise RuntimeError("no row of 8,192 tokens can be made")

    gpu.measure(items(), record, end=200.0)
    first, rest = json.loads(record.path.read_text())["results"]
    assert first["name"] == "first"
    assert rest["error"] == "no row of 8,192 tokens can be made"
    assert gpu._is_wrong(rest)
    assert not gpu._is_wrong({"kind": "speed", "name": "short rows, TRL", "error": "full"})
    assert gpu._is_wrong({"kind": "speed", "name": "short rows, nbft", "error": "full"})


def test_nbft_may_be_twice_as_far_from_float32_as_trl():
    assert Checked("all", 1e-4, 0.012, 1e-4, 0.006).is_held
    assert not Checked("all", 1e-4, 0.014, 1e-4, 0.006).is_held
    assert not Checked("all", 3e-3, 0.006, 1e-4, 0.006).is_held


def test_without_a_gpu_it_says_how_to_rehearse(capsys, monkeypatch):
    monkeypatch.setattr(gpu, "available_devices", lambda: {"cpu": "a processor"})
    with pytest.raises(SystemExit) as ended:
        gpu.main([])
    assert ended.value.code == 2
    assert "no NVIDIA GPU was found. Use --rehearse" in capsys.readouterr().err
