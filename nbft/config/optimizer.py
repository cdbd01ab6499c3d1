"""Settings of the optimiser."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import field_validator

from nbft import registry
from nbft.config.base import Section, key_of, setting

ALIASES = {"adamw": "adamw_torch", "paged_adamw": "paged_adamw_32bit"}
"""Names that other systems use, and what transformers takes. adam is a key of our own: it is no
AdamW, its weight decay is part of the gradient."""


class Optimizer(Section):
    """What turns gradients into new weights."""

    optim: key_of(registry.optimizers) = setting(  # type: ignore[valid-type]
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
        why="Unsloth's guide has 0.01 to 0.1 against learning the rows by heart.",
    )
    adam_beta1: float = setting(
        0.9,
        label="Adam beta 1",
        help="Memory of Adam for the gradient.",
        ge=0,
        lt=1,
        source="Adam, arXiv:1412.6980, algorithm 1",
        level="expert",
    )
    adam_beta2: float = setting(
        0.999,
        label="Adam beta 2",
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
    sgd_momentum: float = setting(
        0.0,
        help="Share of the last step that sgd takes along.",
        ge=0,
        lt=1,
        usual=(0.0, 0.95),
        source="torch.optim.SGD momentum",
        level="expert",
    )
    layerwise_lr_decay: float = setting(
        1.0,
        label="Layer-wise learning rate decay",
        help="Factor by which the learning rate falls from each layer to the one below; 1 is none.",
        gt=0,
        le=1,
        usual=(0.65, 1.0),
        source="ELECTRA, arXiv:2003.10555, appendix A; ERNIEKit layerwise_lr_decay_bound",
        level="expert",
    )
    moment_dtype: Literal["float32", "bfloat16"] = setting(
        "float32",
        label="Number type of moments",
        help="Number type of AdamW's two moments; bfloat16 halves their memory.",
        source="ERNIEKit use_lowprecision_moment",
        level="expert",
    )

    @field_validator("optim", mode="before")
    @classmethod
    def _as_transformers_calls_it(cls, value: Any) -> Any:
        return ALIASES.get(value, value) if isinstance(value, str) else value
