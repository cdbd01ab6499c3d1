"""Scores of answers: texts in, numbers out.

`METRICS` has the metrics that a config can name, `SCORES` the numbers they give. A metric is a
function from answers and references to a value for each row; the score is the mean of the values.
To add one, add it to both tables.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nbft.errors import ConfigError, Problem
from nbft.evaluate.final_number import ends_in_hashes, final_number, is_number, states_number

Values = dict[str, list[float]]
"""A value for each row, by the name of the score."""

Function = Callable[[Sequence[str], Sequence[str], Sequence[Mapping[str, Any]]], Any]
"""A user's metric: (answers, references, rows) -> a number or a dict of numbers."""


@dataclass(frozen=True)
class Metric:
    """A metric that a config can name.

    Attributes:
        values: Scores answers against their references; None if it is computed from losses.
        scores: Names of its scores.
    """

    values: Callable[[Sequence[str], Sequence[str]], Values] | None
    scores: tuple[str, ...]


@dataclass(frozen=True)
class Score:
    """How to present a score.

    Attributes:
        label: Its name for people.
        greater_is_better: Its direction.
        is_yes_or_no: Whether its value is 1 or 0 for each row, so that rows can be counted.
    """

    label: str
    greater_is_better: bool = True
    is_yes_or_no: bool = False


def score(
    answers: str | Sequence[str],
    wanted: str | Sequence[str] | None = None,
    metric: str = "exact_match",
) -> dict[str, float]:
    """Score answers against the wanted ones.

    Args:
        answers: One answer or several, such as those of `nbft.ask`.
        wanted: The wanted answers; those that the answers know when None.
        metric: exact_match, rouge or format.

    Returns:
        The mean of each of the metric's scores, 0 to 1.

    Raises:
        ConfigError: There is no such metric, or wanted answers are missing or of another number.

    >>> score(["That makes 42 dollars.", "41"], ["42", "42"])
    {'exact_match': 0.5}
    >>> {name: round(value, 2) for name, value in score("the cat", "a cat", "rouge").items()}
    {'rouge1': 0.5, 'rouge2': 0.0, 'rougeL': 0.5}
    """
    measured = METRICS[metric].values if metric in METRICS else None
    if measured is None:
        known = ", ".join(name for name, one in METRICS.items() if one.values)
        raise ConfigError(Problem("metric", metric, f"is not one of {known}."))
    if wanted is None:
        wanted = [row.wanted for row in getattr(answers, "rows", ())]
    texts, references = ([one] if isinstance(one, str) else list(one) for one in (answers, wanted))
    if not texts or len(texts) != len(references) or not all(references):
        why = f"has {sum(map(bool, references))} texts for {len(texts)} answers."
        raise ConfigError(Problem("wanted", None, why, "Give one for each answer."))
    try:
        values = measured(texts, references)
    except ValueError as error:
        raise ConfigError(Problem("metric", metric, f"does not apply: {error}.")) from None
    return {name: sum(row) / len(row) for name, row in values.items()}


def exact_match(answers: Sequence[str], references: Sequence[str]) -> Values:
    r"""Return 1 for each right answer and 0 for the others.

    If the reference states a number by "####" or \boxed{…}, or is only a number, the final numbers
    are compared (`final_number`); otherwise the whole texts, ignoring spaces and line breaks.

    >>> exact_match(["I think it is 1,072", "71"], ["50 + 1022 = 1072\n#### 1072", "72"])
    {'exact_match': [1.0, 0.0]}
    >>> exact_match(["He  goes.", "he goes."], ["He goes.", "He goes."])
    {'exact_match': [1.0, 0.0]}
    """
    return {
        "exact_match": [float(_is_right(*pair)) for pair in zip(answers, references, strict=True)]
    }


def _is_right(answer: str, reference: str) -> bool:
    if states_number(reference):
        wanted = final_number(reference)
        return wanted is not None and final_number(answer) == wanted
    return answer.split() == reference.split()


def rouge(answers: Sequence[str], references: Sequence[str]) -> Values:
    """Measure the words that answers share with their references: ROUGE-1, -2 and -L, as F1.

    ROUGE-1 counts single words, ROUGE-2 pairs of neighbours, ROUGE-L the longest common
    subsequence. Words are stemmed. For ASCII text the values equal those of rouge-score with
    use_stemmer; other alphabets, which rouge-score drops, are counted by words, Chinese and
    Japanese by characters.

    Source: Lin, ROUGE: A Package for Automatic Evaluation of Summaries (2004); rouge-score.

    >>> found = rouge(["the cat sat", ""], ["the cat sat down", "a dog"])
    >>> {name: [round(v, 3) for v in values] for name, values in found.items()}
    {'rouge1': [0.857, 0.0], 'rouge2': [0.8, 0.0], 'rougeL': [0.857, 0.0]}
    """
    from rouge_score.rouge_scorer import RougeScorer

    names = list(METRICS["rouge"].scores)
    scorer = RougeScorer(names, tokenizer=_Words())
    rows = [scorer.score(r, a) for a, r in zip(answers, references, strict=True)]
    return {name: [float(row[name].fmeasure) for row in rows] for name in names}


class _Words:
    """Cuts text into stemmed words, as rouge-score does, but in every alphabet."""

    _CUT = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W_\u3040-\u30ff\u3400-\u9fff]+")

    def __init__(self) -> None:
        from nltk.stem.porter import PorterStemmer

        self._stemmer = PorterStemmer()

    def tokenize(self, text: str) -> list[str]:
        """Return the words of a text."""
        words = self._CUT.findall(text.lower())
        return [self._stemmer.stem(word) if len(word) > 3 else word for word in words]


