"""Better and worse answers: rows with a fault planted in them, and rows without one."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest

from nbft.config import Config
from nbft.data.doctor.checks import findings
from nbft.data.doctor.measure import measure
from nbft.data.doctor.rewrite import rewritten

from .conftest import held_out

FIELD = "data.train.datasets[0]"


@pytest.fixture
def pairs(good_rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Pairs whose rejected answer is the sentence of another row: as often longer as shorter."""
    answers = sorted((row["completion"] for row in good_rows), key=len)
    return [
        {
            "prompt": row["prompt"],
            "chosen": row["completion"],
            "rejected": next(a for a in answers[n:] + answers[:n] if a != row["completion"]),
        }
        for n, row in enumerate(good_rows)
    ]


@pytest.fixture
def labelled(pairs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {"prompt": row["prompt"], "completion": row[name], "label": name == "chosen"}
        for row, name in zip(pairs, itertools.cycle(["chosen", "rejected"]), strict=False)
    ]


@pytest.fixture
def found_by(config_of: Callable[..., Config], tokenizer: Any) -> Callable[..., Any]:
    """Return a function from rows and a method to what is found, by name."""

    def find(rows: Any, method: str = "dpo", preference: Any = (), **data: Any) -> Any:
        config = Config(data=data) if rows is None else config_of(rows, **data)
        config = config.apply({"training.method": method})
        config = config.apply({f"preference.{name}": v for name, v in dict(preference).items()})
        return {one.name: one for one in findings(measure(config, tokenizer))}

    return find


@pytest.mark.parametrize("method", ["dpo", "orpo", "cpo"])
def test_good_pairs_show_nothing(found_by, pairs, method):
    assert found_by(pairs, method) == {}
    scored = [{**row, "margin": n % 4 + 0.5} for n, row in enumerate(pairs)]
    assert found_by(scored, method) == {}


def test_good_conversations_show_nothing(found_by, pairs):
    def turns(row, name):
        said = [("user", row["prompt"]), ("assistant", row[name])]
        return [{"role": role, "content": text} for role, text in said]

    rows = [{name: turns(row, name) for name in ("chosen", "rejected")} for row in pairs]
    assert found_by(rows) == {}
    same = [*rows[1:], {**rows[0], "rejected": rows[0]["chosen"]}]
    assert found_by(same)["identical_answers"].count == 1


def test_good_labels_show_nothing(found_by, labelled):
    assert found_by(labelled, "kto") == {}


def test_answers_that_are_the_same_are_left_out(found_by, pairs, config_of):
    rows = [
        {**row, "rejected": f" {row['chosen']}"} if n in (3, 7) else row
        for n, row in enumerate(pairs)
    ]
    found = found_by(rows, split_ratio=1.0)["identical_answers"]
    assert (found.level, found.count, found.total) == ("warning", 2, 40)
    fixed = rewritten(config_of(rows, split_ratio=1.0), found.rewrite)
    assert fixed.data.train.datasets[0].rows == [r for n, r in enumerate(rows) if n not in (3, 7)]
    assert "identical_answers" not in found_by(rows, "sft"), "which reads the chosen ones only"
    all_same = found_by([{**row, "rejected": row["chosen"]} for row in pairs])["identical_answers"]
    assert all_same.level == "error"
    assert not all_same.has_fix, "leaving every row out is no fix"


def test_ties_and_swapped_scores(found_by, pairs):
    scores = {5: (3, 3), 6: (3, 3), 9: (1, 4)}
    rows = [
        {
            **row,
            "score_chosen": (s := scores.get(n, (n % 5 + 3, n % 2 + 1)))[0],
            "score_rejected": s[1],
        }
        for n, row in enumerate(pairs)
    ]
    found = found_by(rows, split_ratio=1.0)
    assert {*found} == {"tied_scores", "swapped_scores"}
    assert found["tied_scores"].rewrite.rows[FIELD].tolist() == [6, 7]
    assert not found["tied_scores"].rewrite.is_choice
    assert found["swapped_scores"].rewrite.rows[FIELD].tolist() == [10]
    assert found["swapped_scores"].rewrite.is_choice, "the scores may be right"
    kept = [row for n, row in enumerate(rows) if n not in scores]
    assert found_by(kept, split_ratio=1.0) == {}


