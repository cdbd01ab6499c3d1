"""What can be told from a noisy series: its noise, its level and its trend.

Plain Python, because the state of a run is read without loading any library. Used by
`nbft.runs.notes`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from nbft.runs.state import Points

_MOST = 500
"""Points that a trend is computed of; more are averaged in groups."""


class Series(NamedTuple):
    """The finite values of a measure in the order of their steps."""

    steps: list[int]
    values: list[float]

    @classmethod
    def of(cls, points: Points) -> Series:
        """Return the finite values of a curve; of many, the means of groups."""
        pairs = [p for p in zip(points.steps, points.values, strict=True) if math.isfinite(p[1])]
        size = max(1, len(pairs) // _MOST)
        groups = [pairs[at : at + size] for at in range(0, len(pairs), size)]
        return cls(
            [group[-1][0] for group in groups],
            [math.fsum(value for _, value in group) / len(group) for group in groups],
        )

    def since(self, step: int) -> Series:
        """Return the part from a step on."""
        begin = next((i for i, own in enumerate(self.steps) if own >= step), len(self.steps))
        return Series(self.steps[begin:], self.values[begin:])

    def logarithms(self) -> Series:
        """Return the natural logarithms; of values near 0 that of a thousandth."""
        return Series(self.steps, [math.log(max(value, 1e-3)) for value in self.values])

    @property
    def window(self) -> int:
        """Number of values that are averaged into one level: a tenth, and at least 5."""
        return max(5, len(self.values) // 10)

    def smoothed(self) -> Series:
        """Return the mean of each window, with the step at which it ends."""
        size = self.window
        ends = range(size, len(self.values) + 1)
        means = [mean(self.values[end - size : end]) for end in ends]
        return Series([self.steps[end - 1] for end in ends], means)


class Trend(NamedTuple):
    """The straight line through a series.

    Attributes:
        change: Change of the line from the first value to the last.
        error: Standard error of the change.
    """

    change: float
    error: float


def mean(values: Sequence[float]) -> float:
    """Return the mean; values are not empty."""
    return math.fsum(values) / len(values)


def noise(values: Sequence[float]) -> float:
    """Return the standard deviation around a slowly changing level.

    Differences of neighbours tell the noise whatever the trend; of few values they may all be small
    by chance, so that of n values is taken as 1 + 10/n times as large. Source: von Neumann, Annals of Mathematical
    Statistics 12, 1941.

    >>> round(noise([1.0, 3.0] * 10), 2)
    2.12
    """
    n = len(values)
    if n < 2:
        return 0.0
    squares = ((b - a) ** 2 for a, b in zip(values, values[1:], strict=False))
    return math.sqrt(math.fsum(squares) / (n - 1) / 2) * (1 + 10 / n)


def trend(values: Sequence[float]) -> Trend:
    """Fit a straight line by least squares, with the standard error of its change.

    >>> trend([3.0, 2.0, 1.0]).change
    -2.0
    """
    n, middle = len(values), mean(values)
    if n < 3:
        return Trend(0.0, math.inf)
    centre, spread = (n - 1) / 2, n * (n * n - 1) / 12
    slope = math.fsum((i - centre) * (value - middle) for i, value in enumerate(values)) / spread
    return Trend(slope * (n - 1), noise(values) / math.sqrt(spread) * (n - 1))
