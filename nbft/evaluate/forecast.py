"""What a run will measure, when, and at what cost, before anything is trained.

Loads no library. Called by `nbft.plan` and by `nbft.evaluate.scoring`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nbft import registry
from nbft.config import Config
from nbft.data.chat import answers
from nbft.data.examples import Example, load_function
from nbft.data.ready import READY
from nbft.data.turns import text_of
from nbft.decisions import best_measure
from nbft.errors import NbftError, Problem
from nbft.evaluate.generate import BATCH
from nbft.evaluate.metrics import METRICS, SCORES, Function, form_of
from nbft.formatting import count
from nbft.methods import method_of

LONGEST_ANSWER_TOKENS = 256
"""Longest answer if evaluation.score_max_new_tokens is empty."""

_ANSWER_TOKEN_SECONDS = 0.002
"""What each answer of a batch adds to that time."""

_CPU_BYTES_PER_SECOND = 4e9
"""Weights that a CPU reads per second in generation: each new token of a batch reads them all.
Measured with SmolLM2-135M in bfloat16, 8 prompts at a time, on 2 cores: 70 ms per token."""

_ROW_IN_TOKENS = 1.5
"""Time to read one row of some 40 tokens, relative to a new token. Measured likewise."""

_PROMPT_IN_TOKENS = 0.5
"""The same for a prompt that is read in a batch with others."""

_CHECKED_ROWS = 200


def metrics_of(config: Config) -> tuple[str, ...]:
    """Return the metrics of the config, or those that suit the held-out rows.

    >>> metrics_of(Config(data={"dataset_name": "samsum"}))
    ('rouge',)
    >>> metrics_of(Config(data={"dataset_name": "samsum"}, evaluation={"metrics": []}))
    ()
    """
    if config.evaluation.metrics is not None:
        return tuple(config.evaluation.metrics)
    if method_of(config).scores_answers:
        return ()
    datasets = (config.data.validation or config.data.train).datasets
    suits = [
        READY[d.dataset_name].metrics
        if d.dataset_name in READY and d.path is None and d.rows is None
        else ()
        for d in datasets
    ]
    shared = [name for name in suits[0] if all(name in names for names in suits)] if suits else []
    if config.evaluation.format_pattern and "format" not in shared:
        shared.append("format")
    return tuple(shared)


def scored_steps(config: Config, total_steps: int, steps_per_epoch: int) -> list[int]:
    """Return the steps after which a run is scored; 0 is the base model.

    Args:
        config: Its evaluation section applies.
        total_steps: Optimiser steps of the run.
        steps_per_epoch: Optimiser steps of an epoch.

    >>> config = Config(data={"dataset_name": "samsum"})
    >>> scored_steps(config, 60, 20)
    [0, 20, 40, 60]
    >>> scored_steps(config.override("evaluation.score_every_n_steps=25"), 60, 20)
    [0, 25, 50, 60]
    """
    evaluation = config.evaluation
    if not (metrics_of(config) or evaluation.metric_function or evaluation.score_every_n_steps):
        return []
    every = evaluation.score_every_n_steps
    if every is None and evaluation.eval_strategy == "epoch":
        every = steps_per_epoch
    elif every is None and evaluation.eval_strategy == "steps":
        every = evaluation.eval_steps or config.logging.logging_steps
    return sorted({0, *(range(every, total_steps, every) if every else ()), total_steps})


def best_by_score(config: Config) -> bool:
    """Whether a score, and not the held-out loss, decides which checkpoint is best."""
    by_trainer = ("loss", "mean_token_accuracy", "entropy", "num_tokens", "runtime")
    return best_measure(config) not in (None, *by_trainer, *method_of(config).held_out_measures)


def sampled_prompts(config: Config, *, has_held_out: bool = True) -> int:
    """Return how many fixed prompts are answered; a reward model answers none.

    Args:
        config: Its evaluation section has the prompts.
        has_held_out: Whether there are rows to take prompts from.

    >>> sampled_prompts(Config()), sampled_prompts(Config(training={"method": "reward"}))
    (3, 0)
    """
    if method_of(config).scores_answers:
        return 0
    evaluation = config.evaluation
    return len(evaluation.sample_prompts) or (evaluation.sample_count if has_held_out else 0)


def scoring_seconds(config: Config, weight_bytes: float, answer_tokens: int) -> float:
    """Estimate the time of scoring once on a CPU.

    Args:
        config: Its evaluation section has the number of rows and the batch size.
        weight_bytes: Bytes of the model's weights.
        answer_tokens: Tokens of the longest answer.
    """
    evaluation = config.evaluation
    batches = -(-evaluation.score_rows // evaluation.per_device_generation_batch_size)
    token = weight_bytes / _CPU_BYTES_PER_SECOND
    seconds = 0.0
    if set(metrics_of(config)) - {"perplexity"} or evaluation.metric_function:
        prompts = evaluation.score_rows * _PROMPT_IN_TOKENS
        seconds += (batches * answer_tokens + prompts) * token
    if "perplexity" in metrics_of(config):
        seconds += evaluation.score_rows * _ROW_IN_TOKENS * token
    return seconds


def sampling_seconds(config: Config, weight_bytes: float) -> float:
    """Estimate the time of answering the fixed prompts once on a CPU.

    Args:
        config: Its evaluation section has the prompts and the length of the answers.
        weight_bytes: Bytes of the model's weights.
    """
    tokens = -(-sampled_prompts(config) // BATCH) * config.evaluation.sample_max_new_tokens
    return tokens * weight_bytes / _CPU_BYTES_PER_SECOND


def writing_seconds(config: Config, weight_bytes: float, steps: int) -> float:
    """Estimate the time in which the model writes answers to train on, on a CPU.

    Every answer is taken to be as long as it may be; a batch of them waits for the longest.

    Args:
        config: Its grpo section has the length of the answers.
        weight_bytes: Bytes of the model's weights.
        steps: Optimiser steps of the run.
    """
    answers = method_of(config).answers_at_once(config)
    if not answers:
        return 0.0
    training = config.training
    micro_batches = steps * training.gradient_accumulation_steps
    rounds = micro_batches * training.per_device_train_batch_size / answers
    rounds /= config.grpo.num_iterations
    token = weight_bytes / _CPU_BYTES_PER_SECOND + answers * _ANSWER_TOKEN_SECONDS
    return rounds * config.grpo.max_completion_length * token


def answer_tokens(config: Config, held_out: Sequence[Example]) -> int:
    """Return the tokens of the longest answer that is scored; an estimate.

    Args:
        config: Its evaluation section may limit them.
        held_out: The held-out examples.
    """
    if (most := config.evaluation.score_max_new_tokens) is not None:
        return most
    longest = max((len(reference_of(example)) for example in held_out[:_CHECKED_ROWS]), default=0)
    return min(LONGEST_ANSWER_TOKENS, longest // 4 + 1)  # a token has about 4 characters


def scoring_remark(config: Config, held_out: Sequence[Example], steps: Sequence[int]) -> list[str]:
    """Return a sentence about what is scored and how often, or nothing.

    Args:
        config: The config.
        held_out: The held-out examples.
        steps: Result of `scored_steps`.
    """
    evaluation = config.evaluation
    names = [SCORES[s].label for metric in metrics_of(config) for s in METRICS[metric].scores]
    if evaluation.metric_function:
        names.append(evaluation.metric_function.rpartition(":")[2])
    if not names or not held_out or not steps:
        return []
    rows = count(min(evaluation.score_rows, len(held_out)), "held-out row")
    text = f"Scores: {', '.join(names)} of {rows}, {count(len(steps), 'time')}: before step 1"
    between = len(steps) - 2
    times = "once" if between == 1 else f"{between:,} times"
    during = f"{times} on the way" if between > 0 else "never on the way"
    return [f"{text}, {during} and after step {steps[-1]:,}."]


def reference_of(example: Example) -> str:
    """Return the reference answer: the completion, or the first answer that is trained on.

    >>> reference_of(Example("Say hi.", " Hi. "))
    'Hi.'
    """
    if not example.messages:
        return example.completion.strip()
    places = answers(example.messages)
    return text_of(example.messages[places[0]]).strip() if places else ""


def own_metric(config: Config, folder: Path | None = None) -> Function:
    """Return the function of evaluation.metric_function.

    Args:
        config: Its setting is a key of nbft.registry.metrics, path/to/file:function or
            package.module:function.
        folder: Folder of the config file, for relative paths.

    Raises:
        DataError: There is no such function.
        ConfigError: Its package cannot be imported.
    """
    written = str(config.evaluation.metric_function)
    if written in registry.metrics:
        return registry.metrics.get(written)  # type: ignore[no-any-return]
    own: Any = load_function(written, "evaluation.metric_function", folder, is_own=config.is_own)
    return own  # type: ignore[no-any-return]


def scoring_problems(
    config: Config, held_out: Sequence[Example] | None, *, folder: Path | None = None
) -> list[Problem]:
    """Return what is wrong with the settings of the scores.

    Args:
        config: The config.
        held_out: The held-out examples; None if they could not be read.
        folder: Folder of the config file, for relative paths.
    """
    evaluation = config.evaluation
    problems = [*_sampling(config), *_format(config, held_out)]
    if evaluation.metric_function:
        try:
            own_metric(config, folder)
        except NbftError as error:
            problems += [p for p in error.problems if isinstance(p, Problem)]
    asked = evaluation.metrics or evaluation.metric_function
    if asked and held_out is not None and not held_out and config.data.test is None:
        name = "metrics" if evaluation.metrics else "metric_function"
        why = "has no rows to score: none are held out."
        fix = "Use data.split_ratio 0.9, or name rows in data.validation or data.test."
        changes = {} if config.data.train.stream else {"data.split_ratio": 0.9}
        problems.append(Problem(f"evaluation.{name}", asked, why, fix, changes))
    every = evaluation.score_every_n_steps
    prompts = sampled_prompts(config, has_held_out=bool(held_out))
    if every and held_out is not None and not (metrics_of(config) or asked or prompts):
        field = "evaluation.score_every_n_steps"
        why = "has nothing to score: no metrics, no metric_function and no prompts are given."
        fix = "Leave it empty, or name some metrics."
        problems.append(Problem(field, every, why, fix, {field: None}))
    return [*problems, *_best(config)]


def _best(config: Config) -> list[Problem]:
    """Check that the score that decides which checkpoint is best is measured, and its direction."""
    if not best_by_score(config):
        return []
    field, name = "checkpoint.metric_for_best_model", config.checkpoint.metric_for_best_model
    score, measured = name.removeprefix("eval_"), metrics_of(config)
    metric = next((key for key, metric in METRICS.items() if score in metric.scores), None)
    if metric is None and not config.evaluation.metric_function:
        fix = f"Use one of {', '.join(f'eval_{known}' for known in (*SCORES, 'loss'))}."
        return [Problem(field, name, "is not a score.", fix, {field: "eval_loss"})]
    if metric is not None and metric not in measured:
        change = {"evaluation.metrics": [*measured, metric]}
        why = f"is not measured: evaluation.metrics does not name {metric}."
        return [Problem(field, name, why, f"Add {metric} to the metrics.", change)]
    given = config.checkpoint.greater_is_better
    larger = given is not False
    if metric is not None and larger != (better := SCORES[score].greater_is_better):
        field, fix = "checkpoint.greater_is_better", f"Use {str(better).lower()}."
        why = f"the {'larger' if larger else 'smaller'} {name} would count as better."
        return [Problem(field, given, why, fix, {field: better})]
    return []


def _sampling(config: Config) -> list[Problem]:
    evaluation = config.evaluation
    return [
        Problem(
            f"evaluation.{name}",
            getattr(evaluation, name),
            "applies only when tokens are drawn, and evaluation.do_sample is false.",
            "Turn do_sample on, or leave this empty.",
            {"evaluation.do_sample": True},
        )
        for name in ("temperature", "top_p")
        if getattr(evaluation, name) is not None and not evaluation.do_sample
    ]


def _format(config: Config, held_out: Sequence[Example] | None) -> list[Problem]:
    pattern, measured = config.evaluation.format_pattern, list(metrics_of(config))
    if pattern and "format" not in measured:
        why = "is not used: evaluation.metrics does not name format."
        changes = {"evaluation.metrics": [*measured, "format"]}
        fix = "Add format to the metrics."
        return [Problem("evaluation.format_pattern", pattern, why, fix, changes)]
    if "format" in measured and not pattern and held_out:
        references = [reference_of(example) for example in held_out[:_CHECKED_ROWS]]
        if form_of(references) is None:
            why = "names format, but the references share no known form."
            fix = (
                "Write the form as a regular expression in evaluation.format_pattern, or leave "
                "format out."
            )
            changes = {"evaluation.metrics": [name for name in measured if name != "format"]}
            return [Problem("evaluation.metrics", measured, why, fix, changes, level="warning")]
    return []
