"""Settings of several processes: their values are checked, and one process takes no notice."""

import pytest

import nbft
from nbft.config.distributed import Distributed
from nbft.errors import ConfigError


def test_one_process_takes_no_notice():
    harmless = {
        "fsdp": "full_shard",
        "ddp_backend": "qccl",
        "ddp_timeout": 5,
        "ddp_bucket_cap_mb": 1,
        "sequence_parallel": True,
        "tensor_parallel_config": ["sync_grad"],
        "pipeline_parallel_config": ["enable_delay_scale_loss"],
        "moe_group": "mp",
    }
    config = nbft.Config(data={"dataset_name": "grammar"}, distributed=harmless)
    assert not nbft.make_plan(config).problems


WRONG = {
    "distributed": {
        "num_processes": 0,
        "launcher": "smoke",
        "ddp_backend": "smoke",
        "ddp_find_unused_parameters": "maybe",
        "ddp_bucket_cap_mb": 0,
        "ddp_broadcast_buffers": "maybe",
        "ddp_timeout": 0,
        "dispatch_batches": "maybe",
        "deepspeed": 1,
        "fsdp": "some",
        "fsdp_cpu_offload": "maybe",
        "fsdp_config": "fast",
        "fsdp_forward_prefetch": "maybe",
        "fsdp_use_orig_params": "maybe",
        "fsdp_transformer_layer_cls_to_wrap": 1,
        "fsdp_sync_module_states": "maybe",
        "fsdp_backward_prefetch": "late",
        "fsdp_auto_wrap_policy": "WRAP",
        "fsdp_min_num_params": -1,
        "sharding": "stage4",
        "sharding_parallel_config": ["enable_all"],
        "tensor_parallel_size": 0,
        "tensor_parallel_config": ["sync_all"],
        "tensor_parallel_output": "maybe",
        "sequence_parallel": "maybe",
        "pipeline_segmentation": 1,
        "pipeline_parallel_config": ["fast"],
        "virtual_pipeline_stages": 0,
        "add_tail_layers": -1,
        "moe_group": "all",
        "moe_dispatch": 1,
        "sharding_parallel_size": 0,
        "pipeline_parallel_size": 0,
        "average_tokens_across_devices": "often",
        "accelerator_config": "fast",
    },
}


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [(s, n, v) for s, block in WRONG.items() for n, v in block.items()],
)
def test_wrong_values_are_refused(section, name, value):
    with pytest.raises(ConfigError, match=f"{section}.{name}"):
        nbft.Config(**{section: {name: value}})


def test_every_setting_has_a_wrong_value():
    assert WRONG["distributed"].keys() == Distributed.model_fields.keys()


@pytest.mark.parametrize("value", ["all", "gpu"])
def test_a_word_for_the_number_of_processes_leads_to_auto(value):
    with pytest.raises(
        ConfigError, match="is neither a whole number nor auto, which is one for each"
    ):
        nbft.Config(distributed={"num_processes": value})


def test_two_engines_are_one_too_many():
    with pytest.raises(ConfigError, match="fsdp and deepspeed are both set"):
        nbft.Config(distributed={"fsdp": "full_shard", "deepspeed": {"gradient_clipping": 1}})
    with pytest.raises(ConfigError, match="fsdp and sharding are both set"):
        nbft.Config(distributed={"fsdp": "full_shard", "sharding": "stage3"})


def test_every_setting_says_where_it_comes_from():
    for info in Distributed.model_fields.values():
        assert info.json_schema_extra["source"]
