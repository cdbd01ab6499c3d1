"""`nbft.compare`: runs beside each other, with what differs between them.

Reads their folders and computes nothing new. The panel compares runs by the same settings.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import NormalDist, fmean, stdev
from typing import TYPE_CHECKING, Any, NamedTuple

from nbft.errors import ConfigError, NbftError, Problem
from nbft.evaluate.compare import Answered
from nbft.evaluate.metrics import SCORES
from nbft.evaluate.scores import confidence_interval, label_of, shown, verdicts
from nbft.events import Event
from nbft.presented import Presented
from nbft.redaction import redact
from nbft.runs.folder import Run, attach
from nbft.runs.state import RunState

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LARGEST_COMPARISON = 6
"""Runs that are told apart by the colours of one chart."""

_OWN = "training.run_name"  # shown as the title


class Measured(NamedTuple):
    """A score of one run.

    Attributes:
        value: The score after its last step.
        rows: Rows that it was measured on.
        low: Lower bound of what to expect on more rows like these, with 95% confidence; None if the
            values of the rows are not known.
        high: The upper bound.
        verdict: better, worse or the same as the first run, and whether that may be chance; "" for
            the first run, and where the rows are not the same.
        text: The score for people.
    """

    value: float
    rows: int
    low: float | None
    high: float | None
    verdict: str
    text: str


class ScoreRow(NamedTuple):
    """A score of all runs; None for a run that was not scored by it."""

    label: str
    split: str
    runs: list[Measured | None]


class RunComparison(Presented):
    """Runs beside each other; see `compare`.

    Attributes:
        names: What the runs are called.
        settings: {path: [a value for each run]} of the settings that differ.
        scores: The scores, each with its uncertainty.
        models: The same as `names`, as headings of the answers.
        answered: The prompts that are answered differently, with the answers of each run.
        prompts: How many prompts all runs have answered.
        states: The state of each run.
    """

    def __init__(self, runs: Sequence[Run]) -> None:
        names = [run.id for run in runs]
        has_doubles = len({*names}) < len(names)
        self.names = [str(run.path) if has_doubles else run.id for run in runs]
        self.states = [run.state for run in runs]
        self.settings = differing_settings([settings_of(run) for run in runs])
        self.scores = _scores(self.states, [_rows_key(run) for run in runs])
        self.models: tuple[str, ...] = tuple(self.names)
        told = [_last_samples(state) for state in self.states]
        shared = [key for key in told[0] if all(key in one for one in told[1:])]
        self.prompts = len(shared)
        self.answered = [
            Answered(key[0], told[0][key].get("wanted") or "", texts)
            for key in shared
            if len({*(texts := tuple(one[key]["text"] for one in told))}) > 1
        ]

    @property
    def losses(self) -> list[list[Any]]:
        """For each run its name, its last loss and its last held-out loss; None if unknown."""
        return [
            [name, *(_last(state.curve(curve).values) for curve in ("loss", "eval_loss"))]
            for name, state in zip(self.names, self.states, strict=True)
        ]

    def figure(self) -> Figure:
        """Draw the losses of all runs over one axis, as a matplotlib Figure."""
        from nbft.runs.curves import draw_losses

        return draw_losses(dict(zip(self.names, self.states, strict=True)))


def compare(*runs: Run | str | Path, folder: str | Path = "runs") -> RunComparison:
    """Show runs beside each other: losses, settings and answers that differ, and scores.

    Args:
        *runs: Two to six runs, or their names or folders.
        folder: Folder in which runs are found by name.

    Returns:
        A value that shows itself; `figure()`, `settings`, `scores` and `answered` have its parts.

    Raises:
        ConfigError: There are too few or too many runs, or one of them twice.
        RunError: There is no such run.
    """
    found = [run if isinstance(run, Run) else attach(run, folder) for run in runs]
    if not 2 <= len({run.path for run in found}) == len(found) <= LARGEST_COMPARISON:
        why = f"names {len(found)} runs, or one of them twice."
        fix = f"Name two to {LARGEST_COMPARISON} different runs."
        raise ConfigError(Problem("runs", None, why, fix))
    return RunComparison(found)


def settings_of(run: Run) -> dict[str, tuple[Any, Any]]:
    """Return {setting: (default, value)} of a run's config, where they differ; without secrets."""
    settings: dict[str, tuple[Any, Any]] = redact(run.config.diff())
    return {setting: values for setting, values in settings.items() if setting != _OWN}


