"""What can be wrong with rows. Each finding is one function; its name is the finding's name.

A check takes what `measure` recorded and returns a `Finding` or None; `findings` runs them all.
Thresholds are constants with their reason.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import string
from collections.abc import Callable, Iterator, Mapping
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
"""From this share of rows without a trained token, the dataset is not what was meant: an error."""

TRAINED_SHARE = 0.01
"""Below this share of trained tokens, a step computes a hundred tokens to learn from one."""

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
"""From this share of near duplicates on, a dataset repeats itself enough to be memorised."""

Check = Callable[[Seen], "Finding | None"]
CHECKS: dict[str, Check] = {}
"""Every check, by the name of its finding."""


def findings(seen: Seen) -> list[Finding]:
    """Run every check, and return the findings: errors first, then warnings, then notes."""
    named = [
        dataclasses.replace(finding, name=name)
        for name, check in CHECKS.items()
        if (finding := check(seen))
    ]
    return sorted(named, key=lambda finding: LEVELS.index(finding.level))


def _check(function: Check) -> Check:
    CHECKS[function.__name__] = function
    return function


# What could not be read at all


@_check
def placeholder(seen: Seen) -> Finding | None:
    """A placeholder of a template is not a column."""
    problems = [p for p in seen.problems if p.field.endswith("_template")]
    why = "No row can be built: a template names a column that does not exist."
    return _of_problems(problems, why, "template")


@_check
def unreadable(seen: Seen) -> Finding | None:
    """Rows cannot be read."""
    problems = [p for p in seen.problems if not p.field.endswith("_template")]
    return _of_problems(problems, "Rows that cannot be read cannot be trained on.", "problem")


def _of_problems(problems: list[Problem], why: str, unit: str) -> Finding | None:
    if not problems:
        return None
    changes = {path: value for p in problems for path, value in p.changes.items()}
    what = " ".join(str(dataclasses.replace(p, fix="")) if p.field else p.why for p in problems)
    fix = " ".join(dict.fromkeys(p.fix for p in problems if p.fix))
    number = len(problems)
    return Finding("", "error", what, why, fix, number, number, unit, changes=changes)


@_check
def refused(seen: Seen) -> Finding | None:
    """The tokenizer or the chat template refuses rows."""
    rows = np.array(sorted(seen.refused), np.int64)
    if not len(rows):
        return None
    rewrite = None if len(rows) == len(seen) else _without(seen, rows, "without-refused")
    return _of_rows(
        seen,
        "error",
        rows,
        "Rows that cannot be tokenised",
        "The run would stop at the first of them.",
        "Leave them out, or fix them." if rewrite else "Fix them, or choose another model.",
        detail=f"The first: {seen.refused[rows[0]]}",
        rewrite=rewrite,
        texts={row: seen.refused[row] for row in rows[:EXAMPLES].tolist()},
    )


# What is trained on


@_check
def masked(seen: Seen) -> Finding | None:
    """No token, or hardly any, is trained on."""
    return _masked_split(seen) or _barely_trained(seen)


def _masked_split(seen: Seen) -> Finding | None:
    for split in seen.names:
        rows = seen.of(split) & seen.is_tokenised
        empty = rows & (seen.trained == 0)
        if not rows.any() or empty.sum() < MASKED_SHARE * rows.sum():
            continue
        longer, _ = _longer(seen, empty & (seen.tokens > seen.config.data.max_length))
        return _of_rows(
            seen,
            "error",
            np.flatnonzero(empty),
            f"Rows of {split} with nothing to train on, because every label is masked",
            "A masked token adds nothing to the loss, so such a row is left out.",
            f"Use data.max_length={longer}."
            if longer
            else "Look at the rows: is the answer in the column that is trained on?",
            total=int(rows.sum()),
            changes={"data.max_length": longer} if longer else {},
        )
    return None


def _barely_trained(seen: Seen) -> Finding | None:
    rows = np.flatnonzero(seen.of("train") & seen.is_tokenised)
    kept = np.minimum(seen.tokens[rows], seen.config.data.max_length)
    trained, total = int(seen.trained[rows].sum()), int(kept.sum())
    if trained >= TRAINED_SHARE * total:
        return None
    return Finding(
        "",
        "warning",
        f"Only {percent(trained / total)} of the training tokens add to the loss: "
        f"{count(trained)} of {count(total)}.",
        "Nearly all labels are masked: each step computes many tokens to learn from few.",
        "If the answers are meant to be this short, nothing is wrong; otherwise check what the "
        "template puts into the completion.",
        trained,
        total,
        "token",
        _places(seen, rows[np.argsort(seen.trained[rows] / kept, kind="stable")], {}),
    )


@_check
def pad_is_end(seen: Seen) -> Finding | None:
    """The end of the sequence is masked, because padding uses the same token."""
    tokenizer = seen.tokenizer
    if tokenizer.pad_token_id != tokenizer.eos_token_id:
        return None
    others = [t for t in tokenizer.all_special_tokens if t != tokenizer.eos_token]
    token = tokenizer.unk_token or (others[-1] if others else None)
    return _of_rows(
        seen,
        _error_if_many(seen.end_is_masked),
        np.flatnonzero(seen.end_is_masked),
        f"Rows whose end is not trained on, because {tokenizer.eos_token} is the padding token too "
        "and is masked with the padding",
        "A model that is never trained on the end of an answer does not stop.",
        f"Use {token} for padding." if token else "Choose another padding token.",
        changes={"model.pad_token": token} if token else {},
    )


@_check
def end_not_trained(seen: Seen) -> Finding | None:
    """The end of the sequence is not trained on."""
    rows = seen.is_tokenised & ~seen.end_is_trained & (seen.trained > 0)
    if seen.tokenizer.pad_token_id == seen.tokenizer.eos_token_id:
        rows &= ~seen.end_is_masked  # that is pad_is_end
    return _of_rows(
        seen,
        _error_if_many(rows),
        np.flatnonzero(rows),
        f"Rows whose end, {seen.tokenizer.eos_token}, is not trained on",
        "A model that is never trained on the end of an answer does not stop.",
        "Check that the chat template ends an answer with that token, or choose another with "
        "model.chat_template_path.",
    )


@_check
def boundary_merged(seen: Seen) -> Finding | None:
    """The tokenizer would merge the end of the prompt with the start of the completion."""
    rows = np.flatnonzero(seen.is_merged)
    changes: dict[str, Any] = {}
    for field in dict.fromkeys(seen.fields[dataset] for dataset in seen.dataset[rows].tolist()):
        of_field = [row for row in rows.tolist() if seen.fields[seen.dataset[row]] == field]
        changes |= _clean_boundary(seen, field, of_field[:: max(1, len(of_field) // 50)])
    settings = "; ".join(f"{path}={value!r}" for path, value in changes.items())
    return _of_rows(
        seen,
        "warning",
        rows,
        "Rows that would have a token across the boundary of prompt and completion",
        "When the model is used, the prompt ends before the boundary, so the model would have to "
        "go on from a token that is rare there. Here the two are kept apart, at the price of an "
        "unusual first token.",
        f"Use {settings}."
        if changes
        else "End the prompt with a line break, or start the completion with the space.",
        changes=changes,
    )


def _clean_boundary(seen: Seen, field: str, rows: list[int]) -> dict[str, str]:
    """Return templates of a dataset under which none of these rows is merged, if any is known."""
    templates = _templates(seen, field)
    if templates is None:
        return {}
    spaces = len(templates[0]) - len(templates[0].rstrip(" "))

    def move_spaces(prompt: str, completion: str) -> tuple[str, str]:
        return prompt[:-spaces], prompt[-spaces:] + completion

    def add_line_break(prompt: str, completion: str) -> tuple[str, str]:
        return prompt + "\n", completion

    examples = [seen.example(row) for row in rows]
    for change in (move_spaces, add_line_break) if spaces else (add_line_break,):
        changed = [Example(*change(e.prompt, e.completion)) for e in examples]
        if not any(one.is_merged for one in encode(changed, seen.tokenizer)):
            names = (f"{field}.prompt_template", f"{field}.completion_template")
            return dict(zip(names, change(*templates), strict=True))
    return {}


@_check
def cut(seen: Seen) -> Finding | None:
    """Completions are cut off by data.max_length."""
    limit = seen.config.data.max_length
    rows = (seen.tokens > limit) & (seen.trained > 0)
    longer, lengths = _longer(seen, rows)
    return _of_rows(
        seen,
        "warning" if rows.sum() >= CUT_SHARE * len(seen) else "note",
        np.flatnonzero(rows),
        f"Rows that lose their end at data.max_length={limit}",
        "A row without its end teaches the model to go on where it should stop.",
        f"Use data.max_length={longer}; memory and time grow with it."
        if longer
        else "The model cannot read more: shorten the rows.",
        detail=lengths,
        changes={"data.max_length": longer} if longer else {},
    )


def _longer(seen: Seen, rows: np.ndarray) -> tuple[int | None, str]:
    """Return the maximum length that keeps 99% of all rows whole, with a sentence on lengths.

    The length keeps all rows whole where 99% are already, and is None where none of the given rows
    would gain from it.
    """
    if not rows.any():
        return None, ""
    lengths = seen.tokens[seen.is_tokenised]
    enough, longest = enough_for(lengths, KEPT_SHARES[-1]), int(lengths.max())
    sentence = enough_in_words(lengths)
    limit = seen.config.data.max_length
    wanted = next((length for length in (enough, longest) if length > limit), None)
    if wanted is not None and seen.context_tokens and wanted > seen.context_tokens:
        wanted = seen.context_tokens if seen.context_tokens > limit else None
        sentence = f"{sentence[:-1]}; the model reads {seen.context_tokens:,} at most."
    return wanted, sentence


@_check
def dropped(seen: Seen) -> Finding | None:
    """Rows are left out of the training."""
    limit = seen.config.data.max_length
    without = seen.is_tokenised & (seen.trained == 0)
    long = without & (seen.tokens > limit)
    reasons = {
        f"because the prompt alone fills data.max_length={limit}": int(long.sum()),
        "because they hold nothing to train on": int((without & ~long).sum()),
        "because they are labelled as bad answers": seen.left_out,
    }
    longer, _ = _longer(seen, long)
    rows = np.flatnonzero(without)
    fix = "Nothing needs fixing; training on bad answers needs a preference method."
    rewrite = None
    if longer:
        fix = f"Use data.max_length={longer}."
    elif len(rows):
        fix, rewrite = "Leave them out of the file.", _without(seen, rows, "without-empty-rows")
    return _of_rows(
        seen,
        "warning" if len(rows) else "note",
        rows,
        "Rows that are not trained on",
        "Fewer rows are trained on than the file holds.",
        fix,
        detail=", ".join(f"{count(n)} {reason}" for reason, n in reasons.items() if n) + ".",
        number=len(rows) + seen.left_out,
        total=len(seen) + seen.left_out,
        changes={"data.max_length": longer} if longer else {},
        rewrite=rewrite,
    )


@_check
def unanswered_turns(seen: Seen) -> Finding | None:
    """Conversations go on after their last answer."""
    return _of_rows(
        seen,
        "note",
        np.flatnonzero(seen.is_unanswered),
        "Conversations that go on after their last answer",
        "Those turns are left out: a question without an answer has nothing to train on.",
        "Nothing needs fixing, unless the answers were lost on the way.",
    )


@_check
def empty_completions(seen: Seen) -> Finding | None:
    """Rows have nothing to train on but the end."""
    rows = np.flatnonzero(seen.is_tokenised & seen.answer_is_empty & (seen.trained > 0))
    return _of_rows(
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
    empty = [(f, n) for f, n in _columns(seen) if seen.columns[f][n].filled == 0]
    is_used = False
    changes: dict[str, Any] = {}
    for field, name in empty:
        pattern = r"\{\s*['\"]?" + re.escape(name) + r"['\"]?\s*\}"
        for part in ("prompt_template", "completion_template"):
            path = f"{field}.{part}"
            template = changes.get(path, getattr(_dataset(seen, field), part)) or ""
            is_used |= name in _placeholders(template)
            bare = re.sub(pattern, "", template)
            if bare != template and _placeholders(bare):
                changes[path] = bare
    return _of_columns(
        seen,
        empty,
        "warning" if is_used else "note",
        "empty in every row",
        "The template leaves a gap where this column should be."
        if is_used
        else "Nothing is trained on it; its values may have been lost on the way.",
        "Remove it from the template."
        if changes
        else "Nothing needs it. Check that it is not the column you meant.",
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
        else "It carries no information.",
        "Name another column in completion_template."
        if answers
        else "Nothing needs fixing unless a template uses it.",
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
    ellipsis = ", …" if len(columns) > EXAMPLES else ""
    subject, verb = ("columns", "are") if len(columns) > 1 else ("column", "is")
    what = f"The {subject} {names}{ellipsis} {verb} {are}."
    total = sum(map(len, seen.columns.values()))
    return Finding("", level, what, why, fix, len(columns), total, "column", changes=changes)


def _columns(seen: Seen) -> Iterator[tuple[str, str]]:
    return ((field, name) for field, columns in seen.columns.items() for name in columns)


def _placeholders(template: str | None) -> set[str]:
    names = (name for _, name, _, _ in string.Formatter().parse(template or ""))
    return {name.strip().strip("'\"") for name in names if name is not None}


# Rows that appear more than once


@_check
def duplicates(seen: Seen) -> Finding | None:
    """Rows appear twice in a split."""
    rows, firsts = _repeats(seen)
    return _of_rows(
        seen,
        "warning",
        rows,
        "Rows that repeat an earlier row of their split word for word",
        "A row that appears ten times weighs ten times as much, and is memorised.",
        "Keep the first of each.",
        rewrite=_without(seen, rows, "without-duplicates"),
        texts=_beside(seen, rows, firsts, "same as"),
    )


@_check
def near_duplicates(seen: Seen) -> Finding | None:
    """Rows of a split are nearly the same."""
    first, second, likeness = seen.similar
    within = seen.split[first] == seen.split[second]
    rows, pairs = np.unique(second[within], return_index=True)
    return _of_rows(
        seen,
        "warning" if len(rows) >= ALMOST_SHARE * len(seen) else "note",
        rows,
        "Rows that are nearly the same as an earlier row of their split",
        "Rows that differ in a word or two weigh more than they should.",
        "Look at them; leave out the later of each pair if they say the same.",
        detail=f"They share {minhash.SIMILARITY:.0%} or more of their runs of three tokens.",
        rewrite=_without(seen, rows, "without-near-duplicates"),
        texts=_beside(seen, rows, first[within][pairs], "like", likeness[within][pairs]),
    )


@_check
def held_out_in_training(seen: Seen) -> Finding | None:
    """Held-out rows are among the training rows."""
    hashes = seen.prompt_hash.copy()
    prompts, times = np.unique(hashes, return_counts=True)
    general = prompts[times > max(PROMPT_ROWS, PROMPT_SHARE * len(seen))]
    shared = np.isin(hashes, general)
    hashes[shared] = seen.text_hash[shared]
    held, inside, partners = _leaks(seen, hashes)
    return _of_leaks(
        seen,
        held,
        inside,
        "that share their prompt with a row of an earlier split",
        "without-held-out-rows",
        _beside(seen, held, partners, "same prompt as"),
    )


@_check
def nearly_held_out_in_training(seen: Seen) -> Finding | None:
    """Held-out rows are nearly the same as training rows."""
    first, second, likeness = seen.similar
    across = seen.split[first] < seen.split[second]  # the splits come in order
    across &= seen.prompt_hash[first] != seen.prompt_hash[second]
    held, pairs = np.unique(second[across], return_index=True)
    return _of_leaks(
        seen,
        held,
        np.unique(first[across]),
        "that are nearly the same as a row of an earlier split",
        "without-nearly-held-out-rows",
        _beside(seen, held, first[across][pairs], "like", likeness[across][pairs]),
    )


def _of_leaks(
    seen: Seen,
    held: np.ndarray,
    inside: np.ndarray,
    what: str,
    suffix: str,
    texts: dict[int, str],
) -> Finding | None:
    splits = [name for name in seen.names[1:] if seen.of(name)[held].any()]
    return _of_rows(
        seen,
        "warning",
        held,
        f"Rows of {' and '.join(splits)} {what}",
        "The held-out loss and the scores then show how well the model remembers, not how well it "
        "has learned.",
        f"Leave {count(len(inside), 'row')} out of the earlier split.",
        total=sum(int(seen.of(name).sum()) for name in seen.names[1:]),
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
    first, last = order[begins][group], order[ends][group]  # rows are ordered by split
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
    """Return the rows ordered by hash, then by row, and the number of each one's group."""
    rows = np.flatnonzero(seen.is_tokenised)
    order = rows[np.argsort(hashes[rows], kind="stable")]
    return order, np.cumsum(np.diff(hashes[order], prepend=hashes[order[:1]]) != 0)


