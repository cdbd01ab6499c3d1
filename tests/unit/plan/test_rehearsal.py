import json
import subprocess
from dataclasses import replace
from types import SimpleNamespace

import pytest

from nbft.config import Config
from nbft.errors import ConfigError, NbftError, Problem
from nbft.plan import make_plan, probe
from nbft.plan.rehearsal import Simulation, simulated_parts

FOUND = {
    "peak_bytes": 1000,
    "parts": {"weights": 600, "adapter": 50, "optimizer": 100},
    "layers": [1, 2],
    "total_layers": 30,
}


@pytest.fixture
def plan(tiny_model):
    rows = [{"prompt": "What?", "completion": "That. " * 20}] * 8
    data = {"train": {"rows": rows}, "split_ratio": 1.0}
    return make_plan(Config(model={"model_name": str(tiny_model)}, data=data))


def answering(monkeypatch, **done):
    asked = {}

    def run(command, **arguments):
        asked.update(json.loads(arguments["input"]))
        return SimpleNamespace(**({"returncode": 0, "stderr": "", "stdout": "{}"} | done))

    monkeypatch.setattr(subprocess, "run", run)
    return asked


def test_a_simulated_plan_says_so(plan, monkeypatch):
    asked = answering(monkeypatch, stdout=json.dumps(FOUND))
    simulated = plan.simulate()
    assert len(asked["lengths"]) == plan.config.training.per_device_train_batch_size
    assert "train" not in asked["config"].get("data", {})  # rows stay here
    kept = plan.memory_parts["libraries"] + plan.memory_parts["fragmentation"]
    assert simulated.memory_bytes == 1000 + kept == sum(simulated.memory_parts.values())
    assert simulated.memory_source == "simulation"
    assert simulated.assumptions[-1] == (
        "The memory is that of simulated steps of 1 and 2 layers, continued to 30."
    )
    assert simulated.total_steps == plan.total_steps
    lowest, highest = simulated.ranges["memory_bytes"]
    assert lowest < simulated.memory_bytes < highest


def test_what_does_not_fit_is_said_after_a_simulation_too(plan, monkeypatch):
    assert all("needs about" not in problem.why for problem in plan.problems)
    answering(monkeypatch, stdout=json.dumps(FOUND | {"peak_bytes": 2**50}))
    (problem,) = (p for p in plan.simulate().problems if "needs about" in p.why)
    assert problem.field == "training.per_device_train_batch_size"
    answering(monkeypatch, stdout=json.dumps(FOUND))
    assert all("needs about" not in p.why for p in plan.simulate().problems)


def test_a_step_that_cannot_be_simulated_leaves_the_estimate(plan, monkeypatch):
    answering(monkeypatch, returncode=1, stderr="Traceback …\nValueError: an odd model\n")
    with pytest.raises(NbftError, match=r"simulated \(ValueError: an odd model\)"):
        plan.simulate()


def test_quantised_weights_are_counted():
    planned = {"weights": 70, "libraries": 5, "fragmentation": 1}
    parts = simulated_parts(planned, Simulation(**FOUND), is_quantised=True)
    assert parts["weights"] == 70
    assert parts["step"] == 250


def test_a_real_simulation_is_near_the_estimate(plan):
    simulated = plan.simulate()
    assert simulated.memory_bytes == pytest.approx(plan.memory_bytes, rel=0.1)


def test_a_probe_plans_by_what_steps_took(plan, monkeypatch):
    took = {"peak_bytes": 2**30, "batch_seconds": 2.0, "update_seconds": 0.5}
    asked = answering(monkeypatch, stdout="a library's remark\n" + json.dumps(took))
    probed = plan.probe()
    assert len(asked["fullest"]) == len(asked["typical"])
    assert sum(asked["typical"]) <= sum(asked["fullest"])
    assert probed.memory_bytes == 2**30
    assert probed.ranges["memory_bytes"] == pytest.approx((0.95 * 2**30, 1.05 * 2**30))
    batches = plan.config.training.gradient_accumulation_steps
    a_step = 2.0 * batches + 0.5
    assert probed.stages["training"] == pytest.approx(a_step * plan.total_steps)
    assert probed.seconds == round(sum(probed.stages.values()))
    assert probed.memory_source == "probe"


def test_a_config_that_cannot_run_is_not_probed(tiny_model):
    with pytest.raises(ConfigError):
        probe(Config(model={"model_name": str(tiny_model)}, data={"path": "nowhere.jsonl"}))


def test_a_real_probe_measures_this_machine(plan):
    probed = plan.probe()
    assert probed.memory_bytes == pytest.approx(plan.memory_bytes, rel=0.2)
    assert 0 < probed.stages["training"] < 600


def test_code_that_nobody_allowed_is_not_run(plan, monkeypatch):
    def run(*_, **__):
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "run", run)
    code = SimpleNamespace(problem=Problem("model.trust_remote_code", True, "is not allowed."))
    monkeypatch.setattr("nbft.plan.plan.forbidden", lambda config: [code])
    for rehearse in (plan.simulate, plan.probe):
        with pytest.raises(ConfigError, match="is not allowed"):
            rehearse()


def test_nothing_is_rehearsed_without_rows(plan):
    empty = replace(plan, lengths_tokens=())
    with pytest.raises(NbftError, match="simulated without training rows"):
        empty.simulate()
    with pytest.raises(NbftError, match="probed without training rows"):
        empty.probe()
