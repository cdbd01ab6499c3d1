"""Background runs: how soon they begin, what supervising and watching them costs, listing many."""

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

import psutil

from .measurement import QUIET, Measurement, in_turn, median_ratio, run_python
from .overhead import make_config

POINTS = 100_000
EVENTS_A_SECOND = 10
RUNS = 1000
_POLL_SECONDS = 0.2


def measure(quick: bool) -> list[Measurement]:
    """Measure each part; runs go through a queue of their own."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        own_queue = {"NBFT_QUEUE": str(folder / "queue")}
        seconds = 4 if quick else 10
        watching = run_python(
            "-c", f"from benchmarks.background import watch; watch({str(folder)!r}, {seconds})"
        )
        first, again = run_python(
            "-c", f"from benchmarks.background import list_many; list_many({str(folder)!r})"
        )
        return [
            *_beginnings(folder, own_queue, quick=quick),
            Measurement(f"CPU of a monitor at {POINTS:,} points", 100 * watching, "%", 3, True),
            Measurement(f"listing {RUNS:,} runs", first, "s", 1, below=True),
            Measurement(f"listing {RUNS:,} runs again", again, "s", 0.1, below=True),
        ]


def _beginnings(folder: Path, environment: dict[str, str], *, quick: bool) -> list[Measurement]:
    """Compare the time to the first step: submitted, as a bare worker, as a plain script."""
    config = make_config(folder, tiny=quick, steps=2).apply({"model.dtype": "auto"})
    path = folder / "config.yaml"
    config.save(path)
    script = folder / "plain.py"
    script.write_text(config.to_python(), encoding="utf-8")

    def submitted() -> Any:
        code = f"from benchmarks.background import submit; submit({str(path)!r})"
        return run_python("-c", code, environment=environment)

    def second() -> float:
        """From a kernel whose form has let a spare worker import its libraries."""
        code = f"from benchmarks.background import submit; submit({str(path)!r}, with_spare=True)"
        return float(run_python("-c", code, environment=environment)["first_step"])

    def worker() -> float:
        from nbft.runs import Run

        run = Run.create(config)
        began = time.time()
        command = [sys.executable, "-m", "nbft.launchers.worker", str(run.path)]
        subprocess.run(command, check=True, env=os.environ | QUIET, capture_output=True)
        return _first_step_at(run) - began

    def plain() -> float:
        began = time.time()
        found = run_python("-m", "benchmarks.overhead", "plain", str(script))
        return float(found["first_step_at"]) - began

    ours, seconds, workers, scripts = in_turn([submitted, second, worker, plain], rounds=3)
    firsts = [r["first_step"] for r in ours]
    return [
        Measurement("submit", statistics.median(r["submit"] for r in ours), "s", 1, below=True),
        Measurement("submit to the first step", statistics.median(firsts), "s"),
        Measurement("to the first step, submit / script", median_ratio(firsts, scripts), goal=0.6),
        Measurement("submit to the first step, with a spare", statistics.median(seconds), "s"),
        Measurement(
            "to the first step, with a spare / script", median_ratio(seconds, scripts), goal=0.2
        ),
        Measurement(  # checking, planning and supervising; in seconds, as no model makes it longer
            "to the first step, submit - worker",
            statistics.median(a - b for a, b in zip(firsts, workers, strict=True)),
            "s",
            0.5,
            below=True,
        ),
        Measurement(
            "memory of the supervisor", max(r["rss"] for r in ours) / 2**20, "MiB", 25, below=True
        ),
    ]


def submit(path: str, *, with_spare: bool = False) -> None:
    """Print what submitting a config took, as a kernel that has imported nbft sees it.

    Args:
        path: The config.
        with_spare: Whether a spare worker has imported its libraries before.
    """
    import nbft

    nbft.Config.load(path)  # the modules of a config are there in a kernel
    if with_spare:
        _wait_for_spare()
    began, clock = time.time(), time.perf_counter()
    run = nbft.submit(path)
    took = time.perf_counter() - clock
    supervisor = psutil.Process(run.events()[0]["pid"])
    rss = 0
    while not run.is_over:
        try:
            rss = max(rss, supervisor.memory_info().rss)
        except psutil.NoSuchProcess:
            break
        time.sleep(_POLL_SECONDS)
    run.wait()
    if run.status != "completed":
        raise RuntimeError(f"The run {run.status}: {run.problems}")
    print(json.dumps({"submit": took, "first_step": _first_step_at(run) - began, "rss": rss}))


def _wait_for_spare() -> None:
    """Let a spare worker import its libraries, until it only waits."""
    from nbft.launchers import spare

    assert spare.prepare(), "memory is short"
    me, before, now = psutil.Process(), -1.0, 0.0
    while now < 1 or now > before + 0.05:
        time.sleep(1)
        before, now = now, sum(sum(p.cpu_times()[:2]) for p in me.children(recursive=True))


def _first_step_at(run: Any) -> float:
    return float(next(e["time"] for e in run.events() if e["event"] == "log"))


_WRITER = f"""
import sys, time
from pathlib import Path
from nbft import events
step, path = {POINTS}, Path(sys.argv[1])
while True:
    step += 1
    events.append(path, "log", step=step, epoch=1.0, loss=1.5, learning_rate=1e-4, grad_norm=1.0,
        tokens_per_second=1000.0, memory_bytes=10**9, seconds_left=100.0)
    time.sleep({1 / EVENTS_A_SECOND})
