"""What most rows do, and which do not: planted at 1, 5 and 30 per cent."""

from __future__ import annotations

import json
import random
import re

import pytest

NAMES = "Ada Ben Cleo Dan Eve Finn Gwen Hugo Iris Jack Kate Liam Mona Nils Olga Paul".split()
THINGS = "apples books coins dolls eggs forks games hats inks jars keys lamps".split()
CITIES = "Paris Rome Oslo Bern Riga Cairo Lima Quito Tunis Seoul Delhi Accra".split()
SHARES = [0.01, 0.05, 0.3]
TOTAL = 300


def stories():
    rng = random.Random(3)
    for n in range(TOTAL):
        who, what, where = rng.choice(NAMES), rng.choice(THINGS), rng.choice(CITIES)
        a, b = rng.randint(2, 40), rng.randint(2, 40)
        yield n, who, what, where, a, b


def sums():
    return [
        {
            "prompt": f"{who} has {a} {what} and buys {b} more {what} in {where}. How many {what} are there?\n",
            "completion": f"In {where}, {who} has {a} {what} and buys {b} {what}, so that is "
            f"{a}+{b}=<<{a}+{b}={a + b}>>{a + b} {what}.\n#### {a + b}",
        }
        for _, who, what, where, a, b in stories()
    ]


def objects():
    return [
        {
            "prompt": f"Write the facts as JSON: {who} is {a} years old and lives in {where} ({n}).\n",
            "completion": json.dumps({"name": who, "age": a, "city": where, "n": n}),
        }
        for n, who, _, where, a, _ in stories()
    ]


def prose():
    return [
        {
            "prompt": f"What did {who} do with the {a} {what} after the long journey to {where} ({n})?\n",
            "completion": f"{who} carried all of the {a} {what} through the streets of {where}, and "
            f"then sold {b % a} of the {what} to a friend who lives near the old station in {where}.",
        }
        for n, who, what, where, a, b in stories()
    ]


def labels():
    moods = ["positive", "negative", "neutral"]
    return [
        {
            "prompt": f"How does this sound: {who} likes {a} {what} in {where}, says {n}?\n",
            "completion": moods[n % 3],
        }
        for n, who, what, where, a, _ in stories()
    ]


def nonsense(number):
    """Return a word that no other row has."""
    rng = random.Random(number)
    return "".join(rng.choice("bdfghklmnprstvwz") + rng.choice("aeiou") for _ in range(4))


def end(row, old, new):
    return {**row, "completion": row["completion"].replace(old, new)}


PLANTED = {
    "missing_signs": (sums, lambda row, n: end(row, "####", "The answer is")),
    "broken_json": (objects, lambda row, n: end(row, "}", "")),
    "other_json_keys": (objects, lambda row, n: end(row, '"age"', '"years"')),
    "cut_answers": (prose, lambda row, n: {**row, "completion": row["completion"][:-9].rstrip()}),
    "other_scripts": (
        prose,
        lambda row, n: {**row, "completion": f"Он отнёс {n} книг на рынок и продал их там другу."},
    ),
    "other_languages": (
        prose,
        lambda row, n: {
            **row,
            "completion": f"Sie hat die {n} Bücher durch die ganze Stadt getragen und sie dann auf dem "
            "Markt an einen alten Freund verkauft, der in der Nähe des Bahnhofs wohnt.",
        },
    ),
    "same_answers": (
        prose,
        lambda row, n: {**row, "completion": "That depends on many things, of course."},
    ),
    "unrelated_answers": (
        sums,
        lambda row, n: {
            **row,
            "completion": " ".join(nonsense(9 * n + word) for word in range(9)) + f".\n#### 7{n}77",
        },
    ),
    "swapped_parts": (
        prose,
        lambda row, n: {"prompt": row["completion"] + "\n", "completion": row["prompt"].strip()},
    ),
    "short_answers": (
        prose,
        lambda row, n: {**row, "completion": f"{n} of it."[-9:]},
    ),
    "shouted_answers": (prose, lambda row, n: {**row, "completion": row["completion"].upper()}),
    "label_spelling": (
        labels,
        lambda row, n: {**row, "completion": row["completion"].capitalize()},
    ),
}


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("name", PLANTED)
def test_rows_that_differ_are_found_and_counted(name, share, found_in):
    make, plant = PLANTED[name]
    rows = make()
    chosen = random.Random(5).sample(range(TOTAL), round(share * TOTAL))
    for n in chosen:
        rows[n] = plant(rows[n], n)
    if name == "same_answers" and share == 0.01:
        assert name not in found_in(rows), "three rows may well have one answer"
        return
    found = found_in(rows, split_ratio=1.0)[name]
    assert found.count == len(chosen)
    assert {place.row for place in found.places} <= {n + 1 for n in chosen}
    assert found.rewrite is not None
    assert found.rewrite.is_choice, "nothing is deleted on a judgement"
    for sentence in (found.what, found.why, found.fix):
        assert sentence[0].isupper()


