"""What can be wrong with rows. Each finding is one function; its name is the finding's name.

A check takes what `measure` recorded and returns a `Finding` or None; `findings` runs them all.
Thresholds are constants with their reason.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from nbft.config.data import Dataset
from nbft.data.doctor import consistency, minhash, preferences  # noqa: F401  # they add their checks
from nbft.data.doctor.check import (
    CHECKS,
    Check,
    by_file,
    check,
    leaving_out,
    mended,
    of_rows,
    places_of,
)
from nbft.data.doctor.finding import (
    LEVELS,
    Finding,
    Rewrite,
    Row,
    percent,
    with_answers,
    with_texts,
)
from nbft.data.doctor.habits import HABIT_SHARE, are_labels
from nbft.data.doctor.kinds import Kind, Level
from nbft.data.doctor.measure import EXAMPLES, FOLDED, Seen
from nbft.data.doctor.text import FAMILIES, Family, families_in, whole_turns, without_marks
from nbft.data.formats import Example
from nbft.data.lengths import KEPT_SHARES, enough_for, enough_in_words
from nbft.data.padding import padding_shares
from nbft.data.ready import READY
from nbft.data.templates import columns_named
from nbft.data.tokens import encode
from nbft.data.turns import text_of as text_of_turn
from nbft.decisions import decide
from nbft.errors import Problem
from nbft.formatting import count
from nbft.methods import method_of

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


def findings(seen: Seen) -> list[Finding]:
    """Run every check, and return the findings: errors first, and of a level the most harmful."""
    named = [
        dataclasses.replace(finding, name=name)
        for name, look in {**CHECKS, **_of_kinds(seen)}.items()
        if (finding := look(seen))
    ]
    return sorted(named, key=lambda finding: (LEVELS.index(finding.level), -finding.harm))


def _of_kinds(seen: Seen) -> dict[str, Check]:
    return {name: functools.partial(_of_kind, name=name) for name in seen.kinds}


# What could not be read at all


@check
def placeholder(seen: Seen) -> Finding | None:
    """A placeholder of a template is not a column."""
    problems = [p for p in seen.problems if p.field.endswith("_template")]
    why = "No row can be built: a template names a column that does not exist."
    return _of_problems(problems, why, "template")


@check
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


@check
def refused(seen: Seen) -> Finding | None:
    """The tokenizer or the chat template refuses rows."""
    rows = np.array(sorted(seen.refused), np.int64)
    if not len(rows):
        return None
    rewrite = None if len(rows) == len(seen) else leaving_out(seen, rows)
    return of_rows(
        seen,
        "error",
        rows,
        "Rows that cannot be read or tokenised",
        "The run would stop at the first of them.",
        "Leave them out, or fix them." if rewrite else "Fix them, or choose another model.",
        detail=f"The first: {seen.refused[rows[0]]}",
        rewrite=rewrite,
        texts={row: seen.refused[row] for row in rows[:EXAMPLES].tolist()},
    )


# What is trained on


@check
def masked(seen: Seen) -> Finding | None:
    """No token, or hardly any, is trained on."""
    return _masked_split(seen) or _barely_trained(seen)


def _masked_split(seen: Seen) -> Finding | None:
    for split in seen.names:
        rows = seen.of(split) & seen.is_tokenised
        empty = rows & (seen.trained == 0)
        if not rows.any() or empty.sum() < MASKED_SHARE * rows.sum():
            continue
        longer, _ = longer_maximum(seen, empty & (seen.tokens > seen.config.data.max_length))
        return of_rows(
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
        places_of(seen, rows[np.argsort(seen.trained[rows] / kept, kind="stable")], {}),
    )


@check
def pad_is_end(seen: Seen) -> Finding | None:
    """The end of the sequence is masked, because padding uses the same token."""
    tokenizer = seen.tokenizer
    if tokenizer.pad_token_id != tokenizer.eos_token_id:
        return None
    others = [t for t in tokenizer.all_special_tokens if t != tokenizer.eos_token]
    token = tokenizer.unk_token or (others[-1] if others else None)
    return of_rows(
        seen,
        _error_if_many(seen.end_is_masked),
        np.flatnonzero(seen.end_is_masked),
        f"Rows whose end is not trained on, because {tokenizer.eos_token} is the padding token too "
        "and is masked with the padding",
        "A model that is never trained on the end of an answer does not stop.",
        f"Use {token} for padding." if token else "Choose another padding token.",
        changes={"model.pad_token": token} if token else {},
    )


@check
def end_not_trained(seen: Seen) -> Finding | None:
    """The end of the sequence is not trained on."""
    rows = seen.is_tokenised & ~seen.end_is_trained & (seen.trained > 0)
    if seen.tokenizer.pad_token_id == seen.tokenizer.eos_token_id:
        rows &= ~seen.end_is_masked  # that is pad_is_end
    return of_rows(
        seen,
        _error_if_many(rows),
        np.flatnonzero(rows),
        f"Rows whose end, {seen.tokenizer.eos_token}, is not trained on",
        "A model that is never trained on the end of an answer does not stop.",
        "Check that the chat template ends an answer with that token, or choose another with "
        "model.chat_template_path.",
    )


@check
def boundary_merged(seen: Seen) -> Finding | None:
    """The tokenizer would merge the end of the prompt with the start of the completion."""
    rows = np.flatnonzero(seen.is_merged)
    changes: dict[str, Any] = {}
    for field in dict.fromkeys(seen.fields[dataset] for dataset in seen.dataset[rows].tolist()):
        of_field = [row for row in rows.tolist() if seen.fields[seen.dataset[row]] == field]
        changes |= _clean_boundary(seen, field, of_field[:: max(1, len(of_field) // 50)])
    settings = "; ".join(f"{path}={value!r}" for path, value in changes.items())
    return of_rows(
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


@check
def glued(seen: Seen) -> Finding | None:
    """The answer follows the prompt without a space or line break."""
    rows = np.flatnonzero(seen.is_glued & ~seen.is_merged & seen.is_tokenised)
    changes: dict[str, str] = {}
    between: dict[str, tuple[str, str]] = {}
    for field in dict.fromkeys(seen.fields[dataset] for dataset in seen.dataset[rows].tolist()):
        of_field = np.array([name == field for name in seen.fields])[seen.dataset]
        templates = _templates(seen, field)
        if templates is None:
            continue
        if seen.is_glued[of_field].mean() >= HABIT_SHARE:
            changes[f"{field}.prompt_template"] = templates[0] + "\n"
            if _dataset(seen, field).completion_template is None:
                changes[f"{field}.completion_template"] = templates[1]
        elif templates == ("{prompt}", "{completion}"):
            others = np.flatnonzero(of_field & seen.is_tokenised & ~seen.is_glued)
            between[field] = _between(seen, others)
    return of_rows(
        seen,
        "warning",
        rows,
        "Rows whose answer follows the prompt without a space or line break",
        "The model reads the two as one, and in use it cannot tell whether the question has ended.",
        "Put a line break between them."
        if changes or not between
        else "Separate them like the others.",
        changes=changes,
        rewrite=None if changes else _separated(seen, rows, between),
        weight=4,
    )


def _between(seen: Seen, rows: np.ndarray) -> tuple[str, str]:
    """Return what most rows have at the end of the prompt and at the start of the answer."""
    found: collections.Counter[tuple[str, str]] = collections.Counter()
    for row in rows[:: max(1, len(rows) // 50)].tolist():
        one = seen.example(row)
        end, start = one.prompt[len(one.prompt.rstrip()) :], len(one.completion.lstrip())
        found[end, one.completion[: len(one.completion) - start]] += 1
    del found["", ""]
    return max(found, key=found.__getitem__, default=("\n", ""))


def _separated(
    seen: Seen, rows: np.ndarray, between: Mapping[str, tuple[str, str]]
) -> Rewrite | None:
    """Return the fix that separates prompts and answers, in files with a column for each."""
    if len({*between.values()}) != 1:
        return None
    ((end, start),) = {*between.values()}
    columns = [_dataset(seen, field).columns for field in between]
    prompts, answers = (
        {one.get(name, name) for one in columns} for name in ("prompt", "completion")
    )

    def mend(row: Row) -> Row:
        return {
            name: f"{value}{end}"
            if name in prompts
            else f"{start}{value}"
            if name in answers
            else value
            for name, value in row.items()
        }

    of_files = np.isin(seen.dataset[rows], [n for n, f in enumerate(seen.fields) if f in between])
    return mended(seen, rows[of_files], mend)


@check
def cut(seen: Seen) -> Finding | None:
    """Completions are cut off by data.max_length."""
    limit = seen.config.data.max_length
    rows = (seen.tokens > limit) & (seen.trained > 0)
    longer, lengths = longer_maximum(seen, rows)
    return of_rows(
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


def longer_maximum(seen: Seen, rows: np.ndarray) -> tuple[int | None, str]:
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


@check
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
    longer, _ = longer_maximum(seen, long)
    rows = np.flatnonzero(without)
    fix = "Nothing needs fixing; training on bad answers needs a preference method."
    rewrite = None
    if longer:
        fix = f"Use data.max_length={longer}."
    elif len(rows):
        fix, rewrite = "Leave them out of the file.", leaving_out(seen, rows)
    return of_rows(
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


@check
def unanswered_turns(seen: Seen) -> Finding | None:
    """Conversations go on after their last answer."""
    return of_rows(
        seen,
        "note",
        np.flatnonzero(seen.is_unanswered),
        "Conversations that go on after their last answer",
        "Those turns are left out: a question without an answer has nothing to train on.",
        "Nothing needs fixing, unless the answers were lost on the way.",
    )


@check
def left_out_by_template(seen: Seen) -> Finding | None:
    """The chat template leaves something out of conversations, or writes it otherwise."""
    remarked = {remark: rows for remark, rows in seen.remarked.items() if remark != FOLDED}
    if not remarked:
        return None
    return of_rows(
        seen,
        "warning",
        np.array(sorted({row for rows in remarked.values() for row in rows})),
        "Conversations that the chat template does not write as they are",
        "The model learns what the template writes, and will be asked in the same way.",
        "Choose a model whose template writes it, or another model.chat_template.",
        detail=" ".join(f"{len(rows):,} {remark}" for remark, rows in remarked.items()),
    )


@check
def folded_system_turns(seen: Seen) -> Finding | None:
    """The chat template takes no system turn."""
    if not (rows := seen.remarked.get(FOLDED)):
        return None
    return of_rows(
        seen,
        "note",
        np.array(sorted(rows)),
        "System turns that the chat template does not take",
        "Their text stands before the first question.",
        "Write it there when you use the model, too.",
    )


_TALK: dict[str, tuple[Level, str, str, str]] = {
    "undeclared_calls": (
        "warning",
        "Answers that call a tool which their row does not declare",
        "The model learns to call what it was not offered.",
        "Declare the tool in the column tools.",
    ),
    "argument_text": (
        "warning",
        "Calls of tools whose arguments are not a JSON object",
        "The model learns calls that no program can read.",
        'Write the arguments as an object, {"name": value}.',
    ),
    "renamed_roles": (
        "note",
        "Conversations with other names for the roles",
        "They are read as system, user, assistant and tool, which chat templates know.",
        "Nothing, if they mean the same.",
    ),
    "not_a_number": (
        "note",
        "Cells that hold NaN",
        "They are read as missing.",
        "Nothing, if they are gaps of a table.",
    ),
}


def _talk(seen: Seen, kind: str) -> Finding | None:
    hits = seen.talk.get(kind)
    if hits is None:
        return None
    level, title, why, fix = _TALK[kind]
    rows = np.array(sorted(set(hits.rows)))
    return of_rows(seen, level, rows, title, why, fix, texts=hits.texts)


CHECKS |= {kind: functools.partial(_talk, kind=kind) for kind in _TALK}


@check
def empty_completions(seen: Seen) -> Finding | None:
    """Rows have nothing to train on but the end."""
    is_empty = seen.is_tokenised & seen.answer_is_empty & (seen.trained > 0)
    rows = np.flatnonzero(is_empty)
    all_empty = len(rows) == len(seen)
    return of_rows(
        seen,
        _error_if_many(is_empty),
        rows,
        "Rows with an empty completion",
        "They teach the model to say nothing.",
        "Name the column that holds the answer." if all_empty else "Leave them out.",
        rewrite=None if all_empty else leaving_out(seen, rows),
        weight=5,
    )


# Columns


@check
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
            is_used |= name in columns_named(template)
            bare = re.sub(pattern, "", template)
            if bare != template and columns_named(bare):
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


@check
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
    answers = [(f, n) for f, n in same if n in columns_named(_dataset(seen, f).completion_template)]
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


# Rows that appear more than once


@check
def duplicates(seen: Seen) -> Finding | None:
    """Rows appear twice in a split."""
    rows, firsts = _repeats(seen)
    return of_rows(
        seen,
        "warning",
        rows,
        "Rows that repeat an earlier row of their split word for word",
        "A row that appears ten times weighs ten times as much, and is memorised.",
        "Keep the first of each.",
        rewrite=leaving_out(seen, rows),
        texts=_beside(seen, rows, firsts, "same as"),
    )


@check
def duplicates_in_other_spelling(seen: Seen) -> Finding | None:
    """Rows of a split differ in case or spaces only."""
    rows, firsts = _repeats(seen, seen.spelt_hash)
    exact, _ = _repeats(seen)
    is_new = ~np.isin(rows, exact)
    rows, firsts = rows[is_new], firsts[is_new]
    return of_rows(
        seen,
        "warning",
        rows,
        "Rows that repeat an earlier row of their split but for case or spaces",
        "A row that appears ten times weighs ten times as much, and is memorised.",
        "Leave out those that you do not want twice.",
        rewrite=leaving_out(seen, rows, is_choice=True),
        texts=_beside(seen, rows, firsts, "like"),
    )


@check
def near_duplicates(seen: Seen) -> Finding | None:
    """Rows of a split are nearly the same, prompt and answer."""
    first, second, likeness = seen.similar
    within = seen.split[first] == seen.split[second]
    within &= seen.spelt_hash[first] != seen.spelt_hash[second]
    # Several questions about one text have most of their words in common, and are no copies.
    answers = seen.habits.spelt
    within &= (answers[first] == answers[second]) | (
        seen.prompt_hash[first] == seen.prompt_hash[second]
    )
    rows, pairs = np.unique(second[within], return_index=True)
    return of_rows(
        seen,
        "warning" if len(rows) >= ALMOST_SHARE * len(seen) else "note",
        rows,
        "Rows that are nearly the same as an earlier row of their split",
        "Rows that differ in a word or two weigh more than they should.",
        "Look at them, and leave out those that say the same.",
        detail=f"About {minhash.SIMILARITY:.0%} or more of their text is the same, and so is the prompt "
        "or the answer.",
        rewrite=leaving_out(seen, rows, is_choice=True),
        texts=_beside(seen, rows, first[within][pairs], "like", likeness[within][pairs]),
    )


@check
def contradictions(seen: Seen) -> Finding | None:
    """One prompt has different answers."""
    if method_of(seen.config).uses_labels:
        return None  # each prompt has good and bad answers
    has_prompt = seen.habits.prompt_chars > 0
    rows = np.flatnonzero(seen.of("train") & seen.is_tokenised & has_prompt & ~_is_general(seen))
    hashes, answers = seen.prompt_hash[rows], seen.habits.spelt[rows]
    order = np.lexsort((answers, hashes))
    same = hashes[order[1:]] == hashes[order[:-1]]
    differs = same & (answers[order[1:]] != answers[order[:-1]])
    wrong = np.unique(hashes[order[1:]][differs])
    found = rows[np.isin(hashes, wrong)]
    together = found[np.argsort(seen.prompt_hash[found], kind="stable")][:EXAMPLES].tolist()
    return of_rows(
        seen,
        "warning",
        found,
        f"Rows of {count(len(wrong), 'prompt')} that have several answers",
        "The model cannot learn both, and learns to be unsure. That is fine where answers are a "
        "matter of taste.",
        "Look at them, and leave out the worse ones.",
        rewrite=leaving_out(seen, found, is_choice=True),
        texts={row: seen.place(row).text for row in together},
        weight=4,
    )


@check
def held_out_in_training(seen: Seen) -> Finding | None:
    """Held-out rows are among the training rows."""
    hashes = np.where(_is_general(seen), seen.spelt_hash, seen.prompt_hash)
    held, inside, partners = _leaks(seen, hashes)
    return _of_leaks(
        seen,
        held,
        inside,
        "that share their prompt with a row of an earlier split",
        _beside(seen, held, partners, "same prompt as"),
    )


def _is_general(seen: Seen) -> np.ndarray:
    """Return which rows have a prompt that is an instruction many rows share, not a question."""
    prompts, times = np.unique(seen.prompt_hash, return_counts=True)
    general = prompts[times > max(PROMPT_ROWS, PROMPT_SHARE * len(seen))]
    return np.isin(seen.prompt_hash, general)


@check
def nearly_held_out_in_training(seen: Seen) -> Finding | None:
    """Held-out rows are nearly the same as training rows."""
    first, second, likeness = seen.similar
    across = seen.split[first] < seen.split[second]  # the splits come in order
    across &= seen.prompt_hash[first] != seen.prompt_hash[second]
    held = np.unique(second[across])
    inside, pairs = np.unique(first[across], return_index=True)
    return _of_leaks(
        seen,
        held,
        inside,
        "that are nearly the same as a row of an earlier split",
        _beside(seen, inside, second[across][pairs], "like", likeness[across][pairs]),
        is_choice=True,
    )


def _of_leaks(
    seen: Seen,
    held: np.ndarray,
    inside: np.ndarray,
    what: str,
    texts: dict[int, str],
    *,
    is_choice: bool = False,
) -> Finding | None:
    splits = [name for name in seen.names[1:] if seen.of(name)[held].any()]
    return of_rows(
        seen,
        "warning",
        inside if is_choice else held,  # those to choose from
        f"Rows of {' and '.join(splits)} {what}",
        "The held-out loss and the scores then show how well the model remembers, not how well it "
        "has learned.",
        f"Leave {count(len(inside), 'row')} out of the earlier split.",
        number=len(held),
        total=sum(int(seen.of(name).sum()) for name in seen.names[1:]),
        rewrite=leaving_out(seen, inside, is_choice=is_choice),
        texts=texts,
        weight=4,
    )


def _leaks(seen: Seen, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return held-out rows that an earlier split has too, the rows to leave out, and the partners."""
    order, group = _groups(seen, hashes)
    if not len(order):
        return order, order, order
    begins = np.flatnonzero(np.diff(group, prepend=-1))
    ends = np.append(begins[1:], len(order)) - 1
    first, last = order[begins][group], order[ends][group]  # rows are ordered by split
    leaks = seen.split[order] > seen.split[first]
    inside = seen.split[order] < seen.split[last]
    held, partners = order[leaks], first[leaks]
    by_row = np.argsort(held)
    return held[by_row], np.sort(order[inside]), partners[by_row]


