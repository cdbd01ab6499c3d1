"""Settings of training in several processes; with one most of them have no effect."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import WithJsonSchema, field_serializer, field_validator, model_validator
from pydantic_core import PydanticCustomError

from nbft.config.base import Section, expert_setting, setting
from nbft.config.io import read
from nbft.errors import ConfigError

TensorParallelSwitch = Literal["sync_param", "sync_grad", "sync_moment"]
PipelineSwitch = Literal[
    "disable_partial_send_recv",
    "enable_clear_every_step_cache",
    "enable_delay_scale_loss",
    "enable_overlap_p2p_comm",
    "best_unbalanced_scheduler",
]
ShardingSwitch = Literal["enable_stage1_overlap", "enable_release_grads"]

_NUMBER_OR_AUTO = WithJsonSchema(
    {"anyOf": [{"type": "integer", "minimum": 1, "maximum": 100_000}, {"const": "auto"}]}
)
_ZERO_STAGES = (0, 1, 2, 3)
_OF_FSDP_CONFIG = {
    "auto_wrap_policy": "fsdp_auto_wrap_policy",
    "backward_prefetch": "fsdp_backward_prefetch",
    "cpu_offload": "fsdp_cpu_offload",
    "forward_prefetch": "fsdp_forward_prefetch",
    "min_num_params": "fsdp_min_num_params",
    "offload_params": "fsdp_cpu_offload",
    "sync_module_states": "fsdp_sync_module_states",
    "transformer_layer_cls_to_wrap": "fsdp_transformer_layer_cls_to_wrap",
    "use_orig_params": "fsdp_use_orig_params",
}
"""Keys of transformers' fsdp_config, with or without fsdp_ in front, that are settings here."""