@pytest.mark.parametrize("make", [sums, objects, prose, labels])
def test_rows_that_agree_show_nothing(make, found_in):
    found = {*found_in(make(), split_ratio=1.0)}
    assert found <= {"boilerplate", "near_duplicates"}


def test_boilerplate_is_a_note(found_in):
    rows = prose()
    begun = [
        {**row, "completion": "Sure, here is the answer: " + row["completion"]} for row in rows
    ]
    found = found_in(begun, split_ratio=1.0)["boilerplate"]
    assert (found.level, found.count) == ("note", TOTAL)
    assert found.rewrite is None
    closed = [
        {**row, "completion": row["completion"] + "\nI hope this helps you a lot!"} for row in rows
    ]
    assert found_in(closed, split_ratio=1.0)["boilerplate"].count == TOTAL


def test_longer_boilerplate_is_found_in_few_rows(found_in):
    rows = prose()
    assert "boilerplate" not in found_in(rows, split_ratio=1.0)
    for add in (
        lambda text, n: f"Sure! I would be happy to help you with that. {text}",
        lambda text, n: f"{text} I hope this helps!",
        lambda text, n: f"{text}\nLet me know if you have more questions.",
    ):
        some = [
            {**row, "completion": add(row["completion"], n)} if n % 20 == 7 else row
            for n, row in enumerate(rows)
        ]
        found = found_in(some, split_ratio=1.0)["boilerplate"]
        assert found.count == TOTAL / 20
        assert {place.row % 20 for place in found.places} == {8}


MENDED = {
    "padded_answers": lambda text: f"  {text}\n",
    "labelled_answers": lambda text: f"Answer: {text}",
}


@pytest.mark.parametrize("share", SHARES)
@pytest.mark.parametrize("name", MENDED)
def test_what_few_answers_have_around_them_is_removed(name, share, found_in):
    rows = prose()
    clean = list(rows)
    chosen = random.Random(5).sample(range(TOTAL), round(share * TOTAL))
    for n in chosen:
        rows[n] = {**rows[n], "completion": MENDED[name](rows[n]["completion"])}
    found = found_in(rows, split_ratio=1.0)[name]
    assert sorted(found.rewrite.rows["data.train.datasets[0]"]) == sorted(n + 1 for n in chosen)
    for n in chosen:
        assert found.rewrite.mend(rows[n])["completion"] == clean[n]["completion"]
    every = [{**row, "completion": MENDED[name](row["completion"])} for row in prose()]
    assert name not in found_in(every, split_ratio=1.0), "it is the form of the answers"


def test_spaces_between_prompt_and_answer_are_no_padding(found_in):
    """Without them the answer would be glued to the prompt."""
    rows = prose()
    for n in range(0, TOTAL, 10):
        asked, answered = rows[n]["prompt"].strip(), rows[n]["completion"]
        rows[n] = {"prompt": asked, "completion": f"\nAnswer: {answered}"}
    found = found_in(rows, split_ratio=1.0)
    assert "padded_answers" not in found
    mended = found["labelled_answers"].rewrite.mend(rows[10])
    assert mended["completion"] == "\n" + prose()[10]["completion"]


def test_choices_are_no_labels(found_in):
    rows = prose()
    for n in range(0, TOTAL, 10):
        rows[n] = {**rows[n], "completion": "A: Paris is the one that was asked for here."}
    assert "labelled_answers" not in found_in(rows, split_ratio=1.0)


