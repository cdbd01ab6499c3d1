"""Settings of the device."""

from __future__ import annotations

from typing import Literal

from nbft.config.base import Section, setting


class Compute(Section):
    """Where the training runs."""

    device: Literal["auto", "cuda", "mps", "xpu", "cpu"] = setting(
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
