"""Settings of what is measured on held-out rows."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import field_validator
from pydantic_core import PydanticCustomError

from nbft.config.base import Section, setting

Metric = Literal["rouge", "exact_match", "format", "perplexity"]


class Evaluation(Section):
    """What is measured on the held-out rows on the way."""

    eval_strategy: Literal["no", "steps", "epoch"] = setting(
        "epoch",
        help="When to measure the loss on the held-out rows; it is measured at the end in any case.",
        source="QEfficient training.eval_strategy",
    )
    eval_steps: int | None = setting(
        label="Evaluation interval",
        help="Steps between measurements, with eval_strategy steps; logging_steps when empty.",
        unit="steps",
        ge=1,
        source="transformers TrainingArguments.eval_steps",
    )
    eval_on_start: bool = setting(
        True,
        label="Evaluate before training",
        help="Measure before the first step too, so that there is a before and an after.",
        source="nbft",
    )
    max_eval_steps: int | None = setting(
        help="Batches that a measurement of the held-out loss takes at most; all when empty.",
        unit="steps",
        ge=1,
        source="ERNIEKit max_evaluate_steps",
        level="expert",
    )
    per_device_eval_batch_size: int = setting(
        8,
        label="Evaluation batch size per device",
        help="Held-out rows that a device works on at a time.",
        unit="rows",
        ge=1,
        source="transformers TrainingArguments.per_device_eval_batch_size",
    )
    sample_count: int = setting(
        3,
        label="Number of sample prompts",
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
        label="Maximum new tokens of a sample",
        help="Longest answer of a sample.",
        unit="tokens",
        ge=1,
        source="nbft",
    )
    metrics: list[Metric] | None = setting(
        help="Scores of answers to held-out rows, before, on the way and after. When empty, those "
        "that suit a dataset with a ready name; [] for none.",
        source="nbft: rouge for samsum, exact_match and format for gsm8k, exact_match for grammar, "
        "perplexity for alpaca",
        why="rouge: words shared with the reference, for summaries. exact_match: the same final "
        "number as the reference, or the same text. format: the form that the references have. "
        "perplexity: how much the model wonders at the reference; writes no answer, so it is quick.",
    )
    metric_function: str | None = setting(
        label="Metric function",
        help="Score of your own: path/to/file:function, package.module:function, or a key of "
        "nbft.registry.metrics.",
        source="nbft, as data.train.datasets[].prompt_func",
        why="Called with (answers, references, rows), three lists of one length; returns a number "
        "or a dict of numbers. Runs code of yours.",
    )
    metric_function_greater_is_better: bool = setting(
        True,
        label="Higher metric is better",
        help="Whether a larger score of metric_function is better.",
        source="nbft, named like transformers TrainingArguments.greater_is_better",
    )
    format_pattern: str | None = setting(
        help="Regular expression that the whole answer shall match, for the score format; the form "
        "of the references when empty.",
        source="nbft",
        suggestions=(r".*#### -?\d+", r"(yes|no)", r"\{.*\}"),
        why="A dot stands for a line break too; spaces around the answer do not count.",
    )
    score_every_n_steps: int | None = setting(
        label="Scoring interval",
        help="Steps between scores; at each measurement of the held-out loss when empty.",
        unit="steps",
        ge=1,
        source="nbft",
        why="The fixed prompts are answered at the same steps, so that their answers can be "
        "followed.",
    )
    score_rows: int = setting(
        16,
        label="Rows to score",
        help="Held-out rows that are scored, drawn by training.seed.",
        unit="rows",
        ge=1,
        le=100_000,
        usual=(16, 500),
        source="nbft: what a CPU answers in less than a minute",
        why="Few rows are quick and uncertain: of 16 rows one more right is worth 6 points.",
    )
    score_max_new_tokens: int | None = setting(
        label="Maximum new tokens of a score",
        help="Longest answer that is scored; as long as the longest reference, at most 256 tokens, "
        "when empty.",
        unit="tokens",
        ge=1,
        source="transformers GenerationConfig.max_new_tokens",
    )
    do_sample: bool = setting(
        False,
        label="Random sampling",
        help="Draw each token of a scored answer by its likelihood; false takes the likeliest.",
        source="transformers GenerationConfig.do_sample",
        why="The draws come from training.seed, and the training's own are left alone.",
    )
    temperature: float | None = setting(
        help="Flattens (above 1) or sharpens (below 1) the likelihoods of do_sample; 1 when empty.",
        gt=0,
        le=10,
        usual=(0.2, 1.2),
        source="transformers GenerationConfig.temperature",
    )
    top_p: float | None = setting(
        label="Top-p",
        help="Draw from the likeliest tokens that together have this share; all when empty.",
        gt=0,
        le=1,
        usual=(0.8, 1.0),
        source="transformers GenerationConfig.top_p",
    )
    per_device_generation_batch_size: int = setting(
        16,
        label="Generation batch size per device",
        help="Prompts answered at a time; halved by itself where memory runs out.",
        unit="prompts",
        ge=1,
        source="nbft, named like per_device_eval_batch_size",
    )

    @field_validator("format_pattern")
    @classmethod
    def _is_a_pattern(cls, value: str | None) -> str | None:
        try:
            re.compile(value or "")
        except re.error as error:
            raise PydanticCustomError(
                "nbft",
                f"is not a valid regular expression ({error}). Write \\ before a sign that is meant.",
            ) from None
        return value

    @field_validator("metrics")
    @classmethod
    def _each_once(cls, value: list[Metric] | None) -> list[Metric] | None:
        return None if value is None else list(dict.fromkeys(value))
