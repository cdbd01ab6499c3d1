"""The command line: a mistake is its sentences and exits with 2, without a traceback."""

import json
import os

import pytest
from typer.testing import CliRunner

from nbft import cli, events
from nbft.cli import app
from nbft.config import Config, presets, settings
from nbft.processes import process_start_time
from nbft.runs.exports import add_export
from nbft.runs.folder import Run
from nbft.runs.mark import mark

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
        (
            ["export-model", "kind-otter-14", "--to", "gguf"],
            "kind-otter-14: is no run in {folder}/runs (0 there).",
        ),
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


def test_a_plan_is_shown_and_printed_as_json(folder, tiny_model):
    rows = "".join(
        json.dumps({"prompt": f"Add {n}.", "completion": str(n)}) + "\n" for n in range(40)
    )
    (folder / "rows.jsonl").write_text(rows)
    Config(model={"model_name": str(tiny_model)}, data={"path": "rows.jsonl"}).save("c.yaml")
    shown = run("plan", "c.yaml")
    assert shown.exit_code == 0
    for words in ("Memory: about ", "Of it: libraries ", "Time: about ", "Energy: ", "a batch of "):
        assert words in shown.output
    plan = json.loads(run("plan", "c.yaml", "--json").output)
    assert sum(plan["memory_parts"].values()) == plan["memory_bytes"]
    assert plan["ranges"]["memory_bytes"][0] < plan["memory_bytes"]
    assert plan["errors"] == []


def test_a_plan_says_what_it_does_not_know(folder):
    (folder / "rows.jsonl").write_text('{"prompt": "a", "completion": "b"}\n' * 20)
    result = run("plan", "model.model_name=someone/unknown", "data.path=rows.jsonl")
    assert result.exit_code == 2  # no such file
    Config(model={"model_name": "someone/unknown-7b"}, data={"path": "rows.jsonl"}).save("c.yaml")
    result = run("plan", "c.yaml")
    assert "Assumed: someone/unknown-7b is not on this machine" in result.output
    assert "Memory" not in result.output


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


def test_settings_can_be_changed_on_resuming_from_the_shell(tmp_path, monkeypatch):
    (tmp_path / "kind-otter-14").mkdir()
    Config().save(tmp_path / "kind-otter-14" / "config.yaml", full=True)
    asked = []
    monkeypatch.setattr(Run, "resume", lambda run, changes: asked.append((run.id, changes)))
    changes = ["training.max_steps=60", "callbacks.callbacks={printer: {}}"]
    for overrides in (changes, []):
        done = CliRunner().invoke(
            app, ["resume", "kind-otter-14", *overrides, "--folder", str(tmp_path)]
        )
        assert done.output == "kind-otter-14: asked to resume.\n"
    assert asked == [
        (
            "kind-otter-14",
            {"training.max_steps": 60, "callbacks.callbacks": {"printer": {}}},
        ),
        ("kind-otter-14", {}),
    ]


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
    mark(tmp_path / "kind-otter-14")
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


def test_a_wrong_value_of_another_system_is_a_verdict_and_with_strict_an_error(tmp_path):
    file, own = tmp_path / "theirs.json", tmp_path / "ours.yaml"
    file.write_text('{"algorithm": "lora", "rank": 999}', encoding="utf-8")
    said = run("import", str(file), "--output", str(own), "--strict")
    assert said.exit_code == 2
    assert said.stderr == "line 1: rank=999: PEFT Studio: must be 4 to 64.\n"
    assert not own.exists()
    said = run("import", str(file), "--output", str(own))
    assert said.exit_code == 3
    assert said.stderr == "1 key could not be taken: the training may differ from theirs.\n"
    assert "Could not be taken (1):\nimpossible line 1: rank=999" in said.stdout
    assert Config.load(own).peft.r == Config().peft.r


