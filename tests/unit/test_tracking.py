"""Whether a tracker is installed and logged in, from what a machine has, without importing it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import nbft
from nbft import tracking
from nbft.cli import app
from nbft.config import Config, settings
from nbft.decisions import Decisions, choose_trackers, decide
from nbft.hardware import Choice
from nbft.tracking import TRACKERS, changed_variables, state_of, use_of

KEY = "0123456789abcdef" * 3
VARIABLES = """WANDB_MODE WANDB_DIR WANDB_CONFIG_DIR WANDB_API_KEY WANDB_IDENTITY_TOKEN_FILE WANDB_BASE_URL
NETRC COMET_API_KEY COMET_CONFIG COMET_INI COMET_START_ONLINE COMET_OFFLINE_DIRECTORY COMET_URL_OVERRIDE
MLFLOW_TRACKING_URI MLFLOW_TRACKING_TOKEN MLFLOW_TRACKING_USERNAME TRACKIO_DIR TRACKIO_SPACE_ID
TRACKIO_SERVER_URL TRACKIO_WRITE_TOKEN HF_HOME HF_TOKEN HF_TOKEN_PATH HUGGING_FACE_HUB_TOKEN
XDG_CACHE_HOME PHOENIX_COLLECTOR_ENDPOINT PHOENIX_API_KEY PHOENIX_CLIENT_HEADERS
OTEL_EXPORTER_OTLP_ENDPOINT OTEL_EXPORTER_OTLP_HEADERS PHOENIX_DISCOVER_CONFIG
TENSORBOARD_LOGGING_DIR"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without any login, in which the test runs."""
    for name in VARIABLES.split():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


def test_these_are_the_trackers_of_the_setting() -> None:
    report_to = next(setting for setting in settings() if setting.path == "tracking.report_to")
    assert list(report_to.choices) == list(TRACKERS)


