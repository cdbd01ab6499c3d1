import pytest

from nbft.config import Config
from nbft.data.formats import Example
from nbft.evaluate.forecast import (
    answer_tokens,
    best_by_score,
    metrics_of,
    reference_of,
    sampling_seconds,
    scored_steps,
    scoring_problems,
    scoring_remark,
    scoring_seconds,
)
from nbft.plan import make_plan

HELD_OUT = [Example("Add.", "2 + 2 = 4\n#### 4"), Example("Add.", "#### 5")]


def config(name="gsm8k", checkpoint=None, **evaluation):
    return Config(data={"dataset_name": name}, evaluation=evaluation, checkpoint=checkpoint or {})


def problems(held_out=HELD_OUT, **given):
    return scoring_problems(config(**given), held_out)


@pytest.mark.parametrize(
    ("name", "metrics"),
    [
        ("samsum", ("rouge",)),
        ("gsm8k", ("exact_match", "format")),
        ("grammar", ("exact_match",)),
        ("alpaca", ("perplexity",)),
        ("someone/else", ()),
    ],
)
def test_a_ready_dataset_names_its_own_metrics(name, metrics):
    assert metrics_of(config(name)) == metrics
    assert metrics_of(config(name, metrics=[])) == ()
    assert metrics_of(config(name, metrics=["perplexity"])) == ("perplexity",)


def test_rows_of_ones_own_have_no_metrics_of_their_own():
    assert metrics_of(Config(data={"path": "gsm8k.jsonl", "dataset_name": "gsm8k"})) == ()
    assert metrics_of(Config()) == ()


def test_the_held_out_rows_decide_and_all_of_them():
    mixed = {"train": {"dataset_name": "alpaca"}, "validation": {"dataset_name": "samsum"}}
    assert metrics_of(Config(data=mixed)) == ("rouge",)
    both = {"train": {"datasets": [{"dataset_name": "gsm8k"}, {"dataset_name": "grammar"}]}}
    assert metrics_of(Config(data=both)) == ("exact_match",)


def test_a_pattern_asks_for_the_format():
    assert metrics_of(config("samsum", format_pattern="x")) == ("rouge", "format")
    assert metrics_of(config("gsm8k", format_pattern="x")) == ("exact_match", "format")


@pytest.mark.parametrize(
    ("given", "steps"),
    [
        ({}, [0, 20, 40, 60]),
        ({"eval_strategy": "no"}, [0, 60]),
        ({"eval_strategy": "steps", "eval_steps": 25}, [0, 25, 50, 60]),
        ({"score_every_n_steps": 50}, [0, 50, 60]),
        ({"metrics": []}, []),
        ({"metrics": [], "score_every_n_steps": 30}, [0, 30, 60]),
        ({"metrics": [], "metric_function": "a:b", "eval_strategy": "no"}, [0, 60]),
    ],
)
def test_when_a_run_is_scored(given, steps):
    assert scored_steps(config(**given), 60, 20) == steps


def test_the_remark_says_what_and_how_often():
    (remark,) = scoring_remark(config(), HELD_OUT, [0, 20, 40])
    assert remark == (
        "Scores: exact match, format of 2 held-out rows, 3 times: before step 1, once on the way "
        "and after step 40."
    )
    (between,) = scoring_remark(config(), HELD_OUT, [0, 40])
    assert between.endswith("2 times: before step 1, never on the way and after step 40.")
    assert scoring_remark(config(metrics=[]), HELD_OUT, [0, 40]) == []
    assert scoring_remark(config(), [], [0, 40]) == []


WEIGHT_BYTES = 270e6


def test_the_forecast_of_the_scores_grows_with_the_work():
    def seconds(**given):
        return scoring_seconds(config(**given), WEIGHT_BYTES, 64)

    # 67.5 ms a token: 2 batches of 16 rows with 64 new tokens each, and 32 prompts
    assert seconds(score_rows=32) == pytest.approx((2 * 64 + 32 / 2) * 0.0675)
    assert seconds(metrics=["perplexity"], score_rows=16) < seconds(score_rows=16)
    assert seconds(metrics=[]) == 0


def test_the_forecast_of_the_samples_grows_with_the_work():
    def seconds(**given):
        return sampling_seconds(config(**given), WEIGHT_BYTES)

    # up to 8 prompts are answered at a time
    assert seconds(sample_max_new_tokens=40) == pytest.approx(40 * 0.0675)
    assert seconds(sample_count=9) == pytest.approx(2 * 64 * 0.0675)
    assert seconds(sample_prompts=["Hi."], sample_count=9) == pytest.approx(64 * 0.0675)


