"""Settings of what is written down."""

from __future__ import annotations

from typing import Literal

from nbft.config.base import Section, setting


class Logging(Section):
    """What is written down on the way."""

    logging_steps: int = setting(
        1,
        help="Steps between two points on the curves.",
        unit="steps",
        ge=1,
        source="nbft: a point costs about 2 ms",
    )
    logging_first_step: bool = setting(
        True,
        help="Write down the first step too.",
        source="transformers TrainingArguments.logging_first_step",
    )
    log_level: Literal["debug", "info", "warning", "error"] = setting(
        "info",
        help="How much goes into log.txt.",
        source="transformers TrainingArguments.log_level",
    )
