"""`RangeTest`: the losses at a learning rate that rose from step to step, and what they suggest.

Found by `nbft.find_learning_rate`; `nbft.pages.range_test` shows it. Loads no torch.

The test is that of Smith, arXiv:1506.01186, section 3.3. He reads off its curve where the loss begins
to fall, and where it becomes ragged or rises. The suggestion is the lower of two readings that have
become usual: where the smoothed loss falls fastest, and a tenth of where it is lowest (Howard and
Gugger, fastai's `lr_find`, "steep" and "minimum"). A loss that falls no further than its noise could
suggests nothing.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, pstdev
from typing import Any, Literal, NamedTuple

from nbft.charts import moving_average
from nbft.config import Config
from nbft.errors import NbftError
from nbft.formatting import count, number
from nbft.plan.rates import rates_of
from nbft.presented import Presented

FIRST_STEPS = 10
"""Steps at the lowest rates, which hardly train: their losses are the level and the noise."""

_LAST_STEPS = 5
_EXPLODED = 0.5
"""Share of the first level by which the mean of the last steps must be above it to end the test."""

_SMOOTHED_DECADES = 0.3
"""A factor of so many powers of ten in the learning rate lowers a step's weight to 1/e."""

_CLEAR_ERRORS = 3.5
"""Standard errors that a fall must exceed. Of 2,000 simulated curves of noise alone, 18 did."""

_CLEAR_SHARE = 0.01
"""Share of the loss that a fall must exceed."""

_BEGUN_SHARE = 0.1
"""Share of the fall after which it has begun."""

Ending = Literal["running", "done", "exploded", "stopped"]


def rising_rates(lowest: float, highest: float, steps: int) -> list[float]:
    """Return learning rates that rise by the same factor at each step.

    >>> [f"{rate:.0e}" for rate in rising_rates(1e-6, 1e-2, 5)]
    ['1e-06', '1e-05', '1e-04', '1e-03', '1e-02']
    """
    factor = (highest / lowest) ** (1 / (steps - 1))
    return [lowest * factor**step for step in range(steps)]


def has_exploded(losses: Sequence[float]) -> bool:
    """Whether the last loss is not finite, or the last losses are far above the first ones."""
    if not losses or not math.isfinite(losses[-1]):
        return bool(losses)
    if len(losses) < FIRST_STEPS + _LAST_STEPS:
        return False
    first = losses[:FIRST_STEPS]
    level = fmean(first)
    return fmean(losses[-_LAST_STEPS:]) > level + max(_EXPLODED * abs(level), 3 * pstdev(first))


class Reading(NamedTuple):
    """What a curve says.

    Attributes:
        suggested: The suggested learning rate; None without a clear fall.
        why: Why nothing is suggested, as a sentence; "" otherwise.
        level: The loss before it falls.
        steepest, lowest: Number of the step where the loss falls fastest, and where it is lowest.
    """

    suggested: float | None
    why: str
    level: float = math.nan
    steepest: int = 0
    lowest: int = 0


