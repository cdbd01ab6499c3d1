"""Settings of what is written down."""

from __future__ import annotations

from typing import Literal

from nbft.config.base import Section, setting


class Logging(Section):
    """What is written down on the way."""

    logging_steps: int = setting(
        1,
        label="Logging interval",
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
    logging_strategy: Literal["no", "steps", "epoch"] = setting(
        "steps",
        help="When to write down a point of the curves.",
        source="transformers TrainingArguments.logging_strategy",
        level="expert",
    )
    disable_tqdm: bool = setting(
        True,
        label="Hide progress bars",
        help="Write no progress bar; false keeps one in the run's progress.txt.",
        source="transformers TrainingArguments.disable_tqdm; the Monitor shows progress",
        level="expert",
    )
    dep_log_level: Literal["debug", "info", "warning", "error"] | None = setting(
        label="Log level of libraries",
        help="How much the libraries write into log.txt; log_level when empty.",
        source="Oumi training.dep_log_level",
        level="expert",
    )
    include_num_input_tokens_seen: Literal["auto", "no", "all", "non_padding"] = setting(
        "auto",
        help="Count the tokens that went in, with or without padding; auto is what the trainer "
        "does.",
        source="transformers TrainingArguments.include_num_input_tokens_seen",
        level="expert",
    )
    include_performance_metrics: bool = setting(
        False,
        help="Write down tokens per row, rows and tokens per second, and the share of padding.",
        source="Oumi training.include_performance_metrics",
        level="expert",
    )
    include_mfu: bool = setting(
        False,
        label="Include MFU",
        help="Write down which share of the device's peak the training computes (MFU).",
        source="PaLM, arXiv:2204.02311, appendix B",
        level="expert",
    )
    log_model_summary: bool = setting(
        False,
        help="Write the model's layers and parameters into the run's model.txt.",
        source="Oumi training.log_model_summary",
        level="expert",
    )
    log_on_each_node: bool = setting(
        True,
        help="With several machines, log on each of them instead of on the first alone.",
        source="transformers TrainingArguments.log_on_each_node",
        level="expert",
    )
    logging_dir: str | None = setting(
        help="Folder for TensorBoard's files; the run's folder when empty.",
        source="transformers, as the variable TENSORBOARD_LOGGING_DIR",
        level="expert",
    )
