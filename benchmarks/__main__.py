"""Run the benchmarks and print one table: `python -m benchmarks [NAME…] [--quick]`.

`python -m benchmarks gpu` is a command of its own, with other options.

The numbers also go to `.artifacts/benchmarks/results.json`. Exits with 1 if a goal is not held
or a benchmark failed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
import sys
import time
from dataclasses import asdict
from typing import Any

from . import gpu
from .measurement import ROOT, Measurement

BENCHMARKS = (
    *("imports", "form", "lens", "live_chart", "background", "views", "doctor"),
    *("data_preparation", "overhead", "loop", "training", "four_bit", "long_rows", "matmul_rate"),
    *("memory", "demo", "forecast", "launches", "preference", "methods", "several"),
)
RESULTS = ROOT / ".artifacts" / "benchmarks" / "results.json"


def main() -> int:
    """Run what was asked for and return the exit status."""
    if sys.argv[1:2] == ["gpu"]:
        return gpu.main(sys.argv[2:])
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(BENCHMARKS)}")
    parser.add_argument("--quick", action="store_true", help="fewer rounds, the tiny model")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(BENCHMARKS):
        parser.error(f"no benchmark is called {', '.join(sorted(unknown))}")
    results: dict[str, list[dict[str, Any]]] = {}
    all_held = True
    print(f"{'measured':<58} {'':>14}  {'goal':<12} held", flush=True)
    for name in arguments.names or BENCHMARKS:
        module = importlib.import_module(f".{name}", __package__)
        print(f"{name}: {str(module.__doc__).splitlines()[0]}", flush=True)
        try:
            found: list[Measurement] = module.measure(arguments.quick)
        except Exception as error:  # the others are measured all the same
            print(f"  failed: {error}", flush=True)
            results[name], all_held = [{"error": str(error)}], False
            continue
        for one in found:
            held = {True: "yes", False: "NO", None: ""}[one.is_held]
            print(
                f"  {one.name:<56} {one.measured_text:>14}  {one.goal_text:<12} {held}", flush=True
            )
            all_held &= one.is_held is not False
        results[name] = [asdict(one) | {"held": one.is_held} for one in found]
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    about = {
        "time": time.time(),
        "machine": platform.platform(),
        "python": platform.python_version(),
        "quick": arguments.quick,
        "results": results,
    }
    RESULTS.write_text(json.dumps(about, indent=2), encoding="utf-8")
    return 0 if all_held else 1


if __name__ == "__main__":
    sys.exit(main())
