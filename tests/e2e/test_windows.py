"""What Windows lacks is taken away: runs in the kernel work, and the rest is said."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

WITHOUT = """
import os, signal, sys
import psutil, torch, filelock  # whose parts for this system need what is taken away
from trl import SFTTrainer
for name in ("pread", "pwrite", "killpg", "getpgid", "setsid", "getuid", "geteuid", "getgid",
             "getloadavg", "sched_getaffinity", "mkfifo"):
    if hasattr(os, name):
        delattr(os, name)
for name in ("SIGKILL", "SIGHUP", "SIGUSR1", "SIGALRM", "alarm", "setitimer"):
    if hasattr(signal, name):
        delattr(signal, name)
for name in ("fcntl", "resource", "pwd", "grp", "termios"):
    sys.modules[name] = None
"""

KERNEL = """
import threading, time
from pathlib import Path
import nbft
from nbft import events
from nbft.hardware import peak_memory_bytes
from nbft.launchers import spare
from nbft.launchers.kernel import join
from nbft.runs.summary import summary
from nbft.widgets.monitor import Monitor

config = nbft.Config.load(sys.argv[1])
form = nbft.Form(config)
assert nbft.make_plan(config).errors == []
form.close()
run = nbft.train(config, show=False)
assert run.status == "completed", run.problems
join(run)
monitor = Monitor(run)
assert not monitor.update()
assert [summary(r)["status"] for r in nbft.list_runs(run.path.parent)][0] == "completed"
events.append(run.events_path, "note", step=1, text="a note")
assert run.state.notes[-1].text == "a note"

# Stopped, and continued in the kernel.
longer = config.apply({"training.max_steps": 4000, "training.run_name": "longer"})
from nbft.launchers import start
run = start(longer)
while run.step < 2 and not run.is_over:
    time.sleep(0.05)
run.stop()
join(run)
assert run.status == "stopped", run.problems
def stop():
    while nbft.attach(run.path).status != "running" or nbft.attach(run.path).step < 2:
        time.sleep(0.05)
    time.sleep(1)
    nbft.attach(run.path).stop()
threading.Thread(target=stop, daemon=True).start()
resumed = nbft.train(longer, show=False, resume="auto")
assert (resumed.path, resumed.status) == (run.path, "stopped"), resumed.problems
assert any(e.get("resumed_step") for e in resumed.events())

# Waits for its turn in the queue, and leaves it.
first, second = start(longer.apply({"training.run_name": "first"})), None
while first.status == "queued":
    time.sleep(0.05)
second = start(longer.apply({"training.run_name": "second"}))
second.cancel()
join(second)
assert second.status == "cancelled"
first.stop()
join(first)

# The background.
os.environ.pop("NBFT_SPARE_WORKER", None)
assert spare.why_off() == "Background runs need Linux or macOS."
for ask in (lambda: nbft.submit(config.apply({"training.run_name": "x"})), run.resume):
    try:
        ask()
    except nbft.RunError as error:
        assert "Background runs need Linux or macOS." in str(error), error
    else:
        raise AssertionError
print("works")
"""


@pytest.mark.timeout(280)
def test_the_kernel_path_without_what_windows_lacks(make_config, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    made = make_config(training__max_steps=3)
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n".join(map(json.dumps, made.data.train.datasets[0].rows)))
    made.data.train.datasets[0].rows = None
    made.data.train.datasets[0].path = str(rows)
    made.save(config, full=True)
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT + KERNEL, str(config)],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.stdout.endswith("works\n"), done.stderr[-3_000:]
