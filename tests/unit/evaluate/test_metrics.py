import json
import math
from decimal import Decimal
from pathlib import Path
from typing import get_args

import pytest

from nbft.config.evaluation import Metric
from nbft.data.ready import READY
from nbft.data.samples import sample_path
from nbft.evaluate import metrics
from nbft.evaluate.metrics import final_number, form_of, pattern_form

SHARED = Path(__file__).parents[4] / "shared" / "data"


def real_rows(name):
    path = SHARED / name
    if not path.is_file():
        pytest.skip(f"{name} is not here")
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("#### 72", "72"),
        ("####72", "72"),
        ("12 apples\n#### 1,234", "1234"),
        ("#### $1,234.50", "1234.50"),
        ("#### -3", "-3"),
        ("#### \u22123", "-3"),
        ("#### 40%", "40"),
        ("#### 7.", "7"),
        ("#### 5\n\nQuestion: 8 + 9?\nAnswer:\n#### 17", "5"),  # an answer that rambles on
        ("He has 3 apples and eats 2, so 1 is left.", "1"),
        ("10-5=5", "5"),
        ("it falls from 4 to -2", "-2"),
        ("between 3-4", "4"),
        ("about .5", "0.5"),
        ("1,000,000 people", "1000000"),
        ("#### none, but 6 before", "6"),
    ],
)
def test_the_final_number(text, number):
    assert final_number(text) == Decimal(number)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        # Marks of lists are no signs, and their numbers no answers.
        ("The total is:\n- 12", "12"),
        ("The total is:\n  - 12 apples", "12"),
        ("- 12", "12"),
        ("* 12", "12"),
        ("• 12", "12"),
        ("– 12", "12"),
        ("+ 12", "12"),
        ("The total is:\n- -12", "-12"),
        ("The total is:\n- **12**", "12"),
        ("1. Add 5 and 7.\n2. That is 12.\n3. So we are done.", "12"),
        ("1) 5 + 7 = 12\n2) done", "12"),
        ("5 + 7 =\n12. That is all.", "12"),
        ("The answer is\n12.", "12"),
        # Signs.
        ("-12", "-12"),
        ("The total is:\n-12", "-12"),
        ("\u221212", "-12"),
        ("it is \u2212 12", "12"),
        ("x = - 12", "-12"),
        ("#### - 12", "-12"),
        ("#### \u2212 12", "-12"),
        ("\u201112", "-12"),
        ("\uff0d12", "-12"),
        ("+12", "12"),
        ("(-12)", "-12"),
        ("x=-12", "-12"),
        ("The answer is minus 12.", "-12"),
        ("Minus 12", "-12"),
        ("The answer is negative 12", "-12"),
        ("minus $12", "-12"),
        ("15 minus 3", "3"),
        ("(a + 15) minus 3", "3"),
        ("answer-12", "12"),
        ("answer\u201412", "12"),
        # Ranges.
        ("3-4", "4"),
        ("3\u20134", "4"),
        ("3 - 4", "4"),
        ("3 to 4", "4"),
        ("on 2026-11-30", "30"),
        # Currencies and units.
        ("$12", "12"),
        ("-$12", "-12"),
        ("$-12", "-12"),
        ("\u2212$ 12.50", "-12.50"),
        ("12$", "12"),
        ("12 €", "12"),
        ("€1,234.50", "1234.50"),
        ("£12", "12"),
        ("US$12", "12"),
        ("USD 12", "12"),
        ("USD12 in 3A", "3"),
        ("Rs. 12", "12"),
        ("Rs.12", "12"),
        ("$.50", "0.50"),
        ("12%", "12"),
        ("12 m^2", "12"),
        ("12 cm2", "12"),
        ("12 m²", "12"),
        ("12kg of CO2", "12"),
        ("gpt-4", "4"),
        ("x12", "12"),
        # Points and commas.
        ("12.", "12"),
        ("12.0", "12"),
        ("1,234.5", "1234.5"),
        ("1,234,567", "1234567"),
        ("1,23,456", "123456"),
        ("1.234,5", "1234.5"),
        ("1.234.567", "1234567"),
        ("12,5", "12.5"),
        ("1,2,3", "3"),
        ("1, 2, 3", "3"),
        ("1 234", "1234"),
        ("12 000,5", "12000.5"),
        ("1\u202f234", "1234"),
        ("1'234", "1234"),
        ("12,", "12"),
        ("No.12", "12"),
        # Powers.
        ("1e3", "1000"),
        ("1.2e-3", "0.0012"),
        ("3 × 10^5", "300000"),
        (r"3 \cdot 4", "4"),
        ("5 x 10^{-2}", "0.05"),
        # Fractions.
        ("3/4", "0.75"),
        ("It is 3/4.", "0.75"),
        ("-3/4", "-0.75"),
        ("1 1/2", "1.5"),
        ("½", "0.5"),
        ("2½", "2.5"),
        ("12/5/2020", "2020"),
        ("5/0", "0"),
        (r"\frac{3}{4}", "0.75"),
        (r"-\dfrac34", "-0.75"),
        (r"1\frac{1}{2}", "1.5"),
        # Marked answers.
        ("12 of 20\n#### 12", "12"),
        ("####12\n7", "12"),
        ("#### $12", "12"),
        ("#### **12**", "12"),
        ("#### The answer is 12 apples.\n7", "12"),
        ("####\n12\n7", "12"),
        (r"It is \boxed{12}, out of 20.", "12"),
        (r"\boxed{-12}", "-12"),
        (r"$\boxed{\$1,234.50}$ of 3", "1234.50"),
        (r"\boxed{1{,}234}", "1234"),
        (r"\boxed{12\,345}", "12345"),
        (r"\boxed{12\%}", "12"),
        (r"\boxed{\frac{1}{2}} of 7", "0.5"),
        (r"\boxed{x = 12}", "12"),
        (r"\boxed{12 \text{ m}^2}", "12"),
        (r"\boxed{3} no: \boxed{12}", "12"),
        (r"\boxed{12", "12"),
        (r"12, \boxed{\text{none}}", "12"),
    ],
)
def test_the_final_number_in_every_form(text, number):
    assert final_number(text) == Decimal(number)
    assert metrics.exact_match([text], [f"#### {number}"])["exact_match"] == [1.0]


