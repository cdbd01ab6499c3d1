"""Code that a config names: nothing imports it before the person who runs it has agreed."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import nbft
from nbft import consent, registry
from nbft.cli import app
from nbft.config import Config
from nbft.config.code import allow_code, code_of, forbidden, function_code
from nbft.errors import ConfigError, DataError, NbftError
from nbft.runs import Run

CODE = """
from pathlib import Path

(Path(__file__).parent / "it-ran").touch()


def prompt(row):
    return row["question"]


def completion(row):
    return " " + row["answer"]


def score(answers, references, rows):
    return 1.0
"""

YAML = """
model: {{model_name: {model}, dtype: float32}}
data:
  train:
    datasets:
      - {{path: rows.jsonl, prompt_func: "code.py:prompt", completion_func: "code.py:completion"}}
  split_ratio: 0.5
training: {{max_steps: 1, output_dir: runs}}
evaluation: {{sample_count: 0}}
"""


@pytest.fixture
def consents(tmp_path, monkeypatch):
    """Nobody has consented to anything."""
    monkeypatch.setenv("NBFT_CONSENT", str(tmp_path / "consents"))
    monkeypatch.setattr(consent, "_this_session", set())
    return tmp_path / "consents"


@pytest.fixture
def theirs(tmp_path, consents, tiny_model, monkeypatch):
    """A folder with somebody's config, rows, and code that leaves a trace."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    rows = [{"question": f"What is {n}?", "answer": str(n)} for n in range(12)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "code.py").write_text(CODE)
    (folder / "config.yaml").write_text(YAML.format(model=tiny_model))
    monkeypatch.chdir(folder)
    return folder


def ran(folder: Path) -> bool:
    return (folder / "it-ran").exists()


def test_loading_showing_checking_and_planning_run_nothing(theirs):
    config = Config.load("config.yaml")
    assert not config.is_own
    plan = nbft.make_plan(config, folder=theirs)
    (first, *_) = plan.errors
    assert str(first) == (
        "data.train.datasets[0].prompt_func='code.py:prompt': would run code from "
        f"{theirs}/code.py:prompt, which you have not allowed. Read it, then allow it: with the "
        "button in the form, --allow-code on the command line, or allow_code=True in Python."
    )
    assert [p.field.rpartition(".")[2] for p in plan.errors] == ["prompt_func", "completion_func"]
    for look in (config.to_yaml, config.diff, config.to_python, lambda: code_of(config)):
        look()
    assert "which you have not allowed" in " ".join(repr(nbft.doctor(config)).split())
    nbft.inspect(config)
    for name in ("train", "submit"):
        with pytest.raises(NbftError, match="which you have not allowed"):
            getattr(nbft, name)(config)
    with pytest.raises(NbftError, match="which you have not allowed"):
        nbft.train("config.yaml", show=False)
    assert not ran(theirs)


def test_consent_is_asked_once_and_again_when_the_code_changes(theirs, consents):
    config = Config.load("config.yaml", allow_code=True)
    assert not ran(theirs), "allowing is not running"
    assert len(list(consents.iterdir())) == 2
    assert consents.stat().st_mode & 0o077 == 0
    consent._this_session.clear()  # another process
    assert forbidden(config, theirs) == []
    assert nbft.make_plan(config, folder=theirs).errors == []
    assert ran(theirs)
    (theirs / "code.py").write_text(CODE + "\n# changed\n")
    assert [code.name for code in forbidden(config)] == ["code.py:prompt", "code.py:completion"]


def test_the_consent_of_somebody_else_is_none(theirs, consents, monkeypatch):
    config = Config.load("config.yaml", allow_code=True)
    consent._this_session.clear()
    monkeypatch.setattr(os, "getuid", lambda: 12345)
    assert len(forbidden(config)) == 2


def test_a_copy_elsewhere_is_other_code(theirs, tmp_path):
    Config.load("config.yaml", allow_code=True)
    copy = tmp_path / "copy"
    copy.mkdir()
    for name in ("config.yaml", "code.py", "rows.jsonl"):
        (copy / name).write_bytes((theirs / name).read_bytes())
    assert len(forbidden(Config.load(copy / "config.yaml"), copy)) == 2


def own_config(tiny_model, folder) -> Config:
    return Config(
        model={"model_name": str(tiny_model), "dtype": "float32"},
        data={
            "path": str(folder / "rows.jsonl"),
            "prompt_func": f"{folder}/code.py:prompt",
            "completion_func": f"{folder}/code.py:completion",
        },
    )


def test_a_config_made_here_runs_its_code_without_asking(theirs, tiny_model):
    config = own_config(tiny_model, theirs)
    assert config.is_own
    assert config.apply({"training.max_steps": 2}).is_own
    assert config.override("training.max_steps=2").is_own
    assert nbft.make_plan(config).errors == []
    assert ran(theirs)


