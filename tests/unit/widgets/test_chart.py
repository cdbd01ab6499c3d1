from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nbft.charts import PALETTE, RAW_ALPHA, moving_average
from nbft.widgets.chart import Chart, Series


class FrontEnd:
    """What a page would hold of a chart, by the protocol; and every message it was sent."""

    def __init__(self, chart: Chart) -> None:
        self.chart = chart
        self.rows = np.empty((1 + len(chart.series), 0))
        self.messages: list[dict[str, Any]] = []
        self.sent_bytes = 0
        chart.send = self.receive

    def receive(self, message: dict[str, Any], buffers: list[np.ndarray]) -> None:
        self.messages.append(message)
        self.sent_bytes += sum(buffer.nbytes for buffer in buffers) + len(str(message))
        start, rows = message["start"], message["rows"]
        if start <= self.rows.shape[1]:
            new = np.frombuffer(buffers[0]).reshape(len(self.rows), rows)
            self.rows = np.concatenate([self.rows[:, :start], new], axis=1)

    def ask(self, have: int | None = None) -> None:
        have = self.rows.shape[1] if have is None else have
        self.chart._handle_custom_msg({"type": "resync", "have": have}, [])


@pytest.fixture
def chart() -> Chart:
    return Chart([Series("loss", smooth=True), Series("eval_loss", "held-out loss", style="marks")])


@pytest.fixture
def front_end(chart: Chart) -> FrontEnd:
    return FrontEnd(chart)


def test_sends_nothing_before_a_front_end_is_there(chart: Chart, front_end: FrontEnd) -> None:
    chart.append(1, loss=2.0)
    chart.flush()
    assert front_end.messages == []
    front_end.ask()
    assert front_end.rows[:2].tolist() == [[1.0], [2.0]]


def test_sends_only_what_is_new(chart: Chart, front_end: FrontEnd) -> None:
    front_end.ask()
    for step in range(1, 21):
        chart.append(step, loss=1 / step)
        if step % 10 == 0:
            chart.flush()
    chart.flush()  # nothing new: nothing sent
    assert [(m["start"], m["rows"]) for m in front_end.messages] == [(0, 0), (0, 10), (10, 10)]
    assert front_end.messages[-1]["summary"] == chart.summary()
    assert front_end.rows[0].tolist() == list(range(1, 21))
    assert np.isnan(front_end.rows[2]).all()


def test_answers_with_the_rest(chart: Chart, front_end: FrontEnd) -> None:
    for step in range(50):
        chart.append(step, loss=1.0)
    front_end.ask()
    front_end.ask(have=30)
    assert front_end.messages[-1]["start"] == 30
    assert front_end.messages[-1]["rows"] == 20
    front_end.ask(have=999)  # a page that outlived another chart's rows
    assert front_end.messages[-1]["start"] == 50
    assert front_end.rows.shape == (3, 50)


def test_shows_all_to_a_front_end_that_a_busy_cell_keeps_silent(
    chart: Chart, front_end: FrontEnd, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: clock)
    wholes = []
    for step in range(300):
        chart.append(step, loss=1.0)
        chart.flush()
        if front_end.messages and front_end.messages[-1]["start"] == 0:
            wholes.append(round(clock - 100))
        clock += 0.1
    assert sorted(set(wholes)) == [1, 3, 7, 15]  # doubling
    assert front_end.rows.shape == (3, 300)


def test_same_x_adds_to_the_point_and_smaller_x_goes_back(
    chart: Chart, front_end: FrontEnd
) -> None:
    front_end.ask()
    for step in range(1, 6):
        chart.append(step, loss=step)
    chart.flush()
    chart.append(5, eval_loss=0.5)
    chart.flush()
    assert front_end.messages[-1]["start"] == 4
    assert front_end.rows[:, -1].tolist() == [5.0, 5.0, 0.5]

    chart.append(3, loss=30.0)  # resumed from the checkpoint of step 2
    chart.flush()
    assert front_end.rows[:2].tolist() == [[1.0, 2.0, 3.0], [1.0, 2.0, 30.0]]
    assert chart.summary() == (
        "loss: 3 points, step 1 to 3, last 30.0, lowest 1.00 at step 1; held-out loss: no points yet"
    )


def test_summary_says_it_in_words(chart: Chart, front_end: FrontEnd) -> None:
    assert chart.summary() == "loss: no points yet; held-out loss: no points yet"
    front_end.ask()
    for step in range(1, 1202):
        chart.append(step, loss=None if step == 7 else 2 - step / 1201)
    chart.append(1201, eval_loss=2e-5)
    chart.flush()
    chart.mark(100, "warm-up ends")
    chart.flush()  # new words without a new row
    assert chart.summary() == (
        "loss: 1,200 points, step 1 to 1,201, last 1.00, lowest 1.00 at step 1,201; "
        "held-out loss: 2e-5 at step 1,201; warm-up ends at step 100"
    )
    assert front_end.messages[-1]["summary"] == chart.summary()
    assert front_end.messages[-1]["rows"] == 0