@pytest.mark.parametrize(
    ("longer", "level", "word"),
    [(40, "warning", "longer"), (30, "note", "longer"), (10, "note", "shorter"), (22, None, "")],
)
def test_length_alone_tells_the_better_answer(found_by, pairs, tokenizer, longer, level, word):
    """Planted: so many of 40 pairs have the longer answer as the chosen one."""

    def length(text):
        return len(tokenizer(text)["input_ids"])

    rows = []
    for n, row in enumerate(pairs):
        short, long = sorted([row["chosen"], row["rejected"]], key=length)
        if length(short) == length(long):
            long += " And so on."
        good, bad = (long, short) if n < longer else (short, long)
        rows.append({**row, "chosen": good, "rejected": bad})
    found = found_by(rows, split_ratio=1.0).get("preferred_by_length")
    if level is None:
        assert found is None
        return
    share = max(longer, 40 - longer) / 40
    assert (found.level, found.count, found.total) == (level, round(40 * share), 40)
    assert f"always taking the {word} answer would have an accuracy of {share:.2f}" in found.what
    assert "preferred_by_length" not in found_by(rows[:15], split_ratio=1.0), "may be by chance"


def test_the_same_prompt_in_training_and_held_out_pairs(found_by, pairs):
    other = {**pairs[2], "chosen": "I know it: 7.", "rejected": "I do not know."}
    data = held_out(pairs[:30], [other, *pairs[32:]])
    found = found_by(None, **data)["held_out_in_training"]
    assert found.rewrite.rows[FIELD].tolist() == [3]
    assert "held_out_in_training" not in found_by(None, **held_out(pairs[:30], pairs[30:]))


def test_chosen_answers_that_are_cut(found_by, pairs):
    end = " It follows." * 60
    rows = [{**row, "chosen": row["chosen"] + end} if n < 4 else row for n, row in enumerate(pairs)]
    rows[9] = {**rows[9], "rejected": rows[9]["rejected"] + end}
    found = found_by(rows, split_ratio=1.0, max_length=300)["chosen_cut"]
    assert (found.level, found.count) == ("warning", 4)
    assert "The rejected answer alone does in 1." in found.what
    assert "chosen_cut" not in found_by(
        rows,
        split_ratio=1.0,
        **{path.partition(".")[2]: value for path, value in found.changes.items()},
    )
    swapped = [{**r, "chosen": r["rejected"], "rejected": r["chosen"]} for r in rows]
    assert "chosen_cut" not in found_by(swapped, split_ratio=1.0, max_length=300)


@pytest.mark.parametrize("good", [4, 10, 16, 26, 34])
def test_labels_that_weigh_differently_get_weights(found_by, labelled, good):
    rows = [
        {**row, "label": n * good // 40 != (n + 1) * good // 40} for n, row in enumerate(labelled)
    ]
    assert sum(row["label"] for row in rows) == good
    found = found_by(rows, "kto", split_ratio=1.0)["answer_balance"]
    assert found.level == ("warning" if good in (4, 10, 34) else "note")
    weights = {path.partition(".")[2]: value for path, value in found.changes.items()}
    assert 1 in weights.values()
    ratio = weights["desirable_weight"] * good / (weights["undesirable_weight"] * (40 - good))
    assert 1 <= ratio <= 4 / 3, "as TRL's documentation recommends"
    assert "answer_balance" not in found_by(rows, "kto", weights, split_ratio=1.0)
    assert "answer_balance" not in found_by(rows, "sft", split_ratio=1.0)


@pytest.mark.parametrize("label", [True, False])
def test_labels_of_one_kind_are_an_error(found_by, labelled, label):
    found = found_by([{**row, "label": label} for row in labelled], "kto")["answer_balance"]
    assert found.level == "error"
    assert f"Add {'bad' if label else 'good'} answers" in found.fix


def test_faults_of_bad_answers_are_meant(found_by, labelled):
    rows = [*labelled]
    rows[1] = {**rows[1], "completion": "TODO"}
    assert not rows[1]["label"]
    assert found_by(rows, "kto", split_ratio=1.0) == {}
    rows[2] = {**rows[2], "completion": "TODO"}
    found = found_by(rows, "kto", split_ratio=1.0)
    assert found["placeholder_answers"].count == found["missing_signs"].count == 1
