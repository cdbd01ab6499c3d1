"""Scores of whole runs: what they say, and that the training does not notice them."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

import nbft
from nbft import events
from nbft.evaluate.timeline import Timeline
from nbft.launchers.kernel import LAUNCHER as KERNEL
from nbft.launchers.kernel import join

from .conftest import losses

REAL_ROWS = Path(__file__).parents[3] / "shared" / "data"

EVERYTHING = {
    "evaluation__metrics": ["rouge", "exact_match", "perplexity"],
    "evaluation__score_rows": 3,
    "evaluation__score_max_new_tokens": 6,
    "evaluation__score_every_n_steps": 2,
}


def scores_of(run, split="validation"):
    return [e for e in run.events() if e["event"] == "scores" and e["split"] == split]


@pytest.fixture
def own_function(tmp_path):
    def write(code):
        file = tmp_path / "mine.py"
        file.write_text(code)
        return f"{file}:score"

    return write


# Dropout draws from torch's random numbers in every step, shuffling between the epochs.
DRAWS = {
    "peft__lora_dropout": 0.3,
    "training__per_device_train_batch_size": 8,
    "training__max_steps": 8,
}


def test_the_training_does_not_notice_that_it_is_scored(train, own_function):
    function = own_function(
        "import random, numpy, torch\n"
        "def score(answers, references, rows):\n"
        "    return random.random() + numpy.random.rand() + torch.rand(1).item()\n"
    )
    drawn = {"evaluation__do_sample": True, "evaluation__temperature": 0.9}
    scored = train(**DRAWS, **EVERYTHING, **drawn, evaluation__metric_function=function)
    alone = train(**DRAWS)
    assert scored.status == "completed", scored.problems
    assert [e["step"] for e in scores_of(scored)] == [0, 2, 4, 6, 8]
    assert losses(scored) == pytest.approx(losses(alone), abs=1e-6)
    assert len(losses(scored)) == 8


def test_a_run_that_goes_on_scores_as_if_it_had_never_stopped(train, make_config):
    settings = {**DRAWS, **EVERYTHING, "training__max_steps": 8}
    whole = train(**settings)
    first = train(**settings, checkpoint__save_steps=3, checkpoint__save_total_limit=None)
    for step in (6, 8):  # as if it had been killed after step 5
        for file in (first.path / "checkpoints" / f"checkpoint-{step}").glob("whole.json"):
            file.unlink()
    found = [e for e in first.events() if e["event"] not in ("completed", "scores", "sample")]
    base = [e for e in first.events() if e["event"] in ("scores", "sample") and not e["step"]]
    first.events_path.write_text("".join(json.dumps(e) + "\n" for e in [*base, *found]))
    KERNEL.start(first)
    join(first)
    assert first.status == "completed", first.problems
    again = [e for e in events.current(first.events()) if e["event"] == "scores"]
    assert [e["step"] for e in again] == [0, 4, 6, 8]  # the base model was not asked again
    assert again[-1]["scores"] == pytest.approx(scores_of(whole)[-1]["scores"], rel=1e-5)
    assert again[-1]["verdicts"] == scores_of(whole)[-1]["verdicts"]


@pytest.fixture
def train_on_real_rows(make_config):
    """Return a function that trains on some rows of a real file; the test is left out without it."""

    def run(name, rows, prompt, completion, **changes):
        file = REAL_ROWS / name
        if not file.is_file():
            pytest.skip("the real rows are not here")
        config = make_config(**changes)
        lines = file.read_text(encoding="utf-8").splitlines()
        dataset = config.data.train.datasets[0]
        dataset.rows = [json.loads(line) for line in lines[:rows]]
        dataset.prompt_template, dataset.completion_template = prompt, completion
        done = nbft.train(config, show=False)
        join(done)
        assert done.status == "completed", done.problems
        return done

    return run


def test_real_questions_are_scored_by_their_final_number(train_on_real_rows):
    """With the tiny model, which answers nonsense: none is right, and the report says so."""
    run = train_on_real_rows(
        "gsm8k.jsonl",
        60,
        "Question: {question}\nAnswer:\n",
        "{answer}",
        data__test={"dataset_name": "gsm8k", "split": "test", "sample_count": 4},
        data__max_length=512,
        evaluation__metrics=["exact_match", "format", "perplexity"],
        evaluation__score_rows=4,
        evaluation__score_max_new_tokens=12,
    )
    assert [e["step"] for e in scores_of(run)] == [0, 6]
    assert [e["step"] for e in scores_of(run, "test")] == [0, 6]
    last = scores_of(run)[-1]
    assert last["form"] == "ends in #### and a number"
    assert last["verdicts"]["exact_match"] == "the same"
    page = run.report().read_text(encoding="utf-8")
    for words in (
        "Scores before and after",
        "exact match and format did not improve",
        "4 test rows",
        "0% (0 of 4)",
    ):
        assert words in page


def test_real_summaries_are_scored_by_rouge(train_on_real_rows):
    run = train_on_real_rows(
        "dialogsum.jsonl",
        40,
        "{dialogue}\nSummary:\n",
        "{summary}",
        data__max_length=1024,
        evaluation__metrics=["rouge"],
        evaluation__score_rows=2,
        evaluation__score_max_new_tokens=8,
        training__max_steps=2,
    )
    assert list(scores_of(run)[-1]["scores"]) == ["rouge1", "rouge2", "rougeL"]


def test_perplexity_agrees_with_the_held_out_loss(train):
    """Both read the same held-out rows: one batch, so that the loss is the mean of its tokens."""
    run = train(evaluation__metrics=["perplexity"], evaluation__score_rows=100)
    evals = {e["step"]: e["eval_loss"] for e in run.events() if e["event"] == "eval"}
    scores = {e["step"]: e["scores"]["perplexity"] for e in scores_of(run)}
    assert scores.keys() == evals.keys() == {0, 6}
    for step, loss in evals.items():
        assert scores[step] == pytest.approx(math.exp(loss), rel=1e-3)


def test_the_same_prompts_are_answered_whenever_the_run_is_scored(train):
    run = train(**EVERYTHING)
    assert Timeline(run.events()).steps == [0, 2, 4, 6]
    assert "The same prompts over the steps" in run.report().read_text(encoding="utf-8")
    alone = train(evaluation__score_every_n_steps=3)
    assert Timeline(alone.events()).steps == [0, 3, 6]
    assert scores_of(alone) == []


def test_a_run_without_metrics_scores_nothing(train):
    run = train()
    assert not run.scores()
    assert Timeline(run.events()).steps == [0, 6]
    assert "Scores before" not in run.report().read_text(encoding="utf-8")


def test_a_score_decides_which_checkpoint_is_kept(train, own_function):
    """A score that falls from step to step: the first checkpoint is the best, and is kept."""
    function = own_function(
        "calls = []\n"
        "def score(answers, references, rows):\n"
        "    calls.append(1)\n"
        "    return {'early': 1 / len(calls)}\n"
    )
    run = train(
        evaluation__metric_function=function,
        evaluation__eval_strategy="steps",
        evaluation__eval_steps=2,
        evaluation__score_max_new_tokens=4,
        checkpoint__save_steps=2,
        checkpoint__load_best_model_at_end=True,
        checkpoint__metric_for_best_model="early",
    )
    assert run.status == "completed", run.problems
    steps = [e["step"] for e in scores_of(run)]
    assert steps == [0, 2, 4, 6, 2]  # at the end the model that is kept, once more
    assert run.scores()[0]["step"] == 2


def test_a_function_that_fails_ends_the_run_before_it_trains(train, own_function):
    run = train(evaluation__metric_function=own_function("def score(*_): return 1 / 0\n"))
    assert run.status == "failed"
    assert run.problems[0].startswith("evaluation.metric_function=")
    assert "failed with ZeroDivisionError" in run.problems[0]
    assert losses(run) == []


def test_a_function_that_fails_later_costs_the_score_and_not_the_run(train, own_function):
    function = own_function(
        "calls = []\n"
        "def score(answers, references, rows):\n"
        "    calls.append(1)\n"
        "    return 1 / (len(calls) - 2)\n"
    )
    run = train(**EVERYTHING, evaluation__metric_function=function)
    assert run.status == "completed"
    assert [e["step"] for e in scores_of(run)] == [0, 4, 6]
    (warning,) = [e for e in run.events() if e["event"] == "warning"]
    assert warning["text"].startswith("Not scored at step 2. evaluation.metric_function=")


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_run_that_is_over_is_scored_on_request(train, method):
    run = train(peft__method=method, **EVERYTHING)
    again = run.evaluate()
    assert [one["score"] for one in again] == [one["score"] for one in run.scores()]
    for one, before in zip(again, run.scores(), strict=True):
        assert one["base"] == pytest.approx(before["base"], rel=1e-5)
        assert one["last"] == pytest.approx(before["last"], rel=1e-4)
    few = run.evaluate(metrics=["perplexity"], rows=2)
    assert [(one["score"], one["rows"]) for one in few] == [("perplexity", 2)]
    run.close()


def test_what_cannot_be_scored_is_a_sentence(train):
    run = train(training__max_steps=1)
    with pytest.raises(nbft.RunError, match=r"has no test rows. Name some in data\.test\."):
        run.evaluate("test")
    with pytest.raises(nbft.RunError, match="is not one of validation, test"):
        run.evaluate("train")
    with pytest.raises(nbft.ConfigError, match="'bleu': is not one of rouge"):
        run.evaluate(metrics=["bleu"])
    assert [one["score"] for one in run.evaluate()] == ["perplexity"]
    run.close()


def test_the_command_line_scores_a_run(train):
    run = train(training__max_steps=1)
    from typer.testing import CliRunner

    from nbft.cli import app

    done = CliRunner().invoke(app, ["evaluate", str(run.path), "--metric", "perplexity"])
    assert done.exit_code == 0, done.output
    assert "base model" in done.output
    assert "perplexity" in done.output
    refused = CliRunner().invoke(app, ["evaluate", str(run.path), "--split", "test"])
    assert refused.exit_code == 2
