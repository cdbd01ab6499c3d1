"""The stages of a run: when each happens and how long it takes, from loading to the report.

Loads no library. Called by `nbft.plan`, and by the worker, which measures them as it goes.
"""

from __future__ import annotations

from collections.abc import Mapping

from nbft.config import Config
from nbft.evaluate.forecast import (
    metrics_of,
    sampled_prompts,
    sampling_seconds,
    scored_steps,
    scoring_seconds,
)
from nbft.formatting import duration
from nbft.methods import method_of
from nbft.plan.disk import DiskUse

STAGES = {
    "loading": "loading",
    "tokenizing": "tokens",
    "reference": "reference model",
    "training": "training",
    "evaluating": "held-out loss",
    "scoring": "scores",
    "sampling": "samples",
    "checkpoint": "checkpoints",
    "saving": "saving",
}
"""What each stage is called, in the order in which they first happen."""

_LIBRARIES_SECONDS = 5.0
"""To import the libraries and build the trainer; measured on 2 cores with the files in memory."""

_REPORT_SECONDS = 1.0
_LOADED_BYTES_PER_SECOND = 1e9
_SAVED_BYTES_PER_SECOND = 200e6
_TOKENS_PER_SECOND = 1e6

_SHARE_OF_EVALUATION = 0.45
"""Time of a held-out token, relative to a trained one: there is no backward pass."""


def moments(
    config: Config, total_steps: int, steps_per_epoch: int, *, has_held_out: bool
) -> dict[str, list[int]]:
    """Return the steps after which each stage but the training itself happens; 0 is before step 1.

    Args:
        config: The config.
        total_steps: Optimiser steps of the run.
        steps_per_epoch: Optimiser steps of an epoch.
        has_held_out: Whether there are held-out rows.

    >>> config = Config(data={"dataset_name": "samsum"}, checkpoint={"save_steps": 25})
    >>> found = moments(config, 60, 30, has_held_out=True)
    >>> found["evaluating"], found["scoring"], found["checkpoint"], found["saving"]
    ([0, 30, 60], [0, 30, 60], [25, 50, 60], [60])
    """
    evaluation, saving = config.evaluation, config.checkpoint
    last = total_steps if config.training.do_train else 0

    def steps(strategy: str, every: int, first: bool = False) -> list[int]:
        if strategy == "no":
            return []
        every = steps_per_epoch if strategy == "epoch" else every
        return sorted({*([0] if first else ()), *range(every, last, every), last})

    found: dict[str, list[int]] = {"loading": [0], "tokenizing": [0]}
    if method_of(config).has_reference_stage(config):
        found["reference"] = [0]
    eval_every = evaluation.eval_steps or config.logging.logging_steps
    strategy = evaluation.eval_strategy if last else "steps"
    if has_held_out:
        found["evaluating"] = steps(strategy, eval_every, evaluation.eval_on_start)
    is_scored = has_held_out and bool(metrics_of(config) or evaluation.metric_function)
    scored = [step for step in scored_steps(config, last, steps_per_epoch) if step <= last]
    if is_scored:
        found["scoring"] = scored
    if sampled_prompts(config, has_held_out=has_held_out):
        between = is_scored or evaluation.score_every_n_steps
        found["sampling"] = scored if between else sorted({0, last})
    if not last:
        return found
    by_measure = evaluation.eval_strategy, eval_every
    kind = (
        by_measure if saving.save_strategy == "best" else (saving.save_strategy, saving.save_steps)
    )
    checkpoints = {*steps(*kind)}
    if saving.save_on_epoch_end:
        checkpoints |= {*steps("epoch", 0)}
    found["checkpoint"] = sorted(checkpoints)
    if saving.save_final_model:
        found["saving"] = [last]
    return found


def stage_seconds(
    config: Config,
    *,
    training_seconds: float,
    tokens: int,
    row_tokens: float,
    rows: int,
    eval_rows: int,
    answer_tokens: int,
    weight_bytes: float,
    use: DiskUse,
    total_steps: int,
    steps_per_epoch: int,
) -> dict[str, float]:
    """Estimate the seconds of each stage on a CPU, all its times together.

    Args:
        config: The config.
        training_seconds: Time of the steps.
        tokens: Tokens in all steps together.
        row_tokens: Tokens of a row, on average.
        rows: Training rows.
        eval_rows: Held-out rows.
        answer_tokens: Tokens of the longest answer that is scored.
        weight_bytes: Bytes of the model's weights.
        use: What the run writes.
        total_steps: Optimiser steps of the run.
        steps_per_epoch: Optimiser steps of an epoch.
    """
    evaluation = config.evaluation
    measured = eval_rows
    if evaluation.max_eval_steps is not None:
        measured = min(eval_rows, evaluation.max_eval_steps * evaluation.per_device_eval_batch_size)
    a_token = training_seconds / max(1, tokens)
    once = {
        "loading": _LIBRARIES_SECONDS + weight_bytes / _LOADED_BYTES_PER_SECOND,
        "tokenizing": 0.3 + (rows + eval_rows) * row_tokens / _TOKENS_PER_SECOND,
        "reference": (rows + measured) * row_tokens * a_token * _SHARE_OF_EVALUATION,
        "evaluating": measured * row_tokens * a_token * _SHARE_OF_EVALUATION,
        "scoring": scoring_seconds(config, weight_bytes, answer_tokens),
        "sampling": sampling_seconds(config, weight_bytes),
        "checkpoint": 0.3 + use.checkpoint_bytes / _SAVED_BYTES_PER_SECOND,
        "saving": _REPORT_SECONDS + use.result_bytes / _SAVED_BYTES_PER_SECOND,
    }
    times = moments(config, total_steps, steps_per_epoch, has_held_out=eval_rows > 0)
    seconds = {stage: len(steps) * once[stage] for stage, steps in times.items() if steps}
    if config.training.do_train:
        seconds["training"] = training_seconds
    return {stage: round(seconds[stage], 1) for stage in STAGES if stage in seconds}


def in_words(seconds: Mapping[str, float]) -> str:
    """Say how long a run takes, and which stages take longest.

    Args:
        seconds: Seconds of each stage, by its name.

    >>> in_words({"loading": 6, "training": 50, "scoring": 12.4, "saving": 0.2})
    '1 min 9 s: training 50 s, scores 12 s, loading 6 s'
    """
    listed = sorted(seconds.items(), key=lambda item: -item[1])
    parts = [
        f"{STAGES.get(stage, stage)} {duration(taken)}" for stage, taken in listed if taken >= 1
    ]
    total = duration(sum(seconds.values()))
    return f"{total}: {', '.join(parts)}" if len(parts) > 1 else total
