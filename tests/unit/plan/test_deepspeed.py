"""DeepSpeed's configuration: its stages are done with FSDP2, and the rest has to agree with ours."""

import json

import pytest

import nbft
from nbft.errors import ConfigError

FIELD = "distributed.deepspeed"
ZERO = {"stage": 2, "overlap_comm": True, "reduce_bucket_size": "auto", "sub_group_size": 1e9}
PLAIN = {
    "zero_optimization": ZERO,
    "bf16": {"enabled": "auto"},
    "fp16": {"enabled": False},
    "train_batch_size": "auto",
    "gradient_clipping": "auto",
    "optimizer": {"type": "AdamW", "params": {"lr": "auto", "betas": "auto"}},
    "steps_per_print": 2000,
    "wall_clock_breakdown": False,
    "flops_profiler": {"enabled": False},
    "elasticity": {"enabled": False},
}


def plan(given, processes=2, **sections):
    ours = {"num_processes": processes, "deepspeed": given}
    return nbft.make_plan(
        nbft.Config(data={"dataset_name": "grammar"}, distributed=ours, **sections)
    )


def found(made):
    return [p for p in made.problems if p.field.startswith(FIELD)]


@pytest.mark.parametrize(
    ("stage", "shards"), [(0, None), (1, "gradients"), (2, "gradients"), (3, "weights")]
)
def test_a_stage_says_what_is_sharded(stage, shards):
    made = plan({**PLAIN, "zero_optimization": {"stage": stage}})
    said = " ".join(made.remarks)
    assert (f"Stage {stage} of distributed.deepspeed" in said) is (stage > 0)
    assert not found(made)
    assert made.config.distributed.shards == shards
    assert made.config.apply({"distributed.num_processes": 1}).distributed.shards is None


def test_a_file_is_read_at_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "zero3.json").write_text(json.dumps({"zero_optimization": {"stage": 3}}))
    config = nbft.Config(distributed={"deepspeed": "zero3.json"})
    (tmp_path / "zero3.json").unlink()
    assert nbft.Config.from_yaml(config.to_yaml()).distributed.stage == 3
    with pytest.raises(ConfigError, match=r"zero3\.json: no such file"):
        nbft.Config(distributed={"deepspeed": "zero3.json"})
    (tmp_path / "list.json").write_text("[1]")
    with pytest.raises(ConfigError, match=r"list\.json"):
        nbft.Config(distributed={"deepspeed": "list.json"})
    assert nbft.Config(distributed={"deepspeed": ""}).distributed.deepspeed is None


@pytest.mark.parametrize("zero", [{"stage": 4}, {"stage": "3"}, {"stage": True}, 3, [1]])
def test_a_stage_that_does_not_exist_is_refused(zero):
    with pytest.raises(ConfigError, match="zero_optimization"):
        nbft.Config(distributed={"deepspeed": {"zero_optimization": zero}})