"""


def watch(name: str, seconds: float) -> None:
    """Print the share of a core that a Monitor of a long, live run takes."""
    from .live_chart import replace_comms, shown

    replace_comms()
    from nbft import events
    from nbft.processes import process_start_time
    from nbft.runs import Run

    run = Run.create(make_config(Path(name) / "watched", tiny=True, steps=2 * POINTS))
    pid = os.getpid()
    about = {"versions": {}, "seed": 0, "model": "tiny"}
    start = {"pid": pid, "process_start_time": process_start_time(pid)}
    events.append(run.events_path, "started", **start, **about)
    events.append(run.events_path, "prepared", total_steps=2 * POINTS, rows=1, device="cpu")
    write_logs(run.events_path, POINTS)
    monitor = shown(run)
    monitor.update()
    writer = subprocess.Popen([sys.executable, "-c", _WRITER, str(run.events_path)])
    try:
        time.sleep(1)
        monitor.update()
        cpu, clock = time.process_time(), time.perf_counter()
        while time.perf_counter() - clock < seconds:
            monitor.update()
            time.sleep(_POLL_SECONDS)
        share = (time.process_time() - cpu) / (time.perf_counter() - clock)
    finally:
        writer.kill()
        writer.wait()
    print(json.dumps(share))


def list_many(name: str) -> None:
    """Print the seconds that listing many runs takes, at first and again."""
    from nbft import events
    from nbft.runs import Run, list_runs
    from nbft.runs.summary import summary

    folder = Path(name) / "many"
    run = Run.create(make_config(folder, tiny=True, steps=100))
    events.append(run.events_path, "started", pid=1, process_start_time=0.0, seed=0, model="tiny")
    events.append(run.events_path, "prepared", total_steps=100, rows=1, device="cpu")
    write_logs(run.events_path, 100)
    events.append(run.events_path, "completed", step=100, seconds=1.0, adapter="adapter")
    config, said = (run.path / "config.yaml").read_bytes(), run.events_path.read_bytes()
    for number in range(RUNS - 1):
        one = run.path.parent / f"run-{number}"
        one.mkdir()
        (one / "config.yaml").write_bytes(config)
        (one / "events.jsonl").write_bytes(said)
    took = []
    for _ in range(2):
        clock = time.perf_counter()
        found = [summary(one) for one in list_runs(run.path.parent)]
        took.append(time.perf_counter() - clock)
        assert len(found) == RUNS
    print(json.dumps(took))


def write_logs(path: Path, count: int) -> None:
    """Write many log events at once, as `events.append` would one by one."""
    with path.open("a", encoding="utf-8") as file:
        for step in range(1, count + 1):
            record = {
                "event": "log",
                "time": time.time(),
                "step": step,
                "memory_bytes": 10**9,
                "loss": 2 - step / count,
                "learning_rate": 1e-4,
                "grad_norm": 1.0,
                "epoch": 1.0,
                "tokens_per_second": 1000.0,
                "seconds_left": 100.0,
            }
            file.write(json.dumps(record) + "\n")