def test_an_unknown_key_of_another_system_is_said_and_is_exit_code_3(tmp_path):
    file = tmp_path / "theirs.yml"
    file.write_text("base_model: a/b\nmicro_batch_size: 1\nmicro_batch_sise: 2\n")
    said = run("import", str(file), "--json")
    assert said.exit_code == 3
    report = json.loads(said.stdout)
    assert report["dropped"] == ["micro_batch_sise"]
    (line,) = [one for one in report["lines"] if one["key"] == "micro_batch_sise"]
    assert line["note"] == "nbft does not know this key. Did you mean micro_batch_size?"


def test_a_method_that_nbft_has_not_writes_nothing(tmp_path):
    file, own = tmp_path / "theirs.yml", tmp_path / "ours.yaml"
    file.write_text("base_model: a/b\nrl: ppo\nmicro_batch_size: 1\n")
    said = run("import", str(file), "--output", str(own))
    assert said.exit_code == 2
    assert said.stdout == ""
    assert said.stderr.startswith(
        "line 2: rl='ppo': asks for PPO (reinforcement learning), but nbft "
    )
    assert not own.exists()


SCRIPT = """
from trl import SFTConfig, SFTTrainer
from datasets import load_dataset
ds = load_dataset("json", data_files="rows.jsonl", split="train")
ds = ds.map(lambda r: {"text": f"Q: {r['q']}\\nA: {r['a']}"})
SFTTrainer("org/none", train_dataset=ds, args=SFTConfig(max_steps=3)).train()
"""


@pytest.fixture
def rows(folder):
    lines = [{"q": "Hi", "a": "Yes\x1b[2J"}, {"q": "And", "a": "No"}]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def test_rows_are_shown_with_what_is_trained(rows, tiny_model):
    settings = {"path": "rows.jsonl", "prompt_template": "{q}: ", "completion_template": "{a}"}
    config = Config(model={"model_name": str(tiny_model)}, data={**settings, "split_ratio": 1.0})
    config.save("c.yaml")
    said = run("inspect", "c.yaml", "--rows", "5")
    assert said.exit_code == 0, said.stderr
    assert "⟦trained⟧" in said.stdout
    assert "row 1 of 2 · " in said.stdout
    assert "row 2 of 2 · " in said.stdout
    assert "── prompt (not trained)\nHi: \n── completion (trained)\n⟦Yes" in said.stdout
    assert "[<|end|>]⟧" in said.stdout
    assert "\x1b" not in said.stdout, "no row commands the terminal"
    second = run("inspect", "c.yaml", "--row", "2").stdout
    assert "row 1 of 2" not in second
    assert "⟦No" in second
    whole = run("inspect", "c.yaml", "data.completion_only_loss=false").stdout
    assert "── prompt (trained)\n⟦Hi: ⟧" in whole
    cut = run("inspect", "c.yaml", "data.max_length=8", "--row", "2").stdout
    assert "[cut off: " in cut


def test_rows_of_another_systems_file(rows):
    (rows / "theirs.py").write_text(SCRIPT)
    said = run("inspect", "theirs.py", "--row", "2")
    assert said.exit_code == 0, said.stderr
    assert "⟦Q: And\nA: ⟧" in said.stdout, "the whole text is trained there"
    assert said.stderr.startswith("Unsloth and TRL: ")
    assert said.stderr.splitlines()[-1] == (
        "The model org/none is not on this machine, so rows are shown as text, without their tokens."
    )
    imported = run("import", "theirs.py", "--rows", "1")
    assert imported.exit_code == 0
    assert "row 1 of 2" in imported.stdout
    assert "row 2 of 2" not in imported.stdout
    as_json = json.loads(run("import", "theirs.py", "--rows", "2", "--json").stdout)
    assert [text.splitlines()[0][:10] for text in as_json["rows"]] == ["row 1 of 2", "row 2 of 2"]


