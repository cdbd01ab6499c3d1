"""A run that ends early says why, keeps its patience over a resume, and keeps its last checkpoint."""

from __future__ import annotations

import json
from typing import Any

import pytest
import transformers

import nbft
from nbft import registry
from nbft.launchers.kernel import join
from nbft.runs.checkpoints import last_whole, step_of
from nbft.widgets.monitor import Monitor

from .test_going_on import go_on
from .trajectories import Stops

EACH_STEP = {"evaluation__eval_strategy": "steps", "evaluation__eval_steps": 1}
NEVER_BETTER = {**EACH_STEP, "callbacks__early_stopping_threshold": 100.0}
"""A score would have to be better by 100, so only the first counts."""


def eval_losses(run: nbft.Run) -> dict[int, float]:
    return {e["step"]: e["eval_loss"] for e in run.events() if e["event"] == "eval"}


@pytest.mark.parametrize("by_key", [True, False])
def test_an_early_end_is_said_everywhere(train, by_key: bool) -> None:
    asked: dict[str, Any] = {"callbacks__early_stopping_patience": 2}
    if by_key:
        arguments = {"early_stopping_patience": 2, "early_stopping_threshold": 100.0}
        asked = {"callbacks__callbacks": {"early_stopping": arguments}}
    run = train(training__max_steps=9, **NEVER_BETTER, **asked)
    scores = eval_losses(run)
    best = min(scores[1], scores[2])
    at = 1 if scores[1] == best else 2
    text = (
        "Early stopping after step 3 of 9: eval_loss has not improved by more than 100 on "
        f"{best:.3g} after step {at} in 2 measurements."
    )
    assert (run.status, run.step) == ("completed", 3)
    assert run.events()[-1]["text"] == text
    assert run.state.reason == text
    shown = Monitor(run)
    shown.update()
    assert shown.state.startswith("completed early, after step 3 of 9, in ")
    assert text in shown._outcome()["text/plain"]
    assert text in run.report().read_text(encoding="utf-8")
    checkpoint = last_whole(run.path)  # none of its interval came so early
    assert checkpoint is not None
    assert step_of(checkpoint) == 3
    with pytest.raises(nbft.RunError, match=r"is completed\. Early stopping after step 3 of 9"):
        run.resume()


def test_a_run_that_ends_as_planned_says_nothing(train) -> None:
    run = train(training__max_steps=2, **NEVER_BETTER, callbacks__early_stopping_patience=2)
    assert "text" not in run.events()[-1]
    assert run.state.reason == ""


def test_another_callback_that_ends_a_run_is_said(train) -> None:
    @registry.callbacks.register("ends")
    class Ends(transformers.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            control.should_training_stop = state.global_step == 2

    try:
        run = train(callbacks__callbacks={"ends": {}})
    finally:
        registry.callbacks.unregister("ends")
    assert run.state.reason == (
        "Ended after step 2 of 6: a callback ended the training, or its rows were used up."
    )


def test_patience_goes_on_where_it_was(train) -> None:
    patient = {**NEVER_BETTER, "callbacks__early_stopping_patience": 5}
    whole = train(training__max_steps=9, **patient)
    assert whole.step == 6
    halves = train(training__max_steps=3, **patient)
    go_on(halves, {"training.max_steps": 9})
    assert halves.step == whole.step
    more = train(training__max_steps=3, **patient)
    go_on(more, {"training.max_steps": 9, "callbacks.early_stopping_patience": 6})
    assert more.step == 7
    anew = train(training__max_steps=3, **patient)
    restore = "callbacks.restore_callback_states_from_checkpoint"
    go_on(anew, {"training.max_steps": 9, restore: False})
    assert anew.step == 8


def test_a_run_that_was_stopped_where_it_would_have_ended_ends_there(train) -> None:
    """The measurement that a stop left out is made up first, and ends the run."""
    asked = {**NEVER_BETTER, "callbacks__early_stopping_patience": 2, "training__max_steps": 9}
    whole = train(**asked)
    Stops.is_asking = True
    registry.callbacks.register("stops")(Stops)
    try:
        run = train(**asked, callbacks__callbacks={"stops": {"step": whole.step}})
        assert (run.status, run.step) == ("stopped", whole.step)
        Stops.is_asking = False
        go_on(run)
    finally:
        Stops.is_asking = False
        registry.callbacks.unregister("stops")
    assert (run.status, run.step) == ("completed", whole.step), run.problems
    assert run.state.reason == whole.state.reason


def test_patience_may_begin_and_end_with_a_resume(train) -> None:
    run = train(training__max_steps=2, **NEVER_BETTER)
    go_on(run, {"training.max_steps": 9, "callbacks.early_stopping_patience": 2})
    assert run.status == "completed", run.problems
    assert run.step == 5  # the first measurement sets the mark
    go_on(run, {"callbacks.early_stopping_patience": None})
    assert (run.status, run.step, run.state.reason) == ("completed", 9, "")


def test_the_last_checkpoint_stays_beside_the_best(train) -> None:
    best = {"checkpoint__load_best_model_at_end": True, "checkpoint__save_steps": 1}
    run = train(
        training__max_steps=9,
        checkpoint__save_total_limit=1,
        callbacks__early_stopping_patience=2,
        **NEVER_BETTER,
        **best,
    )
    scores = eval_losses(run)
    kept = {step_of(path) for path in (run.path / "checkpoints").glob("checkpoint-*")}
    assert kept == {3, min((1, 2, 3), key=scores.get)}
    found = go_on(run, {"callbacks.early_stopping_patience": None})
    assert found.status == "completed", found.problems
    assert [e["resumed_step"] for e in run.events() if "resumed_step" in e] == [3]
    steps = [e["step"] for e in run.events() if e["event"] == "log"]
    assert steps == list(range(1, 10))  # none was repeated


def test_the_best_checkpoint_is_found_in_a_folder_that_was_moved(
    make_config, rows, tmp_path
) -> None:
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    best = {"checkpoint__load_best_model_at_end": True, "checkpoint__save_steps": 1}
    config = make_config(
        training__max_steps=3,
        checkpoint__metric_for_best_model="eval_loss",
        checkpoint__greater_is_better=True,  # so that the first is the best
        checkpoint__save_total_limit=1,
        training__learning_rate=1e-2,
        **EACH_STEP,
        **best,
    )
    dataset = config.data.train.datasets[0]
    dataset.rows, dataset.path = None, str(tmp_path / "rows.jsonl")
    run = nbft.train(config, show=False)
    join(run)
    scores = eval_losses(run)
    first = max((1, 2, 3), key=scores.get)
    moved = nbft.Run(run.path.rename(tmp_path / "moved"))
    go_on(moved, {"training.max_steps": 4})
    assert moved.status == "completed", moved.problems
    assert step_of(max((moved.path / "checkpoints").glob("checkpoint-*"), key=step_of)) == 4
    assert max((1, 2, 3, 4), key=eval_losses(moved).get) == first
    saved = (moved.path / "adapter" / "adapter_model.safetensors").read_bytes()
    folder = moved.path / "checkpoints" / f"checkpoint-{first}"
    assert saved == (folder / "adapter_model.safetensors").read_bytes()
