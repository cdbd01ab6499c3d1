"""What several processes need, in the plan of a run."""

import jsonschema
import pytest

import nbft
from nbft.pages.plan import summary
from nbft.plan import several

FIELD = "distributed.num_processes"


def plan(processes=2, **sections):
    data = {"dataset_name": "grammar", **sections.pop("data", {})}
    ours = {"num_processes": processes, **sections.pop("distributed", {})}
    return nbft.make_plan(nbft.Config(data=data, distributed=ours, **sections))


def test_a_step_has_the_rows_of_all_processes():
    training = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 3}
    one, two = plan(1, training=training), plan(2, training=training)
    assert (one.effective_batch_size, two.effective_batch_size) == (6, 12)
    assert two.total_steps == pytest.approx(one.total_steps / 2, abs=1)
    assert two.tokens == pytest.approx(one.tokens, rel=0.01)
    buckets = 4 * two.trainable_parameters  # of gradients, in each process
    assert two.memory_bytes == pytest.approx(2 * (one.memory_bytes + buckets), rel=0.01)
    assert any("each computes its share of the 12 rows of a step" in text for text in two.remarks)
    assert not any("processes" in text for text in one.remarks)
    assert "2 (DDP)" in summary(two)
    assert "DDP" not in summary(one)


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"training.method": "grpo"}, "training.method=grpo"),
        ({"data.train.stream": True}, "data.train.stream"),
        ({"data.max_tokens_per_batch": 512}, "data.max_tokens_per_batch"),
        ({"distributed.dispatch_batches": True}, "distributed.dispatch_batches"),
        (
            {"distributed.accelerator_config": {"split_batches": True}},
            "distributed.accelerator_config.split_batches",
        ),
        ({"model.device_map": "auto"}, "model.device_map"),
        ({"memory.auto_find_batch_size": True}, "memory.auto_find_batch_size"),
    ],
)
def test_what_several_cannot_do_is_refused_by_name_and_mended(changes, what):
    one = plan(1).config.apply(changes)
    made = nbft.make_plan(one.apply({FIELD: 2}))
    found = [p for p in made.errors if p.field == FIELD]
    assert [p.why for p in found] == [f"does not go with {what} yet."]
    mended = nbft.make_plan(made.config.apply(found[0].changes))
    assert FIELD not in {p.field for p in (*mended.errors, *nbft.make_plan(one).errors)}


def test_each_process_needs_a_device(monkeypatch):
    from nbft.decisions import Choice, decide

    config = nbft.Config(distributed={"num_processes": 4})
    made = decide(config)
    monkeypatch.setattr(several, "gpu_count", lambda device: 2)
    on_gpu = type(made)(Choice("cuda", ""), made.dtype, made.mixed_precision, made.parts)
    (problem,) = several.several_problems(config, on_gpu)
    assert problem.why == "needs a device for each process, and there are 2 devices here."
    assert problem.changes == {FIELD: 2}
    assert not [*several.several_problems(config, made)]


def test_the_backend_suits_the_device():
    (problem,) = (
        p for p in plan(2, distributed={"ddp_backend": "nccl"}).errors if "backend" in p.field
    )
    assert problem.why == "is for GPUs, and this run uses the CPU."


def test_rows_that_fill_the_last_batches_are_said():
    rows = [{"prompt": f"{n}?", "completion": f" {n}"} for n in range(18)]
    data = {"train": {"datasets": [{"rows": rows}]}, "split_ratio": 1.0}
    for batch, filled in ((2, 2), (3, 0), (4, 6)):
        config = nbft.Config(
            data=data,
            training={"per_device_train_batch_size": batch},
            distributed={"num_processes": 2},
            evaluation={"eval_strategy": "no"},
        )
        said = [text for text in nbft.make_plan(config).remarks if "filled up" in text]
        assert bool(said) == bool(filled)
        assert all(f"with {filled} rows" in text for text in said)


