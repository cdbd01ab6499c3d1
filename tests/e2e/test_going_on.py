"""A run that goes on says what is different, with numbers, or refuses."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import nbft
from nbft import registry
from nbft.config.code import allow_code
from nbft.data.tiny_model import make_tiny_model
from nbft.launchers.kernel import join
from nbft.launchers.launch import _change
from nbft.plan.schedule import learning_rate_at
from nbft.runs.checkpoints import last_whole

from .conftest import losses

FUNCTION = "def prompt(row):\n    return 'Correct: ' + row['input'] + '\\n'\n"


def go_on(run: nbft.Run, changes: dict[str, Any] | None = None) -> nbft.Run:
    """Resume in this process; otherwise as `Run.resume` does."""
    _change(run, changes or {})
    registry.launchers.get("kernel").start(run)
    join(run)
    return run


def said(run: nbft.Run) -> list[str]:
    return [event["text"] for event in run.events() if event["event"] == "warning"]


def rates(run: nbft.Run) -> list[float]:
    return [event["learning_rate"] for event in run.events() if event["event"] == "log"]


@pytest.fixture
def files(tmp_path: Path, rows: list[dict[str, Any]]) -> Path:
    """A folder with everything that a config can name."""
    make_tiny_model(tmp_path / "model")
    shutil.copytree(tmp_path / "model", tmp_path / "tokenizer")
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "held_out.jsonl").write_text("\n".join(map(json.dumps, rows[:4])))
    (tmp_path / "functions.py").write_text(FUNCTION)
    template = json.loads((tmp_path / "model" / "tokenizer_config.json").read_text())
    text = template.get("chat_template") or (tmp_path / "model/chat_template.jinja").read_text()
    (tmp_path / "chat.jinja").write_text(text)
    return tmp_path


@pytest.fixture
def stopped(files: Path) -> nbft.Run:
    """A run of 4 steps, of which 2 are trained."""
    dataset = {
        "prompt_func": f"{files / 'functions.py'}:prompt",
        "completion_template": "{target}",
    }
    held_out = {"prompt_template": "Correct: {input}\n", "completion_template": "{target}"}
    config = nbft.Config(
        model={
            "model_name": str(files / "model"),
            "tokenizer_name": str(files / "tokenizer"),
            "chat_template_path": str(files / "chat.jinja"),
            "dtype": "float32",
        },
        data={
            "train": {"datasets": [{"path": str(files / "rows.jsonl"), **dataset}]},
            "validation": {"datasets": [{"path": str(files / "held_out.jsonl"), **held_out}]},
            "max_length": 128,
        },
        training={"output_dir": str(files / "runs"), "max_steps": 2, "learning_rate": 2e-3},
        evaluation={"sample_count": 0, "eval_strategy": "no"},
    )
    run = nbft.train(config, show=False)
    join(run)
    assert run.status == "completed", run.problems
    return run


def rewrite(path: Path) -> None:
    lines = path.read_text().splitlines()
    path.write_text("\n".join(reversed(lines)))


def retrain(folder: Path) -> None:
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    weights["model.norm.weight"] = weights["model.norm.weight"] * 1.5
    safetensors.torch.save_file(weights, folder / "model.safetensors", {"format": "pt"})


def another_tokenizer(folder: Path) -> None:
    about = json.loads((folder / "tokenizer.json").read_text())
    about["model"]["merges"].pop()
    (folder / "tokenizer.json").write_text(json.dumps(about))


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "rows": (
        lambda files: rewrite(files / "rows.jsonl"),
        "data.train.datasets[0].path='{files}/rows.jsonl'",
    ),
    "held-out rows": (
        lambda files: rewrite(files / "held_out.jsonl"),
        "data.validation.datasets[0].path='{files}/held_out.jsonl'",
    ),
    "function": (
        lambda files: (files / "functions.py").write_text(FUNCTION.replace("Correct", "Mend")),
        "data.train.datasets[0].prompt_func='{files}/functions.py:prompt'",
    ),
    "template": (
        lambda files: (files / "chat.jinja").write_text("{{ messages[0]['content'] }}"),
        "the chat template (model.chat_template)",
    ),
    "tokenizer": (
        lambda files: another_tokenizer(files / "tokenizer"),
        "the tokenizer (model.tokenizer_name)",
    ),
    "weights": (
        lambda files: retrain(files / "model"),
        "the weights of the base model {files}/model (model.model_name)",
    ),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_the_steps_were_trained_on_may_not_be_replaced(
    stopped: nbft.Run, files: Path, what: str
) -> None:
    change, words = CHANGES[what]
    words = words.format(files=files)
    change(files)
    longer = {"training.max_steps": 4}
    with pytest.raises(nbft.RunError) as refused:
        stopped.resume(longer)
    assert str(refused.value) == (
        f"{stopped.id}: cannot go on from step 2, because what its steps were trained on has "
        f"changed: {words}. Start a new run, or set training.resume_despite_changes=true to go on "
        "nevertheless."
    )
    assert stopped.config.training.max_steps == 2
    # The worker looks again: a run may be started in other ways, and more is known then.
    stopped.config.apply(longer).save(stopped.path / "config.yaml", full=True)
    registry.launchers.get("kernel").start(stopped)
    join(stopped)
    assert stopped.status == "failed"
    if what == "function":  # other code is asked for first
        assert "which you have not allowed" in stopped.problems[0]
        allow_code(stopped.config)
    else:
        assert f"has changed: {words}. Start a new run" in stopped.problems[0]
    go_on(stopped, {"training.resume_despite_changes": True})
    assert stopped.status == "completed", stopped.problems
    assert f"Changed after step 2, as consented to: {words}." in said(stopped)
    # The steps since were trained on what is there now; consent is asked for each time.
    go_on(stopped, {"training.max_steps": 5})
    assert stopped.status == "completed", stopped.problems
    assert not stopped.config.training.resume_despite_changes
    (files / "rows.jsonl").write_text("{}")
    with pytest.raises(nbft.RunError, match="cannot go on from step 5"):
        stopped.resume({"training.max_steps": 6})


def test_what_is_replaced_by_the_same_is_no_change(stopped: nbft.Run, files: Path) -> None:
    for name in ("rows.jsonl", "functions.py", "model/model.safetensors"):
        content = (files / name).read_bytes()
        (files / name).unlink()
        (files / name).write_bytes(content)
    go_on(stopped, {"training.max_steps": 3})
    assert stopped.status == "completed", stopped.problems
    assert not any("changed" in text.lower() for text in said(stopped))


def test_rows_that_come_from_elsewhere_are_known_by_their_tokens(
    train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As rows of a hub, which no file on this machine tells from others."""
    run = train(training__max_steps=2)
    from nbft.runs import provenance

    monkeypatch.setattr(provenance, "_files", lambda config: iter(()))
    rewrite(Path(run.config.data.train.datasets[0].path))
    go_on(run, {"training.max_steps": 3})
    assert run.status == "failed"
    assert "has changed: the training rows. Start a new run" in run.problems[0]


