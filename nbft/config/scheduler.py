"""Settings of the learning rate over the steps."""

from __future__ import annotations

from typing import Any

from nbft import registry
from nbft.config.base import Section, key_of, setting


class Scheduler(Section):
    """How the learning rate changes over the steps."""

    lr_scheduler_type: key_of(registry.schedulers) = setting(  # type: ignore[valid-type]
        "cosine",
        label="Learning rate schedule",
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
        why="1 means one step, 0.05 means 5% of the steps. Unsloth's guide has 3 to 10%, PEFT Studio "
        "5 to 10%; its default of 100 steps is that only for 1,000 to 2,000 steps.",
    )
    min_lr: float | None = setting(
        help="Learning rate at which cosine ends instead of 0.",
        ge=0,
        le=1,
        source="transformers get_cosine_with_min_lr_schedule_with_warmup",
        level="expert",
    )
    num_cycles: float | None = setting(
        label="Cycles",
        help="Waves of cosine, 0.5 when empty; restarts of cosine_with_restarts, 1 when empty.",
        gt=0,
        le=1000,
        source="transformers get_cosine_schedule_with_warmup",
        level="expert",
    )
    lr_end: float | None = setting(
        label="Final learning rate",
        help="Learning rate at which polynomial ends; 1e-7 when empty.",
        ge=0,
        le=1,
        source="transformers get_polynomial_decay_schedule_with_warmup",
        level="expert",
    )
    power: float | None = setting(
        help="Exponent of polynomial; 1 when empty, which is a straight line.",
        gt=0,
        le=100,
        source="transformers get_polynomial_decay_schedule_with_warmup",
        level="expert",
    )
    lr_scheduler_kwargs: dict[str, Any] = setting(
        label="Schedule arguments",
        help="Further arguments of the shape: num_cycles, power, lr_end, min_lr, min_lr_rate.",
        source="transformers TrainingArguments.lr_scheduler_kwargs",
        level="expert",
        default_factory=dict,
    )
