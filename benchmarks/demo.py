"""`nbft demo` in a fresh folder: seconds, memory, and the loss before and after."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

from .measurement import Measurement

_SAMPLE_SECONDS = 0.2


def measure(quick: bool) -> list[Measurement]:
    """Run the demo as a person would, reading its lines as they come."""
    with tempfile.TemporaryDirectory() as name:
        command = [sys.executable, "-m", "nbft.cli", "demo", "--folder", str(Path(name) / "runs")]
        began = time.monotonic()
        process = subprocess.Popen(
            [*command, *(["--steps", "3"] if quick else [])],
            cwd=name,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"PYTHONUNBUFFERED": "1", "NBFT_QUEUE": str(Path(name) / "queue")},
        )
        peak = _PeakMemory(process.pid)
        peak.start()
        at: dict[str, float] = {}
        said = []
        assert process.stdout is not None
        for line in process.stdout:
            said.append(line)
            at.setdefault(line[:2], time.monotonic() - began)
        code = process.wait()
        total = time.monotonic() - began
        peak.join()
        if code:
            raise RuntimeError("".join(said)[-2000:])
        from nbft.runs import list_runs

        scores = [
            e["eval_loss"]
            for e in list_runs(Path(name) / "runs")[0].events()
            if e["event"] == "eval"
        ]
    return [
        Measurement("the model", at["2."] - at["1."], "s"),
        Measurement("the training", at["3."] - at["2."], "s"),
        Measurement("from the command to the prompt", total / 60, "min", 6),
        Measurement("peak memory of its processes", peak.bytes / 2**30, "GiB", 3, below=True),
        Measurement("held-out loss before", scores[0]),
        Measurement("held-out loss after", scores[-1], goal=scores[0], below=True),
    ]


class _PeakMemory(threading.Thread):
    """Looks at the memory of a process and its children until it ends."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self.bytes = 0
        self._root = psutil.Process(pid)

    def run(self) -> None:
        while True:
            try:
                tree = [self._root, *self._root.children(recursive=True)]
                self.bytes = max(self.bytes, sum(p.memory_info().rss for p in tree))
                if self._root.status() == psutil.STATUS_ZOMBIE:
                    return
            except psutil.NoSuchProcess:
                if not self._root.is_running():
                    return
            time.sleep(_SAMPLE_SECONDS)
