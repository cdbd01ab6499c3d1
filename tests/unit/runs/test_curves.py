import math

from nbft.charts import moving_average
from nbft.runs.curves import draw_curves, draw_scores, in_words, scores_in_words
from nbft.runs.state import RunState

LOGS = [
    {"event": "log", "step": n, "loss": 4.0 / n, "learning_rate": 1e-4 * n} for n in range(1, 6)
]
EVALS = [
    {"event": "eval", "step": 0, "eval_loss": 3.5},
    {"event": "eval", "step": 5, "eval_loss": 1.25},
]


def test_a_constant_is_smooth_from_its_first_point():
    assert moving_average([2.0, 2.0, 2.0]) == [2.0, 2.0, 2.0]


def test_smoothing_by_hand():
    # the neighbour weighs 0.8
    first, second = moving_average([1.0, 2.0])
    assert math.isclose(first, (1 + 0.8 * 2) / 1.8, rel_tol=1e-9)
    assert math.isclose(second, (2 + 0.8 * 1) / 1.8, rel_tol=1e-9)


def test_smoothing_has_no_direction():
    values = [0.5, 2.1, 1.9, 2.0, 1.7, 1.6, 1.2, 1.3, 1.1]
    assert moving_average(values[::-1]) == moving_average(values)[::-1]


def test_an_easy_first_batch_does_not_make_the_loss_rise():
    easy_first = moving_average([1.0, 2.0, 1.95, 1.9, 1.85, 1.8, 1.75, 1.7, 1.65, 1.6])
    assert easy_first[0] > 1.6
    assert easy_first[-1] < easy_first[0] + 0.1


def test_gaps_are_passed_over():
    out = moving_average([math.nan, 2.0, math.inf, 2.0])
    assert math.isnan(out[0])
    assert math.isnan(out[2])
    assert out[1::2] == [2.0, 2.0]
    assert moving_average([]) == []


def test_the_lines_are_the_events():
    figure = draw_curves(
        RunState([*LOGS, *EVALS, {"event": "log", "step": 6}]), title="kind-otter-14"
    )
    left, right = figure.axes
    assert list(left.lines[0].get_xydata()[:, 1]) == [e["loss"] for e in LOGS]
    assert list(left.lines[1].get_ydata()) == moving_average([e["loss"] for e in LOGS])
    legend = [text.get_text() for text in left.get_legend().get_texts()]
    assert legend == ["loss of each step", "loss, smoothed", "held-out loss"]
    assert [list(p) for p in left.lines[2].get_xydata()] == [[0, 3.5], [5, 1.25]]
    assert list(right.lines[0].get_xydata()[:, 1]) == [e["learning_rate"] for e in LOGS]
    assert figure.get_suptitle() == "kind-otter-14"


def test_nothing_to_draw_is_an_empty_picture(tmp_path):
    draw_curves(RunState()).savefig(tmp_path / "empty.png")
    assert (tmp_path / "empty.png").stat().st_size > 0


def test_what_the_curves_show_in_words():
    assert in_words(RunState()) == "No step has been logged yet."
    assert in_words(RunState(LOGS + EVALS)) == (
        "Training loss over 5 steps: 4 at step 1, 0.8 at step 5. Held-out loss: 3.500 before, 1.250 "
        "after. Learning rate: at most 0.0005, 0.0005 at the end."
    )
    late = [{**EVALS[0], "step": 2}, EVALS[1]]
    assert "Held-out loss: 3.500 before, 1.250 at the end." in in_words(RunState(LOGS + late))


def test_a_loss_that_is_no_number_is_drawn_and_said():
    broken = RunState([{"event": "log", "step": 1, "loss": math.nan}])
    draw_curves(broken)
    assert "nan at step 1" in in_words(broken)


def scores(step, **values):
    return {"event": "scores", "step": step, "split": "validation", "rows": 4, "scores": values}


SCORES = [
    scores(0, rougeL=0.1, exact_match=0.0, perplexity=30.0),
    scores(5, rougeL=0.3, exact_match=0.5, perplexity=10.0),
]


def test_scores_of_one_scale_share_a_chart():
    left, right = draw_scores(RunState(SCORES)).axes
    assert [line.get_label() for line in left.lines] == ["ROUGE-L", "exact match"]
    assert list(left.lines[0].get_xdata()) == [0, 5]
    assert list(right.lines[0].get_ydata()) == [30.0, 10.0]
    assert scores_in_words(RunState(SCORES)).startswith(
        "ROUGE-L: 0.100 at step 0, 0.300 at step 5; exact"
    )


def test_one_measurement_is_no_curve():
    assert draw_scores(RunState(SCORES[:1])) is None
    assert draw_scores(RunState()) is None
