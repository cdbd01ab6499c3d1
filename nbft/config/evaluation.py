"""Settings of what is measured on held-out rows."""

from __future__ import annotations

from typing import Literal

from nbft.config.base import Section, setting


class Evaluation(Section):
    """What is measured on the held-out rows on the way."""

    eval_strategy: Literal["no", "steps", "epoch"] = setting(
        "epoch",
        help="When to measure the loss on the held-out rows; it is measured at the end in any case.",
        source="QEfficient training.eval_strategy",
    )
    eval_steps: int | None = setting(
        help="Steps between measurements, with eval_strategy steps; logging_steps when empty.",
        unit="steps",
        ge=1,
        source="transformers TrainingArguments.eval_steps",
    )
    eval_on_start: bool = setting(
        True,
        help="Measure before the first step too, so that there is a before and an after.",
        source="nbft",
    )
    per_device_eval_batch_size: int = setting(
        8,
        help="Held-out rows that a device works on at a time.",
        unit="rows",
        ge=1,
        source="transformers TrainingArguments.per_device_eval_batch_size",
    )
    sample_count: int = setting(
        3,
        help="Held-out prompts answered by the base model and by the tuned one, side by side.",
        unit="prompts",
        ge=0,
        le=100,
        source="nbft",
    )
    sample_prompts: list[str] = setting(
        help="Prompts of your own to answer instead of held-out ones, as the model shall see them.",
        source="nbft",
        default_factory=list,
    )
    sample_max_new_tokens: int = setting(
        64,
        help="Longest answer of a sample.",
        unit="tokens",
        ge=1,
        source="nbft",
    )
