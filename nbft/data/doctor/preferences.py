"""Findings about better and worse answers, for methods that learn from both."""

from __future__ import annotations

import math

import numpy as np

from nbft.data.doctor.check import check, leaving_out, of_rows, places_of
from nbft.data.doctor.finding import Finding, percent
from nbft.data.doctor.measure import Seen
from nbft.formatting import count
from nbft.methods import method_of

LENGTH_PAIRS = 20
"""Of fewer pairs, most may prefer the longer answer by chance."""

LENGTH_SHARE, LENGTH_SHARE_OF_MOST = 0.65, 0.8
"""Pairs that a rule by length alone orders correctly, from which that is to know, and from which length
may well be all that is learned. People do prefer fuller answers: around 6 in 10 is usual."""

_SURE = 3.0
"""Standard errors by which that share must exceed one half."""

CUT_SHARE = 0.01
"""As of all rows that are cut."""

LABEL_RATIOS = (1.0, 4 / 3)
"""Good to bad answers, each times its weight. Source: TRL, KTOTrainer, “Imbalanced data”."""

_LABEL_SLACK = 0.1
"""Share by which the ratio may be outside of that: weights hardly matter then."""

_MANY_TIMES = 2.0
"""Factor outside of the ratios from which on one kind of answers is all that counts."""


def _pairs(seen: Seen) -> np.ndarray:
    """Return which training rows are pairs that a method compares."""
    rows: np.ndarray = seen.of("train") & seen.is_tokenised & (seen.side_tokens[:, 1] > 0)
    return rows


@check
def identical_answers(seen: Seen) -> Finding | None:
    """The chosen answer is the rejected one."""
    rows = np.flatnonzero(seen.has_same_answers)
    return of_rows(
        seen,
        "error" if len(rows) * 2 >= len(seen) else "warning",
        rows,
        "Pairs whose two answers are the same",
        "No answer is the better one, so there is nothing to learn from such a pair, and it counts "
        "as one that the model gets wrong.",
        "Leave them out.",
        rewrite=None if len(rows) == len(seen) else leaving_out(seen, rows),
        weight=10,
    )


@check
def tied_scores(seen: Seen) -> Finding | None:
    """Both answers have the same score."""
    rows = np.flatnonzero((seen.margin == 0) & ~seen.has_same_answers)
    return of_rows(
        seen,
        "warning",
        rows,
        "Pairs that score both answers alike",
        "Which answer is called the better one is then chance, and the model learns it all the same.",
        "Leave them out.",
        rewrite=None if len(rows) == len(seen) else leaving_out(seen, rows),
        weight=5,
    )


@check
def swapped_scores(seen: Seen) -> Finding | None:
    """The rejected answer has the higher score."""
    rows = np.flatnonzero(seen.margin < 0)
    return of_rows(
        seen,
        "warning",
        rows,
        "Pairs that score the rejected answer higher than the chosen one",
        "Either the scores or the two answers are the wrong way round.",
        "Look at them, and leave out those that are wrong.",
        rewrite=leaving_out(seen, rows, is_choice=True),
        weight=8,
    )


@check
def preferred_by_length(seen: Seen) -> Finding | None:
    """The length of the answers alone tells which is the better one."""
    pairs = np.flatnonzero(_pairs(seen) & ~seen.has_same_answers)
    chosen, rejected = seen.side_tokens[pairs].T  # with the same prompt
    is_longer, is_shorter = chosen > rejected, chosen < rejected
    if (number := int(is_longer.sum() + is_shorter.sum())) < LENGTH_PAIRS:
        return None
    longer = int(is_longer.sum()) / number
    word, following = ("longer", is_longer) if longer >= 0.5 else ("shorter", is_shorter)
    share = max(longer, 1 - longer)
    if share < max(LENGTH_SHARE, 0.5 + _SURE * math.sqrt(0.25 / number)):
        return None
    return Finding(
        "",
        "warning" if share >= LENGTH_SHARE_OF_MOST else "note",
        f"The {word} answer is the chosen one in {percent(share)} of {count(number, 'pair')} whose "
        f"answers differ in length: always taking the {word} answer would have an accuracy of "
        f"{share:.2f}.",
        f"The model may learn to write {word} answers and little else. An accuracy of about "
        f"{share:.2f} then shows nothing more.",
        f"Add pairs whose {'shorter' if word == 'longer' else 'longer'} answer is the better one, and "
        f"look at the accuracy of the run beside this one.",
        int(following.sum()),
        number,
        "pair",
        places_of(seen, pairs[following], {}),
        weight=2,
    )


