"""Scores a model on held-out rows: the same rows each time, so that scores are comparable.

Called by `nbft.training` and `nbft.runs`, which report the scores.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nbft.config import Config
from nbft.data.examples import Example, Examples
from nbft.data.tokens import Encoded, encode
from nbft.errors import ConfigError, Problem
from nbft.evaluate import metrics
from nbft.evaluate.forecast import LONGEST_ANSWER_TOKENS, metrics_of, own_metric, reference_of
from nbft.evaluate.generate import generate, in_precision, own_random_numbers, token_losses
from nbft.formatting import count

_ROWS_KEPT = 256
"""Most rows whose individual values are kept, to tell a difference from chance."""

_ENCODED_ROWS = 32  # at a time


@dataclass(frozen=True)
class _Asked:
    """One row that is scored.

    Attributes:
        ids: Its token ids, truncated to data.max_length, [s].
        loss_mask: Which of them belong to the completion, [s].
        prompt: Token ids of the prompt.
        reference: The reference answer.
        row: The complete row.
    """

    ids: list[int]
    loss_mask: list[bool]
    prompt: list[int]
    reference: str
    row: Mapping[str, Any]


@dataclass(frozen=True)
class Answered:
    """One row that was scored by the answer to it.

    Attributes:
        prompt, answer, wanted: Texts; the answer is the model's, the wanted one that of the row.
        scores: The value of each metric of answers, by its name.
    """

    prompt: str
    answer: str
    wanted: str
    scores: Mapping[str, float]


class Scorer:
    """Scores a model on rows drawn once.

    Args:
        config: Its evaluation section applies.
        tokenizer: The tokenizer.
        examples: The rows to draw from.
        split: validation or test.
        folder: Folder of the config file, for relative paths.
        context_tokens: Longest input of the model; None if unknown.
        mixed_precision: bf16, fp16 or no, as in training.

    Attributes:
        metrics: What is measured.
        max_new_tokens: Longest answer.
        remarks: Sentences about the rows.

    Raises:
        DataError: The function of evaluation.metric_function cannot be loaded.
    """

    def __init__(
        self,
        config: Config,
        tokenizer: Any,
        examples: Examples,
        split: str = "validation",
        *,
        folder: Path | None = None,
        context_tokens: int | None = None,
        mixed_precision: str = "no",
    ) -> None:
        evaluation = config.evaluation
        self.config, self.split = config, split
        self.metrics = list(metrics_of(config))
        self.remarks: list[str] = []
        self._tokenizer = tokenizer
        self._mixed_precision = mixed_precision
        self._function: metrics.Function | None = None
        self._last: tuple[list[str], metrics.Values] = ([], {})
        if evaluation.metric_function:
            self._function = own_metric(config, folder)
        self._asked = self._draw(examples, context_tokens) if self._wants_anything else []
        self.max_new_tokens = evaluation.score_max_new_tokens or min(
            LONGEST_ANSWER_TOKENS,
            max((len(one.ids) - len(one.prompt) for one in self._asked), default=1),
        )
        self._form = self._chosen_form() if self._asked and "format" in self.metrics else None

    def __len__(self) -> int:
        """Return the number of scored rows; 0 if nothing is measured."""
        return len(self._asked)

    @property
    def asked(self) -> dict[str, Any]:
        """What is measured and how; equal for comparable scores."""
        return {
            "split": self.split,
            "metrics": self.metrics,
            "metric_function": self.config.evaluation.metric_function,
            "greater_is_better": self.config.evaluation.metric_function_greater_is_better,
            "form": self._form.name if self._form else None,
            "rows": len(self),
            "max_new_tokens": self.max_new_tokens,
            "do_sample": self.config.evaluation.do_sample,
        }

    def score(self, model: Any) -> dict[str, Any]:
        """Score a model; its mode and all random numbers are restored.

        Returns:
            The fields of `asked`, with scores, values (of each row, if rows are few) and seconds.

        Raises:
            ConfigError: The user's own function failed.
        """
        began = time.monotonic()
        scores: dict[str, float] = {}
        values: metrics.Values = {}
        self._last = ([], {})
        seed = self.config.training.seed
        with own_random_numbers(seed), in_precision(model, self._mixed_precision):
            if self._wants_answers:
                answers = self._answers(model)
                values = self._values(answers)
                self._last = (answers, dict(values))
                scores = {name: sum(row) / len(row) for name, row in values.items()}
                scores |= self._own_scores(answers)
            if "perplexity" in self.metrics:
                losses = token_losses(model, [(one.ids, one.loss_mask) for one in self._asked])
                values["perplexity"] = [sum(row) / len(row) for row in losses]
                tokens = [len(row) for row in losses]
                scores["perplexity"] = metrics.perplexity(values["perplexity"], tokens)
        kept = values if len(self) <= _ROWS_KEPT else {}
        return {
            **self.asked,
            "scores": scores,
            "values": {name: [round(value, 4) for value in row] for name, row in kept.items()},
            "seconds": round(time.monotonic() - began, 2),
        }

    def answered(self) -> list[Answered]:
        """Return the rows with the answers of the last score; [] if it needed no answers."""
        answers, values = self._last
        rows = zip(self._asked, answers, strict=True) if answers else ()
        return [
            Answered(
                self._tokenizer.decode(asked.prompt, skip_special_tokens=False),
                answer,
                asked.reference,
                {name: float(row[number]) for name, row in values.items()},
            )
            for number, (asked, answer) in enumerate(rows)
        ]

    @property
    def _wants_answers(self) -> bool:
        return self._function is not None or bool(set(self.metrics) - {"perplexity"})

    @property
    def _wants_anything(self) -> bool:
        return self._function is not None or bool(self.metrics)

    def _answers(self, model: Any) -> list[str]:
        evaluation = self.config.evaluation
        return generate(
            model,
            self._tokenizer,
            [one.prompt for one in self._asked],
            self.max_new_tokens,
            batch_size=evaluation.per_device_generation_batch_size,
            do_sample=evaluation.do_sample,
            temperature=evaluation.temperature,
            top_p=evaluation.top_p,
        )

    def _values(self, answers: Sequence[str]) -> metrics.Values:
        references = [one.reference for one in self._asked]
        values: metrics.Values = {}
        for name in self.metrics:
            if name == "format" and self._form:
                values |= metrics.format_adherence(answers, references, self._form)
            elif measure := metrics.METRICS[name].values:
                values |= measure(answers, references)
        return values

    def _own_scores(self, answers: Sequence[str]) -> dict[str, float]:
        if self._function is None:
            return {}
        written = str(self.config.evaluation.metric_function)
        references, rows = [one.reference for one in self._asked], [one.row for one in self._asked]
        try:
            name = written.rpartition(":")[2]
            return metrics.own_scores(self._function, name, answers, references, rows)
        except Exception as error:
            why = f"failed with {type(error).__name__}: {error}."
            fix = (
                "It is called with (answers, references, rows), lists of one length, and "
                "returns a number or a dict of numbers."
            )
            raise ConfigError(Problem("evaluation.metric_function", written, why, fix)) from error

    def _chosen_form(self) -> metrics.Form | None:
        pattern = self.config.evaluation.format_pattern
        if pattern:
            return metrics.pattern_form(pattern)
        form = metrics.form_of([one.reference for one in self._asked])
        if form is None:
            self.metrics.remove("format")
            self.remarks.append(
                "scores: the references share no form, so format is not measured. Write the form "
                "as a regular expression in evaluation.format_pattern."
            )
        return form

    def _draw(self, examples: Examples, context_tokens: int | None) -> list[_Asked]:
        """Draw rows by the seed, in their order; those that cannot be scored are skipped."""
        evaluation, limit = self.config.evaluation, self.config.data.max_length
        room = limit
        if context_tokens and self._wants_answers:
            longest = evaluation.score_max_new_tokens or LONGEST_ANSWER_TOKENS
            room = min(limit, context_tokens - longest)
        drawn: dict[int, _Asked] = {}
        too_long = no_prompt = 0
        for number, example, encoded in self._encoded(examples):
            reference = reference_of(example)
            if not reference:
                continue
            ids, loss_mask = encoded.ids[:limit], encoded.loss_mask[:limit]
            if encoded.prompt_tokens >= room or not any(loss_mask[1:]):
                too_long += 1
            elif self._wants_answers and not encoded.prompt_tokens:
                no_prompt += 1
            else:
                prompt, row = ids[: encoded.prompt_tokens], examples.row(number)
                drawn[number] = _Asked(ids, loss_mask, prompt, reference, row)
            if len(drawn) == evaluation.score_rows:
                break
        for skipped, why in (
            (too_long, f"a prompt of {room:,} tokens or more leaves no room for the answer"),
            (no_prompt, "there is no prompt to answer"),
        ):
            if skipped:
                rows = count(skipped, "held-out row" if self.split != "test" else "test row")
                self.remarks.append(f"scores: {rows} skipped: {why}.")
        return [drawn[number] for number in sorted(drawn)]

    def _encoded(self, examples: Examples) -> Iterator[tuple[int, Example, Encoded]]:
        """Yield encoded examples in random order; only those that are used get encoded."""
        order = np.random.default_rng(self.config.training.seed).permutation(len(examples))
        for start in range(0, len(order), _ENCODED_ROWS):
            numbers = order[start : start + _ENCODED_ROWS].tolist()
            texts = [examples[number] for number in numbers]
            yield from zip(numbers, texts, encode(texts, self._tokenizer, self.split), strict=True)