@pytest.mark.parametrize(
    ("training", "is_filled"),
    [
        ({"max_steps": 4}, False),  # of 5 in an epoch
        ({"max_steps": 5}, True),
        ({"num_samples_each_epoch": 16}, False),
    ],
)
def test_an_epoch_that_is_not_reached_or_fits_fills_nothing_up(training, is_filled):
    rows = [{"prompt": f"{n}?", "completion": f" {n}"} for n in range(18)]
    config = nbft.Config(
        data={"train": {"datasets": [{"rows": rows}]}, "split_ratio": 1.0},
        training={
            "per_device_train_batch_size": 2,
            "gradient_accumulation_steps": 1,
            **training,
        },
        distributed={"num_processes": 2},
        evaluation={"eval_strategy": "no"},
    )
    remarks = nbft.make_plan(config).remarks
    assert any("filled up" in text for text in remarks) == is_filled


@pytest.mark.parametrize("try_it", [lambda p: p.simulate(), lambda p: p.probe()])
def test_a_step_of_several_is_not_rehearsed(try_it):
    with pytest.raises(nbft.NbftError, match="A step of several processes cannot be"):
        try_it(plan(2))


def test_what_trains_in_one_process_says_so():
    config = nbft.Config(data={"dataset_name": "grammar"}, distributed={"num_processes": 2})
    with pytest.raises(nbft.ConfigError, match="the learning rate test runs in one process"):
        nbft.find_learning_rate(config)
    with pytest.raises(nbft.ConfigError, match="a race trains in one process on one device"):
        nbft.race(config, {"training.learning_rate": [1e-4, 2e-4]})


ZERO = {"distributed.deepspeed": {"zero_optimization": {"stage": 2}}}
SHARDED = {"distributed.fsdp": "full_shard"}


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"quantization.load_in_4bit": True}, "weights in 4 or 8 bits (quantization)"),
        ({"peft.method": "ia3"}, "peft.method=ia3"),
        ({"peft.init_lora_weights": "eva"}, "peft.init_lora_weights=eva"),
        ({"peft.init_lora_weights": "random"}, "peft.init_lora_weights=random"),
        ({"optimizer.optim": "adafactor"}, "optimizer.optim=adafactor"),
        ({"optimizer.moment_dtype": "bfloat16"}, "optimizer.moment_dtype=bfloat16"),
        ({"precision.fp8": True}, "precision.fp8"),
        ({"compute.torch_compile": True}, "compute.torch_compile"),
        (
            {"training.method": "dpo", "preference.ref_model_update_steps": 5},
            "preference.ref_model_update_steps",
        ),
        (
            {
                "checkpoint.quantize_checkpoint": True,
                "checkpoint.state_dict_type": "SHARDED_STATE_DICT",
            },
            "checkpoint.quantize_checkpoint with checkpoint.state_dict_type=SHARDED_STATE_DICT",
        ),
    ],
)
@pytest.mark.parametrize("engine", [SHARDED, {"distributed.sharding": "stage2"}, ZERO])
def test_what_needs_whole_weights_is_refused_by_name_and_mended(changes, what, engine):
    one = plan(1).config.apply(changes)
    made = nbft.make_plan(one.apply({FIELD: 2, **engine}))
    (field,) = engine
    found = [p for p in made.errors if p.field == field]
    assert [p.why for p in found] == [f"does not go with {what}."]
    mended = nbft.make_plan(made.config.apply(found[0].changes))
    assert not {field, FIELD} & {p.field for p in mended.errors}
    alone = nbft.make_plan(one.apply(engine))  # has nothing to shard
    assert not {field, FIELD} & {p.field for p in alone.errors}


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"sharding_parallel_size": 3}, "does not divide distributed.num_processes, which is 4."),
        ({"sharding_parallel_size": 2, "fsdp": None}, "has no effect on whole copies"),
    ],
)
def test_copies_that_processes_cannot_share(changes, why):
    made = plan(4, distributed={"fsdp": "full_shard", **changes})
    (problem,) = (p for p in made.errors if p.field == "distributed.sharding_parallel_size")
    assert problem.why.startswith(why)
    assert not nbft.make_plan(made.config.apply(problem.changes)).errors


