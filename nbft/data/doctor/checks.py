"""What can be wrong with rows. Each finding is one function; its name is the finding's name.

A check looks at what `measure` saw and returns a `Finding` or None; `findings` runs them all.
Thresholds are constants with their reason.
"""

from __future__ import annotations

import dataclasses
import re
import string
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from nbft.config.data import Dataset
from nbft.data.doctor import minhash
from nbft.data.doctor.finding import LEVELS, Finding, Level, Rewrite, percent
from nbft.data.doctor.measure import EXAMPLES, Place, Seen
from nbft.data.doctor.text import FAMILIES, ODDITIES, Family, special_tokens, turns_in
from nbft.data.formats import Example
from nbft.data.lengths import KEPT_SHARES, enough_for, enough_in_words
from nbft.data.padding import padding_shares
from nbft.data.ready import READY
from nbft.data.tokens import encode
from nbft.decisions import decide
from nbft.errors import Problem
from nbft.formatting import count

MASKED_SHARE = 0.5
"""From this share of rows without anything to learn on, the set is not what was meant: an error."""

LEARNT_SHARE = 0.01
"""Below this share of learnt tokens a step computes a hundred tokens to learn from one."""

CUT_SHARE = 0.01
"""Cut rows teach the model not to stop. Up to one in a hundred is the usual price of a limit."""

CONSTANT_ROWS = 20
"""Of fewer rows a column may well be the same in all by chance."""

PROMPT_ROWS = 20
PROMPT_SHARE = 0.01
"""A prompt in more rows than both is an instruction that many rows share, not a question."""

PADDING_SHARE = 0.2
"""Padding below a fifth of what is computed is not worth a change of settings."""

ALMOST_SHARE = 0.05
"""From this share of near duplicates on, a set repeats itself enough to be memorised: a warning."""

Check = Callable[[Seen], "Finding | None"]
CHECKS: dict[str, Check] = {}
"""Every check, by the name of its finding."""


def findings(seen: Seen) -> list[Finding]:
    """Run every check, and return what was found: errors first, then warnings, then notes."""
    found = []
    for name, check in CHECKS.items():
        if finding := check(seen):
            found.append(dataclasses.replace(finding, name=name))
    return sorted(found, key=lambda finding: LEVELS.index(finding.level))


def _check(function: Check) -> Check:
    CHECKS[function.__name__] = function
    return function


# What could not be read at all


@_check
def placeholder(seen: Seen) -> Finding | None:
    """A placeholder of a template is no column."""
    wrong = [p for p in seen.problems if p.field.endswith("_template")]
    return _of_problems(
        wrong,
        "The rows cannot be made: a template names what is not there.",
        "template",
    )


@_check
def unreadable(seen: Seen) -> Finding | None:
    """Rows cannot be read."""
    wrong = [p for p in seen.problems if not p.field.endswith("_template")]
    return _of_problems(wrong, "Nothing can be trained on rows that cannot be read.", "problem")


def _of_problems(problems: list[Problem], why: str, unit: str) -> Finding | None:
    if not problems:
        return None
    changes = {path: value for p in problems for path, value in p.changes.items()}
    what = " ".join(f"{_named(p)}{p.why}" for p in problems)
    fix = " ".join(dict.fromkeys(p.fix for p in problems if p.fix))
    number = len(problems)
    return Finding("", "error", what, why, fix, number, number, unit, changes=changes)


def _named(problem: Problem) -> str:
    if not problem.field:
        return ""
    return str(dataclasses.replace(problem, why="", fix="")).rstrip() + " "


@_check
def refused(seen: Seen) -> Finding | None:
    """The tokenizer or the chat template refuses rows."""
    rows = np.array(sorted(seen.refused), np.int64)
    if not len(rows):
        return None
    reasons = list(dict.fromkeys(seen.refused[row] for row in rows.tolist()))
    rewrite = None if len(rows) == len(seen) else _without(seen, rows, "without-refused")
    return _found(
        seen,
        "error",
        rows,
        "Rows that cannot be cut into tokens",
        "A run ends at the first of them.",
        "Leave them out, or mend them." if rewrite else "Mend them, or choose another model.",
        more=f"The first: {reasons[0]}",
        rewrite=rewrite,
        texts={row: seen.refused[row] for row in rows[:EXAMPLES].tolist()},
    )