def test_what_is_changed_in_somebodys_config_stays_theirs(theirs):
    config = Config.load("config.yaml")
    for changed in (
        config.apply({"training.max_steps": 2}),
        config.override("training.max_steps=2"),
        config.model_copy(deep=True),
        Config.from_yaml(config.to_yaml()),
    ):
        assert not changed.is_own
        assert len(forbidden(changed)) == 2
    assert Config.preset("two-minute-try").apply({"training.max_steps": 2}).is_own


def test_a_background_run_of_ones_own_is_allowed_in_its_own_process(theirs, tiny_model):
    config = own_config(tiny_model, theirs)
    run = Run.create(config.apply({"training.output_dir": str(theirs / "runs")}))
    consent._this_session.clear()  # its worker is another process
    assert forbidden(run.config) == []


@pytest.mark.parametrize("name", ["subprocess:call", "os:system", "builtins:eval", "shutil:rmtree"])
def test_a_part_of_python_is_never_run(name, theirs, tiny_model):
    text = YAML.format(model=tiny_model).replace("code.py:prompt", name)
    (theirs / "config.yaml").write_text(text)
    config = Config.load("config.yaml", allow_code=True)
    (one, *_) = [p for p in nbft.make_plan(config, folder=theirs).errors if name in str(p)]
    assert "is part of Python, not a function for rows or answers." in str(one)
    own = Config(
        data={"path": "rows.jsonl", "prompt_func": name, "completion_template": "{answer}"}
    )
    assert any("is part of Python" in str(p) for p in nbft.make_plan(own, folder=theirs).errors)


def test_a_package_that_offers_no_functions_is_not_run_for_others(theirs, tiny_model, monkeypatch):
    written = "jinja2.sandbox:is_internal_attribute"
    code = function_code(written, "x", theirs)
    assert "does not offer it in the group nbft.functions" in code.refusal
    assert function_code(written, "x", theirs, is_own=True).refusal == ""
    monkeypatch.setattr("nbft.config.code._offered", lambda: {written})
    assert function_code(written, "x", theirs).refusal == ""


def test_finding_code_imports_nothing(theirs):
    (theirs / "pack" / "deep").mkdir(parents=True)
    for file in ("pack/__init__.py", "pack/deep/__init__.py", "pack/deep/code.py"):
        (theirs / file).write_text(CODE.replace("parent /", f"parents[{file.count('/')}] /"))
    code = function_code("pack.deep.code:prompt", "x", theirs)
    assert code.place == f"{theirs}/pack/deep/code.py:prompt"
    assert "def prompt(row)" in code.source
    assert not ran(theirs)
    for missing in ("pack.none:f", "none:f", "none.deep:f", "pack.deep.code.x:f", "__main__:f"):
        assert "there is no module" in function_code(missing, "x", theirs).refusal
        assert function_code(missing, "x", theirs, is_own=True) is None
    for nothing in (":f", "f", "a:", "pack.deep.code:"):
        assert function_code(nothing, "x", theirs) is None


class InPlace:
    """Finds a package as the finders of packages do that are installed in place."""

    def __init__(self, file):
        self.file = file

    def find_spec(self, name, *_):
        if name == "in_place":
            return importlib.util.spec_from_file_location(name, self.file)
        return None


def test_a_package_that_only_a_finder_knows_asks_too(theirs, tiny_model, monkeypatch, tmp_path):
    file = tmp_path / "elsewhere.py"
    file.write_text(CODE)
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, InPlace(file)])
    (theirs / "config.yaml").write_text(
        YAML.format(model=tiny_model).replace("code.py:prompt", "in_place:prompt")
    )
    config = Config.load("config.yaml", allow_code=True)
    assert "does not offer it" in str(nbft.make_plan(config, folder=theirs).errors[0])
    assert not ran(tmp_path)
    assert function_code("in_place:prompt", "x", theirs, is_own=True).place == f"{file}:prompt"


def test_a_module_that_cannot_be_seen_is_not_imported(theirs, tiny_model, monkeypatch):
    """A finder may make modules from nothing that a file could show."""
    monkeypatch.setattr("nbft.config.code._module_file", lambda *_: None)
    usual = importlib.import_module

    def import_module(name, *more):
        assert not name.startswith("unseen"), f"{name} was imported"
        return usual(name, *more)

    monkeypatch.setattr("importlib.import_module", import_module)
    (theirs / "config.yaml").write_text(
        YAML.format(model=tiny_model).replace("code.py:", "unseen.code:")
    )
    errors = nbft.make_plan(Config.load("config.yaml"), folder=theirs).errors
    assert str(errors[0]) == (
        "data.train.datasets[0].prompt_func='unseen.code:prompt': there is no module unseen.code. "
        "Write path/to/file:function."
    )


def test_a_missing_file_is_reported_as_missing(theirs):
    (theirs / "code.py").unlink()
    config = Config.load("config.yaml")
    assert "there is no file" in str(nbft.make_plan(config, folder=theirs).errors[0])


def test_a_metric_asks_like_a_prompt(theirs):
    text = (theirs / "config.yaml").read_text()
    text = text.replace("sample_count: 0", "sample_count: 0, metric_function: 'code.py:score'")
    (theirs / "config.yaml").write_text(text)
    errors = nbft.make_plan(Config.load("config.yaml"), folder=theirs).errors
    assert any(p.field == "evaluation.metric_function" and "not allowed" in p.why for p in errors)
    assert not ran(theirs)


