"""The command line: a mistake is its sentences and exits with 2, without a traceback."""

import json
import os

import pytest
from typer.testing import CliRunner

from nbft import events
from nbft.cli import app
from nbft.config import Config, presets, settings
from nbft.runs.processes import process_start_time

BROKEN = """
model:
  model_name: nowhere
data:
  train:
    datasets:
      - path: gone.jsonl
      - dataset_name: grammar
        prompt_template: "{imput}"
        completion_template: "{target}"
training:
  learning_rate: 5
  max_step: 3
checkpoint:
  load_best_model_at_end: true
"""


def run(*arguments):
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture
def folder(tmp_path, monkeypatch, empty_cache):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("command", [["train"], ["config", "check"]])
def test_a_broken_file_is_refused_with_every_problem(folder, command):
    (folder / "broken.yaml").write_text(BROKEN)
    result = run(*command, "broken.yaml")
    assert result.exit_code == 2
    said = result.stderr.splitlines()
    assert sorted(line.partition(": ")[0] for line in said) == [
        "checkpoint.load_best_model_at_end=True",
        "data.train.datasets[0].path='gone.jsonl'",
        "data.train.datasets[1].prompt_template='{imput}'",
        "model.model_name='nowhere'",
        "training.learning_rate=5",
        "training.max_step=3",
    ]
    assert "training.max_step=3: is not a setting. Did you mean max_steps?" in said
    assert any("Did you mean {input}?" in line for line in said)
    assert "Traceback" not in result.output + result.stderr
    assert not (folder / "runs").exists(), "nothing was started"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["train", "none.yaml"], "none.yaml: no such file. Looked in {folder}."),
        (["config", "show", "none.yaml"], "none.yaml: no such file. Looked in {folder}."),
        (
            ["config", "new", "a.yaml", "--preset", "x"],
            f"preset='x': is not one of {', '.join(presets())}.",
        ),
        (["compare", "kind-otter-14"], "kind-otter-14: is no run in {folder}/runs (0 there)."),
    ],
)
def test_the_words_of_what_is_not_there(folder, arguments, said):
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stderr.strip() == said.replace("{folder}", str(folder))


def test_a_wrong_override_is_said(folder):
    (folder / "c.yaml").write_text("data: {dataset_name: alpaca}")
    result = run("config", "check", "c.yaml", "training.sed=1", "training.learning_rate=x")
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        "training.learning_rate='x': is not a number. The default is 0.0002.",
        "training.sed=1: is not a setting. Did you mean seed?",
    ]


def test_every_preset_is_listed_with_a_line(folder):
    lines = run("config", "presets").output.splitlines()
    assert [line.split()[0] for line in lines] == list(presets())
    assert all(len(line.split()) > 5 for line in lines)
    assert max(map(len, lines)) <= 110


def test_a_new_config_checks_and_is_not_overwritten(folder):
    result = run("config", "new", "mine.yaml")
    assert result.exit_code == 0
    assert Config.load("mine.yaml") == Config.preset("two-minute-try")
    assert "# " in (folder / "mine.yaml").read_text()
    checked = run("config", "check", "mine.yaml", "data.train.datasets[0].sample_count=20")
    assert checked.exit_code == 0
    assert "Ready." in checked.output
    assert "20 training rows" in checked.output
    again = run("config", "new", "mine.yaml")
    assert again.exit_code == 2
    assert again.stderr == "mine.yaml: is there already. Name another file, or remove it.\n"


def test_every_setting_is_listed(folder):
    shown = run("config", "show", "--all").output
    for setting in settings():
        assert setting.path in shown
    assert "optimizer.adam_beta1" not in run("config", "show").output


def test_no_runs_yet(folder):
    assert run("runs", "--json").output.strip() == "[]"
    assert run("runs").output.startswith("No runs in runs. Start one with: nbft train FILE")


def test_runs_are_listed(folder):
    path = folder / "runs" / "kind-otter-14"
    path.mkdir(parents=True)
    Config(data={"dataset_name": "alpaca"}).save(path / "config.yaml")
    (one,) = json.loads(run("runs", "--json").output)
    assert (one["id"], one["status"], one["step"]) == ("kind-otter-14", "created", 0)
    assert "kind-otter-14" in run("runs").output


def test_a_run_can_be_asked_from_the_shell(tmp_path):
    run = tmp_path / "kind-otter-14"
    run.mkdir()
    Config().save(run / "config.yaml", full=True)
    pid = os.getpid()
    events.append(
        run / "events.jsonl", "started", pid=pid, process_start_time=process_start_time(pid)
    )
    for name in ("stop", "pause", "save", "sample"):
        done = CliRunner().invoke(app, [name, "kind-otter-14", "--folder", str(tmp_path)])
        assert done.exit_code == 0
        assert done.output == f"kind-otter-14: asked to {name}.\n"
    assert [e["event"] for e in events.read(run / "commands.jsonl")] == [
        "stop",
        "pause",
        "save",
        "sample",
    ]
    done = CliRunner().invoke(app, ["continue", "kind-otter-14", "--folder", str(tmp_path)])
    assert done.exit_code == 2
    assert "kind-otter-14: is running; there is nothing to continue." in done.output


def test_an_unknown_run_is_said_with_the_nearest(tmp_path):
    (tmp_path / "kind-otter-14").mkdir()
    Config().save(tmp_path / "kind-otter-14" / "config.yaml")
    done = CliRunner().invoke(app, ["stop", "kind-oter-14", "--folder", str(tmp_path)])
    assert done.exit_code == 2
    assert "Did you mean kind-otter-14?" in done.output


def test_a_file_of_another_system_becomes_ours(tmp_path):
    file, own = tmp_path / "theirs.json", tmp_path / "ours.yaml"
    file.write_text('{"base_model": "a/b", "algorithm": "dora", "rank": 16}', encoding="utf-8")
    said = run("import", str(file), "--output", str(own))
    assert said.exit_code == 0, said.output
    assert said.stdout.startswith("PEFT Studio: 3 keys read")
    assert "renamed    line 1: rank=16 -> peft.r=16" in said.stdout
    assert Config.load(own).peft.use_dora
    as_json = run("import", str(file), "--from", "peft_studio", "--json")
    assert json.loads(as_json.stdout)["config"]["peft"]["use_dora"]
    back = run("export", str(own), "--to", "peft_studio")
    assert json.loads(back.stdout)["algorithm"] == "dora"


def test_a_wrong_file_of_another_system_is_sentences(tmp_path):
    file = tmp_path / "theirs.json"
    file.write_text('{"algorithm": "lora", "rank": 999}', encoding="utf-8")
    said = run("import", str(file))
    assert said.exit_code == 2
    assert said.stderr == "line 1: rank=999: PEFT Studio: must be 4 to 64.\n"


def test_the_compatibility_of_one_system():
    said = run("compatibility", "--system", "unsloth", "--json")
    assert [row["system"] for row in json.loads(said.stdout)] == ["unsloth"] * 12
    text = run("compatibility", "--system", "unsloth").stdout
    assert "12 parameters" in text