@pytest.mark.parametrize(
    ("reference", "answer", "right"),
    [
        ("#### 0", "It is 0.", 1),
        ("#### 0", "none", 0),
        (r"so \boxed{12}", "The total is:\n- 12", 1),
        (r"so \boxed{12}", "-12", 0),
        ("3/4", "0.75", 1),
        ("$12", "12 dollars", 1),
        ("12", "12 and 3 more", 0),
        ("room 12", "12", 0),
        ("12 apples", "12 apples", 1),
    ],
)
def test_numbers_are_compared_where_the_reference_is_one(reference, answer, right):
    assert metrics.exact_match([answer], [reference])["exact_match"] == [right]


def test_a_long_answer_is_searched_quickly(cpu_seconds):
    for part in ("-1,234 / 5 (", "1. a\n", "\\boxed{", "1 234 567 ", "####", "1,2,3"):
        short, long = part * 2_000, part * 20_000
        final_number(short)
        assert cpu_seconds(lambda t=long: final_number(t)) < 40 * max(
            cpu_seconds(lambda t=short: final_number(t)), 0.005
        )


@pytest.mark.parametrize("text", ["", "no number", "####", "a-b", "$"])
def test_no_final_number(text):
    assert final_number(text) is None


def test_every_reference_of_the_real_gsm8k_is_right_and_one_more_is_wrong():
    references = [row["answer"] for row in real_rows("gsm8k.jsonl")]
    numbers = [final_number(reference) for reference in references]
    said = [reference.rpartition("####")[2].strip().replace(",", "") for reference in references]
    assert numbers == [Decimal(number) for number in said]
    in_words = [f"So the answer is ${number:,}." for number in numbers]
    assert set(metrics.exact_match(in_words, references)["exact_match"]) == {1.0}
    wrong = [f"#### {number + 1}" for number in numbers]
    assert set(metrics.exact_match(wrong, references)["exact_match"]) == {0.0}
    assert form_of(references).name == "ends in #### and a number"


def test_text_without_a_final_number_is_compared_whole():
    answers = ["She goes home.", "She  goes\nhome. ", "she goes home.", "She goes home. Yes."]
    assert metrics.exact_match(answers, ["She goes home."] * 4)["exact_match"] == [1, 1, 0, 0]


def test_rouge_is_that_of_rouge_score_on_real_summaries():
    from rouge_score.rouge_scorer import RougeScorer

    summaries = [row["summary"] for row in real_rows("dialogsum.jsonl")][:100]
    answers = [*summaries[1:], ""]
    names = ["rouge1", "rouge2", "rougeL"]
    theirs = RougeScorer(names, use_stemmer=True)
    expected = [theirs.score(r, a) for r, a in zip(summaries, answers, strict=True)]
    ours = metrics.rouge(answers, summaries)
    assert list(ours) == names
    for name in names:
        assert ours[name] == pytest.approx([one[name].fmeasure for one in expected])
    assert 0 < sum(ours["rouge1"]) / 100 < 0.5