@pytest.mark.parametrize(
    "changes",
    [
        {"model.trust_remote_code": True},
        {"model.tokenizer_kwargs": {"trust_remote_code": True}},
        {"model.model_init_kwargs": {"trust_remote_code": True}},
    ],
)
def test_code_of_a_model_asks_too(changes, consents, tmp_path, tiny_model):
    Config(model={"model_name": str(tiny_model)}, data={"dataset_name": "alpaca"}).apply(
        changes
    ).save(tmp_path / "config.yaml")
    config = Config.load(tmp_path / "config.yaml")
    assert any("not allowed" in p.why for p in nbft.make_plan(config).errors)
    from nbft.models.load import load_model, load_tokenizer

    for load in (load_tokenizer, lambda *given: load_model(*given, "float32")):
        with pytest.raises(NbftError, match="which you have not allowed"):
            load(config, tiny_model)
    assert allow_code(config)
    assert not [p for p in nbft.make_plan(config).errors if "not allowed" in p.why]


@pytest.fixture
def package(tmp_path, monkeypatch):
    """An installed package with an optimiser, a trainer and a schedule."""
    site = tmp_path / "site"
    about = site / "theirs-1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text(
        "".join(
            f"[nbft.{group}]\ntheirs = their_code:make\n"
            for group in ("optimizers", "schedulers", "trainers", "callbacks", "metrics")
        )
    )
    trace = tmp_path / "it-ran"
    (site / "their_code.py").write_text(f"open({str(trace)!r}, 'w')\nmake = lambda *a, **k: 1.0\n")
    monkeypatch.syspath_prepend(str(site))
    registry._entry_points_of_packages.cache_clear()
    for one in registry.ALL:
        one.__dict__.pop("_entry_points", None)
    yield trace
    monkeypatch.undo()
    registry._entry_points_of_packages.cache_clear()
    for one in registry.ALL:
        one.__dict__.pop("_entry_points", None)


@pytest.mark.parametrize(
    "changes",
    [
        {"optimizer.optim": "theirs"},
        {"scheduler.lr_scheduler_type": "theirs"},
        {"training.method": "theirs"},
        {"callbacks.callbacks": {"theirs": {}}},
        {"evaluation.metric_function": "theirs"},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_components_of_packages_ask_too(changes, package, consents, tmp_path):
    tree = Config(data={"dataset_name": "alpaca"}).to_dict()
    from nbft.config import io

    for path, value in changes.items():
        io.put(tree, path, value)
    (tmp_path / "config.yaml").write_text(io.dump_yaml(tree))
    config = Config.load(tmp_path / "config.yaml")
    errors = [str(p) for p in nbft.make_plan(config).errors]
    assert any("would run code from theirs 1.0 (their_code:make)" in text for text in errors), (
        errors
    )
    assert not package.exists()
    own = Config(**tree)
    assert forbidden(own) == []
    assert not consents.exists(), "a config of one's own consents for its session only"
    consent._this_session.clear()
    allow_code(config)
    assert forbidden(config) == []


def test_the_command_line_asks_by_a_flag(theirs):
    done = CliRunner().invoke(app, ["config", "check", "config.yaml"])
    assert (done.exit_code, ran(theirs)) == (2, False)
    assert "which you have not allowed" in done.output
    done = CliRunner().invoke(app, ["config", "check", "config.yaml", "--allow-code"])
    assert (done.exit_code, ran(theirs)) == (0, True), done.output
    done = CliRunner().invoke(app, ["config", "check", "config.yaml"])
    assert done.exit_code == 0, "it is asked once"


def test_the_command_line_asks_at_a_terminal(theirs, monkeypatch):
    runner = CliRunner()

    def check(answers):
        monkeypatch.setattr("nbft.cli._is_terminal", lambda: True)
        return runner.invoke(app, ["config", "check", "config.yaml"], input=answers)

    done = check("n\nn\n")
    assert (done.exit_code, ran(theirs)) == (2, False)
    assert 'return row["question"]' in done.output, "the source is shown"
    done = check("y\ny\n")
    assert (done.exit_code, ran(theirs)) == (0, True), done.output


def test_importing_the_command_line_as_a_script_makes_no_config_ones_own(theirs):
    command = [sys.executable, "-m", "nbft.cli", "doctor", "config.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=theirs)
    assert "which you have not allowed" in " ".join((done.stdout + done.stderr).split())
    assert not ran(theirs)


def test_without_a_folder_for_consents_this_session_remembers(theirs, consents):
    consents.write_text("in the way")
    config = Config.load("config.yaml", allow_code=True)
    assert forbidden(config) == []


def test_a_refusal_cannot_be_overruled(theirs):
    with pytest.raises(ValueError, match="part of Python"):
        consent.allow(function_code("os:system", "x", theirs))
    with pytest.raises((DataError, ConfigError)):
        nbft.train(Config(data={"path": "rows.jsonl", "prompt_func": "os:system"}), allow_code=True)