def test_infinite_and_missing_values_are_no_points(chart: Chart) -> None:
    for step, loss in enumerate([1.0, float("inf"), float("nan"), None]):
        chart.append(step, loss=loss)
    assert chart.summary().startswith("loss: 1.00 at step 0;")


def test_100_000_points_stay_cheap(chart: Chart, front_end: FrontEnd) -> None:
    for step in range(100_000):
        chart.append(step, loss=1.0)
    front_end.ask()
    assert front_end.sent_bytes < 2.5e6
    costs, sizes = [], []
    for flush in range(20):
        for step in range(10):
            chart.append(100_000 + 10 * flush + step, loss=1.0)
        front_end.rows = np.empty((3, 0))  # keep the fake's own copying out of the time
        before_bytes, before = front_end.sent_bytes, time.thread_time()
        chart.flush()
        costs.append(time.thread_time() - before)
        sizes.append(front_end.sent_bytes - before_bytes)
    assert np.median(costs) < 2e-3
    assert max(sizes) < 4096


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (
            lambda chart: Chart([Series("loss")], titel="x"),
            "Chart has no 'titel'. Did you mean title",
        ),
        (lambda chart: Series("loss", smoth=True), "Series has no 'smoth'. Did you mean smooth"),
        (lambda chart: chart.append(1, los=1.0), "append has no 'los'. Did you mean loss"),
    ],
)
def test_a_typo_is_a_type_error_with_the_closest_name(chart: Chart, call: Any, words: str) -> None:
    with pytest.raises(TypeError, match=words):
        call(chart)


def test_wrong_values_are_refused() -> None:
    with pytest.raises(ValueError, match="'line' or 'marks'"):
        Series("loss", style="dots")
    with pytest.raises(ValueError, match="distinct names"):
        Chart([Series("loss"), Series("loss")])


def test_figure_draws_every_series(chart: Chart) -> None:
    for step in range(1, 21):
        chart.append(step, loss=1 / step)
    chart.append(20, eval_loss=0.5)
    chart.mark(5, "warm-up ends")
    chart.log_y = True
    axes = chart.figure().axes[0]
    raw, smooth, marks = axes.lines[:3]
    assert raw.get_ydata().tolist() == [1 / step for step in range(1, 21)]
    assert smooth.get_ydata().tolist() == moving_average(raw.get_ydata())
    assert marks.get_xdata().tolist() == [20]
    assert axes.get_yscale() == "log"
    assert [text.get_text() for text in axes.texts] == ["warm-up ends"]
    legend = [text.get_text() for text in axes.get_legend().get_texts()]
    assert legend == ["loss of each step", "loss, smoothed", "held-out loss"]


def test_moving_average_does_not_start_at_zero() -> None:
    assert moving_average(np.full(5, 3.0)) == pytest.approx([3.0] * 5)


@pytest.mark.parametrize("color", PALETTE)
@pytest.mark.parametrize("ground", ["#ffffff", "#111111"])
def test_palette_contrasts_with_light_and_dark(color: str, ground: str) -> None:
    lighter, darker = sorted((luminance(color), luminance(ground)), reverse=True)
    assert (lighter + 0.05) / (darker + 0.05) >= 3


@pytest.mark.parametrize("ground", ["#ffffff", "#111111"])
def test_the_raw_loss_can_be_seen_in_both_themes(ground: str) -> None:
    def channel(start: int) -> str:
        line, behind = (int(color[start : start + 2], 16) for color in (PALETTE[0], ground))
        return f"{round(RAW_ALPHA * line + (1 - RAW_ALPHA) * behind):02x}"

    seen = luminance("#" + "".join(map(channel, (1, 3, 5))))
    lighter, darker = sorted((seen, luminance(ground)), reverse=True)
    assert (lighter + 0.05) / (darker + 0.05) >= 3
    script = Path(__file__).parents[3] / "extension" / "chart" / "chart.js"
    assert f"RAW_ALPHA = {RAW_ALPHA};" in script.read_text(encoding="utf-8")


def luminance(color: str) -> float:
    """Relative luminance of sRGB (WCAG 2.2)."""
    channels = np.array([int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(channels <= 0.04045, channels / 12.92, ((channels + 0.055) / 1.055) ** 2.4)
    return float(linear @ [0.2126, 0.7152, 0.0722])
