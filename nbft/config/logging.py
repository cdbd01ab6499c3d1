"""Settings of logging."""

from __future__ import annotations

from typing import Literal

from nbft.config.base import Section, expert_setting, setting


class Logging(Section):
    """What is logged during training."""

    logging_steps: int = setting(
        1,
        label="Logging interval",
        help="Steps between two points on the charts.",
        unit="steps",
        ge=1,
        source="nbft: a point costs about 2 ms",
    )
    logging_first_step: bool = setting(
        True,
        help="Also log the first step.",
        source="transformers TrainingArguments.logging_first_step",
    )
    log_level: Literal["debug", "info", "warning", "error"] = setting(
        "info",
        help="Level of detail in log.txt.",
        source="transformers TrainingArguments.log_level",
    )
    logging_strategy: Literal["no", "steps", "epoch"] = expert_setting(
        "steps",
        help="When to log a point for the charts.",
        source="transformers TrainingArguments.logging_strategy",
    )
    disable_tqdm: bool = expert_setting(
        True,
        label="Hide progress bars",
        help="Hide the progress bar; false writes one to the run's progress.txt.",
        source="transformers TrainingArguments.disable_tqdm; the Monitor shows progress",
    )
    dep_log_level: Literal["debug", "info", "warning", "error"] | None = expert_setting(
        label="Log level of libraries",
        help="Log level of the libraries in log.txt; log_level when empty.",
        source="Oumi training.dep_log_level",
    )
    include_num_input_tokens_seen: Literal["auto", "no", "all", "non_padding"] = expert_setting(
        "auto",
        help="Count the input tokens, with or without padding; auto keeps the trainer's default.",
        source="transformers TrainingArguments.include_num_input_tokens_seen",
    )
    include_performance_metrics: bool = expert_setting(
        False,
        help="Log tokens per row, rows and tokens per second, and the share of padding.",
        source="Oumi training.include_performance_metrics",
    )
    include_mfu: bool = expert_setting(
        False,
        label="Include MFU",
        help="Log the share of the device's peak throughput that is used (model FLOPs "
        "utilisation).",
        source="PaLM, arXiv:2204.02311, appendix B",
    )
    log_model_summary: bool = expert_setting(
        False,
        help="Write the model's layers and parameter counts to the run's model.txt.",
        source="Oumi training.log_model_summary",
    )
    log_on_each_node: bool = expert_setting(
        True,
        help="With several machines, log on each of them instead of only on the first.",
        source="transformers TrainingArguments.log_on_each_node",
    )
    logging_dir: str | None = expert_setting(
        help="Folder for TensorBoard files; the run's folder when empty.",
        source="transformers, as the variable TENSORBOARD_LOGGING_DIR",
    )
