"""Settings of training in several processes. They are read and checked; the engines come later.

With one process most of them change nothing. What would need an engine is refused by the plan's
checks (`nbft.plan.checks`).
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import model_validator
from pydantic_core import PydanticCustomError

from nbft.config.base import Section, setting

TensorParallelSwitch = Literal["sync_param", "sync_grad", "sync_moment"]
PipelineSwitch = Literal[
    "disable_partial_send_recv",
    "enable_clear_every_step_cache",
    "enable_delay_scale_loss",
    "enable_overlap_p2p_comm",
    "best_unbalanced_scheduler",
]
ShardingSwitch = Literal["enable_stage1_overlap", "enable_release_grads"]


class Distributed(Section):
    """Several processes or machines. Planned: nbft trains in one process for now."""

    num_processes: int = setting(
        1,
        label="Processes",
        help="Processes that train together, one for each device.",
        unit="processes",
        ge=1,
        le=100_000,
        source="torchrun --nproc-per-node",
    )
    launcher: Literal["torchrun", "accelerate"] = setting(
        "torchrun", help="What starts the processes.", source="PyTorch", level="expert"
    )
    ddp_backend: Literal["nccl", "gloo", "mpi", "xccl", "hccl", "cncl", "mccl", "qccl"] | None = (
        setting(
            help="How processes exchange gradients: nccl for GPUs, gloo for CPUs, qccl for qaic.",
            source="transformers TrainingArguments.ddp_backend; QEfficient ddp_config",
            level="expert",
        )
    )
    ddp_find_unused_parameters: bool | None = setting(
        help="Look for parameters without a gradient in every step.",
        source="transformers TrainingArguments.ddp_find_unused_parameters",
        level="expert",
    )
    ddp_bucket_cap_mb: int | None = setting(
        help="Gradients sent at a time; larger means fewer messages and more memory.",
        unit="MB",
        ge=1,
        source="transformers TrainingArguments.ddp_bucket_cap_mb",
        level="expert",
    )
    ddp_broadcast_buffers: bool | None = setting(
        help="Send buffers such as running means to every process in every step.",
        source="transformers TrainingArguments.ddp_broadcast_buffers",
        level="expert",
    )
    ddp_timeout: int = setting(
        1800,
        help="How long processes wait for each other.",
        unit="seconds",
        ge=1,
        source="transformers TrainingArguments.ddp_timeout",
        level="expert",
    )
    average_tokens_across_devices: bool = setting(
        True,
        label="Average tokens across devices",
        help="Weigh the loss of each process by its tokens.",
        source="transformers TrainingArguments.average_tokens_across_devices",
        level="expert",
    )
    dispatch_batches: bool | None = setting(
        help="Let the first process read all rows and hand them out; decided by itself when empty.",
        source="accelerate DataLoaderConfiguration.dispatch_batches",
        level="expert",
    )
    accelerator_config: dict[str, Any] = setting(
        help="Further arguments of Accelerate.",
        source="transformers TrainingArguments.accelerator_config",
        level="expert",
        default_factory=dict,
    )
    fsdp: (
        Literal["full_shard", "shard_grad_op", "hybrid_shard", "hybrid_shard_zero2", "no_shard"]
        | None
    ) = setting(
        help="What is sharded over the processes: parameters, gradients and optimiser "
        "(full_shard), or the last two (shard_grad_op); nothing when empty.",
        source="transformers TrainingArguments.fsdp",
    )
    fsdp_cpu_offload: bool = setting(
        False,
        help="Keep shards in the memory of the CPU.",
        source="transformers TrainingArguments.fsdp_config cpu_offload",
        level="expert",
    )
    fsdp_backward_prefetch: Literal["backward_pre", "backward_post", "no_prefetch"] = setting(
        "backward_pre",
        help="When the next shard is fetched on the way back.",
        source="transformers TrainingArguments.fsdp_config backward_prefetch",
        level="expert",
    )
    fsdp_forward_prefetch: bool = setting(
        False,
        help="Fetch the next shard while computing forward.",
        source="transformers TrainingArguments.fsdp_config forward_prefetch",
        level="expert",
    )
    fsdp_use_orig_params: bool | None = setting(
        help="Keep parameters apart instead of flattened; FSDP2 always does.",
        source="transformers TrainingArguments.fsdp_config use_orig_params",
        level="expert",
    )
    fsdp_auto_wrap_policy: Literal["NO_WRAP", "SIZE_BASED_WRAP", "TRANSFORMER_BASED_WRAP"] = (
        setting(
            "NO_WRAP",
            help="What is sharded as a unit: the model, parts by size, or each layer.",
            source="transformers TrainingArguments.fsdp_config auto_wrap_policy",
            level="expert",
        )
    )
    fsdp_min_num_params: int = setting(
        100_000,
        help="Least size of a unit with SIZE_BASED_WRAP.",
        unit="parameters",
        ge=0,
        source="transformers TrainingArguments.fsdp_config min_num_params",
        level="expert",
    )
    fsdp_transformer_layer_cls_to_wrap: str | None = setting(
        help="Class of the layers that are units with TRANSFORMER_BASED_WRAP.",
        source="transformers TrainingArguments.fsdp_config transformer_layer_cls_to_wrap",
        level="expert",
    )
    fsdp_sync_module_states: bool = setting(
        True,
        help="Begin every process with the weights of the first.",
        source="transformers TrainingArguments.fsdp_config sync_module_states",
        level="expert",
    )
    fsdp_config: dict[str, Any] = setting(
        help="Further keys of transformers' fsdp_config.",
        source="transformers TrainingArguments.fsdp_config",
        level="expert",
        default_factory=dict,
    )
    deepspeed: dict[str, Any] | str | None = setting(
        help="DeepSpeed's settings, or the file that holds them.",
        source="transformers TrainingArguments.deepspeed",
        level="expert",
    )
    sharding: Literal["stage1", "stage2", "stage3"] | None = setting(
        help="ZeRO stage: the optimiser is sharded, then gradients too, then parameters too.",
        source="ERNIEKit sharding; ZeRO, arXiv:1910.02054",
        level="expert",
    )
    sharding_parallel_size: int = setting(
        1,
        help="Processes that share one copy of what is sharded.",
        unit="processes",
        ge=1,
        source="ERNIEKit sharding_parallel_degree",
        level="expert",
    )
    sharding_parallel_config: list[ShardingSwitch] = setting(
        help="Switches of sharding.",
        source="ERNIEKit sharding_parallel_config",
        level="expert",
        default_factory=list,
    )
    tensor_parallel_size: int = setting(
        1,
        help="Processes that each layer is split over.",
        unit="processes",
        ge=1,
        source="accelerate ParallelismConfig.tp_size",
        level="expert",
    )
    tensor_parallel_config: list[TensorParallelSwitch] = setting(
        help="What is kept equal over the parts of a layer that are not split.",
        source="ERNIEKit tensor_parallel_config",
        level="expert",
        default_factory=list,
    )
    tensor_parallel_output: bool = setting(
        True,
        help="Compute the loss on split logits instead of gathering them.",
        source="ERNIEKit tensor_parallel_output",
        level="expert",
    )
    sequence_parallel: bool = setting(
        False,
        help="Split activations along the sequence too; needs tensor_parallel_size above 1.",
        source="ERNIEKit sequence_parallel",
        level="expert",
    )
    pipeline_parallel_size: int = setting(
        1,
        help="Stages that the layers are divided into, one process each.",
        unit="stages",
        ge=1,
        source="ERNIEKit pipeline_parallel_degree",
        level="expert",
    )
    pipeline_parallel_config: list[PipelineSwitch] = setting(
        help="Switches of the pipeline.",
        source="ERNIEKit pipeline_parallel_config",
        level="expert",
        default_factory=list,
    )
    pipeline_segmentation: str | None = setting(
        help="How layers are divided into stages: layer:CLASS counts layers of a class.",
        source="ERNIEKit pp_seg_method",
        level="expert",
    )
    virtual_pipeline_stages: int = setting(
        1,
        help="Stages on each process, taken in turn.",
        unit="stages",
        ge=1,
        source="ERNIEKit virtual_pp_degree",
        level="expert",
    )
    add_tail_layers: int = setting(
        0,
        help="Empty layers at the end that make the stages even.",
        unit="layers",
        ge=0,
        source="ERNIEKit add_tail_layers",
        level="expert",
    )
    moe_group: Literal["mp", "dummy"] = setting(
        "dummy",
        help="Processes that the experts of a mixture-of-experts model are spread over.",
        source="ERNIEKit moe_group",
        level="expert",
    )
    moe_dispatch: str | None = setting(
        help="How tokens travel to their experts.",
        source="ERNIEKit moe_multimodal_dispatch_use_allgather",
        level="expert",
        suggestions=("v2-alltoall-unpad", "v2-allgather-unpad"),
    )

    @model_validator(mode="after")
    def _one_engine(self) -> Distributed:
        if self.fsdp and self.deepspeed:
            raise PydanticCustomError(
                "nbft", "fsdp and deepspeed are both given. Keep one: each shards the model."
            )
        return self

    def engines(self) -> dict[str, str]:
        """Return what would need an engine that is not here yet, by setting, each with a reason."""
        why = {
            "num_processes": (self.num_processes > 1, "needs a process for each device"),
            "deepspeed": (self.deepspeed not in (None, {}, ""), "needs DeepSpeed"),
            "fsdp_cpu_offload": (
                bool(self.fsdp) and self.fsdp_cpu_offload,
                "moves shards to the CPU, which FSDP does",
            ),
            "sharding_parallel_size": (self.sharding_parallel_size > 1, "needs several processes"),
            "tensor_parallel_size": (self.tensor_parallel_size > 1, "splits layers over processes"),
            "pipeline_parallel_size": (
                self.pipeline_parallel_size > 1,
                "spreads layers over processes",
            ),
        }
        return {name: reason for name, (is_needed, reason) in why.items() if is_needed}
