"""What is said of two sides, by what their clocks counted."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

import pytest

from nbft.bench import compare as comparing
from nbft.bench.compare import Comparisons, Trained, compare, in_turn, losses_agree, median_ratio
from nbft.bench.picture import check_path
from nbft.bench.sides import SIDES, Side
from nbft.bench.task import Task
from nbft.errors import NbftError

TASK = Task(model="m", rows="r", folder="f")


def trained(speed: float = 100.0, **changes) -> Trained:
    about = {
        "tokens_per_second": speed,
        "tokens_per_cpu_second": speed / 2,
        "peak_bytes": 2**30,
        "tokens": (10, 20, 30),
        "losses": (2.0, 1.5, 1.0),
        "is_float32": True,
    }
    return Trained(**{**about, **changes})


@pytest.fixture
def sides(monkeypatch):
    """Replace the trainings: each side gives its results in order."""

    def replace(**results):
        left = {name.replace("_", "-"): list(found) for name, found in results.items()}
        order = []

        def train(name, task, python=None):
            order.append(name)
            found = left[name].pop(0)
            if isinstance(found, Exception):
                raise found
            return found

        monkeypatch.setattr(comparing, "train_side", train)
        return order

    return replace


def test_sides_train_in_turn_and_the_median_of_the_rounds_counts(sides):
    order = sides(
        nbft=[trained(400), trained(200), trained(900)],
        trl=[trained(100), trained(100), trained(100)],
    )
    (one,) = compare(TASK, ["trl"]).pairs
    assert order == ["nbft", "trl"] * 3
    assert (one.ratio, one.spread) == (4.0, (2.0, 9.0))
    assert one.cpu_ratio == 4.0
    assert one.memory_ratio == 1.0
    assert json.loads(json.dumps(asdict(one)))["peer"] == "TRL, its defaults"


@pytest.mark.parametrize(
    "changes",
    [
        {"losses": (2.01, 1.5, 1.0)},
        {"losses": (2.0, float("nan"), 1.0)},
        {"tokens": (10, 20, 31)},
    ],
)
def test_a_side_with_other_losses_or_tokens_has_no_speed(changes, sides):
    sides(nbft=[trained(400)], trl=[trained(100, **changes)])
    found = compare(TASK, ["trl"], rounds=1)
    (one,) = found.pairs
    assert (one.ratio, one.spread, one.cpu_ratio, one.losses_agree) == (None, None, None, False)
    assert "losses differ: no speed" in str(found)


def test_only_two_sides_in_float32_must_agree_to_a_ten_thousandth():
    exact, other = trained(), trained(losses=(2.015, 1.5, 1.0))
    assert not losses_agree(exact, other)
    assert losses_agree(exact, replace(other, is_float32=False))  # float32 beside autocast
    assert losses_agree(replace(exact, is_float32=False), replace(other, is_float32=False))
    assert not losses_agree(exact, trained(losses=(2.1, 1.5, 1.0), is_float32=False))


def test_a_peer_that_fails_is_said_and_the_rest_goes_on(sides):
    sides(
        nbft=[trained(400), trained(400)],
        trl=[NbftError("out of memory")],
        trl_tuned=[trained(100), trained(100)],
    )
    found = compare(TASK, ["trl", "trl-tuned"], rounds=2)
    assert [one.peer for one in found.pairs] == ["TRL, tuned"]
    assert found.notes == ["TRL, its defaults failed: out of memory"]


def test_each_training_is_reported_before_the_next_begins_with_the_time_left(sides, monkeypatch):
    sides(nbft=[trained(400), trained(200)], trl=[trained(100), trained(100)])
    lines, lines_at_start, clock = [], [], iter(range(0, 1000, 30))
    train = comparing.train_side

    def train_and_count(name, *rest):
        lines_at_start.append(len(lines))
        return train(name, *rest)

    monkeypatch.setattr(comparing, "train_side", train_and_count)
    monkeypatch.setattr(comparing.time, "monotonic", lambda: next(clock))  # 30 s each
    compare(TASK, ["trl"], rounds=2, say=lines.append)
    assert lines_at_start == [1, 2, 3, 4]
    assert lines == [
        "4 trainings of 8 steps each. Each result comes with the time left.",
        "1 of 4, nbft: 400 tokens/s, 1.0 GiB. At least 1 min 30 s left.",
        (
            "2 of 4, TRL, its defaults: 100 tokens/s, 1.0 GiB; nbft is 4.00 × as fast. "
            "About 1 min left."
        ),
        "3 of 4, nbft: 200 tokens/s, 1.0 GiB. About 30 s left.",
        "4 of 4, TRL, its defaults: 100 tokens/s, 1.0 GiB; nbft is 3.00 × as fast.",
    ]


def test_a_side_that_fails_or_differs_is_reported_at_once(sides):
    other = trained(100, tokens=(1, 2, 3))
    sides(
        nbft=[trained(400), trained(400)],
        trl=[NbftError("out of memory")],
        trl_tuned=[other, other],
    )
    lines = []
    compare(TASK, ["trl", "trl-tuned"], rounds=2, say=lines.append)
    assert lines[2].startswith("2 of 5, TRL, its defaults failed: out of memory. At least")
    assert lines[3].startswith(
        "3 of 5, TRL, tuned: 100 tokens/s, 1.0 GiB; its losses differ from nbft's. About"
    )
    assert lines[5].endswith("its losses differ from nbft's.")


def test_our_own_failure_is_an_error(sides):
    sides(nbft=[NbftError("no rows")])
    with pytest.raises(NbftError, match="no rows"):
        compare(TASK, ["trl"])


def test_a_peer_that_is_not_installed_says_how_to_install_it(sides, monkeypatch):
    sides(nbft=[trained()])
    absent = Side("Nowhere", lambda task: None, ("no_such_package",))
    monkeypatch.setitem(SIDES, "nowhere", absent)
    found = compare(TASK, ["nowhere"], rounds=1)
    assert found == Comparisons(
        [], ["Nowhere is not installed. Run pip install no_such_package."], found.ours
    )
    assert "nbft" in str(found)


def test_unsloth_is_not_tried_on_a_processor():
    assert SIDES["unsloth"].why_unavailable(TASK) == "Unsloth does not train on cpu."


def test_a_system_that_needs_other_versions_says_so_and_is_tried_in_its_own_environment():
    side = SIDES["llamafactory"]
    assert "in a separate environment, and pass its Python" in side.why_unavailable(TASK)
    assert side.why_unavailable(TASK, elsewhere=True) == ""


def test_another_python_has_our_modules_and_not_our_packages(tmp_path):
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho "$PYTHONPATH: $(ls $PYTHONPATH | xargs)" >&2\nexit 1\n')
    python.chmod(0o755)
    with pytest.raises(NbftError, match=r": nbft task\.json$"):
        comparing.train_side("llamafactory", TASK, str(python))


def test_a_python_that_is_not_there_is_said_and_the_rest_goes_on(sides, monkeypatch):
    real = comparing.train_side
    sides(nbft=[trained()])
    ours = comparing.train_side
    monkeypatch.setattr(
        comparing, "train_side", lambda name, *rest: (ours if name == "nbft" else real)(name, *rest)
    )
    found = compare(TASK, ["llamafactory"], rounds=1, pythons={"llamafactory": "/no/python"})
    (said,) = found.notes
    assert said.startswith("LLaMA-Factory failed: /no/python: cannot be started (")


def test_a_picture_that_cannot_be_written_is_refused_at_the_start(tmp_path):
    with pytest.raises(NbftError, match=r"must end in \.png, \.svg or \.pdf"):
        check_path(tmp_path / "speed.txt")
    with pytest.raises(NbftError, match=r"no such folder .*absent\. Create it\."):
        check_path(tmp_path / "absent" / "speed.png")
    check_path(tmp_path / "speed.png")


def test_an_unknown_peer_lists_the_known():
    with pytest.raises(NbftError, match=r"against=axolotl: choose from nbft, trl, trl-tuned"):
        compare(TASK, ["axolotl"])


def test_a_training_that_dies_says_how(monkeypatch):
    monkeypatch.setattr(comparing.sys, "executable", "/bin/false")
    with pytest.raises(NbftError, match="exit code 1"):
        comparing.train_side("trl", TASK)


def test_rounds_and_ratios():
    assert in_turn([lambda: "a", lambda: "b"], 2) == [["a", "a"], ["b", "b"]]
    assert median_ratio([4, 9, 2], [1, 1, 1]) == 4