@pytest.mark.parametrize(
    ("changes", "level"),
    [
        ({"fsdp_use_orig_params": False}, "error"),
        ({"fsdp_backward_prefetch": "backward_post"}, "error"),
        ({"sharding_parallel_config": ["enable_stage1_overlap"]}, "warning"),
        ({"fsdp_config": {"version": 1}}, "warning"),
        ({"fsdp_config": {"activation_checkpointing": True}}, "error"),
        ({"fsdp_config": {"xla": True}}, "error"),
        ({"fsdp_config": {"reshard_after_forward": False}}, "error"),
        ({"fsdp_config": {"version": "v1"}}, "warning"),
    ],
)
def test_what_fsdp2_does_in_any_case_is_refused_or_said(changes, level):
    (name,) = changes
    made = plan(distributed={"fsdp": "full_shard", **changes})
    (problem,) = (p for p in made.problems if p.field == f"distributed.{name}")
    assert problem.level == level
    mended = nbft.make_plan(made.config.apply(problem.changes))
    assert problem.field not in {p.field for p in mended.problems}
    harmless = {"fsdp_config": {"fsdp_version": 2, "limit_all_gathers": True}}
    assert not plan(distributed={"fsdp": "full_shard", **harmless}).errors


def test_the_head_of_split_layers_is_whole():
    split = {"tensor_parallel_size": 3, "tensor_parallel_output": False}
    (problem,) = (p for p in plan(3, distributed=split).warnings if p.field.endswith("_output"))
    assert problem.why.startswith("has no effect since the head is not split")
    assert not plan(3, distributed={"tensor_parallel_size": 3}).problems


@pytest.mark.parametrize(
    ("processes", "asked", "field", "why"),
    [
        (3, {"tensor_parallel_size": 2}, "tensor_parallel_size", "does not divide distributed.num"),
        (4, {"tensor_parallel_size": 4}, "tensor_parallel_size", "does not divide what this model"),
        (
            4,
            {"tensor_parallel_size": 2, "sharding_parallel_size": 4, "fsdp": "full_shard"},
            "sharding_parallel_size",
            "does not divide distributed.num_processes, which is 4, 2 of which split a layer.",
        ),
    ],
)
def test_parts_that_do_not_fit_are_refused_and_mended(processes, asked, field, why):
    made = plan(processes, distributed=asked)
    (problem,) = (p for p in made.errors if p.field == f"distributed.{field}")
    assert problem.why.startswith(why)
    mended = nbft.make_plan(made.config.apply(problem.changes))
    assert f"distributed.{field}" not in {p.field for p in mended.errors}


def test_split_layers_read_the_same_rows():
    training = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 3}
    split = plan(6, training=training, distributed={"tensor_parallel_size": 3})
    assert split.effective_batch_size == 12
    assert split.decisions.parts["fused_lora"].value == "off"
    assert any("3 processes split each layer" in text for text in split.remarks)
    said = "1/6 of the split layers and 1/2 of the other weights"
    assert any(said in text for text in split.remarks)
    whole = plan(2, training=training, peft={"method": "full"})
    parts = plan(3, peft={"method": "full"}, distributed={"tensor_parallel_size": 3}).memory_parts
    tables, weights = 4 * 49152 * 576, whole.memory_parts["weights"] / 2  # of each process
    in_parts = tables + (weights - tables) / 3  # tables are not split
    assert parts["weights"] / 3 == pytest.approx(in_parts, rel=0.02)