@check
def chosen_cut(seen: Seen) -> Finding | None:
    """Chosen answers lose their end more often than rejected ones."""
    from nbft.data.doctor.checks import longer_maximum

    limit = seen.config.data.max_length
    cut = (seen.side_tokens > limit) & _pairs(seen)[:, None]
    rows = cut[:, 0] & ~cut[:, 1]
    others = int((cut[:, 1] & ~cut[:, 0]).sum())
    if rows.sum() <= others or rows.sum() < CUT_SHARE * _pairs(seen).sum():
        return None
    longer, _ = longer_maximum(seen, rows)
    return of_rows(
        seen,
        "warning",
        np.flatnonzero(rows),
        f"Pairs whose chosen answer alone loses its end at data.max_length={limit}",
        "The better answer is then one without an end, and the worse one stops where it should.",
        f"Use data.max_length={longer}; memory and time grow with it."
        if longer
        else "The model cannot read more: shorten the rows.",
        detail=f"The rejected answer alone does in {count(others)}.",
        changes={"data.max_length": longer} if longer else {},
        weight=6,
    )


@check
def answer_balance(seen: Seen) -> Finding | None:
    """Good and bad answers do not weigh about the same."""
    if "label" not in method_of(seen.config).value_names:
        return None
    rows = seen.of("train") & seen.is_tokenised
    good, bad = (int((seen.label[rows] == label).sum()) for label in (1, 0))
    if good + bad == 0:
        return None
    total = good + bad
    share = (
        f"{count(good)} of {count(total)} training answers ({percent(good / total)}) are good ones"
    )
    why = (
        "The model then learns from one kind of answers, and hardly from the other. TRL's "
        "documentation recommends good to bad answers, each times its weight, from 1:1 to 4:3"
    )
    if not good or not bad:
        missing = "good" if bad else "bad"
        fix = f"Add {missing} answers, or use training.method=sft for good ones alone."
        return Finding("", "error", f"{share}.", f"{why}.", fix, total, total, "row", weight=10)
    ours = seen.config.preference
    weights = ours.desirable_weight * good, ours.undesirable_weight * bad
    ratio = weights[0] / weights[1] if weights[1] else math.inf
    low, high = LABEL_RATIOS
    if low * (1 - _LABEL_SLACK) <= ratio <= high * (1 + _LABEL_SLACK):
        return None
    # One weight is 1; the other brings the ratio to the middle of what is recommended.
    middle = (low + high) / 2 * bad / good
    changes = {
        "preference.desirable_weight": float(f"{middle:.2g}") if middle >= 1 else 1.0,
        "preference.undesirable_weight": 1.0 if middle >= 1 else float(f"{1 / middle:.2g}"),
    }
    proposed = ", ".join(f"{path}={value:g}" for path, value in changes.items())
    is_far = ratio > _MANY_TIMES * high or ratio < low / _MANY_TIMES
    rare = "good" if ratio < low else "bad"
    return Finding(
        "",
        "warning" if is_far else "note",
        f"{share}, and with their weights good answers count {ratio:.2g} times as much as bad ones.",
        f"{why}.",
        f"Use {proposed}, or add {rare} answers.",
        min(good, bad),
        total,
        "row",
        changes=changes,
        weight=3,
    )