class Distributed(Section):
    """Several processes, each with a copy of the model or a shard, which train one run."""

    num_processes: Annotated[int | None, _NUMBER_OR_AUTO] = setting(
        1,
        label="Processes",
        help="Number of training processes, one per device; a step learns from the rows of all. "
        "With auto, one for each free GPU.",
        unit="processes",
        ge=1,
        le=100_000,
        source="torchrun --nproc-per-node",
    )
    launcher: Literal["torchrun", "accelerate"] = expert_setting(
        "torchrun",
        help="Kept for configs of other systems: the processes start alike either way.",
        source="PyTorch",
    )
    ddp_backend: Literal["nccl", "gloo", "mpi", "xccl", "hccl", "cncl", "mccl", "qccl"] | None = (
        expert_setting(
            help="Backend for exchanging gradients: nccl for GPUs, gloo for CPUs, qccl for qaic.",
            source="transformers TrainingArguments.ddp_backend; QEfficient ddp_config",
        )
    )
    ddp_find_unused_parameters: bool | None = expert_setting(
        help="Look for parameters without a gradient at every step.",
        source="transformers TrainingArguments.ddp_find_unused_parameters",
    )
    ddp_bucket_cap_mb: int | None = expert_setting(
        help="Size of the gradient buckets; larger means fewer messages but more memory.",
        unit="MB",
        ge=1,
        source="transformers TrainingArguments.ddp_bucket_cap_mb",
    )
    ddp_broadcast_buffers: bool | None = expert_setting(
        help="Broadcast buffers, such as running means, to all processes at every step.",
        source="transformers TrainingArguments.ddp_broadcast_buffers",
    )
    ddp_timeout: int = expert_setting(
        1800,
        help="How long processes wait for each other before giving up.",
        unit="seconds",
        ge=1,
        source="transformers TrainingArguments.ddp_timeout",
    )
    average_tokens_across_devices: bool = expert_setting(
        True,
        label="Average tokens across devices",
        help="Weight the loss of each process by its number of tokens.",
        source="transformers TrainingArguments.average_tokens_across_devices",
    )
    dispatch_batches: bool | None = expert_setting(
        help="Let the first process read all rows and distribute them; automatic when empty.",
        source="accelerate DataLoaderConfiguration.dispatch_batches",
    )
    accelerator_config: dict[str, Any] = expert_setting(
        help="Additional arguments of Accelerate.",
        source="transformers TrainingArguments.accelerator_config",
        default_factory=dict,
    )
    fsdp: (
        Literal["full_shard", "shard_grad_op", "hybrid_shard", "hybrid_shard_zero2", "no_shard"]
        | None
    ) = setting(
        help="What to shard across processes: parameters, gradients and optimiser state "
        "(full_shard), or only the last two (shard_grad_op); nothing when empty.",
        source="transformers TrainingArguments.fsdp",
    )
    fsdp_cpu_offload: bool = expert_setting(
        False,
        help="Keep the shards in CPU memory.",
        source="transformers TrainingArguments.fsdp_config cpu_offload",
    )
    fsdp_backward_prefetch: Literal["backward_pre", "backward_post", "no_prefetch"] = (
        expert_setting(
            "backward_pre",
            help="When to fetch the next shard during the backward pass.",
            source="transformers TrainingArguments.fsdp_config backward_prefetch",
        )
    )
    fsdp_forward_prefetch: bool = expert_setting(
        False,
        help="Fetch the next shard during the forward pass.",
        source="transformers TrainingArguments.fsdp_config forward_prefetch",
    )
    fsdp_use_orig_params: bool | None = expert_setting(
        help="Keep parameters separate instead of flattening them; always true with FSDP2.",
        source="transformers TrainingArguments.fsdp_config use_orig_params",
    )
    fsdp_auto_wrap_policy: Literal["NO_WRAP", "SIZE_BASED_WRAP", "TRANSFORMER_BASED_WRAP"] = (
        expert_setting(
            "TRANSFORMER_BASED_WRAP",
            help="What to gather at once: the whole model, parts by size, or each layer.",
            source="transformers TrainingArguments.fsdp_config auto_wrap_policy",
        )
    )
    fsdp_min_num_params: int = expert_setting(
        100_000,
        help="Minimum size of a unit with SIZE_BASED_WRAP.",
        unit="parameters",
        ge=0,
        source="transformers TrainingArguments.fsdp_config min_num_params",
    )
    fsdp_transformer_layer_cls_to_wrap: str | None = expert_setting(
        help="Class of the layers to shard as units with TRANSFORMER_BASED_WRAP.",
        source="transformers TrainingArguments.fsdp_config transformer_layer_cls_to_wrap",
    )
    fsdp_sync_module_states: bool = expert_setting(
        True,
        help="Start every process with the weights of the first one.",
        source="transformers TrainingArguments.fsdp_config sync_module_states",
    )
    fsdp_config: dict[str, Any] = expert_setting(
        help="Keys of transformers' fsdp_config; those that are settings here are moved to them.",
        source="transformers TrainingArguments.fsdp_config",
        default_factory=dict,
    )
    deepspeed: dict[str, Any] | None = expert_setting(
        help="DeepSpeed's configuration, or the path of its file, which is read at once. The stages of "
        "ZeRO are done with FSDP2; what asks for something else is named before the run starts.",
        source="transformers TrainingArguments.deepspeed",
    )
    sharding: Literal["stage1", "stage2", "stage3"] | None = expert_setting(
        help="ZeRO stage: shards optimiser state; stage 2 also gradients, stage 3 also parameters.",
        source="ERNIEKit sharding; ZeRO, arXiv:1910.02054",
    )
    sharding_parallel_size: int = expert_setting(
        1,
        help="Number of processes that share one sharded copy; all of them when 1.",
        unit="processes",
        ge=1,
        source="ERNIEKit sharding_parallel_degree",
    )
    sharding_parallel_config: list[ShardingSwitch] = expert_setting(
        help="Sharding options.",
        source="ERNIEKit sharding_parallel_config",
        default_factory=list,
    )
    tensor_parallel_size: int = expert_setting(
        1,
        help="Number of processes to split each layer across.",
        unit="processes",
        ge=1,
        source="accelerate ParallelismConfig.tp_size",
    )
    tensor_parallel_config: list[TensorParallelSwitch] = expert_setting(
        help="What to keep synchronised for the parts of a layer that are not split.",
        source="ERNIEKit tensor_parallel_config",
        default_factory=list,
    )
    tensor_parallel_output: bool = expert_setting(
        True,
        help="Compute the loss on split logits instead of gathering them.",
        source="ERNIEKit tensor_parallel_output",
    )
    sequence_parallel: bool = expert_setting(
        False,
        help="Also split activations along the sequence; requires tensor_parallel_size above 1.",
        source="ERNIEKit sequence_parallel",
    )
    pipeline_parallel_size: int = expert_setting(
        1,
        help="Number of pipeline stages to divide the layers into, one process each.",
        unit="stages",
        ge=1,
        source="ERNIEKit pipeline_parallel_degree",
    )
    pipeline_parallel_config: list[PipelineSwitch] = expert_setting(
        help="Pipeline options.",
        source="ERNIEKit pipeline_parallel_config",
        default_factory=list,
    )
    pipeline_segmentation: str | None = expert_setting(
        help="How to divide the layers into stages: layer:CLASS counts the layers of a class.",
        source="ERNIEKit pp_seg_method",
    )
    virtual_pipeline_stages: int = expert_setting(
        1,
        help="Number of interleaved stages per process.",
        unit="stages",
        ge=1,
        source="ERNIEKit virtual_pp_degree",
    )
    add_tail_layers: int = expert_setting(
        0,
        help="Empty layers to append so that all stages have the same size.",
        unit="layers",
        ge=0,
        source="ERNIEKit add_tail_layers",
    )
    moe_group: Literal["mp", "dummy"] = expert_setting(
        "dummy",
        help="Processes to distribute the experts of a mixture-of-experts model across.",
        source="ERNIEKit moe_group",
    )
    moe_dispatch: str | None = expert_setting(
        help="How tokens are sent to their experts.",
        source="ERNIEKit moe_multimodal_dispatch_use_allgather",
        suggestions=("v2-alltoall-unpad", "v2-allgather-unpad"),
    )

    @model_validator(mode="before")
    @classmethod
    def _take_fsdp_config(cls, values: Any) -> Any:
        given = values.get("fsdp_config") if isinstance(values, dict) else None
        if not isinstance(given, dict):
            return values
        rest = {}
        for key, value in given.items():
            name = _OF_FSDP_CONFIG.get(key.removeprefix("fsdp_"))
            if name is None:
                rest[key] = value
                continue
            if name.endswith("cls_to_wrap") and isinstance(value, list):
                value = ", ".join(value)
            elif name == "fsdp_backward_prefetch":
                value = str(value or "no_prefetch").lower()
            usual = cls.model_fields[name].default
            if values.get(name, usual) not in (usual, value):
                said = f"fsdp_config.{key} is {value}, and {name} {values[name]}. Keep one of them."
                raise PydanticCustomError("nbft", said)
            values = {**values, name: value}
        return {**values, "fsdp_config": rest}

    @model_validator(mode="after")
    def _one_engine(self) -> Distributed:
        engines = ("fsdp", "sharding", "deepspeed")
        if len(asked := [name for name in engines if getattr(self, name)]) > 1:
            said = f"{' and '.join(asked)} are both set. Keep one: each shards the model."
            raise PydanticCustomError("nbft", said)
        return self

    @field_validator("deepspeed", mode="before")
    @classmethod
    def _read_deepspeed(cls, value: Any) -> Any:
        """Read the file that is named, so that the config needs it no more."""
        if not isinstance(value, str) or not value:
            return value or None
        try:
            return read(Path(value))
        except ConfigError as error:
            raise PydanticCustomError("nbft", "{why}", {"why": str(error)}) from None

    @field_validator("deepspeed")
    @classmethod
    def _check_stage(cls, value: dict[str, Any] | None) -> Any:
        zero = (value or {}).get("zero_optimization", {})
        if not isinstance(zero, dict):
            said = "zero_optimization must be a block, such as {stage: 2}."
            raise PydanticCustomError("nbft", said)
        if type(stage := zero.get("stage", 0)) is not int or stage not in _ZERO_STAGES:
            said = "zero_optimization.stage must be 0, 1, 2 or 3."
            raise PydanticCustomError("nbft", said)
        return value

    @field_validator("num_processes", mode="before")
    @classmethod
    def _take_auto(cls, value: Any) -> Any:
        """Take auto, which is None here; what is given as empty is the default, as elsewhere."""
        if isinstance(value, str) and value != "auto" and value.isalpha():
            said = "is neither a whole number nor auto, which is one for each free GPU."
            raise PydanticCustomError("nbft", said)
        return None if value == "auto" else 1 if value is None else value

    @field_serializer("num_processes")
    def _give_auto(self, value: int | None) -> int | str:
        return "auto" if value is None else value

    @property
    def processes(self) -> int:
        """Number of training processes; 1 while it is left to `nbft.plan.several.settled`."""
        return self.num_processes or 1

    @property
    def shards(self) -> Literal["weights", "gradients"] | None:
        """What is freed again after the forward pass of a sharded model; None for whole copies.

        Weights, gradients and optimiser state are in shards either way.

        The first stage of ZeRO cuts the optimiser state alone. It is done as the second, which needs
        less memory and gives the same numbers.
        """
        if self.processes == 1:
            return None
        if self.fsdp in ("full_shard", "hybrid_shard") or self.stage == 3:
            return "weights"
        if self.fsdp in ("shard_grad_op", "hybrid_shard_zero2") or self.stage:
            return "gradients"
        if self.splits_layers:  # what is left of them is cut as well
            return "gradients"
        return None

    @property
    def stage(self) -> int:
        """Stage of ZeRO that is asked for, 1 to 3; 0 without."""
        if self.sharding:
            return int(self.sharding.removeprefix("stage"))
        return int(((self.deepspeed or {}).get("zero_optimization") or {}).get("stage", 0))

    @property
    def sharder(self) -> str:
        """The setting that asks for shards; "" if none does."""
        asked = {
            "fsdp": self.fsdp not in (None, "no_shard"),
            "sharding": self.sharding is not None,
            "deepspeed": self.stage > 0,
            "tensor_parallel_size": self.tensor_parallel_size > 1,
        }
        return next((name for name, is_asked in asked.items() if is_asked), "")

    @property
    def offloads(self) -> bool:
        """Whether shards are kept in CPU memory."""
        zero = (self.deepspeed or {}).get("zero_optimization") or {}
        blocks = (zero.get("offload_optimizer"), zero.get("offload_param"))
        devices = [block.get("device") for block in blocks if isinstance(block, dict)]
        return self.fsdp_cpu_offload or any(
            device not in (None, "none", "auto") for device in devices
        )

    @property
    def alike(self) -> int:
        """Number of processes that read the same rows, since they split each layer."""
        return self.tensor_parallel_size if self.processes > 1 else 1

    @property
    def splits_layers(self) -> bool:
        """Whether each layer is split across several processes."""
        return self.alike > 1

    @property
    def data_parallel_size(self) -> int:
        """Number of processes, or groups of them that split layers, with rows of their own."""
        return max(1, self.processes // self.alike)

    @property
    def processes_per_copy(self) -> int:
        """Number of processes that share one copy, in shards and parts of layers."""
        size = self.sharding_parallel_size
        return size * self.tensor_parallel_size if size > 1 else self.processes