# What is learnt


@_check
def masked(seen: Seen) -> Finding | None:
    """Nothing, or next to nothing, is learnt."""
    return _masked_split(seen) or _barely_learnt(seen)


def _masked_split(seen: Seen) -> Finding | None:
    for split in seen.names:
        rows = seen.of(split) & _read(seen)
        empty = rows & (seen.trained == 0)
        if not rows.any() or empty.sum() < MASKED_SHARE * rows.sum():
            continue
        longer, _ = _longer(seen, empty & (seen.tokens > seen.config.data.max_length))
        return _found(
            seen,
            "error",
            np.flatnonzero(empty),
            f"Rows of {split} that leave nothing to learn, because every label is masked",
            "A masked token adds nothing to the loss: such a row is left out.",
            f"Use data.max_length={longer}."
            if longer
            else "Look at the rows: is the answer in the column that is learnt?",
            total=int(rows.sum()),
            changes={"data.max_length": longer} if longer else {},
        )
    return None


def _barely_learnt(seen: Seen) -> Finding | None:
    rows = np.flatnonzero(seen.of("train") & _read(seen))
    kept = np.minimum(seen.tokens[rows], seen.config.data.max_length)
    learnt, shown = int(seen.trained[rows].sum()), int(kept.sum())
    if learnt >= LEARNT_SHARE * shown:
        return None
    return Finding(
        "",
        "warning",
        f"{percent(learnt / shown)} of the training tokens are learnt: {count(learnt)} of "
        f"{count(shown)}.",
        "Nearly all labels are masked: each step computes many tokens to learn from few.",
        "If the answers are meant to be this short, all is well; else look at what the template "
        "puts into the completion.",
        learnt,
        shown,
        "token",
        _places(seen, rows[np.argsort(seen.trained[rows] / kept, kind="stable")]),
    )


@_check
def pad_is_end(seen: Seen) -> Finding | None:
    """The end of the sequence is masked, as padding is that shares its token."""
    tokenizer = seen.tokenizer
    if tokenizer.pad_token_id != tokenizer.eos_token_id or not seen.end_is_masked.any():
        return None
    others = [t for t in tokenizer.all_special_tokens if t != tokenizer.eos_token]
    token = tokenizer.unk_token or (others[-1] if others else None)
    return _found(
        seen,
        _error_if_many(seen.end_is_masked, seen),
        np.flatnonzero(seen.end_is_masked),
        f"Rows that do not learn their end, because {tokenizer.eos_token} is the padding token too "
        "and is masked with the padding",
        "A model that never learns the end of an answer does not stop.",
        f"Use {token} for padding." if token else "Choose another padding token.",
        changes={"model.pad_token": token} if token else {},
    )


@_check
def end_not_trained(seen: Seen) -> Finding | None:
    """The end of the sequence is not learnt."""
    rows = _read(seen) & ~seen.end_is_trained & (seen.trained > 0)
    if seen.tokenizer.pad_token_id == seen.tokenizer.eos_token_id:
        rows &= ~seen.end_is_masked  # that is pad_is_end
    if not rows.any():
        return None
    return _found(
        seen,
        _error_if_many(rows, seen),
        np.flatnonzero(rows),
        f"Rows that do not learn their end, {seen.tokenizer.eos_token}",
        "A model that never learns the end of an answer does not stop.",
        "See that the chat template ends an answer in that token, or choose another with "
        "model.chat_template_path.",
    )


