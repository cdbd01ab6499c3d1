"""Seven questions lead to a config file that checks; so do none."""

import re

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
    answers = ["lora", "no", "", "5", "abc", "1e-4", "", "", "", "8", *[""] * 20]
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


def asked(output):
    """Return what was asked: the lines of prompts, which end with a default in brackets."""
    return re.findall(r"^  (.+?) \[", output, flags=re.M)


def test_there_are_seven_questions_in_the_order_of_the_steps(folder, tiny_model):
    expected = [
        *("model.model_name", "data", "method", "keep these", "keep these"),
        *("tracking.report_to", "training.output_dir"),
    ]
    own = create(input="\n".join([str(tiny_model), "rows.jsonl", *[""] * 20]))
    assert asked(own.output) == expected
    assert Config.load("config.yaml").data.train.datasets[0].path == "rows.jsonl"
    sample = create("--output", "b.yaml", input="\n" * 20)
    assert asked(sample.output) == expected
    assert Config.load("b.yaml").data.train.datasets[0].sample_count == 1000
    assert "training.learning_rate: 0.0003. Small models need" in sample.output


def test_a_file_that_cannot_be_read_is_asked_for_again(folder, tiny_model):
    result = create(input="\n".join([str(tiny_model), "row.jsonl", "rows.jsonl", *[""] * 20]))
    assert "data.train.datasets[0].path='row.jsonl': does not exist." in result.output
    assert Config.load("config.yaml").data.train.datasets[0].path == "rows.jsonl"


@pytest.fixture
def odd(folder):
    rows = "".join(f"wort {i},from a book,meaning {i}\n" for i in range(40))
    (folder / "odd.csv").write_text("german word,remark,gloss\n" + rows)
    return folder


def test_columns_that_do_not_tell_are_asked_for(odd, tiny_model):
    columns = ["1", "0", "gloss", "1", "yes"]
    result = create(input="\n".join([str(tiny_model), "odd.csv", *columns, *[""] * 20]))
    titles = ["prompt", "further text of the prompt", "answer", "text around the prompt"]
    assert asked(result.output)[2:7] == [*titles, "keep these columns"]
    assert "    0 none\n    1 german word\n    2 remark\n    3 gloss\n  prompt [1]" in result.output
    assert "      | Question: wort 0\n      | \n      | Answer:" in result.output
    assert "    completion:\n      | meaning 0" in result.output
    assert re.search(r"3\d rows to train on", result.output), "a part is held out"
    (dataset,) = Config.load("config.yaml").data.train.datasets
    assert dataset.prompt_template == "Question: {german word}\n\nAnswer:\n"
    assert dataset.completion_template == "{gloss}"
    assert re.search(r"\[x\] Rows: 3\d rows read", result.output)


def test_the_likeliest_columns_are_the_default_and_wrong_ones_are_asked_again(odd, tiny_model):
    columns = ["9", "", "", "0", "", "", "perhaps", "no", "", "0", "", "", ""]
    result = create(input="\n".join([str(tiny_model), "odd.csv", *columns, *[""] * 20]))
    assert "9 is neither a number from 0 to 3 nor one of these names." in result.output
    assert "The model is trained to write the answer: choose its column." in result.output
    assert "perhaps is neither yes nor no." in result.output
    assert result.output.count("The first row, as the model sees it:") == 2
    (dataset,) = Config.load("config.yaml").data.train.datasets
    assert (dataset.prompt_template, dataset.columns) == ("{german word}\n", {})


def test_without_questions_the_likeliest_columns_are_taken_and_shown(odd, tiny_model):
    result = create("--model", str(tiny_model), "--data", "odd.csv", "--yes")
    assert result.exit_code == 0, result.output
    assert "german word is the prompt, gloss the answer." in result.output
    assert "    prompt:\n      | wort 0\n" in result.output
    (dataset,) = Config.load("config.yaml").data.train.datasets
    assert dataset.completion_template == "{gloss}"