def _beside(
    seen: Seen,
    rows: np.ndarray,
    others: np.ndarray,
    relation: str,
    likeness: np.ndarray | None = None,
) -> dict[int, str]:
    """Return the texts of the first rows, with the rows that they resemble."""
    texts = {}
    for n, (row, other) in enumerate(zip(rows[:EXAMPLES], others[:EXAMPLES], strict=True)):
        share = "" if likeness is None else f" ({likeness[n]:.0%})"
        split = seen.names[seen.split[other]]
        where = f"{split} row" if seen.split[other] != seen.split[row] else "row"
        about = f"{relation} {where} {count(seen.row[other])}{share}"
        texts[int(row)] = f"{about}: {seen.place(int(row)).text}"
    return texts


# Characters


def _oddity(seen: Seen, kind: str) -> Finding | None:
    if (hits := seen.odd.get(kind)) is None:
        return None
    oddity, rows = ODDITIES[kind], np.sort(hits.rows)
    suffix = f"without-{kind.replace('_', '-')}"
    return _of_rows(
        seen,
        "warning" if kind in ("replacement_characters", "mojibake") else "note",
        rows,
        oddity.what,
        oddity.why,
        oddity.fix,
        rewrite=_rewrite(seen, rows, suffix, clean=oddity.clean)
        if oddity.clean
        else _without(seen, rows, suffix),
        texts=hits.texts,
    )


