"""Scores of answers: texts in, numbers out. Nothing here knows a model or a run.

`METRICS` names the metrics that a config can ask for, `SCORES` the numbers that come of them. A
metric is a function from answers and their references to a value for each row; the score is the
mean of the values. To add one, add it to both tables.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

Values = dict[str, list[float]]
"""A value for each row, by the name of the score."""

Function = Callable[[Sequence[str], Sequence[str], Sequence[Mapping[str, Any]]], Any]
"""A person's own metric: (answers, references, rows) -> a number or a dict of numbers."""


@dataclass(frozen=True)
class Metric:
    """Something that a config can ask for.

    Attributes:
        values: Scores answers against their references; None where the losses do.
        scores: Names of the scores that it gives.
    """

    values: Callable[[Sequence[str], Sequence[str]], Values] | None
    scores: tuple[str, ...]


@dataclass(frozen=True)
class Score:
    """What there is to know about a number.

    Attributes:
        label: What it is called.
        greater_is_better: Which way is up.
        is_yes_or_no: Whether a row has it or has it not, so that rows can be counted.
    """

    label: str
    greater_is_better: bool = True
    is_yes_or_no: bool = False


_NUMBER = r"(?:(?<![\w.])[-\u2212])?\s?\$?\s?(?:\d[\d,]*(?:\.\d+)?|\.\d+)"
_AFTER_HASHES = re.compile(rf"####\s*(-?{_NUMBER})")
_ANY_NUMBER = re.compile(_NUMBER)
_NUMBER_ALONE = re.compile(rf"\s*{_NUMBER}\s*%?\.?\s*")


def final_number(text: str) -> Decimal | None:
    r"""Return the number that an answer ends in.

    It is the number after the first "####", as in GSM8K; where there is none, the last number of
    the text. Commas between digits, a dollar sign, a percent sign and a dot at the end are no part
    of it.

    Source: grade-school-math, dataset.py, `extract_answer`, for the first rule; the "flexible"
    extraction of GSM8K in lm-evaluation-harness for the second.

    >>> [str(final_number(t)) for t in ("3 + 4 = 7\n#### 1,234.", "It costs $5.50", "so 40% .")]
    ['1234', '5.50', '40']
    >>> final_number("#### 72") == final_number("It is 72.0.")
    True
    >>> final_number("none")
    """
    stated = _AFTER_HASHES.search(text)
    if stated:
        return _decimal(stated[1])
    found = _ANY_NUMBER.findall(text)
    return _decimal(found[-1]) if found else None


def _decimal(written: str) -> Decimal | None:
    plain = re.sub(r"[\s$,]", "", written).replace("\u2212", "-")
    try:
        return Decimal(plain)
    except InvalidOperation:
        return None


def exact_match(answers: Sequence[str], references: Sequence[str]) -> Values:
    r"""Say of each answer whether it is right: 1 or 0.

    Where the reference ends in "#### n", or is a number alone, the final numbers are compared
    (`final_number`); elsewhere the whole texts, but for spaces and line breaks.

    >>> exact_match(["I think it is 1,072", "71"], ["50 + 1022 = 1072\n#### 1072", "72"])
    {'exact_match': [1.0, 0.0]}
    >>> exact_match(["He  goes.", "he goes."], ["He goes.", "He goes."])
    {'exact_match': [1.0, 0.0]}
    """
    return {
        "exact_match": [float(_is_right(*pair)) for pair in zip(answers, references, strict=True)]
    }


def _is_right(answer: str, reference: str) -> bool:
    if _AFTER_HASHES.search(reference) or _NUMBER_ALONE.fullmatch(reference):
        wanted = final_number(reference)
        return wanted is not None and final_number(answer) == wanted
    return answer.split() == reference.split()


