"""Background runs: submitted, watched, commanded, killed, resumed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

import nbft
from nbft import events, processes, registry
from nbft.launchers.kernel import join
from nbft.launchers.launch import start, submit
from nbft.launchers.process import Process
from nbft.runs.checkpoints import last_whole, step_of

from .conftest import losses, steps, until


def current_losses(run: nbft.Run) -> dict[int, float]:
    return {e["step"]: e["loss"] for e in events.current(run.events()) if e["event"] == "log"}


def worker_pid(run: nbft.Run) -> int:
    return [e for e in run.events() if e["event"] == "started"][-1]["pid"]


@pytest.fixture
def submitted(submitting, make_config):
    return lambda **changes: submitting(make_config(**changes))


def test_a_background_run_ends_like_one_in_the_kernel(submitted, train):
    run = submitted()
    assert run.status in ("queued", "running")
    assert run.wait().status == "completed", run.problems
    assert losses(run) == pytest.approx(losses(train()), rel=1e-6)
    assert nbft.attach(run.path).adapter is not None
    kinds = [e["event"] for e in run.follow()]
    assert kinds[0] == "queued"
    assert kinds[-1] == "completed"


class Nice(Process):
    """Starts the worker through another program, as torchrun or srun do."""

    def worker_command(self, run):
        return ["nice", "-n", "7", *super().worker_command(run)]


def test_a_launcher_of_ones_own_starts_the_worker(make_config, train):
    registry.launchers.register("nice")(Nice())
    try:
        run = submit(make_config(training__max_steps=400), launcher="nice")
        until(lambda: steps(run) >= 1, "a step")
        assert psutil.Process(worker_pid(run)).nice() == 7
        run.stop()
        assert run.wait().status == "stopped", run.problems
    finally:
        registry.launchers.unregister("nice")
    with pytest.raises(nbft.ConfigError, match=r"registry.launchers='nice': is not one of kernel"):
        submit(make_config(), launcher="nice")


def test_kill_the_worker_and_resume_on_the_same_trajectory(submitted, train):
    whole = train(training__max_steps=40, checkpoint__save_steps=5)
    run = submitted(training__max_steps=40, checkpoint__save_steps=5)
    until(lambda: last_whole(run.path) is not None and steps(run) >= 12, "step 12")
    os.kill(worker_pid(run), signal.SIGKILL)
    until(lambda: run.status == "failed", "the supervisor's word")
    assert "killed after step" in run.problems[0]
    assert "SIGKILL" in run.problems[0]
    assert run.events()[-1]["log"] != ""
    checkpoint = last_whole(run.path)
    again = run.resume()
    assert again.wait().status == "completed", again.problems
    prepared = [e for e in run.events() if e["event"] == "prepared"]
    assert prepared[-1]["resumed_step"] == step_of(checkpoint)
    expected = {e["step"]: e["loss"] for e in whole.events() if e["event"] == "log"}
    assert current_losses(run) == pytest.approx(expected, rel=1e-6)
    scores = [e["eval_loss"] for e in (run.events(), whole.events())[0] if e["event"] == "eval"]
    wanted = [e["eval_loss"] for e in whole.events() if e["event"] == "eval"]
    assert scores[-1] == pytest.approx(wanted[-1], rel=1e-6)


def test_a_torn_checkpoint_is_passed_over(submitted):
    run = submitted(training__max_steps=5000, checkpoint__save_steps=5)
    until(lambda: steps(run) >= 12, "step 12")
    run.cancel()
    until(lambda: run.is_over, "the end")
    assert run.status == "cancelled"
    newest = last_whole(run.path)
    (newest / "optimizer.pt").write_bytes(b"torn")
    older = last_whole(run.path)
    assert older is None or step_of(older) < step_of(newest)


def test_pause_keeps_the_place_and_continue_goes_on(submitted, train):
    expected = losses(train(training__max_steps=30))
    run = submitted(training__max_steps=30)
    until(lambda: steps(run) >= 1, "a step")
    run.pause()
    until(lambda: run.status == "paused" or run.is_over, "the pause")
    assert run.status == "paused"
    paused_at = steps(run)
    time.sleep(0.5)
    assert steps(run) == paused_at
    with pytest.raises(nbft.RunError, match="is paused; there is nothing to sample"):
        run.sample()
    run.continue_()
    assert run.wait().status == "completed"
    assert losses(run) == pytest.approx(expected, rel=1e-6)


def test_pause_with_release_frees_the_device(submitted, train):
    expected = train(training__max_steps=30)
    run = submitted(training__max_steps=30)
    until(lambda: steps(run) >= 1, "a step")
    pid = worker_pid(run)
    run.pause(release=True)
    until(
        lambda: run.status == "paused" and not processes.Process.of(run.state.started).lives(),
        "the release",
    )
    until(lambda: not Path(f"/proc/{pid}").exists(), "the end of the process")
    run.continue_()
    assert run.wait().status == "completed", run.problems
    wanted = {e["step"]: e["loss"] for e in expected.events() if e["event"] == "log"}
    assert current_losses(run) == pytest.approx(wanted, rel=1e-6)


def test_the_queue_is_in_order_and_a_dead_holder_frees_the_device(submitted):
    first = submitted(training__max_steps=5000)
    until(lambda: steps(first) >= 1, "a step")
    second = submitted(training__max_steps=1)
    third = submitted(training__max_steps=1)
    until(
        lambda: (
            f"Waiting for run “{first.id}”, which is using the CPU."
            in [e.get("text") for e in third.events()]
            or f"Waiting for run “{first.id}”, which is using the CPU."
            in [e.get("text") for e in second.events()]
        ),
        "the waiting",
    )
    third.move_up()
    with pytest.raises(nbft.RunError, match="cannot move up"):
        third.move_up()
    supervisor = next(e for e in first.events() if e["event"] == "queued")["pid"]
    os.kill(supervisor, signal.SIGKILL)
    time.sleep(1)
    assert first.status == "running"  # its worker lives on and keeps the device
    assert second.status == third.status == "queued"
    os.kill(worker_pid(first), signal.SIGKILL)
    until(lambda: first.status == "lost", "the truth")
    assert second.wait().status == third.wait().status == "completed"
    started = [
        next(e["time"] for e in r.events() if e["event"] == "started") for r in (third, second)
    ]
    assert started[0] < started[1]


def test_a_waiting_run_can_be_cancelled(submitted):
    first = submitted(training__max_steps=5000)
    until(lambda: steps(first) >= 1, "a step")
    second = submitted()
    second.cancel()
    until(lambda: second.status == "cancelled", "the end")
    first.stop()
    assert first.wait().status == "stopped"


def test_what_may_change_on_resume(submitted):
    run = submitted(training__max_steps=4)
    run.wait()
    with pytest.raises(nbft.RunError, match=r"is completed\. To train longer"):
        run.resume()
    with pytest.raises(nbft.RunError) as refused:
        run.resume({"training.learning_rate": 1e-3, "peft.r": 4})
    assert [str(p).partition(":")[0] for p in refused.value.problems] == [
        "training.learning_rate=0.001",
        "peft.r=4",
    ]
    run.resume({"training.max_steps": 6})
    assert run.wait().status == "completed", run.problems
    assert steps(run) == 6
    with pytest.raises(nbft.RunError, match="nothing to resume"):
        submitted(training__max_steps=5000).resume()


@pytest.mark.parametrize("processes", [1, "auto"])
def test_train_resumes_by_itself_when_asked(make_config, processes):
    config = make_config(training__max_steps=12, distributed__num_processes=processes)
    run = start(config)
    until(lambda: steps(run) >= 2, "a step")
    run.stop()
    join(run)
    assert run.status == "stopped"
    assert run.config.distributed.num_processes == 1
    config = run.config.apply({"training.run_name": None, "distributed.num_processes": processes})
    again = nbft.train(config, show=False, resume="auto")
    assert again.path == run.path
    assert again.status == "completed"
    assert steps(again) == 12


def test_a_stop_while_the_worker_loads_is_heard(submitted):
    run = submitted(training__max_steps=5000)
    until(lambda: run.status == "running", "the start")
    assert steps(run) == 0
    run.stop()
    assert run.wait().status == "stopped"
    assert steps(run) == 0
    assert run.events()[-1]["text"] == "Stopped before step 1."
    assert run.resume({"training.max_steps": 3}).wait().status == "completed"


def test_two_that_start_the_same_run_are_told_apart(submitted):
    run = submitted(training__max_steps=3)
    run.wait()
    (run.path / "starting").touch()
    with pytest.raises(nbft.RunError, match="is being started by another process"):
        run.resume({"training.max_steps": 5})


def test_opposite_commands_are_taken_in_order(submitted):
    run = submitted(training__max_steps=5000)
    until(lambda: steps(run) >= 1, "a step")
    for name in ("pause", "continue", "save", "stop"):
        events.append(run.path / "commands.jsonl", name)
    assert run.wait().status == "stopped"
    answers = [e["command"] for e in run.events() if e["event"] == "command"]
    assert answers == ["pause", "save", "stop"]
    assert [e["event"] for e in run.events() if e["event"] in ("paused", "continued")] == [
        "paused",
        "continued",
    ]


def test_a_loss_that_is_no_number_is_said_and_stops(train, tiny_model, tmp_path):
    import shutil

    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    shutil.copytree(tiny_model, broken)
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"][0] = float("nan")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    run = train(model__model_name=str(broken))
    assert run.status == "failed"
    assert run.problems[0].startswith(
        "The loss is nan at step 1, before the first update, so the cause is in the rows or in the "
        "model. Check the rows with nbft.doctor"
    )
    assert "learning_rate" not in run.problems[0]
    note = next(e for e in run.events() if e["event"] == "note")
    assert note["step"] == 1
    on = train(model__model_name=str(broken), training__stop_on_nan=False, training__max_steps=3)
    assert on.status == "completed"
    assert len([e for e in on.events() if e["event"] == "note"]) == 1


def test_the_supervisor_is_small_and_loads_no_torch(submitted):
    run = submitted(training__max_steps=5000)
    until(lambda: steps(run) >= 1, "a step")
    pid = next(e for e in run.events() if e["event"] == "queued")["pid"]
    maps = Path(f"/proc/{pid}/maps").read_text()
    assert "torch" not in maps
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    rss_kib = int(next(line for line in status if line.startswith("VmRSS")).split()[1])
    assert rss_kib < 25 * 1024


def test_the_run_outlives_the_one_who_submitted_it(make_config, tmp_path):
    config = make_config(training__max_steps=8)
    rows = config.data.train.datasets[0].rows
    import json

    data = tmp_path / "rows.jsonl"
    data.write_text("\n".join(json.dumps(row) for row in rows))
    config.data.train.datasets[0].rows = None
    config.data.train.datasets[0].path = str(data)
    config.save(tmp_path / "config.yaml", full=True)
    code = f"import nbft; print(nbft.submit({str(tmp_path / 'config.yaml')!r}).path)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    run = nbft.attach(out.stdout.strip())
    assert run.wait().status == "completed", run.problems


def test_a_supervisor_killed_before_its_worker_has_a_voice_loses_no_run(submitted):
    run = submitted(training__max_steps=2)
    until(lambda: len(run.events()) > 1, "the start of the worker")
    supervisor, starting_worker = run.events()[:2]
    assert starting_worker["event"] == "stage"  # the supervisor's word; the worker has said nothing
    os.kill(supervisor["pid"], signal.SIGKILL)
    seen = set()
    until(lambda: seen.add(run.status) or run.is_over, "the end")
    assert seen == {"running", "completed"}, run.problems
    assert worker_pid(run) == starting_worker["pid"]
