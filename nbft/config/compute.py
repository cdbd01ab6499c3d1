"""Settings of the device."""

from __future__ import annotations

from typing import Any, Literal

from nbft import registry
from nbft.config.base import Section, expert_setting, key_of, setting


class Compute(Section):
    """Where the training runs."""

    device: key_of(registry.devices) = setting(  # type: ignore[valid-type]
        "auto",
        help="Device to train on; auto picks the first available of cuda, xpu, mps and cpu.",
        source="nbft",
        level="basic",
        why="A GPU is usually many times faster than a CPU. Choose cpu to leave the GPU to others.",
    )
    launcher: key_of(registry.launchers) = setting(  # type: ignore[valid-type]
        "process",
        label="Background runs",
        help="What starts a background run: process, on this machine, or slurm, as a job of a "
        "cluster.",
        source="nbft",
        why="A job is planned for the node that compute.slurm asks for. “Train here” always trains in "
        "the kernel.",
    )
    slurm: dict[str, Any] = expert_setting(
        help="Options of sbatch for launcher=slurm, by their names with underscores; time in minutes: "
        "{partition: gpu, gpus_per_node: 'a100:1', time: 240}.",
        source="submitit SlurmExecutor.update_parameters; sbatch",
        default_factory=dict,
    )
    torch_compile: bool = expert_setting(
        False,
        help="Compile the model first: takes minutes to start, then steps are faster on a GPU.",
        source="transformers TrainingArguments.torch_compile",
        why="Measured on a CPU with 135 million parameters: no speed-up, 16 seconds to start.",
    )
    provider: Literal["local", "runpod", "lambda_labs", "vast_ai"] = expert_setting(
        "local",
        help="Where the machine is. Only local can train; the plan estimates the cost of the "
        "others.",
        source="PEFT Studio compute_provider",
    )
    price_usd_per_hour: float | None = expert_setting(
        label="Price per hour (USD)",
        help="Hourly price of the machine; the provider's published range when empty.",
        unit="USD/hour",
        ge=0,
        le=1000,
        source="PEFT Studio compute_provider[].price",
    )
    peak_tflops: float | None = expert_setting(
        label="Peak TFLOPS",
        help="Peak throughput of the device, used by include_mfu; known for common GPUs.",
        unit="TFLOP/s",
        gt=0,
        source="the maker's data sheet",
    )
