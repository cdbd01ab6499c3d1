"""Findings about rows that differ from what most rows do. `habits` learns it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from nbft.data.doctor import habits
from nbft.data.doctor.check import check, leaving_out, mended, of_rows
from nbft.data.doctor.finding import Finding, percent, with_answers
from nbft.data.doctor.kinds import Said
from nbft.data.doctor.measure import Seen
from nbft.formatting import count

LABEL_IMBALANCE = 10
"""From this ratio of the commonest to the rarest label on, guessing the commonest pays."""


def _answered(seen: Seen) -> np.ndarray:
    """Return the rows with an answer that the model is to imitate: not one that is labelled bad."""
    is_answered = seen.is_tokenised & ~seen.answer_is_empty & (seen.label != 0)
    rows: np.ndarray = np.flatnonzero(is_answered)
    return rows


def _rare(
    seen: Seen,
    rows: np.ndarray,
    what: str,
    why: str,
    fix: str,
    weight: float,
    mend: Callable[[str], str] | None = None,
) -> Finding | None:
    """Return a finding about rows that differ, whose answers are mended, or which a person may leave out."""
    rows = np.sort(rows)
    rewrite = leaving_out(seen, rows, is_choice=True)
    if mend is not None:
        rewrite = mended(seen, rows, with_answers(mend), answers_only=True)
    level = "warning" if weight >= 2 else "note"
    return of_rows(seen, level, rows, what, why, fix, rewrite=rewrite, weight=weight)  # type: ignore[arg-type]


@check
def missing_signs(seen: Seen) -> Finding | None:
    """Answers lack a sign such as #### that most have."""
    rows = _answered(seen)
    found = sorted(habits.without_sign(seen.habits, rows), key=lambda pair: len(pair[1]))
    if not found:
        return None
    lacking = np.unique(np.concatenate([one for _, one in found]))
    named = " or ".join(f"“{sign}”" for sign, _ in found[:3])
    return _rare(
        seen,
        lacking,
        f"Rows whose answer lacks {named}, which {percent(1 - len(found[0][1]) / len(rows))} have",
        "The model learns that the form does not matter, and whatever reads its answers fails.",
        "Write these answers in the form of the others.",
        4,
    )


@check
def broken_json(seen: Seen) -> Finding | None:
    """Answers are no JSON where most are."""
    broken, _ = habits.without_json(seen.habits, _answered(seen))
    return _rare(
        seen,
        broken,
        "Rows whose answer cannot be read as JSON, where most can",
        "The model learns to write what no program can read.",
        "Correct these answers.",
        4,
    )


@check
def other_json_keys(seen: Seen) -> Finding | None:
    """Answers are JSON objects with other keys than most."""
    _, others = habits.without_json(seen.habits, _answered(seen))
    return _rare(
        seen,
        others,
        "Rows whose answer is JSON with other keys than most",
        "The model learns that keys may be missing or named otherwise.",
        "Write these answers with the keys of the others.",
        3,
    )


@check
def empty_prompts(seen: Seen) -> Finding | None:
    """Rows have no prompt where most have one."""
    return _rare(
        seen,
        habits.without_prompt(seen.habits, _answered(seen)),
        "Rows with an empty prompt, where others have one",
        "The model learns to say this without being asked.",
        "Fill in the prompts, or leave these rows out.",
        3,
    )


@check
def cut_answers(seen: Seen) -> Finding | None:
    """Answers stop in mid-sentence."""
    return _rare(
        seen,
        habits.cut_short(seen.habits, _answered(seen)),
        "Rows whose answer seems to stop in mid-sentence, unlike most",
        "The model learns to stop anywhere.",
        "Complete them, or leave them out.",
        2,
    )


@check
def short_answers(seen: Seen) -> Finding | None:
    """Answers are far shorter than the others."""
    return _rare(
        seen,
        habits.much_shorter(seen.habits, _answered(seen)),
        "Rows whose answer is a tenth as long as usual or less",
        "The model learns to leave the answer out.",
        "Check whether they answer at all.",
        2,
    )


@check
def shouted_answers(seen: Seen) -> Finding | None:
    """Answers are in capital letters."""
    return _rare(
        seen,
        habits.few_with(seen.habits.is_shouted, _answered(seen)),
        "Rows whose answer is in capital letters, unlike most",
        "The model learns to shout now and then.",
        "Write them like the others, unless they were asked for so.",
        1,
    )


@check
def padded_answers(seen: Seen) -> Finding | None:
    """Answers begin or end with spaces."""
    return _rare(
        seen,
        habits.few_with(seen.habits.is_padded, _answered(seen)),
        "Rows whose answer begins or ends with spaces or line breaks, unlike most",
        "The model reads other tokens there than in the other rows.",
        "Remove them.",
        0.5,
        mend=str.strip,
    )


