"""Memory that a run in the kernel holds, and gives back after its end and `run.close()`."""

from __future__ import annotations

import textwrap

from .measurement import Measurement, run_python

# A first short run loads the libraries, which stay; the second one's memory is what counts.
_CODE = """
import json, os, tempfile, threading, time
import psutil, nbft
from nbft.launchers.kernel import join

folder = tempfile.mkdtemp()
os.environ["NBFT_QUEUE"] = folder + "/queue"
process = psutil.Process()
config = nbft.Config.preset("two-minute-try").apply({
    "training.output_dir": folder, "training.max_steps": 2, "evaluation.sample_count": 1,
    "evaluation.sample_max_new_tokens": 4, "data.validation.datasets[0].sample_count": 4})

def train(steps):
    run = nbft.train(config.apply({"training.max_steps": steps}), show=False)
    assert run.status == "completed", run.problems
    run.generate("Hello", max_new_tokens=2)
    run.close()
    join(run)

peak, watching = 0, True

def watch():
    global peak
    while watching:
        peak = max(peak, process.memory_info().rss)
        time.sleep(0.05)

train(1)
before = process.memory_info().rss
threading.Thread(target=watch, daemon=True).start()
train(%d)
watching = False
after = process.memory_info().rss
print(json.dumps({"before": before, "peak": peak, "after": after}))
"""


def measure(quick: bool) -> list[Measurement]:
    """Train twice in one process and look at what is left."""
    found = run_python("-c", textwrap.dedent(_CODE % (2 if quick else 10)))
    held = found["peak"] - found["before"]
    kept = found["after"] - found["before"]
    return [
        Measurement("held by the second run at its peak", held / 2**20, "MiB"),
        Measurement("kept after its end and run.close()", kept / 2**20, "MiB"),
        Measurement("share kept", max(kept, 0) / held, goal=0.15),
    ]
