"""The bundled samples are correct, varied, and what their generator writes."""

from __future__ import annotations

import json
import operator
import re
import subprocess
import sys
from collections import Counter
from functools import cache
from random import Random

import pytest

from nbft.data.samples import SAMPLES, SPLITS, UnknownSampleError, sample_path
from nbft.data.samples.families import alpaca, gsm8k
from nbft.data.samples.families.grammar import rows_by_line
from nbft.data.samples.families.gsm8k import work
from nbft.data.samples.families.markup import fill, wrong_and_right
from nbft.data.samples.families.people import PEOPLE
from nbft.data.samples.families.samsum import read_scenarios
from nbft.data.samples.generate import SEED, as_json_lines, make_splits

FIELDS = {
    "alpaca": ["instruction", "input", "output"],
    "samsum": ["dialogue", "summary"],
    "gsm8k": ["question", "answer"],
    "grammar": ["input", "target"],
    "larger_number": ["numbers", "larger"],
}
FEWEST_ROWS = {"train": 1000, "test": 128}
MOST_BYTES = 1_200_000
STEP = re.compile(r"(\d+) ([-+*/]) (\d+) = <<(\d+)([-+*/])(\d+)=(\d+)>>(\d+)")
COMPUTE = {"+": operator.add, "-": operator.sub, "*": operator.mul, "/": operator.truediv}

each_sample = pytest.mark.parametrize("name", SAMPLES)
each_split = pytest.mark.parametrize("split", SPLITS)


@cache
def read(name: str, split: str) -> list[dict[str, str]]:
    lines = sample_path(name, split).read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def all_rows(name: str) -> list[dict[str, str]]:
    return [row for split in SPLITS for row in read(name, split)]


def prompts(name: str, split: str) -> list[str]:
    """Return the prompts without case, spaces and punctuation, so that near copies are equal."""
    asked = (" ".join(list(row.values())[:-1]) for row in read(name, split))
    return [re.sub(r"\W+", " ", prompt.lower()).strip() for prompt in asked]


@each_sample
@each_split
def test_rows_have_the_fields_and_are_enough(name, split):
    rows = read(name, split)
    assert len(rows) >= FEWEST_ROWS[split]
    for row in rows:
        assert list(row) == FIELDS[name]
        assert all(isinstance(text, str) for text in row.values())
        assert all(text == text.strip() for text in row.values())
        assert all(text for field, text in row.items() if (name, field) != ("alpaca", "input"))


@each_sample
def test_no_row_and_no_prompt_appears_twice(name):
    for split in SPLITS:
        rows = Counter(json.dumps(row) for row in read(name, split))
        assert [row for row, count in rows.items() if count > 1] == []
    every_prompt = [tuple(list(row.values())[:-1]) for row in all_rows(name)]
    assert [prompt for prompt, count in Counter(every_prompt).items() if count > 1] == []


@each_sample
def test_no_test_prompt_is_in_train(name):
    assert set(prompts(name, "train")) & set(prompts(name, "test")) == set()


@each_sample
def test_no_mark_of_a_template_is_left(name):
    for row in all_rows(name):
        for text in row.values():
            assert "=>" not in text
            assert "  " not in text.replace("\n    ", "")
            assert "{A" not in text
            assert "{B" not in text
            assert "{C" not in text


def test_each_larger_number_is_the_larger_and_no_pair_comes_twice_in_any_order():
    pairs = set()
    for row in all_rows("larger_number"):
        first, second = map(int, row["numbers"].split(" or "))
        assert row["larger"] == str(max(first, second))
        pairs.add(frozenset((first, second)))
    assert len(pairs) == len(all_rows("larger_number"))


def test_all_samples_together_are_small():
    paths = [sample_path(name, split) for name in SAMPLES for split in SPLITS]
    assert sum(path.stat().st_size for path in paths) < MOST_BYTES


@each_sample
def test_the_generator_writes_the_committed_files_byte_for_byte(name):
    for split, rows in make_splits(name).items():
        assert as_json_lines(rows).encode() == sample_path(name, split).read_bytes(), (
            "run `python -m nbft.data.samples.generate`"
        )