@dataclass(frozen=True)
class Form:
    """A form of answers.

    Attributes:
        name: Its description, which follows "the answer".
        fits: Whether a text has it.
    """

    name: str
    fits: Callable[[str], bool]


def pattern_form(pattern: str) -> Form:
    """Return the form of the texts that a regular expression matches as a whole.

    >>> pattern_form("yes|no").fits(" no "), pattern_form("yes|no").fits("no way")
    (True, False)
    """
    compiled = re.compile(pattern, re.DOTALL)
    return Form(f"matches {pattern}", lambda text: compiled.fullmatch(text.strip()) is not None)


def form_of(references: Sequence[str]) -> Form | None:
    r"""Return the first form that all references share, or None.

    >>> form_of(["2 + 2 = 4\n#### 4", "#### 1,000"]).name
    'ends in #### and a number'
    >>> form_of(['{"a": 1}', '{"a": 2}']).name, form_of(["12", "$3.50"]).name
    ('is a JSON object', 'is a number alone')
    >>> form_of(["one line", "two\nlines"])
    """
    if not references:
        return None
    return next((form for form in _FORMS if all(map(form.fits, references))), None)


def _is_json(text: str, kind: type) -> bool:
    try:
        return isinstance(json.loads(text), kind)
    except ValueError:
        return False


_ENDS_IN_BOX = re.compile(r".*\\boxed\{.+\}[\s$.]*", re.DOTALL)

_FORMS = (
    Form("ends in #### and a number", ends_in_hashes),
    Form("ends in \\boxed{…}", lambda text: bool(_ENDS_IN_BOX.fullmatch(text.strip()))),
    Form("is a JSON object", lambda text: _is_json(text, dict)),
    Form("is a JSON list", lambda text: _is_json(text, list)),
    Form("is a number alone", is_number),
    Form("is one line", lambda text: bool(text.strip()) and "\n" not in text.strip()),
)
"""Known forms, the most specific first."""


def format_adherence(
    answers: Sequence[str], references: Sequence[str], form: Form | None = None
) -> Values:
    r"""Return 1 for each answer in the right form and 0 for the others.

    Args:
        answers: The answers.
        references: Examples of the form.
        form: The form; that of the references when None.

    Raises:
        ValueError: The references share no known form.

    >>> format_adherence(["so it is 4\n#### 4", "It is 4."], ["#### 4", "#### 4"])
    {'format': [1.0, 0.0]}
    >>> format_adherence(["Yes"], ["No"], pattern_form("Yes|No"))
    {'format': [1.0]}
    """
    form = form or form_of(references)
    if form is None:
        raise ValueError("the references share no known form")
    return {"format": [float(form.fits(answer)) for answer in answers]}


def perplexity(losses: Sequence[float], tokens: Sequence[int]) -> float:
    """Return the perplexity: exp of the mean loss per token.

    Args:
        losses: Mean loss of the trained tokens of each row, in nats.
        tokens: Trained tokens of each row.

    Source: Jelinek and others, Perplexity: a measure of the difficulty of speech recognition tasks
    (1977); transformers, "Perplexity of fixed-length models".

    >>> round(perplexity([math.log(8), math.log(2)], [1, 1]), 6)
    4.0
    """
    total = sum(loss * count for loss, count in zip(losses, tokens, strict=True))
    try:
        return math.exp(total / sum(tokens))
    except OverflowError:
        return math.inf


def own_scores(
    function: Function,
    name: str,
    answers: Sequence[str],
    references: Sequence[str],
    rows: Sequence[Mapping[str, Any]],
) -> dict[str, float]:
    """Return the scores of a user's function, as {name: number}.

    Args:
        function: Called with copies of the three lists.
        name: Name of the score if the function returns one number.
        answers: The answers.
        references: The reference answers.
        rows: The complete rows.

    Raises:
        ValueError: It did not return numbers, or used the name of another score.

    >>> own_scores(lambda answers, references, rows: len(answers) / 2, "half", ["a"], ["b"], [{}])
    {'half': 0.5}
    """
    result = function(list(answers), list(references), list(rows))
    scores: dict[str, float] = {}
    for key, value in (result if isinstance(result, Mapping) else {name: result}).items():
        if str(key) in SCORES:
            raise ValueError(f"called a score {key}, which is the name of one of nbft's")
        try:
            scores[str(key)] = float(value)
        except (TypeError, ValueError):
            kind = type(value).__name__
            raise ValueError(f"returned {kind} for {key}, not a number") from None
    return scores


METRICS: dict[str, Metric] = {
    "rouge": Metric(rouge, ("rouge1", "rouge2", "rougeL")),
    "exact_match": Metric(exact_match, ("exact_match",)),
    "format": Metric(format_adherence, ("format",)),
    "perplexity": Metric(None, ("perplexity",)),
}
"""The metrics that `evaluation.metrics` can name."""

SCORES: dict[str, Score] = {
    "rouge1": Score("ROUGE-1"),
    "rouge2": Score("ROUGE-2"),
    "rougeL": Score("ROUGE-L"),
    "exact_match": Score("exact match", is_yes_or_no=True),
    "format": Score("format", is_yes_or_no=True),
    "perplexity": Score("perplexity", greater_is_better=False),
}
"""The scores that the metrics give."""