@pytest.mark.parametrize("name", TRACKERS)
def test_one_that_is_missing_has_its_install_line(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking.importlib.util, "find_spec", lambda _: None)
    state = state_of(name)
    assert not state.is_installed
    assert state.sentence == f"Not installed: pip install {TRACKERS[name].package}"


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "comet_ml", "mlflow", "trackio"])
@pytest.mark.parametrize("version", ["1.2.3", ""])
def test_one_that_is_installed_has_its_version(
    name: str, version: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(home / "site" / name / "__init__.py", "raise AssertionError('it was imported')")
    if version:
        folder = f"{TRACKERS[name].package.replace('-', '_')}-{version}.dist-info"
        about = home / "site" / folder / "METADATA"
        write(about, f"Metadata-Version: 2.1\nName: {TRACKERS[name].package}\nVersion: {version}\n")
    monkeypatch.setattr(sys, "path", [str(home / "site")])
    monkeypatch.delitem(sys.modules, name, raising=False)
    state = state_of(name)
    assert state.version == version
    begin = f"Installed {version}, " if version else "Installed, "
    assert state.sentence.startswith(begin + state.use.value)


@pytest.mark.parametrize("has_otel", [False, True])
def test_phoenix_is_a_part_of_a_package(
    has_otel: bool, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(home / "site" / "phoenix" / "__init__.py", "raise AssertionError('it was imported')")
    if has_otel:
        write(home / "site" / "phoenix" / "otel" / "__init__.py", "")
    monkeypatch.setattr(sys, "path", [str(home / "site")])
    monkeypatch.delitem(sys.modules, "phoenix", raising=False)
    assert state_of("phoenix").is_installed == has_otel


WITHOUT_LOGIN = {
    "tensorboard": ("local", "written to the folder of the run"),
    "wandb": (
        "offline",
        "no login was found; written to the folder wandb, and “wandb sync” sends it later",
    ),
    "comet_ml": (
        "offline",
        "no login was found; written to the folder .cometml-runs, and “comet upload” sends it later",
    ),
    "mlflow": ("local", "written to mlflow.db or mlruns in this folder"),
    "trackio": (
        "local",
        f"written to {Path('~/.cache/huggingface/trackio')}, and “trackio show” opens it",
    ),
    "phoenix": ("online", "sent to localhost:6006, where a Phoenix server has to run"),
}


@pytest.mark.parametrize("name", TRACKERS)
def test_without_a_login_nothing_is_sent_to_an_account(name: str) -> None:
    assert use_of(name) == Choice(*WITHOUT_LOGIN[name])


WANDB_SETTINGS = f"[default]\napi_key = {KEY}\n"
NETRC = f"machine api.wandb.ai\n  login user\n  password {KEY}\n"
LOGINS: list[tuple[str, dict[str, str], dict[str, str], str]] = [
    # tracker, variables, files in the home, where the login is
    ("wandb", {"WANDB_API_KEY": KEY}, {}, "api.wandb.ai; the login is in WANDB_API_KEY"),
    ("wandb", {}, {".netrc": NETRC}, "api.wandb.ai; the login is in ~/.netrc"),
    ("wandb", {"NETRC": "there"}, {"there": NETRC}, "api.wandb.ai; the login is in there"),
    ("wandb", {}, {".config/wandb/settings": WANDB_SETTINGS}, "the login is in its settings file"),
    (
        "wandb",
        {"WANDB_BASE_URL": "https://wandb.example"},
        {".netrc": NETRC.replace("api.wandb.ai", "wandb.example")},
        "sent to wandb.example; the login is in ~/.netrc",
    ),
    ("comet_ml", {"COMET_API_KEY": KEY}, {}, "www.comet.com; the login is in COMET_API_KEY"),
    (
        "comet_ml",
        {},
        {".comet.config": f"[comet]\napi_key={KEY}\n"},
        "the login is in .comet.config",
    ),
    ("comet_ml", {}, {".env": f"export COMET_API_KEY='{KEY}'\n"}, "the login is in .env"),
    (
        "comet_ml",
        {"COMET_CONFIG": "team"},
        {"team/.comet.config": f"[comet]\napi_key={KEY}\nurl_override=https://comet.example/api\n"},
        f"sent to comet.example; the login is in {Path('team', '.comet.config')}",
    ),
    ("mlflow", {"MLFLOW_TRACKING_URI": "https://me:pw@flow:5000/x"}, {}, "sent to flow:5000"),
    (
        "mlflow",
        {"MLFLOW_TRACKING_URI": "http://flow", "MLFLOW_TRACKING_TOKEN": KEY},
        {},
        "the login is in MLFLOW_TRACKING_TOKEN",
    ),
    (
        "trackio",
        {"TRACKIO_SPACE_ID": "me/runs", "HF_TOKEN": KEY},
        {},
        "sent to the Space me/runs; the login is in HF_TOKEN",
    ),
    (
        "trackio",
        {"TRACKIO_SPACE_ID": "me/runs"},
        {".cache/huggingface/token": KEY},
        "sent to the Space me/runs",
    ),
    (
        "trackio",
        {"TRACKIO_SERVER_URL": f"https://track.example/?write_token={KEY}"},
        {},
        "sent to track.example; the login is its write token",
    ),
    (
        "phoenix",
        {
            "PHOENIX_COLLECTOR_ENDPOINT": "https://app.phoenix.arize.com/s/me",
            "PHOENIX_API_KEY": KEY,
        },
        {},
        "sent to app.phoenix.arize.com; the login is in PHOENIX_API_KEY",
    ),
    (
        "phoenix",
        {},
        {".env.phoenix": f"PHOENIX_COLLECTOR_ENDPOINT=http://there:6006\nPHOENIX_API_KEY={KEY}\n"},
        "sent to there:6006; the login is in ",
    ),
    (
        "phoenix",
        {"PHOENIX_COLLECTOR_ENDPOINT": "http://here:6006"},
        {},
        "sent to here:6006; without a login",
    ),
]


@pytest.mark.parametrize(("name", "variables", "files", "reason"), LOGINS)
def test_a_login_is_found_where_the_tracker_keeps_it(
    name: str,
    variables: dict[str, str],
    files: dict[str, str],
    reason: str,
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    for file, text in files.items():
        write(home / file, text)
    use = use_of(name)
    assert use.value == "online"
    assert reason in use.reason
    assert KEY[:16] not in str(use)
    assert "pw" not in str(use)
    assert changed_variables({name: use}) == {}


HELD_BACK: list[tuple[str, dict[str, str], tuple[str, str], dict[str, str | None]]] = [
    ("wandb", {}, ("offline", "no login"), {"WANDB_MODE": "offline"}),
    ("wandb", {"WANDB_MODE": "online"}, ("offline", "no login"), {"WANDB_MODE": "offline"}),
    (
        "wandb",
        {"WANDB_MODE": "offline", "WANDB_API_KEY": KEY},
        ("offline", "WANDB_MODE is offline"),
        {"WANDB_MODE": "offline"},
    ),
    ("wandb", {"WANDB_MODE": "disabled"}, ("off", "WANDB_MODE is disabled"), {}),
    ("comet_ml", {}, ("offline", "no login"), {"COMET_START_ONLINE": "0"}),
    (
        "comet_ml",
        {"COMET_START_ONLINE": "False", "COMET_API_KEY": KEY},
        ("offline", "COMET_START_ONLINE is off"),
        {"COMET_START_ONLINE": "0"},
    ),
    (
        "trackio",
        {"TRACKIO_SPACE_ID": "me/runs"},
        ("local", "no login was found for the Space me/runs"),
        {"TRACKIO_SPACE_ID": None, "TRACKIO_SERVER_URL": None},
    ),
    (
        "trackio",
        {"TRACKIO_SERVER_URL": "https://track.example"},
        ("local", "track.example needs TRACKIO_WRITE_TOKEN"),
        {"TRACKIO_SPACE_ID": None, "TRACKIO_SERVER_URL": None},
    ),
]


@pytest.mark.parametrize(("name", "variables", "use", "changed"), HELD_BACK)
def test_a_tracker_that_would_ask_for_a_key_is_held_back(
    name: str,
    variables: dict[str, str],
    use: tuple[str, str],
    changed: dict[str, str | None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    found = use_of(name)
    assert found.value == use[0]
    assert use[1] in found.reason
    assert changed_variables({name: found}) == changed


def test_what_wandb_offline_has_written_counts(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", KEY)
    write(home / "wandb" / "settings", "[default]\nmode = offline\n")
    use = use_of("wandb")
    assert use.value == "offline"
    assert use.reason.startswith("its settings file says offline")
    monkeypatch.setenv("WANDB_MODE", "online")
    assert use_of("wandb").value == "online"


@pytest.mark.parametrize("text", ["\0\xff", "[default\napi_key", "machine", "api_key = x"])
def test_a_broken_file_is_no_login(home: Path, text: str) -> None:
    for file in (".netrc", ".comet.config", ".config/wandb/settings"):
        write(home / file, text)
    assert use_of("wandb").value == use_of("comet_ml").value == "offline"


@pytest.mark.parametrize("value", ["http://[bad", "~nobody/x", "\udcff", "*" * 5000])
def test_whatever_the_variables_hold_there_is_a_sentence(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in VARIABLES.split():
        monkeypatch.setenv(name, value)
    for name in TRACKERS:
        assert state_of(name).sentence


def test_a_folder_that_is_gone(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "gone").mkdir()
    monkeypatch.chdir(home / "gone")
    (home / "gone").rmdir()
    for name in TRACKERS:
        assert use_of(name) == Choice(*WITHOUT_LOGIN[name])


@pytest.mark.parametrize("host", ["host", "[bad"])
def test_an_address_of_mlflow_is_shown_without_its_password(
    host: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for kind in ("postgresql", "https"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{kind}://me:{KEY}@{host}/runs?key={KEY}")
        assert KEY not in str(use_of("mlflow"))
        assert "/runs" in str(use_of("mlflow")) or "host" in str(use_of("mlflow"))


def test_a_hosted_phoenix_without_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PHOENIX_COLLECTOR_ENDPOINT", "https://app.phoenix.arize.com/s/me")
    assert "takes nothing without PHOENIX_API_KEY" in use_of("phoenix").reason


def test_tensorboard_writes_where_the_setting_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", "theirs")
    assert use_of("tensorboard").reason == "written to theirs"
    assert use_of("tensorboard", "ours").reason == "written to ours"


def test_what_a_tracker_ignores_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "version_of", lambda _: "1")
    assert state_of("tensorboard").sentence.endswith("It has no place for project or tags.")
    assert state_of("trackio").sentence.endswith("It has no place for tags.")
    assert "no place" not in state_of("wandb").sentence


def test_the_decisions_have_the_trackers_and_can_be_read_back() -> None:
    config = Config(tracking={"report_to": ["wandb", "tensorboard"]}, logging={"logging_dir": "tb"})
    decisions = decide(config)
    assert {name: use.value for name, use in decisions.trackers.items()} == {
        "wandb": "offline",
        "tensorboard": "local",
    }
    assert decisions.trackers["tensorboard"].reason == "written to tb"
    saved = json.loads(json.dumps(decisions.to_dict()))
    assert Decisions.from_dict(saved) == decisions
    del saved["trackers"]  # as written before there was a choice
    older = Decisions.from_dict(saved)
    assert older is not None
    assert older.trackers == {}
    for broken in ([], {"wandb": 3}, {"wandb": {"value": "offline"}}):
        assert Decisions.from_dict({**saved, "trackers": broken}) is None
    assert choose_trackers(Config()) == {}


def test_a_table_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking, "version_of", lambda name: "1.2" if name == "wandb" else None)
    table = nbft.trackers()
    assert [state.tracker.name for state in table] == list(TRACKERS)
    lines = str(table).splitlines()
    assert len(lines) == len(TRACKERS) + 1
    assert lines[2] == f"Weights & Biases  wandb         {table[1].sentence}"
    page = table._repr_html_()
    assert "Weights &amp; Biases" in page
    assert "pip install arize-phoenix-otel" in page


def test_the_command_prints_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    done = CliRunner().invoke(app, ["trackers"])
    assert (done.exit_code, done.stdout.strip()) == (0, str(nbft.trackers()))
    monkeypatch.setattr(tracking, "version_of", lambda name: None if name == "mlflow" else "2")
    states: list[dict[str, Any]] = json.loads(
        CliRunner().invoke(app, ["trackers", "--json"]).stdout
    )
    by_name = {state["name"]: state for state in states}
    assert by_name["wandb"]["use"] == "offline"
    assert (by_name["mlflow"]["version"], by_name["mlflow"]["use"]) == (None, None)


def test_no_tracker_is_imported() -> None:
    code = "import sys, nbft; str(nbft.trackers()); print([m for m in %r if m in sys.modules])"
    modules = [tracker.module.partition(".")[0] for tracker in TRACKERS.values()]
    done = subprocess.run(
        [sys.executable, "-c", code % modules], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