def test_the_module_that_finds_samples_imports_no_heavy_library():
    code = "import sys, nbft.data.samples; print('torch' in sys.modules, 'datasets' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


@pytest.mark.parametrize(
    ("name", "split", "sentence"),
    [
        ("alpaka", "train", "name='alpaka': no bundled sample has it. Did you mean \"alpaca\"?"),
        (
            "xyz",
            "train",
            (
                "name='xyz': no bundled sample has it. Use one of alpaca, samsum, gsm8k, grammar, "
                "larger_number."
            ),
        ),
        ("samsum", "trian", "split='trian': no bundled sample has it. Did you mean \"train\"?"),
    ],
)
def test_an_unknown_name_is_said_plainly(name, split, sentence):
    with pytest.raises(UnknownSampleError) as caught:
        sample_path(name, split)
    assert str(caught.value) == sentence
    assert isinstance(caught.value, KeyError)


class TestAlpaca:
    def test_answers_keep_the_house_style(self):
        for row in all_rows("alpaca"):
            assert row["output"].endswith("."), row
            assert not re.match(
                r"(sure|certainly|of course|here (is|are))\b", row["output"].lower()
            )
            assert len(row["output"]) <= 200

    def test_about_two_fifths_of_the_rows_have_an_input(self):
        rows = all_rows("alpaca")
        assert 0.35 <= sum(bool(row["input"]) for row in rows) / len(rows) <= 0.55

    def test_at_least_150_rows_are_written_by_hand_and_used(self):
        by_hand = alpaca.handwritten_rows()
        assert len(by_hand) >= 150
        used = all_rows("alpaca")
        assert all(row in used for row in by_hand)

    def test_both_kinds_of_review_are_in_train(self):
        labels = Counter(row["output"] for row in read("alpaca", "train"))
        assert labels["Positive."] >= 4
        assert labels["Negative."] >= 4

    def test_python_answers_compile(self):
        answers = [
            row["output"] for row in all_rows("alpaca") if "Python expression" in row["instruction"]
        ]
        assert answers
        for answer in answers:
            compile(answer.removesuffix(".").strip("`"), answer, "eval")

    def test_json_answers_agree_with_the_sentence(self):
        rows = [row for row in all_rows("alpaca") if "as JSON" in row["instruction"]]
        assert rows
        for row in rows:
            record = json.loads(row["output"].removesuffix(".").strip("`"))
            assert all(str(value) in row["input"] for value in record.values())

    def test_sorted_numbers_are_sorted(self):
        rows = [
            row for row in all_rows("alpaca") if row["instruction"].startswith("Sort the numbers")
        ]
        assert rows
        for row in rows:
            given, answer = (
                [int(number) for number in re.findall(r"\d+", row[field])]
                for field in ("input", "output")
            )
            assert answer == sorted(given, reverse="to the smallest" in row["instruction"])


class TestSamsum:
    def test_a_summary_is_shorter_than_its_dialogue_and_names_a_speaker(self):
        for row in all_rows("samsum"):
            speakers = {turn.split(": ")[0] for turn in row["dialogue"].splitlines()}
            assert len(row["summary"]) < len(row["dialogue"])
            assert any(speaker in row["summary"] for speaker in speakers)

    def test_a_dialogue_has_four_to_ten_turns_of_two_or_three_speakers(self):
        for row in all_rows("samsum"):
            turns = row["dialogue"].splitlines()
            assert 4 <= len(turns) <= 10
            assert all(re.match(r"[A-Z]\w+: \S", turn) for turn in turns)
            assert len({turn.split(": ")[0] for turn in turns}) in {2, 3}

    def test_every_name_day_time_and_sum_of_a_summary_is_in_its_dialogue(self):
        names = {person.name for person in PEOPLE}
        fact = re.compile(r"(?<!^)(?<!\. )\b[A-Z][a-z]+\b|\d+(?::\d+)?")
        for row in all_rows("samsum"):
            facts = set(fact.findall(row["summary"])) | names & set(row["summary"].split())
            for word in facts:
                assert word.removesuffix("s") in row["dialogue"], row

    def test_there_are_many_scenarios_and_some_only_for_the_test(self):
        scenarios = read_scenarios()
        assert len({scenario.name for scenario in scenarios}) == len(scenarios) >= 25
        assert 4 <= sum(scenario.held_out for scenario in scenarios) < len(scenarios) / 2

    def test_a_held_out_scenario_gives_no_training_row(self):
        trained = "\n".join(row["dialogue"] for row in read("samsum", "train"))
        tested = "\n".join(row["dialogue"] for row in read("samsum", "test"))
        assert "driving test" in tested
        assert "driving test" not in trained