def test_rows_that_cannot_be_shown_are_a_sentence(rows):
    assert run("inspect", "rows.jsonl").exit_code == 2  # q and a are no known columns
    assert (
        "row=9: is beyond the 1 row of train."
        in run(
            "inspect", "rows.jsonl", "data.train.datasets[0].input_columns=[q, a]", "--row", "9"
        ).stderr
    )
    said = run("inspect", "rows.jsonl", "--split", "tst")
    assert said.stderr.splitlines()[-1].startswith("split='tst': is no split.")
    (rows / "theirs.py").write_text(SCRIPT.replace("rows.jsonl", "gone.jsonl"))
    said = run("import", "theirs.py", "--rows", "1", "--output", "mine.yaml")
    assert said.exit_code == 0
    assert "The rows cannot be shown:\n" in said.stderr
    assert (rows / "mine.yaml").exists()


def test_a_file_of_a_method_that_nbft_does_not_have_writes_nothing(rows):
    (rows / "theirs.py").write_text(SCRIPT.replace("SFT", "PPO"))
    said = run("import", "theirs.py", "--output", "mine.yaml")
    assert said.exit_code == 2
    assert said.stderr.startswith(
        "theirs.py, line 6: PPOTrainer trains with the method 'ppo', which nbft does not support; "
        "nbft trains with the methods base, "
    )
    assert said.stderr.endswith(" sft.\n")
    assert not said.stdout
    assert not (rows / "mine.yaml").exists()


def test_the_compatibility_of_one_system():
    said = run("compatibility", "--system", "unsloth", "--json")
    assert [row["system"] for row in json.loads(said.stdout)] == ["unsloth"] * 12
    text = run("compatibility", "--system", "unsloth").stdout
    assert "12 parameters" in text


def test_an_error_in_the_progress_does_not_end_the_run(monkeypatch, capsys):
    """The run trains in a thread of the same process, which would end with it."""

    def closed(*_, **__):
        raise BrokenPipeError(32, "Broken pipe")

    progress = cli._Progress()
    with monkeypatch.context() as patch:
        patch.setattr(progress, "_line", closed)
        progress.show({"event": "stage", "text": "Loading …"})
    progress.show({"event": "completed", "step": 3, "seconds": 1.0})
    assert progress.state.end is not None
    said = capsys.readouterr()
    assert said.out == ""
    assert "The progress is no longer shown" in said.err


def test_a_note_that_is_over_is_said_in_the_terminal(capsys):
    progress = cli._Progress()
    progress.show({"event": "note", "step": 40, "kind": "flat", "text": "The loss is flat."})
    progress.show({"event": "answered", "step": 90, "kind": "flat"})
    said = capsys.readouterr().out.splitlines()
    assert [line.strip() for line in said] == [
        "Note: The loss is flat.",
        "Note: what was said at step 40 is over at step 90.",
    ]


def test_a_stage_says_the_time_left(capsys):
    progress = cli._Progress()
    progress.show({"event": "stage", "text": "Scoring 16 held-out rows …", "seconds_left": 72.0})
    progress.show({"event": "stage", "stage": "checkpoint", "text": "Saving a checkpoint …"})
    progress.show({"event": "stage", "text": "Saving the adapter …"})
    said = [line.strip() for line in capsys.readouterr().out.splitlines()]
    assert said == ["Scoring 16 held-out rows … (1 min 12 s left)", "Saving the adapter …"]


def test_attach_lists_the_exports_with_their_proofs(tmp_path):
    path = tmp_path / "kind-otter-14"
    path.mkdir()
    mark(path)
    Config(model={"model_name": "smollm2-135m"}).save(path / "config.yaml", full=True)
    events.append(path / "events.jsonl", "completed", step=1, seconds=1, adapter="adapter")
    add_export(path, "gguf", tmp_path / "out", {"passed": True}, "Same token ids.")
    done = CliRunner().invoke(app, ["attach", "kind-otter-14", "--folder", str(tmp_path)])
    assert f"Exported: gguf in {tmp_path / 'out'}. Same token ids." in done.output
