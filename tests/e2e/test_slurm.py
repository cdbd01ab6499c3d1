"""Runs as jobs of Slurm: its commands are played by `fake_slurm.py`, submitit and the rest are real."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import nbft
from nbft.errors import RunError
from nbft.launchers import slurm as module
from nbft.runs.summary import summary

from .conftest import losses, steps, until
from .test_ranks import processes

pytest.importorskip("submitit")


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """The folder of a cluster whose commands are on the PATH."""
    folder, commands = tmp_path / "cluster", tmp_path / "bin"
    folder.mkdir()
    commands.mkdir()
    code = Path(__file__).with_name("fake_slurm.py").read_text(encoding="utf-8")
    for name in ("sbatch", "srun", "squeue", "scancel", "scontrol"):
        (commands / name).write_text(f"#!{sys.executable}\n{code}")
        (commands / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(commands), prepend=os.pathsep)
    monkeypatch.setenv("FAKE_SLURM", str(folder))
    return folder


@pytest.fixture
def submitted(cluster, submitting, make_config):
    """Return a function that submits a run to the cluster."""

    def submit(**changes) -> nbft.Run:
        return submitting(make_config(compute__launcher="slurm", **changes))

    return submit


def ended(run: nbft.Run) -> str:
    until(lambda: run.is_over, "the end of the run")
    return run.status


def job_of(run: nbft.Run) -> str:
    return json.loads((run.path / "slurm" / "job.json").read_text())["job"]


def test_a_run_trains_on_a_node_as_it_does_here(submitted, train):
    run = submitted(compute__slurm={"gpus_per_node": 1, "partition": "short", "time": 30})
    assert ended(run) == "completed", run.problems
    assert losses(run) == losses(train())
    (script,) = (run.path.parents[1] / "cluster").glob("script-*.sh")
    asked = script.read_text()
    for line in ("--gpus-per-node=1", "--partition=short", "--time=30", f"--job-name={run.id}"):
        assert f"#SBATCH {line}" in asked
    assert run.state.prepared["device"] == "cpu"
    (said,) = (e["text"] for e in run.events() if e["event"] == "warning")
    assert said.startswith("Decided on this node: cpu (")
    assert "completed after step 6" in run.log_tail(50)


def test_a_waiting_run_is_neither_lost_nor_deaf(submitted, cluster):
    (cluster / "hold").touch()
    run = submitted()
    assert run.status == "queued"
    assert run.state.stage == "Waiting in the queue of Slurm."
    run.stop()
    assert run.status == "cancelled"
    (cluster / "hold").unlink()
    until(lambda: "CANCELLED" in next(cluster.glob("job-*.json")).read_text(), "the end of the job")
    assert "started" not in {e["event"] for e in run.events()}


@pytest.mark.parametrize("sent", ["time", "preempt", "preempt-requeue", "fail"])
def test_a_job_that_must_leave_goes_on_later(submitted, train, sent):
    expected = losses(train(training__max_steps=60))
    run = submitted(training__max_steps=60, checkpoint={"save_strategy": "steps", "save_steps": 2})
    until(lambda: steps(run) >= 5, "step 5")
    if sent == "time":
        subprocess.run(["scancel", job_of(run), "--signal=USR2"], check=True)
    else:
        subprocess.run(["scontrol", sent, job_of(run)], check=True)
    until(lambda: [e for e in run.events() if e["event"] == "started"][1:], "another start")
    assert ended(run) == "completed", run.problems
    kinds = [e["event"] for e in run.events()]
    assert (kinds.count("paused"), kinds.count("started")) == (int(sent != "fail"), 2)
    assert "stopped" not in kinds
    logged = {e["step"]: e["loss"] for e in run.events() if e["event"] == "log"}
    assert list(logged.values()) == expected  # after a node's death some steps are made again


def test_the_time_limit_ends_a_run_that_gets_no_further(submitted):
    run = submitted(training__max_steps=3000)
    until(lambda: run.state.supervisor.get("pid"), "the supervisor")
    subprocess.run(["scancel", job_of(run), "--signal=USR2"], check=True)
    assert ended(run) == "failed"
    (problem,) = run.problems
    assert problem == (
        "It saved nothing new within the time of its Slurm job, so it would never end. Give "
        "compute.slurm.time more minutes."
    )


def test_a_run_that_a_person_has_paused_does_not_go_on_by_itself(submitted):
    run = submitted(training__max_steps=60)
    until(lambda: steps(run) >= 3, "step 3")
    run.pause()
    until(lambda: run.status == "paused", "the pause")
    subprocess.run(["scancel", job_of(run), "--signal=USR2"], check=True)
    until(lambda: run.state.is_released, "the end of its process")
    job = job_of(run)
    until(
        lambda: "COMPLETED" in (run.path.parents[1] / f"cluster/job-{job}.json").read_text(), "it"
    )
    assert run.status == "paused"
    run.continue_()
    assert ended(run) == "completed", run.problems
    assert job_of(run) != job


def test_a_job_that_may_not_return_leaves_the_run_paused(submitted, cluster):
    (cluster / "no-requeue").touch()
    run = submitted(training__max_steps=60)
    until(lambda: steps(run) >= 3, "step 3")
    subprocess.run(["scancel", job_of(run), "--signal=USR2"], check=True)
    until(lambda: run.events()[-1].get("text", "").startswith("Its Slurm job could"), "the pause")
    assert run.events()[-1]["text"] == (
        "Its Slurm job could not return to the queue: Requested operation is presently disabled for "
        "job."
    )
    assert run.status == "paused"
    run.stop()
    assert run.status == "stopped"


def test_a_run_is_stopped_and_resumed_in_a_new_job(submitted):
    run = submitted(training__max_steps=60)
    until(lambda: steps(run) >= 3, "step 3")
    run.stop()
    assert ended(run) == "stopped"
    first = job_of(run)
    run.resume()
    assert ended(run) == "completed", run.problems
    assert job_of(run) != first


def test_a_run_that_was_submitted_again_belongs_to_the_new_job(submitted, cluster):
    (cluster / "hold").touch()
    run = submitted()
    first = module.Job(str(run.path), run.events()[-2]["job"])
    run.stop()
    run.resume()
    before = run.events()
    first()
    assert run.events() == before
    states = [file.read_text() for file in sorted(cluster.glob("job-*.json"))]
    assert ["CANCELLED" in state for state in states] == [True, False]
    (cluster / "hold").unlink()
    assert ended(run) == "completed", run.problems


def test_a_job_that_a_person_cancels_is_not_put_back(submitted):
    run = submitted(training__max_steps=3000)
    until(lambda: steps(run) >= 3, "step 3")
    subprocess.run(["scancel", job_of(run)], check=True)
    until(lambda: run.state.is_released, "the end of its process")
    assert run.events()[-1]["text"].startswith("Paused because the system asked (SIGTERM)")
    assert [e["event"] for e in run.events()].count("started") == 1


def test_a_job_that_ends_without_a_word_is_noticed(submitted, cluster, monkeypatch):
    (cluster / "hold").touch()
    run = submitted()
    subprocess.run(["scancel", job_of(run)], check=True)
    monkeypatch.setattr(module, "_ASK_SECONDS", 0.001)
    monkeypatch.setattr(module, "_LATE_SECONDS", 0.0)
    assert summary(run)["status"] == "queued"
    assert summary(run)["status"] == "failed"
    (problem,) = run.problems
    assert problem.startswith(
        f"Its Slurm job {job_of(run)} is over and did not report how it ended."
    )


def test_commands_of_somebody_else_are_asked_for(submitted, cluster):
    (cluster / "hold").touch()
    run = submitted(compute__slurm={"setup": ["module load cuda"]})
    run.stop()
    run.resume()  # made here, so it is one's own
    run.stop()
    settings = run.config.apply({"compute.slurm": {"setup": ["rm -rf /"]}})
    settings.save(run.path / "config.yaml", full=True)
    with pytest.raises(RunError, match=r"would run code from compute\.slurm\.setup"):
        run.resume()
    assert len([*cluster.glob("job-*.json")]) == 2


@pytest.mark.parametrize("number", ["--me", "1"])
def test_only_a_job_of_the_run_itself_is_cancelled(submitted, cluster, number):
    (cluster / "hold").touch()
    first, second = submitted(), submitted()
    (second.path / "slurm" / "job.json").write_text(json.dumps({"job": number, "host": ""}))
    second.stop()
    states = [json.loads(f.read_text())["state"] for f in sorted(cluster.glob("job-*.json"))]
    assert states == ["PENDING", "PENDING"]
    assert first.status == "queued"


def test_a_second_signal_of_the_cluster_changes_nothing(submitted):
    run = submitted(training__max_steps=60)
    until(lambda: steps(run) >= 3, "step 3")
    worker = run.state.started["pid"]
    for _ in range(2):
        os.kill(worker, signal.SIGTERM)
    assert ended(run) == "completed", run.problems
    assert "stopped" not in {e["event"] for e in run.events()}


def test_a_person_who_stops_a_run_gets_its_adapter(submitted):
    run = submitted(training__max_steps=60)
    until(lambda: steps(run) >= 3, "step 3")
    run.stop()
    subprocess.run(["scancel", job_of(run), "--signal=USR2"], check=True)
    assert ended(run) == "stopped"
    assert run.adapter is not None


def test_resuming_where_there_is_no_cluster_changes_nothing(submitted, monkeypatch, tmp_path):
    run = submitted(training__max_steps=60)
    until(lambda: steps(run) >= 3, "step 3")
    run.stop()
    assert ended(run) == "stopped"
    before = run.events()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RunError, match="sbatch and srun were not found"):
        run.resume()
    assert run.events() == before


def test_what_slurm_refuses_is_said(submitted, cluster, tmp_path):
    (cluster / "refuse").write_text("sbatch: error: invalid partition specified: gpu")
    with pytest.raises(RunError, match="invalid partition specified: gpu"):
        submitted()
    runs = [*tmp_path.glob("*/run.json"), *tmp_path.glob("*/*/run.json")]
    with pytest.raises(RunError, match=r"compute\.slurm=\{'colour': 1\}"):
        submitted(compute__slurm={"colour": 1})
    assert [*tmp_path.glob("*/run.json"), *tmp_path.glob("*/*/run.json")] == runs


def test_without_a_cluster_or_submitit(make_config, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RunError, match="sbatch and srun were not found"):
        nbft.submit(make_config(), launcher="slurm")
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(RunError, match="pip install submitit"):
        nbft.submit(make_config(), launcher="slurm")


PLAIN = {
    "training__per_device_train_batch_size": 2,
    "checkpoint": {"save_strategy": "steps", "save_steps": 2},
    "peft__lora_dropout": 0.0,
    "precision__mixed_precision": "no",
}


@pytest.fixture
def on_two_nodes(submitted):
    """Return a function that submits a run which two nodes train, one process each."""
    return lambda steps: submitted(
        **PLAIN,
        compute__slurm={"nodes": 2},
        distributed__num_processes=2,
        training__max_steps=steps,
    )


@pytest.fixture
def alone(train):
    """Return a function that trains the same in one process, and returns its losses."""
    return lambda steps: losses(
        train(**PLAIN, training__gradient_accumulation_steps=2, training__max_steps=steps)
    )


def test_two_nodes_train_as_one_process_does(on_two_nodes, alone, cluster):
    run = on_two_nodes(6)
    assert ended(run) == "completed", run.problems
    assert losses(run) == pytest.approx(alone(6), abs=1e-5)
    start = json.loads((run.path / "ranks" / "start.json").read_text())
    assert start["rendezvous"].startswith("tcp://127.0.0.1:")
    job = cluster / f"job-{job_of(run)}.json"
    until(lambda: "COMPLETED" in job.read_text(), "the end of the job")
    assert not processes(run)


@pytest.mark.parametrize("sent", ["kill-node", "preempt"])
def test_two_nodes_go_on_later(on_two_nodes, alone, sent):
    run = on_two_nodes(40)
    until(lambda: steps(run) >= 5, "step 5")
    subprocess.run(["scontrol", sent, job_of(run)], check=True)
    until(lambda: [e for e in run.events() if e["event"] == "started"][1:], "another start")
    assert ended(run) == "completed", run.problems
    paused = [e.get("text", "") for e in run.events() if e["event"] == "paused"]
    assert len(paused) == 1
    if sent == "kill-node":
        assert paused == ["Node 2 of 2 does not answer any more."]
    logged = {e["step"]: e["loss"] for e in run.events() if e["event"] == "log"}
    assert list(logged.values()) == pytest.approx(alone(40), abs=1e-5)


def test_a_process_that_dies_on_another_node_is_named(on_two_nodes):
    run = on_two_nodes(3000)
    until(lambda: steps(run) >= 3, "step 3")
    os.kill(processes(run)[1], signal.SIGKILL)
    assert ended(run) == "failed"
    (problem,) = run.problems
    assert problem.startswith("Process 2 of 2 on node 2 was killed after step ")
    assert not processes(run)