def rouge(answers: Sequence[str], references: Sequence[str]) -> Values:
    """Measure the words that answers share with their references: ROUGE-1, -2 and -L, as F1.

    ROUGE-1 counts single words, ROUGE-2 pairs of neighbours, ROUGE-L the longest sequence that both
    have in this order. Words are stemmed. Text in ASCII gives what rouge-score gives with
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
    found = [scorer.score(r, a) for a, r in zip(answers, references, strict=True)]
    return {name: [float(one[name].fmeasure) for one in found] for name in names}


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
    """A form that answers have.

    Attributes:
        name: What it is, in words that follow "the answer".
        fits: Whether a text has it.
    """

    name: str
    fits: Callable[[str], bool]


def pattern_form(pattern: str) -> Form:
    """Return the form of the texts that a regular expression matches from end to end.

    >>> pattern_form("yes|no").fits(" no "), pattern_form("yes|no").fits("no way")
    (True, False)
    """
    compiled = re.compile(pattern, re.DOTALL)
    return Form(f"matches {pattern}", lambda text: compiled.fullmatch(text.strip()) is not None)


def form_of(references: Sequence[str]) -> Form | None:
    r"""Return the first form that all references have; None where they share none.

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


_ENDS_IN_HASHES = re.compile(rf"(?:.*\s)?####\s*(-?{_NUMBER})\s*%?\.?", re.DOTALL)
_ENDS_IN_BOX = re.compile(r".*\\boxed\{.+\}[\s$.]*", re.DOTALL)

_FORMS = (
    Form("ends in #### and a number", lambda text: bool(_ENDS_IN_HASHES.fullmatch(text.strip()))),
    Form("ends in \\boxed{…}", lambda text: bool(_ENDS_IN_BOX.fullmatch(text.strip()))),
    Form("is a JSON object", lambda text: _is_json(text, dict)),
    Form("is a JSON list", lambda text: _is_json(text, list)),
    Form("is a number alone", lambda text: bool(_NUMBER_ALONE.fullmatch(text))),
    Form("is one line", lambda text: bool(text.strip()) and "\n" not in text.strip()),
)
"""The forms that are known, the most telling first."""


def format_adherence(
    answers: Sequence[str], references: Sequence[str], form: Form | None = None
) -> Values:
    r"""Say of each answer whether it has the form that it should have: 1 or 0.

    Args:
        answers: The answers.
        references: What they should look like.
        form: The form that counts instead of that of the references.

    Raises:
        ValueError: The references share no form that is known.

    >>> format_adherence(["so it is 4\n#### 4", "It is 4."], ["#### 4", "#### 4"])
    {'format': [1.0, 0.0]}
    >>> format_adherence(["Yes"], ["No"], pattern_form("Yes|No"))
    {'format': [1.0]}
    """
    form = form or form_of(references)
    if form is None:
        raise ValueError("the references share no form that is known")
    return {"format": [float(form.fits(answer)) for answer in answers]}


def perplexity(losses: Sequence[float], tokens: Sequence[int]) -> float:
    """Return how many tokens the model hesitates between: exp of the mean loss of a token.

    Args:
        losses: Mean loss of the learnt tokens of each row, in nats.
        tokens: Learnt tokens of each row.

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
    """Return what a person's own function says, as {name: number}.

    Args:
        function: Called with copies of the three lists.
        name: What to call a number that comes alone.
        answers: The answers.
        references: What they should be.
        rows: The rows, whole.

    Raises:
        ValueError: It returned something else than numbers, or took the name of another score.

    >>> own_scores(lambda answers, references, rows: len(answers) / 2, "half", ["a"], ["b"], [{}])
    {'half': 0.5}
    """
    said = function(list(answers), list(references), list(rows))
    found = said if isinstance(said, Mapping) else {name: said}
    scores: dict[str, float] = {}
    for key, value in found.items():
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
"""What `evaluation.metrics` can name."""

SCORES: dict[str, Score] = {
    "rouge1": Score("ROUGE-1"),
    "rouge2": Score("ROUGE-2"),
    "rougeL": Score("ROUGE-L"),
    "exact_match": Score("exact match", is_yes_or_no=True),
    "format": Score("format", is_yes_or_no=True),
    "perplexity": Score("perplexity", greater_is_better=False),
}
"""The numbers that come of them."""
