"""Settings of what is saved on the way."""

from __future__ import annotations

from typing import Literal

from nbft.config.base import Section, setting


class Checkpoint(Section):
    """What is saved on the way."""

    save_strategy: Literal["no", "steps", "epoch", "best"] = setting(
        "steps",
        help="When to save a checkpoint.",
        source="transformers TrainingArguments.save_strategy",
    )
    save_steps: int = setting(
        500,
        help="Steps between checkpoints, with save_strategy steps.",
        unit="steps",
        ge=1,
        source="transformers TrainingArguments.save_steps",
    )
    save_total_limit: int | None = setting(
        2,
        help="Checkpoints kept; older ones are deleted. All are kept when empty.",
        ge=1,
        source="nbft: the last and the one before",
    )
    save_only_model: bool = setting(
        False,
        help="Leave the optimiser out of checkpoints: smaller, but no exact resuming.",
        source="transformers TrainingArguments.save_only_model",
        level="expert",
    )
    load_best_model_at_end: bool = setting(
        False,
        help="End with the checkpoint that scored best instead of the last.",
        source="transformers TrainingArguments.load_best_model_at_end",
    )
    metric_for_best_model: str = setting(
        "eval_loss",
        help="Score that decides which checkpoint is best.",
        source="transformers TrainingArguments.metric_for_best_model",
    )
    greater_is_better: bool | None = setting(
        help="Whether a larger score is better; known by itself for losses.",
        source="transformers TrainingArguments.greater_is_better",
        level="expert",
    )