def test_kto_does_not_split_positions():
    asked = {"tensor_parallel_size": 3, "sequence_parallel": True}
    made = plan(3, training={"method": "kto"}, distributed=asked)
    (problem,) = (p for p in made.errors if p.field == "distributed.sequence_parallel")
    assert problem.why == "does not go with training.method=kto."
    mended = nbft.make_plan(made.config.apply(problem.changes))
    assert problem.field not in {p.field for p in mended.problems}


def test_stages_of_a_pipeline_are_refused_with_what_to_use_instead():
    made = plan(4, distributed={"pipeline_parallel_size": 2})
    (problem,) = (p for p in made.errors if p.field.endswith("pipeline_parallel_size"))
    assert "distributed.fsdp=full_shard" in problem.fix
    assert "model.device_map=auto" in problem.fix
    mended = nbft.make_plan(made.config.apply(problem.changes))
    assert not mended.errors
    assert mended.config.distributed.fsdp == "full_shard"
    is_sharded = plan(4, distributed={"pipeline_parallel_size": 2, "sharding": "stage2"})
    (problem,) = (p for p in is_sharded.errors if p.field.endswith("pipeline_parallel_size"))
    assert list(problem.changes) == ["distributed.pipeline_parallel_size"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("pipeline_parallel_config", ["enable_overlap_p2p_comm"]),
        ("pipeline_segmentation", "layer:Layer"),
        ("virtual_pipeline_stages", 2),
        ("add_tail_layers", 1),
        ("moe_group", "mp"),
        ("moe_dispatch", "v2-alltoall-unpad"),
    ],
)
def test_options_of_pipelines_and_experts_are_said_to_have_no_effect(name, value):
    made = plan(distributed={name: value})
    (problem,) = (p for p in made.warnings if p.field == f"distributed.{name}")
    assert problem.why.startswith("has no effect")
    assert not nbft.make_plan(made.config.apply(problem.changes)).warnings
    assert not plan(1, distributed={name: value}).problems


@pytest.mark.parametrize(
    ("asked", "field", "why"),
    [
        ({"fsdp_cpu_offload": True}, "fsdp_cpu_offload", "on whole copies"),
        ({"fsdp_config": {"version": 2}}, "fsdp_config", "on whole copies"),
        (
            {"fsdp": "no_shard", "fsdp_min_num_params": 5},
            "fsdp_min_num_params",
            "with distributed.fsdp=no_shard",
        ),
        (
            {"sharding": "stage3", "fsdp_min_num_params": 5},
            "fsdp_min_num_params",
            "with fsdp_auto_wrap_policy=TRANSFORMER_BASED_WRAP",
        ),
        (
            {
                "fsdp": "full_shard",
                "fsdp_auto_wrap_policy": "NO_WRAP",
                "fsdp_transformer_layer_cls_to_wrap": "Layer",
            },
            "fsdp_transformer_layer_cls_to_wrap",
            "with fsdp_auto_wrap_policy=NO_WRAP",
        ),
        ({"fsdp": "full_shard", "ddp_bucket_cap_mb": 5}, "ddp_bucket_cap_mb", "on a sharded model"),
        (
            {"sharding": "stage2", "ddp_find_unused_parameters": True},
            "ddp_find_unused_parameters",
            "on a sharded model",
        ),
    ],
)
def test_a_setting_that_is_not_used_is_said(asked, field, why):
    made = plan(distributed=asked)
    (problem,) = (p for p in made.warnings if p.field == f"distributed.{field}")
    assert problem.why.startswith(f"has no effect {why}")
    assert not nbft.make_plan(made.config.apply(problem.changes)).warnings


