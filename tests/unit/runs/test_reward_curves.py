"""The reward stands beside the loss: in the picture, in words, and among the answers of a step."""

from __future__ import annotations

from nbft import events
from nbft.runs.curves import draw_curves, in_words, main_charts
from nbft.runs.state import RunState, read_state

MEASURES = [
    {"name": "reward", "label": "all", "chart": "Reward", "better": "higher", "is_main": True},
    {"name": "kl", "label": "KL", "chart": "KL", "better": "", "is_main": False},
    "no record",
]
ANSWER = {
    "prompt": "p", "completion": "<b>", "wanted": "", "rewards": {"r": 1.0, "odd": "x"},
    "reward": 1.0, "advantage": 0.5, "tokens": 3, "is_cut": False,
}  # fmt: skip


def run() -> RunState:
    logs = [{"event": "log", "step": n, "loss": 0.0, "reward": n / 10, "kl": 0.1} for n in (1, 2)]
    return RunState([{"event": "prepared", "total_steps": 2, "measures": MEASURES}, *logs])


def test_the_main_measure_is_drawn_first_and_said() -> None:
    state = run()
    (chart,) = main_charts(state)
    assert (chart.title, chart.names) == ("Reward", ["reward"])
    assert [axes.get_title() for axes in draw_curves(state).axes] == [
        "Reward", "loss", "learning rate",
    ]  # fmt: skip
    assert "Reward: 0.1 at step 1, 0.2 at step 2." in in_words(state)


def test_without_one_the_picture_is_as_before() -> None:
    state = RunState([{"event": "log", "step": 1, "loss": 1.0}])
    assert main_charts(state) == []
    assert len(draw_curves(state).axes) == 2


def test_answers_are_read_from_the_events_and_forgotten_after_a_resume(tmp_path) -> None:

    path = tmp_path / "events.jsonl"
    events.append(path, "completions", step=4, completions=[ANSWER, {"prompt": 3}])
    state = read_state(path)
    (row,) = state.rewarded
    assert (row.completion, row.rewards, row.advantage) == ("<b>", {"r": 1.0}, 0.5)
    assert "<b>" not in state.rewarded._repr_html_()
    events.append(path, "prepared", resumed_step=2)
    assert len(read_state(path).rewarded) == 0