CHECKS |= {kind: functools.partial(_oddity, kind=kind) for kind in ODDITIES}


# Chat templates


@_check
def wrong_chat_template(seen: Seen) -> Finding | None:
    """Texts are written in the template of another family of models."""
    has_template = bool(seen.tokenizer.chat_template)
    candidates = [
        family
        for family in FAMILIES
        if family.name in seen.foreign and (has_template or family.is_special)
    ]
    if not candidates:
        return None
    family = max(candidates, key=lambda family: len(seen.foreign[family.name].rows))
    hits = seen.foreign[family.name]
    rows = np.sort(hits.rows)
    own = _own_family(seen)
    rewrite, fix = None, f"Choose a model of the family {family.name}, or rewrite the rows."
    if has_template:
        fix = "Write the turns as messages; the model's own template then adds its markers."
        rewrite = _to_messages(seen, rows, family)
    return _of_rows(
        seen,
        "warning" if family.is_special else "note",
        rows,
        f"Rows with the markers of {family.name} ({' and '.join(family.marks[:2])})",
        f"To this model {family.marks[0]} is not one token but ordinary text: it learns a second "
        "prompt format beside its own."
        if family.is_special
        else "The model learns this prompt format beside its own. That is fine if you will use it.",
        fix,
        detail=f"The model knows those of {own.name}." if own else "",
        rewrite=rewrite,
        texts=hits.texts,
    )