def test_rouge_by_hand():
    # 3 of 4 and 3 of 5 words: precision 0.75, recall 0.6; pairs: "big red" is one of 3 and of 4
    found = metrics.rouge(["big red dog barks"], ["a big red old dog"])
    assert found["rouge1"] == [pytest.approx(2 * 0.75 * 0.6 / 1.35)]
    assert found["rouge2"] == [pytest.approx(2 * (1 / 3) * (1 / 4) / (1 / 3 + 1 / 4))]
    assert metrics.rouge(["cats running"], ["cat runs"])["rouge1"] == [1]  # words are stemmed


@pytest.mark.parametrize("text", ["Die Größe überrascht.", "Мария купила хлеб", "他买了一本书"])
def test_rouge_reads_other_alphabets(text):
    assert metrics.rouge([text], [text])["rougeL"] == [1.0]
    assert metrics.rouge([text[: len(text) // 2]], [text])["rouge1"][0] < 1


@pytest.mark.parametrize(
    ("references", "name"),
    [
        (["x\n#### 4", "#### 1,000"], "ends in #### and a number"),
        (["so \\boxed{4}.", "\\boxed{\\frac12}"], "ends in \\boxed{…}"),
        (['{"a": 1}', '{"b": [2]}'], "is a JSON object"),
        (["[1]", "[]"], "is a JSON list"),
        (["4", "$1,000", "-3%"], "is a number alone"),
        (["yes", "He goes home."], "is one line"),
    ],
)
def test_the_form_of_references(references, name):
    form = form_of(references)
    assert form.name == name
    assert all(map(form.fits, references))


@pytest.mark.parametrize("references", [[], ["one", "two\nlines"], ["#### 4", "no\nnumber"], [""]])
def test_references_without_a_common_form(references):
    assert form_of(references) is None
    with pytest.raises(ValueError, match="share no known form"):
        metrics.format_adherence(["a"] * len(references), references)


def test_answers_that_break_the_form():
    form = form_of(["#### 4"])
    assert [form.fits(t) for t in ("2+2=4\n#### 4", "#### four", "#### 4\nQuestion: ?", "4")] == [
        True,
        False,
        False,
        False,
    ]


def test_a_pattern_matches_the_whole_answer_over_lines():
    form = pattern_form(r".*Answer: \d+")
    assert form.fits("I think.\nAnswer: 12\n")
    assert not form.fits("Answer: 12, I think")


def test_perplexity():
    assert metrics.perplexity([math.log(50)] * 3, [1, 7, 2]) == pytest.approx(50)
    # weighted by tokens: (3·ln 2 + 1·ln 32) / 4 = 2·ln 2
    assert metrics.perplexity([math.log(2), math.log(32)], [3, 1]) == pytest.approx(4)
    assert metrics.perplexity([1e6], [1]) == math.inf


def own(function):
    return metrics.own_scores(function, "mine", ["a", "b"], ["a", "c"], [{"n": 1}, {"n": 2}])


def test_a_function_of_ones_own():
    def right(answers, references, rows):
        assert rows[1]["n"] == 2
        return sum(a == r for a, r in zip(answers, references, strict=True)) / len(rows)

    assert own(right) == {"mine": 0.5}
    assert own(lambda *_: {"a": 1, "b": True}) == {"a": 1.0, "b": 1.0}


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("high", "returned str for mine, not a number"),
        (None, "returned NoneType for mine"),
        ({"a": [1]}, "returned list for a"),
        ({"rouge1": 1}, "called a score rouge1"),
    ],
)
def test_what_it_returns_must_be_numbers(said, why):
    with pytest.raises(ValueError, match=why):
        own(lambda *_: said)


def test_the_tables_agree():
    assert set(get_args(Metric)) == set(metrics.METRICS)
    assert [s for m in metrics.METRICS.values() for s in m.scores] == list(metrics.SCORES)
    for ready in READY.values():
        assert set(ready.metrics) <= set(metrics.METRICS)


@pytest.mark.parametrize("name", [n for n, ready in READY.items() if "format" in ready.metrics])
def test_the_references_of_a_ready_dataset_have_a_form(name):
    lines = sample_path(name, "test").read_text(encoding="utf-8").splitlines()
    assert form_of([json.loads(line)["answer"] for line in lines]) is not None
