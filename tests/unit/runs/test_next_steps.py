"""What a run that is over offers to do next."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nbft.config import Config
from nbft.runs import Run
from nbft.runs.checkpoints import mark_whole
from nbft.runs.mark import mark
from nbft.runs.next_steps import as_python, name_of, next_steps, resume_step
from nbft.runs.state import RunState


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "runs" / "kind-otter-14"
    path.mkdir(parents=True)
    mark(path)
    Config(training={"num_train_epochs": 2}).save(path / "config.yaml", full=True)
    return Run(path)


def checkpoint(run: Run, step: int) -> None:
    folder = run.path / "checkpoints" / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "weights").write_bytes(b"w")
    mark_whole(folder)


def over(kind: str = "completed", **fields: Any) -> RunState:
    samples = [{"prompt": "Say hi.", "text": "Hi."}, {"prompt": "x" * 1000, "text": "y"}]
    return RunState(
        [{"event": "sample", "step": 0, "samples": samples}, {"event": kind, "step": 9, **fields}]
    )


def test_a_completed_run_is_tried_compared_exported_or_trained_longer(run: Run) -> None:
    checkpoint(run, 9)
    steps = next_steps(run, over(adapter="adapter"))
    assert [step.what for step in steps] == [
        "try it, also with words that are in no row",
        "compare it with the base model",
        "export it for other programs, read back and compared",
        "train longer",
    ]
    assert steps[0].python == "run.generate('Say hi.')"
    assert steps[1].shell == "nbft compare kind-otter-14 'Say hi.'"
    assert steps[2].python == "run.export('merged')"
    assert steps[2].shell == "nbft export-model kind-otter-14 --to merged"
    assert steps[3].python == "run.resume({'training.num_train_epochs': 4})"
    assert steps[3].shell == "nbft resume kind-otter-14 training.num_train_epochs=4"
    compile(as_python("kind-otter-14", steps), "cell", "exec")


def test_the_length_is_changed_where_it_is_set(run: Run) -> None:
    checkpoint(run, 9)
    run.config.apply({"training.max_steps": 9}).save(run.path / "config.yaml", full=True)
    assert next_steps(run, over())[-1].python == "run.resume({'training.max_steps': 18})"
    early = over(text="Stopped early: the held-out loss no longer fell.")
    assert next_steps(run, early) == []


@pytest.mark.parametrize(
    ("training", "losses", "wanted"),
    [
        ({"num_train_epochs": 3}, (2.0, 1.0), "training.num_train_epochs=5"),
        ({"num_train_epochs": 5}, (2.0, 1.0), None),
        ({"num_train_epochs": 2}, (2.0, 1.0, 1.5), None),
        ({"max_steps": 40}, (2.0, 1.0), "training.max_steps=50"),
        ({"max_steps": 50}, (2.0, 1.0), None),
    ],
)
def test_training_longer_is_offered_only_where_it_may_help(
    run: Run, training: dict[str, Any], losses: tuple[float, ...], wanted: str | None
) -> None:
    """More passes than the plan's own advice allows would be warned about at once."""
    checkpoint(run, 9)
    Config(training=training).save(run.path / "config.yaml", full=True)
    (run.path / "plan.json").write_text(json.dumps({"train_rows": 80, "steps_per_epoch": 10}))
    events = [{"event": "eval", "step": n, "eval_loss": v} for n, v in enumerate(losses)]
    steps = next_steps(run, RunState([*events, {"event": "completed", "step": 9}]))
    assert [step.shell for step in steps] == (
        [f"nbft resume kind-otter-14 {wanted}"] if wanted else []
    )


def test_what_gets_everything_right_is_not_trained_longer(run: Run) -> None:
    checkpoint(run, 9)
    for right, steps in ((1.0, 0), (0.9, 1)):
        scores = {"event": "scores", "step": 9, "rows": 20, "scores": {"exact_match": right}}
        assert len(next_steps(run, RunState([scores, {"event": "completed", "step": 9}]))) == steps


def test_a_whole_model_is_exported_and_what_cannot_be_merged_is_loaded(run: Run) -> None:
    assert next_steps(run, over(model="model"))[-1].python == "run.export('merged')"
    Config(peft={"method": "prompt_tuning"}).save(run.path / "config.yaml", full=True)
    assert next_steps(Run(run.path), over(adapter="adapter"))[-1].what == "load it"


@pytest.mark.parametrize("kind", ["stopped", "failed", "cancelled"])
def test_a_run_that_was_cut_short_is_resumed(run: Run, kind: str) -> None:
    assert resume_step(run.path, over(kind)) is None  # it has no checkpoint
    checkpoint(run, 5)
    checkpoint(run, 9)
    assert resume_step(run.path, over(kind)) == 9
    (step,) = next_steps(run, over(kind))
    assert (step.python, step.shell) == ("run.resume()", "nbft resume kind-otter-14")
    assert resume_step(run.path, over()) is None
    assert resume_step(run.path, RunState()) is None
    assert resume_step(run.path, RunState(), is_lost=True) == 9


def test_a_run_elsewhere_is_named_by_its_folder(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert name_of(run) == "kind-otter-14"
    (Path.cwd() / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert name_of(run) == str(run.path)
    monkeypatch.chdir(run.path.parent.parent.parent)
    assert name_of(run) == str(run.path.relative_to(Path.cwd()))


def test_without_samples_no_prompt_is_made_up(run: Run) -> None:
    ended = RunState([{"event": "completed", "step": 9, "adapter": "adapter"}])
    steps = next_steps(run, ended)
    assert [step.what for step in steps] == ["export it for other programs, read back and compared"]
    assert "…" not in as_python(run.id, steps)


def test_a_prompt_that_begins_like_an_option_is_none_in_the_shell(run: Run) -> None:
    samples = [{"prompt": "--help me", "text": "y"}]
    events = [{"event": "sample", "step": 0, "samples": samples}]
    state = RunState([*events, {"event": "completed", "step": 9, "adapter": "adapter"}])
    assert next_steps(run, state)[1].shell == "nbft compare kind-otter-14 -- '--help me'"


def test_a_name_with_quotes_is_still_python(run: Run) -> None:
    path = run.path.rename(run.path.with_name('it"s'))
    state = over(adapter="adapter")
    for name in ('it"s', "it's", "it\\s"):
        code = as_python(name, next_steps(Run(path), state))
        assert f"nbft.attach({name!r})" in code
        compile(code, "cell", "exec")


def test_a_prompt_of_several_lines_is_for_python_only(run: Run) -> None:
    samples = [{"prompt": "Question:\nWhy?", "text": "So."}]
    state = RunState(
        [
            {"event": "sample", "step": 0, "samples": samples},
            {"event": "completed", "step": 9, "adapter": "adapter"},
        ]
    )
    steps = next_steps(run, state)
    assert steps[0].python == "run.generate('Question:\\nWhy?')"
    assert steps[1].shell == "nbft compare kind-otter-14"
