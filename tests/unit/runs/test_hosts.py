"""Runs of other machines and containers on a disk that is shared."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from nbft import events, processes
from nbft.cli import app
from nbft.config import Config
from nbft.errors import RunError
from nbft.processes import Process, identity
from nbft.runs import Run, folder, progress
from nbft.runs.mark import mark
from nbft.runs.state import SILENT_SECONDS
from nbft.runs.summary import summary
from nbft.widgets.monitor import Monitor

ELSEWHERE = {"host": "gpu-7", "machine": "of gpu-7", "boot": "of gpu-7", "namespace": 4026531836}


def make_run(path: Path, **place: Any) -> Run:
    path.mkdir(parents=True)
    mark(path)
    Config(model={"model_name": "smollm2-135m"}, data={"path": "/a.jsonl"}).save(
        path / "config.yaml", full=True
    )
    run = Run(path)
    about = {**identity(), "process_start_time": 1.0, **place}
    events.append(run.events_path, "queued", **about, device="cpu", commands_bytes=0)
    events.append(run.events_path, "started", **about, model="m")
    events.append(run.events_path, "prepared", rows=3, total_steps=9)
    events.append(run.events_path, "log", step=1, loss=2.0)
    return run


def be_silent(run: Run, seconds: float = SILENT_SECONDS + 60) -> None:
    then = time.time() - seconds
    os.utime(run.events_path, (then, then))


@pytest.fixture
def remote(tmp_path: Path) -> Run:
    """A run that another machine trains."""
    return make_run(tmp_path / "runs" / "kind-otter-14", **ELSEWHERE)


def test_a_run_of_another_machine_is_running_there(remote: Run) -> None:
    about = summary(remote)
    assert (remote.status, about["status"], about["host"]) == ("running", "running", "gpu-7")
    assert about["heard"] == pytest.approx(time.time(), abs=60)
    assert "delete" not in about["allowed"]
    with pytest.raises(RunError, match=r"is running on gpu-7\. Stop it before you delete it"):
        remote.delete()
    with pytest.raises(RunError, match="is running on gpu-7; there is nothing to resume"):
        remote.resume()
    assert remote.path.is_dir()
    assert progress.headline(remote.state) == "running, step 1 of 9, on gpu-7"
    assert Monitor(remote).update()
    listed = CliRunner().invoke(app, ["runs", "--folder", str(remote.path.parent)]).output
    assert "running on gpu-7" in listed


def test_after_a_long_silence_it_may_be_resumed_or_deleted(remote: Run) -> None:
    be_silent(remote)
    since = time.strftime("%H:%M", time.localtime(time.time() - SILENT_SECONDS - 60))
    assert remote.status == "lost"
    assert summary(remote)["allowed"] == ["resume", "delete"]
    monitor = Monitor(remote)
    while monitor.update():
        monitor._heard_at = 0.0
    assert monitor.state.startswith("lost: no word from gpu-7 since ")
    assert monitor.state.endswith(since)
    assert "still training" in monitor._outcome()["text/plain"]
    listed = CliRunner().invoke(app, ["runs", "--folder", str(remote.path.parent)]).output
    assert "no word from gpu-7 since" in listed
    remote.delete()
    assert not remote.path.exists()


def test_a_sign_of_life_ends_the_silence(remote: Run) -> None:
    be_silent(remote)
    assert remote.status == "lost"
    os.utime(remote.events_path)
    assert remote.status == "running"
    be_silent(remote, SILENT_SECONDS - 30)
    assert remote.status == "running"


@pytest.mark.parametrize("kind", ["queued", "paused"])
def test_one_that_waits_for_hours_lives_by_its_signs(remote: Run, kind: str) -> None:
    about = {"released": False} if kind == "paused" else {**identity(), **ELSEWHERE}
    events.append(remote.events_path, kind, **about, time=time.time() - 9_999)
    assert (remote.status, remote.state.host) == (kind, "gpu-7")


def test_commands_reach_it_and_nothing_is_killed_here(
    remote: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder, "kill", lambda *_: pytest.fail("killed a process of this machine"))
    for name in ("save", "pause", "cancel"):
        getattr(remote, name)()
    written = [e["event"] for e in events.read(remote.path / "commands.jsonl")]
    assert written == ["save", "pause", "cancel"]
    assert remote.status == "running"


def test_a_worker_that_wakes_up_after_a_resume_elsewhere_ends_nothing(remote: Run) -> None:
    events.append(remote.events_path, "queued", **identity(), device="cpu")
    events.append(remote.events_path, "started", **identity(), model="m")
    old = {**identity(), "process_start_time": 1.0, **ELSEWHERE}
    events.append(remote.events_path, "cancelled", step=1, **old)
    assert (remote.status, remote.state.host) == ("running", "")
    with pytest.raises(RunError, match="Stop it before you delete it"):
        remote.delete()
    events.append(remote.events_path, "completed", step=9, **{**identity(), "host": "renamed"})
    assert remote.status == "completed"


def test_a_paused_run_is_continued_where_it_waits(remote: Run) -> None:
    events.append(remote.events_path, "paused", step=1, released=False)
    remote.continue_()
    assert [e["event"] for e in events.read(remote.path / "commands.jsonl")] == ["continue"]


def test_a_paused_run_that_was_released_elsewhere_is_resumed_here(
    remote: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    events.append(remote.events_path, "paused", step=1, released=True)
    assert (remote.status, remote.state.host) == ("paused", "")
    resumed: list[Run] = []
    monkeypatch.setattr(folder.facade, "resume", lambda run, changes: resumed.append(run))
    remote.continue_()
    assert resumed == [remote]
    assert not (remote.path / "commands.jsonl").exists()


def test_after_a_restart_of_the_machine_its_runs_are_lost(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", **{**identity(), "boot": "the boot before"})
    assert (run.status, run.state.host) == ("lost", "")


@pytest.mark.parametrize(
    ("place", "lives"),
    [
        ({}, True),
        ({"host": "renamed-since"}, True),  # the same boot is the same machine
        ({"namespace": 1}, None),
        ({"boot": "other"}, False),
        ({"boot": "other", "host": "other"}, None),  # machines cloned from one image
        ({"boot": "other", "machine": "other"}, None),  # all called localhost
        ({"boot": "", "machine": ""}, None),
        ({"host": None, "machine": None, "boot": None, "namespace": None}, True),  # older versions
    ],
)
def test_where_a_process_is_looked_up(place: dict[str, Any], lives: bool | None) -> None:
    process = Process.of({**identity(), **place})
    assert process is not None
    assert process.lives() is lives


def test_without_ids_of_machine_and_boot_the_name_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    here = {"host": "mac", "machine": "", "boot": "", "namespace": 0, "user": 501}
    monkeypatch.setattr(processes, "_here", lambda: here)
    about = identity()
    assert Process.of(about).lives() is True
    assert Process.of({**about, "process_start_time": 1.0}).lives() is False
    assert Process.of({**about, "host": "other"}).lives() is None


def test_a_process_of_a_user_who_cannot_be_seen_is_not_called_dead(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gone = {**identity(), "process_start_time": 1.0, "user": 54_321}
    assert Process.of(gone).lives() is False
    monkeypatch.setattr(processes, "_hides_others", lambda: True)
    assert Process.of(gone).lives() is None


def test_events_say_nothing_that_identifies_the_machine_elsewhere() -> None:
    path = Path("/etc/machine-id")
    if path.is_file():
        assert path.read_text().strip() not in json.dumps(identity())


PROCESS = """
import sys, time
from pathlib import Path
from nbft import events
from nbft.runs import Run
from nbft.processes import identity
run = Run(sys.argv[1])
events.append(run.events_path, "started", **identity(), model="m")
print(Run(sys.argv[1]).status, Run(sys.argv[2]).status, flush=True)
time.sleep(float(sys.argv[3]))
"""


def in_namespace(*arguments: Path | str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROCESS, *map(str, arguments)]
    unshare = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
    return subprocess.Popen([*unshare, *command], stdout=subprocess.PIPE, text=True)


@pytest.mark.skipif(
    shutil.which("unshare") is None
    or subprocess.run(
        ["unshare", "--pid", "--fork", "--mount-proc", "true"], capture_output=True, check=False
    ).returncode,
    reason="this system makes no pid namespaces",
)
def test_two_containers_with_one_home(tmp_path: Path) -> None:
    mine = make_run(tmp_path / "mine", **identity())
    theirs = make_run(tmp_path / "theirs")
    with in_namespace(theirs.path, mine.path, "60") as container:
        assert container.stdout is not None
        assert container.stdout.readline().split() == ["running", "running"]
        assert theirs.status == "running"
        assert theirs.state.host.endswith("(another container)")
        with pytest.raises(RunError, match="another container"):
            theirs.delete()
        assert (mine.status, mine.state.host) == ("running", "")
        container.kill()
    be_silent(theirs)
    assert theirs.status == "lost"


def test_a_simulated_machine(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", **identity())
    code = f"from nbft.runs import Run; run = Run({str(run.path)!r}); print(run.status, run.state.host)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"NBFT_HOST": "gpu-8"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split()[0] == "running"
    assert done.stdout.split()[1] == identity()["host"]