@check
def labelled_answers(seen: Seen) -> Finding | None:
    """Answers begin with a label."""

    def without_label(text: str) -> str:
        bare = text.lstrip()
        label = habits.LABEL.match(bare)
        return text[: len(text) - len(bare)] + bare[label.end() :] if label else text

    return _rare(
        seen,
        habits.few_with(seen.habits.is_labelled, _answered(seen)),
        "Rows whose answer begins with a label such as “Answer:”, unlike most",
        "The model learns to write it now and then, and whatever reads its answers has to expect both.",
        "Remove it.",
        2,
        mend=without_label,
    )


@check
def other_scripts(seen: Seen) -> Finding | None:
    """Answers are written in another script than most."""
    usual, others = habits.other_script(seen.habits, _answered(seen))
    return _rare(
        seen,
        others,
        f"Rows whose answer is not written in {usual.capitalize()} script, as the others are",
        "The model learns to change the language.",
        "Check whether they were asked in it. If not, leave them out.",
        2,
    )


@check
def other_languages(seen: Seen) -> Finding | None:
    """Answers are in another language than most."""
    usual, seeming = habits.other_language(seen.habits, _answered(seen))
    said = ((row, Said(seen.example(row))) for row in seeming.tolist())
    differ = seen.habits.is_other_language
    others = np.array([row for row, one in said if differ(usual, one.prompt, one.answer)], np.int64)
    return _rare(
        seen,
        others,
        f"Rows whose answer is in another language than most ({usual})",
        "The model learns to change the language.",
        "Check whether they were asked for it. If not, leave them out.",
        2,
    )


@check
def same_answers(seen: Seen) -> Finding | None:
    """Many rows have one answer."""
    rows = habits.same_answer(seen.habits, _answered(seen))
    is_most = 2 * len(rows) >= len(seen)
    return of_rows(
        seen,
        "error" if is_most else "warning",
        rows,
        "Rows that all have the same answer",
        "The model learns to give it whatever is asked.",
        "Check whether it is the right column." if is_most else "Leave most of them out.",
        rewrite=None if is_most else leaving_out(seen, rows, is_choice=True),
    )


@check
def boilerplate(seen: Seen) -> Finding | None:
    """Many answers begin or end with the same words."""
    rows = _answered(seen)
    if habits.are_labels(seen.habits, len(rows)):
        return None
    begin, close = habits.boilerplate(seen.habits, rows)
    found = np.union1d(begin, close)
    both = " and ".join(
        f"{count(len(some))} {where}"
        for some, where in ((begin, "begin"), (close, "end"))
        if len(some)
    )
    return of_rows(
        seen,
        "note",
        found,
        "Rows whose answers begin or end with the same words",
        "The model learns to say them every time. That is fine where it is the form of the answers.",
        "Remove them if they say nothing.",
        detail=f"{both} with them.",
    )


@check
def unrelated_answers(seen: Seen) -> Finding | None:
    """Answers share no word with their prompts, where others do."""
    seeming = habits.unrelated(seen.habits, _answered(seen)).tolist()
    strangers = [row for row in seeming if not habits.share_numbers(Said(seen.example(row)))]
    return _rare(
        seen,
        np.array(strangers, np.int64),
        "Rows whose answer has hardly a word or number of its prompt, where others have many",
        "The answers may belong to other rows.",
        "Look at them: were rows shuffled?",
        4,
    )


@check
def swapped_parts(seen: Seen) -> Finding | None:
    """Prompt and answer are swapped."""
    return _rare(
        seen,
        habits.swapped(seen.habits, _answered(seen)),
        "Rows that seem to be the other way round: the answer asks, or is the long part, unlike in most",
        "The model learns to ask instead of to answer.",
        "Check whether prompt and answer were swapped.",
        3,
    )


@check
def label_spelling(seen: Seen) -> Finding | None:
    """A label is written in several ways."""
    rows = _answered(seen)
    if not habits.are_labels(seen.habits, len(rows)):
        return None
    wrong = habits.misspelt_labels(seen.habits.labels.items())
    of_label = {habits.crc(label) for label in wrong}
    found = rows[np.isin(seen.habits.answer[rows], np.array(sorted(of_label), np.uint32))]
    named = ", ".join(f"“{label}” for “{usual}”" for label, usual in [*wrong.items()][:3])
    return _rare(
        seen,
        found,
        f"Rows whose label is not spelt as usual: {named}",
        "To the model each spelling is a label of its own, and exact match counts it as wrong.",
        "Write each label in one way.",
        3,
    )


@check
def label_imbalance(seen: Seen) -> Finding | None:
    """Some labels are much rarer than others."""
    rows = _answered(seen)
    labels = seen.habits.labels
    if len(labels) < 2 or not habits.are_labels(seen.habits, len(rows)):
        return None
    (most, often), *_, (least, seldom) = labels.most_common(habits.MOST_LABELS)
    if often < LABEL_IMBALANCE * seldom or often < 20:
        return None
    rare = rows[seen.habits.answer[rows] == habits.crc(least)]
    return of_rows(
        seen,
        "note",
        rare,
        f"Rows with the label “{least}”, beside {count(often)} with “{most}”",
        "The model may learn to answer with the commonest label only.",
        "Add rows with the rare labels, or leave some of the common ones out.",
        weight=2,
    )
