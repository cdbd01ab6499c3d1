"""Settings of the device."""

from __future__ import annotations

from typing import Literal

from nbft import registry
from nbft.config.base import Section, key_of, setting


class Compute(Section):
    """Where the training runs."""

    device: key_of(registry.devices) = setting(  # type: ignore[valid-type]
        "auto",
        help="Device that trains; auto takes the first there is of cuda, xpu, mps, cpu.",
        source="nbft",
        level="basic",
    )
    torch_compile: bool = setting(
        False,
        help="Compile the model first: minutes of start, then faster steps on a GPU.",
        source="transformers TrainingArguments.torch_compile",
        level="expert",
        why="Measured on a CPU with 135 million parameters: no gain, 16 seconds of start.",
    )
    provider: Literal["local", "runpod", "lambda_labs", "vast_ai"] = setting(
        "local",
        help="Where the machine stands. Only local trains; of the others the plan says the cost.",
        source="PEFT Studio compute_provider",
        level="expert",
    )
    price_usd_per_hour: float | None = setting(
        label="Price per hour (USD)",
        help="What an hour of the machine costs; the provider's documented range when empty.",
        unit="USD/hour",
        ge=0,
        le=1000,
        source="PEFT Studio compute_provider[].price",
        level="expert",
    )
    peak_tflops: float | None = setting(
        label="Peak TFLOPS",
        help="Most that the device can compute, for include_mfu; known for common GPUs.",
        unit="TFLOP/s",
        gt=0,
        source="the maker's data sheet",
        level="expert",
    )
