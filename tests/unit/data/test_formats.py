"""The shapes of rows: each is recognised by its columns, says so, and makes the right example."""

import dataclasses
import json
from pathlib import Path

import pytest

from nbft.config import Config
from nbft.data.examples import Example, load_examples
from nbft.errors import DataError

SHARED = Path(__file__).parents[4] / "shared" / "data"
ASKED = {"role": "user", "content": "Why?"}
ANSWERED = {"role": "assistant", "content": "So."}
TURNS = Example(messages=(ASKED, ANSWERED))
FROM = [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]


def load(rows):
    return load_examples(Config(data={"rows": rows, "split_ratio": 1}), "train")


def rejecting(*turns):
    """Return the conversation with a worse one beside it."""
    return dataclasses.replace(TURNS, rejected=turns)


@pytest.mark.parametrize(
    ("name", "row", "example"),
    [
        ("prompt and completion", {"prompt": "Why?", "completion": "So."}, Example("Why?", "So.")),
        (
            "prompt and completion in messages",
            {"prompt": [ASKED], "completion": [ANSWERED]},
            TURNS,
        ),
        ("messages", {"messages": [ASKED, ANSWERED]}, TURNS),
        ("ShareGPT conversations", {"conversations": FROM}, TURNS),
        (
            "ShareGPT conversations",
            {"conversations": FROM, "system": "Be brief."},
            Example(messages=({"role": "system", "content": "Be brief."}, ASKED, ANSWERED)),
        ),
        (
            "preference pairs",
            {
                "conversations": FROM[:1],
                "chosen": FROM[1],
                "rejected": {"from": "gpt", "value": "x"},
            },
            rejecting(ASKED, {"role": "assistant", "content": "x"}),
        ),
        (
            "preference pairs",
            {"prompt": "Why?", "chosen": "So.", "rejected": "No."},
            Example("Why?", "So.", rejected="No."),
        ),
        (
            "preference pairs",
            {"prompt": "Why?", "chosen": [ASKED, ANSWERED], "rejected": [ASKED, ANSWERED]},
            rejecting(ASKED, ANSWERED),
        ),
        (
            "preference pairs",
            {"chosen": [ASKED, ANSWERED], "rejected": [ASKED, ANSWERED]},
            rejecting(ASKED, ANSWERED),
        ),
        (
            "feedback on messages",
            {"messages": [ASKED, ANSWERED], "label": True},
            dataclasses.replace(TURNS, label=True),
        ),
        (
            "instructions",
            {"instruction": "Add.", "input": "2, 3", "output": "5"},
            Example("### Instruction:\nAdd.\n\n### Input:\n2, 3\n\n### Response:\n", "5"),
        ),
        (
            "instructions",
            {"instruction": "Add.", "context": "2, 3", "response": "5"},
            Example("### Instruction:\nAdd.\n\n### Input:\n2, 3\n\n### Response:\n", "5"),
        ),
        (
            "questions and answers",
            {"query": "Why {so}?", "response": "So."},
            Example("Question: Why {so}?\n\nAnswer:\n", "So."),
        ),
        (
            "dialogues and summaries",
            {"dialogue": "A: Hi", "summary": "A greets."},
            Example("Summarise this conversation.\n\nA: Hi\n\nSummary:\n", "A greets."),
        ),
        (
            "texts and summaries",
            {"text": "Long.", "summary": "Short."},
            Example("Summarise.\n\nLong.\n\nSummary:\n", "Short."),
        ),
        (
            "inputs and outputs",
            {"input": "he go", "target": "He goes."},
            Example("he go\n", "He goes."),
        ),
        ("plain text", {"text": "Long."}, Example("", "Long.")),
    ],
)
def test_a_shape_is_recognised_and_said(name, row, example):
    examples, _ = load([row, row])
    assert examples.formats == [name]
    assert list(examples) == [example, example]
    (said,) = examples.recognised
    assert said.startswith(f"data.train.datasets[0]: recognised as {name} (2 rows); ")


def test_answers_labelled_as_bad_are_left_out_and_counted():
    rows = [{"messages": [ASKED, ANSWERED], "label": n != 1, "n": n} for n in range(3)]
    examples, said = load(rows)
    assert [examples.row(n)["n"] for n in range(len(examples))] == [0, 2]
    assert examples.origin(1) == (0, 3)
    assert said == [
        "data.train.datasets[0]: 1 of 3 rows are left out: they are labelled as bad answers."
    ]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            {"conversations": [{"from": "dog", "value": "Wuff"}]},
            (
                "row 1: \"conversations\" has a turn from 'dog', which is not a known speaker. Use "
                "human, gpt, system or tool."
            ),
        ),
        (
            {"conversations": FROM[:1]},
            (
                'row 1: no message has the role "assistant", so there would be nothing to train '
                "on. Add the answer."
            ),
        ),
        (
            {"conversations": "Hi"},
            (
                'row 1: "conversations" is not a list of turns with role and content. Write [{"role": '
                '"user", "content": "…"}, {"role": "assistant", "content": "…"}].'
            ),
        ),
    ],
)
def test_the_words_of_a_row_that_has_not_its_shape(row, said):
    with pytest.raises(DataError) as caught:
        load([row])
    assert [str(p) for p in caught.value.problems] == [f"data.train.datasets[0]: {said}"]


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real rows are not at hand")
@pytest.mark.parametrize(
    ("file", "name", "rows"),
    [
        ("alpaca.json", "instructions", 999),
        ("gsm8k.jsonl", "questions and answers", 7473),
        ("dialogsum.jsonl", "dialogues and summaries", 500),
        ("preference_pairs.json", "preference pairs", 300),
        ("kto_feedback.json", "feedback on messages", 150),
    ],
)
def test_real_files_load_without_a_hint(file, name, rows):
    config = Config(data={"path": str(SHARED / file), "split_ratio": 1})
    examples, _ = load_examples(config, "train")
    assert examples.formats == [name]
    assert len(examples) == rows
    assert all(e.messages or e.completion for e in examples)
    raw = json.loads((SHARED / file).read_text()) if file.endswith(".json") else None
    if name == "preference pairs":
        assert examples[0].messages[-1]["content"] == raw[0]["chosen"]["value"]


@pytest.mark.parametrize("rejected", [None, "", ["x", "y"], {"text": "x"}, 3])
def test_a_rejected_answer_that_cannot_be_read_does_not_matter_to_methods_that_ignore_it(rejected):
    row = {"prompt": [ASKED], "chosen": [ANSWERED], "rejected": rejected}
    examples, _ = load([row, row])
    assert examples[0].messages == (ASKED, ANSWERED)
    (said,) = examples.recognised
    assert said.endswith(
        "only the chosen answers are trained on; the rejected ones are for preference training."
    )
