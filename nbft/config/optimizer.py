"""Settings of the optimiser."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import field_validator

from nbft import registry
from nbft.config.base import Section, expert_setting, key_of, setting

ALIASES = {"adamw": "adamw_torch", "paged_adamw": "paged_adamw_32bit"}
"""Names in other systems, and those in transformers. adam is a key of our own: unlike AdamW, its
weight decay is part of the gradient."""


class Optimizer(Section):
    """The optimiser, which updates the weights."""

    optim: key_of(registry.optimizers) = setting(  # type: ignore[valid-type]
        "adamw_torch_fused",
        help="Optimiser. The 8-bit and paged variants save memory and require bitsandbytes.",
        source="transformers TrainingArguments.optim",
    )
    weight_decay: float = setting(
        0.0,
        help="How strongly weights are pulled towards zero at each step.",
        ge=0,
        le=1,
        usual=(0.0, 0.1),
        source="transformers TrainingArguments.weight_decay",
        why="Unsloth's guide recommends 0.01 to 0.1 against overfitting.",
    )
    adam_beta1: float = expert_setting(
        0.9,
        label="Adam beta 1",
        help="Decay rate of Adam's running mean of the gradient.",
        ge=0,
        lt=1,
        source="Adam, arXiv:1412.6980, algorithm 1",
    )
    adam_beta2: float = expert_setting(
        0.999,
        label="Adam beta 2",
        help="Decay rate of Adam's running mean of the squared gradient.",
        ge=0,
        lt=1,
        source="Adam, arXiv:1412.6980, algorithm 1",
    )
    adam_epsilon: float = expert_setting(
        1e-8,
        help="Small constant that keeps Adam from dividing by zero.",
        gt=0,
        source="Adam, arXiv:1412.6980, algorithm 1",
    )
    optim_args: str | None = expert_setting(
        help="Additional arguments of the optimiser, as text: momentum=0.9.",
        source="transformers TrainingArguments.optim_args",
    )
    sgd_momentum: float = expert_setting(
        0.0,
        help="Momentum of SGD.",
        ge=0,
        lt=1,
        usual=(0.0, 0.95),
        source="torch.optim.SGD momentum",
    )
    layerwise_lr_decay: float = expert_setting(
        1.0,
        label="Layer-wise learning rate decay",
        help="Factor on the learning rate from each layer to the one below; 1 disables it.",
        gt=0,
        le=1,
        usual=(0.65, 1.0),
        source="ELECTRA, arXiv:2003.10555, appendix A; ERNIEKit layerwise_lr_decay_bound",
    )
    moment_dtype: Literal["float32", "bfloat16"] = expert_setting(
        "float32",
        label="Number type of moments",
        help="Number type of AdamW's two moments; bfloat16 halves their memory.",
        source="ERNIEKit use_lowprecision_moment",
    )

    @field_validator("optim", mode="before")
    @classmethod
    def _by_its_name_in_transformers(cls, value: Any) -> Any:
        return ALIASES.get(value, value) if isinstance(value, str) else value
