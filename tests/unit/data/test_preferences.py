"""Rows with a better and a worse answer: recognised without a hint, and what is trained on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import nbft
from nbft.data.examples import load_examples
from nbft.errors import DataError
from nbft.methods.dpo import METHOD

SHARED = Path(__file__).parents[4] / "shared" / "data"


def examples_of(rows, method="dpo", **dataset):
    """Return the examples of rows, as a training reads them."""
    train = {"datasets": [{"rows": rows, **dataset}]}
    config = nbft.Config(data={"train": train, "split_ratio": 1.0}, training={"method": method})
    return load_examples(config, "train")[0]


def answers_of(row, **dataset):
    """Return the texts of a pair as they are trained: what is not, chosen, rejected."""
    examples = examples_of([row] * 3, **dataset)
    texts = METHOD.texts([examples[0]])
    found = []
    for name in ("chosen", "rejected"):
        (example,) = texts[name]
        if not example.messages:
            found.append((example.prompt, example.completion))
            continue
        said = [(turn["role"], turn["content"]) for turn in example.messages]
        trained = [
            turn["content"]
            for turn in example.messages
            if turn["role"] == "assistant" and turn.get("trained", True)
        ]
        found.append((said, trained))
    return examples[0], found


USER, GPT = "user", "assistant"
ASKED = [{"role": "user", "content": "Why?"}]
GOOD, BAD = [{"role": GPT, "content": "So."}], [{"role": GPT, "content": "No."}]
FROM = [{"from": "human", "value": "Why?"}]

TEXTS = {
    "a prompt": ({"prompt": "Why?\n", "chosen": "So.", "rejected": "No."}, "Why?\n"),
    "a question": (
        {"question": "Why?", "chosen": "So.", "rejected": "No."},
        "Question: Why?\n\nAnswer:\n",
    ),
    "Orca": (
        {"system": "Be brief.", "question": "Why?", "chosen": "So.", "rejected": "No."},
        "Be brief.\n\nQuestion: Why?\n\nAnswer:\n",
    ),
    "an instruction": (
        {"instruction": "Say why.", "input": "", "chosen": "So.", "rejected": "No."},
        "### Instruction:\nSay why.\n\n### Response:\n",
    ),
    "hh-rlhf": (
        {
            "chosen": "\n\nHuman: Why?\n\nAssistant:So.",
            "rejected": "\n\nHuman: Why?\n\nAssistant:No.",
        },
        "\n\nHuman: Why?\n\nAssistant:",
    ),
}


@pytest.mark.parametrize("name", TEXTS)
def test_pairs_of_texts(name):
    row, prompt = TEXTS[name]
    _, (good, bad) = answers_of(row)
    assert good == (prompt, "So.")
    assert bad == (prompt, "No.")


def test_two_texts_share_what_both_begin_with_up_to_a_word():
    row = {
        "chosen": "Why is it so? Because of rain.",
        "rejected": "Why is it so? Because I say so.",
    }
    _, (good, bad) = answers_of(row)
    assert good == ("Why is it so? Because ", "of rain.")
    assert bad == ("Why is it so? Because ", "I say so.")


def test_a_text_that_begins_like_all_of_the_other_has_an_answer():
    _, (good, bad) = answers_of({"chosen": "It is so.", "rejected": "It is"})
    assert good[0] == bad[0] == "It "
    assert bad[1] == "is"


TURNS = {
    "a prompt in turns": {"prompt": ASKED, "chosen": GOOD, "rejected": BAD},
    "a prompt as text": {"prompt": "Why?", "chosen": GOOD, "rejected": BAD},
    "whole conversations": {"chosen": ASKED + GOOD, "rejected": ASKED + BAD},
    "with the prompt repeated": {
        "prompt": "Why?",
        "chosen": ASKED + GOOD,
        "rejected": ASKED + BAD,
    },
    "ShareGPT": {
        "conversations": FROM,
        "chosen": {"from": "gpt", "value": "So."},
        "rejected": {"from": "gpt", "value": "No."},
    },
    "UltraFeedback, binarized": {
        "prompt": "Why?",
        "prompt_id": "a",
        "chosen": ASKED + GOOD,
        "rejected": ASKED + BAD,
        "messages": ASKED + GOOD,
        "score_chosen": 8.5,
        "score_rejected": 3.0,
    },
}


@pytest.mark.parametrize("name", TURNS)
def test_pairs_of_turns(name):
    example, (good, bad) = answers_of(TURNS[name])
    assert good == ([(USER, "Why?"), (GPT, "So.")], ["So."])
    assert bad == ([(USER, "Why?"), (GPT, "No.")], ["No."])
    assert example.margin == (5.5 if "Ultra" in name else None)


def test_of_several_turns_only_those_that_differ_are_trained_on():
    before = [*ASKED, *GOOD, {"role": "user", "content": "And?"}]
    row = {
        "chosen": [*before, {"role": GPT, "content": "Yes."}],
        "rejected": [*before, {"role": GPT, "content": "Hm."}],
    }
    _, (good, bad) = answers_of(row)
    assert good[1] == ["Yes."]
    assert bad[1] == ["Hm."]
    assert len(good[0]) == len(bad[0]) == 4


def test_a_system_prompt_in_a_column_stands_before_both_answers():
    row = {"system": "Be brief.", "prompt": ASKED, "chosen": GOOD, "rejected": BAD}
    _, (good, bad) = answers_of(row)
    assert good[0][0] == bad[0][0] == ("system", "Be brief.")


RANKED = {
    "scores": {"prompt": "Why?", "responses": ["a", "b", "c"], "scores": [1, 5, 3]},
    "ranks, of which small ones are better": {
        "prompt": "Why?",
        "answers": ["a", "b", "c"],
        "rank": [3, 1, 2],
    },
    "UltraFeedback, full": {
        "instruction": "Why?",
        "completions": [
            {"response": "a", "overall_score": 1.0},
            {"response": "b", "overall_score": 8.5},
            {"response": "c", "overall_score": 4.0},
        ],
    },
}


@pytest.mark.parametrize("name", RANKED)
def test_of_ranked_answers_the_best_and_the_worst_are_compared(name):
    example, (good, bad) = answers_of(RANKED[name])
    assert (good[1], bad[1]) == ("b", "a")
    assert example.margin == {"s": 4, "r": 2, "U": 7.5}[name[0]]
    assert "Why?" in good[0]
    assert good[0] == bad[0]


def test_answers_and_numbers_have_to_be_as_many():
    row = {"prompt": "Why?", "responses": ["a", "b", "c"], "scores": [1, 5]}
    with pytest.raises(DataError, match=r'3 answers in "responses" and 2 numbers in "scores"'):
        examples_of([row])


def test_a_score_has_to_be_a_number():
    row = {"prompt": "Why?", "chosen": "a", "rejected": "b"}
    row |= {"score_chosen": "good", "score_rejected": 1}
    with pytest.raises(DataError, match="'good' in \"score_chosen\", which is no number"):
        examples_of([row])


@pytest.mark.parametrize("sort", [[1, 0], [0, 1]])
def test_rows_of_ernie(sort):
    row = {
        "src": ["Why?", "And?"],
        "tgt": ["So."],
        "response": [["Yes."], ["Hm."]],
        "sort": sort,
    }
    example, (good, bad) = answers_of(row)
    best, worst = ("Yes.", "Hm.") if sort == [1, 0] else ("Hm.", "Yes.")
    assert (good[1], bad[1]) == ([best], [worst])
    assert example.margin == 1.0
    assert [content for _, content in good[0]] == ["Why?", "So.", "And?", best]


def test_the_settings_of_a_dataset_count_for_both_answers():
    row = {
        "talk": [{"who": "me", "says": "Why?"}],
        "chosen": {"who": "you", "says": "So."},
        "rejected": {"who": "you", "says": "No."},
        "past": [["Hi", "Hello"]],
    }
    _, (good, bad) = answers_of(
        row,
        columns={"conversations": "talk"},
        message_property_mappings={"role": "who", "content": "says"},
        roles={"user": ["me"], "assistant": ["you"]},
        history_column="past",
        system_prompt="Be brief.",
    )
    shared = [("system", "Be brief."), (USER, "Hi"), (GPT, "Hello"), (USER, "Why?")]
    assert good == ([*shared, (GPT, "So.")], ["So."])
    assert bad == ([*shared, (GPT, "No.")], ["No."])


@pytest.mark.parametrize(
    "asked", [{"prompt": "Why?"}, {"instruction": "Why?", "input": ""}, {"prompt": ASKED}], ids=str
)
def test_pairs_as_turns_of_the_chat_template(asked):
    row = {**asked, "chosen": "So.", "rejected": "No."}
    _, (good, bad) = answers_of(row, dataset_type="chat_completion")
    assert good == ([(USER, "Why?"), (GPT, "So.")], ["So."])
    assert bad == ([(USER, "Why?"), (GPT, "No.")], ["No."])


FEEDBACK = {
    "texts": {"prompt": "Why?\n", "completion": "So."},
    "turns": {"prompt": ASKED, "completion": GOOD},
    "messages": {"messages": ASKED + GOOD},
}


@pytest.mark.parametrize("name", FEEDBACK)
@pytest.mark.parametrize("label", [True, False])
def test_feedback_keeps_its_label(name, label):
    rows = [{**FEEDBACK[name], "label": label}, {**FEEDBACK[name], "label": not label}]
    first, second = examples_of(rows, "kto")
    assert (first.label, second.label) == (label, not label)
    answer = first.completion or first.messages[-1]["content"]
    assert answer == "So."


def test_a_method_says_which_rows_it_needs():
    pairs = [{"prompt": "Why?", "chosen": "So.", "rejected": "No."}] * 3
    with pytest.raises(
        DataError, match=r"preference training \(KTO\) needs an answer with a label"
    ):
        examples_of(pairs, "kto")
    with pytest.raises(DataError, match="needs a chosen and a rejected answer"):
        examples_of([{"prompt": "Why?", "completion": "So."}] * 3)


@pytest.mark.parametrize(
    ("file", "method"), [("preference_pairs.json", "dpo"), ("kto_feedback.json", "kto")]
)
def test_public_rows_are_recognised(file, method):
    if not (SHARED / file).is_file():
        pytest.skip(f"{file} is not at hand")
    rows = json.loads((SHARED / file).read_text(encoding="utf-8"))
    config = nbft.Config(
        data={"path": str(SHARED / file), "split_ratio": 1.0}, training={"method": method}
    )
    examples = load_examples(config, "train")[0]
    assert len(examples) == len(rows)
    if method == "kto":
        assert [example.label for example in examples] == [row["label"] for row in rows]
    else:
        texts = METHOD.texts([*examples])
        pairs = zip(texts["chosen"], texts["rejected"], rows, strict=True)
        for good, bad, row in pairs:
            assert good.messages[:-1] == bad.messages[:-1]
            assert good.messages[-1]["content"] == row["chosen"]["value"]
            assert bad.messages[-1]["content"] == row["rejected"]["value"]