def differing_settings(
    changed: Sequence[Mapping[str, tuple[Any, Any]]],
) -> dict[str, list[Any]]:
    """Return {setting: [a value for each run]} of the settings in which runs differ.

    Args:
        changed: {setting: (default, value)} of each run.

    >>> differing_settings([{"peft.r": (16, 8)}, {}])
    {'peft.r': [8, 16]}
    """
    usual = {path: values[0] for settings in changed for path, values in settings.items()}
    rows = {
        path: [settings.get(path, (default, default))[1] for settings in changed]
        for path, default in usual.items()
    }
    return {
        path: values
        for path, values in rows.items()
        if any(value != values[0] for value in values[1:])
    }


def _last(values: Sequence[float]) -> float | None:
    finite = [value for value in values if math.isfinite(value)]
    return finite[-1] if finite else None


def _last_samples(state: RunState) -> dict[tuple[str, int], dict[str, Any]]:
    """Return the last answers of a run by their prompt, and which of equal prompts it is."""
    told: dict[tuple[str, int], dict[str, Any]] = {}
    after = [event for event in state.samples if event["step"]]
    for sample in after[-1]["samples"] if after else ():
        number = sum(prompt == sample["prompt"] for prompt, _ in told)
        told[sample["prompt"], number] = sample
    return told


def _scores(states: Sequence[RunState], rows: Sequence[str]) -> list[ScoreRow]:
    """Return every score of the last step of some runs.

    Args:
        states: The runs.
        rows: What says which rows each run was scored on.
    """
    last = [_last_scores(state) for state in states]
    keys = dict.fromkeys((split, name) for one in last for split in one for name in one[split][0])
    table = []
    for split, name in keys:
        first = last[0].get(split)
        measured: list[Measured | None] = []
        for n, one in enumerate(last):
            event = one[split][1] if split in one and name in one[split][0] else None
            if event is None:
                measured.append(None)
                continue
            is_alike = n > 0 and first is not None and rows[n] == rows[0]
            verdict = verdicts(first[1], event).get(name, "") if is_alike and first else ""
            measured.append(_measured(name, event, verdict))
        table.append(ScoreRow(label_of(name), split, measured))
    return table


def _last_scores(state: RunState) -> dict[str, tuple[dict[str, float], Event]]:
    """Return the last scores of each split, with their event; those of the base model do not count."""
    last = {}
    for event in state.scored:
        if event["step"] and event.get("scores"):
            last[event.get("split") or "validation"] = (event["scores"], event)
    return last


def _measured(name: str, event: Event, verdict: str) -> Measured:
    value, rows = event["scores"][name], event.get("rows") or 0
    low, high = _interval(name, value, rows, (event.get("values") or {}).get(name) or ())
    return Measured(value, rows, low, high, verdict, shown(name, value, rows))


def _interval(
    name: str, value: float, rows: int, values: Sequence[float]
) -> tuple[float | None, float | None]:
    """Return the bounds of a score with 95% confidence.

    Of a share Wilson's interval; of a mean the standard errors of the mean over its rows.
    """
    if name in SCORES and SCORES[name].is_yes_or_no and rows and math.isfinite(value):
        return confidence_interval(round(value * rows), rows)
    is_mean = len(values) > 1 and math.isclose(fmean(values), value, rel_tol=1e-6, abs_tol=1e-9)
    if not is_mean:
        return None, None
    half = NormalDist().inv_cdf(0.975) * stdev(values) / math.sqrt(len(values))
    return value - half, value + half


def _rows_key(run: Run) -> str:
    """Return what decides on which rows a run is scored; rows in its own folder count by their size."""
    try:
        config = run.config
        files = {path.name: path.stat().st_size for path in sorted((run.path / "data").glob("*"))}
    except (NbftError, OSError):
        return str(run.path)
    data = config.data.model_dump(mode="json")
    about = [data, config.training.seed, config.evaluation.model_dump(mode="json"), files]
    return json.dumps(about, default=str).replace(str(run.path), "")
