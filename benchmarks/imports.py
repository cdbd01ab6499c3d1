"""`import nbft` beside `import ipywidgets`, what must not come with it, and other systems' files."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time

from .measurement import ROOT, Measurement, in_turn, median_ratio, run_python

_CODE = """
import json, sys, time
wall, cpu = time.perf_counter(), time.process_time()
import {module}
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
heavy = [name for name in ("torch", "transformers") if name in sys.modules]
print(json.dumps([wall, cpu, len(heavy)]))
"""


_FILES = (
    *("qefficient/every-key.yaml", "oumi/lora.yaml", "unsloth/notebook.py"),
    *("erniekit/sft-lora.yaml", "peft_studio/exported.json"),
)
"""Examples of the systems; the first has every key there is."""

_AS_INSTALLED = {"PYTHONDONTWRITEBYTECODE": ""}
"""Where it is set, every process compiles nbft anew: 40 ms that no installation takes."""

# The first file loads the settings too; each further one is what a person waits for in a notebook.
_FILE = """
import json, time
import nbft
taken = []
for _ in range(6):
    wall, cpu = time.perf_counter(), time.process_time()
    nbft.import_file({file!r})
    taken.append((time.perf_counter() - wall, time.process_time() - cpu))
print(json.dumps([*taken[0], sorted(wall for wall, _ in taken[1:])[2]]))
"""


def measure(quick: bool) -> list[Measurement]:
    """Import each in fresh processes, in turn."""
    sides = [
        lambda module=module: run_python("-c", _CODE.format(module=module))
        for module in ("nbft", "ipywidgets")
    ]
    ours, theirs = in_turn(sides, 3 if quick else 5)
    return [
        Measurement("import nbft", statistics.median(r[0] for r in ours), "s", 0.3, below=True),
        Measurement("import nbft, CPU time", statistics.median(r[1] for r in ours), "s", 0.3, True),
        Measurement("import ipywidgets", statistics.median(r[0] for r in theirs), "s"),
        Measurement(
            "CPU time of nbft / of ipywidgets",
            median_ratio([r[1] for r in ours], [r[1] for r in theirs]),
            goal=1.2,
        ),
        Measurement("of torch and transformers loaded", max(r[2] for r in ours), goal=0),
        *_files(3 if quick else 5),
    ]


def _files(rounds: int) -> list[Measurement]:
    """Import and validate files of other systems: the slowest of them, each as its median."""
    sides = [
        lambda path=ROOT / "tests" / "examples" / name: run_python(
            "-c", _FILE.format(file=str(path)), environment=_AS_INSTALLED
        )
        for name in _FILES
    ]
    in_turn(sides, 1)  # writes the bytecode, as an installation does
    found = in_turn(sides, rounds)
    slowest = [
        max(statistics.median(one[n] for one in results) for results in found) for n in range(3)
    ]
    return [
        Measurement("first file of another system, slowest of 5", slowest[0], "s", 0.2, True),
        Measurement("the same, CPU time", slowest[1], "s", 0.2, True),
        Measurement("each further file, slowest of 5", slowest[2], "s", 0.02, True),
        Measurement(
            "nbft import FILE, a new process",
            statistics.median(_command() for _ in range(rounds)),
            "s",
        ),
    ]


def _command() -> float:
    path = ROOT / "tests" / "examples" / _FILES[0]
    began = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "nbft.cli", "import", str(path)],
        check=True,
        capture_output=True,
        env=os.environ | _AS_INSTALLED,
    )
    return time.perf_counter() - began
