"""Settings of the learning rate over the steps."""

from __future__ import annotations

from typing import Any, Literal

from nbft.config.base import Section, setting


class Scheduler(Section):
    """How the learning rate changes over the steps."""

    lr_scheduler_type: Literal[
        "linear",
        "cosine",
        "cosine_with_restarts",
        "cosine_with_min_lr",
        "polynomial",
        "constant",
        "constant_with_warmup",
        "inverse_sqrt",
    ] = setting(
        "cosine",
        help="Shape of the learning rate after the warm-up.",
        source="QEfficient scheduler; SGDR, arXiv:1608.03983",
    )
    warmup_steps: float = setting(
        0.05,
        help="Steps over which the learning rate rises from 0; a value below 1 is a share of all "
        "steps.",
        unit="steps",
        ge=0,
        usual=(0.03, 0.1),
        source="usual practice: 3% to 10%",
        why="1 means one step, 0.05 means 5% of the steps.",
    )
    lr_scheduler_kwargs: dict[str, Any] = setting(
        help="Further arguments of the shape: num_cycles, power, lr_end, min_lr, min_lr_rate.",
        source="transformers TrainingArguments.lr_scheduler_kwargs",
        level="expert",
        default_factory=dict,
    )
