"""`nbft doctor`: what it prints and how it exits, so that the CI of a dataset can use it."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from nbft.cli import app
from nbft.data.samples import sample_path

PAIRS = [
    {"prompt": row["question"] + "\n", "completion": row["answer"]}
    for row in map(json.loads, sample_path("gsm8k", "train").read_text("utf-8").splitlines()[:30])
]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def look(tiny_model):
    """Return a function that runs the command with the tiny model."""

    def run(*arguments):
        model = f"model.model_name={tiny_model}"
        return CliRunner().invoke(app, ["doctor", arguments[0], model, *arguments[1:]])

    return run


def write(folder, rows, name="rows.jsonl"):
    text = json.dumps(rows) if name.endswith(".json") else "\n".join(map(json.dumps, rows))
    (folder / name).write_text(text)
    return name


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.json"])
def test_good_rows_exit_with_0(folder, look, name):
    done = look(write(folder, PAIRS, name))
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("30 rows (28 to train on, 2 held out): no problems found.\n")


def test_a_warning_exits_with_1_only_if_strict(folder, look):
    name = write(folder, [*PAIRS, PAIRS[3]])
    done = look(name, "data.split_ratio=1.0")
    assert done.exit_code == 0
    assert "warning  duplicates" in done.stdout
    assert look(name, "data.split_ratio=1.0", "--strict").exit_code == 1


def test_an_interrupt_shows_what_was_found_and_exits_with_130(folder, look, monkeypatch):
    from nbft.data.doctor import measure

    def say_or_stop(progress, text):
        if text.startswith("Checked 20"):
            raise KeyboardInterrupt

    monkeypatch.setattr(measure, "_CHUNK", 10)
    monkeypatch.setattr(measure._Progress, "__call__", say_or_stop)
    done = look(write(folder, PAIRS))
    assert done.exit_code == 130, done.output
    assert "of which 20 were checked before it was stopped: no problems found" in done.stdout


def test_an_error_exits_with_1(folder, look):
    rows = [{**row, "prompt": "word " * 300} for row in PAIRS]
    done = look(write(folder, rows), "data.max_length=64")
    assert done.exit_code == 1
    assert "error    masked" in done.stdout
    done = look(write(folder, PAIRS), 'data.train.datasets[0].prompt_template="{promt}"',
                'data.train.datasets[0].completion_template="{completion}"')  # fmt: skip
    assert done.exit_code == 1
    assert "Did you mean {prompt}?" in done.stdout


def test_a_config_is_read_from_its_folder(folder, look):
    (folder / "sub").mkdir()
    write(folder / "sub", PAIRS)
    (folder / "sub" / "config.yaml").write_text("data: {path: rows.jsonl, split_ratio: 0.5}")
    done = look("sub/config.yaml")
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("30 rows (11 to train on, 19 held out)")
    as_json = {"data": {"path": "rows.jsonl", "split_ratio": 0.5}}
    (folder / "sub" / "config.json").write_text(json.dumps(as_json))
    assert look("sub/config.json").stdout == done.stdout


def test_json_and_a_sample(folder, look):
    done = look(write(folder, PAIRS), "--json", "--sample", "10")
    assert done.exit_code == 0
    found = json.loads(done.stdout)
    assert found["looked_at"] == 11  # about 10: each split rounds up
    assert found["is_sample"]
    assert found["counts"] == {"error": 0, "warning": 0, "note": 0}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["none.jsonl"], "none.jsonl: no such file. Looked in {folder}."),
        (["none.yaml"], "none.yaml: no such file. Looked in {folder}."),
        (
            ["rows.jsonl", "data.max_lenth=3"],
            "data.max_lenth=3: is not a setting. Did you mean max_length?",
        ),
        (
            ["rows.jsonl", "--sample", "0"],
            "sample=0: is not at least 1. Leave it out to check all rows.",
        ),
    ],
)
def test_a_mistake_exits_with_2(folder, look, arguments, said):
    write(folder, PAIRS)
    done = look(*arguments)
    assert done.exit_code == 2
    assert done.stderr.strip() == said.replace("{folder}", str(folder))
    assert done.stdout == ""
