"""Plans for a node of a cluster, which the machine that submits cannot ask."""

from __future__ import annotations

from typing import Any

import pytest

import nbft
from nbft.config.code import code_of
from nbft.plan import make_plan
from nbft.plan.cluster import gpus_asked, trained_here
from nbft.runs.race import Entrant, check_entrants

GIB = 2**30
DATA = {"rows": [{"prompt": "a", "completion": "b"}] * 8}


def plan(**changes: Any) -> nbft.Plan:
    return make_plan(nbft.Config(data=DATA, compute={"launcher": "slurm", **changes}))


@pytest.mark.parametrize(
    ("options", "device", "free_bytes", "said"),
    [
        (
            {"gpus_per_node": 1},
            "cuda",
            39.2 * GIB,
            (
                "Planned for A100, 40 GB, which is assumed: compute.slurm does not say. The node may "
                "have less, and then the run fails."
            ),
        ),
        (
            {"gpus_per_node": "h100:2"},
            "cuda",
            78.7 * GIB,
            "Planned for 2 × H100, 80 GB, as compute.slurm asks for it.",
        ),
        (
            {"gres": "gpu:t4:1"},
            "cuda",
            14.6 * GIB,
            "Planned for Tesla T4, 16 GB, as compute.slurm asks for it.",
        ),
        (
            {"constraint": "l4", "gres": "gpu"},
            "cuda",
            22 * GIB,
            "Planned for L4, 24 GB, as compute.slurm asks for it.",
        ),
        (
            {"mem": "16GB", "gres": "license:2"},
            "cpu",
            16e9,
            "Planned for a node with 15 GiB of memory, as compute.slurm asks for it.",
        ),
    ],
)
def test_a_run_is_planned_for_its_node(options, device, free_bytes, said):
    made = plan(slurm=options)
    assert made.device.value == device
    assert made.free_memory_bytes == pytest.approx(free_bytes, rel=1e-6)
    assert made.remarks[0] == said
    assert not made.errors


def test_auto_is_a_process_for_each_gpu_of_the_job():
    config = nbft.Config(
        compute={"launcher": "slurm", "slurm": {"gpus_per_node": "a100:4"}},
        distributed={"num_processes": "auto"},
    )
    assert make_plan(config).config.distributed.num_processes == 4


@pytest.mark.parametrize(
    ("options", "devices", "said"),
    [
        (
            {"nodes": 2, "gpus_per_node": "h100:4"},
            8,
            "Planned for 2 nodes, each with 4 × H100, 80 GB, as compute.slurm asks for it.",
        ),
        (
            {"nodes": 2, "mem": "16GB"},
            1,
            "Planned for 2 nodes, each with 15 GiB of memory, as compute.slurm asks for it.",
        ),
    ],
)
def test_several_nodes_are_planned_for_together(options, devices, said):
    config = nbft.Config(
        data=DATA,
        compute={"launcher": "slurm", "slurm": options},
        distributed={"num_processes": "auto" if devices > 1 else 2},
        training={"per_device_train_batch_size": 1},
    )
    made = make_plan(config)
    assert made.remarks[0] == said
    assert made.config.distributed.num_processes == max(2, devices)
    assert made.devices == devices
    assert not made.errors


@pytest.mark.parametrize(
    ("nodes", "processes", "field", "why", "use"),
    [
        (
            2,
            3,
            "distributed.num_processes",
            "has to be a multiple of the nodes that compute.slurm asks for, 2: each has as many.",
            4,
        ),
        (
            2,
            1,
            "distributed.num_processes",
            "has to be a multiple of the nodes that compute.slurm asks for, 2: each has as many.",
            2,
        ),
        (
            "two",
            1,
            "compute.slurm",
            "has nodes='two'; it is a whole number of nodes, at least 1.",
            {"time": 5},
        ),
    ],
)
def test_processes_that_nodes_cannot_share(nodes, processes, field, why, use):
    slurm = {"nodes": nodes, "time": 5}
    made = make_plan(
        nbft.Config(
            data=DATA,
            compute={"launcher": "slurm", "slurm": slurm},
            distributed={"num_processes": processes},
        )
    )
    (problem,) = made.errors
    assert (problem.field, problem.why) == (field, why)
    assert problem.changes == {field: use}
    assert not make_plan(made.config.apply(problem.changes)).errors


def test_a_node_has_one_task():
    (problem,) = plan(slurm={"ntasks": 4, "time": 5}).errors
    assert problem.why == "has ntasks=4, but there is one task of srun for each node."
    assert problem.changes == {"compute.slurm": {"time": 5}}


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"time": "01:00:00"}, "has time='01:00:00'; it is a whole number of minutes, at least 1."),
        ({"time": 0}, "has time=0; it is a whole number of minutes, at least 1."),
        (
            {"time": 1},
            (
                "has signal_delay_s=90 and time=1; the run is stopped so many seconds before the "
                "end, which must lie between 0 and 60."
            ),
        ),
        (
            {"additional_parameters": {"comment": ["a", "b\nrm -rf /"]}},
            "has a line break or another control character in additional_parameters.",
        ),
        (
            {"use_srun": False},
            "has use_srun=False, but a run has one task of srun on each node.",
        ),
    ],
)
def test_what_a_job_cannot_do(options, why):
    (problem,) = plan(slurm=options).errors
    assert (problem.field, problem.why) == ("compute.slurm", why)


@pytest.mark.parametrize(
    ("options", "number"),
    [
        ({"gres": "license:2,gpu:a100:3(S:0)"}, 3),
        ({"gpus_per_node": "h100"}, 1),
        ({"additional_parameters": {"gpus-per-task": 2}}, 2),
        ({"gres": "license:2"}, 0),
        ({}, 0),
    ],
)
def test_gpus_are_counted(options, number):
    assert gpus_asked(nbft.Config(compute={"launcher": "slurm", "slurm": options})) == number


def test_commands_of_a_job_are_code():
    options = {
        "setup": ["module load cuda"],
        "partition": "gpu",
        "additional_parameters": {"export": "BASH_ENV=x.sh"},
    }
    codes = code_of(nbft.Config(compute={"slurm": options}))
    assert [(code.setting, code.source) for code in codes] == [
        ("compute.slurm", '[\n  "module load cuda"\n]'),
        ("compute.slurm", '{\n  "export": "BASH_ENV=x.sh"\n}'),
    ]


def test_other_launchers_are_planned_for_this_machine():
    here = make_plan(nbft.Config(data=DATA, compute={"slurm": {"gpus_per_node": 8, "nodes": 2}}))
    assert here.device == make_plan(nbft.Config(data=DATA)).device
    assert not here.errors


def test_what_trains_here_is_planned_for_this_machine(tmp_path):
    on_cluster = {"launcher": "slurm", "slurm": {"gpus_per_node": 8}}
    config = nbft.Config(data=DATA, compute=on_cluster, training={"output_dir": str(tmp_path)})
    entrants = [Entrant(config, {}), Entrant(config, {})]
    here = make_plan(nbft.Config(data=DATA)).device
    assert {plan.device for plan in check_entrants(entrants)} == {here}
    assert make_plan(trained_here(config)).device == here
    assert trained_here(config).compute.slurm == config.compute.slurm
