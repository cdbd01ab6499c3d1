"""Settings of the learning rate schedule."""

from __future__ import annotations

from typing import Any

from nbft import registry
from nbft.config.base import Section, expert_setting, key_of, setting


class Scheduler(Section):
    """The learning rate schedule."""

    lr_scheduler_type: key_of(registry.schedulers) = setting(  # type: ignore[valid-type]
        "cosine",
        label="Learning rate schedule",
        help="Shape of the learning rate curve after warm-up.",
        source="QEfficient scheduler; SGDR, arXiv:1608.03983",
    )
    warmup_steps: float = setting(
        0.05,
        help="Steps over which the learning rate rises from 0; below 1 it is a share of all steps.",
        unit="steps",
        ge=0,
        usual=(0.03, 0.1),
        source="usual practice: 3% to 10%",
        why="1 means one step, 0.05 means 5% of the steps. Unsloth's guide recommends 3 to 10%, "
        "PEFT Studio 5 to 10%; its default of 100 steps is that only in runs of 1,000 to 2,000.",
    )
    min_lr: float | None = expert_setting(
        help="Final learning rate of cosine, instead of 0.",
        ge=0,
        le=1,
        source="transformers get_cosine_with_min_lr_schedule_with_warmup",
    )
    num_cycles: float | None = expert_setting(
        label="Cycles",
        help="Waves of cosine (0.5 when empty), or restarts of cosine_with_restarts (1 when "
        "empty).",
        gt=0,
        le=1000,
        source="transformers get_cosine_schedule_with_warmup",
    )
    lr_end: float | None = expert_setting(
        label="Final learning rate",
        help="Final learning rate of polynomial; 1e-7 when empty.",
        ge=0,
        le=1,
        source="transformers get_polynomial_decay_schedule_with_warmup",
    )
    power: float | None = expert_setting(
        help="Exponent of polynomial; 1 when empty, which is a straight line.",
        gt=0,
        le=100,
        source="transformers get_polynomial_decay_schedule_with_warmup",
    )
    lr_scheduler_kwargs: dict[str, Any] = expert_setting(
        label="Schedule arguments",
        help="More arguments of the schedule: num_cycles, power, lr_end, min_lr, min_lr_rate.",
        source="transformers TrainingArguments.lr_scheduler_kwargs",
        default_factory=dict,
    )
