"""A spare run that waits for its folder: taken, or not, and never left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from types import SimpleNamespace

import psutil
import pytest

import nbft
from nbft.launchers import spare as module

from .conftest import losses
from .test_background import until


@pytest.fixture(autouse=True)
def no_spare_is_left(monkeypatch):
    monkeypatch.setattr(module, "available_bytes", lambda: 1 << 40)
    monkeypatch.delenv("NBFT_SPARE_WORKER", raising=False)
    for name in [name for name in os.environ if name.startswith("JUPYTERHUB_")]:
        monkeypatch.delenv(name)
    yield
    if (spare := module._waiting) is not None:
        spare.end()
        module._waiting = None


def spare() -> psutil.Process:
    assert module.prepare()
    return psutil.Process(module._waiting.process.pid)


def worker_of(supervisor: psutil.Process) -> psutil.Process:
    until(supervisor.children, "the spare worker")
    return supervisor.children()[0]


def has_ended(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def test_a_run_takes_the_spare_and_ends_like_any_other(make_config, train):
    waiting = spare()
    worker = worker_of(waiting)
    run = nbft.submit(make_config())
    assert run.wait().status == "completed", run.problems
    assert run.events()[0]["pid"] == waiting.pid
    assert [e["pid"] for e in run.events() if e["event"] == "started"] == [worker.pid]
    assert losses(run) == losses(train())
    until(lambda: has_ended(waiting) and has_ended(worker), "their end")
    assert "completed after step 6" in run.log_tail(50)


def test_the_next_run_starts_a_worker_of_its_own(make_config):
    waiting = spare()
    first = nbft.submit(make_config(training__max_steps=1))
    second = nbft.submit(make_config(training__max_steps=1))
    assert second.events()[0]["pid"] != waiting.pid
    assert (first.wait().status, second.wait().status) == ("completed", "completed")


def test_a_spare_that_died_is_not_missed(make_config):
    waiting = spare()
    worker_of(waiting).kill()
    run = nbft.submit(make_config(training__max_steps=1))
    assert run.events()[0]["pid"] == waiting.pid
    assert run.wait().status == "completed", run.problems


def test_a_changed_environment_gets_a_worker_that_knows_it(make_config, monkeypatch):
    waiting = spare()
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    run = nbft.submit(make_config(training__max_steps=1))
    assert run.events()[0]["pid"] != waiting.pid
    assert run.wait().status == "completed"
    until(lambda: has_ended(waiting), "the end of the spare")


def test_it_ends_with_its_kernel():
    code = "import nbft.launchers.spare as w, time; w.prepare(); print(w._waiting.process.pid, flush=True); time.sleep(99)"
    kernel = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    supervisor = psutil.Process(int(kernel.stdout.readline()))
    worker = worker_of(supervisor)
    kernel.send_signal(signal.SIGKILL)
    kernel.wait()
    until(lambda: has_ended(supervisor) and has_ended(worker), "the end of both")


def test_the_worker_ends_with_its_supervisor():
    supervisor = spare()
    worker = worker_of(supervisor)
    supervisor.kill()
    until(lambda: has_ended(worker), "the end of the worker")
    assert module.take(None) is None


def test_one_waits_at_a_time():
    first = spare()
    assert spare().pid == first.pid


@pytest.fixture
def site_packages(monkeypatch, tmp_path):
    """A folder of installed packages."""
    folder = tmp_path / "lib" / "site-packages"
    (folder / "one-1.0.dist-info").mkdir(parents=True)
    monkeypatch.syspath_prepend(folder)
    return folder


def upgrade(folder):
    (folder / "one-1.0.dist-info").rename(folder / "one-1.1.dist-info")


def reinstall(folder):
    os.utime(folder / "one-1.0.dist-info", (1, 1))


@pytest.mark.parametrize("change", [upgrade, reinstall])
def test_changed_packages_get_a_worker_that_knows_them(site_packages, change):
    waiting = spare()
    (site_packages / "__pycache__").mkdir()
    assert spare().pid == waiting.pid  # nothing was installed
    change(site_packages)
    assert module.take(site_packages) is None
    until(lambda: has_ended(waiting), "the end of the spare")


def test_waiting_ends_when_packages_change(monkeypatch, site_packages):
    read, write = os.pipe()
    monkeypatch.setattr(sys, "stdin", os.fdopen(read))
    monkeypatch.setattr(module, "_LOOK_SECONDS", 0.01)
    threading.Timer(0.2, upgrade, [site_packages]).start()
    assert module.wait_for_run(idle_seconds=60) is None
    os.close(write)


@pytest.mark.parametrize("name", ["[a]", "line\nbreak"])
def test_the_folder_of_its_run_may_have_any_name(monkeypatch, tmp_path, name):
    read, write = os.pipe()
    monkeypatch.setattr(sys, "stdin", os.fdopen(read))
    with os.fdopen(write, "wb") as stdin:
        assert module.tell(SimpleNamespace(stdin=stdin, poll=lambda: None), tmp_path / name)
    assert module.wait_for_run() == tmp_path / name


@pytest.mark.parametrize(
    ("reason", "why"),
    [
        ("memory", "Less than 3 GiB of memory are free."),
        ("variable", "NBFT_SPARE_WORKER is off."),
        ("hub", "This is a JupyterHub, whose users share the memory."),
        ("others", "Another user trains on this machine: ada, bob."),
        ("windows", "Background runs need Linux or macOS."),
    ],
)
def test_none_waits_where_it_should_not(reason, why, monkeypatch):
    if reason == "memory":
        monkeypatch.setattr(module, "available_bytes", lambda: module.LEAST_FREE_BYTES - 1)
    elif reason == "hub":
        monkeypatch.setenv("JUPYTERHUB_USER", "ada")
    elif reason == "others":
        monkeypatch.setattr(module, "other_users", lambda: ["ada", "bob"])
    elif reason == "windows":
        monkeypatch.delattr(os, "killpg")
    else:
        monkeypatch.setenv("NBFT_SPARE_WORKER", "off")
    assert module.why_off() == why
    assert not module.prepare()
    assert module._waiting is None


def test_an_administrator_may_allow_it_on_a_hub(monkeypatch):
    monkeypatch.setenv("JUPYTERHUB_USER", "ada")
    monkeypatch.setenv("NBFT_SPARE_WORKER", "on")
    assert module.why_off() == ""


def test_waiting_ends_when_idle_or_when_memory_gets_short(monkeypatch):
    read, write = os.pipe()
    monkeypatch.setattr(sys, "stdin", os.fdopen(read))
    monkeypatch.setattr(module, "_LOOK_SECONDS", 0.01)
    began = time.monotonic()
    assert module.wait_for_run(idle_seconds=0.1) is None
    assert time.monotonic() - began < 5
    monkeypatch.setattr(module, "available_bytes", lambda: module.LEAST_FREE_BYTES / 4)
    assert module.wait_for_run() is None
    os.close(write)