@_check
def templated_text(seen: Seen) -> Finding | None:
    """Texts are written in the model's own template already."""
    family = _own_family(seen)
    if not seen.templated.rows or family is None:
        return None
    rows = np.sort(seen.templated.rows)
    return _of_rows(
        seen,
        "note",
        rows,
        f"Rows that are already written in the model's own template ({family.name})",
        "They are trained on as they are, and end twice: with the template's marker and with the "
        "end that is added. Without a prompt column, the user's turns are trained on too.",
        "Write the turns as messages: the template adds the markers, and only answers are trained "
        "on.",
        rewrite=_to_messages(seen, rows, family),
        texts=seen.templated.texts,
    )


@_check
def special_tokens_in_text(seen: Seen) -> Finding | None:
    """A text contains special tokens of the model."""
    pattern = special_tokens(seen.tokenizer.all_special_tokens)
    if not seen.special.rows or pattern is None:
        return None
    rows = np.sort(seen.special.rows)
    return _of_rows(
        seen,
        "warning",
        rows,
        "Rows with special tokens of the model in their text",
        "The tokenizer reads them as markers, not as text: a conversation may end in its middle.",
        "Remove them.",
        rewrite=_rewrite(
            seen, rows, "without-special-tokens", clean=lambda text: pattern.sub("", text)
        ),
        texts=seen.special.texts,
    )


