"""`import nbft` beside `import ipywidgets`, and what must not come with it."""

from __future__ import annotations

import statistics

from .measurement import Measurement, in_turn, median_ratio, run_python

_CODE = """
import json, sys, time
wall, cpu = time.perf_counter(), time.process_time()
import {module}
wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
heavy = [name for name in ("torch", "transformers") if name in sys.modules]
print(json.dumps([wall, cpu, len(heavy)]))
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
    ]
