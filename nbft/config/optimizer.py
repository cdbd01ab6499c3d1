"""Settings of the optimiser."""

from __future__ import annotations

from typing import Literal

from nbft.config.base import Section, setting


class Optimizer(Section):
    """What turns gradients into new weights."""

    optim: Literal[
        "adamw_torch",
        "adamw_torch_fused",
        "adamw_8bit",
        "paged_adamw_32bit",
        "paged_adamw_8bit",
        "adafactor",
        "sgd",
        "rmsprop",
        "lion_32bit",
    ] = setting(
        "adamw_torch_fused",
        help="Optimiser. The 8-bit and paged ones save memory and need bitsandbytes.",
        source="transformers TrainingArguments.optim",
    )
    weight_decay: float = setting(
        0.0,
        help="Pull of the weights towards zero at each step.",
        ge=0,
        le=1,
        usual=(0.0, 0.1),
        source="transformers TrainingArguments.weight_decay",
    )
    adam_beta1: float = setting(
        0.9,
        help="Memory of Adam for the gradient.",
        ge=0,
        lt=1,
        source="Adam, arXiv:1412.6980, algorithm 1",
        level="expert",
    )
    adam_beta2: float = setting(
        0.999,
        help="Memory of Adam for the gradient's size.",
        ge=0,
        lt=1,
        source="Adam, arXiv:1412.6980, algorithm 1",
        level="expert",
    )
    adam_epsilon: float = setting(
        1e-8,
        help="Small number that keeps Adam from dividing by zero.",
        gt=0,
        source="Adam, arXiv:1412.6980, algorithm 1",
        level="expert",
    )
    optim_args: str | None = setting(
        help="Further arguments of the optimiser, as text: momentum=0.9.",
        source="transformers TrainingArguments.optim_args",
        level="expert",
    )