def _own_family(seen: Seen) -> Family | None:
    template = str(seen.tokenizer.chat_template or "")
    return next((one for one in FAMILIES if any(m in template for m in one.marks)), None)


def _to_messages(seen: Seen, rows: np.ndarray, family: Family) -> Rewrite:
    """Return what removes the markers of a family from conversations, or makes them of texts."""
    if seen.is_chat[rows].any():
        marks = re.compile("|".join(map(re.escape, family.marks)))
        return _rewrite(seen, rows, "without-marks", clean=lambda text: marks.sub("", text).strip())

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
    changes: dict[str, Any] = {}
    if not data.pad_to_multiple_of:
        changes = {"data.padding_free": True}
        fix = (
            "Turn data.padding_free on: the same batches and steps, without padding. data.packing "
            "saves the same and makes fewer, larger steps."
        )
    elif not is_grouped:
        changes = {"data.train_sampling_strategy": "group_by_length"}
        fix = "Group the rows by length."
    else:
        fix = "Use a smaller batch with more accumulation."
    lengths = np.minimum(seen.tokens[rows], data.max_length)
    computed = float(lengths.sum()) / (1 - now)
    median, long = (int(np.quantile(lengths, q)) for q in (0.5, 0.95))
    grouped = "" if is_grouped else f"; grouped by length {percent(shares.grouped)}"
    return Finding(
        "",
        "note",
        f"{percent(now)} of what a step computes is padding, in batches of "
        f"{count(shares.batch_size, 'row')}{grouped}, packed {percent(shares.packed)} in "
        f"{count(shares.sequences, 'sequence')}. Half of the rows have at most {median:,} tokens, "
        f"one in twenty has more than {long:,}.",
        "Padding takes time and memory and teaches nothing.",
        fix,
        round(computed - lengths.sum()),
        round(computed),
        "token",
        changes=changes,
    )


