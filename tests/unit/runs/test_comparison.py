"""`nbft.compare` on runs whose events are written by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import nbft
from nbft import events
from nbft.errors import ConfigError, RunError
from nbft.evaluate.scores import confidence_interval


@pytest.fixture
def make(tiny_model: Path, tmp_path: Path) -> Any:
    def make_run(name: str, right: int = 8, answer: str = "Hi.", **changes: Any) -> nbft.Run:
        config = nbft.Config(
            model={"model_name": str(tiny_model)},
            data={"rows": [{"prompt": "a", "completion": "b"}] * 20},
            training={"output_dir": str(tmp_path / "runs"), "run_name": name},
        )
        run = nbft.Run.create(config.apply(changes))
        for step in (1, 2):
            events.append(run.events_path, "log", step=step, loss=3.0 - step, learning_rate=1e-4)
        events.append(run.events_path, "eval", step=2, eval_loss=1.5)
        values = {"exact_match": [1] * right + [0] * (16 - right), "rougeL": [0.2, 0.4] * 8}
        scores = {"exact_match": right / 16, "rougeL": 0.3, "perplexity": 7.0}
        same = {"split": "validation", "rows": 16, "max_new_tokens": 8, "values": values}
        events.append(run.events_path, "scores", step=0, scores=scores, **same)
        events.append(run.events_path, "scores", step=2, scores=scores, **same)
        for step, text in ((0, "No."), (2, answer)):
            samples = [
                {"prompt": "Say hi.", "text": text, "wanted": "Hi."},
                {"prompt": "Say no.", "text": "No."},
            ]
            events.append(run.events_path, "sample", step=step, samples=samples)
        return run

    return make_run


def test_what_differs_between_runs_is_shown(make: Any) -> None:
    first = make("first")
    second = make("second", 16, "Hello.", **{"training.learning_rate": 5e-5, "peft.r": 8})
    both = nbft.compare(first, second)
    assert both.names == ["first", "second"]
    assert both.settings.pop("data.train.datasets[0].path")  # rows in memory, in each own folder
    assert both.settings == {"training.learning_rate": [2e-4, 5e-5], "peft.r": [16, 8]}
    assert both.losses == [["first", 1.0, 1.5], ["second", 1.0, 1.5]]
    assert both.prompts == 2
    (answered,) = both.answered
    assert (answered.prompt, answered.wanted, answered.texts) == (
        *("Say hi.", "Hi.", ("Hi.", "Hello.")),
    )
    page = both._repr_html_()
    for words in ("Settings that differ", "peft.r", "Hello.", "data:image/png;base64,"):
        assert words in page
    text = str(both)
    assert "1 of 2 prompts in common are answered differently." in text
    assert "training.learning_rate  0.0002  5e-05" in text
    axes = both.figure().axes[0]
    legend = [text.get_text() for text in both.figure().axes[0].get_legend().get_texts()]
    assert legend == ["first, smoothed", "second, smoothed", "held-out loss"]
    assert [line.get_color() for line in axes.lines] == ["#1f83c9"] * 3 + ["#d55e00"] * 3


def test_scores_have_their_uncertainty(make: Any) -> None:
    both = nbft.compare(make("first", 8), make("second", 16), make("third", 9))
    by_label = {one.label: one.runs for one in both.scores}
    first, second, third = by_label["exact match"]
    assert (first.low, first.high) == confidence_interval(8, 16)
    assert (first.verdict, second.verdict) == ("", "better")
    assert third.verdict == "better, may be chance"
    rouge = by_label["ROUGE-L"][0]
    # The mean of 0.2 and 0.4, eight times each: their standard deviation is 0.1033, its error a
    # quarter of that.
    assert (round(rouge.low, 4), round(rouge.high, 4)) == (0.2494, 0.3506)
    assert by_label["perplexity"][0].low is None, "it is no mean of its rows"
    assert "50% (8 of 16), 28% to 72%" in str(both)
    assert "100% (16 of 16), 81% to 100%; better" in str(both)


def test_scores_on_other_rows_get_no_verdict(make: Any) -> None:
    other = make("other", 16, **{"training.seed": 7})
    (score, *_) = nbft.compare(make("first", 8), other).scores
    assert [one.verdict for one in score.runs] == ["", ""]


def test_runs_without_anything_to_compare_say_so(make: Any, tiny_model: Path) -> None:
    first = make("first")
    second = nbft.Run.create(first.config.apply({"training.run_name": "second"}))
    both = nbft.compare(first, second)
    assert both.losses[1] == ["second", None, None]
    assert both.scores[0].runs[1] is None
    text = str(both)
    assert "The runs have answered no prompt in common." in text
    assert "not scored" in text
    assert "unknown" in text
    assert both._repr_html_()


def test_the_same_settings_say_so(make: Any) -> None:
    first, second = make("first"), make("second")
    # Rows in memory are written to each run's own folder, which is no difference that matters.
    second_config = second.config.apply(
        {"data.train.datasets[0].path": first.config.data.train.datasets[0].path}
    )
    second_config.save(second.path / "config.yaml", full=True)
    assert "No setting differs." in str(nbft.compare(first, second))


def test_runs_are_found_by_name_and_a_mistake_is_one_sentence(make: Any, tmp_path: Path) -> None:
    first = make("first")
    make("second")
    folder = tmp_path / "runs"
    assert nbft.compare("first", folder / "second", folder=folder).names == ["first", "second"]
    with pytest.raises(RunError, match=r"Did you mean second\?"):
        nbft.compare(first, "secund", folder=folder)
    for runs in ((), (first,), (first, first)):
        with pytest.raises(ConfigError, match=r"runs: names .* Name two to 6 different runs\."):
            nbft.compare(*runs)
