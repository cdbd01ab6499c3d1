"""A small share of `make fuzz`: generated mistakes get sentences."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_generated_mistakes_get_sentences():
    command = [sys.executable, "-m", "tests.fuzz", "100", "--seed", "7"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
