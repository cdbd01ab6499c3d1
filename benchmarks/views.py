"""Looking at runs: a list from the shell, one large run, a cell that waits, and the server's memory."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from .background import RUNS, write_logs
from .measurement import Measurement, run_python
from .overhead import make_config

EVENTS = 100_000
OPENED = 100
SAMPLES = 20
_POLL_SECONDS = 0.2


def measure(quick: bool) -> list[Measurement]:
    """Measure each part in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        call = f"{name!r}, {2 if quick else 10}"
        found = {
            part: run_python("-c", f"from benchmarks.views import {part}; {part}({call})")
            for part in ("open_large", "wait_in_cell", "open_many")
        }
        return [
            Measurement(f"nbft runs, {RUNS:,} runs", _list(Path(name)), "s", 1, below=True),
            Measurement(f"opening {EVENTS:,} events", found["open_large"], "s", 0.3, below=True),
            Measurement(
                f"a waiting cell with {SAMPLES} samples", 100 * found["wait_in_cell"], "%", 1, True
            ),
            Measurement(f"server after {OPENED} runs", found["open_many"], "MiB", 50),
        ]


def make_run(folder: Path, events_count: int, *, is_over: bool = True) -> Path:
    """Write a run with so many measurements and some samples, and return its folder."""
    from nbft import events
    from nbft.processes import identity
    from nbft.runs import Run

    run = Run.create(make_config(folder, tiny=True, steps=2 * events_count))
    events.append(run.events_path, "started", **identity(), versions={}, seed=0, model="tiny")
    events.append(run.events_path, "prepared", total_steps=2 * events_count, rows=1, device="cpu")
    write_logs(run.events_path, events_count)
    for step in range(0, events_count, max(1, events_count // SAMPLES)):
        answers = [{"prompt": "Say something.", "text": f"Something at {step}. " * 20}]
        events.append(run.events_path, "sample", step=step, samples=answers)
    if is_over:
        events.append(run.events_path, "completed", step=events_count, seconds=1.0)
    return run.path


def open_large(name: str, _seconds: float) -> None:
    """Print the seconds from attaching to a long run to its state, as the panel asks for it."""
    from nbft.runs import Run

    path = make_run(Path(name) / "large", EVENTS)
    taken = []
    for _ in range(3):
        clock = time.perf_counter()
        assert Run(path).state.step == EVENTS
        taken.append(time.perf_counter() - clock)
    print(json.dumps(statistics.median(taken)))


def wait_in_cell(name: str, seconds: float) -> None:
    """Print the share of a core that a Monitor takes while nothing new comes."""
    from nbft.runs import Run

    from .live_chart import replace_comms, shown

    replace_comms()
    monitor = shown(Run(make_run(Path(name) / "waiting", 1_000, is_over=False)))
    monitor.update()
    cpu, clock = time.process_time(), time.perf_counter()
    while time.perf_counter() - clock < seconds:
        monitor.update()
        time.sleep(_POLL_SECONDS)
    print(json.dumps((time.process_time() - cpu) / (time.perf_counter() - clock)))


def open_many(name: str, _seconds: float) -> None:
    """Print how many MiB a server grows by when many runs are opened one after another."""
    import psutil

    from nbft.server import answers
    from nbft.server.roots import Nbft

    root = Path(name) / "many"
    for _ in range(OPENED):
        make_run(root, 2_000)
    nbft: Any = Nbft(root_dir=str(root))
    ids = [one["id"] for one in answers.list_runs(nbft)["runs"]]
    assert len(ids) == OPENED
    process, used = psutil.Process(), []
    for opened in (ids[:1], ids):
        for run_id in opened:
            answers.details(nbft, run_id)
            answers.state(nbft, run_id, "")
            answers.log(nbft, run_id, 200)
        used.append(process.memory_info().rss / 2**20)
    print(json.dumps(used[1] - used[0]))


def _list(folder: Path) -> float:
    """Return the seconds of `nbft runs`, without those that Python and its imports take."""
    runs = folder / "listed" / "runs"
    path = make_run(runs, 100)
    config, said = (path / "config.yaml").read_bytes(), (path / "events.jsonl").read_bytes()
    for number in range(RUNS - 1):
        one = path.parent / f"run-{number}"
        one.mkdir()
        (one / "config.yaml").write_bytes(config)
        (one / "events.jsonl").write_bytes(said)
    empty = folder / "empty"
    empty.mkdir()

    def seconds(listed: Path) -> float:
        clock = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "nbft.cli", "runs", "--folder", str(listed)],
            check=True,
            capture_output=True,
            env=os.environ,
        )
        return time.perf_counter() - clock

    taken = [seconds(path.parent) - seconds(empty) for _ in range(3)]
    return statistics.median(taken)
