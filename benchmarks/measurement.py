"""What a benchmark returns, and the two ways in which all of them measure.

Sides that are compared run in processes of their own, in turn (A, B, A, B, A), so that a machine
that slows down slows both; what counts is the median of their ratios. Nothing is compared with a
number that was stored before.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbft.bench.compare import in_turn, median_ratio

__all__ = ["Measurement", "in_turn", "median_ratio", "run_python"]

ROOT = Path(__file__).parents[1]
QUIET = {"OMP_NUM_THREADS": "1", "GOMP_SPINCOUNT": "0", "TOKENIZERS_PARALLELISM": "false"}


@dataclass(frozen=True)
class Measurement:
    """One number, and the most that it may be.

    Attributes:
        name: What was measured.
        value: The number.
        unit: Its unit; empty for a ratio or a count.
        goal: The most that it may be; None for a number that is only reported.
        below: Whether the goal itself is too much.
    """

    name: str
    value: float
    unit: str = ""
    goal: float | None = None
    below: bool = False

    @property
    def is_held(self) -> bool | None:
        """Whether the goal is held; None without one. What is not a number holds no goal."""
        if self.goal is None:
            return None
        return self.value < self.goal if self.below else self.value <= self.goal

    @property
    def measured_text(self) -> str:
        """The number with its unit."""
        number = f"{self.value:,.0f}" if self.value >= 1000 else f"{self.value:.3g}"
        return f"{number} {self.unit}".strip()

    @property
    def goal_text(self) -> str:
        """The goal with its unit."""
        if self.goal is None:
            return ""
        return f"{'<' if self.below else '≤'} {self.goal:g} {self.unit}".strip()


def losses_off(mine: Sequence[Mapping[str, Any]], theirs: Sequence[Mapping[str, Any]]) -> float:
    """Return the largest relative difference of a loss between two sides' rounds.

    Args:
        mine: What each round of a side found, with its `losses`.
        theirs: The same of the side that counts as 1.
    """
    return max(
        abs(a - b) / abs(b)
        for left, right in zip(mine, theirs, strict=True)
        for a, b in zip(left["losses"], right["losses"], strict=True)
    )


def run_python(*arguments: str, environment: dict[str, str] | None = None) -> Any:
    """Run Python and return the JSON of the last line that it prints.

    Raises:
        RuntimeError: It failed; the message holds the end of what it said.
    """
    done = subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | QUIET | (environment or {}),
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)[:200]}: {done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])
