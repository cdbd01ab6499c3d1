"""A score, a measure, a run or a model may have any name."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from nbft import events
from nbft.charts import ChartSpec, Curve, drawn, other_charts, png
from nbft.cli import app
from nbft.config import Config, io
from nbft.evaluate.scores import Scores
from nbft.formatting import one_line
from nbft.pages.report import write_report
from nbft.runs import Run
from nbft.runs.curves import draw_curves, draw_scores
from nbft.server import answers, roots
from nbft.widgets.chart import Chart
from nbft.widgets.monitor import Monitor

NAMES = [
    "$",
    "a $ b",
    "$x$",
    r"$\frac{1}{0}$",
    r"\$x$ $\undefined$",
    "_private",
    "100 % {x} {{ y }} {% raw %}",
    "<script>alert(1)</script>",
    "two\nlines\r\nand\ttabs",
    "very long " * 30,
    "x" * 300,
    "\U0001f642 \U0001f469\u200d\U0001f52c emoji",
    "\u202eright to left\u202c \u05e9\u05dc\u05d5\u05dd",
    "\x00\x07\x1b[31mcontrol",
    "a: b # c",
    "'\"`*_|",
    "/",
    "a/b/c",
    " ",
    "loss ",
    "x",
    "self",
    "password",
    "token",
]


@pytest.fixture(params=NAMES, ids=ascii)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def run(name: str, tmp_path: Path) -> Run:
    path = tmp_path / "runs" / "kind-otter-1"
    path.mkdir(parents=True)
    config = Config(model={"model_name": name}, data={"dataset_name": name})
    config.save(path / "config.yaml", full=True)
    say = lambda kind, **fields: events.append(path / "events.jsonl", kind, **fields)  # noqa: E731
    say("started", versions={name: name}, seed=1)
    declared = [{"name": "measure", "label": name, "chart": name, "better": "high"}]
    say("prepared", rows=2, eval_rows=1, total_steps=2, measures=declared)
    for step in (0, 1, 2):
        say("scores", step=step, rows=2, scores={name: step / 2, "rougeL": 0.5})
        fields: dict[str, Any] = {name: step, "measure": 0.5, f"rewards/{name}": 1.0}
        say("log", step=step, loss=1.0, learning_rate=1e-4, **fields)
        say("note", step=step, text=f"Look at {name}.")
    say("completed", step=2, seconds=1.0)
    return Run(path)


@pytest.fixture(autouse=True)
def no_warnings() -> Any:
    """Not even a warning of matplotlib's: it would stand in the notebook."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        warnings.filterwarnings("ignore", category=PendingDeprecationWarning)
        yield


def test_pictures_are_drawn(run: Run, name: str) -> None:
    assert png(draw_curves(run.state, title=name), dpi=20)
    figure = draw_scores(run.state)
    assert figure is not None
    assert png(figure, dpi=20)
    labels = {text.get_text() for axes in figure.axes for text in axes.texts} | {
        axes.get_title() for axes in figure.axes
    }
    assert drawn(name) in labels
    assert [chart.title for chart in other_charts(run.state.curves, run.state.measures)]


def test_the_legend_names_every_score(name: str) -> None:
    label = drawn(name)
    if label.strip():
        assert not label.startswith("_")
        assert label.count("$") == label.count(r"\$")


def test_pages_tables_and_widgets_show_it(run: Run, name: str) -> None:
    page = write_report(run.path).read_text(encoding="utf-8")
    assert "<script>alert" not in page
    scores = Scores(run.state.scored)
    assert len(str(scores).splitlines()) == 3  # a heading, and a row for each score
    monitor = Monitor(run, interactive=False)
    monitor.update()
    assert "<script>alert" not in monitor._outcome()["text/html"]
    assert "<script>alert" not in monitor._built._score_table.value


def test_the_panel_gets_it(run: Run, tmp_path: Path) -> None:
    nbft = roots.Nbft(root_dir=str(tmp_path))
    (run_id,) = nbft.runs()
    state = answers.state(nbft, run_id, "")
    for chart in [*state["charts"], *state["scores"]["charts"]]:
        for text in (chart["title"], *(series["label"] for series in chart["series"])):
            assert text == one_line(text)
    json.dumps([state, answers.details(nbft, run_id), answers.events(nbft, run_id, 0)])


def test_the_command_line_prints_one_line(run: Run) -> None:
    done = CliRunner().invoke(app, ["runs", "--folder", str(run.path.parent)])
    assert done.exit_code == 0
    assert len(done.stdout.splitlines()) == 1
    assert "\x1b" not in done.stdout
    done = CliRunner().invoke(app, ["attach", str(run.path)])
    assert done.exit_code == 0


def test_comments_of_yaml_stay_comments(name: str) -> None:
    text = io.dump_yaml({"a": 1, "b": 2}, {"a": f"because of {name}"})
    assert io.parse_yaml(text, "x") == {"a": 1, "b": 2}


def test_a_chart_takes_any_label() -> None:
    for label in NAMES:
        spec = ChartSpec(label, (Curve("x", label),))
        chart = Chart(spec.curves, title=spec.title, x_label=label, y_label=label)
        chart.append(1, x=0.5)
        chart.mark(1, label)
        assert png(chart.figure(), dpi=20)
        chart.close()
