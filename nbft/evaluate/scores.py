"""The scores of a run: the base model next to the tuned one, with verdicts.

Reads `scores` events, computes nothing new and loads no library. Called by `nbft.training`, the
report, the Monitor and people.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import NormalDist
from typing import Any, NamedTuple, overload

from nbft.charts import ChartSpec, Curve
from nbft.evaluate.metrics import SCORES, Score
from nbft.events import Event
from nbft.formatting import count, number, one_line
from nbft.presented import Presented

_ALIKE = ("split", "rows", "max_new_tokens", "do_sample", "form")
"""Fields that must be equal for two scores to be comparable."""

SHARES = "scores, 0 to 1"
"""Title of the chart of scores that share a scale."""

_STANDARD_ERRORS = 2.0
"""A mean difference of fewer standard errors over the rows may be chance (about 1 in 20)."""


class Compared(NamedTuple):
    """One score of the base model and of the tuned one.

    Attributes:
        score: Its name, as in the events.
        label: Its name for people.
        split: validation or test.
        rows: Number of rows of the last score.
        base_rows: Number of rows of the base model's score, usually the same.
        base: Score of the base model; None if it was not scored.
        last: The last score.
        step: Step of the last score.
        verdict: better, worse or the same, and whether that may be chance; "" without a base, and
            if the two were measured differently.
        history: Every (step, score), the base at step 0.
    """

    score: str
    label: str
    split: str
    rows: int
    base_rows: int
    base: float | None
    last: float
    step: int
    verdict: str
    history: tuple[tuple[int, float], ...]


class Scores(Presented, Sequence[dict[str, Any]]):
    """The scores of a run, each as a dict of the fields of `Compared`.

    Args:
        events: Events of a run; only `scores` are used.
        remarks: Sentences about the rows.

    >>> base = {"event": "scores", "step": 0, "rows": 4, "scores": {"exact_match": 0.0}}
    >>> last = {"event": "scores", "step": 9, "rows": 4, "scores": {"exact_match": 0.75}}
    >>> print(Scores([base, last]))
    score        base model   after step 9  difference
    exact match  0% (0 of 4)  75% (3 of 4)  +3 rows: better
    """

    def __init__(self, events: Iterable[Event], remarks: Iterable[str] = ()) -> None:
        self.compared: list[Compared] = []
        self.remarks = list(remarks)
        by_split: dict[str, list[Event]] = {}
        for event in events:
            if event["event"] == "scores" and event.get("scores"):
                by_split.setdefault(event.get("split") or "validation", []).append(event)
        for split, own in by_split.items():
            self.compared += _compared(own, split)

    def __len__(self) -> int:
        return len(self.compared)

    @overload
    def __getitem__(self, number: int) -> dict[str, Any]: ...
    @overload
    def __getitem__(self, number: slice) -> list[dict[str, Any]]: ...
    def __getitem__(self, number: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        if isinstance(number, slice):
            return [one._asdict() for one in self.compared[number]]
        return self.compared[number]._asdict()

    @property
    def sentences(self) -> list[str]:
        """Sentences for each split: how the scores changed, and the rows that are counted."""
        return [
            sentence
            for own in self.by_split()
            for sentence in (_in_words(own), *map(_counted, own))
            if sentence
        ]

    @property
    def charts(self) -> list[tuple[ChartSpec, list[tuple[float | None, ...]]]]:
        """The charts of the held-out rows, one per scale, with rows as in `RunState.rows`."""
        by_name = {one.score: dict(one.history) for one in self.compared if one.split != "test"}
        charts = []
        for title, names in chart_groups(by_name):
            spec = ChartSpec(title, tuple(Curve(name, label_of(name)) for name in names))
            steps = sorted({step for name in names for step in by_name[name]})
            rows = [(step, *(by_name[name].get(step) for name in names)) for step in steps]
            charts.append((spec, rows))
        return charts

    def tables(self) -> list[dict[str, Any]]:
        """Return a table for each split as texts: {name, caption, head, rows}."""
        return [
            {
                "name": f"{_row_noun(own[0].split)}s",
                "caption": rows_scored(own[0]),
                "head": list(head(own)),
                "rows": [list(cells(one)) for one in own],
            }
            for own in self.by_split()
        ]

    def by_split(self) -> list[list[Compared]]:
        """Return the scores of each split."""
        splits = dict.fromkeys(one.split for one in self.compared)
        return [[one for one in self.compared if one.split == split] for split in splits]


def verdicts(base: Event, last: Event) -> dict[str, str]:
    """Return for each score of two events whether it is better, worse or the same.

    If the value of each row is known, a mean difference below two standard errors of the rows'
    differences "may be chance". Scores that were measured differently are not comparable.

    Args:
        base: Event of the base model.
        last: A later event.
    """
    if not base or any(base.get(name) != last.get(name) for name in _ALIKE):
        return {}
    both = [name for name in last["scores"] if name in base["scores"]]
    return {name: _verdict(name, base, last) for name in both}


def shown(name: str, value: float, rows: int) -> str:
    """Format a score, counting rows if it is a yes-or-no score.

    >>> shown("exact_match", 0.25, 16), shown("rougeL", 0.21, 16)
    ('25% (4 of 16)', '0.210')
    """
    if name in SCORES and SCORES[name].is_yes_or_no and math.isfinite(value):
        return f"{value:.0%} ({round(value * rows):,} of {rows:,})"
    return number(value)


def chart_groups(names: Iterable[str]) -> list[tuple[str, list[str]]]:
    """Group scores into charts of one scale each: (title, names).

    >>> chart_groups(["rouge1", "perplexity", "mine", "format"])
    [('scores, 0 to 1', ['rouge1', 'format']), ('perplexity', ['perplexity']), ('mine', ['mine'])]
    """
    names = list(dict.fromkeys(names))
    shares = [name for name in names if name in SCORES and name != "perplexity"]
    rest = [(label_of(name), [name]) for name in names if name not in shares]
    return [(SHARES, shares), *rest] if shares else rest


def label_of(name: str) -> str:
    """Return the name of a score for people.

    >>> label_of("rougeL"), label_of("my_score")
    ('ROUGE-L', 'my_score')
    """
    return one_line(_about(name).label)


def _about(name: str) -> Score:
    return SCORES.get(name, Score(name))


def _compared(events: Sequence[Event], split: str) -> list[Compared]:
    by_step = {e["step"]: e for e in events}  # later events replace earlier ones
    ordered = [by_step[step] for step in sorted(by_step)]
    base = by_step.get(0, {})
    # In the order of the file: a run may end with an earlier checkpoint if it is the best.
    last = next((e for e in reversed(events) if e["step"]), base)
    known = {} if base is last else verdicts(base, last) | (last.get("verdicts") or {})
    compared = []
    for name, value in last["scores"].items():
        history = tuple((e["step"], e["scores"][name]) for e in ordered if name in e["scores"])
        compared.append(
            Compared(
                name,
                label_of(name),
                split,
                last.get("rows") or 0,
                base.get("rows") or 0,
                base.get("scores", {}).get(name),
                value,
                last["step"],
                known.get(name, ""),
                history,
            )
        )
    return compared


def _verdict(name: str, base: Event, last: Event) -> str:
    before, after = base["scores"][name], last["scores"][name]
    if math.isnan(before) or math.isnan(after):
        return ""
    rows = last.get("rows") or 0
    if before == after or shown(name, before, rows) == shown(name, after, rows):
        return "the same"
    greater_is_better = (
        SCORES[name].greater_is_better if name in SCORES else last.get("greater_is_better", True)
    )
    word = "better" if (after > before) == greater_is_better else "worse"
    first, second = ((e.get("values") or {}).get(name, ()) for e in (base, last))
    is_known = first and len(first) == len(second)
    return f"{word}, may be chance" if is_known and _is_chance(first, second) else word


def _is_chance(before: Sequence[float], after: Sequence[float]) -> bool:
    """Whether the mean difference of the same rows is within the standard errors."""
    differences = [b - a for a, b in zip(before, after, strict=True)]
    rows = len(differences)
    if rows < 2:
        return True
    mean = sum(differences) / rows
    variance = sum((d - mean) * (d - mean) for d in differences) / (rows - 1)
    return abs(mean) < _STANDARD_ERRORS * math.sqrt(variance / rows)


_WORDS = {
    "better": "improved",
    "better, may be chance": "improved by what may be chance",
    "the same": "did not improve",
    "worse, may be chance": "did not improve: worse by what may be chance",
    "worse": "did not improve: worse than before",
}


def _in_words(own: Sequence[Compared]) -> str:
    """Return a sentence about how the scores of one split changed; "" if unknown."""
    parts = []
    for verdict, words in _WORDS.items():
        labels = [one.label for one in own if one.verdict == verdict]
        if labels:
            most, last = ", ".join(labels[:-1]), labels[-1]
            parts.append(f"{most} and {last} {words}" if most else f"{last} {words}")
    if not parts:
        return ""
    return f"On {rows_scored(own[0])} {'; '.join(parts)}."


def _counted(one: Compared) -> str:
    """Return a sentence with the rows that a yes-or-no score counts; "" for other scores."""
    is_counted = one.score in SCORES and SCORES[one.score].is_yes_or_no
    if one.base is None or not (is_counted and one.rows and one.step):
        return ""
    before, after = round(one.base * one.base_rows), round(one.last * one.rows)
    among = count(one.base_rows, _row_noun(one.split))
    of = "" if one.rows == one.base_rows else f" of {one.rows:,}"
    low, high = confidence_interval(after, one.rows)
    return (
        f"{one.label.capitalize()}: {before:,} of {among} before training, {after:,}{of} after step "
        f"{one.step:,}. On more rows like these, expect {low:.0%} to {high:.0%} (95% confidence "
        "interval)."
    )


def confidence_interval(hits: int, rows: int) -> tuple[float, float]:
    """Return the bounds of a share that was measured on a few rows, with 95% confidence.

    Source: Wilson, Probable inference, the law of succession, and statistical inference (1927).

    >>> [round(bound, 3) for bound in confidence_interval(24, 48)]
    [0.364, 0.636]
    >>> [round(bound, 3) for bound in confidence_interval(0, 20)]
    [0.0, 0.161]
    """
    z = NormalDist().inv_cdf(0.975)
    share, size = hits / rows, 1 + z * z / rows
    middle = (share + z * z / (2 * rows)) / size
    half = z * math.sqrt(share * (1 - share) / rows + (z / (2 * rows)) ** 2) / size
    return max(0.0, middle - half), min(1.0, middle + half)


def rows_scored(one: Compared) -> str:
    """Return the scored rows of a score, as in "16 held-out rows"."""
    return count(one.rows, _row_noun(one.split))


def _row_noun(split: str) -> str:
    return "test row" if split == "test" else "held-out row"


def head(own: Sequence[Compared]) -> tuple[str, str, str, str]:
    """Return the column headings of a table."""
    step = own[0].step
    return "score", "base model", f"after step {step:,}" if step else "tuned", "difference"


def cells(one: Compared) -> tuple[str, str, str, str]:
    """Return a row of a table: label, before, after, and the difference."""
    base = "not scored" if one.base is None else shown(one.score, one.base, one.base_rows)
    last = shown(one.score, one.last, one.rows)
    if one.step == 0:
        return one.label, base, "", ""
    return one.label, base, last, ": ".join(filter(None, (_difference(one), one.verdict)))


def _difference(one: Compared) -> str:
    by = one.last - one.base if one.base is not None else math.nan
    if one.verdict == "the same" or not math.isfinite(by):
        return ""
    if not one.verdict:
        return "not comparable"
    sign = "+" if by > 0 else "\u2212"
    if one.score in SCORES and SCORES[one.score].is_yes_or_no:
        return sign + count(round(abs(by) * one.rows), "row")
    return sign + number(abs(by))
