import math
import re

import pytest

from nbft.evaluate.scores import Scores, chart_groups, confidence_interval, shown, verdicts


def event(step, scores, values=None, **more):
    fields = {"split": "validation", "rows": 16, "max_new_tokens": 64, "do_sample": False}
    return {"event": "scores", "step": step, "scores": scores, "values": values or {}} | (
        fields | more
    )


def verdict(before, after, name="rougeL", **more):
    first, last = event(0, {name: before}, **more), event(9, {name: after}, **more)
    return verdicts(first, last)[name]


@pytest.mark.parametrize(
    ("name", "before", "after", "word"),
    [
        ("rougeL", 0.1, 0.3, "better"),
        ("rougeL", 0.3, 0.1, "worse"),
        ("rougeL", 0.2, 0.2, "the same"),
        ("rougeL", 0.2, 0.20001, "the same"),  # both are shown as 0.200
        ("perplexity", 30.0, 10.0, "better"),
        ("perplexity", 10.0, 30.0, "worse"),
        ("perplexity", math.inf, 30.0, "better"),
        ("perplexity", 30.0, math.nan, ""),
        ("mine", 1.0, 2.0, "better"),
    ],
)
def test_which_way_is_better_is_known(name, before, after, word):
    assert verdict(before, after, name) == word


def test_of_ones_own_score_the_config_says_which_way_is_better():
    assert verdict(1.0, 2.0, "mine", greater_is_better=False) == "worse"
    assert verdict(0.1, 0.2, "rougeL", greater_is_better=False) == "better"


def paired(before, after):
    first = event(0, {"exact_match": sum(before) / 16}, {"exact_match": before})
    last = event(9, {"exact_match": sum(after) / 16}, {"exact_match": after})
    return verdicts(first, last)["exact_match"]


def test_a_difference_that_few_rows_may_show_by_chance_is_called_so():
    none = [0.0] * 16
    # One row more: mean 1/16, standard error 1/16. Four rows more: mean 4/16, standard error 0.112.
    assert paired(none, [1.0, *none[1:]]) == "better, may be chance"
    assert paired(none, [1.0] * 4 + none[4:]) == "better"
    assert paired([1.0] * 8 + none[8:], none[:8] + [1.0] * 5 + none[13:]) == "worse, may be chance"
    assert paired(none, [1.0] * 16) == "better"  # every row, so nothing varies


def test_what_was_measured_otherwise_does_not_compare():
    base = event(0, {"rougeL": 0.1})
    for change in ({"rows": 8}, {"max_new_tokens": 8}, {"do_sample": True}, {"split": "test"}):
        assert verdicts(base, event(9, {"rougeL": 0.5}, **change)) == {}
    assert verdicts({}, event(9, {"rougeL": 0.5})) == {}


FOUND = [
    event(0, {"rougeL": 0.1, "exact_match": 0.0, "perplexity": 30.0}),
    event(5, {"rougeL": 0.2, "exact_match": 0.25, "perplexity": 40.0}),
    {"event": "log", "step": 6},
    event(9, {"rougeL": 0.3, "exact_match": 0.0, "perplexity": 45.0}),
]


def test_the_table_has_base_and_last_and_the_way_between():
    scores = Scores(FOUND)
    assert [one["score"] for one in scores] == ["rougeL", "exact_match", "perplexity"]
    first = scores[0]
    assert (first["base"], first["last"], first["step"]) == (0.1, 0.3, 9)
    assert first["history"] == ((0, 0.1), (5, 0.2), (9, 0.3))
    assert str(scores).splitlines() == [
        "score        base model    after step 9  difference",
        "ROUGE-L      0.100         0.300         +0.200: better",
        "exact match  0% (0 of 16)  0% (0 of 16)  the same",
        "perplexity   30.0          45.0          +15.0: worse",
    ]


def test_the_sentence_is_honest():
    sentence, counted = Scores(FOUND).sentences
    assert sentence == (
        "On 16 held-out rows ROUGE-L improved; exact match did not improve; perplexity did not "
        "improve: worse than before."
    )
    assert counted.startswith(
        "Exact match: 0 of 16 held-out rows before training, 0 after step 9. "
    )


