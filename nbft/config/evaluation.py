"""Settings of the evaluation on held-out rows."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import field_validator
from pydantic_core import PydanticCustomError

from nbft.config.base import Section, expert_setting, setting

Metric = Literal["rouge", "exact_match", "format", "perplexity"]


class Evaluation(Section):
    """Evaluation on held-out rows."""

    eval_strategy: Literal["no", "steps", "epoch"] = setting(
        "epoch",
        help="When to compute the loss on the held-out rows: never, every eval_steps, or after each "
        "epoch; and with steps and epoch at the end of the run.",
        source="QEfficient training.eval_strategy",
    )
    eval_steps: int | None = setting(
        label="Evaluation interval",
        help="Steps between evaluations when eval_strategy is steps; logging_steps when empty.",
        unit="steps",
        ge=1,
        source="transformers TrainingArguments.eval_steps",
    )
    eval_on_start: bool = setting(
        True,
        label="Evaluate before training",
        help="Also evaluate before the first step, for a before-and-after comparison, unless "
        "eval_strategy is no.",
        source="nbft",
    )
    max_eval_steps: int | None = expert_setting(
        help="Maximum number of batches per evaluation; all when empty.",
        unit="steps",
        ge=1,
        source="ERNIEKit max_evaluate_steps",
    )
    per_device_eval_batch_size: int = setting(
        8,
        label="Evaluation batch size per device",
        help="Held-out rows that a device processes at a time.",
        unit="rows",
        ge=1,
        source="transformers TrainingArguments.per_device_eval_batch_size",
    )
    sample_count: int = setting(
        3,
        label="Number of sample prompts",
        help="Held-out prompts to answer with the base and the tuned model, side by side.",
        unit="prompts",
        ge=0,
        le=100,
        source="nbft",
    )
    sample_prompts: list[str] = setting(
        help="Your own prompts to answer instead, exactly as the model should see them.",
        source="nbft",
        default_factory=list,
    )
    sample_max_new_tokens: int = setting(
        64,
        label="Maximum new tokens of a sample",
        help="Maximum length of a sample answer.",
        unit="tokens",
        ge=1,
        source="nbft",
    )
    metrics: list[Metric] | None = setting(
        help="Metrics for answers to held-out rows, computed before, during and after training. "
        "When empty, those that suit a known dataset; [] for none.",
        source="nbft: rouge for samsum, exact_match and format for gsm8k, exact_match for grammar, "
        "perplexity for alpaca",
        why="rouge: word overlap with the reference, for summaries. exact_match: the same final "
        "number as the reference, or the same text. format: the same form as the references. "
        "perplexity: how unexpected the reference is to the model; quick, as it generates no "
        "answer.",
    )
    metric_function: str | None = setting(
        label="Metric function",
        help="Your own metric: path/to/file:function, package.module:function, or a key of "
        "nbft.registry.metrics.",
        source="nbft, as data.train.datasets[].prompt_func",
        why="Called with (answers, references, rows), three lists of the same length; returns a "
        "number or a dict of numbers. Runs your code.",
    )
    metric_function_greater_is_better: bool = setting(
        True,
        label="Higher metric is better",
        help="Whether a higher score of metric_function is better.",
        source="nbft, named like transformers TrainingArguments.greater_is_better",
    )
    format_pattern: str | None = setting(
        help="Regular expression that the whole answer must match, for the format metric; derived "
        "from the references when empty.",
        source="nbft",
        suggestions=(r".*#### -?\d+", r"(yes|no)", r"\{.*\}"),
        why="A dot also matches line breaks; whitespace around the answer is ignored.",
    )
    score_every_n_steps: int | None = setting(
        label="Scoring interval",
        help="Steps between scores; at every evaluation when empty.",
        unit="steps",
        ge=1,
        source="nbft",
        why="The sample prompts are answered at the same steps, so you can see the answers change.",
    )
    score_rows: int = setting(
        16,
        label="Rows to score",
        help="Held-out rows to score, drawn with training.seed.",
        unit="rows",
        ge=1,
        le=100_000,
        usual=(16, 500),
        source="nbft: what a CPU answers in less than a minute",
        why="Few rows are quick but imprecise: with 16, one more correct answer is worth 6 points.",
    )
    score_max_new_tokens: int | None = setting(
        label="Maximum new tokens of a score",
        help="Longest scored answer; that of the longest reference, up to 256 tokens, when empty.",
        unit="tokens",
        ge=1,
        source="transformers GenerationConfig.max_new_tokens",
    )
    do_sample: bool = setting(
        False,
        label="Random sampling",
        help="Sample the tokens of scored answers; false always picks the most likely token.",
        source="transformers GenerationConfig.do_sample",
        why="Seeded with training.seed; the random numbers used for training are not affected.",
    )
    temperature: float | None = setting(
        help="Sampling temperature: above 1 more random, below 1 more predictable; 1 when empty.",
        gt=0,
        le=10,
        usual=(0.2, 1.2),
        source="transformers GenerationConfig.temperature",
    )
    top_p: float | None = setting(
        label="Top-p",
        help="Sample from the most likely tokens that add up to this probability; all when empty.",
        gt=0,
        le=1,
        usual=(0.8, 1.0),
        source="transformers GenerationConfig.top_p",
    )
    per_device_generation_batch_size: int = setting(
        16,
        label="Generation batch size per device",
        help="Prompts answered at a time; halved automatically when memory runs out.",
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
                f"is not a valid regular expression ({error}). Escape literal characters with \\.",
            ) from None
        return value

    @field_validator("metrics")
    @classmethod
    def _each_once(cls, value: list[Metric] | None) -> list[Metric] | None:
        return None if value is None else list(dict.fromkeys(value))
