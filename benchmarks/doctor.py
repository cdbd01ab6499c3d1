"""The data doctor on real rows, in fresh processes, and what packing and grouping save on them.

Real rows lie beside the repository, in `../shared/data`; without them the bundled ones are used, and
no goal is set.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from typing import Any

from .measurement import ROOT, Measurement, run_python

REAL = ROOT.parent / "shared" / "data"
BATCH_SIZE = 8
_PADDED = {"alpaca": "alpaca.json", "gsm8k": "gsm8k.jsonl"}
_THREADS = {"TOKENIZERS_PARALLELISM": "true"}  # as in a notebook


def measure(quick: bool) -> list[Measurement]:
    """Look at the rows as `nbft doctor` does, from the start of the process."""
    is_real = (REAL / _PADDED["gsm8k"]).is_file()
    rounds = [_look("gsm8k") for _ in range(1 if quick else 3)]
    rows = rounds[0]["rows"]
    kind = "GSM8K" if is_real else "bundled"
    seconds = statistics.median(r["seconds"] for r in rounds)
    work = statistics.median(r["work"] for r in rounds)
    found = [
        Measurement(
            f"all checks of {rows:,} {kind} rows, from the start",
            seconds,
            "s",
            15 if is_real else None,
            True,
        ),
        Measurement("  CPU time of that", statistics.median(r["cpu"] for r in rounds), "s"),
        Measurement("  rows a second, once the tokenizer is loaded", rows / work),
        Measurement("  most memory", max(r["memory"] for r in rounds) / 2**20, "MiB"),
    ]
    for name in _PADDED:
        padding = (rounds[0] if name == "gsm8k" else _look(name))["padding"]
        found += [
            Measurement(f"{name}: padding in random batches of {BATCH_SIZE}", padding["random"]),
            Measurement(f"{name}: grouped by length", padding["grouped"]),
            Measurement(f"{name}: packed to 1,024 tokens", padding["packed"]),
        ]
    return found


def _look(name: str) -> Any:
    path = REAL / _PADDED[name]
    dataset = {"path": str(path)} if path.is_file() else {"dataset_name": name}
    return run_python("-m", "benchmarks.doctor", json.dumps(dataset), environment=_THREADS)


def _main(dataset: dict[str, Any]) -> None:
    """Look at rows; prints one line of JSON."""
    began = time.perf_counter()
    import resource

    from nbft import Config, doctor
    from nbft.data.padding import padding_shares

    loaded: list[float] = []

    def say(text: str) -> None:
        if text.startswith("Reading"):
            loaded.append(time.perf_counter())

    report = doctor(Config(data=dataset), say=say)
    end = time.perf_counter()
    shares = padding_shares(report.tokens, BATCH_SIZE, 1024)
    result = {
        "seconds": end - began,
        "work": end - loaded[0],
        "cpu": time.process_time(),
        "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "rows": report.looked_at,
        "padding": vars(shares),
    }
    print(json.dumps(result))


if __name__ == "__main__":
    _main(json.loads(sys.argv[1]))
