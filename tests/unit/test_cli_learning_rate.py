"""`nbft find-learning-rate`: what it prints and how it exits, in words and as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from typer.testing import CliRunner

from nbft.cli import app
from nbft.config import Config
from nbft.runs import rate_search
from nbft.runs.range_test import RangeTest, rising_rates

RATES = rising_rates(2e-6, 0.2, 60)
FOUND = RangeTest(
    Config(),
    tuple(RATES),
    tuple(2.5 - 1 / (1 + (1e-3 / rate) ** 2) + rate * 20 for rate in RATES),
    planned_steps=60,
)


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text("data: {dataset_name: grammar}\n")
    return tmp_path


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    given: dict[str, Any] = {}

    def find(config: Config, **options: Any) -> RangeTest:
        given.update(options, config=config)
        return FOUND

    monkeypatch.setattr(rate_search, "find_learning_rate", find)
    return given


def look(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["find-learning-rate", "config.yaml", *arguments])


def test_it_prints_the_table_and_the_sentences(asked: dict[str, Any], folder: Path) -> None:
    done = look("training.seed=7", "--steps", "60", "--highest", "0.2")
    assert done.exit_code == 0, done.output
    assert done.stdout.strip() == str(FOUND)
    assert (asked["steps"], asked["lowest"], asked["highest"]) == (60, None, 0.2)
    assert asked["config"].training.seed == 7
    assert asked["folder"] == folder


def test_json_holds_the_same(asked: dict[str, Any]) -> None:
    done = look("--json")
    assert json.loads(done.stdout) == FOUND.to_dict()


def test_an_interrupted_test_says_so_by_its_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    stopped = RangeTest(Config(), tuple(RATES[:3]), (2.0,) * 3, 60, 8, "stopped")
    monkeypatch.setattr(rate_search, "find_learning_rate", lambda *_, **__: stopped)
    done = look()
    assert done.exit_code == 130
    assert "It was stopped after 3 steps" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("training.method=grpo",), "training.method='grpo': has no learning rate test"),
        (("training.epochs=3",), "training.epochs"),
        (("--steps", "1"), "steps=1: is not a whole number"),
    ],
)
def test_a_mistake_is_a_sentence(arguments: tuple[str, ...], sentence: str) -> None:
    done = look(*arguments)
    assert done.exit_code == 2
    assert sentence in done.stderr
    assert "Traceback" not in done.output