class TestGsm8k:
    def test_every_step_is_right_and_leads_to_the_answer(self):
        for row in all_rows("gsm8k"):
            *steps, last = row["answer"].splitlines()
            assert 2 <= len(steps) <= 5
            results = [recompute(step) for step in steps]
            assert last == f"#### {results[-1]}"

    def test_every_number_comes_from_the_question_or_an_earlier_step(self):
        # said in words: half to a fifth, twice, legs, points, minutes in an hour, cents in a dollar
        counting = {"1", "2", "3", "4", "5", "60", "100"}
        for row in all_rows("gsm8k"):
            known = set(re.findall(r"\d+", row["question"])) | counting
            for match in STEP.finditer(row["answer"]):
                assert {match[1], match[3]} <= known, row
                known.add(match[8])

    def test_no_two_rows_have_the_same_calculations(self):
        counts = Counter(gsm8k.calculations(row) for row in all_rows("gsm8k"))
        assert counts.most_common(1)[0][1] == 1

    def test_there_are_many_families(self):
        assert len(gsm8k.FAMILIES) >= 20
        assert set(gsm8k.FAMILIES) & set(gsm8k.HELD_OUT_FAMILIES) == set()

    @pytest.mark.parametrize("sum_", [(7, "/", 2), (3, "-", 3), (2, "-", 5)])
    def test_a_sum_without_a_whole_result_above_zero_is_refused(self, sum_):
        with pytest.raises(ValueError, match="not a whole number above zero"):
            work(*sum_)

    def test_an_unknown_operator_is_refused(self):
        with pytest.raises(ValueError, match=r"must be one of \+ - \* /"):
            work(1, "^", 2)


def recompute(step: str) -> int:
    """Compute the one sum of a step again and compare all four writings of it."""
    (match,) = STEP.finditer(step)
    left, sign, right, *marked, marked_result, result = match.groups()
    assert marked == [left, sign, right]
    assert marked_result == result
    assert COMPUTE[sign](int(left), int(right)) == int(result), step
    return int(result)


class TestGrammar:
    def test_the_sentence_is_changed(self):
        for row in all_rows("grammar"):
            assert row["input"] != row["target"]

    def test_a_correction_is_a_whole_sentence(self):
        for row in all_rows("grammar"):
            assert re.match(r'"?[A-Z]', row["target"]), row
            assert re.search(r"[.!?]$", row["target"]), row
            assert not re.search(r"\b(\w+) \1\b", row["target"].lower()), row
            assert not re.search(r" [,.!?;]|[\[\]/<>|{}]", row["target"]), row

    def test_no_faulty_sentence_is_a_correct_one_elsewhere(self):
        rows = all_rows("grammar")
        assert {row["input"] for row in rows} & {row["target"] for row in rows} == set()

    def test_a_and_an_fit_the_next_letter(self):
        exceptions = ("honest", "hour", "unicorn", "university", "useful", "european", "one")
        for row in all_rows("grammar"):
            for article, word in re.findall(r"\b(an?) (\w+)", row["target"].lower()):
                vowel = (word[0] in "aeiou") != word.startswith(exceptions)
                assert article == ("an" if vowel else "a"), row

    def test_no_line_of_the_source_gives_rows_to_both_splits(self):
        train, test = read("grammar", "train"), read("grammar", "test")
        for rows in rows_by_line(Random(f"{SEED} grammar")):
            assert not (any(row in train for row in rows) and any(row in test for row in rows))


def test_markup_fills_and_splits():
    assert fill("<a|a> {b}", Random(0), {"b": "c"}) == "a c"
    assert wrong_and_right("[he/He] ran[/.]") == ("he ran", "He ran.")