# Shared by the checks


def _error_if_many(rows: np.ndarray) -> Level:
    return "error" if rows.sum() >= MASKED_SHARE * len(rows) else "warning"


def _of_rows(
    seen: Seen,
    level: Level,
    rows: np.ndarray,
    what: str,
    why: str,
    fix: str,
    *,
    detail: str = "",
    number: int | None = None,
    total: int | None = None,
    changes: Mapping[str, Any] | None = None,
    rewrite: Rewrite | None = None,
    texts: Mapping[int, str] | None = None,
) -> Finding | None:
    """Return a finding about rows of the table, or None without any; `detail` follows the numbers."""
    number = len(rows) if number is None else number
    if not number:
        return None
    total = len(seen) if total is None else total
    return Finding(
        "",
        level,
        f"{what}: {count(number)} of {count(total)} ({percent(number / total)}). {detail}".rstrip(),
        why,
        fix,
        number,
        total,
        "row",
        _places(seen, rows, texts or {}),
        changes or {},
        None if seen.is_stream else rewrite,
    )


def _places(seen: Seen, rows: np.ndarray, texts: Mapping[int, str]) -> tuple[Place, ...]:
    """Return the places of the first rows, or of those whose texts are given."""
    return tuple(seen.place(row, texts.get(row)) for row in texts or rows[:EXAMPLES].tolist())


def _without(seen: Seen, rows: np.ndarray, suffix: str) -> Rewrite:
    """Return the files without some rows."""
    fields = np.array([seen.fields[d] for d in seen.dataset[rows].tolist()], object)
    drops = {field: np.unique(seen.row[rows][fields == field]) for field in dict.fromkeys(fields)}
    return Rewrite(suffix, drops)


def _rewrite(seen: Seen, rows: np.ndarray, suffix: str, **how: Any) -> Rewrite:
    """Return the files that hold some rows, with their texts fixed."""
    fields = dict.fromkeys(seen.fields[d] for d in seen.dataset[rows].tolist())
    return Rewrite(suffix, fields=tuple(fields), **how)


def _dataset(seen: Seen, field: str) -> Dataset:
    return dict(seen.config.data.named_datasets())[field]


def _templates(seen: Seen, field: str) -> tuple[str, str] | None:
    """Return the templates of a dataset, or equivalent ones; None for functions."""
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