def test_html_marks_what_changed_and_escapes_names():
    html = Scores([event(0, {"<b>": 1.0}), event(3, {"<b>": 2.0})])._repr_html_()
    assert "&lt;b&gt;" in html
    assert re.search(r"<b>\+1\.00: better</b>", html)
    assert 'scope="row"' in html


def test_test_rows_stand_apart():
    scores = Scores([*FOUND, event(0, {"rougeL": 0.5}, split="test", rows=4)])
    assert [one["split"] for one in scores] == ["validation"] * 3 + ["test"]
    assert "16 held-out rows" in str(scores)
    assert "4 test rows" in scores._repr_html_()


def test_the_base_alone_is_no_comparison():
    scores = Scores(FOUND[:1])
    assert scores[0]["verdict"] == ""
    assert scores.sentences == []
    assert "after step 0" not in str(scores)
    without = Scores(FOUND[1:])
    assert without[0]["base"] is None
    assert "not scored" in str(without)


def test_the_last_event_counts_although_its_step_is_an_earlier_one():
    """A run that ends with its best checkpoint says so at the end."""
    found = [*FOUND, event(5, {"rougeL": 0.21, "exact_match": 0.25, "perplexity": 40.0})]
    assert (Scores(found)[0]["step"], Scores(found)[0]["last"]) == (5, 0.21)
    assert Scores(found)[0]["history"] == ((0, 0.1), (5, 0.21), (9, 0.3))


def test_without_scores_it_says_so():
    assert str(Scores([])).startswith("No scores yet. evaluation.metrics")
    assert "No scores yet" in Scores([{"event": "log"}])._repr_html_()
    assert not Scores([])


def test_shown():
    assert shown("exact_match", 0.5, 3) == "50% (2 of 3)"
    assert shown("perplexity", math.inf, 3) == "infinite"


def test_charts_hold_scores_of_one_scale():
    assert chart_groups([]) == []
    assert chart_groups(["perplexity"]) == [("perplexity", ["perplexity"])]


def test_counted_rows_are_said_with_how_sure_the_share_is():
    events = [event(0, {"exact_match": 2 / 48}, rows=48), event(60, {"exact_match": 0.5}, rows=48)]
    assert Scores(events).sentences == [
        "On 48 held-out rows exact match improved.",
        (
            "Exact match: 2 of 48 held-out rows before training, 24 after step 60. On more rows like "
            "these, expect 36% to 64% (95% confidence interval)."
        ),
    ]


def test_of_scores_that_count_no_rows_no_interval_is_said():
    assert len(Scores([event(0, {"rougeL": 0.1}), event(9, {"rougeL": 0.3})]).sentences) == 1
    assert Scores([event(0, {"exact_match": 0.5})]).sentences == []


@pytest.mark.parametrize(("hits", "rows"), [(0, 1), (1, 1), (0, 64), (64, 64), (3, 64)])
def test_the_interval_holds_the_measured_share_and_stays_within_all_rows(hits, rows):
    low, high = confidence_interval(hits, rows)
    assert 0 <= low <= hits / rows <= high <= 1
    assert low < high


def test_each_count_keeps_the_number_of_rows_that_it_was_measured_on():
    scores = Scores(
        [event(0, {"exact_match": 0.5}, rows=64), event(9, {"exact_match": 0.75}, rows=32)]
    )
    assert str(scores).splitlines()[1].split("  ") == [
        "exact match",
        "50% (32 of 64)",
        "75% (24 of 32)",
        "not comparable",
    ]
    (counted,) = scores.sentences
    assert counted.startswith(
        "Exact match: 32 of 64 held-out rows before training, 24 of 32 after step 9. "
    )


def test_where_the_verdict_is_refused_no_difference_is_said():
    answers = [event(0, {"rougeL": 0.1}), event(9, {"rougeL": 0.5}, max_new_tokens=8)]
    assert "+" not in str(Scores(answers))
    assert "not comparable" in Scores(answers)._repr_html_()
    assert "comparable" not in str(Scores([event(0, {"mine": math.nan}), event(9, {"mine": 1.0})]))
