"""Settings of experiment trackers."""

from __future__ import annotations

from typing import Literal

from nbft.config.base import Section, setting


class Tracking(Section):
    """Experiment trackers. Every run also has its own log."""

    report_to: list[Literal["tensorboard", "wandb", "comet_ml", "mlflow", "trackio", "phoenix"]] = (
        setting(
            label="Trackers",
            help="Experiment trackers to report to; each must be installed.",
            why="Without a login Weights & Biases and Comet run offline, and Trackio locally: no run "
            "waits for a key. Phoenix also gets the prompts and answers of samples and scores.",
            source="transformers TrainingArguments.report_to",
            default_factory=list,
        )
    )
    project: str = setting(
        "nbft",
        help="Project name in the trackers.",
        why="MLflow calls it an experiment. TensorBoard has no projects.",
        source="transformers TrainingArguments.project",
    )
    tags: list[str] = setting(
        help="Tags of the run, shown in the trackers and in the list of runs.",
        why="TensorBoard and Trackio have no tags.",
        source="PEFT Studio tags",
        default_factory=list,
    )
