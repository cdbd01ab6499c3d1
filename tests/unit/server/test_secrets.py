"""A run full of secrets, in everything that shows a run: none of them leaves."""

from __future__ import annotations

import json
import logging
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from nbft import events
from nbft.cli import app
from nbft.config import Config
from nbft.pages.report import write_report
from nbft.runs import Run
from nbft.runs.summary import summary
from nbft.server import answers, roots
from nbft.training.environment import _Redacted, run_log
from nbft.widgets import Form, Monitor

WORD = "s3cret"
TOKEN = "hf_" + "a1B2c3D4" * 4
ADDRESS = f"https://user:{WORD}@host.org/rows.jsonl?token={WORD}&page=2"
SAYS = [
    f"GET {ADDRESS}",
    f"Authorization: Bearer {WORD}abcdef",
    f"logged in with {TOKEN}",
    json.dumps({"message": json.dumps({"api_key": WORD})}),
    f"WANDB_API_KEY={WORD}",
]
PLAIN = "the tokenizer has pad_token=<pad>"


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A run that failed, as an earlier version wrote it: with secrets in all of its files."""
    path = tmp_path / "runs" / "kind-otter-1"
    path.mkdir(parents=True)
    config = Config(
        model={
            "model_name": ADDRESS,
            "model_init_kwargs": {"token": WORD, "nested": [{"secretKey": WORD}]},
        },
        data={"path": ADDRESS},
        tracking={"tags": [f"token={WORD}"]},
    )
    config.save(path / "config.yaml", full=True)
    said = "\n".join(SAYS)
    lines: list[dict[str, Any]] = [
        {"event": "started", "versions": {"python": said}, "model": ADDRESS, "token": WORD},
        {"event": "prepared", "device": "cpu", "device_reason": said, "rows": 2, "total_steps": 2},
        {"event": "stage", "text": said},
        {"event": "log", "step": 1, "loss": 1.0, "headers": {"Authorization": WORD}},
        {"event": "note", "step": 1, "text": f"{said} {PLAIN}"},
        {"event": "warning", "text": said},
        {"event": "checkpoint", "step": 1, "path": f"checkpoints?token={WORD}"},
        *(
            {"event": "sample", "step": n, "samples": [{"prompt": f"p {TOKEN}", "text": TOKEN}]}
            for n in (0, 1, 2)
        ),
        {"event": "command", "command": "save", "step": 1, "text": said},
        {"event": "failed", "step": 2, "seconds": 1, "problems": SAYS, "error": said, "log": said},
    ]
    text = "".join(json.dumps({"time": 1.0, **line}) + "\n" for line in lines)
    (path / "events.jsonl").write_text(text)
    (path / "log.txt").write_text(f"{said}\n{PLAIN}\n")
    (path / "plan.json").write_text(json.dumps({"warnings": SAYS}))
    return Run(path)


def panel(run: Run) -> Any:
    nbft = roots.Nbft(root_dir=str(run.path.parent.parent))
    (run_id,) = nbft.runs()
    found = [
        answers.list_runs(nbft),
        answers.details(nbft, run_id),
        answers.events(nbft, run_id, 0),
        answers.state(nbft, run_id, ""),
        answers.log(nbft, run_id, 200),
    ]
    other = run.path.with_name("calm-otter-2")
    other.mkdir()
    Config(data={"path": ADDRESS + "2"}).save(other / "config.yaml", full=True)
    return [*found, answers.compare(nbft, list(nbft.runs()))]


def monitor(run: Run) -> Any:
    view = Monitor(run, interactive=False)
    view.update()
    built = view._built
    shown = [panel.value for panel in built._panels.values() if hasattr(panel, "value")]
    shown += [built._header.value, built._status.value, built._message.value, built.outcome.value]
    return [*shown, view._outcome(), repr(view), view._words(), built._curves[0].chart.marks]


def command_line(run: Run) -> Any:
    folder = str(run.path.parent)
    config = str(run.path / "config.yaml")
    calls = [
        ["runs", "--folder", folder],
        ["runs", "--folder", folder, "--json"],
        ["attach", str(run.path)],
        ["config", "show", config],
        ["config", "show", config, "--all"],
        ["config", "check", config],
        ["train", config],
        *(["export", config, "--to", to] for to in ("qefficient", "oumi", "erniekit")),
    ]
    done = [CliRunner().invoke(app, call) for call in calls]
    return [(one.stdout, one.stderr, str(one.exception)) for one in done]


def python(run: Run) -> Any:
    config = run.config
    systems = ("qefficient", "oumi", "erniekit", "peft_studio")
    exported = [config.export(system) for system in systems]
    return [
        *(run.events(), run.problems, run.log_tail(), repr(run), summary(run)),
        *exported,
        *(text.left_out for text in exported),
        *(repr(config), str(config.data), repr(config.model), repr(config.data.train.datasets[0])),
        config.to_yaml(redacted=True),
    ]


def form(run: Run) -> Any:
    made = Form(run.config)
    made._views.mode.value = "yaml"
    text = made._views.yaml.text.value
    made._apply_yaml(text)
    assert made.config.data.train.datasets[0].path == ADDRESS, "Apply puts back what was hidden"
    shown = [text, made._views.yaml.copy.text, [str(problem) for problem in made.problems]]
    made.close()
    return shown


def report(run: Run) -> Any:
    return write_report(run.path).read_text(encoding="utf-8")


def exported_python(run: Run) -> Any:
    config = run.config.apply({"data.train.datasets[0].path": None, "model.model_name": "m"})
    config = config.apply({"data.train.datasets[0].dataset_name": "alpaca"})
    text = config.to_python()
    return [text, getattr(text, "left_out", {})]


@pytest.mark.parametrize(
    "show", [panel, monitor, command_line, python, form, report, exported_python]
)
def test_no_secret_leaves(show: Callable[[Run], Any], run: Run) -> None:
    shown = repr(show(run))
    for secret in (WORD, TOKEN):
        at = shown.find(secret)
        assert at < 0, shown[max(0, at - 200) : at + 50]
    assert "(hidden)" in shown
    if show in (panel, monitor, python):
        assert "pad_token" in shown


def test_the_config_of_the_run_still_has_the_address(run: Run) -> None:
    report(run)
    assert run.config.data.train.datasets[0].path == ADDRESS
    assert Config.from_yaml(run.config.to_yaml()) == run.config


def test_events_are_written_without_secrets(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    said = events.append(path, "warning", text="\n".join(SAYS), headers={"token": WORD})
    events.append(path, "failed", problems=SAYS, log="\n".join(SAYS))
    assert WORD not in repr(said)
    text = path.read_text()
    assert WORD not in text
    assert TOKEN not in text


def test_answers_to_rows_stay_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    sample = {"prompt": "password=hunter2 token: abc123def", "text": "https://me:word@host"}
    events.append(path, "sample", step=0, samples=[sample])
    assert events.read(path)[0]["samples"] == [sample]


def test_the_log_is_written_without_secrets(tmp_path: Path) -> None:
    with run_log(tmp_path / "log.txt") as log:
        for text in SAYS:
            log.warning(text)
            logging.getLogger("transformers").error("failed: %s", text)
            warnings.warn(text, stacklevel=1)
        try:
            raise ValueError(ADDRESS)
        except ValueError:
            log.exception("no rows")
    text = (tmp_path / "log.txt").read_text()
    assert WORD not in text
    assert TOKEN not in text
    assert text.count("(hidden)") >= 3 * len(SAYS)


def test_what_a_process_prints_is_written_without_secrets(tmp_path: Path) -> None:
    with (tmp_path / "log.txt").open("w") as file:
        stream: Any = _Redacted(file)
        for piece in (f"GET {ADDRESS}"[:20], f"GET {ADDRESS}"[20:], "\n50%\r"):
            stream.write(piece)
        stream.writelines([f"token={WORD}", "abc\n", "last"])
        stream.flush()
        assert stream.fileno() == file.fileno()
        print("end", file=stream)
    text = (tmp_path / "log.txt").read_text()
    assert WORD not in text
    assert text.startswith("GET https://(hidden)@host.org/rows.jsonl?token=(hidden)&page=2\n50%")
    assert text.endswith("lastend\n")


@pytest.mark.skipif(os.name != "posix", reason="modes are of POSIX")
def test_files_of_events_are_private(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        events.append(tmp_path / "events.jsonl", "log", step=1)
        events.keep_reserve(tmp_path)
    finally:
        os.umask(before)
    for file in tmp_path.iterdir():
        assert file.stat().st_mode & 0o777 == 0o600, file