@_check
def boundary_merged(seen: Seen) -> Finding | None:
    """The tokenizer would join the end of the prompt and the beginning of the completion."""
    rows = np.flatnonzero(seen.is_merged)
    if not len(rows):
        return None
    changes: dict[str, Any] = {}
    fix = "End the prompt in a line break, or begin the completion with the space."
    for field in dict.fromkeys(seen.fields[seen.dataset[row]] for row in rows.tolist()):
        mine = [row for row in rows.tolist() if seen.fields[seen.dataset[row]] == field]
        changes |= _clean_boundary(seen, field, mine[:: max(1, len(mine) // 50)])
    if changes:
        shown = "; ".join(f"{path}={value!r}" for path, value in changes.items())
        fix = f"Use {shown}."
    return _found(
        seen,
        "warning",
        rows,
        "Rows that would have a token across the boundary of prompt and completion",
        "When the model is asked, the prompt ends before the boundary, so it must go on from a "
        "token that is rare there. Here the two are kept apart, at the price of an unusual first "
        "token.",
        fix,
        changes=changes,
    )


def _clean_boundary(seen: Seen, field: str, rows: list[int]) -> dict[str, str]:
    """Return templates of a dataset under which none of these rows is merged, if any is known."""
    templates = _templates(seen, field)
    if templates is None:
        return {}
    prompt, completion = templates
    examples = [seen.example(row) for row in rows]
    tries = []
    if spaces := len(prompt) - len(prompt.rstrip(" ")):
        tries.append(
            (
                (prompt[:-spaces], prompt[-spaces:] + completion),
                [Example(e.prompt[:-spaces], e.prompt[-spaces:] + e.completion) for e in examples],
            )
        )
    tries.append(
        ((prompt + "\n", completion), [Example(e.prompt + "\n", e.completion) for e in examples])
    )
    for mended, tried in tries:
        if not any(one.is_merged for one in encode(tried, seen.tokenizer)):
            names = (f"{field}.prompt_template", f"{field}.completion_template")
            return dict(zip(names, mended, strict=True))
    return {}


@_check
def cut(seen: Seen) -> Finding | None:
    """Completions are cut off by data.max_length."""
    limit = seen.config.data.max_length
    rows = (seen.tokens > limit) & (seen.trained > 0)
    if not rows.any():
        return None
    longer, words = _longer(seen, rows)
    return _found(
        seen,
        "warning" if rows.sum() >= CUT_SHARE * len(seen) else "note",
        np.flatnonzero(rows),
        f"Rows that lose their end at data.max_length={limit}",
        "A row without its end teaches the model to go on where it should stop.",
        f"Use data.max_length={longer}; memory and time grow with it."
        if longer
        else "The model reads no more: shorten the rows.",
        more=words,
        changes={"data.max_length": longer} if longer else {},
    )


def _longer(seen: Seen, rows: np.ndarray) -> tuple[int | None, str]:
    """Return the maximum length that keeps 99% of the rows whole (all, if 99% are), and words.

    It is None where nothing of these rows would be gained.
    """
    if not rows.any():
        return None, ""
    lengths = seen.tokens[_read(seen)]
    enough, longest = enough_for(lengths, KEPT_SHARES[-1]), int(lengths.max())
    words = enough_in_words(lengths)
    limit = seen.config.data.max_length
    wanted = next((length for length in (enough, longest) if length > limit), None)
    if wanted is not None and seen.context_tokens and wanted > seen.context_tokens:
        wanted = seen.context_tokens if seen.context_tokens > limit else None
        words = f"{words[:-1]}; the model reads {seen.context_tokens:,} at most."
    return wanted, words


@_check
def dropped(seen: Seen) -> Finding | None:
    """Rows are left out of the training."""
    limit = seen.config.data.max_length
    read = _read(seen)
    without = read & (seen.trained == 0)
    long = without & (seen.tokens > limit)
    labelled = seen.left_out
    reasons = []
    if long.any():
        reasons.append(
            f"{count(long.sum())} because the prompt alone fills data.max_length={limit}"
        )
    if short := int((without & ~long).sum()):
        reasons.append(f"{count(short)} because they hold nothing to learn")
    if labelled:
        reasons.append(f"{count(labelled)} because they are labelled as bad answers")
    if not reasons:
        return None
    longer, _ = _longer(seen, long)
    rows = np.flatnonzero(without)
    total = len(seen) + labelled
    fix = "They are not missed; training on bad answers needs a preference method."
    rewrite = None
    if longer:
        fix = f"Use data.max_length={longer}."
    elif len(rows):
        fix, rewrite = "Leave them out of the file.", _without(seen, rows, "without-empty-rows")
    number = len(rows) + labelled
    return _found(
        seen,
        "warning" if len(rows) else "note",
        rows,
        "Rows that are not trained on",
        "Fewer rows are learnt than the file holds.",
        fix,
        more=f"{', '.join(reasons)}.",
        number=number,
        total=total,
        changes={"data.max_length": longer} if longer else {},
        rewrite=rewrite,
    )


@_check
def unanswered_turns(seen: Seen) -> Finding | None:
    """Conversations go on after their last answer."""
    rows = np.flatnonzero(seen.is_unanswered)
    if not len(rows):
        return None
    return _found(
        seen,
        "note",
        rows,
        "Conversations that go on after their last answer",
        "Those turns are left out: nothing is learnt from a question without an answer.",
        "They are not missed, unless the answers were lost on the way.",
    )


@_check
def empty_completions(seen: Seen) -> Finding | None:
    """Rows have nothing to learn but the end."""
    rows = np.flatnonzero(_read(seen) & seen.answer_is_empty & (seen.trained > 0))
    if not len(rows):
        return None
    return _found(
        seen,
        "warning",
        rows,
        "Rows with an empty completion",
        "They teach the model to say nothing.",
        "Leave them out.",
        rewrite=_without(seen, rows, "without-empty-completions"),
    )


# Columns


@_check
def empty_columns(seen: Seen) -> Finding | None:
    """Columns hold nothing in any row."""
    empty = [c for c in _columns(seen) if seen.columns[c[0]][c[1]].filled == 0]
    used = [(field, name) for field, name in empty if name in _used(seen, field)]
    changes: dict[str, Any] = {}
    for field, name in used:
        dataset = _dataset(seen, field)
        for part in ("prompt_template", "completion_template"):
            path = f"{field}.{part}"
            template = changes.get(path, getattr(dataset, part))
            bare = template and re.sub(
                r"\{\s*['\"]?" + re.escape(name) + r"['\"]?\s*\}", "", template
            )
            if template and bare != template and _placeholders(bare):
                changes[path] = bare
    return _of_columns(
        seen,
        empty,
        "warning" if used else "note",
        "empty in every row",
        "A template shows the model a gap where this column stands."
        if used
        else "Nothing is trained on it; it may have lost its values on the way.",
        "Take it out of the template."
        if changes
        else "Nothing needs it. See that it is not the column that was meant.",
        changes,
    )


@_check
def constant_columns(seen: Seen) -> Finding | None:
    """Columns hold one value in all rows."""
    same = [
        (field, name)
        for field, name in _columns(seen)
        if seen.columns[field][name].is_constant
        and seen.columns[field][name].filled
        and seen.read[field] >= CONSTANT_ROWS
        and not seen.left_out  # they were chosen by a column
    ]
    answers = [(f, n) for f, n in same if n in _placeholders(_dataset(seen, f).completion_template)]
    return _of_columns(
        seen,
        same,
        "warning" if answers else "note",
        "the same in every row",
        "The model can learn nothing from it: every answer is the same."
        if answers
        else "It says nothing about a row.",
        "Name another column in completion_template."
        if answers
        else "Nothing needs to be done where it is not in a template.",
        {},
    )


def _of_columns(
    seen: Seen,
    columns: list[tuple[str, str]],
    level: Level,
    are: str,
    why: str,
    fix: str,
    changes: Mapping[str, Any],
) -> Finding | None:
    if not columns:
        return None
    names = ", ".join(f'"{name}"' for _, name in columns[:EXAMPLES])
    more = ", …" if len(columns) > EXAMPLES else ""
    many = len(columns) > 1
    what = f"The column{'s' * many} {names}{more} {'are' if many else 'is'} {are}."
    total = sum(map(len, seen.columns.values()))
    return Finding("", level, what, why, fix, len(columns), total, "column", changes=changes)


def _columns(seen: Seen) -> Iterator[tuple[str, str]]:
    for field, columns in seen.columns.items():
        for name in columns:
            yield field, name


def _placeholders(template: str | None) -> set[str]:
    if not template:
        return set()
    names = (name for _, name, _, _ in string.Formatter().parse(template) if name is not None)
    return {name.strip().strip("'\"") for name in names}


def _used(seen: Seen, field: str) -> set[str]:
    dataset = _dataset(seen, field)
    return _placeholders(dataset.prompt_template) | _placeholders(dataset.completion_template)


# Rows that stand there more than once


@_check
def duplicates(seen: Seen) -> Finding | None:
    """Rows stand twice in a split."""
    rows, firsts = _repeats(seen)
    if not len(rows):
        return None
    return _found(
        seen,
        "warning",
        rows,
        "Rows that repeat an earlier row of their split word for word",
        "A row that stands there ten times weighs ten times as much, and is learnt by heart.",
        "Keep the first of each.",
        rewrite=_without(seen, rows, "without-duplicates"),
        texts=_beside(seen, rows, firsts, "same as"),
    )


_ALIKE = f"They have {minhash.SIMILARITY:.0%} or more of their runs of three tokens in common."


@_check
def near_duplicates(seen: Seen) -> Finding | None:
    """Rows of a split are nearly the same."""
    first, second, likeness = seen.similar
    within = seen.split[first] == seen.split[second]
    rows, place = np.unique(second[within], return_index=True)
    if not len(rows):
        return None
    texts = _beside(seen, rows, first[within][place], "like", likeness[within][place])
    return _found(
        seen,
        "warning" if len(rows) >= ALMOST_SHARE * len(seen) else "note",
        rows,
        "Rows that are nearly the same as an earlier row of their split",
        "Rows that differ in a word or two weigh more than they should.",
        "Look at them; leave out the later of each pair if they say the same.",
        more=_ALIKE,
        rewrite=_without(seen, rows, "without-near-duplicates"),
        texts=texts,
    )


@_check
def held_out_in_training(seen: Seen) -> Finding | None:
    """Held-out rows stand in the training rows."""
    hashes = seen.prompt_hash.copy()
    prompts, times = np.unique(hashes, return_counts=True)
    general = prompts[times > max(PROMPT_ROWS, PROMPT_SHARE * len(seen))]
    shared = np.isin(hashes, general)
    hashes[shared] = seen.text_hash[shared]
    held, inside, beside = _leaks(seen, hashes)
    if not len(held):
        return None
    return _of_leaks(
        seen,
        held,
        inside,
        "that an earlier split has too, by their prompt",
        "without-held-out-rows",
        _beside(seen, held, beside, "same prompt as"),
    )


@_check
def nearly_held_out_in_training(seen: Seen) -> Finding | None:
    """Held-out rows are nearly the same as training rows."""
    first, second, likeness = seen.similar
    across = seen.split[first] < seen.split[second]  # the splits stand in order
    across &= seen.prompt_hash[first] != seen.prompt_hash[second]
    held, place = np.unique(second[across], return_index=True)
    if not len(held):
        return None
    return _of_leaks(
        seen,
        held,
        np.unique(first[across]),
        "that are nearly the same as a row of an earlier split",
        "without-nearly-held-out-rows",
        _beside(seen, held, first[across][place], "like", likeness[across][place]),
    )


def _of_leaks(
    seen: Seen,
    held: np.ndarray,
    inside: np.ndarray,
    what: str,
    suffix: str,
    texts: dict[int, str],
) -> Finding:
    named = [name for name in seen.names[1:] if seen.of(name)[held].any()]
    total = sum(int(seen.of(name).sum()) for name in seen.names[1:])
    return _found(
        seen,
        "warning",
        held,
        f"Rows of {' and '.join(named)} {what}",
        "The held-out loss and the scores then say how well the model remembers, not how well it "
        "has learnt.",
        f"Leave {count(len(inside), 'row')} out of the earlier split.",
        total=total,
        rewrite=_without(seen, inside, suffix),
        texts=texts,
    )


def _leaks(seen: Seen, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return held-out rows that an earlier split has too, the rows to leave out, and the partners.

    Where both were cut from one file, a row stays there once: the next draw could part the others.
    """
    order, group = _groups(seen, hashes)
    if not len(order):
        return order, order, order
    begins = np.flatnonzero(np.diff(group, prepend=-1))
    ends = np.append(begins[1:], len(order)) - 1
    first, last = order[begins][group], order[ends][group]  # rows stand split by split
    leaks = seen.split[order] > seen.split[first]
    inside = (seen.split[first] != seen.split[last]) & (order != last)
    if seen.config.data.validation is None:
        from_train = np.array([field.startswith("data.train.") for field in seen.fields])
        inside &= from_train[seen.dataset[order]]
    else:
        inside &= seen.split[order] < seen.split[last]
    held, partners = order[leaks], first[leaks]
    by_row = np.argsort(held)
    return held[by_row], np.sort(order[inside]), partners[by_row]


def _repeats(seen: Seen) -> tuple[np.ndarray, np.ndarray]:
    """Return rows that repeat an earlier one of their split, and the first of each."""
    order, group = _groups(seen, seen.text_hash)
    if not len(order):
        return order, order
    is_same = np.diff(group, prepend=-1) == 0
    is_same[1:] &= seen.split[order[1:]] == seen.split[order[:-1]]
    begins = np.flatnonzero(~is_same)
    firsts = order[np.repeat(begins, np.diff(begins, append=len(order)))]
    rows, firsts = order[is_same], firsts[is_same]
    by_row = np.argsort(rows)
    return rows[by_row], firsts[by_row]


def _groups(seen: Seen, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the rows ordered by hash, then as they stand, and the number of each one's group."""
    read = np.flatnonzero(_read(seen))
    order = read[np.argsort(hashes[read], kind="stable")]
    return order, np.cumsum(np.diff(hashes[order], prepend=hashes[order[:1]]) != 0)


def _beside(
    seen: Seen,
    rows: np.ndarray,
    others: np.ndarray,
    word: str,
    likeness: np.ndarray | None = None,
) -> dict[int, str]:
    """Return the texts of some rows, with the rows that they resemble."""
    texts = {}
    for place, (row, other) in enumerate(zip(rows[:EXAMPLES], others[:EXAMPLES], strict=True)):
        alike = "" if likeness is None else f" ({likeness[place]:.0%})"
        split = seen.names[seen.split[other]]
        where = f"{split} row" if seen.split[other] != seen.split[row] else "row"
        about = f"{word} {where} {count(seen.row[other])}{alike}"
        texts[int(row)] = f"{about}: {seen.place(int(row)).text}"
    return texts


# Characters

_ODD_WORDS: dict[str, tuple[str, str, str]] = {
    "replacement_characters": (
        "Rows with U+FFFD or half a character, where text was lost when it was read",
        "The model learns to write the gap.",
        "Read the source again with its right encoding, or leave these rows out.",
    ),
    "mojibake": (
        "Rows with UTF-8 that was read as Windows-1252, such as Ã© for é",
        "The model learns to write it so.",
        "Turn it back into what was meant.",
    ),
    "control_characters": (
        "Rows with control characters, such as NUL",
        "They cost tokens, and nobody sees them. A form feed before “rac” was \\frac.",
        "Take them out; those that were LaTeX become LaTeX again.",
    ),
    "invisible_characters": (
        "Rows with characters of no width, soft hyphens or marks of direction",
        "They break words into unusual tokens, and nobody sees them.",
        "Take them out.",
    ),
    "html_entities": (
        "Rows with HTML entities, such as &amp; for &",
        "The model learns to write them where it should write the character.",
        "Write the characters; unless the rows are about HTML.",
    ),
}


def _odd_check(kind: str) -> Check:
    def check(seen: Seen) -> Finding | None:
        hits = seen.odd.get(kind)
        if hits is None:
            return None
        what, why, fix = _ODD_WORDS[kind]
        rows = np.array(hits.rows, np.int64)
        mend = ODDITIES[kind].mend
        suffix = f"without-{kind.replace('_', '-')}"
        return _found(
            seen,
            "warning" if kind in ("replacement_characters", "mojibake") else "note",
            rows,
            what,
            why,
            fix,
            rewrite=_rewrite(seen, rows, suffix, mend=mend)
            if mend
            else _without(seen, rows, suffix),
            texts=hits.texts,
        )

    check.__name__ = kind
    check.__doc__ = f"{_ODD_WORDS[kind][0]}."
    return check


for _kind in ODDITIES:
    _check(_odd_check(_kind))


# Chat templates


@_check
def wrong_chat_template(seen: Seen) -> Finding | None:
    """Texts are written in the template of another family of models."""
    has_template = bool(seen.tokenizer.chat_template)
    families = {family.name: family for family in FAMILIES}
    found = {
        name: hits
        for name, hits in seen.foreign.items()
        if has_template or families[name].is_special
    }
    if not found:
        return None
    name = max(found, key=lambda name: len(found[name].rows))
    family, hits = families[name], found[name]
    rows = np.array(sorted(hits.rows), np.int64)
    own = _own_family(seen)
    marks = " and ".join(family.marks[:2])
    rewrite, fix = None, f"Choose a model of the family {name}, or write the rows anew."
    if has_template:
        fix = "Write the turns as messages, which the model's own template then marks."
        rewrite = _to_messages(seen, rows, family)
    return _found(
        seen,
        "warning" if family.is_special else "note",
        rows,
        f"Rows with the marks of {name} ({marks})",
        f"To this model {family.marks[0]} is not one token but ordinary text: it learns another "
        "way of asking beside its own."
        if family.is_special
        else "The model learns this way of asking beside its own. Fine, if you will ask it so.",
        fix,
        more=f"The model knows those of {own}." if own else "",
        rewrite=rewrite,
        texts=hits.texts,
    )


@_check
def templated_text(seen: Seen) -> Finding | None:
    """Texts are written in the model's own template already."""
    hits = seen.templated
    if not hits.rows:
        return None
    rows = np.array(sorted(hits.rows), np.int64)
    family = next(one for one in FAMILIES if one.name == _own_family(seen))
    return _found(
        seen,
        "note",
        rows,
        f"Rows written in the model's own template ({family.name}) already",
        "They are trained as they stand, and end twice: in the template's mark and in the end "
        "that is added. Without a prompt column, what the user says is learnt too.",
        "Write the turns as messages: the template marks them, and only answers are learnt.",
        rewrite=_to_messages(seen, rows, family),
        texts=hits.texts,
    )


@_check
def special_tokens_in_text(seen: Seen) -> Finding | None:
    """Special tokens of the model stand in a text."""
    hits = seen.special
    if not hits.rows:
        return None
    rows = np.array(sorted(hits.rows), np.int64)
    pattern = special_tokens(seen.tokenizer.all_special_tokens)
    assert pattern is not None
    return _found(
        seen,
        "warning",
        rows,
        "Rows with special tokens of the model in their text",
        "The tokenizer reads them as marks, not as text: a conversation may end in its middle.",
        "Take them out.",
        rewrite=_rewrite(
            seen, rows, "without-special-tokens", mend=lambda text: pattern.sub("", text)
        ),
        texts=hits.texts,
    )


def _own_family(seen: Seen) -> str:
    template = str(seen.tokenizer.chat_template or "")
    return next((one.name for one in FAMILIES if any(m in template for m in one.marks)), "")


def _to_messages(seen: Seen, rows: np.ndarray, family: Family) -> Rewrite:
    """Return what takes the marks of a family out of conversations, or makes them of texts."""
    if seen.is_chat[rows].any():
        marks = re.compile("|".join(map(re.escape, family.marks)))
        return _rewrite(seen, rows, "without-marks", mend=lambda text: marks.sub("", text).strip())

    def as_messages(prompt: str, completion: str) -> list[dict[str, str]]:
        if turns := turns_in(prompt + completion, family):
            return turns
        asked = [{"role": "user", "content": prompt.strip()}] if prompt.strip() else []
        return [*asked, {"role": "assistant", "content": completion.strip()}]

    return _rewrite(seen, rows, "as-messages", as_messages=as_messages)


# Lengths


@_check
def padding(seen: Seen) -> Finding | None:
    """Rows of different lengths make batches that are padded."""
    data, training = seen.config.data, seen.config.training
    rows = seen.of("train") & (seen.trained > 0)
    if decide(seen.config).padding_free or not rows.any():
        return None
    shares = padding_shares(
        seen.tokens[rows],
        training.per_device_train_batch_size,
        data.max_length,
        multiple_of=data.pad_to_multiple_of,
    )
    is_grouped = data.train_sampling_strategy == "group_by_length"
    now = shares.grouped if is_grouped else shares.random
    if now < PADDING_SHARE:
        return None
    is_free = not data.pad_to_multiple_of
    change = (
        {"data.padding_free": True}
        if is_free
        else {"data.train_sampling_strategy": "group_by_length"}
    )
    if is_grouped and not is_free:
        change = {}
    lengths = np.minimum(seen.tokens[rows], data.max_length)
    computed = float(lengths.sum()) / (1 - now)
    middle, long = (int(np.quantile(lengths, q)) for q in (0.5, 0.95))
    saved = "" if is_grouped else f"; grouped by length {percent(shares.grouped)}"
    return Finding(
        "",
        "note",
        f"{percent(now)} of what a step computes is padding, in batches of "
        f"{count(shares.batch_size, 'row')}{saved}, packed {percent(shares.packed)} in "
        f"{count(shares.sequences, 'sequence')}. Half of the rows have at most {middle:,} tokens, "
        f"one in twenty has more than {long:,}.",
        "Padding takes time and memory and teaches nothing.",
        "Turn data.padding_free on: the same batches and steps, without padding. data.packing "
        "saves the same and makes fewer, larger steps."
        if is_free
        else "Group the rows by length."
        if change
        else "Use a smaller batch with more accumulation.",
        round(computed - lengths.sum()),
        round(computed),
        "token",
        changes=change,
    )


# What the checks share


def _read(seen: Seen) -> np.ndarray:
    """Return the rows that could be cut into tokens."""
    return seen.tokens > 0


def _error_if_many(rows: np.ndarray, seen: Seen) -> Level:
    return "error" if rows.sum() >= MASKED_SHARE * len(seen) else "warning"


def _found(
    seen: Seen,
    level: Level,
    rows: np.ndarray,
    what: str,
    why: str,
    fix: str,
    *,
    more: str = "",
    number: int | None = None,
    total: int | None = None,
    changes: Mapping[str, Any] | None = None,
    rewrite: Rewrite | None = None,
    texts: Mapping[int, str] | None = None,
) -> Finding:
    """Return a finding about rows: what they are, how many, and more in further sentences."""
    number = len(rows) if number is None else number
    total = len(seen) if total is None else total
    share = percent(number / total if total else 0)
    return Finding(
        "",
        level,
        f"{what}: {count(number)} of {count(total)} ({share}). {more}".rstrip(),
        why,
        fix,
        number,
        total,
        "row",
        _places(seen, rows, texts),
        changes or {},
        None if seen.is_stream else rewrite,
    )


def _places(
    seen: Seen, rows: Iterable[int] | np.ndarray, texts: Mapping[int, str] | None = None
) -> tuple[Place, ...]:
    """Return the places of the first rows, or of those whose texts are given."""
    shown = [*texts] if texts else [int(row) for row in [*rows][:EXAMPLES]]
    return tuple(seen.place(row, (texts or {}).get(row)) for row in shown)


def _without(seen: Seen, rows: np.ndarray, suffix: str) -> Rewrite:
    """Return the files without some rows."""
    fields = np.array([seen.fields[d] for d in seen.dataset[rows].tolist()], object)
    drops = {field: np.unique(seen.row[rows][fields == field]) for field in dict.fromkeys(fields)}
    return Rewrite(suffix, drops)


def _rewrite(seen: Seen, rows: np.ndarray, suffix: str, **how: Any) -> Rewrite:
    """Return the files that hold some rows, with their texts mended."""
    fields = dict.fromkeys(seen.fields[d] for d in seen.dataset[rows].tolist())
    return Rewrite(suffix, fields=tuple(fields), **how)


def _dataset(seen: Seen, field: str) -> Dataset:
    return dict(seen.config.data.named_datasets())[field]


def _templates(seen: Seen, field: str) -> tuple[str, str] | None:
    """Return the templates of a dataset, or those that say the same; None for functions."""
    dataset = _dataset(seen, field)
    if dataset.prompt_func or dataset.completion_func:
        return None
    if dataset.prompt_template is not None and dataset.completion_template is not None:
        return dataset.prompt_template, dataset.completion_template
    ready = READY.get(dataset.dataset_name or "") if dataset.path is None else None
    if ready and not ready.prompt_func:
        return (
            dataset.prompt_template or ready.prompt_template,
            dataset.completion_template or ready.completion_template,
        )
    if not ready and {"prompt", "completion"} <= {*seen.columns[field]}:
        return "{prompt}", "{completion}"
    return None