def test_an_automatic_resume_is_refused_too(files: Path, stopped: nbft.Run) -> None:
    nbft.events.append(stopped.events_path, "stopped", step=2)
    config = stopped.config.apply({"training.run_name": None}).own()
    rewrite(files / "rows.jsonl")
    with pytest.raises(nbft.RunError, match="cannot go on from step 2"):
        nbft.train(config, show=False, resume="auto")
    consenting = config.apply({"training.resume_despite_changes": True})
    again = nbft.train(consenting, show=False, resume="auto")
    join(again)
    assert again.path == stopped.path
    assert any("as consented to" in text for text in said(again))


def test_nothing_left_to_train_is_said_with_numbers(train) -> None:
    run = train(training__max_steps=3)
    for changes, field in (
        ({"training.max_steps": 3}, "training.max_steps=3:"),
        ({"training.max_steps": 2}, "training.max_steps=2:"),
        ({"logging.logging_steps": 2}, "training.max_steps=3:"),
        (
            {"training.max_steps": -1, "training.num_train_epochs": 0.3},
            "training.num_train_epochs=0.3: is 3 steps, and",
        ),
    ):
        with pytest.raises(nbft.RunError) as refused:
            run.resume(changes)
        assert str(refused.value) == (
            f"{run.id}: {field} 3 steps are trained already, so nothing is left to train. Use more."
        )
    with pytest.raises(nbft.ConfigError, match=r"max_steps=3: 3 steps are trained already"):
        train(training__max_steps=3, training__resume_from_checkpoint=str(run.path))
    assert run.step == 3