def test_short_titles_beside_lists_are_not_cut(found_in):
    rows = prose()
    for n in range(0, TOTAL, 4):
        rows[n] = {**rows[n], "completion": "Three things:\n- one\n- two\n- three of them."}
    for n in range(1, TOTAL, 10):
        rows[n] = {**rows[n], "completion": "A walk through the city"}
    assert "cut_answers" not in found_in(rows, split_ratio=1.0)


def test_short_answers_are_cut_where_all_others_end_with_a_sentence(found_in):
    rows = [
        {**row, "completion": row["completion"][:40].rsplit(" ", 1)[0] + "."} for row in prose()
    ]
    for n in range(0, TOTAL, 20):
        rows[n] = {**rows[n], "completion": rows[n]["completion"].rstrip(".")}
    assert found_in(rows, split_ratio=1.0)["cut_answers"].count == TOTAL / 20


def test_instructions_in_the_place_of_answers_are_found_by_their_first_words(found_in):
    verbs = "Write Describe Explain Name List".split()
    starts = "The A In Many It".split()
    rows = [
        {
            "prompt": f"{verbs[n % 5]} what {who} knows of {where} and of {a} {what}.\n",
            "completion": f"{starts[n % 5]} city of {where} has {a} {what} that {who} counted.",
        }
        for n, who, what, where, a, _ in stories()
    ]
    assert "swapped_parts" not in found_in(rows, split_ratio=1.0)
    for n in random.Random(5).sample(range(TOTAL), 15):
        rows[n] = {"prompt": rows[n]["completion"] + "\n", "completion": rows[n]["prompt"].strip()}
    assert found_in(rows, split_ratio=1.0)["swapped_parts"].count == 15


def test_answers_with_numbers_of_their_prompt_are_not_unrelated(found_in):
    rows = sums()
    for n in range(0, TOTAL, 20):
        one, other = re.findall(r"\d+", rows[n]["prompt"])[:2]
        strange = " ".join(nonsense(9 * n + word) for word in range(9))
        rows[n] = {**rows[n], "completion": f"{strange} {one} {other}.\n#### 7{n}77"}
    assert "unrelated_answers" not in found_in(rows, split_ratio=1.0)


def test_labels_out_of_balance(found_in):
    rows = labels()
    rows = [
        {**row, "completion": "negative" if n < 8 else "positive"} for n, row in enumerate(rows)
    ]
    found = found_in(rows, split_ratio=1.0)["label_imbalance"]
    assert (found.level, found.count) == ("note", 8)
    assert "“negative”, beside 292 with “positive”" in found.what
    assert "label_imbalance" not in found_in(labels(), split_ratio=1.0)


def test_few_rows_have_no_habits(found_in):
    rows = sums()[:10]
    rows[0] = end(rows[0], "####", "So")
    assert "missing_signs" not in found_in(rows, split_ratio=1.0)


@pytest.mark.parametrize(
    "names",
    [["-1", "0", "1"], ["C", "C++", "C#", "Java"], ["favor", "against", "none"], ["[]", '["x"]']],
    ids=str,
)
def test_labels_are_no_misspellings_of_others(found_in, names):
    rows = [{**row, "completion": names[n % len(names)]} for n, row in enumerate(labels())]
    found = {*found_in(rows, split_ratio=1.0)}
    assert not {"label_spelling", "placeholder_answers", "same_answers"} & found


def test_many_labels_are_no_same_answers(found_in):
    rng = random.Random(1)
    classes = [f"class {chr(97 + n)}{chr(97 + n // 2)}" for n in range(26)]
    rows = [
        {**row, "completion": "neutral" if rng.random() < 0.3 else rng.choice(classes)}
        for row in labels()
    ]
    assert "same_answers" not in found_in(rows, split_ratio=1.0)


def test_code_is_not_cut(found_in):
    query = "SELECT name, age FROM people WHERE age > {} AND city = 'Rome' ORDER BY name;"
    rows = [{**row, "completion": query.format(n)} for n, row in enumerate(prose())]
    assert "cut_answers" not in found_in(rows, split_ratio=1.0)
