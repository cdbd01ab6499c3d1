"""Every line of the list before a run says what a check found."""

import json

import pytest

from nbft.config import Config
from nbft.plan import make_plan
from nbft.plan.checklist import checklist, method_of

CHAT = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}


@pytest.fixture
def config(tiny_model, write):
    rows = write("rows.jsonl", '{"prompt": "a", "completion": "b"}\n' * 20)
    return Config(model={"model_name": str(tiny_model)}, data={"path": rows})


def states(config):
    return {item.title: item.state for item in checklist(make_plan(config))}


def line(config, title):
    return next(str(i) for i in checklist(make_plan(config)) if i.title == title)


def test_a_run_that_can_start_passes_everything(config):
    assert set(states(config).values()) == {"passed"}
    assert line(config, "Rows") == "[x] Rows: 18 rows read, 2 held out."
    assert line(config, "Method").startswith("[x] Method: LoRA trains ")


@pytest.mark.parametrize(
    ("change", "title"),
    [
        ({"model.model_name": "nowhere"}, "Model"),
        ({"peft.target_modules": ["no_such_layer"]}, "Method"),
        ({"checkpoint.load_best_model_at_end": True}, "Hyperparameters"),
        ({"compute.device": "cuda"}, "Machine"),
        ({"data.train.datasets[0].path": "gone.jsonl"}, "Rows"),
        ({"tracking.report_to": ["mlflow"]}, "Tracking"),
    ],
)
def test_what_is_wrong_is_to_mend_in_its_line(config, change, title, monkeypatch):
    monkeypatch.setattr("nbft.devices.nvidia_gpus", lambda: ())
    for place in ("nbft.plan.checklist.version_of", "nbft.plan.checks.version_of"):
        monkeypatch.setattr(place, lambda _: None)
    found = states(config.apply(change))
    assert found[title] == "to fix"
    assert [name for name, state in found.items() if state == "to fix"] == [title]


def test_what_cannot_be_known_yet_is_said(config, empty_cache):
    away = config.apply({"model.model_name": "someone/model-7b"})
    found = states(away)
    assert {found[name] for name in ("Model", "Memory", "Time")} == {"unknown"}
    assert line(away, "Model").startswith("[?] Model: someone/model-7b is not on this machine")


def test_a_conversation_needs_a_template(config, write, tiny_model, tmp_path):
    rows = write("chat.jsonl", (json.dumps(CHAT) + "\n") * 20)
    chat = config.apply({"data.train.datasets[0].path": rows})
    bare = tmp_path / "bare"
    bare.mkdir()
    for file in tiny_model.iterdir():
        if "template" not in file.name:
            (bare / file.name).write_bytes(file.read_bytes())
    about = json.loads((bare / "tokenizer_config.json").read_text())
    about.pop("chat_template", None)
    (bare / "tokenizer_config.json").write_text(json.dumps(about))
    without = chat.apply({"model.model_name": str(bare)})
    assert states(without)["Chat template"] == "to fix"
    given = without.apply({"model.chat_template": "chatml"})
    assert states(given)["Chat template"] == "passed"


def test_a_tracker_without_a_login_is_offline(config, monkeypatch, tmp_path):
    for place in ("nbft.plan.checklist.version_of", "nbft.plan.checks.version_of"):
        monkeypatch.setattr(place, lambda _: "1")
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    asked = config.apply({"tracking.report_to": ["wandb"]})
    begin = "[x] Tracking: Weights & Biases"
    line = str(checklist(make_plan(asked))[8])
    assert line.startswith(f"{begin} offline: no login was found; written to ")
    monkeypatch.setenv("WANDB_API_KEY", "x")
    line = str(checklist(make_plan(asked))[8])
    assert line == f"{begin} online: sent to api.wandb.ai; the login is in WANDB_API_KEY."


def test_the_names_of_methods():
    assert method_of(Config(peft={"method": "full"})) == "Full training"
    assert method_of(Config(peft={"use_dora": True})) == "DoRA"