@dataclass(frozen=True, repr=False)
class RangeTest(Presented):
    """Losses of a training whose learning rate rose at every step.

    Attributes:
        config: The config that was tested.
        learning_rates: The rate of each step that was trained.
        losses: The loss of each step: of its batch, before the weights moved by its rate.
        planned_steps: Steps that the test was to have.
        rows_per_step: Rows that a step learns from.
        ending: Whether it is still running, is done, the loss exploded before its end, or it was
            stopped.
        seconds: How long it took, with the loading of the model.
    """

    config: Config
    learning_rates: tuple[float, ...]
    losses: tuple[float, ...]
    planned_steps: int
    rows_per_step: int = 1
    ending: Ending = "done"
    seconds: float = 0.0

    @property
    def _finite(self) -> int:
        """How many losses there are before the first that is not finite."""
        pairs = enumerate(self.losses)
        return next((n for n, loss in pairs if not math.isfinite(loss)), len(self.losses))

    @functools.cached_property
    def _steps_a_decade(self) -> float:
        """Steps in which the rate rises by a factor of ten; at least two were measured."""
        decades = math.log10(self.learning_rates[-1] / self.learning_rates[0])
        return (len(self.learning_rates) - 1) / decades

    @functools.cached_property
    def _weight(self) -> float:
        """Weight of the next step in the moving average."""
        return math.exp(-1 / (_SMOOTHED_DECADES * self._steps_a_decade))

    @functools.cached_property
    def smoothed(self) -> tuple[float, ...]:
        """The losses as a moving average, as `nbft.charts.moving_average`, centred on each step.

        Its weights sum to 1 at every step, also at both ends (bias correction). NaN from the first
        loss on that is not finite.
        """
        if len(self.losses) < 2:
            return self.losses
        finite = self._finite
        kept = moving_average(self.losses[:finite], self._weight)
        return (*kept, *[math.nan] * (len(self.losses) - finite))

    @functools.cached_property
    def reading(self) -> Reading:
        """What the curve says."""
        steps = self._finite
        needed = 2 * FIRST_STEPS
        if not steps and self.ending == "stopped":
            return Reading(None, "It was stopped before the first step.")
        if steps < needed:
            ends = {"exploded": "The loss exploded", "stopped": "It was stopped"}
            what = ends.get(self.ending, "It ended")
            return Reading(
                None, f"{what} after {count(len(self.losses), 'step')}; it needs {needed}."
            )
        smoothed, rates = self.smoothed[:steps], self.learning_rates
        lowest = min(range(steps), key=smoothed.__getitem__)
        level = fmean(self.losses[: self._level_steps])
        fall, error = level - smoothed[lowest], self._error(lowest)
        if lowest < FIRST_STEPS:
            why = "The loss does not fall; it is lowest at the lowest rates."
            return Reading(None, why, level, lowest, lowest)
        if fall < max(_CLEAR_ERRORS * error, _CLEAR_SHARE * abs(level)):
            why = (
                f"The loss does not fall clearly: by {number(max(0.0, fall))}, from "
                f"{number(level)}, while chance alone moves the smoothed loss by about "
                f"{number(error)}."
            )
            return Reading(None, why, level, lowest, lowest)
        steepest = self._steepest(smoothed, level - _BEGUN_SHARE * fall, lowest)
        found = max(rates[0], min(rates[steepest], rates[lowest] / 10))
        return Reading(float(f"{found:.0e}"), "", level, steepest, lowest)

    @property
    def _level_steps(self) -> int:
        """Steps whose losses are the level: those of the first power of ten, which hardly train."""
        return max(FIRST_STEPS, min(round(self._steps_a_decade), self._finite // 4))

    def _error(self, lowest: int) -> float:
        """Return the standard error of the difference between the level and the smoothed minimum."""
        pairs = zip(self.losses[: lowest + 1], self.smoothed, strict=False)
        noise = pstdev([loss - smooth for loss, smooth in pairs])
        w = self._weight
        share = (1 + w**2) / (1 - w**2) / ((1 + w) / (1 - w)) ** 2  # of the variance that is left
        return noise * math.sqrt(share + 1 / self._level_steps)

    def _steepest(self, smoothed: Sequence[float], begun: float, lowest: int) -> int:
        """Return the step, between the beginning of the fall and its end, of the steepest slope."""
        begin = max((n for n in range(lowest) if smoothed[n] >= begun), default=0)
        side = max(1, round(self._steps_a_decade / 3))

        def slope(step: int) -> float:
            low, high = max(0, step - side), min(len(smoothed) - 1, step + side)
            return (smoothed[high] - smoothed[low]) / (high - low)

        return min(range(begin, lowest + 1), key=slope)

    @property
    def suggested(self) -> float | None:
        """The suggested learning rate; None without a clear fall of the loss."""
        return self.reading.suggested

    @property
    def why(self) -> str:
        """Why nothing is suggested, as a sentence; "" otherwise."""
        return self.reading.why

    @property
    def is_stopped(self) -> bool:
        """Whether it was stopped before its end."""
        return self.ending == "stopped"

    @property
    def sentence(self) -> str:
        """What was found, in sentences."""
        if self.ending == "running":
            return f"Step {len(self.losses):,} of {self.planned_steps:,}."
        found, rates = self.reading, self.learning_rates
        if found.suggested is None:
            return f"No learning rate is suggested. {found.why}"
        end = "."
        if self.ending == "exploded":
            end = f", and exploded near {_about(rates[-1])}."
        lowest = self.smoothed[found.lowest]
        text = (
            f"Suggested learning rate: {number(found.suggested)}. The loss fell from "
            f"{number(found.level)} to {number(lowest)}: fastest near "
            f"{_about(rates[found.steepest])}, lowest near {_about(rates[found.lowest])}{end}"
        )
        usual = rates_of(self.config)
        if not usual.lowest <= found.suggested <= usual.highest:
            text += f" For {usual.name} this is unusual: {usual.usual}."
        return text

    @property
    def caveat(self) -> str:
        """What the suggestion depends on, in sentences."""
        steps = len(self.losses)
        rows = count(steps * self.rows_per_step, "row")
        of = f" of {self.planned_steps:,}" if self.is_stopped else ""
        present = self.config.training.learning_rate
        compare = f"Train with it and with {number(present)}, which the config has now, and compare"
        if self.suggested is None or self.suggested == present:
            compare = "Train at several rates, and compare"
        return (
            f"Measured once, in {steps:,}{of} steps of {count(self.rows_per_step, 'row')} ({rows} "
            "in all), without warm-up and at a rate that rose at every step. A longer training, "
            "another batch size or a warm-up may want another rate. "
            f"{compare} the held-out losses."
        )

    def apply(self) -> Config:
        """Return the config with the suggested learning rate.

        Raises:
            NbftError: Nothing is suggested.
        """
        if self.suggested is None:
            raise NbftError(self.sentence)
        return self.config.apply({"training.learning_rate": self.suggested})

    def to_dict(self) -> dict[str, Any]:
        """Return it as JSON values; None stands for a loss that is not finite."""
        losses, smoothed = (
            [value if math.isfinite(value) else None for value in values]
            for values in (self.losses, self.smoothed)
        )
        return {
            "suggested": self.suggested,
            "sentence": self.sentence,
            "caveat": self.caveat,
            "learning_rates": list(self.learning_rates),
            "losses": losses,
            "smoothed": smoothed,
            "planned_steps": self.planned_steps,
            "rows_per_step": self.rows_per_step,
            "ending": self.ending,
            "seconds": round(self.seconds, 1),
        }


def _about(rate: float) -> str:
    return number(float(f"{rate:.0e}"))
