"""What a cell has computed does not slow down the training in another thread."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

_CODE = """
import os, time
from nbft.launchers.openmp import give_up_threads
give_up_threads()  # before torch is there
import torch
torch.set_num_threads(3)
number = lambda: len(os.listdir("/proc/self/task"))
before = number()
compute = lambda: (torch.ones(512, 512) @ torch.ones(512, 512)).sum().item()
assert compute() == 512.0**3
while_computing = number()
give_up_threads()
end = time.monotonic() + 10
while number() > before and time.monotonic() < end:
    time.sleep(0.01)
print(while_computing - before, number() - before, compute() == 512.0**3)
"""


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="libgomp is that of Linux")
def test_the_threads_of_a_thread_are_given_up_and_come_back() -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "3"}
    done = subprocess.run(
        [sys.executable, "-c", _CODE], env=environment, capture_output=True, text=True, check=True
    )
    computing, left, is_right = done.stdout.split()
    assert int(computing) >= 2
    assert (left, is_right) == ("0", "True")
