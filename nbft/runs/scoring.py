"""Scores of a finished run, measured on request."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from nbft.errors import RunError
from nbft.evaluate.scores import Scores

if TYPE_CHECKING:
    from nbft.config import Config
    from nbft.runs.folder import Run


def evaluate(run: Run, split: str, metrics: Sequence[str] | None, rows: int | None) -> Scores:
    """Score the base model and the tuned one of a run; see `Run.evaluate`."""
    from nbft.data.examples import by_answer, load_examples
    from nbft.decisions import decide
    from nbft.evaluate.scoring import Scorer
    from nbft.models.adapters import can_switch_off
    from nbft.models.load import quiet
    from nbft.runs.folder import check_writes, load_base

    check_writes(run)
    if split not in ("validation", "test"):
        raise RunError(f"split={split!r}: is not one of validation, test.")
    config = _asking(run.config, metrics, rows)
    with quiet():
        examples, _ = load_examples(config, split)
        if not examples:
            raise RunError(f"{run.id}: has no {split} rows. Name some in data.{split}.")
        model, tokenizer = run.load_model()
        examples, _ = by_answer(examples, tokenizer)
        context_tokens = getattr(model.config, "max_position_embeddings", None)
        scorer = Scorer(
            config,
            tokenizer,
            examples,
            split,
            context_tokens=context_tokens,
            mixed_precision=decide(config).mixed_precision.value,
        )
        if not len(scorer):
            raise RunError([f"{run.id}: none of the {split} rows can be scored.", *scorer.remarks])
        tuned = scorer.score(model)
        if can_switch_off(model):
            with model.disable_adapter():
                base = scorer.score(model)
        else:
            base = scorer.score(load_base(run.config)[0])
    measured: list[dict[str, Any]] = [
        {"event": "scores", "step": step, **found} for step, found in ((0, base), (run.step, tuned))
    ]
    return Scores(measured, scorer.remarks)


def _asking(config: Config, metrics: Sequence[str] | None, rows: int | None) -> Config:
    """Return the config with other metrics and rows; perplexity where it names none at all."""
    from nbft.evaluate.forecast import metrics_of

    if metrics is None and not metrics_of(config) and not config.evaluation.metric_function:
        metrics = ["perplexity"]
    changes: dict[str, Any] = {}
    if metrics is not None:
        changes["evaluation.metrics"] = list(metrics)
    if rows is not None:
        changes["evaluation.score_rows"] = rows
    return config.apply(changes)