SAID = [
    # key, value, what is said, the settings that the fix changes
    ("gradient_clipping", 0.5, "training.max_grad_norm=1.0", {"training.max_grad_norm": 0.5}),
    ("train_micro_batch_size_per_gpu", 2, "per_device_train_batch_size=4", ...),
    ("gradient_accumulation_steps", 2, "training.gradient_accumulation_steps=4", ...),
    ("gradient_accumulation_steps", 2.5, "training.gradient_accumulation_steps=4", "auto"),
    ("train_batch_size", 16, "4 rows × 4 accumulated × 2 processes = 32", ...),
    ("train_batch_size", 17, "4 rows × 4 accumulated × 2 processes = 32", "auto"),
    ("train_batch_size", "many", "4 rows × 4 accumulated × 2 processes = 32", "auto"),
    ("optimizer.params.lr", "fast", "is no number", "auto"),
    ("optimizer.params.lr", 1e-3, "training.learning_rate=0.0002", ...),
    ("optimizer.params.betas", [0.9, 0.95], "optimizer.adam_beta2=0.999", ...),
    ("optimizer.params.betas", 0.9, "is no list of two numbers", "auto"),
    ("optimizer.type", "OneBitAdam", "is chosen with optimizer.optim", None),
    ("scheduler.type", "OneCycle", "is chosen with scheduler.lr_scheduler_type", None),
    ("scheduler.type", "WarmupCosineLR", "", "nothing"),
    ("fp16.enabled", True, "precision.mixed_precision", ...),
    ("fp16", "yes", "is no block of keys", None),
    ("zero_optimization.offload_optimizer.device", "nvme", "can be in CPU memory", "cpu"),
    ("zero_optimization.cpu_offload", True, "is zero_optimization.offload_optimizer", None),
    ("zero_optimization.zero_quantized_weights", True, "is not known to nbft", None),
    ("zero_optimization.mics_shard_size", 2, "distributed.sharding_parallel_size=1", ...),
    ("compression_training", {"layer_reduction": {}}, "is not known to nbft", None),
    (
        "activation_checkpointing",
        {"cpu_checkpointing": True},
        "memory.gradient_checkpointing",
        None,
    ),
    ("optimizer.params.adam_w_mode", False, "is not known to nbft", None),
    ("optimizer.params.bias_correction", False, "is not known to nbft", None),
    ("optimizer.params.adam_w_mode", True, "", "nothing"),
    ("scheduler.params.cos_min_ratio", 0.1, "is not known to nbft", None),
    ("fp16.loss_scale", 128, "is precision.loss_scale here", None),
    ("bf16.immediate_grad_update", True, "is not known to nbft", None),
    ("zero_optimization.offload_optimizer", "cpu", "is no block of keys", None),
    ("zero_optimization.offload_param.device", None, "", "nothing"),
    ("zero_optimization.mics_shard_size", -1, "", "nothing"),
    ("zero_optimization.zero_hpz_partition_size", 1, "", "nothing"),
    ("scheduler.params.total_num_steps", 100, "", "nothing"),
    ("gradient_clipping", 0, "training.max_grad_norm=1.0", {"training.max_grad_norm": 0}),
    ("wandb", {"enabled": True}, "tracking.report_to", None),
]


@pytest.mark.parametrize(("key", "value", "said", "use"), SAID)
def test_what_differs_is_said_and_mended(key, value, said, use):
    made = plan(PLAIN)
    asked = nbft.make_plan(made.config.apply({f"{FIELD}.{key}": value}))
    if use == "nothing":
        assert not found(asked)
        return
    (problem,) = (p for p in found(asked) if p.field == f"{FIELD}.{key}")
    assert problem.level == "error"
    assert said in problem.why
    if use is not ...:
        assert list(problem.changes.values()) == [
            next(iter(use.values())) if isinstance(use, dict) else use
        ]
    mended = nbft.make_plan(asked.config.apply(problem.changes))
    assert problem.field not in {p.field for p in found(mended)}


def test_gradients_that_deepspeed_would_not_clip():
    given = {name: value for name, value in PLAIN.items() if name != "gradient_clipping"}
    (problem,) = found(plan(given))
    assert problem.level == "warning"
    assert "DeepSpeed clips nothing" in problem.why
    assert not found(nbft.make_plan(plan(given).config.apply(problem.changes)))
    assert not found(plan(given, training={"max_grad_norm": 0}))


def test_the_steps_of_a_schedule():
    given = {**PLAIN, "scheduler": {"params": {"total_num_steps": 100}}}
    assert not found(plan(given))
    (problem,) = found(plan(given, training={"max_steps": 60}))
    assert problem.changes == {"training.max_steps": 100}


def test_a_schedule_and_how_it_rises():
    given = {**PLAIN, "scheduler": {"type": "WarmupDecayLR", "params": {"warmup_min_lr": 1e-5}}}
    fields = {p.field.removeprefix(f"{FIELD}.scheduler."): p for p in found(plan(given))}
    assert fields.keys() == {"type", "params.warmup_min_lr", "params.warmup_type"}
    assert fields["params.warmup_type"].level == "warning"  # the numbers of the first steps differ
    config = plan(given).config
    for problem in fields.values():
        config = config.apply(problem.changes)
    assert not found(nbft.make_plan(config))
    assert config.scheduler.lr_scheduler_type == "linear"


def test_one_process_is_told_and_trains():
    assert not nbft.make_plan(nbft.Config(data={"dataset_name": "grammar"})).problems
    made = plan({"gradient_clipping": 0.5, "zero_optimization": {"stage": 3}}, processes=1)
    (problem,) = found(made)
    assert problem.level == "warning"
    assert not made.errors


def test_shards_in_cpu_memory_are_asked_for():
    zero = {"stage": 3, "offload_param": {"device": "cpu", "pin_memory": True}}
    assert plan({"zero_optimization": zero}).config.distributed.offloads
    zero = {"stage": 3, "offload_param": {"device": "none"}}
    assert not plan({"zero_optimization": zero}).config.distributed.offloads