def test_settings_that_are_used_are_not_said():
    plain = {"ddp_bucket_cap_mb": 5, "ddp_find_unused_parameters": True}
    by_size = {"fsdp_auto_wrap_policy": "SIZE_BASED_WRAP", "fsdp_min_num_params": 5}
    layers = {"fsdp_transformer_layer_cls_to_wrap": "LlamaDecoderLayer"}
    for asked in (plain, {"fsdp": "full_shard", **by_size}, {"sharding": "stage3", **layers}):
        assert not [p for p in plan(distributed=asked).problems if "no effect" in p.why]


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        (
            {"fsdp": "full_shard", "fsdp_auto_wrap_policy": "NO_WRAP"},
            ["all weights are gathered while it computes"],
        ),
        ({"fsdp": "full_shard"}, ["keeps 1/4 of the weights", "gathered while it computes"]),
        ({"fsdp": "shard_grad_op"}, ["gathered and kept for the step"]),
        ({"sharding": "stage1"}, ["Stage 1 of distributed.sharding is done as stage 2"]),
        ({"deepspeed": {"zero_optimization": {"stage": 3}}}, ["Stage 3", "done with FSDP2"]),
        ({"deepspeed": {"zero_optimization": {"stage": 1}}}, ["Stage 1", "is done as stage 2"]),
        ({"sharding": "stage3", "sharding_parallel_size": 2}, ["keeps 1/2 of the weights"]),
        ({"fsdp": "hybrid_shard"}, ["makes one sharded copy"]),
        ({"fsdp": "no_shard"}, ["(DDP)"]),
    ],
)
def test_what_each_process_keeps_is_said(asked, said):
    made = plan(4, distributed=asked)
    text = " ".join(made.remarks)
    assert all(words in text for words in said), text
    assert ("4 (FSDP2)" in summary(made)) == (asked.get("fsdp") != "no_shard")


def test_shards_need_less_memory_where_the_weights_are_the_most():
    peft = {"method": "full"}
    copies, shards, gathered = (
        plan(4, peft=peft, distributed=asked)
        for asked in ({}, {"fsdp": "full_shard"}, {"fsdp": "shard_grad_op"})
    )
    assert shards.memory_bytes < gathered.memory_bytes < copies.memory_bytes
    assert shards.memory_parts["optimizer"] == pytest.approx(copies.memory_parts["optimizer"] / 4)
    assert "gathered" not in copies.memory_parts
    # What a changed config needs is that of all its processes, too.
    needed = plan(1, peft=peft).needed_bytes(shards.config)
    assert needed == pytest.approx(shards.memory_bytes, rel=0.01)


def test_a_model_that_does_not_fit_is_offered_in_shards(monkeypatch):
    from nbft.plan import plan as making

    made = plan(4, peft={"method": "full"})
    shards = made.needed_bytes(made.config.apply(SHARDED))
    monkeypatch.setattr(making, "free_memory_bytes", lambda *_: (shards + made.memory_bytes) // 2)
    tight = plan(4, peft={"method": "full"})
    assert any("Shard the model with distributed.fsdp=full_shard" in p.fix for p in tight.problems)


def test_auto_is_a_word_of_config_files():
    config = nbft.Config(distributed={"num_processes": "auto"})
    assert config.to_dict() == {"distributed": {"num_processes": "auto"}}
    assert nbft.Config(**config.to_dict()) == config
    assert config.apply({"training.max_steps": 5}).distributed.num_processes is None
    assert config.apply({"distributed.num_processes": None}).distributed.num_processes == 1
    schema = jsonschema.Draft202012Validator(nbft.Config.json_schema())
    valid = [
        value
        for value in ("auto", 4, 0, "all", None)
        if schema.is_valid({"distributed": {"num_processes": value}})
    ]
    assert valid == ["auto", 4]


@pytest.mark.parametrize("system", ["qefficient", "oumi", "peft_studio"])
def test_auto_is_left_out_for_systems_that_take_a_number(system):
    exported = nbft.Config(distributed={"num_processes": "auto"}).export(system)
    settings = [line for line in exported.splitlines() if not line.startswith("#")]
    assert "auto" not in "\n".join(settings)
    assert "distributed.num_processes" in exported.left_out