def test_the_longest_answer_is_estimated_by_the_references():
    assert answer_tokens(config(), HELD_OUT) == len("2 + 2 = 4\n#### 4") // 4 + 1
    assert answer_tokens(config(score_max_new_tokens=7), HELD_OUT) == 7
    assert answer_tokens(config(), []) == 1


def test_the_plan_says_it(tmp_path):
    plan = make_plan(config("samsum"))
    assert any(remark.startswith("Scores: ROUGE-1, ROUGE-2, ROUGE-L") for remark in plan.remarks)
    assert not any("Scores" in remark for remark in make_plan(config("samsum", metrics=[])).remarks)


def test_sampling_settings_without_sampling():
    (found,) = problems(temperature=0.7)
    assert str(found) == (
        "evaluation.temperature=0.7: applies only when tokens are drawn, and evaluation.do_sample is "
        "false. Turn do_sample on, or leave this empty."
    )
    assert found.changes == {"evaluation.do_sample": True}
    assert [p.field for p in problems(top_p=0.5)] == ["evaluation.top_p"]
    assert problems(temperature=0.7, top_p=0.5, do_sample=True) == []


def test_a_pattern_that_nobody_asks_for():
    (found,) = problems(metrics=["rouge"], format_pattern="x")
    assert found.changes == {"evaluation.metrics": ["rouge", "format"]}
    assert problems(metrics=["format"], format_pattern="x") == []


def test_references_without_a_form():
    mixed = [Example("p", "a"), Example("p", "b\nc")]
    (found,) = problems(mixed, metrics=["rouge", "format"])
    assert (found.level, found.changes) == ("warning", {"evaluation.metrics": ["rouge"]})
    assert problems(mixed, metrics=["format"], format_pattern="x") == []


def test_nothing_held_out():
    (found,) = problems([], metrics=["rouge"])
    assert "none are held out" in str(found)
    assert found.changes == {"data.split_ratio": 0.9}
    assert problems([]) == []  # nobody asked
    assert problems(None, metrics=["rouge"]) == []  # could not be read: that is said elsewhere


def test_nothing_to_do_on_the_way():
    (found,) = problems(metrics=[], score_every_n_steps=5, sample_count=0)
    assert found.changes == {"evaluation.score_every_n_steps": None}
    assert problems(metrics=[], score_every_n_steps=5) == []  # the answers


def test_a_function_that_is_not_there(tmp_path):
    (tmp_path / "mine.py").write_text("def score(answers, references, rows): return 1\n")
    given = config(metric_function="mine:score")
    assert scoring_problems(given, HELD_OUT, folder=tmp_path) == []
    (found,) = scoring_problems(config(metric_function="mine:scor"), HELD_OUT, folder=tmp_path)
    assert "Did you mean score?" in str(found)
    assert found.field == "evaluation.metric_function"


BEST = {"load_best_model_at_end": True, "save_strategy": "epoch"}


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("eval_loss", None),
        ("loss", None),
        ("eval_exact_match", None),
        ("format", None),
        ("rougeL", {"evaluation.metrics": ["exact_match", "format", "rouge"]}),
        ("eval_blue", {"checkpoint.metric_for_best_model": "eval_loss"}),
    ],
)
def test_the_score_that_decides_is_measured(name, changes):
    found = problems(checkpoint={**BEST, "metric_for_best_model": name})
    assert [p.changes for p in found] == ([changes] if changes else [])
    assert problems(checkpoint={"metric_for_best_model": name}) == []  # nothing goes by it


def test_the_score_that_decides_goes_the_right_way():
    best = {**BEST, "metric_for_best_model": "perplexity"}
    (found,) = problems(checkpoint=best, metrics=["perplexity"])
    assert found.changes == {"checkpoint.greater_is_better": False}
    assert problems(checkpoint={**best, "greater_is_better": False}, metrics=["perplexity"]) == []
    wrong = {**BEST, "metric_for_best_model": "format", "greater_is_better": False}
    assert [p.changes for p in problems(checkpoint=wrong)] == [
        {"checkpoint.greater_is_better": True}
    ]


def test_what_decides():
    assert not best_by_score(config())
    assert not best_by_score(config(checkpoint=BEST))
    assert best_by_score(config(checkpoint={**BEST, "metric_for_best_model": "eval_rougeL"}))
    early = Config(
        callbacks={"early_stopping_patience": 2}, checkpoint={"metric_for_best_model": "rouge1"}
    )
    assert best_by_score(early)


def test_the_wanted_answer():
    turns = [("user", "Hi"), ("assistant", " Hello. "), ("user", "Bye"), ("assistant", "Bye.")]
    chat = Example(messages=tuple({"role": r, "content": c} for r, c in turns))
    assert reference_of(chat) == "Hello."
