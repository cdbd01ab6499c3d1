"""Seven steps lead to a config file that checks, with or without questions."""

import pytest
from typer.testing import CliRunner

from nbft.cli import app
from nbft.config import Config


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 30)
    return tmp_path


def create(*more, **how):
    return CliRunner().invoke(app, ["config", "create", *more], **how)


def test_the_model_of_the_wizard(folder, tiny_model):
    result = create("--model", str(tiny_model), "--data", "rows.jsonl", "--yes")
    assert result.exit_code == 0, result.output
    config = Config.load("config.yaml")
    assert config.model.model_name == str(tiny_model)
    assert config.data.train.datasets[0].path == "rows.jsonl"
    assert "27 rows to train on: a small dataset needs 2 to 5 passes over it." in result.output
    assert "7 of 7. Review and launch" in result.output
    assert "[x] Rows: 27 rows read, 3 held out." in result.output


@pytest.mark.parametrize(
    ("method", "expected"),
    [("full", ("full", False)), ("lora", ("lora", False)), ("qlora", ("lora", True))],
)
def test_the_training_type_of_the_wizard(folder, tiny_model, method, expected):
    create("--model", str(tiny_model), "--method", method, "--data", "rows.jsonl", "--yes")
    config = Config.load("config.yaml")
    assert (config.peft.method, config.quantization.load_in_4bit) == expected


def test_auto_says_what_it_chose_and_why(folder, tiny_model):
    result = create("--model", str(tiny_model), "--method", "auto", "--data", "rows.jsonl", "--yes")
    assert "below 3 billion Oumi's guide recommends full training" in result.output


def test_the_output_of_the_wizard(folder, tiny_model):
    arguments = (
        "--model",
        str(tiny_model),
        "--data",
        "rows.jsonl",
        "--yes",
        "--output",
        "sub/a.yaml",
    )
    assert create(*arguments).exit_code == 0
    text = (folder / "sub" / "a.yaml").read_text()
    assert "# Small models need a higher rate than" in text or "# Oumi's recipe for full" in text
    config = Config.load("sub/a.yaml")
    assert config.data.train.datasets[0].path == str(folder / "rows.jsonl"), "found from there"
    again = create(*arguments)
    assert again.exit_code == 2
    assert "is there already" in again.stderr


def test_answers_are_checked_and_asked_again(folder, tiny_model):
    answers = ["lora", "", "5", "abc", "1e-4", "", "", "", "8", *[""] * 20]
    result = create(*("--model", str(tiny_model), "--data", "rows.jsonl"), input="\n".join(answers))
    assert "training.learning_rate=5: must be at most 1." in result.output
    assert "training.learning_rate='abc': is not a number." in result.output
    config = Config.load("config.yaml")
    assert config.training.learning_rate == 1e-4
    assert (config.peft.r, config.peft.lora_alpha) == (8, 16), "the next default goes by it"
    assert "Train it now?" in result.output
    assert not (folder / "runs").exists()


def test_a_wrong_method_and_a_missing_file_are_said(folder, tiny_model):
    result = create("--method", "magic", "--yes")
    assert result.exit_code == 2
    assert result.stderr.strip() == "method='magic': is not one of full, lora, qlora."
    assert not (folder / "config.yaml").exists()
    gone = create("--model", str(tiny_model), "--data", "gone.jsonl", "--yes")
    assert gone.exit_code == 2
    assert "[ ] Rows: data.train.datasets[0].path='gone.jsonl'" in gone.output
    assert (folder / "config.yaml").exists(), "it can be mended there"