def test_a_run_whose_last_save_failed_only_saves(train, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(training__max_steps=3)
    run = train(training__max_steps=3, checkpoint__save_final_model=False)
    checkpoint = last_whole(run.path)
    nbft.events.append(run.events_path, "failed", step=3, problems=["The disk was full."])
    config = run.config.apply({"checkpoint.save_final_model": True})
    config.save(run.path / "config.yaml", full=True)
    go_on(run)
    assert run.status == "completed", run.problems
    assert said(run) == [
        "All 3 steps are trained already (checkpoint-3); what is left is to save the model."
    ]
    assert (run.step, losses(run)) == (3, losses(whole))
    assert last_whole(run.path) == checkpoint
    found, expected = (
        safetensors.torch.load_file(one.adapter / "adapter_model.safetensors")
        for one in (run, whole)
    )
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("kind", ["linear", "cosine"])
def test_a_finished_schedule_that_is_prolonged_is_said(train, kind: str) -> None:
    asked = {"training__max_steps": -1, "scheduler__lr_scheduler_type": kind}
    asked |= {"scheduler__warmup_steps": 2}
    run = train(**asked, training__num_train_epochs=1)
    rate = learning_rate_at(run.config.apply({"training.num_train_epochs": 2}), 18)
    go_on(run, {"training.num_train_epochs": 2})
    assert run.status == "completed", run.problems
    assert said(run)[0].startswith(
        "The learning rate schedule spans 18 steps instead of 9: after step 9 the rate goes on at "
    )
    assert said(run)[0].endswith("where the schedule of 9 had ended at 0.")
    assert rates(run)[9:] == pytest.approx([rate(step) for step in range(9, 18)], rel=1e-9)
    assert min(rates(run)[9:]) > 0


def test_steps_of_another_size_are_converted(train) -> None:
    first = train(training__max_steps=6, checkpoint__save_steps=3)
    checkpoint = str(first.path / "checkpoints" / "checkpoint-6")
    common = {
        "training__resume_from_checkpoint": checkpoint,
        "scheduler__lr_scheduler_type": "linear",
    }
    larger = train(training__per_device_train_batch_size=8, training__max_steps=5, **common)
    assert larger.status == "completed", larger.problems
    assert said(larger)[0].startswith("Changed after step 6: scheduler.lr_scheduler_type")
    assert said(larger)[1] == (
        "The 6 steps of the checkpoint had 4 rows each (4 x 1), those of this run have 8 (8 x 1): it "
        "goes on after 3 steps of its own."
    )
    assert larger.state.prepared["resumed_step"] == 3
    steps = [event["step"] for event in larger.events() if event["event"] == "log"]
    assert steps == [4, 5]
    rate = learning_rate_at(larger.config, 5)
    assert rates(larger) == pytest.approx([rate(3), rate(4)])
    odd = train(training__per_device_train_batch_size=5, training__max_steps=5, **common)
    assert said(odd)[1].endswith("it goes on after 4 steps of its own, repeating 4 rows.")


def test_the_same_rows_in_other_batches_are_the_same_trajectory(train) -> None:
    first = train(training__max_steps=6, checkpoint__save_steps=3)
    again = train(
        training__max_steps=6,
        training__per_device_train_batch_size=2,
        training__gradient_accumulation_steps=2,
        training__resume_from_checkpoint=str(first.path / "checkpoints" / "checkpoint-3"),
    )
    assert said(again) == ["A step still learns from 4 rows: 2 x 2 instead of 4 x 1."]
    assert losses(again) == pytest.approx(losses(first)[3:], rel=1e-5)


def test_other_settings_are_said_and_apply(train) -> None:
    first = train(training__max_steps=4, checkpoint__save_steps=2)
    common = {"training__resume_from_checkpoint": str(first.path / "checkpoints/checkpoint-2")}
    slower = train(training__max_steps=4, training__learning_rate=1e-3, **common)
    assert said(slower) == ["Changed after step 2: training.learning_rate 0.002 to 0.001."]
    assert rates(slower) == pytest.approx([rate / 2 for rate in rates(first)[2:]])
    for changes, words in (
        ({"peft__r": 4}, "peft.r=4: was 16 in the 2 steps of the checkpoint."),
        ({"optimizer__optim": "sgd"}, "optimizer.optim='sgd': was 'adamw_torch_fused'"),
    ):
        with pytest.raises(nbft.ConfigError) as refused:
            train(training__max_steps=4, **common, **changes)
        assert words in str(refused.value)


def test_a_checkpoint_of_another_program_is_said(train, tmp_path: Path) -> None:
    first = train(training__max_steps=2)
    checkpoint = tmp_path / "checkpoint-2"
    shutil.copytree(first.path / "checkpoints" / "checkpoint-2", checkpoint)
    for name in ("provenance.json", "nbft_state.pt"):
        (checkpoint / name).unlink()
    again = train(training__max_steps=4, training__resume_from_checkpoint=str(checkpoint))
    assert again.status == "completed", again.problems
    assert said(again) == [
        "checkpoint-2 does not say what it was trained on, so nothing is compared."
    ]


def test_a_setting_that_changes_the_rows_is_named(train) -> None:
    first = train(training__max_steps=4, checkpoint__save_steps=2)
    common = {"training__resume_from_checkpoint": str(first.path / "checkpoints/checkpoint-2")}
    run = train(training__max_steps=4, data__max_length=24, **common)
    assert run.status == "failed"
    assert "has changed: the training rows (data.max_length). Start a new run" in run.problems[0]


def test_braces_in_a_path_are_no_placeholders(make_config, rows, tmp_path: Path) -> None:
    path = tmp_path / "{value} {0}.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    config = make_config(training__max_steps=1)
    dataset = config.data.train.datasets[0]
    dataset.rows, dataset.path = None, str(path)
    run = nbft.train(config, show=False)
    join(run)
    rewrite(path)
    with pytest.raises(nbft.RunError) as refused:
        run.resume({"training.max_steps": 2})
    assert f"has changed: data.train.datasets[0].path={str(path)!r}. Start" in str(refused.value)


def test_a_checkpoint_without_an_optimiser_is_said(train) -> None:
    whole = train(training__max_steps=4)
    run = train(training__max_steps=4, checkpoint__save_steps=2, checkpoint__save_only_model=True)
    shutil.rmtree(run.path / "checkpoints" / "checkpoint-4")
    nbft.events.append(run.events_path, "stopped", step=4)
    go_on(run)
    assert run.status == "completed", run.problems
    assert said(run) == [
        (
            "checkpoint-2 holds no optimiser state (checkpoint.save_only_model), so the optimiser starts "
            "anew and the losses are not those of an uninterrupted run."
        )
    ]
    assert rates(run)[4:] == rates(whole)[2:]  # the schedule is where it was
    assert losses(run)[4:] != losses(whole)[2:]


def test_a_rate_of_0_is_said(train) -> None:
    @registry.schedulers.register("their_end")
    def share(step: int, warmup: int, total: int) -> float:
        return max(0.0, 1 - step / 2)

    try:
        run = train(training__max_steps=2, scheduler__lr_scheduler_type="their_end")
        go_on(run, {"training.max_steps": 3})
        assert said(run) == ["The learning rate of step 3 is 0 by the schedule."]
    finally:
        registry.schedulers.unregister("their_end")