def _repeats(seen: Seen, hashes: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return rows that repeat an earlier one of their split, and the first of each."""
    order, group = _groups(seen, seen.text_hash if hashes is None else hashes)
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


# The catalogue


def _of_kind(seen: Seen, name: str) -> Finding | None:
    if (hits := seen.odd.get(name)) is None:
        return None
    kind, rows = seen.kinds[name], np.sort(hits.rows)
    if kind.may_be_label and are_labels(seen.habits, len(seen)):
        return None
    changes = _mended_templates(seen, kind)
    rewrite: Rewrite | None = None
    if kind.mend is not None and not changes:
        mend = (with_answers if kind.answers_only else with_texts)(kind.mend)
        rewrite = mended(seen, rows, mend, answers_only=kind.answers_only)
    elif kind.is_choice:
        rewrite = leaving_out(seen, rows, is_choice=True)
    return of_rows(
        seen,
        kind.level,
        rows,
        kind.what,
        kind.why,
        kind.fix,
        detail=f"It stands in {', '.join(changes)}." if changes else "",
        changes=changes,
        rewrite=rewrite,
        texts=hits.texts,
        weight=kind.weight,
    )


_TEMPLATES = (
    *("prompt_template", "no_input_template", "completion_template"),
    *("system_template", "system_prompt"),
)


def _mended_templates(seen: Seen, kind: Kind) -> dict[str, str]:
    """Return the templates that have a kind of fault themselves, without it, by setting.

    No row can be mended then: the fault is in what is written around it.
    """
    if kind.mend is None:
        return {}
    names = _TEMPLATES[2:3] if kind.answers_only else _TEMPLATES
    texts = {
        f"{field}.{name}": text
        for field, dataset in seen.config.data.named_datasets()
        for name in names
        if (text := getattr(dataset, name))
    }
    return {path: new for path, text in texts.items() if (new := kind.mend(text)) != text}


# Chat templates


@check
def wrong_chat_template(seen: Seen) -> Finding | None:
    """Texts are written in the template of other families of models."""
    has_template = bool(seen.tokenizer.chat_template)
    families = [
        family
        for family in FAMILIES
        if family.name in seen.foreign
        and (has_template or family.is_special)
        # A plain form that most rows have is the dataset's own.
        and (family.is_special or len(seen.foreign[family.name].rows) < OWN_FORM_SHARE * len(seen))
    ]
    if not families:
        return None
    families.sort(key=lambda family: -len(seen.foreign[family.name].rows))
    first, own = families[0], _own_family(seen)
    hits = {family.name: seen.foreign[family.name] for family in families}
    rows = np.unique(np.concatenate([np.array(one.rows, np.int64) for one in hits.values()]))
    named = ", ".join(f"{count(len(one.rows))} of {name}" for name, one in hits.items())
    counts = f"They are {named}. " if len(families) > 1 else ""
    rewrite = _without_marks(seen, rows, families)
    fix = f"Choose a model of the family {first.name}, or write the turns without the markers."
    if rewrite is not None:
        fix = "Take the markers away; the model's own template adds its own."
        if rewrite.makes_turns:
            fix = "Write the turns as messages; the model's own template then adds its markers."
    return of_rows(
        seen,
        "warning" if first.is_special else "note",
        rows,
        f"Rows with the markers of {first.name} ({' and '.join(first.marks[:2])})"
        if len(families) == 1
        else "Rows with the markers of other models",
        f"To this model {first.marks[0]} is not one token but ordinary text: it learns a second "
        "prompt format beside its own."
        if first.is_special
        else "Other rows are asked in another form, so the model learns two.",
        fix,
        detail=counts + (f"The model knows those of {own.name}." if own else ""),
        rewrite=rewrite,
        texts=hits[first.name].texts,
    )


OWN_FORM_SHARE = 0.5
"""A plain form such as “### Instruction:” in more rows than this is the dataset's own."""


@check
def templated_text(seen: Seen) -> Finding | None:
    """Texts are written in the model's own template already."""
    family = _own_family(seen)
    if not seen.templated.rows or family is None:
        return None
    rows = np.sort(seen.templated.rows)
    return of_rows(
        seen,
        "note",
        rows,
        f"Rows that are already written in the model's own template ({family.name})",
        "They are trained on as they are, and end twice: with the template's marker and with the "
        "end that is added. Without a prompt column, the user's turns are trained on too.",
        "Write the turns as messages: the template adds the markers, and only answers are trained "
        "on.",
        rewrite=_without_marks(seen, rows, [family]),
        texts=seen.templated.texts,
    )


@check
def special_tokens_in_text(seen: Seen) -> Finding | None:
    """A text contains special tokens of the model."""
    rows = np.array(sorted(seen.special.rows), np.int64)
    return of_rows(
        seen,
        "warning",
        rows,
        "Rows with special tokens of the model in their text",
        "The tokenizer reads them as markers, not as text: a conversation may end in its middle.",
        "Rewrite these texts. An end token at the end of an answer is a finding of its own.",
        rewrite=leaving_out(seen, rows, is_choice=True),
        texts=seen.special.texts,
    )


def _own_family(seen: Seen) -> Family | None:
    template = str(seen.tokenizer.chat_template or "")
    return next((one for one in FAMILIES if any(m in template for m in one.marks)), None)


def _without_marks(seen: Seen, rows: np.ndarray, families: list[Family]) -> Rewrite | None:
    """Return what takes markers away, or None where that would lose something.

    Whole texts become conversations where all rows of their datasets are such texts; single rows
    among others keep their columns.
    """
    columns = {name for field in _fields(seen, rows) for name in seen.columns[field]}
    if columns == {"text"} or (
        columns and "text" in columns and not columns & {"prompt", "messages"}
    ):
        everywhere = len(rows) == np.isin(seen.dataset, np.unique(seen.dataset[rows])).sum()
        found = [whole_text(seen.example(row).completion, families) for row in rows.tolist()]
        return (
            Rewrite(by_file(seen, rows), _as_messages(families), True)
            if everywhere and all(found)
            else None
        )

    def mend(text: str) -> str:
        for family in families:
            if any(mark in text for mark in family.marks):
                bare = without_marks(text, family)
                return text if bare is None else bare
        return text

    for row in rows.tolist():
        example = seen.example(row)
        texts = [text_of_turn(turn) for turn in example.messages] or [*_cells(seen, row)]
        marked = [text for text in texts if families_in(text)]
        if not marked or any(mend(text) == text for text in marked):
            return None
    return mended(seen, rows, with_texts(mend))


def whole_text(text: str, families: list[Family]) -> list[dict[str, str]]:
    """Return the turns that a text consists of, in the markers of one of some families."""
    return next(filter(None, (whole_turns(text, family) for family in families)), [])


def _as_messages(families: list[Family]) -> Callable[[Row], Row]:
    def mend(row: Row) -> Row:
        others = {name: value for name, value in row.items() if name != "text"}
        return {**others, "messages": whole_text(str(row["text"]), families)}

    return mend


def _fields(seen: Seen, rows: np.ndarray) -> list[str]:
    return [seen.fields[number] for number in np.unique(seen.dataset[rows]).tolist()]


def _cells(seen: Seen, row: int) -> Iterator[str]:
    examples = seen.examples[seen.names[seen.split[row]]]
    cells = examples.row(int(seen.number[row]))
    return (value for value in cells.values() if isinstance(value, str))


# Lengths


@check
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
